//! Calls on scopes, and discovery.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use sarit_proto::controller::create_scope_status::Status as Created;
use sarit_proto::controller::delete_scope_status::Status as Deleted;
use sarit_proto::controller::{
    BucketIds, ContinuationToken, ControllerToBucketMappingRequest,
    ControllerToBucketMappingResponse, CreateScopeStatus, DeleteScopeStatus, ExistsResponse,
    NodeUri, ScopeInfo, ScopesRequest, ScopesResponse, ServerRequest, ServerResponse,
};
use sarit_proto::names::{NameError, SYSTEM_SCOPE, ScopeName, ScopedStream, StreamName};
use tonic::Status;

use super::Service;
use super::convert::{invalid, scope_name};
use super::tables::segments_of;
use crate::store::catalog::PAGE;
use crate::store::records::{self, encode};
use crate::store::{Expect, Outcome, Transaction, keys};
use crate::tasks::Request;

/// How long a recursive deletion may take before the caller is told to ask again.
const RECURSION_MAX: Duration = Duration::from_secs(60);
/// Streams deleted at once.
const DELETIONS_MAX: usize = 16;

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
    let deleting = tokio::time::timeout(RECURSION_MAX, async {
        loop {
            let deleted = delete_contents(service, &scope).await?;
            match delete_empty(service, &scope).await? {
                // Either more than a page was there, or something was created meanwhile.
                Deleted::ScopeNotEmpty if deleted > 0 => {}
                // A missing scope is as deleted as can be.
                Deleted::ScopeNotFound => return Ok(Deleted::Success),
                status => return Ok(status),
            }
        }
    });
    let late = |_| Status::unavailable(format!("scope {scope} is still being deleted"));
    let status: Result<Deleted, Status> = deleting.await.map_err(late)?;
    let status = status? as i32;
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
    let Some(revision) = service.catalog.scope(scope).await? else {
        return Ok(Deleted::ScopeNotFound);
    };
    let delete = Transaction::new()
        .expect(keys::scope(scope), Expect::At(revision))
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

/// Deletes a page of what is in a scope: groups, tables, users' streams, then what is left of internal ones.
/// Returns how much it was.
async fn delete_contents(service: &Service, scope: &ScopeName) -> Result<usize, Status> {
    let mut count = 0;
    for group in names_under(service, &keys::groups_in(scope)).await? {
        let Some(row) = service.catalog.group(scope, &group).await? else {
            continue;
        };
        let stream = ScopedStream {
            scope: scope.clone(),
            stream: StreamName::of_reader_group(&group),
        };
        let request = Request::DeleteGroup(row.value.reader_group_id);
        service.tasks.run(&stream, request).await?;
        count += 1;
    }
    for table in names_under(service, &keys::tables_in(scope)).await? {
        let stream = segments_of(scope, &table);
        service.tasks.run(&stream, Request::DeleteTable).await?;
        count += 1;
    }
    for internal in [false, true] {
        let names = names_under(service, &keys::names_in(scope)).await?;
        let chosen = names
            .into_iter()
            .filter(|name| name.is_internal() == internal);
        let deletions = chosen.map(|stream| {
            let scope = scope.clone();
            delete_stream(service, ScopedStream { scope, stream })
        });
        let mut deletions = stream::iter(deletions).buffer_unordered(DELETIONS_MAX);
        while let Some(deleted) = deletions.next().await {
            deleted?;
            count += 1;
        }
    }
    Ok(count)
}

async fn delete_stream(service: &Service, stream: ScopedStream) -> Result<(), Status> {
    service.tasks.run(&stream, Request::Seal).await?;
    service.tasks.run(&stream, Request::Delete).await?;
    Ok(())
}

async fn names_under(service: &Service, prefix: &str) -> Result<Vec<StreamName>, Status> {
    let page = service.catalog.store.range(prefix, None, PAGE).await;
    let entries = page.map_err(crate::tasks::Error::from)?.entries;
    let names = entries
        .iter()
        .map(|(key, _)| StreamName::occurring(&key[prefix.len()..]));
    names.collect::<Result<_, _>>().map_err(invalid)
}

async fn commit(service: &Service, transaction: Transaction) -> Result<Outcome, Status> {
    let outcome = service.catalog.store.commit(transaction).await;
    Ok(outcome.map_err(crate::tasks::Error::from)?)
}
