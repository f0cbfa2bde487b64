//! Watermarks: from what writers note to what readers find in a stream's mark stream.
//!
//! A note becomes a row of its writer, durable before it is answered ([`Watermarks::note`]). Once a
//! period the streams with something new are judged (`rule`); a new watermark is written into the
//! stream's row first and appended to its mark stream then, under a number of its own, so that a crash
//! in between neither loses nor doubles it. Rows of streams that are gone are removed when they are
//! next looked at. The mark stream keeps the newest half to whole megabyte.
//!
//! Stopping loses nothing but time.

mod record;
mod rule;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sarit_env::Clock;
use sarit_proto::ids::SegmentId;
use sarit_proto::names::ScopedStream;
use serde::{Deserialize, Serialize};

use self::record::{MarkRecord, MarksRecord};
use self::rule::{Backwards, Mark};
use crate::store::catalog::{self, Catalog, PAGE};
use crate::store::keys::{self, StreamId};
use crate::store::records::{decode, encode};
use crate::store::{Expect, Outcome, Transaction};

pub(crate) use self::worker::Worker;

/// Longest name of a writer, in bytes; part of a key.
const WRITER_BYTES_MAX: usize = 255;
/// Most writers of one stream that may have noted time.
const WRITERS_MAX: usize = 10_000;
/// Largest position, in segments: no epoch has more.
const POSITION_MAX: usize = 10_000;
/// How often a note is taken anew because something else changed first.
const CONFLICTS_MAX: usize = 20;

/// How watermarks are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Milliseconds between two watermarks of a stream, at least; 100 or more. Less brings readers'
    /// time windows closer to the writers' and costs two syncs for every watermark.
    pub period_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { period_ms: 1_000 }
    }
}

impl Config {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match self.period_ms {
            100.. => Ok(()),
            period => Err(format!(
                "setting watermarks.period_ms is {period}, it must be at least 100"
            )),
        }
    }
}

/// What comes of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    Taken,
    TimeBack,
    PositionBack,
    NoStream,
    TooManyWriters,
    /// Others change the same all the time: ask again.
    Busy,
}

/// What comes of a writer's goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    Done,
    Unknown,
    /// Others change the same all the time: ask again.
    Busy,
}

/// Notes and watermarks. Clones share them.
#[derive(Clone)]
pub(crate) struct Watermarks {
    catalog: Catalog,
    clock: Clock,
    /// Streams to look at: something was noted, or time alone may change something.
    waiting: Arc<Mutex<BTreeSet<ScopedStream>>>,
}

impl Watermarks {
    pub(crate) fn new(catalog: Catalog, clock: Clock) -> Self {
        Self {
            catalog,
            clock,
            waiting: Arc::default(),
        }
    }

    /// Takes a writer's note; durable on return.
    ///
    /// # Errors
    /// The records cannot be read or written.
    pub(crate) async fn note(
        &self,
        stream: &ScopedStream,
        writer: &str,
        time: i64,
        position: &BTreeMap<i64, i64>,
    ) -> Result<Noted, catalog::Error> {
        let position = position
            .iter()
            .map(|(id, offset)| (SegmentId(*id), *offset));
        let mark = Mark {
            time,
            position: position.collect(),
            noted_ms: self.clock.now_ms(),
            gone: false,
        };
        for _ in 0..CONFLICTS_MAX {
            let Some(id) = self.catalog.visible(stream).await? else {
                return Ok(Noted::NoStream);
            };
            let key = keys::writer_mark(id, writer);
            let row = self.catalog.row::<MarkRecord>(&key).await?;
            let expect = row
                .as_ref()
                .map_or(Expect::Absent, |row| Expect::At(row.revision));
            let before = row.map(|row| row.value.mark());
            let mark = match rule::note(before.as_ref(), mark.clone()) {
                Ok(mark) => mark,
                Err(Backwards::Time) => return Ok(Noted::TimeBack),
                Err(Backwards::Position) => return Ok(Noted::PositionBack),
            };
            if before.is_none() && self.is_crowded(id).await? {
                return Ok(Noted::TooManyWriters);
            }
            let mut put = Transaction::new()
                .expect(&key, expect)
                .put(&key, encode(&MarkRecord::of(&mark)));
            let row = keys::marks(id);
            if self.catalog.store.get(&row).await?.is_none() {
                let first = MarksRecord::new(stream.to_string());
                put = put.expect(&row, Expect::Absent).put(&row, encode(&first));
            }
            if let Outcome::Committed(_) = self.catalog.store.commit(put).await? {
                self.waiting.lock().insert(stream.clone());
                return Ok(Noted::Taken);
            }
        }
        Ok(Noted::Busy)
    }

    async fn is_crowded(&self, id: StreamId) -> Result<bool, catalog::Error> {
        let prefix = keys::writer_marks(id);
        let page = self.catalog.store.range(&prefix, None, WRITERS_MAX).await?;
        Ok(page.entries.len() >= WRITERS_MAX)
    }

    /// Takes a writer's word that nothing more will come of it.
    ///
    /// # Errors
    /// The records cannot be read or written.
    pub(crate) async fn remove(
        &self,
        stream: &ScopedStream,
        writer: &str,
    ) -> Result<Removed, catalog::Error> {
        for _ in 0..CONFLICTS_MAX {
            let Some(id) = self.catalog.visible(stream).await? else {
                return Ok(Removed::Unknown);
            };
            let key = keys::writer_mark(id, writer);
            let Some(row) = self.catalog.row::<MarkRecord>(&key).await? else {
                return Ok(Removed::Unknown);
            };
            let mark = Mark {
                gone: true,
                ..row.value.mark()
            };
            let put = Transaction::new()
                .expect(&key, Expect::At(row.revision))
                .put(&key, encode(&MarkRecord::of(&mark)));
            if let Outcome::Committed(_) = self.catalog.store.commit(put).await? {
                self.waiting.lock().insert(stream.clone());
                return Ok(Removed::Done);
            }
        }
        Ok(Removed::Busy)
    }

    /// Returns whether a note is too large to be taken at all.
    pub(crate) fn is_too_large(writer: &str, position: &BTreeMap<i64, i64>) -> bool {
        writer.is_empty() || writer.len() > WRITER_BYTES_MAX || position.len() > POSITION_MAX
    }

    /// Returns what the writers of a stream noted last.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn marks(
        &self,
        id: StreamId,
    ) -> Result<BTreeMap<String, Mark>, catalog::Error> {
        let prefix = keys::writer_marks(id);
        let mut marks = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .catalog
                .store
                .range(&prefix, after.as_deref(), PAGE)
                .await?;
            let Some((last, _)) = page.entries.last() else {
                return Ok(marks);
            };
            after = Some(last.clone());
            for (key, row) in &page.entries {
                let record: MarkRecord = decode(key, &row.value)?;
                marks.insert(key[prefix.len()..].to_owned(), record.mark());
            }
        }
    }
}
