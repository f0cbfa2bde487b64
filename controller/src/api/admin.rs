//! HTTP for probes and people: is the controller alive, can it work, what is it doing.
//!
//! ```text
//! GET /health/live    200 unless the metadata store has failed for good
//! GET /health/ready   200 if every check holds, else 503; both with the checks as JSON
//! GET /stores         the segment stores we know
//! GET /v1/tasks       the changes in progress
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::placement::hosts::{Hosts, SharedHosts};
use crate::segments::SegmentStore;
use crate::store::MetaStore;
use crate::tasks::Tasks;

/// How long the segment store may take to answer a readiness check.
const PROBE_MAX: Duration = Duration::from_secs(2);

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is checked.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// Why not, or nothing.
    pub reason: String,
}

impl Check {
    fn new(name: &'static str, trouble: Option<String>) -> Self {
        Self {
            name,
            ok: trouble.is_none(),
            reason: trouble.unwrap_or_default(),
        }
    }
}

/// A view into a running controller. Clones share it.
#[derive(Clone)]
pub struct Health {
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) segments: Arc<dyn SegmentStore>,
    pub(crate) hosts: SharedHosts,
    pub(crate) tasks: Tasks,
}

impl Health {
    /// Returns whether the process is worth keeping.
    pub async fn live(&self) -> Check {
        let probed = self.store.get("s/").await;
        Check::new("metadata", probed.err().map(|error| error.to_string()))
    }

    /// Returns all that a client's call needs.
    pub async fn ready(&self) -> Vec<Check> {
        let registered = Check::new("segment store registered", self.hosts.trouble());
        let trouble = match registered.ok {
            false => Some(registered.reason.clone()),
            true => match tokio::time::timeout(PROBE_MAX, self.segments.probe()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {} s", PROBE_MAX.as_secs())),
            },
        };
        let reachable = Check::new("segment store reachable", trouble);
        vec![self.live().await, registered, reachable]
    }

    /// Returns the segment stores that the controller knows, in the order of their containers.
    pub fn stores(&self) -> Vec<KnownStore> {
        if let Hosts::Static { advertised, .. } = &*self.hosts {
            return vec![KnownStore {
                id: "in this process".to_owned(),
                address: advertised.to_string(),
                first_container: 0,
                containers: 0,
                total_containers: 0,
                silent_seconds: 0,
            }];
        }
        let known = self.hosts.known().into_iter().map(|known| KnownStore {
            id: known.store_id,
            address: known.endpoint.to_string(),
            first_container: known.owned.start(),
            containers: known.owned.count(),
            total_containers: known.containers,
            silent_seconds: known.silence.as_secs(),
        });
        known.collect()
    }
}

/// Builds the routes.
pub(crate) fn router(health: Health) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/stores", get(stores))
        .route("/v1/tasks", get(tasks))
        .with_state(health)
}

async fn live(State(health): State<Health>) -> Response {
    checks(vec![health.live().await])
}

async fn ready(State(health): State<Health>) -> Response {
    checks(health.ready().await)
}

fn checks(checks: Vec<Check>) -> Response {
    let code = match checks.iter().all(|check| check.ok) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(checks)).into_response()
}

/// A segment store that the controller knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownStore {
    /// The identity of its data, or that it is in this process.
    pub id: String,
    /// `host:port` that clients are given.
    pub address: String,
    /// The first of its containers; 0 in this process.
    pub first_container: u32,
    /// How many it has; 0 in this process: all.
    pub containers: u32,
    /// How many there are in all stores; 0 in this process.
    pub total_containers: u32,
    /// For how long it has not registered again, in seconds.
    pub silent_seconds: u64,
}

async fn stores(State(health): State<Health>) -> Json<Vec<KnownStore>> {
    Json(health.stores())
}

#[derive(Serialize)]
struct Task {
    stream: String,
    kind: &'static str,
}

async fn tasks(State(health): State<Health>) -> Json<Vec<Task>> {
    let running = health.tasks.running().into_iter();
    Json(
        running
            .map(|(stream, kind)| Task { stream, kind })
            .collect(),
    )
}
