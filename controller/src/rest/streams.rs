//! Streams and their scaling events.

use std::collections::{BTreeMap, VecDeque};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use sarit_proto::controller::create_stream_status::Status as Created;
use sarit_proto::controller::delete_stream_status::Status as Deleted;
use sarit_proto::controller::update_stream_status::Status as Updated;
use sarit_proto::controller::{ControllerService as _, StreamInfo, UpdateStreamStatus};
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::{ScopedStream, StreamName};
use serde::Deserialize;
use tonic::Request;

use super::model::{
    Configured, CreateStream, ScaleMetadata, ScalingEventList, Segment, StreamProperty,
    StreamState, StreamsList,
};
use super::{Answer, Asked, At, Refusal, Rest, body, scope_name, scopes, stream_name};
use crate::store::catalog::PAGE;
use crate::store::keys;
use crate::stream::epoch::{self, Transition};

/// Most streams of one answer.
const STREAMS_MAX: usize = 10_000;
/// Most scaling events of one answer; the newest count.
const SCALINGS_MAX: usize = 1_000;

/// Which streams are listed.
#[derive(Deserialize)]
pub(super) struct Filter {
    filter_type: Option<FilterType>,
    filter_value: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FilterType {
    ShowInternalStreams,
    Tag,
}

pub(super) async fn list(
    State(rest): State<Rest>,
    At(scope): At<String>,
    Asked(filter): Asked<Filter>,
) -> Answer<Json<StreamsList>> {
    let scope = scope_name(scope)?;
    let limit = filter.limit.unwrap_or(STREAMS_MAX);
    if !(1..=STREAMS_MAX).contains(&limit) {
        return Err(Refusal::bad(format!("limit is 1 to {STREAMS_MAX}")));
    }
    let after = filter.after.map(StreamName::occurring).transpose();
    let mut after = after.map_err(Refusal::bad)?;
    let value = filter.filter_value.unwrap_or_default();
    scopes::check(&rest, &scope).await?;
    let internal =
        matches!(filter.filter_type, Some(FilterType::ShowInternalStreams)) && value == "true";
    let tag = matches!(filter.filter_type, Some(FilterType::Tag)).then_some(value);
    let catalog = &rest.service.catalog;
    let prefix = keys::names_in(&scope);
    let mut streams = Vec::new();
    loop {
        let from = after.as_ref().map(|after| format!("{prefix}{after}"));
        let page = catalog.store.range(&prefix, from.as_deref(), PAGE).await?;
        let full = page.entries.len() == PAGE;
        for (key, _) in page.entries {
            let name = StreamName::occurring(&key[prefix.len()..]).map_err(Refusal::bad)?;
            after = Some(name.clone());
            if name.is_internal() != internal {
                continue;
            }
            let stream = ScopedStream {
                scope: scope.clone(),
                stream: name,
            };
            let Some(id) = catalog.visible(&stream).await? else {
                continue;
            };
            let config = catalog.config(id).await?.value;
            let tagged = |tag: &String| config.tags.iter().any(|tags| tags.tag.contains(tag));
            if tag.as_ref().is_none_or(tagged) {
                streams.push(StreamProperty::of(&stream, config));
            }
            if streams.len() == limit {
                return Ok(Json(StreamsList { streams }));
            }
        }
        if !full {
            return Ok(Json(StreamsList { streams }));
        }
    }
}

pub(super) async fn create(
    State(rest): State<Rest>,
    At(scope): At<String>,
    bytes: Bytes,
) -> Answer<(StatusCode, Json<StreamProperty>)> {
    let asked: CreateStream = body(&bytes)?;
    let stream = stream_name((scope, asked.stream_name))?;
    // A user's name: internal ones are not made by hand.
    StreamName::new(stream.stream.as_str()).map_err(Refusal::bad)?;
    if stream.stream.is_internal() {
        return Err(Refusal::bad("names with a leading underscore are internal"));
    }
    let config = asked
        .config
        .of(stream.scope.to_string(), stream.stream.to_string())?;
    let created = rest
        .service
        .create_stream(Request::new(config))
        .await?
        .into_inner();
    match created.status() {
        Created::Success => Ok((StatusCode::CREATED, Json(shown(&rest, &stream).await?))),
        Created::StreamExists => Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("stream {stream} exists"),
        )),
        Created::ScopeNotFound => Err(Refusal::missing(format_args!("scope {}", stream.scope))),
        Created::InvalidStreamName => Err(Refusal::bad("not a name for a stream")),
        Created::Failure => Err(Refusal::failed()),
    }
}

pub(super) async fn show(
    State(rest): State<Rest>,
    At(names): At<(String, String)>,
) -> Answer<Json<StreamProperty>> {
    let stream = stream_name(names)?;
    Ok(Json(shown(&rest, &stream).await?))
}

async fn shown(rest: &Rest, stream: &ScopedStream) -> Answer<StreamProperty> {
    let config = rest
        .service
        .get_stream_configuration(Request::new(info(stream)));
    Ok(StreamProperty::of(stream, config.await?.into_inner()))
}

pub(super) async fn update(
    State(rest): State<Rest>,
    At(names): At<(String, String)>,
    bytes: Bytes,
) -> Answer<Json<StreamProperty>> {
    let stream = stream_name(names)?;
    let asked: Configured = body(&bytes)?;
    let config = asked.of(stream.scope.to_string(), stream.stream.to_string())?;
    let updated = rest.service.update_stream(Request::new(config)).await?;
    changed(&stream, &updated.into_inner())?;
    Ok(Json(shown(&rest, &stream).await?))
}

pub(super) async fn set_state(
    State(rest): State<Rest>,
    At(names): At<(String, String)>,
    bytes: Bytes,
) -> Answer<Json<StreamState>> {
    let stream = stream_name(names)?;
    let asked: StreamState = body(&bytes)?;
    let sealed = rest
        .service
        .seal_stream(Request::new(info(&stream)))
        .await?;
    match sealed.into_inner().status() {
        // As asked for.
        Updated::StreamSealed => {}
        status => changed(
            &stream,
            &UpdateStreamStatus {
                status: status as i32,
            },
        )?,
    }
    Ok(Json(asked))
}

fn changed(stream: &ScopedStream, status: &UpdateStreamStatus) -> Answer<()> {
    match status.status() {
        Updated::Success => Ok(()),
        Updated::StreamNotFound | Updated::ScopeNotFound => {
            Err(Refusal::missing(format_args!("stream {stream}")))
        }
        Updated::StreamSealed => Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            format!("stream {stream} is sealed"),
        )),
        Updated::Failure => Err(Refusal::failed()),
    }
}

pub(super) async fn delete(
    State(rest): State<Rest>,
    At(names): At<(String, String)>,
) -> Answer<StatusCode> {
    let stream = stream_name(names)?;
    let deleted = rest
        .service
        .delete_stream(Request::new(info(&stream)))
        .await?;
    match deleted.into_inner().status() {
        Deleted::Success => Ok(StatusCode::NO_CONTENT),
        Deleted::StreamNotFound => Err(Refusal::missing(format_args!("stream {stream}"))),
        Deleted::StreamNotSealed => Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            format!("stream {stream} is not sealed"),
        )),
        Deleted::Failure => Err(Refusal::failed()),
    }
}

/// Milliseconds since the Unix epoch, both included.
#[derive(Deserialize)]
pub(super) struct Period {
    from: i64,
    to: i64,
}

pub(super) async fn scalings(
    State(rest): State<Rest>,
    At(names): At<(String, String)>,
    Asked(Period { from, to }): Asked<Period>,
) -> Answer<Json<ScalingEventList>> {
    let stream = stream_name(names)?;
    if from < 0 || to < from {
        return Err(Refusal::bad(format!("no period: from {from} to {to}")));
    }
    let catalog = &rest.service.catalog;
    let id = catalog.visible(&stream).await?;
    let id = id.ok_or_else(|| Refusal::missing(format_args!("stream {stream}")))?;
    let history = catalog.epochs(id).await?;
    let mut active: BTreeMap<KeyRange, Segment> = BTreeMap::new();
    let mut scaling_events = VecDeque::new();
    for change in history.transitions() {
        for ended in &change.sealed {
            active.remove(&ended.range);
        }
        let begun = change
            .added
            .iter()
            .map(|added| (added.range, segment(added, change)));
        active.extend(begun);
        // What was so when the period began comes first.
        if change.created_ms < from {
            scaling_events.clear();
        }
        if change.created_ms <= to {
            scaling_events.push_back(event(change, active.values().copied().collect()));
        }
        if scaling_events.len() > SCALINGS_MAX {
            scaling_events.pop_front();
        }
    }
    let scaling_events = scaling_events.into();
    Ok(Json(ScalingEventList { scaling_events }))
}

/// Describes a change: how many segments were split by it, how many of the new ones are merged.
fn event(change: &Transition, segment_list: Vec<Segment>) -> ScaleMetadata {
    let over = |segments: &[epoch::Segment], range| {
        segments.iter().filter(|s| s.range.overlaps(range)).count()
    };
    let splits = change.sealed.iter();
    let splits = splits.filter(|old| over(&change.added, old.range) > 1);
    let merges = change.added.iter();
    let merges = merges.filter(|new| over(&change.sealed, new.range) > 1);
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    ScaleMetadata {
        timestamp: change.created_ms,
        splits: count(splits.count()),
        merges: count(merges.count()),
        segment_list,
    }
}

fn segment(segment: &epoch::Segment, change: &Transition) -> Segment {
    Segment {
        number: segment.id.number(),
        start_time: change.created_ms,
        key_start: segment.range.start().to_f64(),
        key_end: segment.range.end().to_f64(),
    }
}

fn info(stream: &ScopedStream) -> StreamInfo {
    StreamInfo {
        scope: stream.scope.to_string(),
        stream: stream.stream.to_string(),
        access_operation: 0,
    }
}
