//! Copies of the index in long-term storage, for the day that the log is lost, and the index with it.
//!
//! Packs say which bytes of which numbers they hold; whose numbers these are, where segments begin, the
//! writers' event numbers and all tables are in the index alone. So what the index was at some checkpoint
//! is copied beside the packs: after the first checkpoint of each owner, and then from time to time, at
//! most a twentieth of the time. Two copies are kept. A pack is deleted only when the newest copy, like
//! the index itself, does not refer to it any more.
//!
//! Nothing waits for a copy but packs to be deleted, and a container that was just rebuilt.
//! docs/formats/exports.md has the bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use sarit_storage::{ExportName, StoreError, Upload};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::Error;
use crate::flush::Tier;
use crate::index::entries::{self, Applied};
use crate::index::flat::Entries;
use crate::shared::Shared;

const MAGIC: &[u8; 8] = b"SARITEXP";
const VERSION: u32 = 1;
/// Stands where an entry's length would: there are no more.
const END: u32 = u32::MAX;
/// Magic, version, container, frame; and at the end: the mark, the count, the checksum.
const HEAD: usize = 24;
const TAIL: usize = 16;
/// Bytes of a part of a large export.
const PART_BYTES: usize = 8 << 20;
/// Time at rest for each time at work.
const REST: u32 = 20;
/// How soon a failed export is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Exports kept of a container.
const KEPT: usize = 2;

/// When the next one is due.
#[derive(Debug)]
pub(crate) struct Exports {
    period: Duration,
    next: Instant,
    done: Option<u64>,
}

impl Exports {
    /// `indexed` is what the index had when it was opened.
    pub(crate) fn new(shared: &Shared, indexed: Option<Applied>) -> Self {
        Self {
            period: Duration::from_secs(shared.config.export_seconds),
            next: Instant::now(),
            done: indexed.filter(is_rebuilt).map(|applied| applied.frame),
        }
    }

    /// Copies the index, which is that of `applied` and does not change meanwhile, if it is time to.
    pub(crate) async fn make(&mut self, shared: &Arc<Shared>, applied: Applied) {
        let Some(tier) = &shared.tier else { return };
        let now = Instant::now();
        if self.period.is_zero() || now < self.next || self.done == Some(applied.frame) {
            return;
        }
        match write(shared, tier, applied).await {
            Ok(None) => {
                self.next = Instant::now() + self.period.min(RETRY);
                tracing::debug!(container = %shared.id, "the log is full: the index is exported later");
            }
            Ok(Some(bytes)) => {
                tier.exported(applied.frame);
                self.done = Some(applied.frame);
                let elapsed = now.elapsed();
                self.next = Instant::now() + self.period.max(elapsed * REST);
                shared.metrics.exports.add(1);
                tracing::debug!(container = %shared.id, frame = applied.frame, bytes, ?elapsed, "index exported");
            }
            Err(error) => {
                self.next = Instant::now() + self.period.min(RETRY);
                shared.metrics.export_failures.add(1);
                tracing::warn!(container = %shared.id, %error, "the index was not exported and will be");
            }
        }
    }
}

/// Whether an index is as it was rebuilt: one of a checkpoint has a frame of the log.
fn is_rebuilt(applied: &Applied) -> bool {
    applied.frame == 0
}

/// Copies an index that was just rebuilt, before anything comes to it. With an older copy another loss would
/// mix packs of the time that the first one took with packs of the time since, see `rebuild`.
///
/// # Errors
/// [`Error::Index`] if long-term storage is away: nothing is lost, the container cannot be opened now.
pub(crate) async fn begin(shared: &Shared, indexed: Option<Applied>) -> Result<(), Error> {
    let (Some(tier), Some(applied)) = (&shared.tier, indexed.filter(is_rebuilt)) else {
        return Ok(());
    };
    match write(shared, tier, applied).await {
        Ok(Some(_)) => {
            shared.metrics.exports.add(1);
            Ok(())
        }
        Ok(None) => Err(Error::Index(
            "it was rebuilt and is to be copied: the log is full".into(),
        )),
        Err(error) => {
            shared.metrics.export_failures.add(1);
            Err(match error {
                Error::Storage(error) => {
                    Error::Index(format!("it was rebuilt and is to be copied: {error}").into())
                }
                error => error,
            })
        }
    }
}

/// Writes one export, then deletes those before. Returns its bytes, or nothing if the log got full meanwhile:
/// a checkpoint is more urgent then.
async fn write(shared: &Shared, tier: &Tier, applied: Applied) -> Result<Option<u64>, Error> {
    let name = ExportName {
        container: shared.id.0,
        epoch: shared.log.epoch().0,
        frame: applied.frame,
    };
    let mut writer = Writer::new(name);
    let mut upload: Option<Upload> = None;
    let gathered = fill(shared, tier, name, &mut writer, &mut upload).await;
    let rest = writer.out.split().freeze();
    let written = match gathered {
        // With its credit, for what is left.
        Ok(Some(_permit)) => finish(tier, name, &mut upload, rest).await.map(|()| true),
        Ok(None) => Ok(false),
        Err(error) => Err(error),
    };
    if !matches!(written, Ok(true)) {
        if let Some(upload) = upload {
            tier.store.abort(upload).await;
        }
        return written.map(|_given_up| None);
    }
    let there = tier
        .store
        .exports(shared.id.0)
        .await
        .map_err(Error::Storage)?;
    let older: Vec<_> = there.iter().filter(|(other, _)| *other <= name).collect();
    for (old, _) in &older[..older.len().saturating_sub(KEPT)] {
        let deleted = tier.store.delete_export(*old).await;
        deleted.map_err(Error::Storage)?;
    }
    Ok(Some(writer.bytes))
}

/// Writes what is left, or all of it if nothing is on its way.
async fn finish(
    tier: &Tier,
    name: ExportName,
    upload: &mut Option<Upload>,
    rest: Bytes,
) -> Result<(), Error> {
    let written = match upload {
        None => tier.store.put_export(name, rest).await,
        Some(upload) => match tier.store.part(upload, vec![rest]).await {
            Ok(()) => tier.store.complete(upload).await,
            Err(error) => Err(error),
        },
    };
    written.map_err(Error::Storage)
}

/// Copies all entries; full parts have been sent when it returns, the rest is in the writer. Returns the credit
/// for that, or nothing if the log got full. Between two parts packs may have the credit.
async fn fill(
    shared: &Shared,
    tier: &Tier,
    name: ExportName,
    writer: &mut Writer,
    upload: &mut Option<Upload>,
) -> Result<Option<OwnedSemaphorePermit>, Error> {
    let mut from = Bytes::new();
    let mut permit = shared.memory.upload(PART_BYTES as u64).await;
    loop {
        if shared.checkpoints.is_hurried() {
            return Ok(None);
        }
        let page = entries::page(&*shared.index, &mut from).await?;
        if page.is_empty() {
            writer.end();
            return Ok(Some(permit));
        }
        for (key, value) in page {
            writer.put(&key, &value);
        }
        if writer.out.len() >= PART_BYTES {
            if upload.is_none() {
                let begun = tier.store.upload_export(name).await;
                *upload = Some(begun.map_err(Error::Storage)?);
            }
            if let Some(upload) = upload {
                // Parts are of one length, but for the last.
                while writer.out.len() >= PART_BYTES {
                    let part = writer.out.split_to(PART_BYTES).freeze();
                    let sent = tier.store.part(upload, vec![part]).await;
                    sent.map_err(Error::Storage)?;
                }
            }
            drop(permit);
            permit = shared.memory.upload(PART_BYTES as u64).await;
        }
    }
}

/// Makes the bytes.
struct Writer {
    out: BytesMut,
    digest: Digest,
    count: u64,
    bytes: u64,
}

impl Writer {
    fn new(name: ExportName) -> Self {
        let mut writer = Self {
            out: BytesMut::new(),
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
            count: 0,
            bytes: 0,
        };
        writer.add(MAGIC);
        writer.add(&VERSION.to_le_bytes());
        writer.add(&name.container.to_le_bytes());
        writer.add(&name.frame.to_le_bytes());
        writer
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("bounded where it enters");
        self.add(&length(key).to_le_bytes());
        self.add(&length(value).to_le_bytes());
        self.add(key);
        self.add(value);
        self.count += 1;
    }

    fn end(&mut self) {
        self.add(&END.to_le_bytes());
        self.add(&self.count.to_le_bytes());
        let crc = self.digest.finalize();
        let crc = u32::try_from(crc).expect("the sum has 32 bits");
        self.out.put_u32_le(crc);
    }

    fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.out.put_slice(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// Takes an export apart.
///
/// # Errors
/// [`Error::DamagedIndex`] if it is not as it was written.
pub(crate) fn decode(name: ExportName, mut bytes: Bytes) -> Result<Entries, Error> {
    let damaged = |what: &str| Error::DamagedIndex(format!("{name} {what}").into());
    if bytes.len() < HEAD + TAIL || bytes[..MAGIC.len()] != MAGIC[..] {
        return Err(damaged("is no export"));
    }
    let mut checksum = bytes.split_off(bytes.len() - 4);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&bytes);
    if u64::from(checksum.get_u32_le()) != digest.finalize() {
        return Err(damaged("has a wrong checksum"));
    }
    bytes.advance(MAGIC.len());
    let version = bytes.get_u32_le();
    if version != VERSION {
        let known = VERSION;
        return Err(damaged(&format!(
            "is of version {version}, this release reads {known}"
        )));
    }
    if bytes.get_u32_le() != name.container || bytes.get_u64_le() != name.frame {
        return Err(damaged("is another one's"));
    }
    let mut entries = Entries::default();
    loop {
        let key = bytes
            .try_get_u32_le()
            .map_err(|_| damaged("is cut short"))?;
        if key == END {
            let count = bytes.try_get_u64_le();
            let whole = count.is_ok_and(|count| count == entries.len() as u64);
            return whole
                .then_some(entries)
                .ok_or_else(|| damaged("is cut short"));
        }
        let value = bytes
            .try_get_u32_le()
            .map_err(|_| damaged("is cut short"))?;
        if (bytes.len() as u64) < u64::from(key) + u64::from(value) {
            return Err(damaged("is cut short"));
        }
        let key = bytes.split_to(key as usize);
        entries.insert(key, bytes.split_to(value as usize));
    }
}

/// Reads the newest export of a container, if there is one, and returns the highest epoch of all, too. `skip`
/// says whether one that is damaged is passed over.
///
/// # Errors
/// The store's; [`Error::DamagedIndex`].
pub(crate) async fn newest(
    store: &sarit_storage::Store,
    container: u32,
    mut skip: impl FnMut(Error) -> Result<(), Error>,
) -> Result<(u64, Option<(ExportName, Entries)>), Error> {
    let found = store.exports(container).await.map_err(Error::Storage)?;
    let epochs = found.iter().map(|(name, _)| name.epoch);
    let epoch = epochs.max().unwrap_or(0);
    for (name, length) in found.into_iter().rev() {
        let read = match store.export(name, length).await {
            Ok(bytes) => decode(name, bytes),
            Err(error @ (StoreError::Missing(_) | StoreError::Pack(_))) => {
                Err(Error::DamagedIndex(error.to_string().into()))
            }
            Err(error) => return Err(Error::Storage(error)),
        };
        match read {
            Ok(entries) => return Ok((epoch, Some((name, entries)))),
            Err(error) => skip(error)?,
        }
    }
    Ok((epoch, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_was_damaged_anywhere_is_refused() {
        let name = ExportName {
            container: 1,
            epoch: 2,
            frame: 3,
        };
        let mut writer = Writer::new(name);
        let entries = [("a", "1"), ("b", ""), ("c", "33")];
        for (key, value) in entries {
            writer.put(key.as_bytes(), value.as_bytes());
        }
        writer.end();
        let bytes = writer.out.freeze();
        let entries: Entries = entries
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        assert_eq!(decode(name, bytes.clone()).unwrap(), entries);
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            assert!(decode(name, bad.into()).is_err(), "{at}");
            assert!(decode(name, bytes.slice(..at)).is_err(), "cut at {at}");
        }
        let other = ExportName {
            container: 2,
            ..name
        };
        assert!(decode(other, bytes).is_err());
    }
}
