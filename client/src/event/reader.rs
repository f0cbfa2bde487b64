//! Reads the events of a whole stream, segment by segment, and goes on to the successors of segments
//! that have ended once all their predecessors have been read: so events of one key come in order.
//!
//! Each segment has one read under way while the events of the one before are handed out. Memory is
//! bounded by [`ReaderConfig`](crate::config::ReaderConfig). This reader keeps no state on the server
//! and shares nothing with other readers; [`EventReader::cut`] says where it is. Retrying happens below,
//! in [`SegmentReader`], and in controller calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sarit_env::Rng;
use sarit_proto::event::{EVENT_HEADER, EventError, EventReader as Events};
use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::names::ScopedStream;
use sarit_proto::stream_cut::{SegmentPosition, StreamCut};
use tokio::task::JoinSet;

use super::frontier::Frontier;
use super::{Successor, Topology};
use crate::Error;
use crate::config::Config;
use crate::connection::Pool;
use crate::metrics::ReaderMetrics;
use crate::segment::{Chunk, Locate, SegmentReader};

/// Where to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// With the oldest event kept.
    #[default]
    Head,
    /// With the first event written after the reader was opened.
    Tail,
    /// At a position, as [`EventReader::cut`] gives it.
    Cut(StreamCut),
}

/// Where to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// Never, unless the stream is sealed: wait for what will be written.
    #[default]
    Sealed,
    /// At the end of what was written before the reader was opened.
    Tail,
    /// At a position.
    Cut(StreamCut),
}

/// An event and where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadEvent {
    /// Its segment.
    pub segment: SegmentId,
    /// The offset of its header in that segment.
    pub offset: Offset,
    /// What was written.
    pub payload: Bytes,
}

/// Reads one stream. Dropping it stops reading.
#[derive(Debug)]
pub struct EventReader {
    parts: Parts,
    bounds: Bounds,
    frontier: Frontier,
    cursors: BTreeMap<SegmentId, Cursor>,
    /// Segments that may have a whole event in memory.
    ready: VecDeque<SegmentId>,
    beside: JoinSet<Finding>,
    /// Segments whose last read or question failed: tried again by the next call.
    failed: Vec<SegmentId>,
    metrics: ReaderMetrics,
}

/// What a reader needs from the client.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) stream: ScopedStream,
    pub(crate) topology: Arc<dyn Topology>,
    pub(crate) pool: Pool,
    pub(crate) rng: Rng,
}

/// Where a reader stops.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// Nothing: it does not.
    positions: BTreeMap<SegmentId, SegmentPosition>,
    before: Before,
}

/// Which segments that are not in the cut lie before it.
#[derive(Debug, Default)]
enum Before {
    /// The cut is of one epoch: those as old as its youngest. Every epoch has a segment of its own.
    #[default]
    Older,
    These(BTreeSet<SegmentId>),
}

impl Bounds {
    /// Stops at a cut through the segments of one epoch.
    pub(crate) fn of_epoch(positions: BTreeMap<SegmentId, SegmentPosition>) -> Self {
        Self {
            positions,
            before: Before::Older,
        }
    }

    /// Stops at any cut; `before` has the segments that lie before it.
    pub(crate) fn at_cut(
        positions: BTreeMap<SegmentId, SegmentPosition>,
        before: BTreeSet<SegmentId>,
    ) -> Self {
        Self {
            positions,
            before: Before::These(before),
        }
    }

    /// Whether a segment lies behind all that is to be read.
    fn excludes(&self, segment: SegmentId) -> bool {
        if self.positions.is_empty() || self.positions.contains_key(&segment) {
            return false;
        }
        match &self.before {
            Before::Older => {
                let last = self.positions.keys().map(|segment| segment.epoch()).max();
                Some(segment.epoch()) > last
            }
            Before::These(before) => !before.contains(&segment),
        }
    }
}

#[derive(Debug)]
struct Finding {
    segment: SegmentId,
    what: What,
}

#[derive(Debug)]
enum What {
    Chunk(Result<Chunk, Error>),
    Successors(Result<Vec<Successor>, Error>),
}

/// One segment being read.
#[derive(Debug)]
struct Cursor {
    reader: SegmentReader,
    /// Of the next event.
    offset: u64,
    /// The bytes from there on.
    events: Events,
    state: State,
    bound: Option<SegmentPosition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing under way.
    Idle,
    /// A read, or the question for successors, is under way.
    Busy,
    /// The segment has no more bytes.
    Ended,
}

impl EventReader {
    pub(crate) fn open(
        starts: BTreeMap<SegmentId, SegmentPosition>,
        bounds: Bounds,
        parts: Parts,
    ) -> Self {
        let mut reader = Self {
            parts,
            bounds,
            frontier: Frontier::default(),
            cursors: BTreeMap::new(),
            ready: VecDeque::new(),
            beside: JoinSet::new(),
            failed: Vec::new(),
            metrics: ReaderMetrics::new(),
        };
        for (&segment, &position) in &starts {
            reader.frontier.start(segment, position);
        }
        for (segment, position) in starts {
            reader.begin(segment, position);
        }
        reader
    }

    /// Returns the next event, of any segment; `None` at the end. Waits for one to be written if there
    /// is no end. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::SegmentTruncated`] if events were truncated away before they could be read,
    /// [`Error::SegmentGone`] if a whole segment was (nothing may be missing: its end is not known any
    /// more), and [`Error::NotAnEvent`] where a segment is no sequence of events: the next call goes on
    /// behind the gap, or with the other segments. [`Error::CutIncomplete`] instead of the end if the cut
    /// that it began at misses keys. Any other error: the next call tries again.
    pub async fn next(&mut self) -> Result<Option<ReadEvent>, Error> {
        for segment in std::mem::take(&mut self.failed) {
            self.go_on(segment);
        }
        loop {
            while let Some(&segment) = self.ready.front() {
                match self.take_event(segment) {
                    Ok(Some(event)) => return Ok(Some(event)),
                    Ok(None) => {
                        self.ready.pop_front();
                        self.go_on(segment);
                    }
                    Err(error) => {
                        self.ready.pop_front();
                        self.cursors.remove(&segment);
                        return Err(error);
                    }
                }
            }
            let Some(finding) = self.beside.join_next().await else {
                return match self.frontier.waiting() {
                    Some(segment) => Err(Error::CutIncomplete(
                        self.parts.topology.segment_name(segment),
                    )),
                    None => Ok(None),
                };
            };
            self.found(finding.map_err(|_| Error::Closed)?)?;
        }
    }

    /// Returns where the reader is: an offset for each segment, behind what [`EventReader::next`] has
    /// returned. It covers every key once; reading from it gives what comes next.
    pub fn cut(&self) -> StreamCut {
        StreamCut {
            stream: self.parts.stream.clone(),
            positions: self.frontier.cut(),
        }
    }

    fn take_event(&mut self, segment: SegmentId) -> Result<Option<ReadEvent>, Error> {
        let Some(cursor) = self.cursors.get_mut(&segment) else {
            return Ok(None);
        };
        let offset = cursor.offset;
        let Ok(taken) = cursor.take_event() else {
            return Err(Error::NotAnEvent {
                segment: self.parts.topology.segment_name(segment),
                offset: i64::try_from(offset).unwrap_or(i64::MAX),
            });
        };
        Ok(taken.map(|payload| {
            self.metrics.read(payload.len());
            let behind = SegmentPosition::At(Offset(cursor.offset));
            self.frontier.advance(segment, behind);
            ReadEvent {
                segment,
                offset: Offset(offset),
                payload,
            }
        }))
    }

    fn begin(&mut self, segment: SegmentId, position: SegmentPosition) {
        if self.bounds.excludes(segment) {
            return;
        }
        let reader = SegmentReader::new(
            self.parts.pool.clone(),
            Arc::clone(&self.parts.topology) as Arc<dyn Locate>,
            self.parts.config.retry.clone(),
            self.parts.rng.clone(),
            self.parts.topology.segment_name(segment),
        );
        let (offset, state) = match position {
            SegmentPosition::At(offset) => (offset.0, State::Idle),
            SegmentPosition::End => (0, State::Ended),
        };
        let cursor = Cursor {
            reader,
            offset,
            events: Events::new(READ_EVENT_BYTES_MAX),
            state,
            bound: self.bounds.positions.get(&segment).copied(),
        };
        self.cursors.insert(segment, cursor);
        self.go_on(segment);
    }

    /// Starts what a segment needs next: another read, or its successors.
    fn go_on(&mut self, segment: SegmentId) {
        let bytes_max = self.read_bytes();
        let Some(cursor) = self.cursors.get_mut(&segment) else {
            return;
        };
        let from = cursor.read_to();
        let left = match cursor.bound {
            Some(SegmentPosition::At(bound)) => Some(bound.0.saturating_sub(from)),
            Some(SegmentPosition::End) | None => None,
        };
        match cursor.state {
            State::Idle if left == Some(0) => {
                if !self.ready.contains(&segment) {
                    self.cursors.remove(&segment);
                }
            }
            State::Idle => {
                cursor.state = State::Busy;
                let reader = cursor.reader.clone();
                let left = left.and_then(|left| usize::try_from(left).ok());
                let bytes_max = bytes_max.min(left.unwrap_or(usize::MAX));
                self.beside.spawn(async move {
                    let chunk = reader.read(Offset(from), bytes_max).await;
                    Finding {
                        segment,
                        what: What::Chunk(chunk),
                    }
                });
            }
            // The reader was to stop here.
            State::Ended if cursor.bound.is_some() => {
                self.cursors.remove(&segment);
            }
            State::Ended => {
                cursor.state = State::Busy;
                let topology = Arc::clone(&self.parts.topology);
                self.beside.spawn(async move {
                    let successors = topology.successors(segment).await;
                    Finding {
                        segment,
                        what: What::Successors(successors),
                    }
                });
            }
            State::Busy => {}
        }
    }

    /// One read of each segment under way and one in hand must fit the budget.
    fn read_bytes(&self) -> usize {
        let config = &self.parts.config.reader;
        let share = config.memory_bytes_max / (2 * self.frontier.active().max(1));
        share.max(READ_BYTES_MIN).min(config.read_bytes_max)
    }

    fn found(&mut self, Finding { segment, what }: Finding) -> Result<(), Error> {
        let Some(cursor) = self.cursors.get_mut(&segment) else {
            return Ok(());
        };
        match what {
            What::Chunk(Ok(Chunk::Data(bytes))) => {
                cursor.state = State::Idle;
                cursor.events.push(bytes);
                self.ready.push_back(segment);
                self.go_on(segment);
            }
            // This comes only when everything before it has been taken: a piece of an event may be
            // left, and will never be completed.
            What::Chunk(Ok(Chunk::End)) if cursor.events.buffered() > 0 => {
                let offset = i64::try_from(cursor.offset).unwrap_or(i64::MAX);
                cursor.jump(cursor.read_to());
                cursor.state = State::Ended;
                self.failed.push(segment);
                return Err(Error::NotAnEvent {
                    segment: self.parts.topology.segment_name(segment),
                    offset,
                });
            }
            What::Chunk(Ok(Chunk::End)) => {
                cursor.state = State::Ended;
                self.go_on(segment);
            }
            What::Chunk(Ok(Chunk::Gone)) => {
                let offset = i64::try_from(cursor.offset).unwrap_or(i64::MAX);
                cursor.jump(cursor.offset);
                cursor.state = State::Ended;
                self.failed.push(segment);
                return Err(Error::SegmentGone {
                    segment: self.parts.topology.segment_name(segment),
                    offset,
                });
            }
            What::Chunk(Ok(Chunk::Truncated { start })) => {
                let given = i64::try_from(cursor.offset).unwrap_or(i64::MAX);
                cursor.jump(start.0);
                cursor.state = State::Idle;
                self.frontier.advance(segment, SegmentPosition::At(start));
                self.failed.push(segment);
                return Err(Error::SegmentTruncated {
                    segment: self.parts.topology.segment_name(segment),
                    given,
                    start: i64::try_from(start.0).unwrap_or(i64::MAX),
                });
            }
            What::Successors(Ok(successors)) => {
                self.cursors.remove(&segment);
                let pairs = successors
                    .into_iter()
                    .map(|successor| (successor.owner.segment, successor.predecessors));
                for started in self.frontier.end(segment, pairs) {
                    self.begin(started, SegmentPosition::At(Offset(0)));
                }
            }
            What::Chunk(Err(error)) => {
                cursor.state = State::Idle;
                self.failed.push(segment);
                return Err(error);
            }
            What::Successors(Err(error)) => {
                cursor.state = State::Ended;
                self.failed.push(segment);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Cursor {
    /// Returns the offset behind everything in memory.
    fn read_to(&self) -> u64 {
        self.offset + self.events.buffered() as u64
    }

    fn take_event(&mut self) -> Result<Option<Bytes>, EventError> {
        let event = self.events.next_event()?;
        if let Some(payload) = &event {
            self.offset += (EVENT_HEADER + payload.len()) as u64;
        }
        Ok(event)
    }

    /// Forgets what is in memory and goes on at `offset`.
    fn jump(&mut self, offset: u64) {
        self.events = Events::new(READ_EVENT_BYTES_MAX);
        self.offset = offset;
    }
}

/// With more segments than the budget has room for, reads don't become smaller than this.
const READ_BYTES_MIN: usize = 64 << 10;
/// Events may have been written through transient segments, beyond what one append can carry. A length
/// above this is no event's.
const READ_EVENT_BYTES_MAX: usize = 256 << 20;

#[cfg(test)]
mod tests;
