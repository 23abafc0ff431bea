import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * The query of benchmark a in Flink SQL: one topic of orders to Parquet files, then the end.
 *
 * <p>Arguments: bootstrap servers, topic, windowing function, folder for the files, folder for the
 * checkpoints. Prints, as its last line, what the whole process took: CPU time with start-up and
 * compilation, wall time since the start of the JVM, largest resident set.
 */
public final class FlinkOrders {
  private static final String ORDERS =
      """
      CREATE TABLE orders (
        product_id STRING, quantity INT, unit_price DECIMAL(10, 2), ordered_at BIGINT,
        ordered AS TO_TIMESTAMP_LTZ(ordered_at, 3),
        WATERMARK FOR ordered AS ordered - INTERVAL '2' SECOND
      ) WITH (
        'connector' = 'kafka', 'topic' = '%s', 'properties.bootstrap.servers' = '%s',
        'format' = 'json',
        'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
        'properties.max.partition.fetch.bytes' = '4194304'
      )""";

  private static final String SALES =
      """
      CREATE TABLE sales (
        window_start TIMESTAMP(3), window_end TIMESTAMP(3), product_id STRING,
        orders BIGINT, revenue DECIMAL(38, 2), price DECIMAL(38, 6)
      ) WITH ('connector' = 'filesystem', 'path' = '%s', 'format' = 'parquet')""";

  private static final String QUERY =
      """
      INSERT INTO sales
      SELECT window_start, window_end, product_id, COUNT(*), SUM(quantity * unit_price),
             AVG(unit_price)
      FROM TABLE(%s)
      GROUP BY window_start, window_end, product_id""";

  public static void main(String[] arguments) throws Exception {
    String brokers = arguments[0];
    String topic = arguments[1];
    String windows = arguments[2];
    String files = Path.of(arguments[3]).toUri().toString();
    TableEnvironment tables = TableEnvironment.create(settings(arguments[4]));
    tables.executeSql(ORDERS.formatted(topic, brokers));
    tables.executeSql(SALES.formatted(files));
    tables.executeSql(QUERY.formatted(windows)).await();
    report();
    // Threads of the embedded cluster must not hold the process.
    System.exit(0);
  }

  /** One slot, every switch of Flink that makes this query cheaper, a checkpoint every 10 s. */
  private static EnvironmentSettings settings(String checkpoints) {
    Configuration settings = new Configuration();
    settings.setString("parallelism.default", "1");
    settings.setString("pipeline.object-reuse", "true");
    settings.setString("table.exec.mini-batch.enabled", "true");
    settings.setString("table.exec.mini-batch.allow-latency", "1 s");
    settings.setString("table.exec.mini-batch.size", "20000");
    settings.setString("table.local-time-zone", "UTC");
    settings.setString("execution.checkpointing.interval", "10 s");
    settings.setString("execution.checkpointing.storage", "filesystem");
    settings.setString("execution.checkpointing.dir", Path.of(checkpoints).toUri().toString());
    return EnvironmentSettings.newInstance()
        .inStreamingMode()
        .withConfiguration(settings)
        .build();
  }

  private static void report() throws Exception {
    var system =
        (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    long wallMs = System.currentTimeMillis() - ManagementFactory.getRuntimeMXBean().getStartTime();
    String peak =
        Files.readAllLines(Path.of("/proc/self/status")).stream()
            .filter(line -> line.startsWith("VmHWM:"))
            .findFirst()
            .orElseThrow()
            .replaceAll("[^0-9]", "");
    System.out.printf(
        "{\"cpu_ns\":%d,\"wall_ns\":%d,\"rss_kib\":%s,\"digest\":null}%n",
        system.getProcessCpuTime(), wallMs * 1_000_000, peak);
  }
}
