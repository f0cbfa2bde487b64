//! HTTP for operators: health and what is inside. Metrics are rendered by the process around.
//!
//! - `GET /health/live`: 200 while the process runs.
//! - `GET /health/ready`: 200 when every container serves and the log has room, else 503 and why.
//! - `GET /segmentstore`: containers, connections, memory and log, as JSON.
//!
//! Nothing here changes anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use sarit_container::MemoryBudget;
use sarit_wal::{Space, Wal};
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::host::{ContainerState, Host};
use crate::load::Meters;

/// What can be seen of a store from outside.
#[derive(Clone)]
pub struct Inspect {
    pub(crate) host: Arc<Host>,
    pub(crate) wal: Arc<OnceCell<Wal>>,
    pub(crate) memory: MemoryBudget,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) meters: Meters,
    pub(crate) identity: u128,
    pub(crate) stop: CancellationToken,
}

/// Whether a store does all it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether every container serves and appends find room.
    pub ready: bool,
    /// What stands against it, in sentences; empty when ready.
    pub reasons: Vec<String>,
}

/// What a store holds, in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The store's identity, as in FORMAT.
    pub uuid: String,
    /// Open connections.
    pub connections: usize,
    /// Bytes of queued operations.
    pub queued_bytes: u64,
    /// Bytes of frames kept in memory.
    pub cached_bytes: u64,
    /// How many containers there are, here and elsewhere.
    pub total_containers: u32,
    /// The containers that are here, lowest number first.
    pub containers: Vec<ContainerReport>,
}

/// One container, in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerReport {
    /// Its number.
    pub id: u32,
    /// `opening`, `waiting`, `serving`, `refused` or `stopped`.
    pub state: &'static str,
    /// Segments it has; 0 unless serving.
    pub segments: u64,
    /// Those of them in memory.
    pub resident_segments: u64,
    /// Those that changed since the last checkpoint.
    pub changed_segments: u64,
    /// Checkpoints since it was opened.
    pub checkpoints: u64,
    /// Number of the oldest frame its log is kept from.
    pub log_kept_from: u64,
    /// Readers that wait at a tail.
    pub waiting_reads: u64,
}

impl Inspect {
    /// Returns the counters of what is written to each segment.
    pub fn meters(&self) -> Meters {
        self.meters.clone()
    }

    /// Returns the containers and their states, lowest number first.
    pub fn containers(&self) -> Vec<(sarit_proto::ids::ContainerId, ContainerState)> {
        self.host.states()
    }

    /// Waits until no container is opening any more. Cancel-safe.
    pub async fn settled(&self) {
        self.host.settled().await;
    }

    /// Returns whether the store does all it should, and what stands against it.
    pub fn health(&self) -> Health {
        let mut reasons = Vec::new();
        if self.stop.is_cancelled() {
            reasons.push("the store is stopping".to_owned());
        }
        for (id, state) in self.host.states() {
            match state {
                ContainerState::Serving(_) => {}
                ContainerState::Opening => reasons.push(format!("container {id} is opening")),
                ContainerState::Waiting(why) => {
                    reasons.push(format!("container {id} can't be opened now: {why}"));
                }
                ContainerState::Refused(why) => {
                    reasons.push(format!("container {id} does not start: {why}"));
                }
                ContainerState::Stopped => reasons.push(format!("container {id} has stopped")),
            }
        }
        if let Some(Space::Full { reason }) = self.wal.get().map(|wal| wal.space().borrow().clone())
        {
            reasons.push(format!("the log is full, appends wait: {reason}"));
        }
        Health {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    /// Returns what the store holds.
    pub fn report(&self) -> Report {
        let usage = self.memory.usage();
        let containers = self.host.states().into_iter().map(|(id, state)| {
            let (state, stats) = match &state {
                ContainerState::Opening => ("opening", None),
                ContainerState::Waiting(_) => ("waiting", None),
                ContainerState::Serving(container) => ("serving", Some(container.stats())),
                ContainerState::Refused(_) => ("refused", None),
                ContainerState::Stopped => ("stopped", None),
            };
            let stats = stats.unwrap_or_default();
            ContainerReport {
                id: id.0,
                state,
                segments: stats.segments,
                resident_segments: stats.resident,
                changed_segments: stats.changed,
                checkpoints: stats.checkpoints,
                log_kept_from: stats.log_kept_from,
                waiting_reads: stats.waiters,
            }
        });
        Report {
            uuid: format!("{:032x}", self.identity),
            connections: self.connections.load(Relaxed),
            queued_bytes: usage.operations,
            cached_bytes: usage.frames + usage.blocks,
            total_containers: self.host.placement().0,
            containers: containers.collect(),
        }
    }

    /// Returns the HTTP pages.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/health/live", get(async || "ok"))
            .route("/health/ready", get(ready))
            .route("/segmentstore", get(report))
            .with_state(self.clone())
    }
}

async fn ready(State(inspect): State<Inspect>) -> (StatusCode, Json<Health>) {
    let health = inspect.health();
    let status = match health.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health))
}

async fn report(State(inspect): State<Inspect>) -> Json<Report> {
    Json(inspect.report())
}
