//! Table segments: keys, versions, pages, deltas. Pure; lives in memory.
//!
//! Two layouts share it all but two things: with keys of any length (the protocol's hash tables) a page
//! goes on behind a token and a removal moves the length; with keys of one length a page goes on behind
//! a key, and a removal does not.
//!
//! A version is the entry's offset in the table's history, which nobody keeps: it only makes versions
//! rise and the length look natural. Two orders over the same entries: by key for lookups and pages, by
//! version for deltas. Conditions were checked before; see `state/admit.rs`.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};

use crate::operation::Changes;

/// First byte of every page token; what follows is the last key of the page.
const TOKEN: u8 = 1;

/// Memory of one entry beside key and value, about.
const ENTRY_OVERHEAD: u64 = 128;

/// One table: its entries as of the last frame applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Whether all keys have the same length.
    fixed: bool,
    entries: BTreeMap<Bytes, Entry>,
    by_version: BTreeMap<u64, Bytes>,
    /// Memory taken by the entries, about.
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    version: u64,
    value: Bytes,
}

/// Which entries a page holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where the page before ended; empty for the first.
    pub token: Bytes,
    /// First key, inclusive; only for tables with fixed-length keys.
    pub from_key: Bytes,
    /// Last key, inclusive; only for tables with fixed-length keys.
    pub to_key: Bytes,
    /// Most entries wanted.
    pub count: usize,
}

/// What changed in a table from a position on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The entries set since and still there, oldest first.
    pub entries: Vec<TableEntry>,
    /// Whether what the caller knows from before is void.
    pub should_clear: bool,
    /// Whether this is all.
    pub reached_end: bool,
    /// Where to go on; 0 if nothing was looked at.
    pub last_position: i64,
}

impl Table {
    /// Creates an empty table, with keys of `fixed` length or any.
    pub(crate) fn new(fixed: bool) -> Self {
        Self {
            fixed,
            entries: BTreeMap::new(),
            by_version: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Applies checked changes and returns by how much the length grows.
    pub(crate) fn apply(&mut self, base: u64, changes: Changes<'_>) -> u64 {
        let mut version = base;
        for change in changes.iter() {
            if let Some(old) = self.entries.remove(change.key) {
                self.by_version.remove(&old.version);
                self.bytes -= ENTRY_OVERHEAD + (change.key.len() + old.value.len()) as u64;
            }
            if let Some(value) = change.value {
                // Copied: a slice would keep the whole frame in memory.
                let (key, value) = copy(change.key, value);
                self.bytes += ENTRY_OVERHEAD + (key.len() + value.len()) as u64;
                self.by_version.insert(version, key.clone());
                self.entries.insert(key, Entry { version, value });
            }
            version += change.size(self.fixed);
        }
        version - base
    }

    /// Puts an entry in place, as the index has it.
    pub(crate) fn restore(&mut self, key: &[u8], version: u64, value: &[u8]) {
        let (key, value) = copy(key, value);
        self.bytes += ENTRY_OVERHEAD + (key.len() + value.len()) as u64;
        self.by_version.insert(version, key.clone());
        self.entries.insert(key, Entry { version, value });
    }

    /// Returns the version and the value of a key.
    pub(crate) fn entry(&self, key: &[u8]) -> Option<(u64, &Bytes)> {
        let entry = self.entries.get(key)?;
        Some((entry.version, &entry.value))
    }

    /// Returns all entries in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Bytes, u64, &Bytes)> {
        let entries = self.entries.iter();
        entries.map(|(key, entry)| (key, entry.version, &entry.value))
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the version of a key.
    pub(crate) fn version(&self, key: &[u8]) -> Option<u64> {
        self.entries.get(key).map(|entry| entry.version)
    }

    /// Returns a key with its version and value; an absent one with `NOT_EXISTS` and no value.
    pub(crate) fn get(&self, key: &Bytes) -> TableEntry {
        match self.entries.get(key) {
            Some(entry) => as_entry(key, entry),
            None => TableEntry {
                key: TableKey {
                    key: key.clone(),
                    version: TableKey::NOT_EXISTS,
                },
                value: TableValue::default(),
            },
        }
    }

    /// Returns the entries behind `token` and the token behind them, which is empty with no entries.
    ///
    /// Entries there during the whole iteration appear once; others at most once. Stops early at
    /// about `bytes_max`.
    ///
    /// # Errors
    /// If the token is none of ours.
    pub(crate) fn page(
        &self,
        token: &[u8],
        count: usize,
        bytes_max: usize,
    ) -> Result<(Vec<TableEntry>, Bytes), &'static str> {
        let from = match token.split_first() {
            None => Bound::Unbounded,
            Some((&TOKEN, last)) => Bound::Excluded(last),
            Some(_) => return Err("continuation token is malformed"),
        };
        let range = self.entries.range::<[u8], _>((from, Bound::Unbounded));
        let entries = limited(
            range.map(|(key, entry)| as_entry(key, entry)),
            count,
            bytes_max,
        );
        let token = token_behind(&entries);
        Ok((entries, token))
    }

    /// Returns the entries with keys from `from` to `to`, both included and as long as all keys;
    /// without one there is no bound. Stops early at about `bytes_max`.
    ///
    /// # Errors
    /// If the bounds are the wrong way round.
    pub(crate) fn range(
        &self,
        from: &[u8],
        to: &[u8],
        count: usize,
        bytes_max: usize,
    ) -> Result<(Vec<TableEntry>, Bytes), &'static str> {
        fn bound(key: &[u8]) -> Bound<&[u8]> {
            if key.is_empty() {
                Bound::Unbounded
            } else {
                Bound::Included(key)
            }
        }
        if !to.is_empty() && from > to {
            return Err("the first key of a range is behind its last");
        }
        let range = self.entries.range::<[u8], _>((bound(from), bound(to)));
        let entries = limited(
            range.map(|(key, entry)| as_entry(key, entry)),
            count,
            bytes_max,
        );
        let token = token_behind(&entries);
        Ok((entries, token))
    }

    /// Returns the entries set at `from` or later; `length` is the table's.
    pub(crate) fn delta(&self, from: u64, length: u64, count: usize, bytes_max: usize) -> Delta {
        if from >= length {
            return Delta {
                reached_end: true,
                ..Delta::default()
            };
        }
        let mut behind = from;
        let range = self.by_version.range(from..).map(|(version, key)| {
            let entry = &self.entries[key];
            behind = version + 17 + (key.len() + entry.value.len()) as u64;
            as_entry(key, entry)
        });
        let entries = limited(range, count, bytes_max);
        let reached_end = self.by_version.range(behind..).next().is_none();
        let last = if reached_end { length } else { behind };
        Delta {
            entries,
            should_clear: false,
            reached_end,
            last_position: i64::try_from(last).unwrap_or(i64::MAX),
        }
    }
}

fn token_behind(entries: &[TableEntry]) -> Bytes {
    entries.last().map_or_else(Bytes::new, |last| {
        let mut token = BytesMut::with_capacity(1 + last.key.key.len());
        token.put_u8(TOKEN);
        token.put_slice(&last.key.key);
        token.freeze()
    })
}

fn limited(
    entries: impl Iterator<Item = TableEntry>,
    count: usize,
    bytes_max: usize,
) -> Vec<TableEntry> {
    let mut bytes = 0;
    let mut list = Vec::new();
    for entry in entries.take(count) {
        bytes += 36 + entry.key.key.len() + entry.value.0.len();
        list.push(entry);
        if bytes >= bytes_max {
            break;
        }
    }
    list
}

fn as_entry(key: &Bytes, entry: &Entry) -> TableEntry {
    TableEntry {
        key: TableKey {
            key: key.clone(),
            version: i64::try_from(entry.version).unwrap_or(i64::MAX),
        },
        value: TableValue(entry.value.clone()),
    }
}

/// Copies key and value into one allocation.
fn copy(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let mut both = BytesMut::with_capacity(key.len() + value.len());
    both.put_slice(key);
    both.put_slice(value);
    let mut both = both.freeze();
    let key = both.split_to(key.len());
    (key, both)
}
