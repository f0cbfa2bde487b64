//! What clients do with transactions: begin, keep open, commit, abort, ask.
//!
//! None of this takes the stream's place among the tasks: a transaction has a row of its own, and every
//! change compares it. Commit and abort are accepted by one write; what follows happens by itself, and
//! again after a crash, see `watch_transactions`. A transaction begins with its row, and only then with its segments: so a
//! segment always has a row that leads to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sarit_client::segment::admin::SegmentPolicy;
use sarit_proto::ids::{SegmentId, TransactionId};
use sarit_proto::names::{ScopedStream, SegmentName};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::commit_transactions::{segments_of, today};
use super::{Answer, CONFLICTS_MAX, Context, Error, RETRY_DELAY_MAX, RETRY_DELAY_MIN, Request};
use super::{Result, TASKS_MAX, Tasks};
use crate::metrics;
use crate::segments::Call;
use crate::store::catalog::{self, PAGE, Row};
use crate::store::keys::{self, StreamId};
use crate::store::records::{self, Damaged, Ended, Queued, TransactionState, encode};
use crate::store::{Expect, Outcome, Transaction};
use crate::stream::epoch::Segment;
use crate::stream::transaction::{End, LeaseRefusal, State, Step};

/// Most open transactions of one controller; each costs a row and about 200 bytes of memory.
const OPEN_MAX: usize = 100_000;
/// Aborted transactions whose segments are deleted at once.
pub(super) const ABORTS_MAX: usize = 64;
/// How many completed transactions a listing has.
const LISTED_MAX: usize = 500;
/// How long completed transactions are remembered, in days, besides today.
pub(super) const DAYS_KEPT: i64 = 1;

/// What came of the wish to begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Began {
    /// There is no such stream.
    NoStream,
    /// It takes no more events.
    Sealed,
    /// It is open, and is written beside these segments.
    Open(TransactionId, Vec<Segment>),
}

/// What came of the wish to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// There is no such stream.
    NoStream,
    /// There is no such transaction, or it ended long ago.
    Unknown,
    /// It will be so, or is.
    Yes,
    /// It ends otherwise.
    No,
}

/// What a writer says with a commit: what it writes after it is no older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) writer: String,
    pub(crate) noted: i64,
}

/// A transaction that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) id: TransactionId,
    pub(crate) state: TransactionState,
    pub(crate) created_ms: i64,
    /// When it is aborted unless its lease is renewed, if it is open and that is known already.
    pub(crate) lease_ends_ms: Option<i64>,
    pub(crate) life_ends_ms: i64,
}

/// What came of the wish to keep it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Open,
    Refused(LeaseRefusal),
    /// It is not open; nothing if it is unknown.
    Not(Option<State>),
}

impl Tasks {
    /// Begins a transaction: its row, then its segments. Cancel-safe: one that nobody waits for any more
    /// ends with its lease.
    pub(crate) async fn begin_transaction(
        &self,
        stream: &ScopedStream,
        lease_ms: i64,
    ) -> Result<Began> {
        let (tasks, stream) = (self.clone(), stream.clone());
        let step = async move { tasks.begin_now(&stream, lease_ms).await };
        self.0.begins.run(step).await
    }

    async fn begin_now(&self, stream: &ScopedStream, lease_ms: i64) -> Result<Began> {
        let context = &self.0;
        context.loaded().await?;
        if context.leases.len() >= OPEN_MAX {
            return Err(Error::Overloaded);
        }
        for _ in 0..CONFLICTS_MAX {
            let Some(id) = context.catalog.visible(stream).await? else {
                return Ok(Began::NoStream);
            };
            let now = context.clock.now_ms();
            let ends_ms = context.bounds.life(lease_ms, now).map_err(Error::Invalid)?;
            let catalog = context.catalog.prefetched(catalog::live(id).into()).await?;
            let status = catalog.status(id).await?;
            if !status.state.is_open() {
                return Ok(Began::Sealed);
            }
            context.check_store()?;
            let active = catalog.active(id).await?;
            let epoch = active.reference;
            let number = context.rng.u128() >> 32;
            let new = TransactionId(u128::from(epoch.cast_unsigned()) << 96 | number);
            let record = records::Transaction {
                state: TransactionState::Open as i32,
                scope: stream.scope.to_string(),
                stream: stream.stream.to_string(),
                created_ms: now,
                ends_ms,
                lease_ms,
                order: 0,
            };
            let key = keys::transaction(id, new);
            let begin = Transaction::new()
                .expect(keys::state(id), Expect::At(status.revision))
                .expect(&key, Expect::Absent)
                .put(&key, encode(&record));
            if context.catalog.store.commit(begin).await? == Outcome::Conflict {
                continue;
            }
            let lease = Duration::from_millis(u64::try_from(lease_ms).unwrap_or(0));
            let named = Arc::new(stream.clone());
            let until = Instant::now() + lease;
            context.leases.note((id, new), named, until, ends_ms);
            let segments = active.segments.iter().map(|segment| Segment {
                id: SegmentId::new(epoch, segment.id.number()),
                range: segment.range,
            });
            let segments: Vec<Segment> = segments.collect();
            let create = Call::Create(SegmentPolicy::default());
            let creations = calls(stream, &segments, new, &create);
            // Without its segments it is of no use; it ends when its lease is over.
            context.call_all(creations).await?;
            if context.leases.find((id, new)).is_none() {
                // It ended meanwhile, perhaps before its last segment was made.
                context
                    .call_all(calls(stream, &segments, new, &Call::Delete))
                    .await?;
            }
            return Ok(Began::Open(new, segments));
        }
        let reason = format!("{stream} is changed by others all the time");
        Err(Error::Unavailable(reason))
    }

    /// Gives an open transaction a new lease from now. Costs no write.
    pub(crate) async fn keep_transaction(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
        lease_ms: i64,
    ) -> Result<Kept> {
        let context = &self.0;
        let Some(id) = context.catalog.visible(stream).await? else {
            return Ok(Kept::Not(None));
        };
        let key = (id, transaction);
        let (ends_ms, named) = match context.leases.find(key) {
            Some(found) => found,
            None => match context.state_of(id, transaction).await? {
                // Not yet noted after a restart.
                Some((State::Open, Some(row))) => (row.value.ends_ms, Arc::new(stream.clone())),
                other => return Ok(Kept::Not(other.map(|(state, _)| state))),
            },
        };
        let now = context.clock.now_ms();
        match context.bounds.renewed(lease_ms, now, ends_ms) {
            Ok(lease) => {
                let until = Instant::now() + Duration::from_millis(lease);
                context.leases.note(key, named, until, ends_ms);
                Ok(Kept::Open)
            }
            Err(refusal) => Ok(Kept::Refused(refusal)),
        }
    }

    /// Accepts the end of a transaction; it comes about by itself. Cancel-safe: what is accepted comes
    /// about, also if nobody waits for the answer.
    pub(crate) async fn end_transaction(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
        end: End,
        time: Option<Time>,
    ) -> Result<Accepted> {
        let (tasks, stream) = (self.clone(), stream.clone());
        let step = async move { tasks.end_now(&stream, transaction, end, time).await };
        self.0.ends.run(step).await
    }

    async fn end_now(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
        end: End,
        time: Option<Time>,
    ) -> Result<Accepted> {
        let context = &self.0;
        context.loaded().await?;
        let Some(id) = context.catalog.visible(stream).await? else {
            return Ok(Accepted::NoStream);
        };
        for _ in 0..CONFLICTS_MAX {
            let Some((state, row)) = context.state_of(id, transaction).await? else {
                return Ok(Accepted::Unknown);
            };
            let row = match (state.end(end), row) {
                (Step::Take, Some(row)) => row,
                (Step::Refuse, _) => return Ok(Accepted::No),
                (Step::Already, Some(_)) if end == End::Commit => {
                    // Whoever asks again may have waited for long: if the queue was given up, it is tried.
                    self.kick(stream);
                    return Ok(Accepted::Yes);
                }
                (Step::Take | Step::Already, _) => return Ok(Accepted::Yes),
            };
            let accepted = context.accept(id, transaction, &row, end, time.as_ref());
            if accepted.await? == Outcome::Conflict {
                continue;
            }
            context.leases.close((id, transaction));
            match end {
                End::Commit => self.kick(stream),
                End::Abort => self.abort_soon(stream, id, transaction),
            }
            return Ok(Accepted::Yes);
        }
        let reason = format!("transaction {transaction} is changed by others all the time");
        Err(Error::Unavailable(reason))
    }

    /// Returns a transaction's state; nothing if it or the stream is unknown. One that is committing is
    /// waited for, but not for long.
    pub(crate) async fn transaction_state(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
    ) -> Result<Option<State>> {
        let context = &self.0;
        let Some(id) = context.catalog.visible(stream).await? else {
            return Ok(None);
        };
        let state = async || -> Result<Option<State>> {
            if context.commits.is_merged((id, transaction)) {
                return Ok(Some(State::Committed));
            }
            let known = context.state_of(id, transaction).await?;
            Ok(known.map(|(state, _)| state))
        };
        let known = state().await?;
        if known != Some(State::Committing) {
            return Ok(known);
        }
        let Some(waiting) = context.commits.join((id, transaction)) else {
            return Ok(known);
        };
        let known = state().await?;
        if known != Some(State::Committing) {
            return Ok(known);
        }
        waiting.told().await;
        state().await
    }

    /// Returns transactions that have not ended, at most `limit`, with ids above `after`; nothing if there
    /// is no such stream.
    pub(crate) async fn open_transactions(
        &self,
        stream: &ScopedStream,
        after: Option<TransactionId>,
        limit: usize,
    ) -> Result<Option<Vec<Open>>> {
        let context = &self.0;
        let Some(id) = context.catalog.visible(stream).await? else {
            return Ok(None);
        };
        let prefix = keys::transactions(id);
        let after = after.map(|after| keys::transaction(id, after));
        let store = &context.catalog.store;
        let page = store.range(&prefix, after.as_deref(), limit).await?;
        let now_ms = context.clock.now_ms();
        let mut open = Vec::new();
        for (key, row) in page.entries {
            let row: records::Transaction = records::decode(&key, &row.value)?;
            let transaction = parse(&key, &prefix)?;
            let left = context.leases.left((id, transaction));
            let left = left.map(|left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
            open.push(Open {
                id: transaction,
                state: row.state(),
                created_ms: row.created_ms,
                lease_ends_ms: left.map(|left| now_ms.saturating_add(left)),
                life_ends_ms: row.ends_ms,
            });
        }
        Ok(Some(open))
    }

    /// Returns transactions that have ended lately, the last day's first, [`LISTED_MAX`] at most.
    pub(crate) async fn ended_transactions(
        &self,
        stream: &ScopedStream,
    ) -> Result<Vec<(TransactionId, State)>> {
        let context = &self.0;
        let Some(id) = context.catalog.visible(stream).await? else {
            return Ok(Vec::new());
        };
        let mut listed = Vec::new();
        let today = today(context);
        for day in ((today - DAYS_KEPT).max(0)..=today).rev() {
            let prefix = keys::ended_of(day, id);
            let left = LISTED_MAX - listed.len();
            let page = context.catalog.store.range(&prefix, None, left).await?;
            for (key, row) in page.entries {
                let ended: Ended = records::decode(&key, &row.value)?;
                listed.push((parse(&key, &prefix)?, state_ended(ended)));
            }
        }
        Ok(listed)
    }

    /// Has the stream's queue of commits worked off, soon and once more than it is asked.
    pub(super) fn kick(&self, stream: &ScopedStream) {
        if !self.0.kicked.lock().insert(stream.clone()) {
            return;
        }
        let (tasks, stream) = (self.clone(), stream.clone());
        self.0.tracker.spawn(async move {
            let stop = tasks.0.stop.clone();
            tokio::select! {
                biased;
                () = tasks.work_off_queue(&stream) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    async fn work_off_queue(&self, stream: &ScopedStream) {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            // What is queued from here on starts another run.
            self.0.kicked.lock().remove(stream);
            match self
                .run_until(stream, Request::Commit, None, TASKS_MAX)
                .await
            {
                Ok(Answer::More) => delay = RETRY_DELAY_MIN,
                Ok(Answer::Later(wait)) => {
                    // One run is enough for all that is queued until then.
                    if !self.0.kicked.lock().insert(stream.clone()) {
                        return;
                    }
                    tokio::time::sleep(wait).await;
                }
                Ok(_) => return,
                Err(error @ (Error::Unavailable(_) | Error::Overloaded)) => {
                    warn!(%stream, %error, "commits wait");
                    metrics::task_retried("commit transactions");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_DELAY_MAX);
                }
                Err(error) => {
                    error!(%stream, %error, "transactions cannot be committed");
                    return;
                }
            }
        }
    }

    /// Deletes the segments of an aborted transaction, soon.
    pub(super) fn abort_soon(
        &self,
        stream: &ScopedStream,
        id: StreamId,
        transaction: TransactionId,
    ) {
        let (tasks, stream) = (self.clone(), stream.clone());
        self.0.tracker.spawn(async move {
            let stop = tasks.0.stop.clone();
            tokio::select! {
                biased;
                () = tasks.0.abort_at_last(&stream, id, transaction) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Context {
    /// Returns a transaction's state, and its row while it has not ended.
    async fn state_of(
        &self,
        id: StreamId,
        transaction: TransactionId,
    ) -> Result<Option<(State, Option<Row<records::Transaction>>)>> {
        if let Some(row) = self.catalog.transaction(id, transaction).await? {
            let state = match row.value.state() {
                TransactionState::Open => State::Open,
                TransactionState::Committing => State::Committing,
                TransactionState::Aborting => State::Aborting,
                TransactionState::Unknown => {
                    let key = keys::transaction(id, transaction);
                    return Err(Damaged::new(&key, "unknown state").into());
                }
            };
            return Ok(Some((state, Some(row))));
        }
        let today = today(self);
        for day in ((today - DAYS_KEPT).max(0)..=today).rev() {
            let key = keys::ended(day, id, transaction);
            if let Some(row) = self.catalog.row::<Ended>(&key).await? {
                return Ok(Some((state_ended(row.value), None)));
            }
        }
        Ok(None)
    }

    /// Records that an open transaction is to end.
    async fn accept(
        &self,
        id: StreamId,
        transaction: TransactionId,
        row: &Row<records::Transaction>,
        end: End,
        time: Option<&Time>,
    ) -> Result<Outcome> {
        let key = keys::transaction(id, transaction);
        let mut record = row.value.clone();
        let change = Transaction::new().expect(&key, Expect::At(row.revision));
        let change = match end {
            End::Abort => {
                record.state = TransactionState::Aborting as i32;
                change
            }
            End::Commit => {
                record.state = TransactionState::Committing as i32;
                record.order = self.order.fetch_add(1, Ordering::Relaxed);
                let queued = Queued {
                    order: record.order,
                    high: transaction.high().cast_unsigned(),
                    low: transaction.low().cast_unsigned(),
                    time: time.map(|time| time.noted),
                    writer: time.map(|time| time.writer.clone()).unwrap_or_default(),
                };
                let queue = keys::queued(id, record.order);
                change
                    .expect(&queue, Expect::Absent)
                    .put(queue, encode(&queued))
            }
        };
        Ok(self
            .catalog
            .store
            .commit(change.put(key, encode(&record)))
            .await?)
    }

    /// Ends an aborted transaction, however long its segment store is away.
    async fn abort_at_last(&self, stream: &ScopedStream, id: StreamId, transaction: TransactionId) {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let _place = self.aborts.acquire().await;
            match self.abort(stream, id, transaction).await {
                Ok(()) => return,
                Err(Error::Unavailable(reason)) => {
                    debug!(%stream, %transaction, reason, "abort waits for the segment store");
                    metrics::task_retried("abort transaction");
                }
                Err(error) => {
                    error!(%stream, %transaction, %error, "aborted transaction cannot be removed");
                    return;
                }
            }
            drop(_place);
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    /// Deletes an aborted transaction's segments, then its row.
    async fn abort(
        &self,
        stream: &ScopedStream,
        id: StreamId,
        transaction: TransactionId,
    ) -> Result<()> {
        let Some(row) = self.catalog.transaction(id, transaction).await? else {
            return Ok(());
        };
        let segments = segments_of(self, id, transaction.epoch()).await?;
        let segments: Vec<Segment> = segments
            .iter()
            .map(|segment| Segment {
                id: SegmentId::new(transaction.epoch(), segment.id.number()),
                range: segment.range,
            })
            .collect();
        self.call_all(calls(stream, &segments, transaction, &Call::Delete))
            .await?;
        let key = keys::transaction(id, transaction);
        let record = Ended { committed: false };
        let finish = Transaction::new()
            .expect(&key, Expect::At(row.revision))
            .delete(&key)
            .put(keys::ended(today(self), id, transaction), encode(&record));
        self.finish(finish).await?;
        metrics::transactions_ended("aborted", 1);
        Ok(())
    }
}

/// Aborts what is still open of a stream that is being sealed. Returns whether there was anything.
pub(super) async fn abort_open(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
) -> Result<bool> {
    let prefix = keys::transactions(id);
    let page = context.catalog.store.range(&prefix, None, PAGE).await?;
    let any = !page.entries.is_empty();
    for (key, row) in page.entries {
        let value: records::Transaction = records::decode(&key, &row.value)?;
        let transaction = parse(&key, &prefix)?;
        let revision = row.revision;
        let row = Row { value, revision };
        if row.value.state() == TransactionState::Open {
            let accepted = context
                .accept(id, transaction, &row, End::Abort, None)
                .await?;
            context.leases.close((id, transaction));
            if accepted == Outcome::Conflict {
                continue;
            }
        }
        if row.value.state() != TransactionState::Committing {
            context.abort(stream, id, transaction).await?;
        }
    }
    Ok(any)
}

/// The same call for each of a transaction's segments.
fn calls(
    stream: &ScopedStream,
    segments: &[Segment],
    transaction: TransactionId,
    call: &Call,
) -> Vec<(SegmentName, Call)> {
    let segments = segments.iter();
    let calls = segments.map(|segment| {
        let name = stream.segment(segment.id).transaction(transaction);
        (name, call.clone())
    });
    calls.collect()
}

fn state_ended(ended: Ended) -> State {
    match ended.committed {
        true => State::Committed,
        false => State::Aborted,
    }
}

pub(super) fn parse(key: &str, prefix: &str) -> Result<TransactionId> {
    let digits = &key[prefix.len()..];
    let id = u128::from_str_radix(digits, 16);
    Ok(TransactionId(id.map_err(|error| Damaged::new(key, error))?))
}
