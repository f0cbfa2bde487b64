//! What a container counts, for the operator's metrics and for introspection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, Unit, counter, gauge, histogram};
use sarit_proto::ids::ContainerId;

use crate::state::State;

/// A counter that can be read back.
pub(crate) struct Count {
    value: AtomicU64,
    exported: Counter,
}

/// A gauge that can be read back.
pub(crate) struct Level {
    value: AtomicU64,
    exported: Gauge,
}

impl Count {
    /// Counts for one container, or for the whole process.
    pub(crate) fn new(name: &'static str, container: Option<ContainerId>) -> Self {
        Self {
            value: AtomicU64::new(0),
            exported: counter!(name, labels(container)),
        }
    }

    pub(crate) fn add(&self, more: u64) {
        self.value.fetch_add(more, Ordering::Relaxed);
        self.exported.increment(more);
    }

    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Level {
    /// Measures one container, or the whole process.
    pub(crate) fn new(name: &'static str, container: Option<ContainerId>) -> Self {
        Self {
            value: AtomicU64::new(0),
            exported: gauge!(name, labels(container)),
        }
    }

    pub(crate) fn set(&self, value: u64) {
        // Mostly unchanged: then nobody needs to hear of it.
        if self.value.swap(value, Ordering::Relaxed) != value {
            self.exported.set(value as f64);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// All metrics of one container.
pub(crate) struct Metrics {
    pub(crate) appends: Count,
    pub(crate) append_bytes: Count,
    pub(crate) duplicates: Count,
    pub(crate) frames: Count,
    pub(crate) frame_bytes: Count,
    pub(crate) reread_bytes: Count,
    pub(crate) served_frames: Count,
    pub(crate) served_log: Count,
    pub(crate) served_packs: Count,
    pub(crate) flushed_bytes: Count,
    pub(crate) compacted_bytes: Count,
    pub(crate) flush_reread_bytes: Count,
    pub(crate) flush_failures: Count,
    pub(crate) packs_written: Count,
    pub(crate) packs_deleted: Count,
    pub(crate) packs: Level,
    pub(crate) unflushed: Level,
    pub(crate) garbage_packs: Level,
    pub(crate) checkpoints: Count,
    pub(crate) checkpoint_bytes: Count,
    pub(crate) checkpoint_failures: Count,
    pub(crate) exports: Count,
    pub(crate) export_failures: Count,
    pub(crate) merges: Count,
    pub(crate) loads: Count,
    pub(crate) evictions: Count,
    pub(crate) in_flight: Level,
    pub(crate) inbox: Level,
    pub(crate) segments: Level,
    pub(crate) merged: Level,
    pub(crate) extents: Level,
    pub(crate) boundaries: Level,
    pub(crate) table_entries: Level,
    pub(crate) table_bytes: Level,
    pub(crate) resident: Level,
    pub(crate) absent: Level,
    pub(crate) dirty: Level,
    pub(crate) checkpoints_under_way: Level,
    pub(crate) kept_from: Level,
    frame_seconds: Histogram,
}

impl Metrics {
    pub(crate) fn new(container: ContainerId) -> Self {
        describe();
        let count = |name| Count::new(name, Some(container));
        let level = |name| Level::new(name, Some(container));
        let served = |source| {
            let mut labels = labels(Some(container));
            labels.push(Label::new("source", source));
            Count {
                value: AtomicU64::new(0),
                exported: counter!("segmentstore_read_bytes_total", labels),
            }
        };
        Self {
            appends: count("segmentstore_appends_total"),
            append_bytes: count("segmentstore_append_bytes_total"),
            duplicates: count("segmentstore_duplicate_appends_total"),
            frames: count("segmentstore_frames_total"),
            frame_bytes: count("segmentstore_frame_bytes_total"),
            reread_bytes: count("segmentstore_reread_bytes_total"),
            served_frames: served("frames"),
            served_log: served("log"),
            served_packs: served("packs"),
            flushed_bytes: count("segmentstore_flushed_bytes_total"),
            compacted_bytes: count("segmentstore_compacted_bytes_total"),
            flush_reread_bytes: count("segmentstore_flush_reread_bytes_total"),
            flush_failures: count("segmentstore_flush_failures_total"),
            packs_written: count("segmentstore_packs_written_total"),
            packs_deleted: count("segmentstore_packs_deleted_total"),
            packs: level("segmentstore_packs"),
            unflushed: level("segmentstore_unflushed_bytes"),
            garbage_packs: level("segmentstore_garbage_packs"),
            checkpoints: count("segmentstore_checkpoints_total"),
            checkpoint_bytes: count("segmentstore_checkpoint_bytes_total"),
            checkpoint_failures: count("segmentstore_checkpoint_failures_total"),
            exports: count("segmentstore_exports_total"),
            export_failures: count("segmentstore_export_failures_total"),
            merges: count("segmentstore_merged_segments_total"),
            merged: level("segmentstore_merges_remembered"),
            loads: count("segmentstore_segment_loads_total"),
            evictions: count("segmentstore_segment_evictions_total"),
            in_flight: level("segmentstore_frames_in_flight"),
            inbox: level("segmentstore_inbox_depth"),
            segments: level("segmentstore_segments"),
            boundaries: level("segmentstore_boundaries"),
            extents: level("segmentstore_tail_extents"),
            table_entries: level("segmentstore_table_entries"),
            table_bytes: level("segmentstore_table_bytes"),
            resident: level("segmentstore_resident_segments"),
            absent: level("segmentstore_absent_names"),
            dirty: level("segmentstore_changed_segments"),
            checkpoints_under_way: level("segmentstore_checkpoints_under_way"),
            kept_from: level("segmentstore_log_kept_from"),
            frame_seconds: histogram!("segmentstore_frame_seconds", labels(Some(container))),
        }
    }

    /// Counts the appends of a frame, each once: when it goes to the log.
    pub(crate) fn appended(&self, appends: u64, bytes: u64) {
        self.appends.add(appends);
        self.append_bytes.add(bytes);
    }

    pub(crate) fn frame_durable(&self, latency: Duration, bytes: usize) {
        self.frames.add(1);
        self.frame_bytes.add(bytes as u64);
        self.frame_seconds.record(latency);
    }

    /// Notes the size of the state.
    pub(crate) fn state(&self, state: &State) {
        self.segments.set(state.total);
        self.merged.set(state.merged.len() as u64);
        self.resident.set(state.len() as u64);
        self.absent.set(state.absent_len() as u64);
        self.extents.set(state.totals.extents);
        self.packs.set(state.usage.packs().len() as u64);
        self.unflushed.set(state.usage.unflushed());
        self.boundaries.set(state.totals.boundaries);
        self.table_entries.set(state.totals.table_entries);
        self.table_bytes.set(state.totals.table_bytes);
        self.dirty.set(state.dirty.len() as u64);
    }
}

impl std::fmt::Debug for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

fn labels(container: Option<ContainerId>) -> Vec<Label> {
    let label = |id: ContainerId| Label::new("container", id.to_string());
    container.map(label).into_iter().collect()
}

/// Names of metrics that live outside of [`Metrics`].
pub(crate) const WAITERS: &str = "segmentstore_waiting_reads";
pub(crate) const TAIL_BYTES: &str = "segmentstore_tail_bytes";
pub(crate) const CACHE_BYTES: &str = "segmentstore_cache_bytes";
pub(crate) const PACK_CACHE_BYTES: &str = "segmentstore_pack_cache_bytes";
pub(crate) const AHEAD_BYTES: &str = "segmentstore_ahead_bytes";
pub(crate) const CREDIT_WAITS: &str = "segmentstore_credit_waits_total";

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    let counters = [
        (
            "segmentstore_appends_total",
            Unit::Count,
            "Appends that got a place in a segment",
        ),
        (
            "segmentstore_append_bytes_total",
            Unit::Bytes,
            "Their bytes",
        ),
        (
            "segmentstore_duplicate_appends_total",
            Unit::Count,
            "Repeated appends that were not written again",
        ),
        (
            "segmentstore_frames_total",
            Unit::Count,
            "Frames that became durable",
        ),
        ("segmentstore_frame_bytes_total", Unit::Bytes, "Their bytes"),
        (
            "segmentstore_reread_bytes_total",
            Unit::Bytes,
            "Bytes read back from the log for readers",
        ),
        (
            "segmentstore_checkpoints_total",
            Unit::Count,
            "Checkpoints written to the index",
        ),
        (
            "segmentstore_checkpoint_bytes_total",
            Unit::Bytes,
            "Their bytes",
        ),
        (
            "segmentstore_checkpoint_failures_total",
            Unit::Count,
            "Failed attempts to write one, each repeated",
        ),
        (
            "segmentstore_merged_segments_total",
            Unit::Count,
            "Segments that became the end of another one",
        ),
        (
            "segmentstore_read_bytes_total",
            Unit::Bytes,
            "Bytes given to readers, by where they came from",
        ),
        (
            "segmentstore_flushed_bytes_total",
            Unit::Bytes,
            "Bytes of packs written for what lay in the log",
        ),
        (
            "segmentstore_compacted_bytes_total",
            Unit::Bytes,
            "Bytes of packs written in place of older ones",
        ),
        (
            "segmentstore_flush_reread_bytes_total",
            Unit::Bytes,
            "Bytes read back from the log to be flushed",
        ),
        (
            "segmentstore_flush_failures_total",
            Unit::Count,
            "Packs that were not stored at the first try",
        ),
        (
            "segmentstore_packs_written_total",
            Unit::Count,
            "Packs written",
        ),
        (
            "segmentstore_packs_deleted_total",
            Unit::Count,
            "Packs deleted, nobody referring to them",
        ),
        (
            "segmentstore_exports_total",
            Unit::Count,
            "Copies of the index made in long-term storage",
        ),
        (
            "segmentstore_export_failures_total",
            Unit::Count,
            "Copies of the index that could not be made",
        ),
        (
            "segmentstore_segment_loads_total",
            Unit::Count,
            "Segments brought back into memory from the index",
        ),
        (
            "segmentstore_segment_evictions_total",
            Unit::Count,
            "Segments let go from memory",
        ),
        (
            CREDIT_WAITS,
            Unit::Count,
            "Operations that had to wait for memory before they were read",
        ),
    ];
    for (name, unit, text) in counters {
        describe_counter!(name, unit, text);
    }
    let gauges = [
        (
            "segmentstore_frames_in_flight",
            Unit::Count,
            "Frames on their way to the log",
        ),
        (
            "segmentstore_inbox_depth",
            Unit::Count,
            "Batches of appends that wait for their place in the order",
        ),
        ("segmentstore_segments", Unit::Count, "Segments"),
        (
            "segmentstore_boundaries",
            Unit::Count,
            "Ends of appends that are known; 24 bytes of memory each",
        ),
        (
            "segmentstore_merges_remembered",
            Unit::Count,
            "Merges of the last day that can be asked for again",
        ),
        (
            "segmentstore_tail_extents",
            Unit::Count,
            "Runs of segments in the log and in packs; 24 bytes of memory each",
        ),
        (
            "segmentstore_table_entries",
            Unit::Count,
            "Entries of table segments",
        ),
        ("segmentstore_table_bytes", Unit::Bytes, "Memory they take"),
        (
            "segmentstore_resident_segments",
            Unit::Count,
            "Segments in memory",
        ),
        (
            "segmentstore_absent_names",
            Unit::Count,
            "Names known to be no segment's",
        ),
        (
            "segmentstore_changed_segments",
            Unit::Count,
            "Segments that changed since the last checkpoint",
        ),
        (
            "segmentstore_checkpoints_under_way",
            Unit::Count,
            "Whether a checkpoint is being written to the index",
        ),
        (
            "segmentstore_log_kept_from",
            Unit::Count,
            "Number of the oldest frame the log is kept from",
        ),
        (
            WAITERS,
            Unit::Count,
            "Readers that wait at the tail of a segment",
        ),
        (
            TAIL_BYTES,
            Unit::Bytes,
            "Memory of frames kept for readers at the tail",
        ),
        (
            CACHE_BYTES,
            Unit::Bytes,
            "Memory of frames read back from the log",
        ),
        (
            PACK_CACHE_BYTES,
            Unit::Bytes,
            "Memory of blocks of packs kept for readers",
        ),
        (
            AHEAD_BYTES,
            Unit::Bytes,
            "Of these, what was fetched ahead and not read yet, at the last read of history; at most three quarters",
        ),
        (
            "segmentstore_packs",
            Unit::Count,
            "Packs that segments refer to",
        ),
        (
            "segmentstore_unflushed_bytes",
            Unit::Bytes,
            "Bytes of segments that lie in the log only",
        ),
        (
            "segmentstore_garbage_packs",
            Unit::Count,
            "Packs to be deleted when their grace is over",
        ),
    ];
    for (name, unit, text) in gauges {
        describe_gauge!(name, unit, text);
    }
    describe_histogram!(
        "segmentstore_frame_seconds",
        Unit::Seconds,
        "Time from sending a frame to the log to its being durable"
    );
}
