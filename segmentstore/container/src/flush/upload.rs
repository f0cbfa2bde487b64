//! One pack: gathers its bytes, uploads them, has that noted in the log.
//!
//! Memory is taken from the process's share for uploads before any bytes are gathered. A small pack is
//! one request; a large one is uploaded in parts, of which only one is in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sarit_storage::{BLOCK_BYTES, PackId, PackName, PackWriter, StoreError, WrittenPack};
use sarit_wal::{Frame, FrameNo};
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
/// Pieces shorter than this are gathered in one buffer: a pack may have tens of thousands.
const SMALL: u32 = 8 << 10;
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
    let request = match request(flusher, id, &pack, compact).await {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(%error, "where a pack's bytes lie was not noted");
            shared.metrics.flush_failures.add(1);
            flusher.tier.unreferenced(vec![id]);
            return Ok(false);
        }
    };
    let committed = commit(flusher, request).await;
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

/// What is to be noted, and who wants to know.
type Noting = (Request, oneshot::Receiver<Result<(), Error>>);

/// Asks for a note of where the bytes lie.
async fn request(
    flusher: &Flusher,
    id: PackId,
    pack: &WrittenPack,
    compact: bool,
) -> Result<Noting, Error> {
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
    Ok((request, answer))
}

/// Has the log note where the bytes lie.
async fn commit(flusher: &Flusher, (request, answer): Noting) -> Result<(), Error> {
    #[cfg(planted = "flush_before_commit")]
    if let Wish::Place {
        pack, runs, size, ..
    } = &request.wish
    {
        let placed = crate::operation::Placed::new(*pack, *size, runs);
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
    let Gathered {
        mut small,
        mut large,
    } = gather(flusher, pieces).await?;
    let follows = |a: &Piece, b: &Piece| b.sid == a.sid && b.extent.offset == a.extent.end();
    // Runs of small pieces only, which are given together, and their length.
    let (mut waiting, mut len) = (Vec::new(), 0);
    let mut at = 0;
    for run in pieces.chunk_by(follows) {
        let Piece { sid, extent } = run[0];
        if run.iter().all(is_small) {
            let bytes = run.iter().map(|piece| piece.extent.length).sum();
            waiting.push((sid.0, extent.offset, bytes));
            len += bytes as usize;
        } else {
            let before = small.split_to(std::mem::take(&mut len));
            writer.add_all(&waiting, before).map_err(StoreError::from)?;
            waiting.clear();
            let mut bytes = Vec::new();
            for (piece, at) in run.iter().zip(at..) {
                if is_small(piece) {
                    bytes.push(small.split_to(piece.extent.length as usize));
                } else {
                    bytes.append(&mut large[at]);
                }
            }
            writer
                .add(sid.0, extent.offset, &bytes)
                .map_err(StoreError::from)?;
        }
        at += run.len();
    }
    let added = writer.add_all(&waiting, small);
    added.map_err(|error| StoreError::from(error).into())
}

/// The bytes of pieces.
struct Gathered {
    /// Those of small ones, one behind the other in the order of the pieces.
    small: Bytes,
    /// Those of each of the others.
    large: Vec<Vec<Bytes>>,
}

/// Bytes of pieces, while they come in any order.
struct Gathering<'a> {
    pieces: &'a [Piece],
    small: BytesMut,
    /// Where each piece goes in it, if it is a small one.
    places: Vec<usize>,
    large: Vec<Vec<Bytes>>,
}

impl<'a> Gathering<'a> {
    fn new(pieces: &'a [Piece]) -> Self {
        let mut end = 0;
        let place = |piece: &Piece| {
            let place = end;
            if is_small(piece) {
                end += piece.extent.length as usize;
            }
            place
        };
        let places = pieces.iter().map(place).collect();
        Self {
            pieces,
            small: BytesMut::zeroed(end),
            places,
            large: vec![Vec::new(); pieces.len()],
        }
    }

    /// Takes a piece out of its frame.
    fn frame(&mut self, at: usize, frame: &Frame) {
        let Piece { extent, .. } = &self.pieces[at];
        let from = extent.position as usize;
        let range = from..from + extent.length as usize;
        let body = frame.body();
        if is_small(&self.pieces[at]) {
            self.copy(at, &body[range]);
        } else if range.len() * COPIED_BELOW < frame.memory_bytes() {
            self.large[at] = vec![Bytes::copy_from_slice(&body[range])];
        } else {
            self.large[at] = vec![body.slice(range)];
        }
    }

    /// Takes a piece that came in parts.
    fn parts(&mut self, at: usize, parts: Vec<Bytes>) {
        if !is_small(&self.pieces[at]) {
            self.large[at] = parts;
            return;
        }
        for part in parts {
            self.copy(at, &part);
            self.places[at] += part.len();
        }
    }

    fn copy(&mut self, at: usize, bytes: &[u8]) {
        let place = self.places[at];
        self.small[place..place + bytes.len()].copy_from_slice(bytes);
    }
}

fn is_small(piece: &Piece) -> bool {
    piece.extent.length < SMALL
}

/// Gets the bytes of pieces, from memory if they are there; each frame once.
async fn gather(flusher: &Flusher, pieces: &[Piece]) -> Result<Gathered, Failure> {
    let shared = &flusher.shared;
    let mut gathering = Gathering::new(pieces);
    let mut in_frames = Vec::with_capacity(pieces.len());
    for (at, piece) in pieces.iter().enumerate() {
        match piece.extent.place.medium() {
            Medium::Frame(number) => in_frames.push((number, at)),
            Medium::Pack(id) => {
                gathering.parts(at, from_pack(flusher, id, &piece.extent).await?);
            }
        }
    }
    in_frames.sort_unstable();
    let mut missing: BTreeMap<u64, &[(u64, usize)]> = BTreeMap::new();
    for wanted in in_frames.chunk_by(|a, b| a.0 == b.0) {
        let number = wanted[0].0;
        match shared.memory.frames().get(shared.owner, number) {
            Some(frame) => wanted
                .iter()
                .for_each(|(_, at)| gathering.frame(*at, &frame)),
            None => drop(missing.insert(number, wanted)),
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
            wanted
                .iter()
                .for_each(|(_, at)| gathering.frame(*at, &frame));
        }
    }
    Ok(Gathered {
        small: gathering.small.freeze(),
        large: gathering.large,
    })
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
