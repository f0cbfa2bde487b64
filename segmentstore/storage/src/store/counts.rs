//! What is asked of an object store: each request costs time, and in a cloud money.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Histogram, Unit, counter, histogram};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes a whole object.
    Put,
    /// Begins an upload in parts.
    Begin,
    /// Uploads a part.
    Part,
    /// Ends an upload in parts.
    Complete,
    /// Gives an upload in parts up.
    Abort,
    /// Reads.
    Get,
    /// Deletes an object.
    Delete,
    /// Lists objects.
    List,
}

impl Operation {
    const ALL: [Self; 8] = [
        Self::Put,
        Self::Begin,
        Self::Part,
        Self::Complete,
        Self::Abort,
        Self::Get,
        Self::Delete,
        Self::List,
    ];

    /// Returns its name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Begin => "begin",
            Self::Part => "part",
            Self::Complete => "complete",
            Self::Abort => "abort",
            Self::Get => "get",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// Requests since the store was opened.
pub struct Counts {
    kinds: [Kind; Operation::ALL.len()],
    written: AtomicU64,
    read: AtomicU64,
    written_total: Counter,
    read_total: Counter,
}

struct Kind {
    done: AtomicU64,
    failed: AtomicU64,
    done_total: Counter,
    failed_total: Counter,
    seconds: Histogram,
}

impl Counts {
    pub(super) fn new() -> Self {
        metrics::describe_counter!(
            "storage_requests_total",
            Unit::Count,
            "Requests to long-term storage"
        );
        metrics::describe_counter!(
            "storage_bytes_total",
            Unit::Bytes,
            "Bytes written to and read from long-term storage"
        );
        metrics::describe_histogram!(
            "storage_request_seconds",
            Unit::Seconds,
            "Time of a request to long-term storage"
        );
        let total = |operation: Operation, outcome: &'static str| counter!("storage_requests_total", "operation" => operation.name(), "outcome" => outcome);
        let bytes =
            |direction: &'static str| counter!("storage_bytes_total", "direction" => direction);
        Self {
            kinds: Operation::ALL.map(|operation| Kind {
                done: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                done_total: total(operation, "done"),
                failed_total: total(operation, "failed"),
                seconds: histogram!("storage_request_seconds", "operation" => operation.name()),
            }),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written_total: bytes("written"),
            read_total: bytes("read"),
        }
    }

    /// Returns how many requests succeeded.
    pub fn done(&self, operation: Operation) -> u64 {
        self.kind(operation).done.load(Ordering::Relaxed)
    }

    /// Returns how many requests failed.
    pub fn failed(&self, operation: Operation) -> u64 {
        self.kind(operation).failed.load(Ordering::Relaxed)
    }

    /// Returns the bytes written.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns the bytes read.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.written_total.increment(bytes);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.read_total.increment(bytes);
    }

    fn kind(&self, operation: Operation) -> &Kind {
        &self.kinds[operation as usize]
    }

    pub(super) async fn request<T, E>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<Result<T, E>, Elapsed>>,
    ) -> Result<Result<T, E>, Elapsed> {
        let kind = self.kind(operation);
        let started = Instant::now();
        let outcome = request.await;
        kind.seconds.record(started.elapsed());
        let (count, total) = match &outcome {
            Ok(Ok(_)) => (&kind.done, &kind.done_total),
            Ok(Err(_)) | Err(_) => (&kind.failed, &kind.failed_total),
        };
        count.fetch_add(1, Ordering::Relaxed);
        total.increment(1);
        outcome
    }
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(Operation::ALL.map(|kind| (kind.name(), (self.done(kind), self.failed(kind)))))
            .finish()
    }
}
