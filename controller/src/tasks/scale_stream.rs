//! Scale a stream: make the new segments, seal the old ones, begin the new epoch.
//!
//! A writer that meets a sealed segment before the epoch has begun is given the successors that the
//! work row names: they exist by then, see [`successors`].

use sarit_proto::ids::SegmentId;
use sarit_proto::names::ScopedStream;

use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::segments::{self, Call};
use crate::store::catalog::{
    Status, active_record, epoch_record, live, next_record, parse_next, pending, state_record,
};
use crate::store::keys::{self, StreamId};
use crate::store::records::{Job, ScaleJob, encode};
use crate::store::{Expect, TRANSACTION_BYTES_MAX, Transaction};
use crate::stream;
use crate::stream::epoch::{Epoch, Successor, Transition};
use crate::stream::scale::{self, Scaling};

pub(super) async fn begin(
    context: &Context,
    stream: &ScopedStream,
    wanted: &Scaling,
) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    let catalog = context.catalog.prefetched(live(id).into()).await?;
    let status = catalog.status(id).await?;
    if !status.state.is_open() {
        return Ok(Begun::Answered(Answer::Sealed));
    }
    let active = catalog.active(id).await?;
    if !wanted.sealed.iter().all(|id| active.has(*id)) {
        // The answer to an earlier asking may have been lost.
        let last = context.catalog.transition(id, active.number).await?;
        if let Some(made) = last.filter(|last| wanted.led_to(last)) {
            return Ok(Begun::Answered(Answer::Scaled(made)));
        }
    }
    let config = catalog.config(id).await?;
    let least = stream::config::segments(&config.value);
    let made = match planned(context, id, &status, &active, wanted, least).await? {
        Ok(made) => made,
        Err(refusal) => return Ok(Begun::Answered(Answer::NotScaled(refusal))),
    };
    context.check_store()?;
    let job = ScaleJob {
        next: Some(next_record(&made)),
    };
    let begin = Transaction::new()
        .expect(keys::work(id), Expect::Absent)
        .expect(keys::state(id), Expect::At(status.revision))
        .expect(keys::config(id), Expect::At(config.revision))
        .put(keys::work(id), work_row(stream, Job::Scale(job)));
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Scaled(made))))
}

/// Plans a change of `active`, numbering from where the stream's numbers end.
pub(super) async fn planned(
    context: &Context,
    id: StreamId,
    status: &Status,
    active: &Epoch,
    wanted: &Scaling,
    least: usize,
) -> Result<std::result::Result<Transition, scale::Refusal>> {
    let next_number = match status.next_number {
        0 => context.catalog.epochs(id).await?.next_number(),
        known => Some(known),
    };
    let Some(next_number) = next_number else {
        return Ok(Err(scale::Refusal::UsedUp));
    };
    let now = context.clock.now_ms();
    Ok(scale::plan(active, wanted, least, next_number, now))
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &ScaleJob,
    done: Transaction,
) -> Result<()> {
    let next = parse_next(&keys::work(id), job.next.as_ref())?;
    let config = context.catalog.config(id).await?.value;
    if cfg!(planted = "successors_before_seal") {
        let early = published(context, id, Transaction::new(), std::slice::from_ref(&next));
        context.finish(early.await?).await?;
    }
    replace(context, stream, &next, segments::policy(&config)).await?;
    let finish = published(context, id, done, &[next]).await?;
    context.finish(finish).await
}

/// Makes the new segments, then seals the old ones.
pub(super) async fn replace(
    context: &Context,
    stream: &ScopedStream,
    next: &Transition,
    policy: sarit_client::segment::admin::SegmentPolicy,
) -> Result<()> {
    let creations = next.added.iter();
    let creations = creations.map(|new| (stream.segment(new.id), Call::Create(policy)));
    context.call_all(creations.collect()).await?;
    let seals = next.sealed.iter();
    let seals = seals.map(|old| (stream.segment(old.id), Call::Seal));
    context.call_all(seals.collect()).await
}

/// Adds to `transaction` what makes the last of `changes` the active epoch.
pub(super) async fn published(
    context: &Context,
    id: StreamId,
    transaction: Transaction,
    changes: &[Transition],
) -> Result<Transaction> {
    let mut status = context.catalog.status(id).await?;
    let mut active = context.catalog.active(id).await?;
    let numbers = changes.iter().flat_map(|change| &change.added);
    let highest = numbers.map(|segment| segment.id.number()).max();
    let next_number = highest.unwrap_or(0).saturating_add(1);
    status.next_number = status.next_number.max(next_number);
    for change in changes {
        if change.number > active.number {
            let damaged = |reason| Error::from(keys_damaged(id, reason));
            active = change.apply(&active).map_err(damaged)?;
        }
    }
    let transaction = recorded(context, id, transaction, changes).await?;
    status.active_epoch = active.number;
    status.reference_epoch = active.reference;
    let state = encode(&state_record(&status, status.state));
    Ok(transaction
        .put(keys::active(id), encode(&active_record(&active)))
        .put(keys::state(id), state))
}

/// Most bytes of changes that go into the transaction that publishes them; it also has all active segments.
const CHANGES_BYTES_MAX: usize = TRANSACTION_BYTES_MAX / 2;

/// Adds `changes` to `transaction`. Large ones are written before it, one by one: whoever looks meanwhile
/// finds what the work row says already.
async fn recorded(
    context: &Context,
    id: StreamId,
    transaction: Transaction,
    changes: &[Transition],
) -> Result<Transaction> {
    let rows = changes.iter().map(|change| {
        let key = keys::epoch(id, change.number);
        (key, encode(&epoch_record(change)))
    });
    let rows: Vec<_> = rows.collect();
    let bytes: usize = rows.iter().map(|(_, row)| row.len()).sum();
    if bytes <= CHANGES_BYTES_MAX {
        let rows = rows.into_iter();
        return Ok(rows.fold(transaction, |all, (key, row)| all.put(key, row)));
    }
    for (key, row) in rows {
        let early = Transaction {
            compares: transaction.compares.clone(),
            operations: Vec::new(),
        };
        // If it conflicts, someone else has ended the task, and so does the last one.
        context.finish(early.put(key, row)).await?;
    }
    Ok(transaction)
}

fn keys_damaged(id: StreamId, reason: String) -> crate::store::records::Damaged {
    crate::store::records::Damaged::new(&keys::work(id), reason)
}

/// Returns who takes over the keys of a segment: none while it is not sealed, if the stream ended with
/// it, and if it is unknown.
///
/// # Errors
/// [`Error::Unavailable`] if only the segment store knows, and cannot be asked.
pub(crate) async fn successors(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    segment: SegmentId,
) -> Result<Vec<Successor>> {
    // The work row first: what has ended before this call is in it or, if it is gone, in the epochs.
    let work = context.catalog.work(id).await?;
    if let Some(end) = context.catalog.end_of(id, segment).await? {
        return Ok(end.successors(segment));
    }
    let Some(work) = work else {
        return Ok(Vec::new());
    };
    let next = pending(&keys::work(id), &work.value)?;
    let Some(end) = next.into_iter().find(|change| change.ends(segment)) else {
        return Ok(Vec::new());
    };
    let name = stream.segment(segment).to_string();
    match context.segments.extent(&name).await {
        Ok(extent) if !extent.sealed => Ok(Vec::new()),
        Ok(_) | Err(segments::Error::Missing(_)) => Ok(end.successors(segment)),
        Err(error) => Err(error.into()),
    }
}
