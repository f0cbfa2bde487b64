//! Calls on scopes, and discovery.

use sarit_proto::controller::create_scope_status::Status as Created;
use sarit_proto::controller::delete_scope_status::Status as Deleted;
use sarit_proto::controller::{
    BucketIds, ContinuationToken, ControllerToBucketMappingRequest,
    ControllerToBucketMappingResponse, CreateScopeStatus, DeleteScopeStatus, ExistsResponse,
    NodeUri, ScopeInfo, ScopesRequest, ScopesResponse, ServerRequest, ServerResponse,
};
use sarit_proto::names::{NameError, SYSTEM_SCOPE, ScopeName};
use tonic::Status;

use super::Service;
use super::convert::{invalid, scope_name};
use super::streams::unexpected;
use crate::store::catalog::PAGE;
use crate::store::records::{self, encode};
use crate::store::{Expect, Outcome, Transaction, keys};
use crate::tasks::{Answer, Request, delete_scope};

pub(super) async fn controllers(
    service: &Service,
    _request: ServerRequest,
) -> Result<ServerResponse, Status> {
    let node = NodeUri {
        endpoint: service.advertised.host.to_string(),
        port: i32::from(service.advertised.port),
    };
    Ok(ServerResponse {
        node_uri: vec![node],
    })
}

/// Officially streams are dealt into buckets, for which controllers are responsible. One controller is
/// responsible for all streams: one bucket.
pub(super) async fn buckets(
    service: &Service,
    _request: ControllerToBucketMappingRequest,
) -> Result<ControllerToBucketMappingResponse, Status> {
    let ours = (service.advertised.to_string(), BucketIds { id: vec![0] });
    Ok(ControllerToBucketMappingResponse {
        mapping: [ours].into(),
    })
}

pub(super) async fn create(
    service: &Service,
    request: ScopeInfo,
) -> Result<CreateScopeStatus, Status> {
    let status = |status: Created| {
        let status = status as i32;
        Ok(CreateScopeStatus { status })
    };
    if request.scope == SYSTEM_SCOPE {
        return status(Created::ScopeExists);
    }
    let scope = match ScopeName::new(request.scope) {
        Ok(scope) => scope,
        Err(error @ NameError::Empty { .. }) => return Err(invalid(error)),
        Err(_) => return status(Created::InvalidScopeName),
    };
    let key = keys::scope(&scope);
    let record = records::Scope {
        created_ms: service.tasks.context().clock.now_ms(),
        deletion: String::new(),
    };
    let create = Transaction::new()
        .expect(&key, Expect::Absent)
        .put(&key, encode(&record));
    match commit(service, create).await? {
        Outcome::Committed(_) => status(Created::Success),
        Outcome::Conflict => status(Created::ScopeExists),
    }
}

pub(super) async fn delete(
    service: &Service,
    request: ScopeInfo,
) -> Result<DeleteScopeStatus, Status> {
    let scope = scope_name(&request.scope)?;
    let status = delete_empty(service, &scope).await? as i32;
    Ok(DeleteScopeStatus { status })
}

pub(super) async fn delete_recursive(
    service: &Service,
    request: ScopeInfo,
) -> Result<DeleteScopeStatus, Status> {
    let scope = scope_name(&request.scope)?;
    let all = delete_scope::all_of(&scope);
    let status = match service.tasks.run(&all, Request::DeleteScope).await? {
        // A missing scope is as deleted as can be.
        Answer::Done | Answer::NoScope => Deleted::Success,
        other => return Err(unexpected(&other)),
    };
    let status = status as i32;
    Ok(DeleteScopeStatus { status })
}

pub(super) async fn list(
    service: &Service,
    request: ScopesRequest,
) -> Result<ScopesResponse, Status> {
    let asked = request.continuation_token.unwrap_or_default().token;
    let after = (!asked.is_empty()).then(|| format!("{}{asked}", keys::SCOPES));
    let store = &service.catalog.store;
    let page = store.range(keys::SCOPES, after.as_deref(), PAGE).await;
    let entries = page.map_err(crate::tasks::Error::from)?.entries;
    let names = entries
        .into_iter()
        .map(|(key, _)| key[keys::SCOPES.len()..].to_owned());
    let scopes: Vec<String> = names.collect();
    let token = scopes.last().cloned().unwrap_or(asked);
    Ok(ScopesResponse {
        scopes,
        continuation_token: Some(ContinuationToken { token }),
    })
}

pub(super) async fn exists(
    service: &Service,
    request: ScopeInfo,
) -> Result<ExistsResponse, Status> {
    let scope = scope_name(&request.scope)?;
    let exists = scope.as_str() == SYSTEM_SCOPE || service.catalog.scope(&scope).await?.is_some();
    Ok(ExistsResponse { exists })
}

async fn delete_empty(service: &Service, scope: &ScopeName) -> Result<Deleted, Status> {
    let Some(row) = service.catalog.scope(scope).await? else {
        return Ok(Deleted::ScopeNotFound);
    };
    if !row.value.deletion.is_empty() {
        // Its task removes it when nothing is left.
        return Ok(Deleted::ScopeNotEmpty);
    }
    let delete = Transaction::new()
        .expect(keys::scope(scope), Expect::At(row.revision))
        .expect(keys::names_in(scope), Expect::NothingUnder)
        .expect(keys::groups_in(scope), Expect::NothingUnder)
        .expect(keys::tables_in(scope), Expect::NothingUnder)
        .delete(keys::scope(scope));
    match commit(service, delete).await? {
        Outcome::Committed(_) => Ok(Deleted::Success),
        Outcome::Conflict => Ok(match service.catalog.scope(scope).await? {
            Some(_) => Deleted::ScopeNotEmpty,
            None => Deleted::ScopeNotFound,
        }),
    }
}

async fn commit(service: &Service, transaction: Transaction) -> Result<Outcome, Status> {
    let outcome = service.catalog.store.commit(transaction).await;
    Ok(outcome.map_err(crate::tasks::Error::from)?)
}
