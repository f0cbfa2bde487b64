//! Key-value tables: values under keys of a fixed length, spread over partitions by their first part.
//!
//! A key's version changes with every put; a put or removal can depend on it. This is the layout of the
//! official Java client's tables: both can use the same one.

use bytes::Bytes;
use sarit_proto::hash::table_key_position;
use sarit_proto::names::{ScopedStream, StreamName, TABLE_SUFFIX};
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};

use crate::Error;
use crate::client::Client;
use crate::controller::TableConfig;
use crate::event::{Owner, router::Router};
use crate::segment::table::Page;

/// What a change depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    /// Nothing.
    Always,
    /// The key is not there.
    Absent,
    /// The key has this version.
    Version(i64),
}

impl If {
    fn version(self) -> i64 {
        match self {
            Self::Always => TableKey::NO_VERSION,
            Self::Absent => TableKey::NOT_EXISTS,
            Self::Version(version) => version,
        }
    }
}

/// An entry of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key: primary part, secondary part.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// For changes that depend on it.
    pub version: i64,
}

/// A key-value table. Each call is one or a few requests; nothing is kept open.
#[derive(Debug)]
pub struct KeyValueTable {
    client: Client,
    /// The stream that its partitions are the segments of.
    stream: ScopedStream,
    config: TableConfig,
    partitions: Vec<Owner>,
    router: Router,
}

impl KeyValueTable {
    pub(crate) async fn open(client: Client, table: &ScopedStream) -> Result<Self, Error> {
        let config = client.controller().table_config(table).await?;
        let partitions = client.controller().table_partitions(table).await?;
        let router = Router::new(&partitions).ok_or(Error::Unavailable {
            what: "getCurrentSegmentsKeyValueTable",
            message: "the partitions do not cover all keys".to_owned(),
        })?;
        let stream = StreamName::new(format!("{}{TABLE_SUFFIX}", table.stream));
        let stream = stream.map_err(|error| Error::InvalidName(error.to_string()))?;
        Ok(Self {
            client,
            stream: ScopedStream {
                scope: table.scope.clone(),
                stream,
            },
            config,
            partitions,
            router,
        })
    }

    /// Returns what the table is like.
    pub fn config(&self) -> TableConfig {
        self.config
    }

    fn partition(&self, key: &[u8]) -> Result<String, Error> {
        if key.len() != self.config.key_bytes() {
            return Err(Error::KeyLength {
                given: key.len(),
                wanted: self.config.key_bytes(),
            });
        }
        let primary = &key[..self.config.primary_key_bytes as usize];
        let segment = self.router.segment(table_key_position(primary));
        Ok(self.stream.segment(segment).to_string())
    }

    /// Puts a value, and returns its version.
    ///
    /// # Errors
    /// [`Error::KeyLength`]; [`Error::KeyBadVersion`] or [`Error::KeyDoesNotExist`] if what it depends on
    /// is not so; [`Error::OutcomeUnknown`] if it depends on something and the reply was lost, or on nothing
    /// and the store kept silent: read the key, the change may also come later; and those of [`Error`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: If,
    ) -> Result<i64, Error> {
        let key = key.into();
        let segment = self.partition(&key)?;
        let entry = TableEntry {
            key: TableKey {
                key,
                version: condition.version(),
            },
            value: TableValue(value.into()),
        };
        let versions = self
            .client
            .segments()
            .table_update(&segment, vec![entry])
            .await?;
        Ok(versions.first().copied().unwrap_or(TableKey::NO_VERSION))
    }

    /// Returns a key's entry.
    ///
    /// # Errors
    /// [`Error::KeyLength`], and those of [`Error`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Entry>, Error> {
        let key = key.into();
        let segment = self.partition(&key)?;
        let mut found = self
            .client
            .segments()
            .table_read(&segment, vec![key])
            .await?;
        Ok(found.pop().flatten().map(entry))
    }

    /// Removes a key. One that is not there is removed already.
    ///
    /// # Errors
    /// As [`KeyValueTable::put`].
    pub async fn remove(&self, key: impl Into<Bytes>, condition: If) -> Result<(), Error> {
        let key = key.into();
        let segment = self.partition(&key)?;
        let key = TableKey {
            key,
            version: condition.version(),
        };
        self.client
            .segments()
            .table_remove(&segment, vec![key])
            .await
    }

    /// Begins to walk through the entries whose keys begin with `prefix`, partition by partition, sorted
    /// within each.
    pub fn scan(&self, prefix: impl Into<Bytes>) -> Scan<'_> {
        let prefix = prefix.into();
        let padded = |fill: u8| {
            let mut key = prefix.to_vec();
            key.resize(self.config.key_bytes().max(prefix.len()), fill);
            Bytes::from(key)
        };
        Scan {
            table: self,
            partition: 0,
            from: padded(0),
            first: padded(0),
            last: padded(0xFF),
            done: prefix.len() > self.config.key_bytes(),
        }
    }
}

fn entry(TableEntry { key, value }: TableEntry) -> Entry {
    Entry {
        key: key.key,
        value: value.0,
        version: key.version,
    }
}

/// A walk through a table. Entries that change meanwhile may be seen or not.
#[derive(Debug)]
pub struct Scan<'a> {
    table: &'a KeyValueTable,
    partition: usize,
    /// Where to go on in the present partition.
    from: Bytes,
    first: Bytes,
    last: Bytes,
    done: bool,
}

impl Scan<'_> {
    /// Returns the next entries, some; none at the end.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn next(&mut self) -> Result<Vec<Entry>, Error> {
        while !self.done {
            let Some(partition) = self.table.partitions.get(self.partition) else {
                self.done = true;
                break;
            };
            let segment = self.table.stream.segment(partition.segment).to_string();
            let page = Page {
                token: Bytes::new(),
                from_key: self.from.clone(),
                to_key: self.last.clone(),
                count: PAGE_ENTRIES,
            };
            let segments = self.table.client.segments();
            let (entries, _) = segments.table_entries(&segment, page).await?;
            let behind = entries.last().map(|entry| after(&entry.key.key));
            match behind {
                Some(Some(behind)) if behind <= self.last => self.from = behind,
                // The page was empty, or there can be nothing behind it.
                _ => {
                    self.partition += 1;
                    self.from = self.first.clone();
                }
            }
            if !entries.is_empty() {
                return Ok(entries.into_iter().map(entry).collect());
            }
        }
        Ok(Vec::new())
    }
}

/// Returns the next key of the same length; `None` behind the last.
fn after(key: &[u8]) -> Option<Bytes> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next.into());
        }
    }
    None
}

const PAGE_ENTRIES: i32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_after_a_key_has_its_length() {
        assert_eq!(after(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(after(&[1, 0xFF]).as_deref(), Some(&[2, 0][..]));
        assert_eq!(after(&[0xFF, 0xFF]), None);
    }
}
