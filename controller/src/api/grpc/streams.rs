//! Calls on streams as a whole.
//!
//! Listings are sorted and leave out the streams that come with others (`_MARK…`, `_RG…`): clients do
//! not need them, and users did not make them. A page may hold fewer than [`PAGE`] names, but only the
//! last one is empty; its token is the one it was asked with.

use sarit_proto::controller::create_stream_status::Status as Created;
use sarit_proto::controller::delete_stream_status::Status as Deleted;
use sarit_proto::controller::streams_in_scope_response::Status as Listed;
use sarit_proto::controller::update_stream_status::Status as Updated;
use sarit_proto::controller::{
    ContinuationToken, CreateStreamStatus, DeleteStreamStatus, ExistsResponse, StreamConfig,
    StreamCut, StreamInfo, StreamsInScopeRequest, StreamsInScopeResponse,
    StreamsInScopeWithTagRequest, UpdateStreamStatus,
};
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use tonic::Status;

use super::Service;
use super::convert::{invalid, no_stream, scope_of, stream_info, stream_of};
use crate::store::catalog::PAGE;
use crate::store::keys;
use crate::store::records::{self, Name, decode};
use crate::stream::config::normalize;
use crate::tasks::{Answer, Request};

pub(super) async fn create(
    service: &Service,
    request: StreamConfig,
) -> Result<CreateStreamStatus, Status> {
    let status = |status: Created| {
        let status = status as i32;
        Ok(CreateStreamStatus { status })
    };
    let info = request.stream_info.clone().unwrap_or_default();
    let scope = ScopeName::occurring(info.scope).map_err(invalid)?;
    let Ok(stream) = StreamName::new(info.stream) else {
        return status(Created::InvalidStreamName);
    };
    let stream = ScopedStream { scope, stream };
    let config = configured(&stream, request)?;
    match service.tasks.run(&stream, Request::Create(config)).await? {
        Answer::Done => status(Created::Success),
        Answer::Exists => status(Created::StreamExists),
        Answer::NoScope => status(Created::ScopeNotFound),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn update(
    service: &Service,
    request: StreamConfig,
) -> Result<UpdateStreamStatus, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    let config = configured(&stream, request)?;
    change(service, &stream, Request::Update(config)).await
}

pub(super) async fn truncate(
    service: &Service,
    request: StreamCut,
) -> Result<UpdateStreamStatus, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    change(service, &stream, Request::Truncate(request.cut)).await
}

pub(super) async fn seal(
    service: &Service,
    request: StreamInfo,
) -> Result<UpdateStreamStatus, Status> {
    let stream = stream_of(Some(&request))?;
    change(service, &stream, Request::Seal).await
}

pub(super) async fn delete(
    service: &Service,
    request: StreamInfo,
) -> Result<DeleteStreamStatus, Status> {
    let stream = stream_of(Some(&request))?;
    let status = match service.tasks.run(&stream, Request::Delete).await? {
        Answer::Done => Deleted::Success,
        Answer::NotThere => Deleted::StreamNotFound,
        Answer::NotSealed => Deleted::StreamNotSealed,
        other => return Err(unexpected(&other)),
    };
    let status = status as i32;
    Ok(DeleteStreamStatus { status })
}

pub(super) async fn configuration(
    service: &Service,
    request: StreamInfo,
) -> Result<StreamConfig, Status> {
    let stream = stream_of(Some(&request))?;
    let id = service.catalog.visible(&stream).await?;
    let id = id.ok_or_else(|| no_stream(&stream))?;
    Ok(service.catalog.config(id).await?.value)
}

pub(super) async fn exists(
    service: &Service,
    request: StreamInfo,
) -> Result<ExistsResponse, Status> {
    let stream = stream_of(Some(&request))?;
    let exists = service.catalog.visible(&stream).await?.is_some();
    Ok(ExistsResponse { exists })
}

pub(super) async fn list(
    service: &Service,
    request: StreamsInScopeRequest,
) -> Result<StreamsInScopeResponse, Status> {
    let scope = scope_of(request.scope.as_ref())?;
    if service.catalog.scope(&scope).await?.is_none() {
        return Ok(no_such_scope());
    }
    let prefix = keys::names_in(&scope);
    let mut asked = request.continuation_token.unwrap_or_default().token;
    loop {
        let (names, last, full) = rows(service, &prefix, &asked).await?;
        let mut shown = Vec::new();
        for (name, value) in names {
            let row: Name = decode(&name, &value).map_err(crate::tasks::Error::from)?;
            if row.visible && !is_companion(&name) {
                shown.push(named(&scope, name)?);
            }
        }
        if !shown.is_empty() || !full {
            return Ok(page(&shown, last.unwrap_or(asked)));
        }
        asked = last.unwrap_or(asked);
    }
}

pub(super) async fn list_tagged(
    service: &Service,
    request: StreamsInScopeWithTagRequest,
) -> Result<StreamsInScopeResponse, Status> {
    let scope = scope_of(request.scope.as_ref())?;
    if service.catalog.scope(&scope).await?.is_none() {
        return Ok(no_such_scope());
    }
    if request.tag.contains('\0') {
        return Err(Status::invalid_argument("a tag has no NUL in it"));
    }
    let prefix = keys::tagged(&scope, &request.tag);
    let mut asked = request.continuation_token.unwrap_or_default().token;
    loop {
        let (names, last, full) = rows(service, &prefix, &asked).await?;
        let mut shown = Vec::new();
        for (name, _) in names {
            let stream = named(&scope, name)?;
            if has_tag(service, &stream, &request.tag).await? {
                shown.push(stream);
            }
        }
        if !shown.is_empty() || !full {
            return Ok(page(&shown, last.unwrap_or(asked)));
        }
        asked = last.unwrap_or(asked);
    }
}

/// A page of names behind `asked`, with their values; the last name; whether there may be more.
pub(super) type Rows = (Vec<(String, bytes::Bytes)>, Option<String>, bool);

pub(super) async fn rows(service: &Service, prefix: &str, asked: &str) -> Result<Rows, Status> {
    let after = (!asked.is_empty()).then(|| format!("{prefix}{asked}"));
    let page = service.catalog.store.range(prefix, after.as_deref(), PAGE);
    let entries = page.await.map_err(crate::tasks::Error::from)?.entries;
    let full = entries.len() == PAGE;
    let names = entries.into_iter();
    let names = names.map(|(key, row)| (key[prefix.len()..].to_owned(), row.value));
    let names: Vec<_> = names.collect();
    let last = names.last().map(|(name, _)| name.clone());
    Ok((names, last, full))
}

/// The record decides; the index may be stale.
async fn has_tag(service: &Service, stream: &ScopedStream, tag: &str) -> Result<bool, Status> {
    let Some(id) = service.catalog.visible(stream).await? else {
        return Ok(false);
    };
    let key = keys::config(id);
    let row = service.catalog.row::<records::Config>(&key).await?;
    let config = row.and_then(|row| row.value.config).unwrap_or_default();
    let tags = config.tags.unwrap_or_default().tag;
    Ok(tags.iter().any(|have| have == tag))
}

fn is_companion(name: &str) -> bool {
    StreamName::occurring(name)
        .is_ok_and(|name| name.marked().is_some() || name.reader_group().is_some())
}

fn named(scope: &ScopeName, stream: String) -> Result<ScopedStream, Status> {
    Ok(ScopedStream {
        scope: scope.clone(),
        stream: StreamName::occurring(stream).map_err(invalid)?,
    })
}

fn page(streams: &[ScopedStream], token: String) -> StreamsInScopeResponse {
    StreamsInScopeResponse {
        streams: streams.iter().map(stream_info).collect(),
        continuation_token: Some(ContinuationToken { token }),
        status: Listed::Success as i32,
    }
}

fn no_such_scope() -> StreamsInScopeResponse {
    StreamsInScopeResponse {
        status: Listed::ScopeNotFound as i32,
        ..StreamsInScopeResponse::default()
    }
}

async fn change(
    service: &Service,
    stream: &ScopedStream,
    request: Request,
) -> Result<UpdateStreamStatus, Status> {
    let status = match service.tasks.run(stream, request).await? {
        Answer::Done => Updated::Success,
        Answer::NotThere => Updated::StreamNotFound,
        Answer::Sealed => Updated::StreamSealed,
        other => return Err(unexpected(&other)),
    };
    let status = status as i32;
    Ok(UpdateStreamStatus { status })
}

/// Brings a configuration into the form that is kept.
fn configured(stream: &ScopedStream, request: StreamConfig) -> Result<StreamConfig, Status> {
    let config = StreamConfig {
        stream_info: Some(stream_info(stream)),
        ..request
    };
    normalize(config).map_err(Status::invalid_argument)
}

/// An answer that the task never gives to this request.
pub(super) fn unexpected(answer: &Answer) -> Status {
    Status::internal(format!("unexpected outcome {answer:?}"))
}
