//! Makes the bytes of a pack.
//!
//! The data is not copied: the object is a list of the pieces that were given, then index and footer; so
//! the many small ones of a pack are best given as one. What the writer refuses leaves it as it was; the same run can go into the next pack. It
//! does not sort, does not choose what goes together, and does not upload.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

use super::blocks::{Summing, TABLE_SEGMENT};
use super::{ENTRY_BYTES, FOOTER_BYTES, Footer, Kind, OBJECT_BYTES_MAX, RUNS_MAX, Run, crc32c};
use crate::error::Error;
use crate::names::PackName;

/// Collects runs, lowest segment and offset first, and ends them with index and footer.
#[derive(Debug)]
pub struct PackWriter {
    name: PackName,
    kind: Kind,
    seqs: RangeInclusive<u64>,
    parts: Vec<Bytes>,
    runs: Vec<Run>,
    data_len: u64,
    blocks: Summing,
    limits: Limits,
}

/// What a pack may grow to. Tests have smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) object_bytes: u64,
    pub(super) runs: usize,
}

/// A pack that is ready for upload.
#[derive(Clone, Debug)]
pub struct WrittenPack {
    /// Name of the object.
    pub name: PackName,
    /// The object's bytes, to be written one behind the other.
    pub parts: Vec<Bytes>,
    /// Length of the object in bytes.
    pub len: u64,
    /// What the index says, for the caller's extents.
    pub runs: Vec<Run>,
}

impl PackWriter {
    /// Begins a pack that holds data of the operations `seqs` of the container's log.
    ///
    /// # Errors
    /// [`Error::NoOperations`] if `seqs` is empty.
    pub fn new(name: PackName, kind: Kind, seqs: RangeInclusive<u64>) -> Result<Self, Error> {
        let limits = Limits {
            object_bytes: OBJECT_BYTES_MAX,
            runs: RUNS_MAX,
        };
        Self::with_limits(name, kind, seqs, limits)
    }

    pub(super) fn with_limits(
        name: PackName,
        kind: Kind,
        seqs: RangeInclusive<u64>,
        limits: Limits,
    ) -> Result<Self, Error> {
        if seqs.is_empty() {
            return Err(Error::NoOperations {
                first: *seqs.start(),
                last: *seqs.end(),
            });
        }
        Ok(Self {
            name,
            kind,
            seqs,
            parts: Vec::new(),
            runs: Vec::new(),
            data_len: 0,
            blocks: Summing::new(),
            limits,
        })
    }

    /// Adds the run of `segment` that begins at `offset` and consists of `pieces`, one behind the
    /// other.
    ///
    /// A run may touch the one before it; it is not joined with it. An error leaves the writer as
    /// it was.
    ///
    /// # Errors
    /// [`Error::Full`]: finish this pack and begin another. [`Error::RunTooLong`]: cut the run.
    /// [`Error::EmptyRun`] and [`Error::OutOfOrder`]: a mistake of the caller.
    pub fn add(&mut self, segment: u64, offset: u64, pieces: &[Bytes]) -> Result<(), Error> {
        let len = pieces
            .iter()
            .fold(0u64, |sum, piece| sum.saturating_add(piece.len() as u64));
        let run = self.place(segment, offset, len)?;
        let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
        for piece in pieces {
            crc.update(piece);
            self.blocks.update(piece);
        }
        let crc = u32::try_from(crc.finalize()).expect("a CRC32C has 32 bits");
        self.parts
            .extend(pieces.iter().filter(|piece| !piece.is_empty()).cloned());
        self.runs.push(Run { crc, ..run });
        self.data_len += len;
        Ok(())
    }

    /// Adds many runs, given as segment, offset and length, whose bytes lie one behind the other in
    /// `bytes`. An error leaves the writer as it was.
    ///
    /// # Errors
    /// As [`Self::add`].
    ///
    /// # Panics
    /// If the runs are not exactly as long as `bytes`.
    pub fn add_all(&mut self, runs: &[(u64, u64, u32)], bytes: Bytes) -> Result<(), Error> {
        let before = (self.runs.len(), self.data_len);
        let mut rest = &bytes[..];
        for &(segment, offset, len) in runs {
            let run = match self.place(segment, offset, len.into()) {
                Ok(run) => run,
                Err(error) => {
                    self.runs.truncate(before.0);
                    self.data_len = before.1;
                    return Err(error);
                }
            };
            let (data, behind) = rest.split_at(len as usize);
            let crc = crc32c(data);
            self.runs.push(Run { crc, ..run });
            self.data_len += u64::from(len);
            rest = behind;
        }
        assert!(rest.is_empty(), "bytes that belong to no run");
        self.blocks.update(&bytes);
        if !bytes.is_empty() {
            self.parts.push(bytes);
        }
        Ok(())
    }

    /// Returns how long the object would be if it were finished now, in bytes.
    pub fn object_len(&self) -> u64 {
        object_len(self.data_len, self.runs.len())
    }

    /// Takes the bytes that were added since the last call, for an upload in parts.
    pub fn take_parts(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.parts)
    }

    /// Ends the pack, with the table of its blocks' checksums as its last run; see [`super::Blocks`].
    ///
    /// What it returns has the bytes that were not taken, and the runs without the table.
    ///
    /// # Errors
    /// [`Error::Empty`] if it has no run, [`Error::Full`] if the table finds no room.
    pub fn finish_with_blocks(mut self) -> Result<WrittenPack, Error> {
        if !self.runs.is_empty() {
            let table = std::mem::replace(&mut self.blocks, Summing::new()).finish();
            self.add(TABLE_SEGMENT, 0, &[table])?;
        }
        let mut written = self.finish()?;
        written.runs.pop();
        Ok(written)
    }

    /// Ends the pack.
    ///
    /// # Errors
    /// [`Error::Empty`] if it has no run.
    pub fn finish(mut self) -> Result<WrittenPack, Error> {
        if self.runs.is_empty() {
            return Err(Error::Empty(self.name));
        }
        let len = self.object_len();
        let mut index = BytesMut::with_capacity(self.runs.len() * ENTRY_BYTES);
        self.runs.iter().for_each(|run| run.encode(&mut index));
        let footer = Footer {
            name: self.name,
            kind: self.kind,
            first_seq: *self.seqs.start(),
            last_seq: *self.seqs.end(),
            index_pos: self.data_len,
            index_len: u32::try_from(index.len()).expect("RUNS_MAX entries are 32 MiB"),
            index_crc: crc32c(&index),
        };
        self.parts.push(index.freeze());
        self.parts.push(Bytes::copy_from_slice(&footer.encode()));
        Ok(WrittenPack {
            name: self.name,
            parts: self.parts,
            len,
            runs: self.runs,
        })
    }

    /// Finds the place of the next run, its checksum still 0.
    fn place(&self, segment: u64, offset: u64, len: u64) -> Result<Run, Error> {
        if len == 0 {
            return Err(Error::EmptyRun { segment, offset });
        }
        let too_long = Error::RunTooLong {
            segment,
            offset,
            len,
        };
        let Ok(short) = u32::try_from(len) else {
            return Err(too_long);
        };
        let run = Run {
            segment,
            offset,
            pos: self.data_len,
            len: short,
            crc: 0,
        };
        if run.end().is_none() || object_len(len, 1) > self.limits.object_bytes {
            return Err(too_long);
        }
        if let Some(last) = self.runs.last().filter(|last| !run.follows(last)) {
            let last_end = last.end().expect("checked when it was added");
            return Err(Error::OutOfOrder {
                segment,
                offset,
                last_segment: last.segment,
                last_end,
            });
        }
        let runs = self.runs.len();
        let grown = object_len(self.data_len + len, runs + 1);
        if runs >= self.limits.runs || grown > self.limits.object_bytes {
            return Err(Error::Full {
                pack: self.name,
                runs,
                len,
            });
        }
        Ok(run)
    }
}

/// Returns the length of an object with so much data in so many runs.
fn object_len(data: u64, runs: usize) -> u64 {
    data + (runs * ENTRY_BYTES + FOOTER_BYTES) as u64
}
