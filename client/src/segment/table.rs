//! Calls on table segments: create, put, remove, read, walk through, delete.
//!
//! They retry as the calls on other segments do, see [`admin`](super::admin): a conditional change is
//! repeated only while it cannot have arrived, another one only while it cannot arrive late.

use bytes::Bytes;
use sarit_proto::ids::Offset;
use sarit_proto::wire::field::{IteratorArgs, TableEntry, TableKey};
use sarit_proto::wire::{Reply, command};

use super::Segments;
use super::admin::{Repeat, created, deleted, unexpected, unsigned};
use crate::Error;

/// What a table segment's keys look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKeys {
    /// Any length; pages come in no order and are resumed by token.
    AnyLength,
    /// All of this many bytes, 1 to 256; pages are sorted and may have bounds.
    Fixed(u16),
}

/// Which page of a table to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where the previous page ended; empty at first. Only with [`TableKeys::AnyLength`].
    pub token: Bytes,
    /// First key, inclusive; empty for the very first. Only with [`TableKeys::Fixed`].
    pub from_key: Bytes,
    /// Last key, inclusive; empty for the very last. Only with [`TableKeys::Fixed`].
    pub to_key: Bytes,
    /// How many entries to aim at.
    pub count: i32,
}

/// What changed in a table since a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDelta {
    /// The latest entry of each key that changed.
    pub entries: Vec<TableEntry>,
    /// Whether older knowledge must be thrown away first.
    pub should_clear: bool,
    /// Whether nothing is left to read.
    pub reached_end: bool,
    /// Where to go on.
    pub last_position: i64,
}

/// A table segment's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// The first offset kept.
    pub start: Offset,
    /// The offset after the last byte.
    pub length: Offset,
    /// Entries, as far as they are counted yet.
    pub entries: i64,
    /// Bytes of a key, 0 for any.
    pub key_length: i32,
}

/// Whether a table may be deleted with entries in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptiness {
    /// Only without entries.
    Empty,
    /// With whatever is in it.
    Any,
}

impl Segments {
    /// Creates a table segment. Returns whether it is new; an existing one is left alone.
    ///
    /// # Errors
    /// [`Error::Refused`] for an impossible key length, and those of [`Error`].
    pub async fn create_table(&self, segment: &str, keys: TableKeys) -> Result<bool, Error> {
        let key_length = match keys {
            TableKeys::AnyLength => 0,
            TableKeys::Fixed(length) => i32::from(length),
        };
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::CreateTableSegment {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    sorted: false,
                    key_length,
                    rollover_size: 0,
                }
                .into()
            })
            .await;
        created(reply)
    }

    /// Deletes a table segment, if asked only an empty one. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::TableNotEmpty`], and those of [`Error`].
    pub async fn delete_table(&self, segment: &str, only_if: Emptiness) -> Result<bool, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::DeleteTableSegment {
                    request_id,
                    segment: segment.to_owned(),
                    must_be_empty: only_if == Emptiness::Empty,
                    token: String::new(),
                }
                .into()
            })
            .await;
        deleted(reply)
    }

    /// Puts entries into a table, all or none; a key's version is a condition. Returns the new versions.
    ///
    /// # Errors
    /// [`Error::KeyBadVersion`], [`Error::KeyDoesNotExist`]; [`Error::OutcomeUnknown`] if there was a
    /// condition and the reply was lost, or none and the store kept silent: read the keys, the change may
    /// also come later; and those of [`Error`].
    pub async fn table_update(
        &self,
        segment: &str,
        entries: Vec<TableEntry>,
    ) -> Result<Vec<i64>, Error> {
        let repeat = repeat_of(entries.iter().map(|entry| &entry.key));
        let reply = self
            .ask(segment, repeat, |request_id| {
                command::UpdateTableEntries {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    entries: entries.clone(),
                    expected_length: -1,
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableEntriesUpdated(updated))) => Ok(updated.versions),
            other => Err(unexpected(other)),
        }
    }

    /// Removes keys from a table, all or none; a key's version is a condition.
    ///
    /// # Errors
    /// As [`Segments::table_update`].
    pub async fn table_remove(&self, segment: &str, keys: Vec<TableKey>) -> Result<(), Error> {
        let repeat = repeat_of(keys.iter());
        let reply = self
            .ask(segment, repeat, |request_id| {
                command::RemoveTableKeys {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    keys: keys.clone(),
                    expected_length: -1,
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableKeysRemoved(_))) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Reads the values of `keys`, one per key in their order; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn table_read(
        &self,
        segment: &str,
        keys: Vec<Bytes>,
    ) -> Result<Vec<Option<TableEntry>>, Error> {
        let wanted = keys.len();
        let keys: Vec<_> = keys.into_iter().map(unconditional).collect();
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTable {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    keys: keys.clone(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableRead(read))) if read.entries.len() == wanted => Ok(read
                .entries
                .into_iter()
                .map(|entry| (entry.key.version != TableKey::NOT_EXISTS).then_some(entry))
                .collect()),
            other => Err(unexpected(other)),
        }
    }

    /// Reads a page of keys with their versions, and the token of the next page. No keys: the end.
    ///
    /// # Errors
    /// [`Error::Refused`] if token or bounds don't fit the table, and those of [`Error`].
    pub async fn table_keys(
        &self,
        segment: &str,
        page: Page,
    ) -> Result<(Vec<TableKey>, Bytes), Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTableKeys {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    suggested_count: page.count,
                    args: page.args(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableKeysRead(read))) => Ok((read.keys, read.continuation_token)),
            other => Err(unexpected(other)),
        }
    }

    /// Reads a page of entries, and the token of the next page. No entries: the end.
    ///
    /// # Errors
    /// As [`Segments::table_keys`].
    pub async fn table_entries(
        &self,
        segment: &str,
        page: Page,
    ) -> Result<(Vec<TableEntry>, Bytes), Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTableEntries {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    suggested_count: page.count,
                    args: page.args(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableEntriesRead(read))) => Ok((read.entries, read.continuation_token)),
            other => Err(unexpected(other)),
        }
    }

    /// Reads what changed in a table since `from`, about `count` entries.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for tables of fixed key length, and those of [`Error`].
    pub async fn table_delta(
        &self,
        segment: &str,
        from: i64,
        count: i32,
    ) -> Result<TableDelta, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTableEntriesDelta {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    from_position: from,
                    suggested_count: count,
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableEntriesDeltaRead(read))) => Ok(TableDelta {
                entries: read.entries,
                should_clear: read.should_clear,
                reached_end: read.reached_end,
                last_position: read.last_position,
            }),
            other => Err(unexpected(other)),
        }
    }

    /// Reads a table segment's numbers.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn table_info(&self, segment: &str) -> Result<TableInfo, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::GetTableSegmentInfo {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableSegmentInfo(info))) => Ok(TableInfo {
                start: unsigned(info.start_offset),
                length: unsigned(info.length),
                entries: info.entry_count,
                key_length: info.key_length,
            }),
            other => Err(unexpected(other)),
        }
    }
}

impl Page {
    fn args(&self) -> IteratorArgs {
        IteratorArgs {
            continuation_token: self.token.clone(),
            prefix: Bytes::new(),
            from_key: self.from_key.clone(),
            to_key: self.to_key.clone(),
        }
    }
}

fn unconditional(key: Bytes) -> TableKey {
    TableKey {
        key,
        version: TableKey::NO_VERSION,
    }
}

fn repeat_of<'a>(mut keys: impl Iterator<Item = &'a TableKey>) -> Repeat {
    if keys.all(|key| key.version == TableKey::NO_VERSION) {
        Repeat::InOrder
    } else {
        Repeat::Unsafe
    }
}
