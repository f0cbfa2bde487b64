//! What the log counts: for the process's metrics, and as plain numbers for tests and benchmarks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

const SYNCS: &str = "segmentstore_wal_syncs_total";
const SYNC_SECONDS: &str = "segmentstore_wal_sync_seconds";
const WRITTEN_BYTES: &str = "segmentstore_wal_written_bytes_total";
const BODY_BYTES: &str = "segmentstore_wal_body_bytes_total";
const FRAMES: &str = "segmentstore_wal_frames_total";
const FRAMES_PER_SYNC: &str = "segmentstore_wal_frames_per_sync";
const QUEUE_BYTES: &str = "segmentstore_wal_queue_bytes";
const FILES: &str = "segmentstore_wal_files";
const FULL: &str = "segmentstore_wal_full";

/// Counts since the WAL was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Syncs of lane writes that succeeded.
    pub syncs: u64,
    /// Lane writes that succeeded, idle headers not counted.
    pub writes: u64,
    /// Bytes of these writes, with headers and padding.
    pub bytes_written: u64,
    /// Frames made durable.
    pub frames: u64,
    /// Bytes of these frames, headers included.
    pub frame_bytes: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Bytes of frames that wait for the lane now.
    pub queue_bytes: u64,
    /// Lane files that hold frames now.
    pub files: u64,
}

/// The counters themselves.
pub(crate) struct Metrics {
    syncs: (AtomicU64, Counter),
    writes: AtomicU64,
    bytes_written: (AtomicU64, Counter),
    frames: (AtomicU64, Counter),
    frame_bytes: AtomicU64,
    body_bytes: (AtomicU64, Counter),
    queue_bytes: (AtomicU64, Gauge),
    files: (AtomicU64, Gauge),
    sync_seconds: Histogram,
    frames_per_sync: Histogram,
    full: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe_counter!(SYNCS, Unit::Count, "Syncs of lane writes");
        describe_histogram!(SYNC_SECONDS, Unit::Seconds, "Time of one write and sync");
        describe_counter!(WRITTEN_BYTES, Unit::Bytes, "Bytes written to lane files");
        describe_counter!(BODY_BYTES, Unit::Bytes, "Bytes of frame bodies written");
        describe_counter!(FRAMES, Unit::Count, "Frames made durable");
        describe_histogram!(FRAMES_PER_SYNC, Unit::Count, "Frames that shared one sync");
        describe_gauge!(
            QUEUE_BYTES,
            Unit::Bytes,
            "Bytes of frames waiting for the lane"
        );
        describe_gauge!(FILES, Unit::Count, "Lane files that hold frames");
        describe_gauge!(FULL, Unit::Count, "1 while appends wait for disk space");
        Self {
            syncs: (AtomicU64::new(0), counter!(SYNCS)),
            writes: AtomicU64::new(0),
            bytes_written: (AtomicU64::new(0), counter!(WRITTEN_BYTES)),
            frames: (AtomicU64::new(0), counter!(FRAMES)),
            frame_bytes: AtomicU64::new(0),
            body_bytes: (AtomicU64::new(0), counter!(BODY_BYTES)),
            queue_bytes: (AtomicU64::new(0), gauge!(QUEUE_BYTES)),
            files: (AtomicU64::new(0), gauge!(FILES)),
            sync_seconds: histogram!(SYNC_SECONDS),
            frames_per_sync: histogram!(FRAMES_PER_SYNC),
            full: gauge!(FULL),
        }
    }

    /// Counts one lane write and its sync.
    pub(crate) fn wrote(&self, bytes: u64, time: Duration) {
        self.syncs.0.fetch_add(1, Relaxed);
        self.syncs.1.increment(1);
        self.writes.fetch_add(1, Relaxed);
        self.bytes_written.0.fetch_add(bytes, Relaxed);
        self.bytes_written.1.increment(bytes);
        self.sync_seconds.record(time.as_secs_f64());
    }

    /// Counts the frames of one lane write.
    pub(crate) fn stored(&self, frames: u64, frame_bytes: u64, body_bytes: u64) {
        self.frames.0.fetch_add(frames, Relaxed);
        self.frames.1.increment(frames);
        self.frames_per_sync.record(frames as f64);
        self.frame_bytes.fetch_add(frame_bytes, Relaxed);
        self.body_bytes.0.fetch_add(body_bytes, Relaxed);
        self.body_bytes.1.increment(body_bytes);
    }

    pub(crate) fn set_queue_bytes(&self, bytes: u64) {
        self.queue_bytes.0.store(bytes, Relaxed);
        self.queue_bytes.1.set(bytes as f64);
    }

    pub(crate) fn set_files(&self, files: u64) {
        self.files.0.store(files, Relaxed);
        self.files.1.set(files as f64);
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.full.set(if full { 1.0 } else { 0.0 });
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            syncs: self.syncs.0.load(Relaxed),
            writes: self.writes.load(Relaxed),
            bytes_written: self.bytes_written.0.load(Relaxed),
            frames: self.frames.0.load(Relaxed),
            frame_bytes: self.frame_bytes.load(Relaxed),
            body_bytes: self.body_bytes.0.load(Relaxed),
            queue_bytes: self.queue_bytes.0.load(Relaxed),
            files: self.files.0.load(Relaxed),
        }
    }
}
