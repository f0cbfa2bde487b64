//! What is true of a container, and the only code that changes it.
//!
//! [`State`] is what the frames applied so far made of it: what readers may see and what recovery
//! rebuilds, through the same [`State::apply`]. [`Speculation`] is what the operations still on their
//! way to the log will add; only the sequencer has one, and nothing of it may show outside before
//! its frame is durable. No I/O, no clock, no tokio.

pub(crate) mod admit;
pub(crate) mod boundaries;
pub(crate) mod dirty;
mod hash;
pub(crate) mod merge;
pub(crate) mod segment;
pub(crate) mod usage;
pub(crate) mod writers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use admit::operation_bytes_max;
pub(crate) use admit::{Speculation, check_sources};
pub(crate) use dirty::Dirty;
pub(crate) use hash::Seeded;
pub(crate) use merge::{Merged, source_hash};
pub(crate) use segment::{Extent, Medium, Place, Segment, Sid};
pub(crate) use usage::{PackUse, Usage};

use crate::index::Batch;
use crate::index::entries::Applied;
use crate::operation::{Malformed, Operation, Placed, Run};

/// The durable state of a container.
#[derive(Clone, Debug)]
pub(crate) struct State {
    names: HashMap<Arc<str>, Sid, Seeded>,
    /// Each by itself: most of a table's places are empty after it has grown.
    segments: HashMap<Sid, Box<Segment>, Seeded>,
    /// What is gone because it was merged.
    pub(crate) merged: Merged,
    /// Names known to be nobody's, which the index would say too.
    absent: HashSet<Arc<str>, Seeded>,
    /// How many of them were in use when last looked at.
    absent_used: usize,
    /// Names that are nobody's any more, which the index may not say yet.
    freed: HashSet<Arc<str>, Seeded>,
    /// How many segments there are, in memory or not.
    pub(crate) total: u64,
    /// The number the next segment gets.
    pub(crate) next_sid: Sid,
    /// The number the next operation gets.
    pub(crate) next_seq: u64,
    /// The last frame applied.
    pub(crate) frame: u64,
    pub(crate) totals: Totals,
    pub(crate) usage: Usage,
    /// What the index does not have yet.
    pub(crate) dirty: Dirty,
}

/// Sums over all segments, kept up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) extents: u64,
    pub(crate) boundaries: u64,
    pub(crate) table_entries: u64,
    pub(crate) table_bytes: u64,
}

/// What an operation did that someone may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// The segment grew, was sealed, or is gone.
    Wakes(Sid),
}

impl State {
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self {
            names: HashMap::with_hasher(hasher),
            segments: HashMap::with_hasher(hasher),
            merged: Merged::default(),
            absent: HashSet::with_hasher(hasher),
            absent_used: 0,
            freed: HashSet::with_hasher(hasher),
            total: 0,
            next_sid: Sid(1),
            next_seq: 1,
            frame: 0,
            totals: Totals::default(),
            usage: Usage::default(),
            dirty: Dirty::new(hasher),
        }
    }

    /// Starts with what an index has, segments aside.
    pub(crate) fn at(applied: Applied, hasher: Seeded) -> Self {
        let mut state = Self::new(hasher);
        state.next_seq = applied.next_seq;
        state.next_sid = applied.next_sid;
        state.frame = applied.frame;
        state.total = applied.segments;
        state
    }

    pub(crate) fn hasher(&self) -> Seeded {
        *self.names.hasher()
    }

    /// Returns the number of a segment by its name.
    pub(crate) fn sid(&self, name: &str) -> Option<Sid> {
        self.names.get(name).copied()
    }

    pub(crate) fn segment(&self, sid: Sid) -> Option<&Segment> {
        self.segments.get(&sid).map(|segment| &**segment)
    }

    /// Returns a segment by its name.
    pub(crate) fn find(&self, name: &str) -> Option<(Sid, &Segment)> {
        let sid = self.sid(name)?;
        self.segment(sid).map(|segment| (sid, segment))
    }

    /// Returns the number of segments in memory.
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Returns all segments in memory in the order of their creation.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (Sid, &Segment)> {
        let mut all: Vec<_> = self.segments.iter().collect();
        all.sort_unstable_by_key(|(sid, _)| **sid);
        all.into_iter().map(|(sid, segment)| (*sid, &**segment))
    }

    /// Returns how far it has come.
    pub(crate) fn applied(&self) -> Applied {
        Applied {
            frame: self.frame,
            next_seq: self.next_seq,
            next_sid: self.next_sid,
            segments: self.total,
        }
    }

    /// Returns whether it is known here what a name stands for, be it nothing; otherwise the index has
    /// to be asked.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.absent.contains(name) || self.freed.contains(name)
    }

    /// Notes that a name is nobody's, as the index says. There are at most `most` then, or twice as many as
    /// are used: `unused` ones are forgotten.
    pub(crate) fn note_absent(
        &mut self,
        name: Arc<str>,
        most: usize,
        unused: impl Fn(&str) -> bool,
    ) {
        if self.absent.len() >= most.max(2 * self.absent_used) {
            self.absent.retain(|name| !unused(name));
            self.absent_used = self.absent.len();
        }
        self.absent.insert(name);
    }

    /// Returns how many names are known to be nobody's.
    pub(crate) fn absent_len(&self) -> usize {
        self.absent.len() + self.freed.len()
    }

    /// Forgets names that are nobody's and that the index can be asked about.
    pub(crate) fn forget_absent(&mut self, unused: impl Fn(&str) -> bool) {
        self.absent.retain(|name| !unused(name));
        if self.dirty.is_settled() {
            let leaving = self.dirty.names_gone();
            self.freed
                .retain(|name| leaving.contains(name) || !unused(name));
        }
    }

    /// Returns the segments that the index has as they are, in no order.
    pub(crate) fn clean(&self) -> impl Iterator<Item = Sid> + '_ {
        let all = self.segments.iter();
        all.filter(|(sid, segment)| segment.unflushed == 0 && self.dirty.is_clean(**sid))
            .map(|(sid, _)| *sid)
    }

    /// Lets a segment go if the index has it as it is, and `unused` says so of its name.
    pub(crate) fn let_go(&mut self, sid: Sid, unused: impl Fn(&str) -> bool) -> bool {
        let Some(segment) = self.segments.get(&sid) else {
            return false;
        };
        let clean = self.dirty.is_settled() && self.dirty.is_clean(sid);
        if !clean || segment.unflushed > 0 || !unused(&segment.name) {
            return false;
        }
        if let Some(segment) = self.segments.remove(&sid) {
            self.names.remove(&segment.name);
            self.count(&segment, u64::wrapping_sub);
        }
        true
    }

    /// Begins a checkpoint of this moment and returns which it is.
    pub(crate) fn begin_checkpoint(&mut self) -> Applied {
        let (applied, hasher) = (self.applied(), self.hasher());
        let packs = self.usage.take_changed();
        let merges = self.merged.take_changed();
        self.dirty.begin(applied, &packs, &merges, hasher);
        applied
    }

    /// Writes down up to `count` segments of the checkpoint begun, and returns it when it is complete.
    pub(crate) fn take_checkpoint(&mut self, count: usize) -> Option<Batch> {
        let segments = &self.segments;
        self.dirty
            .take(count, |sid| segments.get(&sid).map(|segment| &**segment))
    }

    /// Puts a segment in place, as the index has it. What it needs of the log is counted here; what it
    /// needs of packs is counted with them, see [`Usage::restore_pack`].
    pub(crate) fn insert(&mut self, sid: Sid, segment: Segment) {
        self.count(&segment, u64::wrapping_add);
        let frames = segment.extents.iter();
        for extent in frames.filter(|extent| extent.place.in_frame().is_some()) {
            self.usage.add(extent);
        }
        if segment.unflushed > 0 {
            self.usage.mark(sid, true);
        }
        self.names.insert(segment.name.clone(), sid);
        self.segments.insert(sid, Box::new(segment));
    }

    /// Takes a segment out. Whether its bytes are still in use is for the caller to say.
    fn remove(&mut self, sid: Sid) -> Result<Box<Segment>, Malformed> {
        self.changing(sid)?;
        let mut segment = self.segments.remove(&sid).ok_or(NO_SEGMENT)?;
        self.names.remove(&segment.name);
        self.freed.insert(segment.name.clone());
        self.total -= 1;
        self.usage.mark(sid, false);
        self.count(&segment, u64::wrapping_sub);
        self.dirty.removed(sid, segment.table.take());
        Ok(segment)
    }

    fn count(&mut self, segment: &Segment, change: fn(u64, u64) -> u64) {
        let totals = &mut self.totals;
        totals.extents = change(totals.extents, segment.extents.len() as u64);
        totals.boundaries = change(totals.boundaries, segment.boundaries.len() as u64);
        if let Some(table) = &segment.table {
            totals.table_entries = change(totals.table_entries, table.len() as u64);
            totals.table_bytes = change(totals.table_bytes, table.bytes);
        }
    }

    /// Makes one durable operation of frame `frame`, written at `time_ms`, true.
    ///
    /// # Errors
    /// If the operation does not fit the state, which only a broken log or a bug of ours can cause.
    pub(crate) fn apply(
        &mut self,
        frame: u64,
        time_ms: i64,
        operation: &Operation<'_>,
    ) -> Result<Effect, Malformed> {
        match *operation {
            Operation::Append(run) => self.append(frame, time_ms, run),
            Operation::Create {
                sid,
                kind,
                name,
                attributes,
            } => {
                if sid < self.next_sid || self.names.contains_key(name) {
                    return Err("a segment is created twice");
                }
                self.next_sid = Sid(sid.0 + 1);
                let mut segment = Segment::new(name.into(), kind);
                segment.modified_ms = time_ms;
                for (id, value) in attributes.iter() {
                    segment.set_attribute(id, value);
                }
                self.absent.remove(name);
                self.freed.remove(name);
                self.insert(sid, segment);
                self.total += 1;
                self.dirty.created(sid);
                Ok(Effect::None)
            }
            Operation::Seal { sid } => {
                let segment = self.changing(sid)?;
                segment.sealed = true;
                segment.modified_ms = time_ms;
                Ok(Effect::Wakes(sid))
            }
            Operation::Truncate { sid, start } => {
                let segment = self.segments.get_mut(&sid).ok_or(NO_SEGMENT)?;
                self.dirty.touch(sid, segment);
                if !(segment.start..=segment.length).contains(&start) {
                    return Err("a truncation outside of its segment");
                }
                let before = (segment.extents.len(), segment.boundaries.len());
                segment.truncate(start, &mut self.usage);
                segment.modified_ms = time_ms;
                self.totals.extents -= (before.0 - segment.extents.len()) as u64;
                self.totals.boundaries -= (before.1 - segment.boundaries.len()) as u64;
                self.usage.mark(sid, segment.unflushed > 0);
                Ok(Effect::None)
            }
            Operation::Delete { sid } => {
                for extent in &self.remove(sid)?.extents {
                    self.usage.drop(extent);
                }
                Ok(Effect::Wakes(sid))
            }
            Operation::SetAttributes { sid, attributes } => {
                let segment = self.changing(sid)?;
                for (id, value) in attributes.iter() {
                    segment.set_attribute(id, value);
                }
                segment.modified_ms = time_ms;
                Ok(Effect::None)
            }
            Operation::FlushCommit(placed) => {
                self.place(placed, false);
                Ok(Effect::None)
            }
            Operation::Compact(placed) => {
                self.place(placed, true);
                Ok(Effect::None)
            }
            Operation::CheckpointEnd { .. } => Ok(Effect::None),
            Operation::TableUpdate { sid, base, changes } => {
                let segment = self.segments.get_mut(&sid).ok_or(NO_SEGMENT)?;
                if segment.length != base {
                    return Err("a table update at the wrong place");
                }
                let index = self.dirty.touch(sid, segment);
                for change in changes.iter() {
                    index.touch(change.key);
                }
                let table = segment.table.as_mut().ok_or("a table update of a stream")?;
                let before = (table.len() as u64, table.bytes);
                segment.length += table.apply(base, changes);
                segment.modified_ms = time_ms;
                let after = (table.len() as u64, table.bytes);
                let totals = &mut self.totals;
                totals.table_entries = totals.table_entries + after.0 - before.0;
                totals.table_bytes = totals.table_bytes + after.1 - before.1;
                Ok(Effect::None)
            }
            Operation::Merge {
                sid,
                base,
                attributes,
                sources,
            } => self.merge(time_ms, sid, base, attributes, sources),
        }
    }

    /// Notes what is not durable.
    #[cfg(planted = "flush_before_commit")]
    pub(crate) fn place_unlogged(&mut self, placed: Placed<'_>) {
        self.place(placed, false);
    }

    /// Notes that bytes of segments lie in a pack from now on. Segments that are gone stay gone.
    fn place(&mut self, placed: Placed<'_>, _compact: bool) {
        let place = Place::pack(placed.pack);
        for run in placed.runs() {
            let Some(segment) = self.segments.get_mut(&run.sid) else {
                continue;
            };
            self.dirty.touch(run.sid, segment);
            #[cfg(planted = "stale_extent")]
            if _compact && run.position == 0 {
                // The old place stays, though its pack is counted as not used by it.
                let from = segment.extents_from(run.offset).iter();
                for extent in from.take_while(|e| e.end() <= run.offset + u64::from(run.length)) {
                    if extent.place.in_frame().is_none() {
                        self.usage.drop(extent);
                    }
                }
                continue;
            }
            let before = segment.extents.len() as u64;
            let moved = Extent {
                offset: run.offset,
                place,
                position: run.position,
                length: run.length,
            };
            segment.relocate(moved, &mut self.usage);
            let totals = &mut self.totals;
            totals.extents = totals.extents + segment.extents.len() as u64 - before;
            self.usage.mark(run.sid, segment.unflushed > 0);
        }
        self.usage.sized(placed.pack, placed.size);
    }

    fn append(&mut self, frame: u64, time_ms: i64, run: Run<'_>) -> Result<Effect, Malformed> {
        let segment = self.segments.get_mut(&run.sid).ok_or(NO_SEGMENT)?;
        self.dirty.touch(run.sid, segment);
        if segment.length != run.offset || segment.sealed || segment.table.is_some() {
            return Err("an append at the wrong place");
        }
        let before = segment.extents.len();
        let extent = Extent {
            offset: run.offset,
            place: Place::frame(frame),
            position: run.position,
            length: run.length,
        };
        if extent.length > 0 {
            if segment.unflushed == 0 {
                self.usage.mark(run.sid, true);
            }
            self.usage.add(&extent);
        }
        segment.push(extent);
        for (writer, number) in run.attributes.iter() {
            segment.numbers.set(writer, number);
        }
        segment.count_events(run.events.into());
        segment.modified_ms = time_ms;
        let noted = segment.boundaries.len();
        segment.note_boundary(time_ms);
        self.totals.boundaries += (segment.boundaries.len() - noted) as u64;
        let grown = (segment.extents.len() - before) as u64;
        self.totals.extents += grown;
        Ok(Effect::Wakes(run.sid))
    }

    /// Returns a segment that is going to change.
    fn changing(&mut self, sid: Sid) -> Result<&mut Segment, Malformed> {
        let segment = self.segments.get_mut(&sid).ok_or(NO_SEGMENT)?;
        self.dirty.touch(sid, segment);
        Ok(segment)
    }
}

const NO_SEGMENT: Malformed = "an operation on a segment that is not there";
