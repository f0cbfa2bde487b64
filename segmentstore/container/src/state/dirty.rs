//! What changed since the last checkpoint, and how a checkpoint gets hold of it.
//!
//! Before a segment changes for the first time, what the index has of it is remembered; a checkpoint
//! compares. It takes hold of one moment (a frame) at once, but writes the segments down bit by bit:
//! whoever changes one that is not written down yet does it first. So appends never wait for more than
//! a bit, and the checkpoint is of exactly that moment.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use sarit_storage::PackId;

use super::merge::Merge;
use super::{PackUse, Seeded, Segment, Sid};
use crate::index::Batch;
use crate::index::entries::{self, Applied, Before};
use crate::index::keys;
use crate::tables::Table;

/// Changes since the last checkpoint began, and those it has not written down yet.
#[derive(Clone, Debug)]
pub(crate) struct Dirty {
    before: HashMap<Sid, Before, Seeded>,
    /// Segments that are gone, in the order they went, with their tables, which may be all that knows
    /// their keys.
    gone: Vec<(Sid, Before, Option<Box<Table>>)>,
    taking: Option<Taking>,
    /// A checkpoint that was broken off; nobody knows how much of it the index has.
    broken_off: Option<Batch>,
    /// Whether a checkpoint has begun that the index does not have yet.
    under_way: bool,
    /// The segments that it removes.
    leaving: BTreeSet<Sid>,
}

/// A checkpoint being written down.
#[derive(Clone, Debug)]
struct Taking {
    before: HashMap<Sid, Before, Seeded>,
    left: VecDeque<Sid>,
    batch: Batch,
}

impl Dirty {
    pub(super) fn new(hasher: Seeded) -> Self {
        Self {
            before: HashMap::with_hasher(hasher),
            gone: Vec::new(),
            taking: None,
            broken_off: None,
            under_way: false,
            leaving: BTreeSet::new(),
        }
    }

    /// Returns how many segments changed since the last checkpoint.
    pub(crate) fn len(&self) -> usize {
        self.before.len() + self.gone.len()
    }

    /// Returns whether the index has everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.taking.is_none() && self.broken_off.is_none()
    }

    /// Keeps a checkpoint that was not written, for the next one to begin with.
    pub(crate) fn give_back(&mut self, batch: Batch) {
        self.broken_off = Some(batch);
    }

    /// Returns whether the index has the segment as it is, once no checkpoint is under way.
    pub(crate) fn is_clean(&self, sid: Sid) -> bool {
        !self.before.contains_key(&sid)
    }

    /// Returns whether no checkpoint is under way: then the index has all that did not change since the
    /// last one.
    pub(crate) fn is_settled(&self) -> bool {
        !self.under_way
    }

    /// Notes that the index has the checkpoint that began last, and that all know it.
    pub(crate) fn settled(&mut self) {
        self.under_way = false;
        self.leaving.clear();
    }

    /// Returns whether a segment is gone that the index may still have.
    pub(crate) fn is_gone(&self, sid: Sid) -> bool {
        self.leaving.contains(&sid) || self.gone.iter().any(|(gone, ..)| *gone == sid)
    }

    /// Returns the names of segments that are gone and that the index still has.
    pub(super) fn names_gone(&self) -> HashSet<Arc<str>> {
        let gone = self.gone.iter();
        gone.filter_map(|(_, before, _)| before.name()).collect()
    }

    /// Call before a segment changes.
    pub(super) fn touch(&mut self, sid: Sid, segment: &Segment) -> &mut Before {
        if let Some(taking) = &mut self.taking
            && let Some(before) = taking.before.remove(&sid)
        {
            entries::changes(sid, &before, segment, &mut taking.batch);
        }
        let before = self.before.entry(sid);
        before.or_insert_with(|| Before::of(segment))
    }

    /// Call when a segment is created.
    pub(super) fn created(&mut self, sid: Sid) {
        self.before.insert(sid, Before::Nothing);
    }

    /// Call when a segment is gone, after [`Self::touch`].
    pub(super) fn removed(&mut self, sid: Sid, table: Option<Box<Table>>) {
        if let Some(before @ Before::Was(_)) = self.before.remove(&sid) {
            self.gone.push((sid, before, table));
        }
    }

    /// Begins a checkpoint of this moment.
    pub(super) fn begin(
        &mut self,
        applied: Applied,
        packs: &[(PackId, Option<PackUse>)],
        merges: &[(Merge, Option<i64>)],
        hasher: Seeded,
    ) {
        debug_assert!(self.taking.is_none(), "one checkpoint at a time");
        self.under_way = true;
        let mut batch = self.broken_off.take().unwrap_or_default();
        batch.put(keys::container(), applied.value());
        for (id, used) in packs {
            entries::pack(*id, *used, &mut batch);
        }
        for (merge, at) in merges {
            entries::merge(*merge, *at, &mut batch);
        }
        // Names first: they may be others' by now, which are written down later.
        for (sid, before, table) in self.gone.drain(..) {
            entries::removal(sid, &before, table.as_deref(), &mut batch);
            self.leaving.insert(sid);
        }
        let empty = HashMap::with_hasher(hasher);
        let before = std::mem::replace(&mut self.before, empty);
        let mut left: Vec<_> = before.keys().copied().collect();
        left.sort_unstable();
        self.taking = Some(Taking {
            before,
            left: left.into(),
            batch,
        });
    }

    /// Writes down up to `count` segments, and returns the batch when all are.
    pub(super) fn take<'a>(
        &mut self,
        count: usize,
        segment: impl Fn(Sid) -> Option<&'a Segment>,
    ) -> Option<Batch> {
        let taking = self.taking.as_mut().expect("a checkpoint has begun");
        for _ in 0..count {
            let Some(sid) = taking.left.pop_front() else {
                return self.taking.take().map(|taking| taking.batch);
            };
            // Not there any more: it changed since, and was written down then.
            if let Some(before) = taking.before.remove(&sid) {
                let segment = segment(sid).expect("whoever removes it touches it first");
                entries::changes(sid, &before, segment, &mut taking.batch);
            }
        }
        None
    }
}
