//! What the server in front of the containers counts. Handles are looked up once, at start. Appends are
//! counted where they get their place, by the containers.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

use sarit_container::MemoryBudget;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::reply::Close;

/// How old a published level may be.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

const CONNECTIONS: &str = "segmentstore_connections";
const CONNECTIONS_ACCEPTED: &str = "segmentstore_connections_accepted_total";
const CONNECTIONS_REFUSED: &str = "segmentstore_connections_refused_total";
const CONNECTIONS_CLOSED: &str = "segmentstore_connections_closed_total";
const FRAMES_IN: &str = "segmentstore_frames_received_total";
const FRAMES_OUT: &str = "segmentstore_frames_sent_total";
const BYTES_IN: &str = "segmentstore_received_bytes_total";
const BYTES_OUT: &str = "segmentstore_sent_bytes_total";
const READS_WAITING: &str = "segmentstore_reads_waiting";
const TRANSIENTS: &str = "segmentstore_transient_segments";
const REFUSALS: &str = "segmentstore_refusals_total";
const CREDIT_WAITS: &str = "segmentstore_credit_waits_total";
const MEMORY: &str = "segmentstore_memory_bytes";
const MEASURED: &str = "segmentstore_measured_segments";
const UNMEASURED: &str = "segmentstore_unmeasured_writers_total";
const CONTAINERS_WAITING: &str = "segmentstore_containers_waiting";
const LOAD_REPORTS: &str = "segmentstore_load_reports_total";
const LIMITS: &str = "segmentstore_limits_reached_total";

/// Every limit of one connection that [`reached`] counts.
const LIMIT_KINDS: [&str; 4] = ["parked_reads", "requests", "transients", "writers"];

/// Every word [`crate::reply::refusal`] can return.
const REFUSAL_KINDS: [&str; 13] = [
    "auth_token_check_failed",
    "conditional_check_failed",
    "error_message",
    "invalid_event_number",
    "no_such_segment",
    "operation_unsupported",
    "segment_already_exists",
    "segment_is_sealed",
    "segment_is_truncated",
    "table_key_bad_version",
    "table_key_does_not_exist",
    "table_segment_not_empty",
    "wrong_host",
];

/// The server's counters and gauges.
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) frames_in: Counter,
    pub(crate) frames_out: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) reads_waiting: Gauge,
    pub(crate) credit_waits: Counter,
    pub(crate) transients: Gauge,
    refusals: BTreeMap<&'static str, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe_gauge!(CONNECTIONS, Unit::Count, "Open connections");
        describe_counter!(CONNECTIONS_ACCEPTED, Unit::Count, "Connections accepted");
        describe_counter!(
            CONNECTIONS_REFUSED,
            Unit::Count,
            "Connections closed on arrival because the limit was reached"
        );
        describe_counter!(
            CONNECTIONS_CLOSED,
            Unit::Count,
            "Connections ended, by cause"
        );
        describe_counter!(FRAMES_IN, Unit::Count, "Frames received");
        describe_counter!(FRAMES_OUT, Unit::Count, "Frames sent");
        describe_counter!(BYTES_IN, Unit::Bytes, "Bytes received");
        describe_counter!(BYTES_OUT, Unit::Bytes, "Bytes sent");
        describe_gauge!(
            READS_WAITING,
            Unit::Count,
            "Reads under way, most of them parked"
        );
        describe_gauge!(
            TRANSIENTS,
            Unit::Count,
            "Segments that go with the connection that created them"
        );
        describe_counter!(REFUSALS, Unit::Count, "Requests refused, by reply");
        describe_counter!(
            CREDIT_WAITS,
            Unit::Count,
            "Times a connection had to wait for memory before it was read on"
        );
        describe_gauge!(MEASURED, Unit::Count, "Segments whose load is counted");
        describe_counter!(
            UNMEASURED,
            Unit::Count,
            "Writers set up on a segment that could not be counted because the limit was reached"
        );
        describe_counter!(
            LOAD_REPORTS,
            Unit::Count,
            "Load reports to the controller, by whether it took them"
        );
        describe_counter!(
            LIMITS,
            Unit::Count,
            "Times a connection came to one of its limits, by limit"
        );
        for limit in LIMIT_KINDS {
            counter!(LIMITS, "limit" => limit).increment(0);
        }
        Self {
            connections: gauge!(CONNECTIONS),
            connections_accepted: counter!(CONNECTIONS_ACCEPTED),
            connections_refused: counter!(CONNECTIONS_REFUSED),
            frames_in: counter!(FRAMES_IN),
            frames_out: counter!(FRAMES_OUT),
            bytes_in: counter!(BYTES_IN),
            bytes_out: counter!(BYTES_OUT),
            reads_waiting: gauge!(READS_WAITING),
            credit_waits: counter!(CREDIT_WAITS),
            transients: gauge!(TRANSIENTS),
            refusals: REFUSAL_KINDS
                .into_iter()
                .map(|kind| (kind, counter!(REFUSALS, "reply" => kind)))
                .collect(),
        }
    }

    pub(crate) fn refused(&self, kind: &'static str) {
        if let Some(counter) = self.refusals.get(kind) {
            counter.increment(1);
        }
    }

    /// Rare enough to look the handle up each time.
    pub(crate) fn closed(&self, close: &Close) {
        counter!(CONNECTIONS_CLOSED, "cause" => close.cause()).increment(1);
        self.connections.decrement(1.0);
    }
}

/// Publishes how many containers can't be opened now.
pub(crate) fn containers_waiting(count: usize) {
    describe_gauge!(
        CONTAINERS_WAITING,
        Unit::Count,
        "Containers that can't be opened now and are tried again"
    );
    gauge!(CONTAINERS_WAITING).set(count as f64);
}

/// A connection came to one of its limits. Rare enough to look the handle up each time.
pub(crate) fn reached(limit: &'static str) {
    counter!(LIMITS, "limit" => limit).increment(1);
}

pub(crate) fn measured_segments(count: usize) {
    gauge!(MEASURED).set(count as f64);
}

pub(crate) fn unmeasured() {
    counter!(UNMEASURED).increment(1);
}

pub(crate) fn load_reported(taken: bool) {
    counter!(LOAD_REPORTS, "taken" => if taken { "yes" } else { "no" }).increment(1);
}

/// Publishes what is used of the memory budget, again and again until `stop`.
pub(crate) async fn sample_memory(memory: MemoryBudget, stop: CancellationToken) {
    describe_gauge!(
        MEMORY,
        Unit::Bytes,
        "Bytes of the memory budget in use, by use"
    );
    let operations = gauge!(MEMORY, "use" => "operations");
    let frames = gauge!(MEMORY, "use" => "frames");
    let blocks = gauge!(MEMORY, "use" => "blocks");
    let packs = gauge!(MEMORY, "use" => "packs");
    let replies = gauge!(MEMORY, "use" => "replies");
    let uploads = gauge!(MEMORY, "use" => "uploads");
    let mut ticks = interval(SAMPLE_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let usage = memory.usage();
        operations.set(usage.operations as f64);
        frames.set(usage.frames as f64);
        blocks.set(usage.blocks as f64);
        packs.set(usage.packs as f64);
        replies.set(usage.replies as f64);
        uploads.set(usage.uploads as f64);
    }
}
