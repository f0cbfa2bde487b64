//! Calls on reader groups and on the streams they subscribe to.

use std::collections::BTreeMap;

use prost::Message as _;
use sarit_proto::controller::create_reader_group_response::Status as Created;
use sarit_proto::controller::delete_reader_group_status::Status as Deleted;
use sarit_proto::controller::reader_group_config_response::Status as Found;
use sarit_proto::controller::subscribers_response::Status as Listed;
use sarit_proto::controller::update_reader_group_response::Status as Updated;
use sarit_proto::controller::update_subscriber_status::Status as Published;
use sarit_proto::controller::{
    CreateReaderGroupResponse, DeleteReaderGroupStatus, ReaderGroupConfigResponse,
    ReaderGroupConfiguration, ReaderGroupInfo, StreamInfo, SubscriberStreamCut,
    SubscribersResponse, UpdateReaderGroupResponse, UpdateSubscriberStatus,
};
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use tonic::Status;

use super::Service;
use super::convert::{invalid, no_scope, scope_name, stream_of};
use super::streams::unexpected;
use crate::store::catalog::PAGE;
use crate::store::records::{Subscriber, encode};
use crate::store::{Expect, Outcome, Transaction, keys};
use crate::stream::stream_cuts::{self, StreamCut};
use crate::tasks::{Answer, Request, subscriptions};

/// Longest reader group id; clients send a UUID as text.
const ID_BYTES_MAX: usize = 64;
/// Largest configuration; with its subscriptions it must fit into one transaction.
const CONFIG_BYTES_MAX: usize = 512 << 10;
/// How often a published cut is compared anew because another was published meanwhile.
const CONFLICTS_MAX: usize = 10;

pub(super) async fn create(
    service: &Service,
    request: ReaderGroupConfiguration,
) -> Result<CreateReaderGroupResponse, Status> {
    let refused = |status: Created| {
        let status = status as i32;
        let config = None;
        Ok(CreateReaderGroupResponse { status, config })
    };
    let scope = scope_name(&request.scope)?;
    let Ok(stream) = new_group(&scope, &request.reader_group_name) else {
        return refused(Created::InvalidRgName);
    };
    if request.reader_group_id.is_empty() || request.reader_group_id.len() > ID_BYTES_MAX {
        let reason = format!("a reader group id has 1 to {ID_BYTES_MAX} bytes");
        return Err(Status::invalid_argument(reason));
    }
    check_size(&request)?;
    match service
        .tasks
        .run(&stream, Request::CreateGroup(request))
        .await?
    {
        Answer::Group(config) => Ok(CreateReaderGroupResponse {
            status: Created::Success as i32,
            config: Some(config),
        }),
        Answer::NoScope => refused(Created::ScopeNotFound),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn update(
    service: &Service,
    request: ReaderGroupConfiguration,
) -> Result<UpdateReaderGroupResponse, Status> {
    let stream = state_stream(&request.scope, &request.reader_group_name)?;
    check_size(&request)?;
    let known = request.generation;
    let (status, generation) = match service
        .tasks
        .run(&stream, Request::UpdateGroup(request))
        .await?
    {
        Answer::Generation(generation) => (Updated::Success, generation),
        Answer::NotThere => (Updated::RgNotFound, 0),
        Answer::StaleGroup => (Updated::InvalidConfig, known),
        other => return Err(unexpected(&other)),
    };
    let status = status as i32;
    Ok(UpdateReaderGroupResponse { status, generation })
}

pub(super) async fn configuration(
    service: &Service,
    request: ReaderGroupInfo,
) -> Result<ReaderGroupConfigResponse, Status> {
    let scope = scope_name(&request.scope)?;
    let group = StreamName::occurring(request.reader_group).map_err(invalid)?;
    if let Some(row) = service.catalog.group(&scope, &group).await? {
        return Ok(ReaderGroupConfigResponse {
            config: Some(row.value),
            status: Found::Success as i32,
        });
    }
    if service.catalog.scope(&scope).await?.is_none() {
        return Err(no_scope(&scope));
    }
    Ok(ReaderGroupConfigResponse {
        config: Some(ReaderGroupConfiguration::default()),
        status: Found::RgNotFound as i32,
    })
}

pub(super) async fn delete(
    service: &Service,
    request: ReaderGroupInfo,
) -> Result<DeleteReaderGroupStatus, Status> {
    let stream = state_stream(&request.scope, &request.reader_group)?;
    let delete = Request::DeleteGroup(request.reader_group_id);
    let status = match service.tasks.run(&stream, delete).await? {
        Answer::Done => Deleted::Success,
        Answer::NotThere => Deleted::RgNotFound,
        Answer::NoScope => return Err(no_scope(&stream.scope)),
        other => return Err(unexpected(&other)),
    };
    let status = status as i32;
    Ok(DeleteReaderGroupStatus { status })
}

pub(super) async fn subscribers(
    service: &Service,
    request: StreamInfo,
) -> Result<SubscribersResponse, Status> {
    let stream = stream_of(Some(&request))?;
    if service.catalog.visible(&stream).await?.is_none() {
        return Ok(SubscribersResponse {
            subscribers: Vec::new(),
            status: Listed::StreamNotFound as i32,
        });
    }
    let prefix = keys::subscribers(&stream);
    let mut subscribers = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = service.catalog.store.range(&prefix, after.as_deref(), PAGE);
        let page = page.await.map_err(crate::tasks::Error::from)?;
        let Some((last, _)) = page.entries.last() else {
            break;
        };
        after = Some(last.clone());
        for (key, _) in page.entries {
            let subscriber = &key[prefix.len()..];
            if subscribing(service, subscriber, &stream).await?.is_some() {
                subscribers.push(subscriber.to_owned());
            }
        }
    }
    Ok(SubscribersResponse {
        subscribers,
        status: Listed::Success as i32,
    })
}

pub(super) async fn update_subscriber(
    service: &Service,
    request: SubscriberStreamCut,
) -> Result<UpdateSubscriberStatus, Status> {
    for _ in 0..CONFLICTS_MAX {
        if let Some(status) = publish(service, &request).await? {
            let status = status as i32;
            return Ok(UpdateSubscriberStatus { status });
        }
    }
    Err(Status::unavailable(
        "the subscription is updated by others all the time",
    ))
}

/// Compares and publishes a cut; `None` if another was published meanwhile.
async fn publish(
    service: &Service,
    request: &SubscriberStreamCut,
) -> Result<Option<Published>, Status> {
    let cut = request.stream_cut.clone().unwrap_or_default();
    let stream = stream_of(cut.stream_info.as_ref())?;
    let Some(id) = service.catalog.visible(&stream).await? else {
        return Ok(Some(Published::StreamNotFound));
    };
    let group = subscribing(service, &request.subscriber, &stream).await?;
    let group = group.filter(|group| group.reader_group_id == request.reader_group_id);
    let Some(group) = group else {
        return Ok(Some(Published::SubscriberNotFound));
    };
    if group.generation != request.generation {
        return Ok(Some(Published::GenerationMismatch));
    }
    let epochs = service.catalog.epochs_begun(id).await?;
    let placed = |cut: &BTreeMap<i64, i64>| {
        let cut = stream_cuts::parse(cut)?;
        StreamCut::new(&cut, &epochs)
    };
    let Ok(new) = placed(&cut.cut) else {
        return Ok(Some(Published::StreamCutNotValid));
    };
    let key = keys::subscriber(&stream, &request.subscriber);
    let row = service.catalog.row::<Subscriber>(&key).await?;
    let expect = row
        .as_ref()
        .map_or(Expect::Absent, |row| Expect::At(row.revision));
    // A row of an earlier group, from before a reset, or about an earlier stream of that name says nothing.
    let old = row.filter(|row| {
        row.value.reader_group_id == group.reader_group_id
            && row.value.generation == group.generation
    });
    let old = old.and_then(|row| placed(&row.value.cut).ok());
    if old.is_some_and(|old| !new.is_at_or_after(&old)) {
        return Ok(Some(Published::StreamCutNotValid));
    }
    let record = Subscriber {
        reader_group_id: group.reader_group_id,
        cut: cut.cut,
        generation: group.generation,
    };
    let publish = Transaction::new()
        .expect(&key, expect)
        .put(&key, encode(&record));
    let outcome = service.catalog.store.commit(publish).await;
    Ok(match outcome.map_err(crate::tasks::Error::from)? {
        Outcome::Committed(_) => Some(Published::Success),
        Outcome::Conflict => None,
    })
}

/// Returns the group if it exists and subscribes to `stream`: its record decides.
async fn subscribing(
    service: &Service,
    subscriber: &str,
    stream: &ScopedStream,
) -> Result<Option<ReaderGroupConfiguration>, Status> {
    let Ok(named) = subscriber.parse::<ScopedStream>() else {
        return Ok(None);
    };
    let Some(row) = service.catalog.group(&named.scope, &named.stream).await? else {
        return Ok(None);
    };
    let subscribed = subscriptions(&row.value)?.contains(stream);
    Ok(subscribed.then_some(row.value))
}

/// Names the stream of a new group's state, which must be a name that can be created.
fn new_group(
    scope: &ScopeName,
    group: &str,
) -> Result<ScopedStream, sarit_proto::names::NameError> {
    let stream = StreamName::of_reader_group(&StreamName::new(group)?);
    Ok(ScopedStream {
        scope: scope.clone(),
        stream: StreamName::occurring(stream.as_str())?,
    })
}

fn check_size(config: &ReaderGroupConfiguration) -> Result<(), Status> {
    match config.encoded_len() {
        bytes if bytes > CONFIG_BYTES_MAX => Err(Status::invalid_argument(format!(
            "a reader group's configuration of {bytes} bytes, at most {CONFIG_BYTES_MAX} are allowed"
        ))),
        _ => Ok(()),
    }
}

fn state_stream(scope: &str, group: &str) -> Result<ScopedStream, Status> {
    let group = StreamName::occurring(group).map_err(invalid)?;
    Ok(ScopedStream {
        scope: scope_name(scope)?,
        stream: StreamName::of_reader_group(&group),
    })
}
