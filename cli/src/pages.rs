//! What a server process shows over HTTP: health, metrics, what it holds.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use sarit_controller::{Health, KnownStore};
use sarit_segmentstore::Inspect;
use serde_json::{Value, json};

/// The parts that run in this process.
#[derive(Clone, Default)]
pub(crate) struct Pages {
    pub(crate) controller: Option<Health>,
    pub(crate) store: Option<Inspect>,
    /// The controller's REST API.
    pub(crate) rest: Option<Router>,
}

impl Pages {
    /// Returns all pages.
    pub(crate) fn router(mut self, metrics: PrometheusHandle) -> Router {
        let rest = self.rest.take().unwrap_or_default();
        Router::new()
            .route("/health/live", get(live))
            .route("/health/ready", get(ready))
            .route("/segmentstore", get(segment_store))
            .route("/stores", get(stores))
            .route("/metrics", get(async move || metrics.render()))
            .with_state(self)
            .merge(rest)
    }

    /// What stands against serving everything; nothing if all is well.
    async fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(controller) = &self.controller {
            let failed = controller
                .ready()
                .await
                .into_iter()
                .filter(|check| !check.ok);
            reasons.extend(failed.map(|check| format!("{}: {}", check.name, check.reason)));
        }
        if let Some(store) = &self.store {
            reasons.extend(store.health().reasons);
        }
        reasons
    }
}

fn status(well: bool) -> StatusCode {
    if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn stores(State(pages): State<Pages>) -> Result<Json<Vec<KnownStore>>, StatusCode> {
    let controller = pages.controller.as_ref();
    let stores = controller.map(|controller| Json(controller.stores()));
    stores.ok_or(StatusCode::NOT_FOUND)
}

async fn live(State(pages): State<Pages>) -> (StatusCode, Json<Value>) {
    match &pages.controller {
        Some(controller) => {
            let check = controller.live().await;
            (
                status(check.ok),
                Json(json!({ "live": check.ok, "reason": check.reason })),
            )
        }
        None => (StatusCode::OK, Json(json!({ "live": true }))),
    }
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, Json<Value>) {
    let reasons = pages.reasons().await;
    (
        status(reasons.is_empty()),
        Json(json!({ "ready": reasons.is_empty(), "reasons": reasons })),
    )
}

async fn segment_store(State(pages): State<Pages>) -> Result<Json<Value>, StatusCode> {
    let store = pages.store.ok_or(StatusCode::NOT_FOUND)?;
    serde_json::to_value(store.report())
        .map(Json)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
