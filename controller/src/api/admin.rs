//! HTTP for probes and people: is the controller alive, can it work, what is it doing.
//!
//! ```text
//! GET /health/live    200 unless the metadata store has failed for good
//! GET /health/ready   200 if every check holds, else 503; both with the checks as JSON
//! GET /v1/stores      the segment stores we know
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

use crate::placement::hosts::SharedHosts;
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
}

/// Builds the routes.
pub(crate) fn router(health: Health) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/v1/stores", get(stores))
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

#[derive(Serialize)]
struct Store {
    id: String,
    address: String,
    containers: u32,
}

async fn stores(State(health): State<Health>) -> Json<Vec<Store>> {
    let known = match health.hosts.heard() {
        Some(heard) => Some(Store {
            id: heard.store_id,
            address: heard.endpoint.to_string(),
            containers: heard.containers,
        }),
        None => health.hosts.advertised().map(|endpoint| Store {
            id: "in this process".to_owned(),
            address: endpoint.to_string(),
            containers: 0,
        }),
    };
    Json(known.into_iter().collect())
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
