//! The task that turns marks into watermarks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use sarit_client::segment::Numbered;
use sarit_proto::ids::{Offset, WriterId};
use sarit_proto::names::{ScopedStream, StreamSegment};
use sarit_proto::watermark::Watermark;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::record::{MarkRecord, MarksRecord};
use super::rule::{Mark, judge};
use super::{Config, Watermarks};
use crate::metrics;
use crate::segments::{self, SegmentStore};
use crate::store::catalog::{self, PAGE};
use crate::store::keys::{self, StreamId};
use crate::store::records::{Damaged, decode, encode};
use crate::store::{self, Expect, OPERATIONS_MAX, Outcome, Revision, Transaction};

/// Streams judged at once.
const STREAMS_AT_ONCE: usize = 16;
/// The mark stream is cut off when it has grown by this.
const KEPT_BYTES: u64 = 512 << 10;
/// Its length is measured every so many watermarks, each of which has dozens of bytes.
const MEASURED_EVERY: i64 = 256;

/// Why a watermark was not made. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    #[error(transparent)]
    Segments(#[from] segments::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Catalog(error.into())
    }
}

impl From<Damaged> for Error {
    fn from(error: Damaged) -> Self {
        Self::Catalog(error.into())
    }
}

/// The task that makes watermarks.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) watermarks: Watermarks,
    pub(crate) segments: Arc<dyn SegmentStore>,
    pub(crate) config: Config,
}

impl Worker {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let working = async {
            if let Err(error) = self.take_up().await {
                warn!(%error, "writers' marks cannot be read, watermarks wait for new ones");
            }
            let mut ticks = interval(Duration::from_millis(self.config.period_ms));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.look_around().await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = working => {}
        }
    }

    /// Looks at every stream that ever had a mark: something may be left over.
    async fn take_up(&self) -> Result<(), Error> {
        let rows = &self.watermarks.catalog.store;
        let mut after: Option<String> = None;
        loop {
            let page = rows.range(keys::MARKS, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.entries.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (key, row) in page.entries {
                let record: MarksRecord = decode(&key, &row.value)?;
                let stream = record.stream.parse::<ScopedStream>();
                let stream = stream.map_err(|error| Damaged::new(&key, error))?;
                let same = self.watermarks.catalog.visible(&stream).await?;
                match same.map(keys::marks) {
                    Some(same) if same == key => {
                        self.watermarks.waiting.lock().insert(stream);
                    }
                    _ => self.forget(&key).await?,
                }
            }
        }
    }

    /// Removes the rows of a stream that is gone.
    async fn forget(&self, row: &str) -> Result<(), Error> {
        let rows = &self.watermarks.catalog.store;
        if let Some(id) = StreamId::parse(&row[keys::MARKS.len()..]) {
            let prefix = keys::writer_marks(id);
            loop {
                let page = rows.range(&prefix, None, OPERATIONS_MAX).await?;
                if page.entries.is_empty() {
                    break;
                }
                let found = page.entries.into_iter();
                let gone = found.fold(Transaction::new(), |gone, (key, _)| gone.delete(key));
                let _idempotent = rows.commit(gone).await?;
            }
        }
        let _idempotent = rows.commit(Transaction::new().delete(row)).await?;
        Ok(())
    }

    async fn look_around(&self) {
        let waiting = std::mem::take(&mut *self.watermarks.waiting.lock());
        metrics::watermark_streams(waiting.len());
        let looks = stream::iter(waiting).map(|stream| {
            let worker = self.clone();
            async move { worker.look_and_remember(stream).await }
        });
        looks
            .buffer_unordered(STREAMS_AT_ONCE)
            .collect::<()>()
            .await;
    }

    /// Looks at a stream, and has it looked at again if need be.
    async fn look_and_remember(&self, stream: ScopedStream) {
        match self.look_at(&stream).await {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                debug!(%stream, %error, "no watermark now");
                metrics::watermark_failed();
            }
        }
        self.watermarks.waiting.lock().insert(stream);
    }

    /// Makes the stream's next watermark, if there is one. Returns whether to look again.
    async fn look_at(&self, stream: &ScopedStream) -> Result<bool, Error> {
        let catalog = &self.watermarks.catalog;
        let Some(id) = catalog.visible(stream).await? else {
            // Its rows go at the next start, or with its name's next holder.
            return Ok(false);
        };
        let key = keys::marks(id);
        let Some(row) = catalog.row::<MarksRecord>(&key).await? else {
            return Ok(false);
        };
        let (mut record, mut revision) = (row.value, row.revision);
        if record.pending {
            // A crash, or a store that was away.
            (record, revision) = match self.append(stream, id, &record, revision).await? {
                Some(appended) => appended,
                None => return Ok(true),
            };
        }
        let marks = self.watermarks.marks(id).await?;
        let timeout_ms = catalog
            .config(id)
            .await?
            .value
            .timestamp_aggregation_timeout;
        let epochs = catalog.epochs(id).await?;
        let epoch_of = |number| epochs.at(number).map(|epoch| epoch.segments);
        let before = record.watermark();
        let now_ms = self.watermarks.clock.now_ms();
        let outcome = judge(&marks, before.as_ref(), timeout_ms, now_ms, epoch_of);
        if !outcome.forgotten.is_empty() {
            self.forget_writers(id, &marks, &outcome.forgotten).await?;
        }
        let Some(watermark) = outcome.watermark else {
            return Ok(outcome.again);
        };
        let next = record.next(&watermark);
        let put = Transaction::new()
            .expect(&key, Expect::At(revision))
            .put(&key, encode(&next));
        let Outcome::Committed(revision) = catalog.store.commit(put).await? else {
            return Ok(true);
        };
        self.append(stream, id, &next, revision).await?;
        Ok(outcome.again)
    }

    /// Forgets writers, unless they noted something meanwhile.
    async fn forget_writers(
        &self,
        id: StreamId,
        marks: &BTreeMap<String, Mark>,
        writers: &[String],
    ) -> Result<(), Error> {
        let catalog = &self.watermarks.catalog;
        for writer in writers {
            let key = keys::writer_mark(id, writer);
            let Some(row) = catalog.row::<MarkRecord>(&key).await? else {
                continue;
            };
            if marks.get(writer) == Some(&row.value.mark()) {
                let gone = Transaction::new()
                    .expect(&key, Expect::At(row.revision))
                    .delete(&key);
                let _or_noted_again = catalog.store.commit(gone).await?;
            }
        }
        Ok(())
    }

    /// Appends the watermark of `record` to the mark stream. Returns the row as it is then, or `None` if
    /// somebody else changed it.
    async fn append(
        &self,
        stream: &ScopedStream,
        id: StreamId,
        record: &MarksRecord,
        revision: Revision,
    ) -> Result<Option<(MarksRecord, Revision)>, Error> {
        let catalog = &self.watermarks.catalog;
        let mut done = record.clone();
        done.pending = false;
        if let (Some(segment), Some(watermark)) =
            (self.mark_segment(stream).await?, record.watermark())
        {
            let appended = self
                .append_once(&segment, id, record.number, &watermark)
                .await;
            match appended {
                // Deleted or sealed behind our back: there is nobody to tell.
                Err(
                    segments::Error::Missing(_)
                    | segments::Error::Sealed(_)
                    | segments::Error::Refused(_),
                ) => {
                    debug!(%stream, "the mark stream takes no watermarks");
                }
                appended => {
                    appended?;
                    metrics::watermark_made();
                    self.cut_off(&segment, &mut done).await?;
                }
            }
        }
        let key = keys::marks(id);
        let put = Transaction::new()
            .expect(&key, Expect::At(revision))
            .put(&key, encode(&done));
        match catalog.store.commit(put).await? {
            Outcome::Committed(revision) => Ok(Some((done, revision))),
            Outcome::Conflict => Ok(None),
        }
    }

    async fn append_once(
        &self,
        segment: &StreamSegment,
        id: StreamId,
        number: i64,
        watermark: &Watermark,
    ) -> Result<(), segments::Error> {
        let event = Numbered {
            writer: WriterId(id.0),
            number,
            payload: watermark.encode(),
        };
        self.segments
            .append_once(&segment.to_string(), &event)
            .await
    }

    async fn mark_segment(&self, stream: &ScopedStream) -> Result<Option<StreamSegment>, Error> {
        let catalog = &self.watermarks.catalog;
        let mark = stream.mark();
        let Some(id) = catalog.visible(&mark).await? else {
            return Ok(None);
        };
        let epoch = catalog.active(id).await?;
        Ok(epoch
            .segments
            .first()
            .map(|segment| mark.segment(segment.id)))
    }

    /// Keeps the mark stream short. It is cut where a watermark begins.
    async fn cut_off(
        &self,
        segment: &StreamSegment,
        record: &mut MarksRecord,
    ) -> Result<(), Error> {
        if record.number % MEASURED_EVERY != 0 {
            return Ok(());
        }
        let length = self.segments.extent(&segment.to_string()).await?.length.0;
        if length < record.newer + KEPT_BYTES {
            return Ok(());
        }
        if record.older > 0 {
            self.segments
                .truncate(&segment.to_string(), Offset(record.older))
                .await?;
        }
        (record.older, record.newer) = (record.newer, length);
        Ok(())
    }
}
