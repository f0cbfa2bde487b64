//! Checksums of the blocks of a pack, so that a part of it can be read and verified without its index.
//!
//! A run can only be verified as a whole, and an index may be long; readers want 256 KiB here and
//! there. So the last run of a pack may be a table: it belongs to segment 2⁶⁴ − 1, which no container
//! has, and holds the CRC32C of every block of the data in front of it. Its own place and checksum are
//! in the index's last entry, which lies right before the footer.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

use super::reader::decode_entry;
use super::{ENTRY_BYTES, FOOTER_BYTES, Footer, Run, crc32c};
use crate::error::{Damage, Error, Part};
use crate::names::PackName;

/// Bytes of a block; the last one of a pack may be shorter.
pub const BLOCK_BYTES: u64 = 256 << 10;
/// The segment that the table of checksums belongs to.
pub(super) const TABLE_SEGMENT: u64 = u64::MAX;
/// Most of an object's end that is needed to find the table: index entry and footer.
pub const TABLE_HINT_BYTES: usize = ENTRY_BYTES + FOOTER_BYTES;

/// Computes the checksums of blocks while data passes by.
#[derive(Debug)]
pub(super) struct Summing {
    sums: BytesMut,
    digest: Digest,
    filled: u64,
}

impl Summing {
    pub(super) fn new() -> Self {
        Self {
            sums: BytesMut::new(),
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
            filled: 0,
        }
    }

    /// Takes the next bytes of the data.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK_BYTES - self.filled).expect("a block is small");
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.digest.update(now);
            self.filled += now.len() as u64;
            if self.filled == BLOCK_BYTES {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        let crc = u32::try_from(self.digest.finalize()).expect("a CRC32C has 32 bits");
        self.sums.put_u32_le(crc);
        self.digest.reset();
        self.filled = 0;
    }

    /// Returns the table.
    pub(super) fn finish(mut self) -> Bytes {
        if self.filled > 0 {
            self.close();
        }
        self.sums.freeze()
    }
}

/// What a pack says about its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    pack: PackName,
    data_len: u64,
    sums: Bytes,
}

impl Blocks {
    /// Returns where the table lies, from the object's last [`TABLE_HINT_BYTES`] or more.
    ///
    /// # Errors
    /// [`Error::WrongLength`] if there are fewer, [`Error::Damaged`] if the pack has no table there.
    pub fn table(footer: &Footer, tail: &[u8]) -> Result<Run, Error> {
        let pos = footer.index_range().end - ENTRY_BYTES as u64;
        let Some(hint) = tail.last_chunk::<TABLE_HINT_BYTES>() else {
            return Err(Error::WrongLength {
                pack: footer.name,
                at: pos,
                asked: TABLE_HINT_BYTES as u64,
                given: tail.len() as u64,
            });
        };
        let run = decode_entry(&hint[..ENTRY_BYTES]);
        let blocks = run.pos.div_ceil(BLOCK_BYTES);
        let fits = run.segment == TABLE_SEGMENT
            && run.offset == 0
            && run.range().end == footer.index_range().start
            && u64::from(run.len) == blocks * 4;
        if fits {
            return Ok(run);
        }
        Err(Error::Damaged {
            pack: footer.name,
            at: pos,
            damage: Damage::BlockTable,
        })
    }

    /// Reads the table from its bytes, those at the range of the run that [`Self::table`] returned.
    ///
    /// # Errors
    /// [`Error::WrongLength`], [`Error::Damaged`].
    pub fn decode(footer: &Footer, table: &Run, bytes: Bytes) -> Result<Self, Error> {
        table.check(footer.name, &bytes)?;
        Ok(Self {
            pack: footer.name,
            data_len: table.pos,
            sums: bytes,
        })
    }

    /// Returns the bytes of memory it takes, about.
    pub fn memory_bytes(&self) -> usize {
        self.sums.len() + size_of::<Self>()
    }

    /// Returns the number of blocks.
    pub fn len(&self) -> u32 {
        u32::try_from(self.sums.len() / 4).expect("a pack has fewer than 2^32 bytes")
    }

    /// Returns whether the pack has no data, which none is written with.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Returns the positions in the object that a block occupies; empty behind the last.
    pub fn range(&self, block: u32) -> Range<u64> {
        let start = (u64::from(block) * BLOCK_BYTES).min(self.data_len);
        start..(start + BLOCK_BYTES).min(self.data_len)
    }

    /// Checks a block's bytes.
    ///
    /// # Errors
    /// [`Error::WrongLength`] if `bytes` are not as many as [`Self::range`] says, [`Error::Damaged`].
    pub fn check(&self, block: u32, bytes: &[u8]) -> Result<(), Error> {
        let range = self.range(block);
        super::check_length(self.pack, &range, bytes)?;
        let stored = (self.sums.chunks_exact(4).nth(block as usize)).map_or(0, |sum| {
            u32::from_le_bytes(sum.try_into().expect("4 bytes"))
        });
        let computed = crc32c(bytes);
        if stored == computed {
            return Ok(());
        }
        let part = Part::Block;
        Err(Error::Damaged {
            pack: self.pack,
            at: range.start,
            damage: Damage::Checksum {
                part,
                stored,
                computed,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, PackWriter};
    use super::*;
    use crate::names::PackNumber;

    fn pack(runs: &[usize]) -> (PackName, Vec<u8>) {
        let name = PackName::new(1, PackNumber { epoch: 2, n: 3 }).unwrap();
        let mut writer = PackWriter::new(name, Kind::Big, 1..=1).unwrap();
        let mut object = Vec::new();
        let mut offset = 0;
        for (fill, len) in (1..).zip(runs) {
            let data = Bytes::from(vec![fill; *len]);
            writer.add(5, offset, &[data]).unwrap();
            offset += *len as u64;
            // As an upload in parts takes them.
            object.extend(writer.take_parts().concat());
        }
        let written = writer.finish_with_blocks().unwrap();
        object.extend(written.parts.concat());
        assert_eq!(written.len, object.len() as u64);
        assert_eq!(written.runs.len(), runs.len());
        (name, object)
    }

    fn open(name: PackName, object: &[u8]) -> Result<Blocks, Error> {
        let footer = Footer::decode(name, object.len() as u64, object)?;
        let table = Blocks::table(&footer, object)?;
        let range = table.range();
        let bytes = &object[range.start as usize..range.end as usize];
        Blocks::decode(&footer, &table, Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn every_block_is_verified_by_itself() {
        for runs in [&[1][..], &[262_144], &[262_145], &[200_000; 7]] {
            let (name, object) = pack(runs);
            let blocks = open(name, &object).unwrap();
            let data: usize = runs.iter().sum();
            assert_eq!(blocks.len() as usize, data.div_ceil(262_144));
            let mut end = 0;
            for block in 0..blocks.len() {
                let range = blocks.range(block);
                assert_eq!(range.start, end);
                end = range.end;
                let bytes = &object[range.start as usize..range.end as usize];
                blocks.check(block, bytes).unwrap();
                let mut damaged = bytes.to_vec();
                *damaged.last_mut().unwrap() ^= 1;
                assert!(blocks.check(block, &damaged).is_err());
                assert!(blocks.check(block, &bytes[1..]).is_err());
            }
            assert_eq!(end as usize, data);
            assert!(blocks.range(blocks.len()).is_empty());
        }
    }

    #[test]
    fn a_damaged_table_is_refused() {
        let (name, object) = pack(&[300_000]);
        let table = 300_000..object.len();
        for at in table {
            let mut damaged = object.clone();
            damaged[at] ^= 4;
            assert!(
                open(name, &damaged).is_err() || (300_008..300_040).contains(&at),
                "{at}"
            );
        }
    }

    #[test]
    fn a_pack_without_a_table_says_so() {
        let name = PackName::new(1, PackNumber { epoch: 2, n: 3 }).unwrap();
        let mut writer = PackWriter::new(name, Kind::Shared, 1..=1).unwrap();
        writer.add(5, 0, &[Bytes::from_static(b"data")]).unwrap();
        let object = writer.finish().unwrap().parts.concat();
        assert!(matches!(
            open(name, &object),
            Err(Error::Damaged {
                damage: Damage::BlockTable,
                ..
            })
        ));
    }
}
