//! The handle of a container: every verb but appends, which enter by an [`Appender`].
//!
//! Reads and look-ups answer from durable state at once; changes go through the sequencer and answer
//! when they are durable. Handles are cheap to clone and hold nothing open.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use sarit_proto::ids::{AttributeId, ContainerId, Offset};
use sarit_proto::names::is_transient;
use sarit_proto::wire::field::{TableEntry, TableKey};
use sarit_wal::Wal;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::index::snapshot::Snapshot;
use crate::pipeline::reply::{Caller, Destination};
use crate::pipeline::{Filler, Request, Wish};
use crate::read::reader;
use crate::read::turns::{Turn, Turns};
use crate::shared::Shared;
use crate::state::{Seeded, Segment, check_sources};
use crate::tables::{Delta, Page, Table};
use crate::{
    Appender, AttributeUpdate, Config, ContainerStats, Error, Kind, Outcomes, Parts, Read, Running,
    SegmentInfo, TableInfo, lifecycle, residents,
};

/// Transient segments deleted side by side at the start.
const SWEPT_AT_ONCE: usize = 256;
/// Most bytes of table entries in one answer, about.
const TABLE_BYTES_MAX: usize = 2 << 20;

/// A handle of a container: the owner of many segments and one log. Clones are the same container.
#[derive(Clone, Debug)]
pub struct Container(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    fillers: mpsc::Sender<Filler>,
    pub(crate) requests: mpsc::Sender<Request>,
    ended: CancellationToken,
    next_appender: AtomicU64,
}

impl Container {
    /// Opens the log, recovers, serves. From then on no other owner of this container can write.
    ///
    /// # Errors
    /// The log's; [`Error::Broken`] if the log does not make sense. Nothing was changed then.
    pub async fn open(
        id: ContainerId,
        wal: &Wal,
        parts: Parts,
        config: Config,
    ) -> Result<(Self, Running), Error> {
        lifecycle::open(id, wal, parts, config).await
    }

    pub(crate) fn new(
        shared: Arc<Shared>,
        fillers: mpsc::Sender<Filler>,
        requests: mpsc::Sender<Request>,
        ended: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            shared,
            fillers,
            requests,
            ended,
            next_appender: AtomicU64::new(0),
        }))
    }

    /// Returns which container this is.
    pub fn id(&self) -> ContainerId {
        self.0.shared.id
    }

    /// Returns an entrance for one connection. Its outcomes go to `outcomes`, one message per frame,
    /// bounded by the credit the appends hold.
    pub fn appender(&self, outcomes: mpsc::UnboundedSender<Outcomes>) -> Appender {
        let number = self.0.next_appender.fetch_add(1, Ordering::Relaxed);
        Appender {
            fillers: self.0.fillers.clone(),
            to: Arc::new(Destination {
                number,
                outcomes,
                pins: Mutex::new(HashMap::with_hasher(Seeded(0))),
            }),
            shared: self.0.shared.clone(),
        }
    }

    /// Creates a segment; durable on return.
    ///
    /// # Errors
    /// [`Error::SegmentExists`], [`Error::InvalidArgument`], [`Error::Stopping`],
    /// [`Error::OutcomeUnknown`].
    pub async fn create(
        &self,
        segment: &str,
        kind: Kind,
        attributes: Vec<(AttributeId, i64)>,
    ) -> Result<(), Error> {
        self.ask(segment, |caller| Wish::Create(kind, attributes, caller))
            .await
    }

    /// Refuses appends to a segment from now on and returns its length; durable on return. A sealed
    /// segment stays so.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Unsupported`] for a table, [`Error::Stopping`],
    /// [`Error::OutcomeUnknown`].
    pub async fn seal(&self, segment: &str) -> Result<Offset, Error> {
        self.ask(segment, Wish::Seal).await
    }

    /// Drops what lies below `offset`, which must be in `[start, length]`; durable on return.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::BadOffset`], [`Error::Unsupported`] for a table,
    /// [`Error::Stopping`], [`Error::OutcomeUnknown`].
    pub async fn truncate(&self, segment: &str, offset: Offset) -> Result<(), Error> {
        self.ask(segment, |caller| Wish::Truncate(offset, caller))
            .await
    }

    /// Deletes a segment or table; durable on return, and the name is free.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Stopping`], [`Error::OutcomeUnknown`].
    pub async fn delete(&self, segment: &str) -> Result<(), Error> {
        let empty_table = false;
        self.ask(segment, |caller| Wish::Delete {
            empty_table,
            caller,
        })
        .await
    }

    /// Deletes a table, if wanted only an empty one; durable on return.
    ///
    /// # Errors
    /// As [`Self::delete`], [`Error::TableNotEmpty`], [`Error::Unsupported`] for a stream, and if an
    /// empty one is wanted for a table with keys of fixed length.
    pub async fn delete_table(&self, segment: &str, must_be_empty: bool) -> Result<(), Error> {
        self.table(segment, "deleteTableSegment", |_, _| Ok(()))
            .await?;
        self.ask(segment, |caller| Wish::Delete {
            empty_table: must_be_empty,
            caller,
        })
        .await
    }

    /// Makes `source` the end of `target`, sealed or not, sets attributes of the target with it, and
    /// deletes the source: at once and durable on return. Returns the target's length.
    ///
    /// Asked again within a day, when the source is gone, it answers the same.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentSealed`] of the target, [`Error::AttributeMismatch`],
    /// [`Error::InvalidArgument`] for a truncated source, [`Error::Unsupported`] for a table,
    /// [`Error::Stopping`], [`Error::OutcomeUnknown`].
    pub async fn merge(
        &self,
        target: &str,
        source: &str,
        updates: Vec<AttributeUpdate>,
    ) -> Result<Offset, Error> {
        let (sources, lenient) = (vec![source.into()], false);
        let merged = self.ask(target, |caller| Wish::Merge {
            sources,
            updates,
            lenient,
            caller,
        });
        let lengths = merged.await?;
        Ok(lengths[0])
    }

    /// Merges several sources in order, all or none, and returns the target's length behind each. A
    /// source that is not there counts as merged.
    ///
    /// # Errors
    /// As [`Self::merge`]; [`Error::NoSuchSegment`] only of the target.
    pub async fn merge_batch(
        &self,
        target: &str,
        sources: &[String],
    ) -> Result<Vec<Offset>, Error> {
        // Before their names are brought to memory.
        check_sources(sources.len())?;
        let sources = sources.iter().map(|source| source.as_str().into());
        let (sources, lenient) = (sources.collect(), true);
        let updates = Vec::new();
        self.ask(target, |caller| Wish::Merge {
            sources,
            updates,
            lenient,
            caller,
        })
        .await
    }

    /// Returns what is durable about a segment.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Stopping`].
    pub async fn info(&self, segment: &str) -> Result<SegmentInfo, Error> {
        self.look(segment, |segment| {
            Ok(SegmentInfo {
                length: Offset(segment.length),
                start: Offset(segment.start),
                sealed: segment.sealed,
                last_modified_ms: segment.modified_ms,
                kind: segment.kind,
            })
        })
        .await
    }

    /// Returns the first offset at or behind `offset` at which an append is known to end, or the length.
    ///
    /// Known is about one in a MiB, fewer in large segments.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentTruncated`], [`Error::Unsupported`] for a table,
    /// [`Error::Stopping`].
    pub async fn locate(&self, segment: &str, offset: Offset) -> Result<Offset, Error> {
        self.look(segment, |segment| {
            let name = segment.name.clone();
            match segment.kind {
                Kind::Stream if offset.0 >= segment.start => Ok(Offset(segment.locate(offset.0))),
                Kind::Stream => Err(Error::SegmentTruncated {
                    segment: name,
                    start: Offset(segment.start),
                    given: offset,
                }),
                Kind::Table { .. } => Err(Error::Unsupported {
                    segment: name,
                    operation: "locateOffset",
                }),
            }
        })
        .await
    }

    /// Returns an attribute's durable value, [`sarit_proto::ids::NULL_ATTRIBUTE`] if it is unset.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Stopping`].
    pub async fn attribute(&self, segment: &str, id: AttributeId) -> Result<i64, Error> {
        self.look(segment, |segment| Ok(segment.attribute(id)))
            .await
    }

    /// Sets an attribute if it has the value `expected`; durable on return. Returns whether it had.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentSealed`], [`Error::Stopping`],
    /// [`Error::OutcomeUnknown`].
    pub async fn update_attribute(
        &self,
        segment: &str,
        id: AttributeId,
        new: i64,
        expected: i64,
    ) -> Result<bool, Error> {
        self.ask(segment, |caller| {
            Wish::UpdateAttribute(id, new, expected, caller)
        })
        .await
    }

    /// Sets the attributes that say how the segment scales; durable on return.
    ///
    /// # Errors
    /// As [`Self::update_attribute`].
    pub async fn update_policy(
        &self,
        segment: &str,
        scale_type: u8,
        target_rate: i32,
    ) -> Result<(), Error> {
        let attributes = vec![
            (AttributeId::SCALE_POLICY_TYPE, i64::from(scale_type)),
            (AttributeId::SCALE_POLICY_RATE, i64::from(target_rate)),
        ];
        self.ask(segment, |caller| {
            Wish::OverwriteAttributes(attributes, caller)
        })
        .await
    }

    /// Reads up to `max` bytes from `offset` on; may return fewer.
    ///
    /// At the tail of an open segment it waits until bytes come ([`Error::SegmentSealed`] if it is
    /// sealed instead, an empty read if it is deleted), at most for `wait`: then the read is empty. At
    /// or behind the end of a sealed segment it is empty at once, with `end_of_segment`. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentTruncated`], [`Error::SegmentSealed`] after a wait,
    /// [`Error::Unsupported`] for a table, [`Error::Stopping`], the log's.
    pub async fn read(
        &self,
        segment: &str,
        offset: Offset,
        max: usize,
        wait: Duration,
    ) -> Result<Read, Error> {
        self.alive()?;
        let read = reader::read(&self.0.shared, segment, offset, max, wait, None).await;
        read.map(|(read, _)| read)
    }

    /// Does what [`Self::read`] does for a peer with other answers under way: data is fetched in one of
    /// `turns`, and held until the [`Turn`] that comes with it is dropped. None is held while it waits for bytes.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub async fn read_in_turn(
        &self,
        segment: &str,
        offset: Offset,
        max: usize,
        wait: Duration,
        turns: &Turns,
    ) -> Result<(Read, Option<Turn>), Error> {
        self.alive()?;
        reader::read(&self.0.shared, segment, offset, max, wait, Some(turns)).await
    }

    /// Sets entries of a table, all or none, and returns the version of each; durable on return.
    ///
    /// Versions are compared with the table before the batch. A key may appear more than once; the
    /// last one stays. With `expected_length` the table must have that length.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Unsupported`] for a stream, [`Error::BadOffset`],
    /// [`Error::KeyDoesNotExist`], [`Error::KeyBadVersion`], [`Error::InvalidArgument`],
    /// [`Error::Stopping`], [`Error::OutcomeUnknown`].
    pub async fn table_update(
        &self,
        segment: &str,
        entries: Vec<TableEntry>,
        expected_length: Option<i64>,
    ) -> Result<Vec<i64>, Error> {
        self.ask(segment, |caller| {
            Wish::TableUpdate(entries, expected_length, caller)
        })
        .await
    }

    /// Removes keys of a table, all or none; durable on return. Removing an absent key succeeds.
    ///
    /// # Errors
    /// As [`Self::table_update`].
    pub async fn table_remove(
        &self,
        segment: &str,
        keys: Vec<TableKey>,
        expected_length: Option<i64>,
    ) -> Result<(), Error> {
        self.ask(segment, |caller| {
            Wish::TableRemove(keys, expected_length, caller)
        })
        .await
    }

    /// Returns the durable entries of these keys; an absent one with version
    /// [`TableKey::NOT_EXISTS`] and no value.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Unsupported`] for a stream, [`Error::InvalidArgument`] for a
    /// key of a length that no key has, [`Error::Stopping`].
    pub async fn table_get(&self, segment: &str, keys: &[Bytes]) -> Result<Vec<TableEntry>, Error> {
        self.table(segment, "readTable", |segment, table| {
            check_keys(segment, keys)?;
            Ok(keys.iter().map(|key| table.get(key)).collect())
        })
        .await
    }

    /// Returns the next entries of a table and the token to go on with; no entries at the end.
    ///
    /// A table with keys of fixed length goes on behind a key, others behind a token.
    ///
    /// # Errors
    /// As [`Self::table_get`]; [`Error::InvalidArgument`] for bounds the wrong way round, for bounds or
    /// a token where the other is used, and for a foreign token.
    pub async fn table_entries(
        &self,
        segment: &str,
        from: Page,
    ) -> Result<(Vec<TableEntry>, Bytes), Error> {
        self.table(segment, "readTableEntries", |segment, table| {
            let refuse = |what: &str| Error::InvalidArgument(what.to_owned());
            let Page {
                token,
                from_key,
                to_key,
                count,
            } = &from;
            let page = if key_length(segment) > 0 {
                let bounds = [from_key, to_key].into_iter();
                check_keys(segment, bounds.filter(|key| !key.is_empty()))?;
                if !token.is_empty() {
                    return Err(refuse(
                        "a continuation token on a table with fixed-length keys",
                    ));
                }
                table.range(from_key, to_key, *count, TABLE_BYTES_MAX)
            } else {
                if !from_key.is_empty() || !to_key.is_empty() {
                    return Err(refuse("bounds on a table without order"));
                }
                table.page(token, *count, TABLE_BYTES_MAX)
            };
            page.map_err(refuse)
        })
        .await
    }

    /// Returns what changed in a table since a position, at most `count` entries.
    ///
    /// # Errors
    /// As [`Self::table_get`]; [`Error::InvalidArgument`] for a position outside of the table,
    /// [`Error::Unsupported`] for one with keys of fixed length.
    pub async fn table_delta(
        &self,
        segment: &str,
        from: i64,
        count: usize,
    ) -> Result<Delta, Error> {
        self.table(segment, "readTableEntriesDelta", |segment, table| {
            if key_length(segment) > 0 {
                return Err(Error::Unsupported {
                    segment: segment.name.clone(),
                    operation: "readTableEntriesDelta",
                });
            }
            let position = u64::try_from(from).ok();
            let position = position.filter(|position| *position <= segment.length);
            let position = position.ok_or_else(|| {
                let length = segment.length;
                Error::InvalidArgument(format!("position {from} of a table of length {length}"))
            })?;
            Ok(table.delta(position, segment.length, count, TABLE_BYTES_MAX))
        })
        .await
    }

    /// Returns what is durable about a table.
    ///
    /// # Errors
    /// As [`Self::table_get`].
    pub async fn table_info(&self, segment: &str) -> Result<TableInfo, Error> {
        self.table(segment, "getTableSegmentInfo", |segment, table| {
            Ok(TableInfo {
                length: Offset(segment.length),
                start: Offset(segment.start),
                entries: table.len() as u64,
                key_length: key_length(segment),
            })
        })
        .await
    }

    /// Returns what was counted.
    pub fn stats(&self) -> ContainerStats {
        let shared = &self.0.shared;
        let metrics = &shared.metrics;
        ContainerStats {
            segments: metrics.segments.get(),
            resident: metrics.resident.get(),
            changed: metrics.dirty.get(),
            checkpoints: metrics.checkpoints.get(),
            loads: metrics.loads.get(),
            evictions: metrics.evictions.get(),
            log_kept_from: metrics.kept_from.get(),
            appends: metrics.appends.get(),
            append_bytes: metrics.append_bytes.get(),
            duplicates: metrics.duplicates.get(),
            frames: metrics.frames.get(),
            frame_bytes: metrics.frame_bytes.get(),
            frames_in_flight: metrics.in_flight.get(),
            inbox: (self.0.fillers.max_capacity() - self.0.fillers.capacity()) as u64,
            waiters: shared.waiters.len(),
            merges: metrics.merges.get(),
            merges_remembered: metrics.merged.get(),
            extents: metrics.extents.get(),
            boundaries: metrics.boundaries.get(),
            reread_bytes: metrics.reread_bytes.get(),
            served_frames: metrics.served_frames.get(),
            served_log: metrics.served_log.get(),
            served_packs: metrics.served_packs.get(),
            packs: metrics.packs.get(),
            unflushed: metrics.unflushed.get(),
            flushed_bytes: metrics.flushed_bytes.get(),
            flush_failures: metrics.flush_failures.get(),
            table_entries: metrics.table_entries.get(),
            table_bytes: metrics.table_bytes.get(),
        }
    }

    /// Has everything that is durable now moved to long-term storage, and waits for it, however long that
    /// takes. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without long-term storage, [`Error::Stopping`].
    pub async fn flush(&self) -> Result<(), Error> {
        let shared = &self.0.shared;
        let Some(tier) = &shared.tier else {
            let what = "there is no long-term storage".to_owned();
            return Err(Error::InvalidArgument(what));
        };
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => Err(Error::Stopping),
            () = tier.flush() => Ok(()),
        }
    }

    /// Returns a number that equal durable states share: two containers with the same history, or one
    /// before and after it was opened again. Reads the whole index, and is right only while no
    /// checkpoint is being made: for tests.
    ///
    /// # Errors
    /// The index's.
    pub async fn digest(&self) -> Result<u64, Error> {
        let shared = &self.0.shared;
        let indexed = Snapshot::read(&*shared.index).await?;
        Ok(indexed.with(&shared.state.read()).digest())
    }

    /// Stops: answers everything accepted before, closes the log, returns when that is done. Appends
    /// that wait for room in the log are refused instead. Idempotent; dropping the call does not
    /// undo it.
    pub async fn stop(&self) {
        self.0.shared.stopping.cancel();
        self.0.ended.cancelled().await;
    }

    /// Deletes the transient segments of connections that ended with the owner before.
    pub(crate) async fn sweep(&self) {
        let orphans = {
            let state = self.0.shared.state.read();
            let names = state.segments().map(|(_, segment)| segment.name.clone());
            names.filter(|name| is_transient(name)).collect::<Vec<_>>()
        };
        if orphans.is_empty() {
            return;
        }
        for some in orphans.chunks(SWEPT_AT_ONCE) {
            let deletions = some.iter().map(|name| self.delete(name));
            for deleted in join_all(deletions).await {
                if let Err(error) = deleted {
                    // The container fails; its next start tries again.
                    tracing::warn!(container = %self.id(), %error, "transient segments are left");
                    return;
                }
            }
        }
        let count = orphans.len();
        tracing::info!(container = %self.id(), count, "transient segments of before deleted");
    }

    async fn ask<T>(
        &self,
        segment: &str,
        wish: impl FnOnce(Caller<T>) -> Wish,
    ) -> Result<T, Error> {
        self.alive()?;
        let shared = &self.0.shared;
        let segment: Arc<str> = segment.into();
        let mut pins = vec![residents::pin(shared, &segment).await?];
        let (caller, answer) = oneshot::channel();
        let wish = wish(caller);
        for other in wish.others() {
            pins.push(residents::pin(shared, other).await?);
        }
        let request = Request {
            segment,
            wish,
            pins,
        };
        let sent = if request.wish.is_exempt() {
            self.0.requests.send(request).await.is_ok()
        } else {
            let filler = Filler::Request(request);
            self.0.fillers.send(filler).await.is_ok()
        };
        if !sent {
            return Err(Error::Stopping);
        }
        // Without an answer only if the container was ended by force.
        answer.await.unwrap_or(Err(Error::OutcomeUnknown))
    }

    fn alive(&self) -> Result<(), Error> {
        if self.0.shared.stopping.is_cancelled() {
            Err(Error::Stopping)
        } else {
            Ok(())
        }
    }

    async fn look<T>(
        &self,
        name: &str,
        look: impl FnOnce(&Segment) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let shared = &self.0.shared;
        loop {
            self.alive()?;
            {
                let state = shared.state.read();
                if let Some((_, segment)) = state.find(name) {
                    return look(segment);
                }
                if state.knows(name) {
                    return Err(Error::NoSuchSegment(name.into()));
                }
            }
            if !residents::load(shared, name).await? {
                return Err(Error::NoSuchSegment(name.into()));
            }
        }
    }

    async fn table<T>(
        &self,
        name: &str,
        operation: &'static str,
        look: impl FnOnce(&Segment, &Table) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.look(name, |segment| match &segment.table {
            Some(table) => look(segment, table),
            None => Err(Error::Unsupported {
                segment: name.into(),
                operation,
            }),
        })
        .await
    }
}

/// Returns the length that all keys of a table have, 0 for any.
fn key_length(segment: &Segment) -> u16 {
    match segment.kind {
        Kind::Table { key_length } => key_length,
        Kind::Stream => 0,
    }
}

fn check_keys<'a>(
    segment: &Segment,
    keys: impl IntoIterator<Item = &'a Bytes>,
) -> Result<(), Error> {
    let all = usize::from(key_length(segment));
    match keys.into_iter().find(|key| all > 0 && key.len() != all) {
        None => Ok(()),
        Some(key) => {
            let bytes = key.len();
            let what = format!("a key of {bytes} bytes for a table with keys of {all} bytes");
            Err(Error::InvalidArgument(what))
        }
    }
}
