//! One read of one segment.
//!
//! A reply is filled from one kind of source: frames in memory, the log, or packs. It is short where the
//! kind changes; the client's next read goes on behind. One large piece is passed on without a copy.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use sarit_proto::ids::Offset;
use sarit_storage::{BLOCK_BYTES, StoreError};
use sarit_wal::Error::NoSuchFrame;
use sarit_wal::{Frame, FrameNo};
use tokio::time::{Instant, sleep_until};

use super::ahead;
use super::blocks::PackKey;
use super::slabs;
use super::turns::{Turn, Turns};
use super::waiters::Waiter;
use crate::shared::Shared;
use crate::state::{Extent, Medium, Segment, Sid};
use crate::{Error, Kind, Read, residents};

/// A piece of at least this many bytes makes a reply of its own, without a copy.
const PIECE_WITHOUT_COPY: usize = 32 << 10;
/// Extents looked at for one reply.
const EXTENTS_MAX: usize = 1024;
/// An extent of at least this many bytes is read from the log without its frame.
const EXTENT_WITHOUT_FRAME: u32 = 256 << 10;
/// How often a read asks long-term storage again, with twice the pause each time: 6 s in all.
const RETRIES_MAX: u32 = 7;
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often a read looks at the state anew.
const LOOKS_MAX: u32 = 3;
/// Extents behind a reply that are looked at for what to fetch ahead.
const FOLLOWING_MAX: usize = 64;
/// How long a reader waits that found no place among the parked ones.
const UNPARKED_WAIT: Duration = Duration::from_secs(1);

/// Longer waits are cut: a reader asks again.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// What to do for a read, decided with the state locked.
enum Step {
    Answer(Read),
    /// Bytes to fetch, and the reply's flags when they are all there.
    Fetch(Plan),
    /// Nothing there yet; `None` if too many wait already.
    Park(Sid, Option<Waiter>),
    /// Nothing is known here of that name.
    Load,
}

struct Plan {
    sid: Sid,
    pieces: Vec<Extent>,
    /// Where what follows them lies, as far as it is worth fetching now.
    following: Vec<Extent>,
    offset: u64,
    /// Length of the segment.
    length: u64,
    sealed: bool,
}

/// Reads up to `max` bytes; see [`crate::Container::read`] and [`crate::Container::read_in_turn`].
pub(crate) async fn read(
    shared: &Arc<Shared>,
    name: &str,
    offset: Offset,
    max: usize,
    wait: Duration,
    turns: Option<&Turns>,
) -> Result<(Read, Option<Turn>), Error> {
    let max = max.clamp(1, shared.config.read_bytes.max(1));
    let deadline = Instant::now() + wait.min(WAIT_MAX);
    let mut parked = None;
    let mut looks = 1;
    let mut turn = None;
    let nothing_yet = || Ok((Read::nothing_yet(), None));
    loop {
        match step(shared, name, offset.0, max, parked)? {
            Step::Answer(read) => return Ok((read, None)),
            Step::Fetch(plan) => {
                if let (None, Some(turns)) = (&turn, turns) {
                    turn = Some(turns.take().await);
                }
                match fetch(shared, plan, max).await {
                    // Moved or truncated since we looked, and the old place is gone: look again.
                    Err(
                        Error::Storage(StoreError::Missing(_)) | Error::Wal(NoSuchFrame { .. }),
                    ) if looks < LOOKS_MAX => {
                        looks += 1;
                    }
                    outcome => return outcome.map(|read| (read, turn)),
                }
            }
            Step::Load => {
                if !residents::load(shared, name).await? {
                    return Err(Error::NoSuchSegment(name.into()));
                }
            }
            Step::Park(..) if shared.stopping.is_cancelled() || Instant::now() >= deadline => {
                return nothing_yet();
            }
            Step::Park(sid, waiter) => {
                turn = None;
                parked = Some(sid);
                let unparked = Instant::now() + UNPARKED_WAIT;
                let until = if waiter.is_some() {
                    deadline
                } else {
                    deadline.min(unparked)
                };
                tokio::select! {
                    biased;
                    () = woken(waiter) => {}
                    () = shared.stopping.cancelled() => return nothing_yet(),
                    () = sleep_until(until) => {
                        if until < deadline {
                            continue;
                        }
                        return nothing_yet();
                    }
                }
            }
        }
    }
}

async fn woken(waiter: Option<Waiter>) {
    match waiter {
        Some(mut waiter) => waiter.woken().await,
        None => std::future::pending().await,
    }
}

/// Looks at the state. `parked` is the segment a reader waited for, which may be gone by now.
fn step(
    shared: &Shared,
    name: &str,
    offset: u64,
    max: usize,
    parked: Option<Sid>,
) -> Result<Step, Error> {
    let state = shared.state.read();
    let found = match parked {
        Some(sid) => state.segment(sid).map(|segment| (sid, segment)),
        None => state.find(name),
    };
    let Some((sid, segment)) = found else {
        return match parked {
            Some(_) => Ok(Step::Answer(Read::nothing_yet())),
            None if !state.knows(name) => Ok(Step::Load),
            None => Err(Error::NoSuchSegment(name.into())),
        };
    };
    if matches!(segment.kind, Kind::Table { .. }) {
        return Err(Error::Unsupported {
            segment: segment.name.clone(),
            operation: "readSegment",
        });
    }
    if offset < segment.start && parked.is_none() {
        return Err(Error::SegmentTruncated {
            segment: segment.name.clone(),
            start: Offset(segment.start),
            given: Offset(offset),
        });
    }
    if offset >= segment.length {
        return match (segment.sealed, parked) {
            (false, _) => Ok(Step::Park(sid, shared.waiters.park(sid))),
            (true, None) => Ok(Step::Answer(Read {
                data: Bytes::new(),
                at_tail: false,
                end_of_segment: true,
            })),
            (true, Some(_)) => Err(Error::SegmentSealed(segment.name.clone())),
        };
    }
    if offset < segment.start {
        // Truncated while it was parked, and bytes came since: it would have got those above.
        return Err(Error::SegmentTruncated {
            segment: segment.name.clone(),
            start: Offset(segment.start),
            given: Offset(offset),
        });
    }
    Ok(Step::Fetch(plan(sid, segment, offset, max)))
}

fn plan(sid: Sid, segment: &Segment, offset: u64, max: usize) -> Plan {
    let end = offset.saturating_add(max as u64);
    let all = segment.extents_from(offset);
    let extents = all.iter().take(EXTENTS_MAX);
    let pieces: Vec<_> = extents
        .take_while(|extent| extent.offset < end)
        .map(|extent| extent.part(extent.offset.max(offset)..extent.end().min(end)))
        .collect();
    let in_pack = |extent: &&Extent| extent.place.in_frame().is_none();
    let following = all.iter().take_while(in_pack).take(FOLLOWING_MAX);
    let following = following.copied().collect();
    Plan {
        sid,
        pieces,
        following,
        offset,
        length: segment.length,
        sealed: segment.sealed,
    }
}

/// Bytes, and how much memory they keep from being used otherwise.
struct Got {
    data: Bytes,
    memory: usize,
}

impl Got {
    /// Bytes in memory of their own.
    fn own(data: Bytes) -> Self {
        let memory = data.len();
        Self { data, memory }
    }
}

async fn fetch(shared: &Arc<Shared>, plan: Plan, max: usize) -> Result<Read, Error> {
    let metrics = &shared.metrics;
    let (got, source) = match plan.pieces[0].place.medium() {
        Medium::Pack(_) => (from_packs(shared, &plan, max).await?, &metrics.served_packs),
        Medium::Frame(_) => {
            let (got, from_log) = from_frames(shared, &plan, max).await?;
            let source = if from_log {
                &metrics.served_log
            } else {
                &metrics.served_frames
            };
            (got, source)
        }
    };
    let data = if std::ptr::eq(source, &metrics.served_frames) {
        got.data
    } else {
        shared.memory.reply(got.data, got.memory)
    };
    source.add(data.len() as u64);
    let reached = plan.offset + data.len() as u64 >= plan.length;
    Ok(Read {
        data,
        at_tail: reached && !plan.sealed,
        end_of_segment: reached && plan.sealed,
    })
}

/// Reads as far as the pieces lie in packs, and has what follows fetched if the reader goes in order.
async fn from_packs(shared: &Arc<Shared>, plan: &Plan, max: usize) -> Result<Got, Error> {
    let Some(tier) = &shared.tier else {
        let missing = "long-term storage is not configured, and data lies there";
        return Err(Error::Storage(StoreError::Config(missing.to_owned())));
    };
    let mut parts: Vec<Bytes> = Vec::new();
    let (mut sum, mut memory, mut retries) = (0, 0, 0);
    'pieces: for piece in &plan.pieces {
        let Medium::Pack(id) = piece.place.medium() else {
            break;
        };
        let name = id.name(shared.id.0).map_err(|e| Error::Storage(e.into()))?;
        let owner = shared.owner;
        let key = PackKey { owner, id };
        let mut position = u64::from(piece.position);
        let end = position + u64::from(piece.length);
        while position < end {
            let number = |position: u64| u32::try_from(position).expect("below 2^32 bytes");
            let block = number(position / BLOCK_BYTES);
            let wanted = number(end.div_ceil(BLOCK_BYTES)) - block;
            let from = (position % BLOCK_BYTES) as usize;
            let least = (BLOCK_BYTES as usize - from).min((end - position) as usize);
            if sum > 0 && least >= PIECE_WITHOUT_COPY {
                break 'pieces;
            }
            let packs = shared.memory.packs();
            let bytes = match packs.get(&tier.store, name, key, block, wanted).await {
                Ok(bytes) => bytes,
                // What is there is an answer; the next read begins with what is not.
                Err(_) if sum > 0 => break 'pieces,
                Err(error) if error.is_retryable() && retries < RETRIES_MAX => {
                    tokio::time::sleep(RETRY_PAUSE * 2_u32.pow(retries)).await;
                    retries += 1;
                    continue;
                }
                Err(error) => return Err(Error::Storage(error)),
            };
            let to = bytes.len().min(from + (end - position) as usize);
            if from >= to {
                let short = format!("{name} ends before {position}");
                return Err(Error::Storage(StoreError::Missing(short)));
            }
            position += (to - from) as u64;
            sum += to - from;
            memory = slabs::memory_bytes(bytes.len());
            parts.push(bytes.slice(from..to));
            if to - from >= PIECE_WITHOUT_COPY {
                break 'pieces;
            }
        }
    }
    let got = match parts.len() {
        1 => Got {
            data: parts.pop().expect("there is one"),
            memory,
        },
        _ => {
            let mut gathered = BytesMut::with_capacity(sum.min(max));
            for part in &parts {
                gathered.put_slice(part);
            }
            Got::own(gathered.freeze())
        }
    };
    let to = plan.offset + got.data.len() as u64;
    ahead::go_on(shared, &plan.following, plan.sid, plan.offset, to);
    Ok(got)
}

/// Reads as far as the pieces lie in frames of one kind; says whether that was the log.
async fn from_frames(shared: &Shared, plan: &Plan, max: usize) -> Result<(Got, bool), Error> {
    let mut gathered = BytesMut::new();
    let mut got = Got::own(Bytes::new());
    let mut from_log = None;
    let mut loaded = Vec::new();
    for (at, piece) in plan.pieces.iter().enumerate() {
        let Medium::Frame(frame) = piece.place.medium() else {
            break;
        };
        let cached = cached(shared, frame, piece);
        let kind = *from_log.get_or_insert(cached.is_none());
        if kind != cached.is_none() {
            break;
        }
        let next = match cached {
            Some(next) => next,
            None => reread(shared, frame, &plan.pieces[at..], &mut loaded).await?,
        };
        if got.data.is_empty() {
            let enough = next.data.len() >= PIECE_WITHOUT_COPY || plan.pieces.len() == 1;
            got = next;
            if enough {
                break;
            }
            continue;
        }
        if next.data.len() >= PIECE_WITHOUT_COPY {
            break;
        }
        if gathered.is_empty() {
            let lengths = plan.pieces.iter().map(|piece| piece.length as usize);
            gathered.reserve(lengths.sum::<usize>().min(max));
            gathered.put_slice(&got.data);
        }
        gathered.put_slice(&next.data);
    }
    if !gathered.is_empty() {
        got = Got::own(gathered.freeze());
    }
    Ok((got, from_log.unwrap_or_default()))
}

fn cached(shared: &Shared, frame: u64, piece: &Extent) -> Option<Got> {
    let frame = shared.memory.frames().get(shared.owner, frame)?;
    Some(slice(&frame, piece))
}

fn slice(frame: &Frame, piece: &Extent) -> Got {
    let from = piece.position as usize;
    Got {
        data: frame.body().slice(from..from + piece.length as usize),
        memory: frame.memory_bytes(),
    }
}

/// Gets the first of `pieces`, which is no longer in memory, and perhaps the frames of those behind it.
///
/// Small pieces bring whole frames, whose other parts are likely to be wanted next: those who read
/// behind mostly read in order, and several segments.
async fn reread(
    shared: &Shared,
    frame: u64,
    pieces: &[Extent],
    loaded: &mut Vec<Frame>,
) -> Result<Got, Error> {
    let piece = &pieces[0];
    let number = FrameNo(frame);
    if let Ok(at) = loaded.binary_search_by_key(&number, Frame::number) {
        return Ok(slice(&loaded[at], piece));
    }
    let blocks = shared.memory.blocks();
    if let Some(frame) = blocks.get(shared.owner, number.0) {
        return Ok(slice(&frame, piece));
    }
    let permit = shared.log_reads.acquire().await;
    let _permit = permit.map_err(|_| Error::Stopping)?;
    // Someone else may have brought it meanwhile.
    if let Some(frame) = blocks.get(shared.owner, number.0) {
        return Ok(slice(&frame, piece));
    }
    if piece.length >= EXTENT_WITHOUT_FRAME {
        shared.metrics.reread_bytes.add(u64::from(piece.length));
        let (position, length) = (piece.position, piece.length);
        let data = shared.log.read_range(number, position, length).await?;
        return Ok(Got::own(data));
    }
    loaded.clear();
    let mut frames = shared
        .log
        .read_frames(number, FrameNo(together(number.0, pieces)));
    while let Some(frame) = frames.next().await? {
        shared.metrics.reread_bytes.add(frame.body().len() as u64);
        blocks.insert(shared.owner, frame.clone());
        loaded.push(frame);
    }
    match loaded.first() {
        Some(frame) => Ok(slice(frame, piece)),
        None => Err(Error::Stopping),
    }
}

/// Returns the frame behind the last one worth reading together with the first piece's: one pass
/// over the log is cheaper than many reads, as long as few frames in between are of no use.
fn together(first: u64, pieces: &[Extent]) -> u64 {
    let (mut last, mut bytes) = (first, 0);
    for (extra, piece) in (0..).zip(&pieces[1..]) {
        bytes += piece.length;
        let Some(frame) = piece.place.in_frame() else {
            break;
        };
        // What was merged in may have been written before.
        if frame < last || frame - first > 2 * extra + 4 || bytes > EXTENT_WITHOUT_FRAME {
            break;
        }
        last = frame;
    }
    last + 1
}
