//! Create a stream: records first, invisible; then its segments; then show it.
//!
//! With a user's stream comes the stream of its watermarks, which readers open without asking whether
//! it exists. Segment numbers go on where an earlier stream of the same name ended, so that no segment
//! name is ever used twice.

use sarit_proto::controller::{ScalingPolicy, StreamConfig, StreamInfo, Tags};
use sarit_proto::names::ScopedStream;

use super::hints::{tags, with_hints};
use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::segments::{self, Call};
use crate::store::catalog::{Catalog, Status, epoch_record, live, parse_id, state_record};
use crate::store::keys::{self, StreamId};
use crate::store::records::{self, CreateJob, Deleted, Job, Name, encode};
use crate::store::{Expect, Revision, Transaction};
use crate::stream;
use crate::stream::epoch::Epoch;
use crate::stream::lifecycle::State;

/// The rows by which is decided whether a stream can be made, but for its scope. Most often there is none.
pub(super) fn rows(stream: &ScopedStream) -> Vec<String> {
    let mark = stream.mark();
    vec![
        keys::name(stream),
        keys::deleted(stream),
        keys::name(&mark),
        keys::deleted(&mark),
    ]
}

/// Begins, with a catalog that has read [`rows`] or takes them for absent: all it learns from it is compared.
pub(super) async fn begin(
    context: &Context,
    catalog: &Catalog,
    stream: &ScopedStream,
    config: &StreamConfig,
) -> Result<Begun> {
    let mark = stream.mark();
    let Some(scope) = catalog.open_scope(&stream.scope).await? else {
        return Ok(Begun::Answered(Answer::NoScope));
    };
    if let Some(found) = catalog.name(stream).await? {
        return existing(stream, found.visible);
    }
    context.check_store()?;
    let id = context.new_id();
    let mut begin = Transaction::new().expect(keys::scope(&stream.scope), Expect::At(scope));
    begin = add_records(context, catalog, begin, stream, id, config).await?;
    let mut job = CreateJob::default();
    if !stream.stream.is_internal() && catalog.name(&mark).await?.is_none() {
        let mark_id = context.new_id();
        begin = add_records(context, catalog, begin, &mark, mark_id, &single(&mark)).await?;
        job.mark_id = mark_id.to_string();
    }
    begin = begin.put(keys::work(id), work_row(stream, Job::Create(job)));
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

fn existing(stream: &ScopedStream, visible: bool) -> Result<Begun> {
    if visible {
        return Ok(Begun::Answered(Answer::Exists));
    }
    // No work of its own is left, so another stream's task is about to show or remove it.
    let reason = format!("{stream} is being created or deleted with the stream it belongs to");
    Err(Error::Unavailable(reason))
}

/// Adds a stream's records to a transaction, invisible.
pub(super) async fn add_records(
    context: &Context,
    catalog: &Catalog,
    transaction: Transaction,
    stream: &ScopedStream,
    id: StreamId,
    config: &StreamConfig,
) -> Result<Transaction> {
    let deleted = catalog.row::<Deleted>(&keys::deleted(stream)).await?;
    let expect_deleted = (deleted.as_ref()).map_or(Expect::Absent, |row| Expect::At(row.revision));
    let first_number = deleted.map_or(0, |row| row.value.next_number);
    let now = context.clock.now_ms();
    let epoch = Epoch::first(stream::config::segments(config), first_number, now);
    let used_up = || Error::Invalid(format!("{stream} has used up its segment numbers"));
    let epoch = epoch.ok_or_else(used_up)?;
    let status = Status {
        state: State::Creating,
        active_epoch: 0,
        reference_epoch: 0,
        created_ms: now,
        next_number: 0,
        revision: Revision::default(),
    };
    let config = records::Config {
        config: Some(config.clone()),
    };
    Ok(transaction
        .expect(keys::name(stream), Expect::Absent)
        .expect(keys::deleted(stream), expect_deleted)
        // Who works it off asks for it next; so the store knows.
        .expect(keys::active(id), Expect::Absent)
        // Ids are random, but a simulated world may draw the same twice.
        .expect(keys::state(id), Expect::Absent)
        .put(keys::name(stream), name_row(id, false))
        .put(keys::config(id), encode(&config))
        .put(
            keys::state(id),
            encode(&state_record(&status, State::Creating)),
        )
        .put(keys::epoch(id, 0), encode(&epoch_record(&epoch.as_first()))))
}

/// The configuration of an internal stream.
pub(super) fn single(stream: &ScopedStream) -> StreamConfig {
    StreamConfig {
        stream_info: Some(StreamInfo {
            scope: stream.scope.to_string(),
            stream: stream.stream.to_string(),
            access_operation: 0,
        }),
        scaling_policy: Some(ScalingPolicy {
            min_num_segments: 1,
            ..ScalingPolicy::default()
        }),
        tags: Some(Tags::default()),
        ..StreamConfig::default()
    }
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &CreateJob,
    done: Transaction,
) -> Result<()> {
    let mut streams = vec![(stream.clone(), id)];
    if !job.mark_id.is_empty() {
        streams.push((stream.mark(), parse_id(&keys::work(id), &job.mark_id)?));
    }
    let mut calls = Vec::new();
    let mut finish = done.clone();
    let mut hints = Vec::new();
    let rows = streams.iter().flat_map(|(_, id)| live(*id));
    let catalog = context.catalog.prefetched(rows.collect()).await?;
    for (stream, id) in &streams {
        let config = catalog.config(*id).await?.value;
        let epoch = catalog.active(*id).await?;
        let policy = segments::policy(&config);
        let segments = epoch.segments.iter();
        calls.extend(segments.map(|segment| (stream.segment(segment.id), Call::Create(policy))));
        let status = catalog.status(*id).await?;
        finish = finish.put(keys::name(stream), name_row(*id, true)).put(
            keys::state(*id),
            encode(&state_record(&status, State::Active)),
        );
        hints.extend(tags(stream, None, Some(&config)));
    }
    if let Some(group) = &job.group {
        let config = group.config.clone().unwrap_or_default();
        let (key, new) = super::create_group::records(stream, &config)?;
        finish = finish.put(key, encode(group));
        hints.extend(new);
    }
    context.call_all(calls).await?;
    let finish = with_hints(context, finish, hints).await?;
    context.finish(finish).await
}

pub(super) fn name_row(id: StreamId, visible: bool) -> bytes::Bytes {
    let stream_id = id.to_string();
    encode(&Name { stream_id, visible })
}
