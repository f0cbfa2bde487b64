//! What of the log and of each pack the segments still need: which frames the log must keep, which
//! segments have something to flush, which packs nobody refers to any more.
//!
//! Kept up to date by whatever moves extents, in live traffic and in recovery alike.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sarit_storage::PackId;

use super::segment::{Extent, Medium, Sid};

/// What segments refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    frames: FrameBytes,
    packs: BTreeMap<PackId, PackUse>,
    /// Segments with bytes in the log.
    dirty: BTreeSet<Sid>,
    /// Packs that lost their last reference, until someone takes note.
    garbage: Vec<PackId>,
    /// Packs whose counts changed since the last checkpoint.
    changed: BTreeSet<PackId>,
}

/// How much of a pack is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PackUse {
    /// Bytes of segments that were put into it, 0 if unknown.
    pub(crate) size: u64,
    /// Bytes that segments refer to.
    pub(crate) live: u64,
}

/// Bytes of each frame that lie nowhere else; 4 bytes for every frame from the first such one on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FrameBytes {
    /// Number of the first frame counted.
    first: u64,
    counts: VecDeque<u32>,
    sum: u64,
}

impl Usage {
    /// Counts an extent that a segment got.
    pub(crate) fn add(&mut self, extent: &Extent) {
        match extent.place.medium() {
            Medium::Frame(number) => self.frames.add(number, extent.length),
            Medium::Pack(id) => {
                self.packs.entry(id).or_default().live += u64::from(extent.length);
                self.changed.insert(id);
            }
        }
    }

    /// Counts an extent that a segment lost.
    pub(crate) fn drop(&mut self, extent: &Extent) {
        match extent.place.medium() {
            Medium::Frame(number) => self.frames.drop(number, extent.length),
            Medium::Pack(id) => {
                let used = self.packs.entry(id).or_default();
                used.live -= u64::from(extent.length);
                self.changed.insert(id);
                if used.live == 0 {
                    self.packs.remove(&id);
                    self.garbage.push(id);
                }
            }
        }
    }

    /// Notes whether a segment has bytes in the log.
    pub(crate) fn mark(&mut self, sid: Sid, dirty: bool) {
        if dirty {
            self.dirty.insert(sid);
        } else {
            self.dirty.remove(&sid);
        }
    }

    /// Puts a pack's counts in place, as an index has them.
    pub(crate) fn restore_pack(&mut self, id: PackId, used: PackUse) {
        self.packs.insert(id, used);
    }

    /// Notes how much was put into a pack, or that nobody refers to it from the start.
    pub(crate) fn sized(&mut self, id: PackId, size: u64) {
        match self.packs.get_mut(&id) {
            Some(used) => {
                used.size = size;
                self.changed.insert(id);
            }
            None => self.garbage.push(id),
        }
    }

    /// Takes the packs whose counts changed since the last call, with what they are now.
    pub(crate) fn take_changed(&mut self) -> Vec<(PackId, Option<PackUse>)> {
        let changed = std::mem::take(&mut self.changed);
        let now = |id| (id, self.packs.get(&id).copied());
        changed.into_iter().map(now).collect()
    }

    /// Returns the packs that segments refer to.
    pub(crate) fn packs(&self) -> &BTreeMap<PackId, PackUse> {
        &self.packs
    }

    /// Returns the segments with bytes in the log.
    pub(crate) fn dirty(&self) -> &BTreeSet<Sid> {
        &self.dirty
    }

    /// Takes the packs that lost their last reference since the last call.
    pub(crate) fn take_garbage(&mut self) -> Vec<PackId> {
        std::mem::take(&mut self.garbage)
    }

    /// Returns all frames with bytes that lie in the log only.
    pub(crate) fn frames(&self) -> impl Iterator<Item = u64> + '_ {
        let counts = (self.frames.first..).zip(&self.frames.counts);
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(number, _)| number)
    }

    /// Returns how many bytes of segments lie in the log only.
    pub(crate) fn unflushed(&self) -> u64 {
        self.frames.sum
    }

    /// Returns the first frame with bytes that lie in the log only.
    pub(crate) fn oldest_unflushed(&self) -> Option<u64> {
        (!self.frames.counts.is_empty()).then_some(self.frames.first)
    }

    /// Returns the frame behind the first ones that together have `bytes` bytes which lie in the log
    /// only, at least one of them.
    pub(crate) fn frames_with(&self, bytes: u64) -> u64 {
        let mut sum = 0;
        let within = self.frames.counts.iter().take_while(|count| {
            let more = sum < bytes;
            sum += u64::from(**count);
            more
        });
        self.frames.first + within.count() as u64
    }
}

impl FrameBytes {
    fn add(&mut self, number: u64, bytes: u32) {
        if self.counts.is_empty() {
            self.first = number;
        }
        // Merged segments bring bytes of older frames.
        while number < self.first {
            self.first -= 1;
            self.counts.push_front(0);
        }
        let at = usize::try_from(number - self.first).expect("as many frames as fit the memory");
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += bytes;
        self.sum += u64::from(bytes);
    }

    fn drop(&mut self, number: u64, bytes: u32) {
        let at = usize::try_from(number - self.first).expect("it was added");
        self.counts[at] -= bytes;
        self.sum -= u64::from(bytes);
        while let Some(0) = self.counts.front() {
            self.counts.pop_front();
            self.first += 1;
        }
        while let Some(0) = self.counts.back() {
            self.counts.pop_back();
        }
        if self.counts.capacity() > 4 * self.counts.len().max(1024) {
            self.counts.shrink_to_fit();
        }
    }
}
