//! Joining segments, and remembering which were joined.
//!
//! No bytes move: the target's extents go on with those of its sources, in the same places. A source is
//! gone with the operation that merged it. What it was merged into is remembered for a day, so that who
//! did not hear the answer can ask again; the oldest go first if there are more than [`MERGED_MAX`].

use std::collections::{BTreeMap, BTreeSet};

use sarit_proto::hash::murmur3_128;

use super::{Effect, NO_SEGMENT, Sid, State};
use crate::operation::{Attributes, Malformed, Sources};

/// How long a merge is remembered, in milliseconds.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// Most merges remembered by one container; about 100 bytes of memory each.
pub(crate) const MERGED_MAX: usize = 100_000;

/// A merge that happened: its target, and the hash of its source's name.
pub(crate) type Merge = (Sid, u128);

/// The merges of the last day.
#[derive(Clone, Debug, Default)]
pub(crate) struct Merged {
    at: BTreeMap<Merge, i64>,
    oldest: BTreeSet<(i64, Merge)>,
    /// What the index does not have yet.
    changed: BTreeSet<Merge>,
}

/// Returns what stands for a source's name.
pub(crate) fn source_hash(name: &str) -> u128 {
    let (high, low) = murmur3_128(name.as_bytes(), 0);
    u128::from(high) << 64 | u128::from(low)
}

impl Merged {
    /// Remembers a merge at `time_ms` and forgets what is too old.
    pub(crate) fn insert(&mut self, merge: Merge, time_ms: i64) {
        if let Some(before) = self.at.insert(merge, time_ms) {
            self.oldest.remove(&(before, merge));
        }
        self.oldest.insert((time_ms, merge));
        self.changed.insert(merge);
        let horizon = time_ms.saturating_sub(REMEMBERED_MS);
        while let Some(&(at, merge)) = self.oldest.first()
            && (at < horizon || self.at.len() > MERGED_MAX)
        {
            self.oldest.pop_first();
            self.at.remove(&merge);
            self.changed.insert(merge);
        }
    }

    /// Puts a merge in place, as the index has it.
    pub(crate) fn restore(&mut self, merge: Merge, time_ms: i64) {
        self.at.insert(merge, time_ms);
        self.oldest.insert((time_ms, merge));
    }

    /// Takes those that changed since the last call, with their times; `None` if forgotten.
    pub(super) fn take_changed(&mut self) -> Vec<(Merge, Option<i64>)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed
            .map(|merge| (merge, self.at.get(&merge).copied()))
            .collect()
    }

    pub(crate) fn contains(&self, merge: Merge) -> bool {
        self.at.contains_key(&merge)
    }

    pub(crate) fn len(&self) -> usize {
        self.at.len()
    }

    /// Returns all of them and when they happened, in the order of their targets.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Merge, i64)> + '_ {
        self.at.iter().map(|(merge, at)| (*merge, *at))
    }
}

impl State {
    pub(super) fn merge(
        &mut self,
        time_ms: i64,
        target: Sid,
        base: u64,
        attributes: Attributes<'_>,
        sources: Sources<'_>,
    ) -> Result<Effect, Malformed> {
        let segment = self.changing(target)?;
        if segment.length != base || segment.sealed || segment.table.is_some() {
            return Err("a merge at the wrong place");
        }
        for (id, value) in attributes.iter() {
            segment.set_attribute(id, value);
        }
        segment.modified_ms = time_ms;
        for source in sources.iter() {
            let gone = self.segments.get(&source.sid).ok_or(NO_SEGMENT)?;
            let whole = gone.start == 0 && gone.length == source.length && gone.table.is_none();
            if !whole || source.sid == target {
                return Err("a merge of something else");
            }
            let gone = if cfg!(planted = "merge_twice") {
                for extent in &gone.extents {
                    self.usage.add(extent);
                }
                gone.clone()
            } else {
                self.remove(source.sid)?
            };
            self.merged
                .insert((target, source_hash(&gone.name)), time_ms);
            let events = if source.one_event { 1 } else { gone.events };
            let segment = self.segments.get_mut(&target).ok_or(NO_SEGMENT)?;
            let before = (segment.extents.len(), segment.boundaries.len());
            // The appends of a large event end inside of it.
            if !source.one_event {
                segment.absorb_boundaries(&gone, segment.length, segment.events);
            }
            segment.absorb(&gone);
            segment.count_events(events);
            segment.note_boundary(time_ms);
            self.totals.extents += (segment.extents.len() - before.0) as u64;
            self.totals.boundaries += (segment.boundaries.len() - before.1) as u64;
            self.usage.mark(target, segment.unflushed > 0);
        }
        Ok(Effect::Wakes(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_is_forgotten_after_a_day_and_the_oldest_when_there_are_too_many() {
        let mut merged = Merged::default();
        let merge = |n: usize| (Sid(1), n as u128);
        merged.insert(merge(0), 1000);
        merged.insert(merge(1), 1000 + REMEMBERED_MS);
        assert!(merged.contains(merge(0)));
        merged.insert(merge(2), 1001 + REMEMBERED_MS);
        assert!(!merged.contains(merge(0)) && merged.contains(merge(1)));
        for n in 3..3 + MERGED_MAX {
            merged.insert(merge(n), 2000 + REMEMBERED_MS);
        }
        assert_eq!(merged.len(), MERGED_MAX);
        assert_eq!(merged.oldest.len(), MERGED_MAX);
        assert!(!merged.contains(merge(2)) && merged.contains(merge(3)));
    }

    #[test]
    fn a_repeated_merge_is_remembered_from_the_last_time_on() {
        let mut merged = Merged::default();
        merged.insert((Sid(1), 7), 0);
        merged.insert((Sid(1), 7), REMEMBERED_MS);
        merged.insert((Sid(1), 8), REMEMBERED_MS + 5);
        assert!(merged.contains((Sid(1), 7)));
        assert_eq!((merged.len(), merged.oldest.len()), (2, 2));
    }
}
