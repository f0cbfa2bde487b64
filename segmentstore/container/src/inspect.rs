//! What a container's index says, for operators, while no server uses it.

use std::sync::Arc;

use bytes::Buf;
use sarit_proto::ids::ContainerId;
use sarit_storage::PackId;

use crate::index::entries::{self, Applied};
use crate::index::{Index, Indexes, keys};
use crate::state::{Medium, Sid};
use crate::{Error, Kind};

/// A container's index, open.
#[derive(Debug)]
pub struct Inspector(Arc<dyn Index>);

/// How far an index has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The last frame of the log whose effects are in.
    pub frame: u64,
    /// Number of the operation behind the last one whose effects are in.
    pub next_operation: u64,
    /// The number that the next segment gets.
    pub next_segment: u64,
    /// Segments.
    pub segments: u64,
}

/// What an index has of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackReport {
    /// Which.
    pub pack: PackId,
    /// Bytes that segments refer to.
    pub live: u64,
    /// Bytes of segments that were put into it, 0 if unknown.
    pub size: u64,
}

/// What an index has of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its number in the container.
    pub number: u64,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// First offset that can be read.
    pub start: u64,
    /// Offset behind the last byte.
    pub length: u64,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Pieces that its bytes lie in.
    pub extents: usize,
    /// Bytes that lie in packs.
    pub in_packs: u64,
    /// Bytes that lie in the log only.
    pub in_log: u64,
    /// Attributes, writers' event numbers among them.
    pub attributes: usize,
    /// Entries, of a table.
    pub entries: usize,
}

/// Bytes of a segment and where in a pack they are said to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in the segment of the first byte.
    pub offset: u64,
    /// Which pack.
    pub pack: PackId,
    /// Position in the pack of the first byte.
    pub position: u32,
    /// Bytes.
    pub length: u32,
}

impl Inspector {
    /// Opens a container's index. The caller has the directory to itself.
    ///
    /// # Errors
    /// The index's.
    pub async fn open(id: ContainerId, indexes: &Indexes) -> Result<Self, Error> {
        Ok(Self(indexes.open(id).await?))
    }

    /// Returns how far it has come; `None` if there never was a checkpoint.
    ///
    /// # Errors
    /// The index's.
    pub async fn checkpoint(&self) -> Result<Option<CheckpointReport>, Error> {
        let applied = Applied::of(&*self.0).await?;
        Ok(applied.map(|applied| CheckpointReport {
            frame: applied.frame,
            next_operation: applied.next_seq,
            next_segment: applied.next_sid.0,
            segments: applied.segments,
        }))
    }

    /// Returns the packs that segments refer to.
    ///
    /// # Errors
    /// The index's.
    pub async fn packs(&self) -> Result<Vec<PackReport>, Error> {
        let mut packs = Vec::new();
        entries::load_packs(&*self.0, |pack, used| {
            packs.push(PackReport {
                pack,
                live: used.live,
                size: used.size,
            });
        })
        .await?;
        Ok(packs)
    }

    /// Returns the numbers of all segments.
    ///
    /// # Errors
    /// The index's.
    pub async fn segments(&self) -> Result<Vec<u64>, Error> {
        let mut sids = Vec::new();
        entries::each(&*self.0, keys::all(keys::Space::Segment), |mut key, _| {
            let sid = key.try_get_u64();
            sids.push(sid.map_err(|_| Error::DamagedIndex("a segment without a number".into()))?);
            Ok(())
        })
        .await?;
        Ok(sids)
    }

    /// Returns what it has of a segment, if it is there.
    ///
    /// # Errors
    /// The index's.
    pub async fn segment(&self, number: u64) -> Result<Option<SegmentReport>, Error> {
        let segment = entries::load(&*self.0, Sid(number)).await?;
        Ok(segment.map(|segment| {
            let all: u64 = segment
                .extents
                .iter()
                .map(|extent| u64::from(extent.length))
                .sum();
            SegmentReport {
                number,
                name: segment.name.to_string(),
                kind: segment.kind,
                start: segment.start,
                length: segment.length,
                sealed: segment.sealed,
                extents: segment.extents.len(),
                in_packs: all - segment.unflushed,
                in_log: segment.unflushed,
                attributes: segment.numbers.iter().count(),
                entries: segment.table.iter().flat_map(|table| table.iter()).count(),
            }
        }))
    }

    /// Calls `with` for everything of segments that is said to lie in packs.
    ///
    /// # Errors
    /// The index's.
    pub async fn references(&self, mut with: impl FnMut(Reference)) -> Result<(), Error> {
        let damaged = || Error::DamagedIndex("an extent has a wrong length".into());
        entries::each(&*self.0, keys::all(keys::Space::Extent), |mut key, raw| {
            let segment = key.try_get_u64().map_err(|_| damaged())?;
            let offset = key.try_get_u64().map_err(|_| damaged())?;
            let extent = entries::extent_of(offset, raw)?;
            if let Medium::Pack(pack) = extent.place.medium() {
                with(Reference {
                    segment,
                    offset,
                    pack,
                    position: extent.position,
                    length: extent.length,
                });
            }
            Ok(())
        })
        .await
    }

    /// Closes it.
    pub async fn close(self) {
        self.0.close().await;
    }
}
