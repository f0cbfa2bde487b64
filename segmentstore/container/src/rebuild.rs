//! Long-term storage → an index, for a container whose log is lost.
//!
//! Begins with the newest export of its index. What lay in the log only is lost, so each segment ends
//! where its bytes in packs end: those the export knows of, and those that were flushed since, which the
//! packs themselves tell. What was truncated, sealed, deleted or created since the export, and what
//! writers' numbers, attributes and tables became, is not known any more.
//!
//! What packs have behind the end of a segment is given up, and its offsets go to other events. So the index
//! notes up to which epoch the log is lost, and should that happen again, packs up to that epoch count only
//! where the export says so.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Buf;
use sarit_proto::ids::ContainerId;
use sarit_storage::{PackId, Store, StoreError};

use crate::index::entries::{self, Applied};
use crate::index::flat::SnapshotIndex;
use crate::index::{Batch, Index, Indexes, keys};
use crate::state::{Extent, Medium, PackUse, Place, Segment, Sid};
use crate::{Error, export};

/// The number of the segment that a pack's table of checksums is said to be of.
const NO_SEGMENT: u64 = u64::MAX;
/// Stands in the index until it is complete: no log has such a frame, so nobody takes it for a whole one.
const UNFINISHED: u64 = u64::MAX >> 1;
/// Segments written at once.
const AT_ONCE: usize = 1000;

/// What becomes of packs and exports that are damaged, or gone since they were listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// Nothing is rebuilt.
    Refuse,
    /// They are left out: segments end before what a pack had of them, and the export before the newest one
    /// may do. What lies behind is given up, and in time deleted.
    Skip,
}

/// What was found of a container in long-term storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Segments that are there again.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of them that were flushed after the export.
    pub newer_bytes: u64,
    /// Segments that are shorter than they were at the export: the rest lay in the log only.
    pub shortened: u64,
    /// Segments whose bytes are in packs and whose names nobody knows: created after the export.
    pub nameless: u64,
    /// Bytes of these.
    pub nameless_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// The highest epoch that left anything behind; the new log has to begin above.
    pub epoch: u64,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

/// Rebuilds a container's index, which is new, from what lies in long-term storage. Reads the ends of all
/// its packs, and takes memory for all of its index.
///
/// # Errors
/// The store's and the index's; [`Error::DamagedIndex`] if the export or a pack does not make sense and is not
/// to be skipped, or the index is not new.
pub async fn rebuild(
    id: ContainerId,
    store: &Store,
    indexes: &Indexes,
    damaged_ones: Damaged,
) -> Result<Rebuilt, Error> {
    let mut rebuilt = Rebuilt::default();
    let mut skip = |error: Error| match damaged_ones {
        Damaged::Refuse => Err(error),
        Damaged::Skip => {
            rebuilt.skipped.push(error.to_string());
            Ok(())
        }
    };
    let mut packs = Packs::read(id, store, &mut skip).await?;
    let (epoch, exported) = export::newest(store, id.0, &mut skip).await?;
    rebuilt.packs = packs.sizes.len() as u64;
    rebuilt.epoch = packs.epoch.max(epoch);
    let index = indexes.open(id).await?;
    let outcome = async {
        if Applied::of(&*index).await?.is_some() {
            return Err(damaged("it is not empty: there is nothing to recover"));
        }
        let Some((_, exported)) = exported else {
            // No checkpoint was ever made, or all copies are damaged: in the former case at most a minute's
            // worth of segments.
            (rebuilt.nameless, rebuilt.nameless_bytes) = packs.unknown(&BTreeSet::new());
            // Segments get their numbers anew, and must not be taken for these.
            let mut batch = Batch::default();
            entries::lost(rebuilt.epoch, &mut batch);
            index.checkpoint(&batch).await?;
            return Ok(rebuilt);
        };
        let old = SnapshotIndex::of(exported);
        let lost = entries::load_lost(&old).await?;
        rebuilt.epoch = rebuilt.epoch.max(lost);
        packs.forget(lost);
        fill(&*index, &old, &packs, &mut rebuilt).await?;
        Ok(rebuilt)
    };
    let outcome = outcome.await;
    index.close().await;
    outcome
}

/// Copies the index `old`, with extents as the packs have them.
async fn fill(
    index: &dyn Index,
    old: &SnapshotIndex,
    packs: &Packs,
    rebuilt: &mut Rebuilt,
) -> Result<(), Error> {
    let applied = Applied::of(old).await?;
    let applied = applied.ok_or_else(|| damaged("the export is of no checkpoint"))?;
    let begin = Applied {
        frame: UNFINISHED,
        ..applied
    };
    let mut batch = Batch::default();
    batch.put(keys::container(), begin.value());
    entries::lost(rebuilt.epoch, &mut batch);
    let mut sids = BTreeSet::new();
    entries::each(old, keys::all(keys::Space::Segment), |mut key, _| {
        let sid = key.try_get_u64();
        sids.insert(Sid(sid.map_err(|_| damaged("a segment without a number"))?));
        Ok(())
    })
    .await?;
    let mut used: BTreeMap<PackId, u64> = BTreeMap::new();
    for (n, sid) in (1..).zip(&sids) {
        let segment = entries::load(old, *sid).await?;
        let mut segment = segment.ok_or_else(|| damaged("a segment without a record"))?;
        if segment.table.is_none() {
            let before = segment.length;
            packs.cover(*sid, &mut segment);
            rebuilt.bytes += segment.length - segment.start;
            rebuilt.newer_bytes += segment.length.saturating_sub(before);
            rebuilt.shortened += u64::from(segment.length < before);
            for extent in &segment.extents {
                if let Medium::Pack(id) = extent.place.medium() {
                    *used.entry(id).or_default() += u64::from(extent.length);
                }
            }
        }
        rebuilt.segments += 1;
        entries::entries(*sid, &segment, &mut |key, value| batch.put(key, value));
        if n % AT_ONCE == 0 {
            index.checkpoint(&std::mem::take(&mut batch)).await?;
        }
    }
    for (id, live) in used {
        let size = packs.sizes.get(&id).map_or(live, |size| *size);
        batch.put(keys::pack(id), entries::pack_value(PackUse { size, live }));
    }
    entries::load_merges(old, |merge, at| entries::merge(merge, Some(at), &mut batch)).await?;
    (rebuilt.nameless, rebuilt.nameless_bytes) = packs.unknown(&sids);
    index.checkpoint(&batch).await?;
    let highest = packs.runs.keys().next_back().map_or(0, |sid| sid.0);
    let mut last = Batch::default();
    let end = Applied {
        // The new log begins with frame 1.
        frame: 0,
        next_seq: applied.next_seq.max(packs.last_seq + 1),
        next_sid: applied.next_sid.max(Sid(highest + 1)),
        segments: sids.len() as u64,
    };
    last.put(keys::container(), end.value());
    index.checkpoint(&last).await
}

/// What the packs of a container say of themselves.
#[derive(Debug, Default)]
struct Packs {
    /// Bytes of segments in each.
    sizes: BTreeMap<PackId, u64>,
    /// Runs of each segment.
    runs: BTreeMap<Sid, Vec<Extent>>,
    epoch: u64,
    last_seq: u64,
}

impl Packs {
    /// `skip` says whether what is damaged is passed over.
    async fn read(
        container: ContainerId,
        store: &Store,
        mut skip: impl FnMut(Error) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut packs = Self::default();
        let mut listed = store.list(container.0).await.map_err(Error::Storage)?;
        listed.sort_unstable();
        for (name, _) in listed {
            let Some(id) = name.id() else { continue };
            packs.epoch = packs.epoch.max(id.number().epoch);
            let (_, footer, index) = match store.index(name).await {
                Err(error @ (StoreError::Pack(_) | StoreError::Missing(_))) => {
                    skip(Error::Storage(error))?;
                    continue;
                }
                found => found.map_err(Error::Storage)?,
            };
            packs.last_seq = packs.last_seq.max(footer.last_seq);
            let runs = index.runs().iter();
            let runs: Vec<_> = runs.filter(|run| run.segment != NO_SEGMENT).collect();
            let sum = runs.iter().map(|run| u64::from(run.len)).sum();
            packs.sizes.insert(id, sum);
            for run in runs {
                packs
                    .runs
                    .entry(Sid(run.segment))
                    .or_default()
                    .push(Extent {
                        offset: run.offset,
                        place: Place::pack(id),
                        position: u32::try_from(run.pos).map_err(|_| damaged("a pack of 4 GiB"))?,
                        length: run.len,
                    });
            }
        }
        Ok(packs)
    }

    /// Forgets what packs of epochs up to `lost` say of themselves. They stay, for extents that lie in them.
    fn forget(&mut self, lost: u64) {
        for runs in self.runs.values_mut() {
            runs.retain(|run| match run.place.medium() {
                Medium::Frame(_) => false,
                Medium::Pack(id) => id.number().epoch > lost,
            });
        }
        self.runs.retain(|_, runs| !runs.is_empty());
    }

    /// Gives a segment the extents that are there, from its start to the first byte that is not: its own,
    /// and what packs have where it has none.
    fn cover(&self, sid: Sid, segment: &mut Segment) {
        let known = std::mem::take(&mut segment.extents).into_iter();
        let mut known = known
            .filter(|extent| match extent.place.medium() {
                Medium::Frame(_) => false,
                Medium::Pack(id) => self.sizes.get(&id).is_some_and(|size| {
                    u64::from(extent.position) + u64::from(extent.length) <= *size
                }),
            })
            .peekable();
        let mut runs: Vec<_> = self.runs.get(&sid).into_iter().flatten().copied().collect();
        runs.sort_unstable_by_key(|run| run.offset);
        let mut runs = runs.into_iter().peekable();
        let mut at = segment.start;
        segment.unflushed = 0;
        segment.length = at;
        // Of the runs that begin before a place, the one that reaches furthest.
        let mut best: Option<Extent> = None;
        loop {
            while let Some(run) = runs.next_if(|run| run.offset <= at) {
                if best.is_none_or(|best| run.end() > best.end()) {
                    best = Some(run);
                }
            }
            while known.next_if(|extent| extent.end() <= at).is_some() {}
            let next = match (known.peek(), best) {
                (Some(own), _) if own.offset <= at => own.part(at..own.end()),
                (own, Some(run)) if run.end() > at => {
                    let end = own.map_or(run.end(), |own| run.end().min(own.offset));
                    run.part(at..end)
                }
                _ => break,
            };
            at = next.end();
            segment.push(next);
        }
        segment.boundaries.retain(|boundary| boundary.offset <= at);
    }

    /// Returns how many segments are not in `known`, and how many bytes packs have of them.
    fn unknown(&self, known: &BTreeSet<Sid>) -> (u64, u64) {
        let unknown = self.runs.iter().filter(|(sid, _)| !known.contains(sid));
        unknown.fold((0, 0), |(count, bytes), (_, runs)| {
            let more: u64 = runs.iter().map(|run| u64::from(run.length)).sum();
            (count + 1, bytes + more)
        })
    }
}

fn damaged(what: &str) -> Error {
    Error::DamagedIndex(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn extent(pack: u64, offset: u64, position: u32, length: u32) -> Extent {
        Extent {
            offset,
            place: Place::pack(PackId::new(1, pack).unwrap()),
            position,
            length,
        }
    }

    #[test]
    fn a_segment_ends_at_the_first_byte_that_no_pack_has() {
        let mut packs = Packs::default();
        for pack in 1..=4 {
            packs.sizes.insert(PackId::new(1, pack).unwrap(), 1000);
        }
        // Flushed out of order, and a part of it twice: 250 to 300 was in the log only.
        let runs = vec![
            extent(1, 0, 0, 100),
            extent(2, 50, 0, 150),
            extent(3, 200, 10, 50),
            extent(4, 300, 0, 50),
        ];
        packs.runs.insert(Sid(1), runs);
        let mut segment = Segment::new("s".into(), Kind::Stream);
        segment.start = 20;
        segment.length = 350;
        // A pack that is gone, and one that is shorter than that.
        segment.extents = vec![extent(9, 20, 0, 330), extent(4, 240, 980, 30)];
        packs.cover(Sid(1), &mut segment);
        assert_eq!(segment.length, 250);
        let expected = [
            extent(1, 20, 20, 80),
            extent(2, 100, 50, 100),
            extent(3, 200, 10, 50),
        ];
        assert_eq!(segment.extents, expected);
        assert_eq!(packs.unknown(&BTreeSet::new()), (1, 350));
        // Nothing at all is left.
        let mut segment = Segment::new("t".into(), Kind::Stream);
        segment.start = 7;
        segment.length = 9;
        packs.cover(Sid(2), &mut segment);
        assert_eq!((segment.length, segment.extents.len()), (7, 0));
    }

    #[test]
    fn what_was_lost_before_is_not_taken_for_what_came_since() {
        let in_epoch = |epoch, offset, length| Extent {
            place: Place::pack(PackId::new(epoch, 1).unwrap()),
            ..extent(1, offset, 0, length)
        };
        let mut packs = Packs::default();
        for epoch in 1..=3 {
            packs.sizes.insert(PackId::new(epoch, 1).unwrap(), 1000);
        }
        let exported = [in_epoch(1, 0, 600), in_epoch(2, 600, 200)];
        let flushed = in_epoch(3, 800, 100);
        // Behind 600 the first owner's bytes were given up with its log.
        packs
            .runs
            .insert(Sid(1), vec![in_epoch(1, 700, 300), flushed]);
        let cover = |packs: &Packs| {
            let mut segment = Segment::new("s".into(), Kind::Stream);
            segment.extents = exported.to_vec();
            packs.cover(Sid(1), &mut segment);
            segment.extents
        };
        // A copy that does not say so is right at least as far as it goes.
        assert_eq!(cover(&packs)[..2], exported);
        packs.forget(1);
        assert_eq!(cover(&packs), [exported[0], exported[1], flushed]);
    }
}
