//! Logs and metrics of a server process.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `SARIT_LOG` sets the filter (default `info`), in the syntax of
/// tracing's `EnvFilter`.
pub(crate) fn init_logs(json: bool) {
    let filter = EnvFilter::try_from_env("SARIT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        logs.json().init();
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// Starts collecting metrics; the handle renders them in Prometheus' text format.
pub(crate) fn init_metrics() -> anyhow::Result<PrometheusHandle> {
    // Seconds: from a sync on a fast disk to a stall that someone should look at.
    let seconds = [
        0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0,
    ];
    Ok(PrometheusBuilder::new()
        .set_buckets(&seconds)?
        .install_recorder()?)
}
