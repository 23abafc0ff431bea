//! Shared test harness: oracle, processes, stores. Used by the test binary `it` only.
