//! Commit transactions, in the order in which their commits were accepted.
//!
//! A transaction's segments are merged into the active ones of the same number: only those live in the same
//! container for certain. Where the stream was scaled since the transaction began, there are none; then
//! two epochs are inserted, one that repeats the segments the transaction was written beside and takes its
//! events, and one that repeats the active ones. Both begin at once, so readers see either neither or
//! both. Only the key ranges are replaced that were scaled and hold events of the transaction.
//!
//! Each such rolling commit costs readers two epochs, and a reader group of the official Java client
//! follows about one epoch a second at best. So transactions of one epoch roll together, before others
//! that began later, and a stream that goes on rolling waits longer each time, see [`Rolls`].
//!
//! A segment that a client has sealed itself takes nothing more either: what is to be committed beside it
//! rolls, as if it had been scaled.
//!
//! Merging may be repeated, because a merged segment is gone: what a crash interrupts is done again from
//! the queue, or from the work row of a rolling commit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use sarit_proto::ids::{SegmentId, TransactionId};
use sarit_proto::names::{ScopedStream, StreamSegment};
use tokio::time::Instant;
use tracing::debug;

use super::scale_stream::published;
use super::{Answer, Begun, CALLS_MAX, Context, Error, Result, begun, work_row};
use crate::metrics;
use crate::segments::{self, Call};
use crate::store::catalog::{next_record, parse_roll};
use crate::store::keys::{self, StreamId};
use crate::store::records::{Damaged, Ended, Job, Queued, RollJob, SealJob, encode};
use crate::store::{Expect, Transaction};
use crate::stream::epoch::{Epoch, Segment, Transition, repeated};
use crate::watermarks::{Noted, Watermarks};

/// Most transactions at once: each takes three operations of the transaction that ends them, which also
/// begins two epochs.
const BATCH_MAX: usize = 30;
/// How far down the queue a transaction is looked for that may roll with the first.
const WINDOW: usize = 256;
/// Between the first two rolling commits of a stream; twice as long between the next two, and so on.
const ROLL_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause between two. Readers follow two epochs in about half of it.
const ROLL_PAUSE_MAX: Duration = Duration::from_secs(4);
/// After so long without one, the next counts as the first.
const ROLLS_FORGOTTEN: Duration = Duration::from_secs(8);
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

/// When streams had their last rolling commits, and how long the pause after it is. Only in memory: it keeps
/// readers from being overrun, and nothing else depends on it.
#[derive(Debug, Default)]
pub(super) struct Rolls(Mutex<BTreeMap<StreamId, (Instant, Duration)>>);

impl Rolls {
    /// Returns how long a stream has to wait before it may roll again; nothing if it may.
    fn wait(&self, id: StreamId) -> Option<Duration> {
        let (last, pause) = *self.0.lock().get(&id)?;
        let left = pause.saturating_sub(last.elapsed());
        Some(left).filter(|left| !left.is_zero())
    }

    /// Takes note of one, and forgets those that no longer count.
    fn note(&self, id: StreamId) {
        let mut rolls = self.0.lock();
        rolls.retain(|_, (last, _)| last.elapsed() < ROLLS_FORGOTTEN);
        let pause = rolls.get(&id).map_or(ROLL_PAUSE_MIN, |(_, pause)| {
            (*pause * 2).min(ROLL_PAUSE_MAX)
        });
        rolls.insert(id, (Instant::now(), pause));
    }
}

pub(super) async fn begin(context: &Context, stream: &ScopedStream) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    match batch(context, stream, id).await? {
        Batch::Empty => Ok(Begun::Answered(Answer::Done)),
        Batch::Committed => Ok(Begun::Answered(Answer::More)),
        Batch::Roll(job) => {
            if let Some(wait) = context.rolls.wait(id) {
                return Ok(Begun::Answered(Answer::Later(wait)));
            }
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

/// Commits some transactions, if that takes no rolling commit.
pub(super) async fn batch(context: &Context, stream: &ScopedStream, id: StreamId) -> Result<Batch> {
    let mut queue = context.catalog.queue(id, WINDOW).await?;
    if cfg!(planted = "commit_out_of_order") {
        queue.reverse();
    }
    let queue = together(&queue);
    let Some(epoch) = queue.first().map(|first| transaction(first).epoch()) else {
        return Ok(Batch::Empty);
    };
    let active = context.catalog.active(id).await?;
    // Mostly the transaction began in the active epoch, and no history is read.
    let mut past = active.segments.clone();
    if active.reference != epoch {
        past = segments_of(context, id, epoch).await?;
        let past = (&past[..], &active.segments[..]);
        if let Some(job) = rolling(context, stream, (&active, epoch), past, &queue).await? {
            return Ok(Batch::Roll(Box::new(job)));
        }
    }
    let mut open = active.segments.clone();
    if !merge_kept(context, stream, (&open, &past), epoch, &queue).await? {
        let shut = shut(context, stream, &open).await?;
        open = without(&open, &shut);
        let past = (&past[..], &open[..]);
        if let Some(job) = rolling(context, stream, (&active, epoch), past, &queue).await? {
            return Ok(Batch::Roll(Box::new(job)));
        }
        if !merge_kept(context, stream, (&open, past.0), epoch, &queue).await? {
            let reason = format!("segments of {stream} are being sealed by others");
            return Err(Error::Unavailable(reason));
        }
    }
    let _merged = context.commits.merged(keys_of(id, &queue));
    note_times(context, stream, &active.segments, &queue).await?;
    let finish = ended(context, id, Transaction::new(), &queue);
    context.finish(finish).await?;
    committed(context, id, &queue);
    Ok(Batch::Committed)
}

/// Picks what is committed at once: the first of the queue and others of its epoch. Those pass what began
/// in a later epoch, as with the official server, and never what began in an earlier one. So of
/// one writer's transactions none passes another that it began and committed before.
fn together(queue: &[Queued]) -> Vec<Queued> {
    let epoch = |queued: &Queued| transaction(queued).epoch();
    let Some(first) = queue.first().map(epoch) else {
        return Vec::new();
    };
    let queue = queue.iter().take_while(|queued| epoch(queued) >= first);
    let same = queue.filter(|queued| epoch(queued) == first);
    same.take(BATCH_MAX).cloned().collect()
}

/// Returns the segments whose number none of `others` has. Where the numbers are equal, so are the keys.
fn without(segments: &[Segment], others: &[Segment]) -> Vec<Segment> {
    let others: BTreeSet<i32> = others.iter().map(|other| other.id.number()).collect();
    let mut left = segments.to_vec();
    left.retain(|segment| !others.contains(&segment.id.number()));
    left
}

/// Plans a rolling commit, if events were written beside such of the segments `past` as are not `open` any
/// more.
async fn rolling(
    context: &Context,
    stream: &ScopedStream,
    (active, epoch): (&Epoch, i32),
    (past, open): (&[Segment], &[Segment]),
    queue: &[Queued],
) -> Result<Option<RollJob>> {
    let gone = without(past, open);
    let kept = without(past, &gone);
    let written = written(context, stream, epoch, &gone, queue).await?;
    let (old, now) = touched(&written, gone, without(&active.segments, &kept));
    if old.is_empty() {
        return Ok(None);
    }
    rolled(context, active, epoch, (&old, now), queue.to_vec()).map(Some)
}

/// Returns those of the active segments that a client has sealed behind our back.
async fn shut(
    context: &Context,
    stream: &ScopedStream,
    active: &[Segment],
) -> Result<Vec<Segment>> {
    let asked: Vec<_> = active
        .iter()
        .map(|segment| (*segment, stream.segment(segment.id).to_string()))
        .collect();
    let extents = asked.into_iter().map(|(segment, name)| {
        let store = context.segments.clone();
        async move { (segment, store.extent(&name).await) }
    });
    let mut extents = stream::iter(extents).buffered(CALLS_MAX);
    let mut shut = Vec::new();
    while let Some((segment, extent)) = extents.next().await {
        match extent {
            Ok(extent) if extent.sealed => shut.push(segment),
            Ok(_) | Err(segments::Error::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(shut)
}

/// Merges what was written beside the segments `past` into the active ones of the same number, and removes
/// what there is beside others: it is empty. Returns `false` if one of the active ones is sealed, with
/// something left to be merged into it.
async fn merge_kept(
    context: &Context,
    stream: &ScopedStream,
    (active, past): (&[Segment], &[Segment]),
    epoch: i32,
    queue: &[Queued],
) -> Result<bool> {
    let gone = without(past, active);
    let kept = without(past, &gone);
    let targets = without(active, &without(active, &kept));
    let merges = merges(stream, &targets, epoch, queue);
    match context.try_all(merges).await {
        Err(segments::Error::Sealed(_)) => return Ok(false),
        other => other?,
    }
    let empty = sources(stream, epoch, &gone, queue).into_iter();
    let deletions = empty.map(|name| (name, Call::Delete));
    context.call_all(deletions.collect()).await?;
    Ok(true)
}

/// Returns those of `segments` beside which one of the transactions has written events.
async fn written(
    context: &Context,
    stream: &ScopedStream,
    epoch: i32,
    segments: &[Segment],
    queue: &[Queued],
) -> Result<Vec<Segment>> {
    let mut written = Vec::new();
    for segment in segments {
        for name in sources(stream, epoch, std::slice::from_ref(segment), queue) {
            match context.segments.extent(&name).await {
                Ok(extent) if extent.length.0 == 0 => {}
                Err(segments::Error::Missing(_)) => {}
                Ok(_) => {
                    written.push(*segment);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(written)
}

/// Of the segments that were replaced and those that replaced them, returns those whose keys are connected
/// to what was written. Both cover the same keys.
fn touched(
    written: &[Segment],
    gone: Vec<Segment>,
    new: Vec<Segment>,
) -> (Vec<Segment>, Vec<Segment>) {
    let written: BTreeSet<SegmentId> = written.iter().map(|segment| segment.id).collect();
    let gone = gone.into_iter().map(|segment| (segment, true));
    let mut both: Vec<_> = gone
        .chain(new.into_iter().map(|segment| (segment, false)))
        .collect();
    both.sort_unstable_by_key(|(segment, _)| segment.range);
    let (mut past, mut now) = (Vec::new(), Vec::new());
    let mut rest = &both[..];
    while let Some((first, _)) = rest.first() {
        // Up to the next bound that both have.
        let mut end = first.range.end();
        let overlapping = rest.iter().take_while(|(segment, _)| {
            let meets = segment.range.start() < end;
            end = end.max(segment.range.end());
            meets
        });
        let (connected, others) = rest.split_at(overlapping.count());
        rest = others;
        if connected
            .iter()
            .any(|(segment, _)| written.contains(&segment.id))
        {
            let (old, replacing): (Vec<_>, Vec<_>) = connected.iter().partition(|(_, old)| *old);
            past.extend(old.into_iter().map(|(segment, _)| segment));
            now.extend(replacing.into_iter().map(|(segment, _)| segment));
        }
    }
    (past, now)
}

/// Plans the two epochs of a rolling commit that takes the segments `past` between those that are active
/// `now`.
fn rolled(
    context: &Context,
    active: &Epoch,
    epoch: i32,
    (past, now): (&[Segment], Vec<Segment>),
    mut queue: Vec<Queued>,
) -> Result<RollJob> {
    for queued in &mut queue {
        // Its time is not noted anyway, and names of any length would not fit into one row.
        if Watermarks::is_too_large(&queued.writer, &BTreeMap::new()) {
            queued.time = None;
            queued.writer.clear();
        }
    }
    let created_ms = context.clock.now_ms();
    let used_up = || Error::Invalid("the stream has used up its epochs".to_owned());
    let number = active.number.checked_add(1).ok_or_else(used_up)?;
    let merged = Transition {
        number,
        reference: epoch,
        created_ms,
        added: repeated(past, number),
        sealed: now,
    };
    let number = number.checked_add(1).ok_or_else(used_up)?;
    let resumed = Transition {
        number,
        reference: active.reference,
        created_ms,
        // Said by the other, see `catalog::parse_roll`.
        sealed: Vec::new(),
        added: Vec::new(),
    };
    Ok(RollJob {
        merged: Some(next_record(&merged)),
        resumed: Some(next_record(&resumed)),
        queue,
        then_seal: false,
    })
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &RollJob,
    done: Transaction,
) -> Result<()> {
    let key = keys::work(id);
    let [merged, resumed] = parse_roll(&key, job)?;
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
    let epoch = merged.reference;
    let merging = merges(stream, &merged.added, epoch, &job.queue);
    context.call_all(merging).await?;
    context.call_all(calls(&merged.added, Call::Seal)).await?;
    context.call_all(calls(&resumed.added, create)).await?;
    context.call_all(calls(&merged.sealed, Call::Seal)).await?;
    // What goes on as it is: what was not scaled, and where nothing was written.
    let active = context.catalog.active(id).await?.segments;
    let past = segments_of(context, id, epoch).await?;
    let kept = without(&active, &merged.sealed);
    let past = without(&past, &merged.added);
    let all = merge_kept(context, stream, (&kept, &past), epoch, &job.queue).await?;
    let mut finish = published(context, id, done, &[merged, resumed]).await?;
    if all {
        finish = ended(context, id, finish, &job.queue);
    }
    if job.then_seal {
        finish = finish.put(key, work_row(stream, Job::Seal(SealJob {})));
    }
    context.finish(finish).await?;
    metrics::rolling_commit();
    context.rolls.note(id);
    if !all {
        // A client has sealed one that goes on. What is left is still queued, and rolls next.
        return Ok(());
    }
    committed(context, id, &job.queue);
    // Only now are the segments known that all of it lies before. A crash or failure here loses the note,
    // not the commit; the writer's next one makes up for it.
    let active = context.catalog.active(id).await?;
    if let Err(error) = note_times(context, stream, &active.segments, &job.queue).await {
        debug!(%stream, %error, "times of commits are not noted");
    }
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
) -> Vec<(StreamSegment, Call)> {
    let targets = targets.iter();
    let merges = targets.map(|target| {
        let sources = sources(stream, epoch, std::slice::from_ref(target), queue);
        (stream.segment(target.id), Call::Merge(sources))
    });
    merges.collect()
}

/// The names of the transactions' segments beside these.
fn sources(
    stream: &ScopedStream,
    epoch: i32,
    segments: &[Segment],
    queue: &[Queued],
) -> Vec<String> {
    let parents = segments.iter().map(|segment| segment.id.number());
    let sources = parents.flat_map(|number| {
        let parent = stream.segment(SegmentId::new(epoch, number));
        let names = queue.iter();
        names.map(move |queued| parent.transaction(transaction(queued)).to_string())
    });
    sources.collect()
}

/// Notes for each writer the latest time that it gave with a commit: what it writes behind the present
/// end of the stream is no older. Behind, not at, its own events: a later position promises less.
async fn note_times(
    context: &Context,
    stream: &ScopedStream,
    active: &[Segment],
    queue: &[Queued],
) -> Result<()> {
    let mut times = BTreeMap::<&str, i64>::new();
    for queued in queue {
        if let Some(time) = queued.time {
            let latest = times.entry(&queued.writer).or_insert(time);
            *latest = time.max(*latest);
        }
    }
    if times.is_empty() {
        return Ok(());
    }
    let segments = active.iter().map(|segment| stream.segment(segment.id));
    let lengths = context.lengths(segments.collect()).await?;
    let lengths = lengths.into_iter();
    let position: BTreeMap<i64, i64> = lengths
        .map(|(id, length)| (id.0, length.0 as i64))
        .collect();
    for (writer, time) in times {
        if Watermarks::is_too_large(writer, &position) {
            continue;
        }
        let noted = context.watermarks.note(stream, writer, time, &position);
        match noted.await? {
            Noted::Taken => {}
            // The commit counts, its time does not.
            refused => debug!(%stream, writer, time, ?refused, "time of a commit is not noted"),
        }
    }
    Ok(())
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
    let keys = keys_of(id, queue);
    for key in &keys {
        context.leases.close(*key);
    }
    context.commits.tell(&keys);
}

fn keys_of(id: StreamId, queue: &[Queued]) -> Vec<(StreamId, TransactionId)> {
    let transactions = queue.iter().map(transaction);
    transactions.map(|transaction| (id, transaction)).collect()
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
