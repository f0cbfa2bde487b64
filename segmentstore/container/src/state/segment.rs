//! One segment: its progress, its flags, and where its bytes lie.

use std::ops::Range;
use std::sync::Arc;

use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE};
use sarit_storage::PackId;

use super::boundaries::Boundary;
use super::usage::Usage;
use super::writers::Numbers;
use crate::Kind;
use crate::tables::Table;

/// A segment's number inside its container: given out once, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sid(pub(crate) u64);

/// Where a run of a segment's bytes lies. 24 bytes: long logs have millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Offset of the first byte in the segment.
    pub(crate) offset: u64,
    pub(crate) place: Place,
    /// Position of the first byte in the frame's body, or in the pack.
    pub(crate) position: u32,
    pub(crate) length: u32,
}

/// The frame of the log, or the pack in long-term storage, that holds an extent; 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u64);

/// A [`Place`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// A frame of the log, by its number.
    Frame(u64),
    /// An object of long-term storage.
    Pack(PackId),
}

impl Place {
    /// Set for packs: neither the numbers of frames nor those of packs reach this bit.
    const PACK: u64 = 1 << 63;

    pub(crate) fn frame(number: u64) -> Self {
        debug_assert!(number & Self::PACK == 0, "a log of 2^63 frames");
        Self(number)
    }

    pub(crate) fn pack(id: PackId) -> Self {
        Self(Self::PACK | id.get())
    }

    pub(crate) fn medium(self) -> Medium {
        match PackId::from_number(self.0 ^ Self::PACK) {
            Some(id) => Medium::Pack(id),
            None => Medium::Frame(self.0),
        }
    }

    /// Returns the frame's number, `None` for a pack.
    pub(crate) fn in_frame(self) -> Option<u64> {
        (self.0 & Self::PACK == 0).then_some(self.0)
    }

    /// Returns the place of a stored number; `None` if no pack has that number.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let possible = bits & Self::PACK == 0 || PackId::from_number(bits ^ Self::PACK).is_some();
        possible.then_some(Self(bits))
    }

    /// Returns it as one number, for storing.
    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.medium().fmt(f)
    }
}

impl Extent {
    /// Returns the offset behind its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Returns the part of it that lies in `[from, to)`, which is not empty and within.
    pub(crate) fn part(&self, Range { start, end }: Range<u64>) -> Self {
        debug_assert!(self.offset <= start && start < end && end <= self.end());
        let skipped = u32::try_from(start - self.offset).expect("inside the extent");
        Self {
            offset: start,
            place: self.place,
            position: self.position + skipped,
            length: u32::try_from(end - start).expect("inside the extent"),
        }
    }

    /// Returns whether `next` goes on where this one ends, in the segment and in its place.
    fn touches(&self, next: &Self) -> bool {
        self.place == next.place
            && self.end() == next.offset
            && self.position.checked_add(self.length) == Some(next.position)
    }
}

/// A segment as of the last frame applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    /// First offset that can be read.
    pub(crate) start: u64,
    /// Offset behind the last byte; for a table, behind the last version.
    pub(crate) length: u64,
    pub(crate) sealed: bool,
    /// When it was last changed, by the wall clock of whoever owned it.
    pub(crate) modified_ms: i64,
    /// Events appended, or `NULL_ATTRIBUTE` for a table: one of the attributes, in a place of its own
    /// because every append moves it.
    pub(crate) events: i64,
    /// The other attributes, the writers' last event numbers among them.
    pub(crate) numbers: Numbers,
    /// Where the bytes `[start, length)` lie, lowest first, without gap.
    pub(crate) extents: Vec<Extent>,
    /// Ends of some appends behind `start`, lowest first.
    pub(crate) boundaries: Vec<Boundary>,
    /// How many of the extents' bytes lie in the log.
    pub(crate) unflushed: u64,
    pub(crate) table: Option<Box<Table>>,
}

impl Segment {
    pub(crate) fn new(name: Arc<str>, kind: Kind) -> Self {
        let table = match kind {
            Kind::Stream => None,
            Kind::Table { key_length } => Some(Box::new(Table::new(key_length > 0))),
        };
        Self {
            name,
            kind,
            start: 0,
            length: 0,
            sealed: false,
            modified_ms: 0,
            events: if table.is_some() { NULL_ATTRIBUTE } else { 0 },
            numbers: Numbers::default(),
            extents: Vec::new(),
            boundaries: Vec::new(),
            unflushed: 0,
            table,
        }
    }

    /// Returns an attribute's value, [`NULL_ATTRIBUTE`] if it is unset.
    pub(crate) fn attribute(&self, id: AttributeId) -> i64 {
        if id == AttributeId::EVENT_COUNT {
            self.events
        } else {
            self.numbers.get(id).unwrap_or(NULL_ATTRIBUTE)
        }
    }

    /// Sets an attribute; [`NULL_ATTRIBUTE`] unsets it.
    pub(crate) fn set_attribute(&mut self, id: AttributeId, value: i64) {
        if id == AttributeId::EVENT_COUNT {
            self.events = value;
        } else {
            self.numbers.set(id, value);
        }
    }

    /// Adds to the number of events.
    pub(crate) fn count_events(&mut self, events: i64) {
        let number = |events| if events == NULL_ATTRIBUTE { 0 } else { events };
        self.events = number(self.events).saturating_add(number(events));
    }

    /// Adds the bytes of a segment that was never truncated at the end, where they are.
    pub(crate) fn absorb(&mut self, source: &Self) {
        let base = self.length;
        for extent in &source.extents {
            self.push(Extent {
                offset: base + extent.offset,
                ..*extent
            });
        }
        debug_assert_eq!(self.length, base + source.length, "extents have no gaps");
    }

    /// Adds bytes at the end. Bytes that follow the last ones in the same place lengthen its extent.
    pub(crate) fn push(&mut self, extent: Extent) {
        self.length = extent.end();
        if extent.length == 0 {
            return;
        }
        if extent.place.in_frame().is_some() {
            self.unflushed += u64::from(extent.length);
        }
        match self.extents.last_mut() {
            Some(last) if last.touches(&extent) => last.length += extent.length,
            _ => self.extents.push(extent),
        }
    }

    /// Drops what lies below `start`.
    pub(crate) fn truncate(&mut self, start: u64, usage: &mut Usage) {
        self.start = start;
        let dead = self.boundaries.partition_point(|b| b.offset <= start);
        self.boundaries.drain(..dead);
        let dead = self.extents.partition_point(|extent| extent.end() <= start);
        for extent in self.extents.drain(..dead) {
            usage.drop(&extent);
            if extent.place.in_frame().is_some() {
                self.unflushed -= u64::from(extent.length);
            }
        }
        // What is left of the extent around the new start: a pack may be mostly dead from then on.
        if let Some(first) = self.extents.first_mut()
            && first.offset < start
        {
            let (whole, left) = (*first, first.part(start..first.end()));
            usage.add(&left);
            usage.drop(&whole);
            if left.place.in_frame().is_some() {
                self.unflushed -= u64::from(whole.length - left.length);
            }
            *first = left;
        }
        if self.extents.capacity() > 4 * self.extents.len().max(4) {
            self.extents.shrink_to_fit();
        }
    }

    /// Notes that the bytes of `moved` lie where it says, instead of where they lay. What was truncated
    /// meanwhile stays away. Returns how many bytes that concerns.
    pub(crate) fn relocate(&mut self, moved: Extent, usage: &mut Usage) -> u64 {
        let from = moved.offset.max(self.start);
        let to = moved.end().min(self.length);
        if from >= to {
            return 0;
        }
        let first = self.extents.partition_point(|extent| extent.end() <= from);
        let behind = self.extents.partition_point(|extent| extent.offset < to);
        let (head, tail) = (self.extents[first], self.extents[behind - 1]);
        let left = (head.offset < from).then(|| head.part(head.offset..from));
        let right = (to < tail.end()).then(|| tail.part(to..tail.end()));
        let kept = [left, Some(moved.part(from..to)), right];
        // First those that stay, so that a place in use is at no time without use.
        for extent in kept.iter().flatten() {
            usage.add(extent);
            if extent.place.in_frame().is_some() {
                self.unflushed += u64::from(extent.length);
            }
        }
        for extent in &self.extents[first..behind] {
            usage.drop(extent);
            if extent.place.in_frame().is_some() {
                self.unflushed -= u64::from(extent.length);
            }
        }
        self.extents
            .splice(first..behind, kept.into_iter().flatten());
        self.join(first, first + 3);
        if self.extents.capacity() > 4 * self.extents.len().max(4) {
            self.extents.shrink_to_fit();
        }
        to - from
    }

    /// Joins extents that touch, among those from the one before `first` to the one at `last`.
    fn join(&mut self, first: usize, last: usize) {
        let mut at = first.max(1);
        let mut last = last;
        while at <= last && at < self.extents.len() {
            let next = self.extents[at];
            if self.extents[at - 1].touches(&next) {
                self.extents[at - 1].length += next.length;
                self.extents.remove(at);
                last -= 1;
            } else {
                at += 1;
            }
        }
    }

    /// Returns the extents from the one that holds `offset` on.
    pub(crate) fn extents_from(&self, offset: u64) -> &[Extent] {
        let below = self
            .extents
            .partition_point(|extent| extent.end() <= offset);
        &self.extents[below..]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::usage::PackUse;
    use super::*;

    fn pack(n: u64) -> PackId {
        PackId::new(1, n).unwrap()
    }

    #[derive(Clone, Copy, Debug)]
    enum Action {
        Append(u32),
        Truncate(prop::sample::Index),
        Relocate(prop::sample::Index, u64),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            (0_u32..40).prop_map(Action::Append),
            any::<prop::sample::Index>().prop_map(Action::Truncate),
            (any::<prop::sample::Index>(), 1_u64..60)
                .prop_map(|(at, len)| Action::Relocate(at, len)),
        ];
        prop::collection::vec(action, 1..60)
    }

    proptest! {
        /// Against a model that knows the place of each single byte.
        #[test]
        fn every_byte_lies_where_it_was_last_said_to_lie(actions in actions()) {
            let mut segment = Segment::new("s".into(), Kind::Stream);
            let mut usage = Usage::default();
            let mut model: BTreeMap<u64, (Place, u32)> = BTreeMap::new();
            for (number, action) in (0_u64..).zip(actions) {
                match action {
                    Action::Append(length) => {
                        // Two in each frame, so that some touch.
                        let (frame, position) = (1 + number / 2, (number % 2) as u32 * 40);
                        let (place, offset) = (Place::frame(frame), segment.length);
                        let extent = Extent { offset, place, position, length };
                        for byte in 0..length {
                            model.insert(offset + u64::from(byte), (place, position + byte));
                        }
                        if length > 0 {
                            usage.add(&extent);
                        }
                        segment.push(extent);
                    }
                    Action::Truncate(at) => {
                        let left = (segment.length - segment.start) as usize;
                        let start = segment.start + at.index(left + 1) as u64;
                        segment.truncate(start, &mut usage);
                        model = model.split_off(&start);
                    }
                    Action::Relocate(at, length) => {
                        let offset = at.index(segment.length as usize + 10) as u64;
                        let (place, length) = (Place::pack(pack(number)), length as u32);
                        let moved = Extent { offset, place, position: 7, length };
                        segment.relocate(moved, &mut usage);
                        for (offset, byte) in model.range_mut(moved.offset..moved.end()) {
                            *byte = (place, 7 + (*offset - moved.offset) as u32);
                        }
                    }
                }
                let mut end = segment.extents.first().map_or(segment.length, |e| e.offset);
                prop_assert_eq!(end, segment.start);
                let mut frames = BTreeMap::<u64, u64>::new();
                let mut packs = BTreeMap::<PackId, PackUse>::new();
                for extent in &segment.extents {
                    prop_assert!(extent.length > 0 && extent.offset == end);
                    end = extent.end();
                    for byte in 0..extent.length {
                        let offset = extent.offset + u64::from(byte);
                        let wanted = (extent.place, extent.position + byte);
                        let found = model.get(&offset);
                        prop_assert_eq!(found, Some(&wanted));
                    }
                    let used = match extent.place.medium() {
                        Medium::Frame(number) => frames.entry(number).or_default(),
                        Medium::Pack(id) => &mut packs.entry(id).or_default().live,
                    };
                    *used += u64::from(extent.length);
                }
                prop_assert_eq!(end, segment.length);
                prop_assert_eq!(usage.packs(), &packs);
                prop_assert_eq!(usage.oldest_unflushed(), frames.keys().next().copied());
                prop_assert_eq!(usage.unflushed(), frames.values().sum::<u64>());
                prop_assert_eq!(segment.unflushed, usage.unflushed());
                if let Some(last) = frames.keys().next_back() {
                    prop_assert_eq!(usage.frames_with(u64::MAX), last + 1);
                }
                for id in usage.take_garbage() {
                    prop_assert!(!packs.contains_key(&id));
                }
            }
        }
    }
}
