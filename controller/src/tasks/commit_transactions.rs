//! Commit transactions, in the order in which their commits were accepted.
//!
//! A transaction's segments are merged into the active ones of the same number. If the stream was scaled
//! since the transaction began, there are none: then two epochs are inserted, one that repeats the
//! segments the transaction was written beside and takes its events, and one that repeats the active
//! ones. Both begin at once, so readers see either neither or both.
//!
//! Merging may be repeated, because a merged segment is gone: what a crash interrupts is done again from
//! the queue, or from the work row of a rolling commit.

use sarit_proto::ids::{SegmentId, TransactionId};
use sarit_proto::names::ScopedStream;

use super::scale_stream::published;
use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::metrics;
use crate::segments::{self, Call};
use crate::store::catalog::{next_record, parse_next};
use crate::store::keys::{self, StreamId};
use crate::store::records::{Damaged, Ended, Job, Queued, RollJob, SealJob, encode};
use crate::store::{Expect, Transaction};
use crate::stream::epoch::{Epoch, Segment, Transition};

/// Most transactions at once: each takes three operations of the transaction that ends them, which also
/// begins two epochs.
const BATCH_MAX: usize = 30;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// How far a batch has got.
pub(super) enum Batch {
    /// Nothing is queued.
    Empty,
    /// Some are committed.
    Committed,
    /// They need a rolling commit.
    Roll(Box<RollJob>),
}

pub(super) async fn begin(context: &Context, stream: &ScopedStream) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    match batch(context, stream, id).await? {
        Batch::Empty => Ok(Begun::Answered(Answer::Done)),
        Batch::Committed => Ok(Begun::Answered(Answer::More)),
        Batch::Roll(job) => {
            let status = context.catalog.status(id).await?;
            let begin = Transaction::new()
                .expect(keys::work(id), Expect::Absent)
                .expect(keys::state(id), Expect::At(status.revision))
                .put(keys::work(id), work_row(stream, Job::Roll(*job)));
            let outcome = context.catalog.store.commit(begin).await?;
            Ok(begun(outcome, Begun::Working(id, Answer::More)))
        }
    }
}

/// Commits some transactions, if their epoch's segments are active.
pub(super) async fn batch(context: &Context, stream: &ScopedStream, id: StreamId) -> Result<Batch> {
    let mut queue = context.catalog.queue(id, BATCH_MAX).await?;
    if cfg!(planted = "commit_out_of_order") {
        queue.reverse();
    }
    let Some(epoch) = queue.first().map(|first| transaction(first).epoch()) else {
        return Ok(Batch::Empty);
    };
    let same = queue.iter();
    let same = same.take_while(|queued| transaction(queued).epoch() == epoch);
    let queue: Vec<Queued> = same.cloned().collect();
    let active = context.catalog.active(id).await?;
    if active.reference != epoch {
        let job = rolled(context, id, &active, epoch, queue).await?;
        return Ok(Batch::Roll(Box::new(job)));
    }
    context
        .call_all(merges(stream, &active.segments, epoch, &queue))
        .await?;
    let finish = ended(context, id, Transaction::new(), &queue);
    context.finish(finish).await?;
    committed(context, id, &queue);
    Ok(Batch::Committed)
}

/// Plans the two epochs of a rolling commit.
async fn rolled(
    context: &Context,
    id: StreamId,
    active: &Epoch,
    epoch: i32,
    queue: Vec<Queued>,
) -> Result<RollJob> {
    let past = segments_of(context, id, epoch).await?;
    let now = context.clock.now_ms();
    let used_up = || Error::Invalid("the stream has used up its epochs".to_owned());
    let number = active.number.checked_add(1).ok_or_else(used_up)?;
    let merged = Transition {
        number,
        reference: epoch,
        created_ms: now,
        sealed: active.segments.clone(),
        added: repeated(&past, number),
    };
    let number = number.checked_add(1).ok_or_else(used_up)?;
    let resumed = Transition {
        number,
        reference: active.reference,
        created_ms: now,
        sealed: merged.added.clone(),
        added: repeated(&active.segments, number),
    };
    Ok(RollJob {
        merged: Some(next_record(&merged)),
        resumed: Some(next_record(&resumed)),
        queue,
        then_seal: false,
    })
}

/// The same segments in another epoch.
fn repeated(segments: &[Segment], epoch: i32) -> Vec<Segment> {
    let segments = segments.iter();
    segments
        .map(|segment| Segment {
            id: SegmentId::new(epoch, segment.id.number()),
            range: segment.range,
        })
        .collect()
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &RollJob,
    done: Transaction,
) -> Result<()> {
    let key = keys::work(id);
    let merged = parse_next(&key, job.merged.as_ref())?;
    let resumed = parse_next(&key, job.resumed.as_ref())?;
    let policy = segments::policy(&context.catalog.config(id).await?.value);
    let calls = |segments: &[Segment], call: Call| {
        let segments = segments.iter();
        let calls = segments.map(|segment| (stream.segment(segment.id), call.clone()));
        calls.collect::<Vec<_>>()
    };
    let create = Call::Create(policy);
    context
        .call_all(calls(&merged.added, create.clone()))
        .await?;
    let merging = merges(stream, &merged.added, merged.reference, &job.queue);
    context.call_all(merging).await?;
    context.call_all(calls(&merged.added, Call::Seal)).await?;
    context.call_all(calls(&resumed.added, create)).await?;
    context.call_all(calls(&merged.sealed, Call::Seal)).await?;
    let finish = published(context, id, done, &[merged, resumed]).await?;
    let mut finish = ended(context, id, finish, &job.queue);
    if job.then_seal {
        finish = finish.put(key, work_row(stream, Job::Seal(SealJob {})));
    }
    context.finish(finish).await?;
    metrics::rolling_commit();
    committed(context, id, &job.queue);
    Ok(())
}

/// Brings all transactions of a stream that is being sealed to their end. Returns `false` if a rolling
/// commit has to come first; its work row then stands in place of this one.
pub(super) async fn all_ended(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    work: crate::store::Revision,
) -> Result<bool> {
    loop {
        match batch(context, stream, id).await? {
            Batch::Committed => {}
            Batch::Roll(mut job) => {
                job.then_seal = true;
                let key = keys::work(id);
                let roll = Transaction::new()
                    .expect(&key, Expect::At(work))
                    .put(&key, work_row(stream, Job::Roll(*job)));
                context.finish(roll).await?;
                return Ok(false);
            }
            Batch::Empty => {
                if !super::transactions::abort_open(context, stream, id).await? {
                    return Ok(true);
                }
            }
        }
    }
}

/// The merges of transactions' segments into those of the same number.
fn merges(
    stream: &ScopedStream,
    targets: &[Segment],
    epoch: i32,
    queue: &[Queued],
) -> Vec<(sarit_proto::names::StreamSegment, Call)> {
    let targets = targets.iter();
    let merges = targets.map(|target| {
        let parent = stream.segment(SegmentId::new(epoch, target.id.number()));
        let sources = queue.iter();
        let sources = sources.map(|queued| parent.transaction(transaction(queued)).to_string());
        (stream.segment(target.id), Call::Merge(sources.collect()))
    });
    merges.collect()
}

/// Adds to `finish` what ends the transactions.
fn ended(context: &Context, id: StreamId, finish: Transaction, queue: &[Queued]) -> Transaction {
    let day = today(context);
    let mut finish = finish;
    for queued in queue {
        let transaction = transaction(queued);
        let record = Ended { committed: true };
        finish = finish
            .delete(keys::queued(id, queued.order))
            .delete(keys::transaction(id, transaction))
            .put(keys::ended(day, id, transaction), encode(&record));
    }
    finish
}

fn committed(context: &Context, id: StreamId, queue: &[Queued]) {
    metrics::transactions_ended("committed", queue.len());
    for queued in queue {
        context.leases.close((id, transaction(queued)));
    }
}

/// Returns the segments that a transaction of this epoch was written beside. A rolled epoch's are those
/// of the epoch it repeats, under their numbers.
pub(super) async fn segments_of(
    context: &Context,
    id: StreamId,
    epoch: i32,
) -> Result<Vec<Segment>> {
    let active = context.catalog.active(id).await?;
    if active.reference == epoch {
        return Ok(active.segments);
    }
    let past = context.catalog.epochs(id).await?.at(epoch);
    let missing = || Damaged::new(&keys::epochs(id), format!("epoch {epoch} is missing"));
    Ok(past.ok_or_else(missing)?.segments)
}

pub(super) fn today(context: &Context) -> i64 {
    context.clock.now_ms().div_euclid(DAY_MS)
}

pub(super) fn transaction(queued: &Queued) -> TransactionId {
    TransactionId::from_parts(queued.high.cast_signed(), queued.low.cast_signed())
}
