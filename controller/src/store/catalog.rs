//! Typed reads of the records: the one place that turns rows into values.

use std::sync::Arc;

use sarit_proto::controller::{KeyValueTableConfig, ReaderGroupConfiguration, StreamConfig};
use sarit_proto::ids::{SegmentId, TransactionId};
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};

use super::keys::{self, StreamId};
use super::prefetched::Prefetched;
use super::records::{self, Damaged};
use super::{MetaStore, Revision};
use crate::stream::epoch::{Epoch, Epochs, Segment, Transition, repeated};
use crate::stream::lifecycle::State;
use crate::stream::stream_cuts::{self, Cut};

/// Most rows fetched at once.
pub(crate) const PAGE: usize = 1000;

/// Most epochs fetched at once where the first few mostly do.
const TRANSITIONS: usize = 32;

/// Why a read gave nothing to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] super::Error),
    /// A record is not what its key says.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// A store, read as records.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    pub(crate) store: Arc<dyn MetaStore>,
}

/// A value and where it came from, for comparing later.
#[derive(Clone, Debug)]
pub(crate) struct Row<T> {
    pub(crate) value: T,
    pub(crate) revision: Revision,
}

/// A stream's name row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) id: StreamId,
    pub(crate) visible: bool,
    pub(crate) revision: Revision,
}

/// A stream's state row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) state: State,
    pub(crate) active_epoch: i32,
    pub(crate) reference_epoch: i32,
    pub(crate) created_ms: i64,
    /// The lowest segment number never used; 0 before the first scaling.
    pub(crate) next_number: i32,
    pub(crate) revision: Revision,
}

/// A key-value table's row.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) id: StreamId,
    pub(crate) visible: bool,
    pub(crate) config: KeyValueTableConfig,
    pub(crate) first_number: i32,
}

impl Table {
    /// Returns its segments, in the order of their keys.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let count = usize::try_from(self.config.partition_count).unwrap_or(0);
        let epoch = Epoch::first(count, self.first_number, 0);
        epoch.map_or_else(Vec::new, |epoch| epoch.segments)
    }

    /// Returns its record, `visible` or not.
    pub(crate) fn record(&self, visible: bool) -> records::Table {
        records::Table {
            id: self.id.to_string(),
            visible,
            config: Some(self.config.clone()),
            first_number: self.first_number,
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// The rows that say what a stream is now, the state first: the active epoch must not be older.
pub(crate) fn live(id: StreamId) -> [String; 4] {
    [
        keys::state(id),
        keys::active(id),
        keys::epoch(id, 0),
        keys::config(id),
    ]
}

impl Catalog {
    pub(crate) fn new(store: Arc<dyn MetaStore>) -> Self {
        Self { store }
    }

    /// Returns a catalog that takes `keys` for absent, unread: what is decided by that has to be compared.
    pub(crate) fn without(&self, keys: Vec<String>) -> Self {
        Self {
            store: Arc::new(Prefetched::without(&self.store, keys)),
        }
    }

    /// Returns a catalog that has read `keys` already, in one go, as they are now.
    pub(crate) async fn prefetched(&self, keys: Vec<String>) -> Result<Self> {
        let rows = Prefetched::read(&self.store, keys).await?;
        Ok(Self::new(Arc::new(rows)))
    }

    pub(crate) async fn row<R>(&self, key: &str) -> Result<Option<Row<R>>>
    where
        R: prost::Message + Default,
    {
        let Some(row) = self.store.get(key).await? else {
            return Ok(None);
        };
        let value = records::decode(key, &row.value)?;
        let revision = row.revision;
        Ok(Some(Row { value, revision }))
    }

    /// Like [`Catalog::row`], for a row that must be there because another one says so.
    async fn companion<R>(&self, key: &str) -> Result<Row<R>>
    where
        R: prost::Message + Default,
    {
        let row = self.row(key).await?;
        Ok(row.ok_or_else(|| Damaged::new(key, "is missing"))?)
    }

    /// Returns the scope's row, also of one that is being deleted.
    pub(crate) async fn scope(&self, scope: &ScopeName) -> Result<Option<Row<records::Scope>>> {
        self.row(&keys::scope(scope)).await
    }

    /// Returns where the scope's row was written last, if something may be created in it.
    pub(crate) async fn open_scope(&self, scope: &ScopeName) -> Result<Option<Revision>> {
        let row = self.scope(scope).await?;
        let open = row.filter(|row| row.value.deletion.is_empty());
        Ok(open.map(|row| row.revision))
    }

    /// Returns the name row, also of a stream that clients may not see.
    pub(crate) async fn name(&self, stream: &ScopedStream) -> Result<Option<Found>> {
        let key = keys::name(stream);
        let Some(row) = self.row::<records::Name>(&key).await? else {
            return Ok(None);
        };
        Ok(Some(Found {
            id: parse_id(&key, &row.value.stream_id)?,
            visible: row.value.visible,
            revision: row.revision,
        }))
    }

    /// Returns the stream if clients may see it.
    pub(crate) async fn visible(&self, stream: &ScopedStream) -> Result<Option<StreamId>> {
        let found = self.name(stream).await?;
        Ok(found.filter(|found| found.visible).map(|found| found.id))
    }

    pub(crate) async fn status(&self, id: StreamId) -> Result<Status> {
        let key = keys::state(id);
        let row: Row<records::StreamState> = self.companion(&key).await?;
        let state = match row.value.state() {
            records::State::Unknown => return Err(Damaged::new(&key, "unknown state").into()),
            records::State::Creating => State::Creating,
            records::State::Active => State::Active,
            records::State::Sealing => State::Sealing,
            records::State::Sealed => State::Sealed,
            records::State::Deleting => State::Deleting,
        };
        Ok(Status {
            state,
            active_epoch: row.value.active_epoch,
            reference_epoch: row.value.reference_epoch,
            created_ms: row.value.created_ms,
            next_number: row.value.next_number,
            revision: row.revision,
        })
    }

    pub(crate) async fn config(&self, id: StreamId) -> Result<Row<StreamConfig>> {
        let key = keys::config(id);
        let row: Row<records::Config> = self.companion(&key).await?;
        let config = row.value.config;
        let value = config.ok_or_else(|| Damaged::new(&key, "holds no configuration"))?;
        let revision = row.revision;
        Ok(Row { value, revision })
    }

    /// Returns what begins and ends with an epoch.
    pub(crate) async fn transition(&self, id: StreamId, number: i32) -> Result<Option<Transition>> {
        let key = keys::epoch(id, number);
        let row = self.row::<records::EpochRecord>(&key).await?;
        row.map(|row| parse_transition(&key, number, row.value))
            .transpose()
    }

    /// Returns the active epoch of a stream whose status was read before: the one of that status, or a
    /// later one.
    pub(crate) async fn active(&self, id: StreamId) -> Result<Epoch> {
        let key = keys::active(id);
        if let Some(row) = self.row::<records::ActiveEpoch>(&key).await? {
            return Ok(Epoch {
                number: row.value.number,
                reference: row.value.reference,
                created_ms: row.value.created_ms,
                segments: parse_segments(&key, &row.value.segments)?,
            });
        }
        let first = self.transition(id, 0).await?;
        let first = first.ok_or_else(|| Damaged::new(&keys::epoch(id, 0), "is missing"))?;
        Ok(Epoch {
            number: 0,
            reference: 0,
            created_ms: first.created_ms,
            segments: first.added,
        })
    }

    /// Returns some changes behind the epoch `after`, oldest first, at most `limit`; fewer come back
    /// only if there are no more.
    pub(crate) async fn transitions(
        &self,
        id: StreamId,
        after: Option<i32>,
        limit: usize,
    ) -> Result<Vec<Transition>> {
        let prefix = keys::epochs(id);
        let after = after.map(|number| keys::epoch(id, number));
        let page = self.store.range(&prefix, after.as_deref(), limit).await?;
        let mut transitions = Vec::with_capacity(page.entries.len());
        for (key, row) in page.entries {
            let number = i32::from_str_radix(&key[prefix.len()..], 16);
            let number = number.map_err(|error| Damaged::new(&key, error))?;
            let record = records::decode(&key, &row.value)?;
            transitions.push(parse_transition(&key, number, record)?);
        }
        Ok(transitions)
    }

    /// Returns all epochs of a stream.
    pub(crate) async fn epochs(&self, id: StreamId) -> Result<Epochs> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|last: &Transition| last.number);
            let page = self.transitions(id, after, PAGE).await?;
            let full = page.len() == PAGE;
            all.extend(page);
            if !full {
                let prefix = keys::epochs(id);
                let epochs = Epochs::new(all);
                return Ok(epochs.map_err(|reason| Damaged::new(&prefix, reason))?);
            }
        }
    }

    /// Returns all epochs, with those that have begun for whoever met a sealed segment, though they are
    /// not published yet.
    pub(crate) async fn epochs_begun(&self, id: StreamId) -> Result<Epochs> {
        let work = self.work(id).await?;
        let mut epochs = self.epochs(id).await?;
        let Some(work) = work else {
            return Ok(epochs);
        };
        let key = keys::work(id);
        for change in pending(&key, &work.value)? {
            if change.number >= epochs.len() {
                let pushed = epochs.push(change);
                pushed.map_err(|reason| Damaged::new(&key, reason))?;
            }
        }
        Ok(epochs)
    }

    /// Returns the change with which a segment ended, if it has.
    pub(crate) async fn end_of(
        &self,
        id: StreamId,
        segment: SegmentId,
    ) -> Result<Option<Transition>> {
        // It cannot have ended before the epoch it was made in.
        let mut after = segment.epoch();
        loop {
            let page = self.transitions(id, Some(after), TRANSITIONS).await?;
            let full = page.len() == TRANSITIONS;
            after = page.last().map_or(after, |last| last.number);
            if let Some(end) = page.into_iter().find(|change| change.ends(segment)) {
                return Ok(Some(end));
            }
            if !full {
                return Ok(None);
            }
        }
    }

    /// Returns the cut a stream was truncated at last.
    pub(crate) async fn truncation(&self, id: StreamId) -> Result<Option<Row<Cut>>> {
        let key = keys::truncation(id);
        let Some(row) = self.row::<records::Truncation>(&key).await? else {
            return Ok(None);
        };
        let cut = stream_cuts::parse(&row.value.cut);
        let value = cut.map_err(|error| Damaged::new(&key, error))?;
        let revision = row.revision;
        Ok(Some(Row { value, revision }))
    }

    pub(crate) async fn work(&self, id: StreamId) -> Result<Option<Row<records::Work>>> {
        self.row(&keys::work(id)).await
    }

    /// Returns a transaction's record, while it has not ended.
    pub(crate) async fn transaction(
        &self,
        id: StreamId,
        transaction: TransactionId,
    ) -> Result<Option<Row<records::Transaction>>> {
        self.row(&keys::transaction(id, transaction)).await
    }

    /// Returns the first transactions to be committed, in order.
    pub(crate) async fn queue(&self, id: StreamId, limit: usize) -> Result<Vec<records::Queued>> {
        let page = self.store.range(&keys::queue(id), None, limit).await?;
        let rows = page.entries.iter();
        rows.map(|(key, row)| Ok(records::decode(key, &row.value)?))
            .collect()
    }

    /// Returns a table's row, also of one that clients may not see.
    pub(crate) async fn table(
        &self,
        scope: &ScopeName,
        table: &StreamName,
    ) -> Result<Option<Row<Table>>> {
        let key = keys::table(scope, table);
        let Some(row) = self.row::<records::Table>(&key).await? else {
            return Ok(None);
        };
        let config = row.value.config;
        let value = Table {
            id: parse_id(&key, &row.value.id)?,
            visible: row.value.visible,
            first_number: row.value.first_number,
            config: config.ok_or_else(|| Damaged::new(&key, "holds no configuration"))?,
        };
        let revision = row.revision;
        Ok(Some(Row { value, revision }))
    }

    pub(crate) async fn group(
        &self,
        scope: &ScopeName,
        group: &StreamName,
    ) -> Result<Option<Row<ReaderGroupConfiguration>>> {
        let key = keys::group(scope, group);
        let Some(row) = self.row::<records::ReaderGroup>(&key).await? else {
            return Ok(None);
        };
        let config = row.value.config;
        let value = config.ok_or_else(|| Damaged::new(&key, "holds no configuration"))?;
        let revision = row.revision;
        Ok(Some(Row { value, revision }))
    }
}

pub(crate) fn parse_id(key: &str, text: &str) -> std::result::Result<StreamId, Damaged> {
    StreamId::parse(text).ok_or_else(|| Damaged::new(key, format!("stream id {text:?}")))
}

fn parse_segments(key: &str, segments: &[records::SegmentRecord]) -> Result<Vec<Segment>> {
    let segments = segments.iter().map(|segment| {
        let id = SegmentId::parse(segment.id);
        let id = id.ok_or_else(|| Damaged::new(key, format!("segment id {}", segment.id)))?;
        let range = KeyRange::from_f64(segment.start, segment.end);
        let range = range.map_err(|error| Damaged::new(key, error))?;
        Ok(Segment { id, range })
    });
    segments.collect()
}

fn parse_transition(key: &str, number: i32, record: records::EpochRecord) -> Result<Transition> {
    Ok(Transition {
        number,
        reference: record.reference,
        created_ms: record.created_ms,
        sealed: parse_segments(key, &record.sealed)?,
        added: parse_segments(key, &record.added)?,
    })
}

/// Reads an epoch that a work row says is about to begin.
pub(crate) fn parse_next(key: &str, next: Option<&records::NextEpoch>) -> Result<Transition> {
    let next = next.ok_or_else(|| Damaged::new(key, "names no epoch"))?;
    let record = next.epoch.clone();
    let record = record.ok_or_else(|| Damaged::new(key, "holds no epoch"))?;
    parse_transition(key, next.number, record)
}

/// Returns the epochs that a work row is about to begin.
pub(crate) fn pending(key: &str, work: &records::Work) -> Result<Vec<Transition>> {
    let next: Vec<_> = match &work.job {
        Some(records::Job::Scale(job)) => vec![&job.next],
        Some(records::Job::Update(job)) => job.scale.iter().map(|scale| &scale.next).collect(),
        Some(records::Job::Roll(job)) => return Ok(parse_roll(key, job)?.into()),
        _ => Vec::new(),
    };
    let next = next.into_iter();
    next.map(|next| parse_next(key, next.as_ref())).collect()
}

/// Reads the two epochs of a rolling commit. The second one ends what begins with the first, and has again
/// what that ends; so a record need not have its segments, and has them if an earlier version wrote it.
pub(crate) fn parse_roll(key: &str, job: &records::RollJob) -> Result<[Transition; 2]> {
    let merged = parse_next(key, job.merged.as_ref())?;
    let mut resumed = parse_next(key, job.resumed.as_ref())?;
    if resumed.sealed.is_empty() {
        resumed.sealed.clone_from(&merged.added);
        resumed.added = repeated(&merged.sealed, resumed.number);
    }
    Ok([merged, resumed])
}

/// Turns an epoch about to begin into its record.
pub(crate) fn next_record(transition: &Transition) -> records::NextEpoch {
    records::NextEpoch {
        number: transition.number,
        epoch: Some(epoch_record(transition)),
    }
}

/// Turns a change into its record.
pub(crate) fn epoch_record(transition: &Transition) -> records::EpochRecord {
    records::EpochRecord {
        reference: transition.reference,
        created_ms: transition.created_ms,
        added: segment_records(&transition.added),
        sealed: segment_records(&transition.sealed),
    }
}

/// Turns the active epoch into its record.
pub(crate) fn active_record(epoch: &Epoch) -> records::ActiveEpoch {
    records::ActiveEpoch {
        number: epoch.number,
        reference: epoch.reference,
        created_ms: epoch.created_ms,
        segments: segment_records(&epoch.segments),
    }
}

fn segment_records(segments: &[Segment]) -> Vec<records::SegmentRecord> {
    let segments = segments.iter().map(|segment| records::SegmentRecord {
        id: segment.id.0,
        start: segment.range.start().to_f64(),
        end: segment.range.end().to_f64(),
    });
    segments.collect()
}

/// Turns a cut into its record.
pub(crate) fn truncation_record(cut: &Cut) -> records::Truncation {
    records::Truncation {
        cut: cut.iter().map(|(id, offset)| (id.0, *offset)).collect(),
    }
}

/// Turns a state into its record.
pub(crate) fn state_record(status: &Status, state: State) -> records::StreamState {
    let state = match state {
        State::Creating => records::State::Creating,
        State::Active => records::State::Active,
        State::Sealing => records::State::Sealing,
        State::Sealed => records::State::Sealed,
        State::Deleting => records::State::Deleting,
    };
    records::StreamState {
        state: state as i32,
        active_epoch: status.active_epoch,
        reference_epoch: status.reference_epoch,
        created_ms: status.created_ms,
        next_number: status.next_number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(epoch: i32, number: i32, start: f64, end: f64) -> Segment {
        Segment {
            id: SegmentId::new(epoch, number),
            range: KeyRange::from_f64(start, end).unwrap(),
        }
    }

    /// Earlier versions wrote the segments of the second epoch too.
    #[test]
    fn a_rolling_commit_is_read_with_and_without_the_segments_of_its_second_epoch() {
        let merged = Transition {
            number: 4,
            reference: 0,
            created_ms: 7,
            sealed: vec![segment(3, 1, 0.0, 0.5), segment(1, 2, 0.5, 1.0)],
            added: vec![segment(4, 0, 0.0, 1.0)],
        };
        let resumed = Transition {
            number: 5,
            reference: 3,
            created_ms: 7,
            sealed: merged.added.clone(),
            added: vec![segment(5, 1, 0.0, 0.5), segment(5, 2, 0.5, 1.0)],
        };
        let mut job = records::RollJob {
            merged: Some(next_record(&merged)),
            resumed: Some(next_record(&resumed)),
            ..records::RollJob::default()
        };
        let read = [merged, resumed];
        assert_eq!(parse_roll("w", &job), Ok(read.clone()));
        let short = Transition {
            sealed: Vec::new(),
            added: Vec::new(),
            ..read[1].clone()
        };
        job.resumed = Some(next_record(&short));
        assert_eq!(parse_roll("w", &job), Ok(read));
    }
}
