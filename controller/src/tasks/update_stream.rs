//! Replace a stream's configuration: first the segments' policy if that changes, then the record.

use sarit_proto::controller::StreamConfig;
use sarit_proto::names::ScopedStream;

use super::hints::{tags, with_hints};
use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::segments::{self, Call};
use crate::store::keys::{self, StreamId};
use crate::store::records::{self, Job, encode};
use crate::store::{Expect, Transaction};
use crate::stream::config::fits;
use crate::stream::lifecycle::Refusal;

pub(super) async fn begin(
    context: &Context,
    stream: &ScopedStream,
    config: &StreamConfig,
) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    let status = context.catalog.status(id).await?;
    if let Err(refusal) = status.state.may_change() {
        return Ok(Begun::Answered(refused(refusal)));
    }
    let epoch = context.catalog.known_epoch(id, status.active_epoch).await?;
    if !fits(config, epoch.segments.len()) {
        return Err(Error::NotBuilt("changing a stream's number of segments"));
    }
    let before = context.catalog.config(id).await?;
    let record = records::Config {
        config: Some(config.clone()),
    };
    let begin = Transaction::new()
        .expect(keys::work(id), Expect::Absent)
        .expect(keys::state(id), Expect::At(status.revision))
        .expect(keys::config(id), Expect::At(before.revision));
    if segments::policy(config) == segments::policy(&before.value) {
        let hints = tags(stream, Some(&before.value), Some(config));
        let change = begin.put(keys::config(id), encode(&record));
        let change = with_hints(context, change, hints).await?;
        let outcome = context.catalog.store.commit(change).await?;
        return Ok(begun(outcome, Begun::Answered(Answer::Done)));
    }
    context.check_store()?;
    let begin = begin.put(keys::work(id), work_row(stream, Job::Update(record)));
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

/// Turns a refusal by the stream's state into the answer for it.
pub(super) fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::NotThere => Answer::NotThere,
        Refusal::Sealed => Answer::Sealed,
        Refusal::NotSealed => Answer::NotSealed,
    }
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &records::Config,
    done: Transaction,
) -> Result<()> {
    let config = job.config.clone().unwrap_or_default();
    let status = context.catalog.status(id).await?;
    let epoch = context.catalog.known_epoch(id, status.active_epoch).await?;
    let policy = segments::policy(&config);
    let active = epoch.segments.iter();
    let told = active.map(|segment| (stream.segment(segment.id), Call::SetPolicy(policy)));
    context.call_all(told.collect()).await?;
    let before = context.catalog.config(id).await?.value;
    let hints = tags(stream, Some(&before), Some(&config));
    let finish = done.put(keys::config(id), encode(job));
    let finish = with_hints(context, finish, hints).await?;
    context.finish(finish).await
}
