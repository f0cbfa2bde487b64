//! One pack: gathers its bytes, uploads them, has that noted in the log.
//!
//! Memory is taken from the process's share for uploads before any bytes are gathered. A small pack is
//! one request; a large one is uploaded in parts, of which only one is in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use sarit_storage::{BLOCK_BYTES, PackId, PackName, PackWriter, StoreError, WrittenPack};
use sarit_wal::FrameNo;
use tokio::sync::oneshot;

use super::Flusher;
use super::plan::{Piece, Planned};
use crate::operation::{PLACED_RUN, PlacedRun};
use crate::pipeline::{Request, Wish};
use crate::read::blocks::PackKey;
use crate::read::slabs;
use crate::state::{Extent, Medium, Sid};
use crate::{Error, residents};

/// Bytes of a part of a large pack; stores want at least 5 MiB.
const PART_BYTES: u64 = 8 << 20;
/// A piece that is a smaller part of the memory it lies in than one of so many is copied, so that uploads
/// hold little more memory than they have credit for.
const COPIED_BELOW: usize = 2;
/// Missing frames this close together are read in one pass.
const FRAME_GAP: u64 = 4;

/// What became of an upload.
enum Failure {
    /// Try again later: the store, or data that was truncated meanwhile.
    Later,
    Fatal(Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            tracing::warn!(%error, "long-term storage failed");
            return Self::Later;
        }
        // A pack to be rewritten has gone: whoever referred to it has, too, or a reader will tell. One
        // that is damaged must not take down what is well.
        if let StoreError::Missing(_) | StoreError::Pack(_) = error {
            tracing::error!(%error, "data was not moved");
            return Self::Later;
        }
        Self::Fatal(Error::Storage(error))
    }
}

/// Stores one pack. Returns whether it got there; if not, it may be tried again with another plan.
///
/// # Errors
/// [`Error::Storage`] if long-term storage cannot be trusted.
pub(super) async fn store(
    flusher: &Flusher,
    planned: &Planned,
    compact: bool,
) -> Result<bool, Error> {
    let shared = &flusher.shared;
    let id = flusher.tier.pack().map_err(Error::Storage)?;
    let uploaded = upload(flusher, id, planned).await;
    let pack = match uploaded {
        Ok(pack) => pack,
        Err(Failure::Later) => {
            shared.metrics.flush_failures.add(1);
            // It may have got there all the same.
            flusher.tier.unreferenced(vec![id]);
            return Ok(false);
        }
        Err(Failure::Fatal(error)) => return Err(error),
    };
    let committed = commit(flusher, id, &pack, compact).await;
    if committed.is_ok() {
        let metrics = &shared.metrics;
        metrics.packs_written.add(1);
        let bytes = if compact {
            &metrics.compacted_bytes
        } else {
            &metrics.flushed_bytes
        };
        bytes.add(pack.len);
    }
    Ok(committed.is_ok())
}

/// Has the log note where the bytes lie.
async fn commit(
    flusher: &Flusher,
    id: PackId,
    pack: &WrittenPack,
    compact: bool,
) -> Result<(), Error> {
    let mut runs = BytesMut::with_capacity(pack.runs.len() * PLACED_RUN);
    for run in &pack.runs {
        let placed = PlacedRun {
            sid: Sid(run.segment),
            offset: run.offset,
            position: u32::try_from(run.pos).expect("a pack has fewer than 2^32 bytes"),
            length: run.len,
        };
        placed.encode(&mut runs);
    }
    // Applied now or when the log is replayed, it must find the same segments.
    let mut sids: Vec<_> = pack.runs.iter().map(|run| Sid(run.segment)).collect();
    sids.dedup();
    let mut pins = Vec::with_capacity(sids.len());
    for sid in sids {
        pins.extend(residents::pin_number(&flusher.shared, sid).await?);
    }
    let (caller, answer) = oneshot::channel();
    let wish = Wish::Place {
        compact,
        pack: id,
        size: pack.runs.iter().map(|run| u64::from(run.len)).sum(),
        runs: runs.freeze(),
        caller,
    };
    let segment = Arc::from("");
    let request = Request {
        segment,
        wish,
        pins,
    };
    #[cfg(planted = "flush_before_commit")]
    if let Wish::Place { runs, size, .. } = &request.wish {
        let placed = crate::operation::Placed::new(id, *size, runs);
        flusher.shared.state.write().place_unlogged(placed);
    }
    let requests = &flusher.requests;
    requests.send(request).await.map_err(|_| Error::Stopping)?;
    answer.await.unwrap_or(Err(Error::OutcomeUnknown))
}

async fn upload(flusher: &Flusher, id: PackId, planned: &Planned) -> Result<WrittenPack, Failure> {
    let (shared, store) = (&flusher.shared, &flusher.tier.store);
    let name = id.name(shared.id.0).map_err(StoreError::from)?;
    let last_seq = shared.state.read().next_seq.saturating_sub(1).max(1);
    let mut writer = PackWriter::new(name, planned.kind, 1..=last_seq).map_err(StoreError::from)?;
    if planned.bytes <= shared.memory.uploads_max().max(PART_BYTES) {
        let _permit = shared.memory.upload(planned.bytes).await;
        add(flusher, &mut writer, &planned.pieces).await?;
        let pack = writer.finish_with_blocks().map_err(StoreError::from)?;
        store.put(name, pack.parts.clone()).await?;
        return Ok(pack);
    }
    let mut upload = store.upload(name).await?;
    let parts = async {
        let parts = parts(&planned.pieces);
        let last = parts.len() - 1;
        let mut permit = None;
        for (number, part) in parts.iter().enumerate() {
            drop(permit.take());
            permit = Some(shared.memory.upload(PART_BYTES).await);
            add(flusher, &mut writer, part).await?;
            // Only the last part may be a small one: what ends the pack is in it, too.
            if number < last {
                store.part(&mut upload, writer.take_parts()).await?;
            }
        }
        let pack = writer.finish_with_blocks().map_err(StoreError::from)?;
        store.part(&mut upload, pack.parts.clone()).await?;
        drop(permit);
        Ok(pack)
    };
    let pack = match parts.await {
        Ok(pack) => store.complete(&mut upload).await.map(|()| pack),
        Err(failure) => {
            store.abort(upload).await;
            return Err(failure);
        }
    };
    if pack.is_err() {
        // It may be complete all the same: then there is nothing to abort, and it is garbage.
        store.abort(upload).await;
    }
    Ok(pack?)
}

/// Cuts pieces into parts of equal length.
fn parts(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut parts = vec![Vec::new()];
    let mut room = PART_BYTES;
    for piece in pieces {
        let mut rest = piece.extent;
        while u64::from(rest.length) > room {
            if room > 0 {
                let extent = rest.part(rest.offset..rest.offset + room);
                parts
                    .last_mut()
                    .expect("has one")
                    .push(Piece { extent, ..*piece });
                rest = rest.part(extent.end()..rest.end());
            }
            parts.push(Vec::new());
            room = PART_BYTES;
        }
        room -= u64::from(rest.length);
        let extent = rest;
        parts
            .last_mut()
            .expect("has one")
            .push(Piece { extent, ..*piece });
    }
    parts
}

/// Adds pieces to a pack; those of one segment that follow one another become one run.
async fn add(flusher: &Flusher, writer: &mut PackWriter, pieces: &[Piece]) -> Result<(), Failure> {
    let mut gathered = gather(flusher, pieces).await?;
    let mut at = 0;
    while at < pieces.len() {
        let Piece { sid, extent } = pieces[at];
        let mut behind = at + 1;
        while behind < pieces.len()
            && pieces[behind].sid == sid
            && pieces[behind].extent.offset == pieces[behind - 1].extent.end()
        {
            behind += 1;
        }
        let bytes: Vec<_> = gathered[at..behind]
            .iter_mut()
            .flat_map(std::mem::take)
            .collect();
        writer
            .add(sid.0, extent.offset, &bytes)
            .map_err(StoreError::from)?;
        at = behind;
    }
    Ok(())
}

/// Gets the bytes of pieces, from memory if they are there.
async fn gather(flusher: &Flusher, pieces: &[Piece]) -> Result<Vec<Vec<Bytes>>, Failure> {
    let shared = &flusher.shared;
    let mut gathered = vec![Vec::new(); pieces.len()];
    let mut missing: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, piece) in pieces.iter().enumerate() {
        match piece.extent.place.medium() {
            Medium::Frame(number) => match shared.memory.frames().get(shared.owner, number) {
                Some(frame) => {
                    let memory = frame.memory_bytes();
                    gathered[at] = vec![cut(frame.body(), &piece.extent, memory)];
                }
                None => missing.entry(number).or_default().push(at),
            },
            Medium::Pack(id) => gathered[at] = from_pack(flusher, id, &piece.extent).await?,
        }
    }
    while let Some((&first, _)) = missing.first_key_value() {
        let mut last = first;
        for number in missing.keys() {
            if number - last > FRAME_GAP {
                break;
            }
            last = *number;
        }
        let _permit = shared.log_reads.acquire().await;
        let mut frames = shared.log.read_frames(FrameNo(first), FrameNo(last + 1));
        for number in first..=last {
            let wanted = missing.remove(&number).unwrap_or_default();
            let frame = match frames.next().await {
                Ok(Some(frame)) => frame,
                // Truncated meanwhile: nobody wants these bytes any more.
                Ok(None) | Err(sarit_wal::Error::NoSuchFrame { .. }) => return Err(Failure::Later),
                // A failed log ends the container elsewhere.
                Err(error) => {
                    tracing::warn!(%error, number, "a frame to be flushed cannot be read");
                    return Err(Failure::Later);
                }
            };
            if frame.number().0 != number {
                return Err(Failure::Later);
            }
            shared
                .metrics
                .flush_reread_bytes
                .add(frame.body().len() as u64);
            for at in wanted {
                let memory = frame.memory_bytes();
                gathered[at] = vec![cut(frame.body(), &pieces[at].extent, memory)];
            }
        }
    }
    Ok(gathered)
}

/// Reads what lies in another pack.
async fn from_pack(flusher: &Flusher, id: PackId, extent: &Extent) -> Result<Vec<Bytes>, Failure> {
    let (shared, store) = (&flusher.shared, &flusher.tier.store);
    let name: PackName = id.name(shared.id.0).map_err(StoreError::from)?;
    let owner = shared.owner;
    let (mut position, end) = (
        u64::from(extent.position),
        u64::from(extent.position) + u64::from(extent.length),
    );
    let mut pieces = Vec::new();
    while position < end {
        let block = u32::try_from(position / BLOCK_BYTES).expect("a pack has 2^32 bytes at most");
        let wanted = u32::try_from(end.div_ceil(BLOCK_BYTES)).expect("as above") - block;
        let key = PackKey { owner, id };
        let bytes = shared
            .memory
            .packs()
            .get(store, name, key, block, wanted)
            .await?;
        let from = (position % BLOCK_BYTES) as usize;
        let to = bytes.len().min(from + (end - position) as usize);
        if from >= to {
            return Err(Failure::Later);
        }
        position += (to - from) as u64;
        pieces.push(
            if (to - from) * COPIED_BELOW < slabs::memory_bytes(bytes.len()) {
                Bytes::copy_from_slice(&bytes[from..to])
            } else {
                bytes.slice(from..to)
            },
        );
    }
    Ok(pieces)
}

/// Cuts an extent out of what it lies in, which takes `memory` bytes.
fn cut(body: &Bytes, extent: &Extent, memory: usize) -> Bytes {
    let from = extent.position as usize;
    let to = from + extent.length as usize;
    if (to - from) * COPIED_BELOW < memory {
        let mut copied = BytesMut::with_capacity(to - from);
        copied.put_slice(&body[from..to]);
        return copied.freeze();
    }
    body.slice(from..to)
}
