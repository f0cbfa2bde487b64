//! Pravega's REST API, version 1: scopes, streams, their scaling events, reader groups, health.
//!
//! A second door to what gRPC offers: each request becomes the same call, and its status an HTTP code.
//! `openapi.json` beside this says what can be asked and every answer there is; it is served at
//! `/v1/openapi.json`, and a generator of requests holds the server to it (`tests/compat/rest`).
//!
//! Guarantees: bad input is answered 400 with a sentence, never 500; bodies and answers are bounded;
//! errors are `{"message": …}`. Differences from the official server, whose errors have no body and whose
//! lists have no end: `limit` and `after` page through streams; the readers of a group are known to
//! clients only, so `onlineReaderIds` is always empty.

mod groups;
mod health;
mod model;
mod scopes;
mod streams;
#[cfg(test)]
mod tests;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use bytes::Bytes;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Code;

use crate::api::admin::Health;
use crate::api::grpc::Service;

/// Largest body; the longest that makes sense is 128 tags of 256 bytes.
const BODY_BYTES_MAX: usize = 256 << 10;
/// The description of all this.
const OPENAPI: &str = include_str!("openapi.json");

/// What the calls work with.
#[derive(Clone)]
struct Rest {
    service: Service,
    health: Health,
}

/// Builds the routes.
pub(crate) fn router(service: Service, health: Health) -> Router {
    let v1 = Router::new()
        .route("/scopes", get(scopes::list).post(scopes::create))
        .route("/scopes/{scope}", get(scopes::show).delete(scopes::delete))
        .route(
            "/scopes/{scope}/streams",
            get(streams::list).post(streams::create),
        )
        .route(
            "/scopes/{scope}/streams/{stream}",
            get(streams::show)
                .put(streams::update)
                .delete(streams::delete),
        )
        .route(
            "/scopes/{scope}/streams/{stream}/state",
            put(streams::set_state),
        )
        .route(
            "/scopes/{scope}/streams/{stream}/scaling-events",
            get(streams::scalings),
        )
        .route("/scopes/{scope}/readergroups", get(groups::list))
        .route(
            "/scopes/{scope}/readergroups/{group}",
            get(groups::show).delete(groups::delete),
        )
        .route("/health", get(health::whole))
        .route("/health/{what}", get(health::aspect_or_part))
        .route("/health/{what}/{id}", get(health::aspect_of_part))
        .route("/openapi.json", get(openapi))
        .with_state(Rest { service, health });
    Router::new()
        .route("/ping", get(async || "pong"))
        .nest("/v1", v1)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// Why a request is not answered as asked.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    code: StatusCode,
    message: String,
}

#[derive(Serialize)]
struct Explained {
    message: String,
}

impl Refusal {
    fn new(code: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    fn bad(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message.to_string())
    }

    fn missing(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} does not exist"))
    }

    /// For a status that a call only has when something is wrong with us.
    fn failed() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the call failed")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let message = self.message;
        (self.code, Json(Explained { message })).into_response()
    }
}

impl From<tonic::Status> for Refusal {
    fn from(status: tonic::Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable | Code::ResourceExhausted => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(code, status.message())
    }
}

impl From<crate::store::catalog::Error> for Refusal {
    fn from(error: crate::store::catalog::Error) -> Self {
        tonic::Status::from(error).into()
    }
}

impl From<crate::store::Error> for Refusal {
    fn from(error: crate::store::Error) -> Self {
        tonic::Status::from(crate::tasks::Error::from(error)).into()
    }
}

type Answer<T> = Result<T, Refusal>;

/// Reads a body, whatever its content type says.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::bad(format!("the body: {error}")))
}

/// The query, or 400.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let refused = |rejection: QueryRejection| Refusal::bad(rejection.body_text());
        query.map(|Query(query)| Self(query)).map_err(refused)
    }
}

/// The path's names, or 400.
struct At<T>(T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        let refused = |rejection: PathRejection| Refusal::bad(rejection.body_text());
        path.map(|Path(path)| Self(path)).map_err(refused)
    }
}

fn scope_name(text: String) -> Answer<ScopeName> {
    ScopeName::occurring(text).map_err(Refusal::bad)
}

fn stream_name((scope, stream): (String, String)) -> Answer<ScopedStream> {
    Ok(ScopedStream {
        scope: scope_name(scope)?,
        stream: StreamName::occurring(stream).map_err(Refusal::bad)?,
    })
}
