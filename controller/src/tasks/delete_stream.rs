//! Delete a sealed stream, and the stream of its watermarks: hide them, delete the segments, then the
//! records. What stays for ever is the number the next stream of that name starts with.

use sarit_proto::names::ScopedStream;

use super::create_stream::name_row;
use super::hints::{tags, with_hints};
use super::retain_stream::recorded;
use super::update_stream::refused;
use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::segments::Call;
use crate::store::catalog::{parse_id, state_record};
use crate::store::keys::{self, StreamId};
use crate::store::records::{DeleteJob, Deleted, Job, encode};
use crate::store::{Expect, Operation, Transaction};
use crate::stream::lifecycle::State;

pub(super) async fn begin(context: &Context, stream: &ScopedStream) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    let status = context.catalog.status(id).await?;
    if let Err(refusal) = status.state.may_be_deleted() {
        return Ok(Begun::Answered(refused(refusal)));
    }
    context.check_store()?;
    let begin = hide(context, Transaction::new(), stream, id).await?;
    let Some(begin) = begin else {
        return Ok(Begun::Conflict);
    };
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

/// Adds to `transaction` what hides a stream and orders its deletion; `None` if it is gone.
pub(super) async fn hide(
    context: &Context,
    transaction: Transaction,
    stream: &ScopedStream,
    id: StreamId,
) -> Result<Option<Transaction>> {
    let mut job = DeleteJob::default();
    let mut begin = transaction;
    let mut streams = vec![stream.clone()];
    if !stream.stream.is_internal() {
        streams.push(stream.mark());
    }
    for hidden in &streams {
        let Some(found) = context.catalog.name(hidden).await? else {
            if hidden == stream {
                return Ok(None);
            }
            continue;
        };
        let status = context.catalog.status(found.id).await?;
        begin = begin
            .expect(keys::work(found.id), Expect::Absent)
            .expect(keys::name(hidden), Expect::At(found.revision))
            .expect(keys::state(found.id), Expect::At(status.revision))
            .put(keys::name(hidden), name_row(found.id, false))
            .put(
                keys::state(found.id),
                encode(&state_record(&status, State::Deleting)),
            );
        if hidden != stream {
            job.mark_id = found.id.to_string();
        }
    }
    let work = work_row(stream, Job::Delete(job));
    Ok(Some(begin.put(keys::work(id), work)))
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &DeleteJob,
    done: Transaction,
) -> Result<()> {
    let mut streams = vec![(stream.clone(), id)];
    if !job.mark_id.is_empty() {
        streams.push((stream.mark(), parse_id(&keys::work(id), &job.mark_id)?));
    }
    let mut finish = done;
    let mut hints = Vec::new();
    for (stream, id) in &streams {
        let epochs = context.catalog.epochs(*id).await?;
        let segments = epochs.segments().into_keys();
        let deletions = segments.map(|id| (stream.segment(id), Call::Delete));
        context.call_all(deletions.collect()).await?;
        let used_up = || Error::Invalid(format!("{stream} has used up its segment numbers"));
        let next_number = epochs.next_number().ok_or_else(used_up)?;
        finish = finish
            .put(keys::deleted(stream), encode(&Deleted { next_number }))
            .delete(keys::name(stream))
            .delete(keys::config(*id))
            .delete(keys::state(*id))
            .delete(keys::truncation(*id))
            .delete(keys::active(*id))
            .delete(keys::epoch(*id, 0));
        let config = context.catalog.config(*id).await?.value;
        hints.extend(tags(stream, Some(&config), None));
        let cuts = recorded(context, *id).await?.into_iter();
        hints.extend(cuts.map(|key| (key, Operation::Delete)));
        // Newest first: what a crash leaves is still a history without a gap.
        let later = (1..epochs.len()).rev();
        hints.extend(later.map(|number| (keys::epoch(*id, number), Operation::Delete)));
    }
    let finish = with_hints(context, finish, hints).await?;
    context.finish(finish).await
}
