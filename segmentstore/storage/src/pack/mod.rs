//! What a pack consists of: runs, index, footer, and their bytes. See docs/formats/packs.md.
//!
//! ```text
//! run · run · … · run │ index: 32 bytes for each run │ footer: 64 bytes
//! ```
//!
//! Runs lie without gaps, sorted by segment and offset; every byte of the object is covered by
//! exactly one checksum (CRC32C): a run's, the index's or the footer's. This file has the encoders,
//! and what both sides share; `writer` makes packs, `reader` takes them apart.

mod blocks;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::Range;

use bytes::BufMut;

use crate::error::Error;
use crate::names::PackName;

pub use blocks::{BLOCK_BYTES, Blocks, TABLE_HINT_BYTES};
pub use reader::Index;
pub use writer::{PackWriter, WrittenPack};

/// Length of a footer, the last bytes of every pack.
pub const FOOTER_BYTES: usize = 64;
/// Most runs in a pack: bounds an index to 32 MiB.
pub const RUNS_MAX: usize = 1 << 20;
/// Most bytes in a pack: a position in it has to fit into 32 bits, as an extent keeps it.
pub const OBJECT_BYTES_MAX: u64 = u32::MAX as u64;

/// Bytes of an index entry.
const ENTRY_BYTES: usize = 32;
/// Version this release writes.
const VERSION: u16 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"SPCK");

/// What a pack was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs of many segments with a little data each.
    Shared,
    /// One segment with much data.
    Big,
    /// Runs of older packs, written anew.
    Compacted,
    /// The container's own metadata.
    Meta,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Shared, Self::Big, Self::Compacted, Self::Meta];

    fn letter(self) -> u8 {
        match self {
            Self::Shared => b'S',
            Self::Big => b'B',
            Self::Compacted => b'C',
            Self::Meta => b'M',
        }
    }

    fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.letter() == letter)
    }
}

/// One entry of a pack's index: where a piece of a segment lies, and its checksum.
///
/// A run is the unit of verification: it can only be checked as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The segment's number in its container.
    pub segment: u64,
    /// Offset in the segment of the run's first byte.
    pub offset: u64,
    /// Position in the object of the run's first byte.
    pub pos: u64,
    /// Length in bytes, at least 1.
    pub len: u32,
    /// CRC32C of the run's bytes.
    pub crc: u32,
}

impl Run {
    /// Returns the positions in the object that the run occupies.
    pub fn range(&self) -> Range<u64> {
        self.pos..self.pos.saturating_add(u64::from(self.len))
    }

    /// Returns the offset in the segment behind the run's last byte, `None` if there is no such
    /// offset.
    fn end(&self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len))
    }

    /// Returns whether this run may stand behind `last`: of a higher segment, or behind it in the
    /// same.
    fn follows(&self, last: &Self) -> bool {
        self.segment > last.segment
            || (self.segment == last.segment && last.end().is_some_and(|end| self.offset >= end))
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.segment);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.pos);
        out.put_u32_le(self.len);
        out.put_u32_le(self.crc);
    }
}

/// The last bytes of a pack: whose it is, and where its index lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The pack's own name.
    pub name: PackName,
    /// What the pack was made for.
    pub kind: Kind,
    /// Lowest operation of the container's log whose data may be in the pack.
    pub first_seq: u64,
    /// Highest such operation, not below `first_seq`.
    pub last_seq: u64,
    index_pos: u64,
    index_len: u32,
    index_crc: u32,
}

impl Footer {
    /// Returns the positions in the object that the index occupies: what to read next.
    pub fn index_range(&self) -> Range<u64> {
        self.index_pos..self.index_pos + u64::from(self.index_len)
    }

    fn encode(&self) -> [u8; FOOTER_BYTES] {
        let number = self.name.number();
        let mut bytes = [0; FOOTER_BYTES];
        let mut out = &mut bytes[..];
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u8(self.kind.letter());
        out.put_u8(0);
        out.put_u32_le(self.name.container());
        out.put_u32_le(self.index_crc);
        out.put_u64_le(number.epoch);
        out.put_u64_le(number.n);
        out.put_u64_le(self.first_seq);
        out.put_u64_le(self.last_seq);
        out.put_u64_le(self.index_pos);
        out.put_u32_le(self.index_len);
        let crc = crc32c(&bytes[..FOOTER_CRC_AT]);
        bytes[FOOTER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Where in the footer its checksum lies, in every version.
const FOOTER_CRC_AT: usize = FOOTER_BYTES - 4;

/// Returns the CRC32C of `bytes`.
fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Refuses bytes of another length than the range has that they were read from.
fn check_length(pack: PackName, range: &Range<u64>, bytes: &[u8]) -> Result<(), Error> {
    let (asked, given) = (range.end - range.start, bytes.len() as u64);
    if asked == given {
        return Ok(());
    }
    Err(Error::WrongLength {
        pack,
        at: range.start,
        asked,
        given,
    })
}
