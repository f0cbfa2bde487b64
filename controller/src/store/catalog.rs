//! Typed reads of the records: the one place that turns rows into values.

use std::sync::Arc;

use sarit_proto::controller::{ReaderGroupConfiguration, StreamConfig};
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};

use super::keys::{self, StreamId};
use super::records::{self, Damaged};
use super::{MetaStore, Revision};
use crate::stream::epoch::{Epoch, Epochs, Segment};
use crate::stream::lifecycle::State;
use crate::stream::stream_cuts::{self, Cut};

/// Most rows fetched at once.
pub(crate) const PAGE: usize = 1000;

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
    pub(crate) revision: Revision,
}

type Result<T> = std::result::Result<T, Error>;

impl Catalog {
    pub(crate) fn new(store: Arc<dyn MetaStore>) -> Self {
        Self { store }
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

    pub(crate) async fn scope(&self, scope: &ScopeName) -> Result<Option<Revision>> {
        let row = self.row::<records::Scope>(&keys::scope(scope)).await?;
        Ok(row.map(|row| row.revision))
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

    pub(crate) async fn epoch(&self, id: StreamId, number: i32) -> Result<Option<Epoch>> {
        let key = keys::epoch(id, number);
        let row = self.row::<records::EpochRecord>(&key).await?;
        row.map(|row| parse_epoch(&key, number, row.value))
            .transpose()
    }

    /// Returns the epoch that a record says is there.
    pub(crate) async fn known_epoch(&self, id: StreamId, number: i32) -> Result<Epoch> {
        let epoch = self.epoch(id, number).await?;
        Ok(epoch.ok_or_else(|| Damaged::new(&keys::epoch(id, number), "is missing"))?)
    }

    /// Returns all epochs of a stream.
    pub(crate) async fn epochs(&self, id: StreamId) -> Result<Epochs> {
        let prefix = keys::epochs(id);
        let mut epochs = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.range(&prefix, after.as_deref(), PAGE).await?;
            let full = page.entries.len() == PAGE;
            for (key, row) in page.entries {
                let number = i32::from_str_radix(&key[prefix.len()..], 16);
                let number = number.map_err(|error| Damaged::new(&key, error))?;
                let record = records::decode(&key, &row.value)?;
                epochs.push(parse_epoch(&key, number, record)?);
                after = Some(key);
            }
            if !full {
                let epochs = Epochs::new(epochs);
                return Ok(epochs.map_err(|reason| Damaged::new(&prefix, reason))?);
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

fn parse_epoch(key: &str, number: i32, record: records::EpochRecord) -> Result<Epoch> {
    let segments = record.segments.iter().map(|segment| {
        let id = SegmentId::parse(segment.id);
        let id = id.ok_or_else(|| Damaged::new(key, format!("segment id {}", segment.id)))?;
        let range = KeyRange::from_f64(segment.start, segment.end);
        let range = range.map_err(|error| Damaged::new(key, error))?;
        Ok(Segment { id, range })
    });
    Ok(Epoch {
        number,
        reference: record.reference,
        created_ms: record.created_ms,
        segments: segments.collect::<Result<_>>()?,
    })
}

/// Turns an epoch into its record.
pub(crate) fn epoch_record(epoch: &Epoch) -> records::EpochRecord {
    let segments = epoch.segments.iter().map(|segment| records::SegmentRecord {
        id: segment.id.0,
        start: segment.range.start().to_f64(),
        end: segment.range.end().to_f64(),
    });
    records::EpochRecord {
        reference: epoch.reference,
        created_ms: epoch.created_ms,
        segments: segments.collect(),
    }
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
    }
}
