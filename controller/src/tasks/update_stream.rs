//! Replace a stream's configuration: first the segments' policy if that changes, or the segments
//! themselves if another number is asked for; then the record.

use sarit_proto::controller::StreamConfig;
use sarit_proto::names::ScopedStream;

use super::hints::{tags, with_hints};
use super::scale_stream::{planned, published, replace};
use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::segments::{self, Call};
use crate::store::catalog::{Status, next_record, parse_next};
use crate::store::keys::{self, StreamId};
use crate::store::records::{self, Job, ScaleJob, UpdateJob, encode};
use crate::store::{Expect, Transaction};
use crate::stream::config::fits;
use crate::stream::epoch::Epoch;
use crate::stream::lifecycle::Refusal;
use crate::stream::{self, scale};

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
    let active = context.catalog.active(id).await?;
    let scale = match fits(config, active.segments.len()) {
        true => None,
        false => Some(rescaled(context, id, &status, &active, config).await?),
    };
    let before = context.catalog.config(id).await?;
    let begin = Transaction::new()
        .expect(keys::work(id), Expect::Absent)
        .expect(keys::state(id), Expect::At(status.revision))
        .expect(keys::config(id), Expect::At(before.revision));
    if scale.is_none() && segments::policy(config) == segments::policy(&before.value) {
        let record = records::Config {
            config: Some(config.clone()),
        };
        let hints = tags(stream, Some(&before.value), Some(config));
        let change = begin.put(keys::config(id), encode(&record));
        let change = with_hints(context, change, hints).await?;
        let outcome = context.catalog.store.commit(change).await?;
        return Ok(begun(outcome, Begun::Answered(Answer::Done)));
    }
    context.check_store()?;
    let job = UpdateJob {
        config: Some(config.clone()),
        scale,
    };
    let begin = begin.put(keys::work(id), work_row(stream, Job::Update(job)));
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

/// Plans the equal ranges that a policy with another number of segments asks for.
async fn rescaled(
    context: &Context,
    id: StreamId,
    status: &Status,
    active: &Epoch,
    config: &StreamConfig,
) -> Result<ScaleJob> {
    let invalid = |refusal: scale::Refusal| Error::Invalid(refusal.to_string());
    let count = stream::config::segments(config);
    let wanted = scale::evenly(active, count);
    let wanted = wanted.ok_or_else(|| invalid(scale::Refusal::TooMany(count)))?;
    let made = planned(context, id, status, active, &wanted, count).await?;
    let next = Some(next_record(&made.map_err(invalid)?));
    Ok(ScaleJob { next })
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
    job: &UpdateJob,
    done: Transaction,
) -> Result<()> {
    let config = job.config.clone().unwrap_or_default();
    let policy = segments::policy(&config);
    let mut finish = done;
    if let Some(scale) = &job.scale {
        let next = parse_next(&keys::work(id), scale.next.as_ref())?;
        replace(context, stream, &next, policy).await?;
        finish = published(context, id, finish, &[next]).await?;
    } else {
        let active = context.catalog.active(id).await?;
        let active = active.segments.iter();
        let told = active.map(|segment| (stream.segment(segment.id), Call::SetPolicy(policy)));
        context.call_all(told.collect()).await?;
    }
    let before = context.catalog.config(id).await?.value;
    let hints = tags(stream, Some(&before), Some(&config));
    let record = records::Config {
        config: Some(config),
    };
    let finish = finish.put(keys::config(id), encode(&record));
    let finish = with_hints(context, finish, hints).await?;
    context.finish(finish).await
}
