//! The index as one sorted map in memory, dumped whole by every checkpoint.
//!
//! The model that the other engine is compared with, what simulated worlds use, and the way out should
//! the other one fail us. Costs a write of everything per checkpoint, and memory for everything.
//!
//! ```text
//! magic [8] | version u32 | count u32 | count × { key length u32 | value length u32 | key | value } | crc u32
//! ```
//!
//! Little-endian; the checksum (CRC-32C) is over all before it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use sarit_env::Disk;
use sarit_env::disk::{read_file, write_file_atomically};
use sarit_proto::ids::ContainerId;

use super::{Batch, Index};
use crate::Error;

const MAGIC: &[u8; 8] = b"SARITIDX";
const VERSION: u32 = 1;
/// Largest dump that is read: what is larger was not written by this engine.
const DUMP_BYTES_MAX: u64 = 1 << 32;

/// Sorted keys and values.
pub(crate) type Entries = BTreeMap<Bytes, Bytes>;

/// The dumps of containers in memory, for tests. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SnapshotMemory(Arc<Mutex<BTreeMap<u32, Bytes>>>);

impl SnapshotMemory {
    pub(crate) fn open(&self, container: ContainerId) -> Result<SnapshotIndex, Error> {
        let dump = self.0.lock().get(&container.0).cloned();
        let entries = dump.map_or_else(|| Ok(Entries::default()), decode)?;
        Ok(SnapshotIndex {
            entries: Mutex::new(entries),
            place: Place::Memory(self.clone(), container),
        })
    }
}

/// One container's index.
pub(crate) struct SnapshotIndex {
    entries: Mutex<Entries>,
    place: Place,
}

enum Place {
    Memory(SnapshotMemory, ContainerId),
    File(Arc<dyn Disk>, PathBuf),
}

impl SnapshotIndex {
    /// One in memory that nobody else knows, with these entries.
    pub(crate) fn of(entries: Entries) -> Self {
        Self {
            entries: Mutex::new(entries),
            place: Place::Memory(SnapshotMemory::default(), ContainerId(0)),
        }
    }

    /// Opens the dump in `file`; an absent one is empty.
    pub(crate) async fn in_file(disk: Arc<dyn Disk>, file: PathBuf) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Index(format!("{}: {error}", file.display()).into());
        if let Some(folder) = file.parent() {
            disk.create_dir_all(folder).await.map_err(failed)?;
        }
        let entries = match read_file(&*disk, &file, DUMP_BYTES_MAX).await {
            Ok(dump) => decode(dump)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Entries::default(),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            entries: Mutex::new(entries),
            place: Place::File(disk, file),
        })
    }
}

#[async_trait]
impl Index for SnapshotIndex {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Error> {
        Ok(self.entries.lock().get(&key).cloned())
    }

    async fn scan(&self, range: Range<Bytes>, count: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let entries = self.entries.lock();
        let found = entries.range(range).take(count);
        Ok(found
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    async fn checkpoint(&self, batch: &Batch) -> Result<(), Error> {
        let dump = {
            let mut entries = self.entries.lock();
            apply(&mut entries, batch);
            encode(&entries)
        };
        match &self.place {
            Place::Memory(memory, container) => {
                memory.0.lock().insert(container.0, dump);
            }
            Place::File(disk, file) => {
                let written = write_file_atomically(&**disk, file, dump).await;
                written
                    .map_err(|error| Error::Index(format!("{}: {error}", file.display()).into()))?;
            }
        }
        Ok(())
    }

    async fn close(&self) {}
}

impl std::fmt::Debug for SnapshotIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotIndex")
    }
}

/// Applies a batch to a sorted map.
pub(crate) fn apply(entries: &mut Entries, batch: &Batch) {
    for (key, value) in &batch.changes {
        match value {
            // Of their own: a batch's share memory, and these stay.
            Some(value) => {
                entries.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            }
            None => entries.remove(key),
        };
    }
}

fn encode(entries: &Entries) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(length(entries.len()));
    for (key, value) in entries {
        out.put_u32_le(length(key.len()));
        out.put_u32_le(length(value.len()));
        out.put_slice(key);
        out.put_slice(value);
    }
    out.put_u32_le(crc(&out));
    out.freeze()
}

fn decode(mut dump: Bytes) -> Result<Entries, Error> {
    let damaged = |what: &str| Err(Error::DamagedIndex(format!("a snapshot {what}").into()));
    if dump.len() < MAGIC.len() + 12 || dump[..MAGIC.len()] != MAGIC[..] {
        return damaged("without its beginning");
    }
    let mut checksum = dump.split_off(dump.len() - 4);
    if checksum.get_u32_le() != crc(&dump) {
        return damaged("whose checksum is wrong");
    }
    dump.advance(MAGIC.len());
    let version = dump.get_u32_le();
    if version != VERSION {
        return damaged(&format!(
            "of version {version}, this release reads {VERSION}"
        ));
    }
    let count = dump.get_u32_le();
    let mut entries = Entries::default();
    for _ in 0..count {
        if dump.len() < 8 {
            return damaged("cut short");
        }
        let (key, value) = (dump.get_u32_le() as usize, dump.get_u32_le() as usize);
        if dump.len() < key.saturating_add(value) {
            return damaged("cut short");
        }
        let key = dump.split_to(key);
        entries.insert(key, dump.split_to(value));
    }
    Ok(entries)
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("keys, values and their number are bounded where they enter")
}

fn crc(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("the sum has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_was_damaged_anywhere_is_refused() {
        let entries = [("a", "1"), ("b", ""), ("c", "33")];
        let entries: Entries = entries
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        let dump = encode(&entries);
        assert_eq!(decode(dump.clone()).unwrap(), entries);
        for at in 0..dump.len() {
            let mut bad = dump.to_vec();
            bad[at] ^= 0x10;
            let error = decode(bad.into()).unwrap_err();
            assert!(matches!(error, Error::DamagedIndex(_)), "{at}: {error}");
            assert!(decode(dump.slice(..at)).is_err(), "cut at {at}");
        }
    }
}
