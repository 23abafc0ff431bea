//! What `demo --once` prints: totals by SELECT over the views, alerts from their topic, the
//! conservation law per query, where the tables lie.

use std::io::{self, Write};
use std::time::Duration;

use tidemill_contract::Result;
use tidemill_runtime::{Pipeline, Status};

use super::alerts::{self, Subscriber};
use super::{grouped, select};
use crate::output::{Rows, plain};

/// Countries listed.
const COUNTRIES: usize = 5;

/// Rows in and net of all lines, from the view that counts every line.
const LINES: &str = "SELECT sum(lines) AS lines, CAST(sum(net) AS DECIMAL(20,2)) AS net \
    FROM lines_per_day WHERE is_final";
/// Gross sales.
const GROSS: &str = "SELECT CAST(sum(revenue) AS DECIMAL(20,2)) AS gross \
    FROM sales_per_minute WHERE is_final";
/// Orders, exactly.
const ORDERS: &str =
    "SELECT count(DISTINCT invoice) AS orders FROM orders_per_minute WHERE is_final";
/// The best countries, from the other grain of the same sales.
const BY_COUNTRY: &str = "SELECT country, CAST(sum(revenue) AS DECIMAL(20,2)) AS gross \
    FROM sales_per_hour WHERE is_final GROUP BY country ORDER BY gross DESC LIMIT 5";

/// Everything the report says, gathered before a line is written.
struct Findings {
    lines: Rows,
    gross: Rows,
    orders: Rows,
    countries: Rows,
    alerts: Vec<String>,
    status: Status,
    views: Vec<String>,
}

/// Gathers and writes the report of a drained pipeline.
///
/// # Errors
/// A SELECT that fails, or a broker that does not answer.
pub async fn report(
    pipeline: &Pipeline,
    elapsed: Duration,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let findings = gather(pipeline).await?;
    write_totals(&findings, elapsed, out)?;
    write_alerts(&findings, out)?;
    write_conservation(&findings.status, out)?;
    writeln!(out, "tables (Delta Lake, any engine reads them)")?;
    let bucket = pipeline.bucket_url();
    for view in &findings.views {
        writeln!(out, "  {}/tables/{view}", bucket.trim_end_matches('/'))?;
    }
    Ok(())
}

async fn gather(pipeline: &Pipeline) -> Result<Findings> {
    let lines = select(pipeline, LINES).await?;
    let gross = select(pipeline, GROSS).await?;
    let orders = select(pipeline, ORDERS).await?;
    let countries = select(pipeline, BY_COUNTRY).await?;
    let events = Subscriber::default().take(pipeline.log()).await?;
    let status = pipeline.status();
    Ok(Findings {
        lines,
        gross,
        orders,
        countries,
        alerts: events.iter().filter(|event| alerts::is_firing(event)).map(alerts::line).collect(),
        views: status.jobs.iter().flat_map(|job| job.queries.iter().cloned()).collect(),
        status,
    })
}

fn write_totals(findings: &Findings, elapsed: Duration, out: &mut impl Write) -> io::Result<()> {
    let number = |rows: &Rows, row: usize, column: &str| {
        rows.value(row, column).map_or_else(|| "-".into(), |value| grouped(&plain(value)))
    };
    let lines =
        findings.lines.value(0, "lines").map(plain).and_then(|text| text.parse::<f64>().ok());
    writeln!(out, "rows in           {:>14}", number(&findings.lines, 0, "lines"))?;
    writeln!(out, "gross sales       {:>14}", number(&findings.gross, 0, "gross"))?;
    writeln!(out, "orders            {:>14}", number(&findings.orders, 0, "orders"))?;
    writeln!(out, "net of all lines  {:>14}", number(&findings.lines, 0, "net"))?;
    writeln!(
        out,
        "time              {:>13.1}s  ({} rows/s, from the first file to the last table)",
        elapsed.as_secs_f64(),
        grouped(&format!("{:.0}", lines.unwrap_or(0.0) / elapsed.as_secs_f64().max(0.001))),
    )?;
    writeln!(out, "\ntop countries by gross sales")?;
    for row in 0..findings.countries.rows.len().min(COUNTRIES) {
        let country = findings.countries.value(row, "country").map(plain).unwrap_or_default();
        writeln!(out, "  {country:<16}{:>14}", number(&findings.countries, row, "gross"))?;
    }
    writeln!(out)
}

fn write_alerts(findings: &Findings, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "alerts (topic alerts): {} fired", findings.alerts.len())?;
    for line in &findings.alerts {
        writeln!(out, "  {line}")?;
    }
    writeln!(out)
}

fn write_conservation(status: &Status, out: &mut impl Write) -> io::Result<()> {
    for job in &status.jobs {
        let verdict = if job.conservation_drift == 0 { "holds" } else { "IS BROKEN" };
        writeln!(
            out,
            "conservation {verdict} for {}: rows in = counted + filtered + late + quarantined",
            job.source,
        )?;
        for (query, counters) in &job.counters {
            writeln!(
                out,
                "  {query:<18}{:>10} = {:>10} + {:>10} + {:>4} + {:>4}",
                grouped(&job.rows_in.to_string()),
                grouped(&counters.counted.to_string()),
                grouped(&counters.filtered.to_string()),
                grouped(&counters.late.to_string()),
                grouped(&job.rows_dead.to_string()),
            )?;
        }
    }
    writeln!(out)
}
