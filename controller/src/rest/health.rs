//! Health, in the official server's shape: a whole and its parts, each with a status, two booleans and
//! details. The parts are the checks of `api::admin`, spaces as hyphens.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::{Answer, At, Refusal, Rest};
use crate::api::admin::Check;

#[derive(Clone, Serialize)]
struct HealthResult {
    name: String,
    status: Status,
    readiness: bool,
    liveness: bool,
    details: BTreeMap<String, String>,
    children: BTreeMap<String, HealthResult>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    Up,
    Down,
}

/// What of it is asked for.
#[derive(Clone, Copy)]
enum Aspect {
    Readiness,
    Liveness,
    Details,
    Status,
}

impl HealthResult {
    fn new(name: &str, ok: bool, liveness: bool) -> Self {
        Self {
            name: name.to_owned(),
            status: if ok { Status::Up } else { Status::Down },
            readiness: ok,
            liveness,
            details: BTreeMap::new(),
            children: BTreeMap::new(),
        }
    }

    fn of(check: &Check, liveness: bool) -> Self {
        let mut part = Self::new(&check.name.replace(' ', "-"), check.ok, liveness);
        if !check.reason.is_empty() {
            part.details
                .insert("reason".to_owned(), check.reason.clone());
        }
        part
    }

    fn aspect(self, aspect: Aspect) -> Response {
        match aspect {
            Aspect::Readiness => Json(self.readiness).into_response(),
            Aspect::Liveness => Json(self.liveness).into_response(),
            Aspect::Details => Json(self.details).into_response(),
            Aspect::Status => Json(self.status).into_response(),
        }
    }
}

async fn examine(rest: &Rest) -> HealthResult {
    let live = rest.health.live().await.ok;
    let checks = rest.health.ready().await;
    let ready = checks.iter().all(|check| check.ok);
    let mut whole = HealthResult::new("controller", ready, live);
    for check in &checks {
        let part = HealthResult::of(check, live);
        whole.details.extend(
            part.details
                .clone()
                .into_values()
                .map(|why| (part.name.clone(), why)),
        );
        whole.children.insert(part.name.clone(), part);
    }
    whole
}

async fn part(rest: &Rest, id: &str) -> Answer<HealthResult> {
    let whole = examine(rest).await;
    if id == whole.name {
        return Ok(whole);
    }
    let part = whole.children.get(id).cloned();
    part.ok_or_else(|| Refusal::missing(format_args!("a part of health named {id:?}")))
}

fn aspect(text: &str) -> Option<Aspect> {
    match text {
        "readiness" => Some(Aspect::Readiness),
        "liveness" => Some(Aspect::Liveness),
        "details" => Some(Aspect::Details),
        "status" => Some(Aspect::Status),
        _ => None,
    }
}

pub(super) async fn whole(State(rest): State<Rest>) -> Response {
    Json(examine(&rest).await).into_response()
}

pub(super) async fn aspect_or_part(
    State(rest): State<Rest>,
    At(what): At<String>,
) -> Answer<Response> {
    match aspect(&what) {
        Some(aspect) => Ok(examine(&rest).await.aspect(aspect)),
        None => Ok(Json(part(&rest, &what).await?).into_response()),
    }
}

pub(super) async fn aspect_of_part(
    State(rest): State<Rest>,
    At((what, id)): At<(String, String)>,
) -> Answer<Response> {
    let aspect = aspect(&what);
    let aspect =
        aspect.ok_or_else(|| Refusal::missing(format_args!("an aspect {what:?} of health")))?;
    Ok(part(&rest, &id).await?.aspect(aspect))
}
