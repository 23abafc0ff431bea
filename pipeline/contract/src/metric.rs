//! Metric names. Every metric is named here once; `docs/metrics.md` lists them and a test compares.

/// One metric: name, Prometheus kind, labels, meaning.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident, $name:literal, $kind:literal, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// All metrics.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name, kind: $kind, labels: &[$($label),*], help: $help,
        }),*];
    };
}

metrics! {
    ROWS_IN, "tidemill_rows_in_total", "counter", ["job"], "Records read from the source topic.";
    ROWS_DEAD, "tidemill_rows_quarantined_total", "counter", ["job"], "Rows sent to quarantine.";
    ROWS_LATE, "tidemill_rows_late_total", "counter", ["job", "query"], "Rows with no open window left.";
    ROWS_FILTERED, "tidemill_rows_filtered_total", "counter", ["job", "query"], "Rows a WHERE clause dropped.";
    ROWS_COUNTED, "tidemill_rows_counted_total", "counter", ["job", "query"], "Rows that reached a result.";
    ROWS_REVISED, "tidemill_rows_revised_total", "counter", ["job", "query"], "Rows counted in a window that had closed.";
    CONSERVATION_DRIFT, "tidemill_conservation_drift", "gauge", ["job"], "rows in - (counted + filtered + late + quarantined); always 0.";
    RECORDS_LOST, "tidemill_records_lost_total", "counter", ["job"], "Offsets never read whose loss was accepted: at most so many records.";
    DATA_LOSS, "tidemill_data_loss_partitions", "gauge", ["job"], "Partitions with a loss of log data that nobody has decided about yet.";
    WATERMARK, "tidemill_watermark_seconds", "gauge", ["job"], "Event-time watermark, seconds since the epoch.";
    LAG_RECORDS, "tidemill_consumer_lag_records", "gauge", ["job"], "Records in the topic not yet read.";
    OPEN_WINDOWS, "tidemill_open_slices", "gauge", ["job"], "Open time slices held in state.";
    STATE_BYTES, "tidemill_state_bytes", "gauge", ["job"], "Size of the last state snapshot.";
    STATE_MEMORY_BYTES, "tidemill_state_memory_bytes", "gauge", ["job"], "Memory the operators' state takes.";
    JOB_PARKED, "tidemill_job_parked", "gauge", ["job"], "1 while the job is given up and waits for RESUME, else 0.";
    EPOCH, "tidemill_epoch", "gauge", ["job"], "Last committed epoch.";
    COMMIT_SECONDS, "tidemill_commit_seconds", "histogram", ["job"], "Time from snapshot to commit record.";
    FEED_ROWS, "tidemill_feed_rows_total", "counter", ["source"], "Rows a feed appended to its topic.";
    FEED_DEAD, "tidemill_feed_quarantined_total", "counter", ["source"], "Rows a feed sent to quarantine.";
    BREAKER_TRIPS, "tidemill_breaker_trips_total", "counter", ["source"], "Times reading stopped because too many of a source's newest records were bad.";
    ALERTS, "tidemill_alert_events_total", "counter", ["alert", "status"], "Alert events emitted.";
    FILES_CLEANED, "tidemill_files_cleaned_total", "counter", ["job"], "Data files deleted because nobody needs them.";
    HTTP_REQUESTS, "tidemill_http_requests_total", "counter", ["route", "status"], "HTTP requests served.";
}
