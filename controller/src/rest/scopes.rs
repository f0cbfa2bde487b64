//! Scopes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use sarit_proto::controller::create_scope_status::Status as Created;
use sarit_proto::controller::delete_scope_status::Status as Deleted;
use sarit_proto::controller::{
    ContinuationToken, ControllerService as _, ScopeInfo, ScopesRequest,
};
use sarit_proto::names::ScopeName;
use tonic::Request;

use super::model::{ScopeProperty, ScopesList};
use super::{Answer, At, Refusal, Rest, body, scope_name};

/// Most scopes of one answer.
const SCOPES_MAX: usize = 100_000;

pub(super) async fn list(State(rest): State<Rest>) -> Answer<Json<ScopesList>> {
    let mut scopes = Vec::new();
    let mut token = ContinuationToken::default();
    while scopes.len() < SCOPES_MAX {
        let request = ScopesRequest {
            continuation_token: Some(token),
        };
        let page = rest
            .service
            .list_scopes(Request::new(request))
            .await?
            .into_inner();
        if page.scopes.is_empty() {
            break;
        }
        let named = page.scopes.into_iter();
        scopes.extend(named.map(|scope_name| ScopeProperty { scope_name }));
        token = page.continuation_token.unwrap_or_default();
    }
    Ok(Json(ScopesList { scopes }))
}

pub(super) async fn create(
    State(rest): State<Rest>,
    bytes: Bytes,
) -> Answer<(StatusCode, Json<ScopeProperty>)> {
    let asked: ScopeProperty = body(&bytes)?;
    // A user's name: internal ones are not made by hand.
    let name = ScopeName::new(&*asked.scope_name).map_err(Refusal::bad)?;
    if name.is_internal() {
        return Err(Refusal::bad("names with a leading underscore are internal"));
    }
    let info = ScopeInfo {
        scope: asked.scope_name.clone(),
    };
    let created = rest
        .service
        .create_scope(Request::new(info))
        .await?
        .into_inner();
    match created.status() {
        Created::Success => Ok((StatusCode::CREATED, Json(asked))),
        Created::ScopeExists => Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("scope {name} exists"),
        )),
        Created::InvalidScopeName => Err(Refusal::bad("not a name for a scope")),
        Created::Failure => Err(Refusal::failed()),
    }
}

pub(super) async fn show(
    State(rest): State<Rest>,
    At(scope): At<String>,
) -> Answer<Json<ScopeProperty>> {
    check(&rest, &scope_name(scope.clone())?).await?;
    Ok(Json(ScopeProperty { scope_name: scope }))
}

/// Refuses what is about a scope that does not exist.
pub(super) async fn check(rest: &Rest, scope: &ScopeName) -> Answer<()> {
    let info = ScopeInfo {
        scope: scope.to_string(),
    };
    let exists = rest.service.check_scope_exists(Request::new(info)).await?;
    match exists.into_inner().exists {
        true => Ok(()),
        false => Err(Refusal::missing(format_args!("scope {scope}"))),
    }
}

pub(super) async fn delete(State(rest): State<Rest>, At(scope): At<String>) -> Answer<StatusCode> {
    let scope = scope_name(scope)?.to_string();
    let info = ScopeInfo {
        scope: scope.clone(),
    };
    let deleted = rest
        .service
        .delete_scope(Request::new(info))
        .await?
        .into_inner();
    match deleted.status() {
        Deleted::Success => Ok(StatusCode::NO_CONTENT),
        Deleted::ScopeNotFound => Err(Refusal::missing(format_args!("scope {scope}"))),
        Deleted::ScopeNotEmpty => Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            format!("scope {scope} is not empty"),
        )),
        Deleted::Failure => Err(Refusal::failed()),
    }
}
