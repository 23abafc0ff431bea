-- The demo: a real UK gift wholesaler's year (UCI Online Retail, 541,909 order lines, CC0),
-- replayed into the topic `orders` and turned into sales tables and alerts.
--
-- Run it:  tidemill demo --once          or, statement by statement:  tidemill run demo.sql

-- One row per order line. Lines come in the order of their time; a few seconds of patience are
-- enough. An invoice that starts with C is a cancellation, its quantities are negative.
CREATE SOURCE IF NOT EXISTS orders (
  invoice      STRING NOT NULL,
  stock_code   STRING NOT NULL,
  description  STRING,
  quantity     INT NOT NULL,
  invoice_date TIMESTAMP NOT NULL,
  unit_price   DECIMAL(12,3) NOT NULL,
  customer_id  STRING,
  country      STRING NOT NULL,
  WATERMARK FOR invoice_date AS invoice_date - INTERVAL '5' SECOND
) WITH ('connector' = 'shop', 'speed' = 'max');

-- Gross sales: no cancellations, no stock corrections, no free gifts.
CREATE MATERIALIZED VIEW IF NOT EXISTS sales_per_minute AS
SELECT window_start, window_end, country, stock_code,
       count(*) AS lines, sum(quantity) AS units, sum(quantity * unit_price) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(invoice_date), INTERVAL '1' MINUTE))
WHERE invoice NOT LIKE 'C%' AND quantity > 0 AND unit_price > 0
GROUP BY window_start, window_end, country, stock_code
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW IF NOT EXISTS sales_per_hour AS
SELECT window_start, window_end, country, stock_code,
       count(*) AS lines, sum(quantity) AS units, sum(quantity * unit_price) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(invoice_date), INTERVAL '1' HOUR))
WHERE invoice NOT LIKE 'C%' AND quantity > 0 AND unit_price > 0
GROUP BY window_start, window_end, country, stock_code
EMIT ON WINDOW CLOSE;

-- One row per order and minute. 43 invoices of the year span more than one minute, so the exact
-- number of orders is count(DISTINCT invoice) over this view, not its number of rows.
CREATE MATERIALIZED VIEW IF NOT EXISTS orders_per_minute AS
SELECT window_start, window_end, invoice, country,
       count(*) AS lines, sum(quantity) AS units, sum(quantity * unit_price) AS revenue,
       max(quantity * unit_price) AS largest_line
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(invoice_date), INTERVAL '1' MINUTE))
WHERE invoice NOT LIKE 'C%' AND quantity > 0 AND unit_price > 0
GROUP BY window_start, window_end, invoice, country
EMIT ON WINDOW CLOSE;

-- Every line of the source counts here: sales, cancellations, corrections and fees.
CREATE MATERIALIZED VIEW IF NOT EXISTS lines_per_day AS
SELECT window_start, window_end,
       count(*) AS lines, count(*) FILTER (WHERE invoice LIKE 'C%') AS cancelled_lines,
       sum(quantity * unit_price) AS net
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(invoice_date), INTERVAL '1' DAY))
GROUP BY window_start, window_end
EMIT ON WINDOW CLOSE;

-- The ten best products of the last six hours, every hour. Product codes begin with a digit;
-- postage, fees and manual entries do not.
CREATE MATERIALIZED VIEW IF NOT EXISTS top_products AS
SELECT window_start, window_end, stock_code, max(description) AS product,
       sum(quantity) AS units, sum(quantity * unit_price) AS revenue
FROM TABLE(HOP(TABLE orders, DESCRIPTOR(invoice_date), INTERVAL '1' HOUR, INTERVAL '6' HOUR))
WHERE invoice NOT LIKE 'C%' AND quantity > 0 AND unit_price > 0
  AND stock_code >= '0' AND stock_code < ':'
GROUP BY window_start, window_end, stock_code
ORDER BY revenue DESC LIMIT 10
EMIT ON WINDOW CLOSE;

-- A mis-keyed order: one line worth more than this shop sells in one. The largest line that was
-- meant is 7,144.72 for a product and 13,541.33 for a fee; whoever types 74,215 jars instead of a
-- few crosses 15,000. Three orders of the year did, and each was cancelled within minutes.
CREATE ALERT IF NOT EXISTS mis_keyed_order ON orders_per_minute
WHEN largest_line > 15000 BY invoice SEVERITY 'critical';
