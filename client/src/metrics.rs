//! What a client counts, by the `metrics` crate: whoever links us installs the recorder he likes, or none,
//! and then it costs next to nothing.
//!
//! | metric | |
//! |---|---|
//! | `client_events_written_total` | events accepted by writers |
//! | `client_events_acknowledged_total` | events that are durable |
//! | `client_events_failed_total` | events whose writer failed: not written, or nobody knows |
//! | `client_bytes_in_flight` | memory of events accepted and not yet acknowledged |
//! | `client_appends_total` | batches of events sent, each counted once |
//! | `client_append_bytes_total` | their bytes |
//! | `client_appends_resent_total` | batches sent again after a connection was lost |
//! | `client_reconnects_total` | times a writer had to set itself up again, here or elsewhere |
//! | `client_events_read_total` | events returned by readers |
//! | `client_read_bytes_total` | their bytes |
//! | `client_connections_total` | connections to segment stores that were opened |
//!
//! Events per batch: `client_events_written_total` / `client_appends_total`. Counted once per turn of a
//! writer, not once per event. No labels: a process mostly has one client.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

const EVENTS_WRITTEN: &str = "client_events_written_total";
const EVENTS_ACKNOWLEDGED: &str = "client_events_acknowledged_total";
const EVENTS_FAILED: &str = "client_events_failed_total";
const BYTES_IN_FLIGHT: &str = "client_bytes_in_flight";
const APPENDS: &str = "client_appends_total";
const APPEND_BYTES: &str = "client_append_bytes_total";
const APPENDS_RESENT: &str = "client_appends_resent_total";
const RECONNECTS: &str = "client_reconnects_total";
const EVENTS_READ: &str = "client_events_read_total";
const READ_BYTES: &str = "client_read_bytes_total";
const CONNECTIONS: &str = "client_connections_total";

/// Of all event writers together.
#[derive(Clone)]
pub(crate) struct WriterMetrics {
    pub(crate) events_written: Counter,
    pub(crate) events_acknowledged: Counter,
    pub(crate) events_failed: Counter,
    pub(crate) bytes_in_flight: Gauge,
    pub(crate) appends: Counter,
    pub(crate) append_bytes: Counter,
    pub(crate) appends_resent: Counter,
    pub(crate) reconnects: Counter,
}

impl WriterMetrics {
    pub(crate) fn new() -> Self {
        describe_counter!(EVENTS_WRITTEN, Unit::Count, "Events accepted by writers");
        describe_counter!(EVENTS_ACKNOWLEDGED, Unit::Count, "Events that are durable");
        describe_counter!(EVENTS_FAILED, Unit::Count, "Events whose writer failed");
        describe_gauge!(
            BYTES_IN_FLIGHT,
            Unit::Bytes,
            "Memory of events accepted and not yet acknowledged"
        );
        describe_counter!(APPENDS, Unit::Count, "Batches of events sent, once each");
        describe_counter!(APPEND_BYTES, Unit::Bytes, "Their bytes");
        describe_counter!(
            APPENDS_RESENT,
            Unit::Count,
            "Batches sent again after a connection was lost"
        );
        describe_counter!(
            RECONNECTS,
            Unit::Count,
            "Times a writer had to set itself up again"
        );
        Self {
            events_written: counter!(EVENTS_WRITTEN),
            events_acknowledged: counter!(EVENTS_ACKNOWLEDGED),
            events_failed: counter!(EVENTS_FAILED),
            bytes_in_flight: gauge!(BYTES_IN_FLIGHT),
            appends: counter!(APPENDS),
            append_bytes: counter!(APPEND_BYTES),
            appends_resent: counter!(APPENDS_RESENT),
            reconnects: counter!(RECONNECTS),
        }
    }
}

impl std::fmt::Debug for WriterMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterMetrics")
    }
}

/// Of all event readers together.
pub(crate) struct ReaderMetrics {
    events: Counter,
    bytes: Counter,
}

impl ReaderMetrics {
    pub(crate) fn new() -> Self {
        describe_counter!(EVENTS_READ, Unit::Count, "Events returned by readers");
        describe_counter!(READ_BYTES, Unit::Bytes, "Their bytes");
        Self {
            events: counter!(EVENTS_READ),
            bytes: counter!(READ_BYTES),
        }
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.events.increment(1);
        self.bytes.increment(bytes as u64);
    }
}

impl std::fmt::Debug for ReaderMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReaderMetrics")
    }
}

/// Counts a connection that was opened.
pub(crate) fn connected() {
    describe_counter!(
        CONNECTIONS,
        Unit::Count,
        "Connections to segment stores that were opened"
    );
    counter!(CONNECTIONS).increment(1);
}

/// Keeps what is counted, for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };
    use parking_lot::Mutex;

    /// Values by name; whole numbers only.
    #[derive(Debug, Default)]
    pub(crate) struct Values(Mutex<BTreeMap<String, Arc<Value>>>);

    #[derive(Debug, Default)]
    struct Value(AtomicU64);

    impl Values {
        /// Returns a counter's or gauge's value, 0 if nobody has asked for it.
        pub(crate) fn get(&self, name: &str) -> u64 {
            let values = self.0.lock();
            values.get(name).map_or(0, |v| v.0.load(Ordering::Relaxed))
        }

        fn value(&self, key: &Key) -> Arc<Value> {
            let mut values = self.0.lock();
            values.entry(key.name().to_owned()).or_default().clone()
        }
    }

    impl CounterFn for Value {
        fn increment(&self, value: u64) {
            self.0.fetch_add(value, Ordering::Relaxed);
        }
        fn absolute(&self, value: u64) {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    impl GaugeFn for Value {
        fn increment(&self, value: f64) {
            self.0.fetch_add(value as u64, Ordering::Relaxed);
        }
        fn decrement(&self, value: f64) {
            self.0.fetch_sub(value as u64, Ordering::Relaxed);
        }
        fn set(&self, value: f64) {
            self.0.store(value as u64, Ordering::Relaxed);
        }
    }

    impl Recorder for Values {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.value(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.value(key))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }
}
