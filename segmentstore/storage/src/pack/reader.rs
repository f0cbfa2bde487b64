//! Takes a pack apart: the footer from its last bytes, then the index, then runs one at a time.
//!
//! Each step is given the bytes of one ranged read and says what to read next. Nothing that a pack
//! claims is believed before its checksum and its bounds hold, so that a damaged or forged one
//! costs no more memory than the object is long. What passes is as the writer makes it: runs
//! sorted, without overlap, every byte in front of the index in exactly one of them.

use bytes::Buf;

use super::{
    ENTRY_BYTES, FOOTER_BYTES, FOOTER_CRC_AT, Footer, Kind, MAGIC, OBJECT_BYTES_MAX, RUNS_MAX, Run,
    VERSION, check_length, crc32c,
};
use crate::error::{Damage, Error, Part};
use crate::names::PackName;

impl Footer {
    /// Reads the footer of the pack `name` from the last bytes of its object of `object_len` bytes.
    ///
    /// `tail` has [`FOOTER_BYTES`], or more if the caller has read more of the object's end.
    ///
    /// # Errors
    /// [`Error::WrongLength`] if `tail` is shorter than a footer or longer than the object,
    /// [`Error::UnknownVersion`], [`Error::Damaged`].
    pub fn decode(name: PackName, object_len: u64, tail: &[u8]) -> Result<Self, Error> {
        let damaged = |at, damage| {
            Err(Error::Damaged {
                pack: name,
                at,
                damage,
            })
        };
        if !(FOOTER_BYTES as u64..=OBJECT_BYTES_MAX).contains(&object_len) {
            return damaged(0, Damage::ObjectLength(object_len));
        }
        let footer_pos = object_len - FOOTER_BYTES as u64;
        let bytes = tail.last_chunk::<FOOTER_BYTES>();
        let Some(bytes) = bytes.filter(|_| tail.len() as u64 <= object_len) else {
            let (asked, given) = (FOOTER_BYTES as u64, tail.len() as u64);
            return Err(Error::WrongLength {
                pack: name,
                at: footer_pos,
                asked,
                given,
            });
        };
        let mut fields = &bytes[..];
        let magic = fields.get_u32_le();
        if magic != MAGIC {
            return damaged(footer_pos, Damage::Magic(magic));
        }
        let stored = (&bytes[FOOTER_CRC_AT..]).get_u32_le();
        let computed = crc32c(&bytes[..FOOTER_CRC_AT]);
        if stored != computed {
            let damage = Damage::Checksum {
                part: Part::Footer,
                stored,
                computed,
            };
            return damaged(footer_pos, damage);
        }
        // Only behind the checksum: a flipped bit is no other release.
        let version = fields.get_u16_le();
        if version != VERSION {
            return Err(Error::UnknownVersion {
                pack: name,
                version,
                known: VERSION,
            });
        }
        Self::decode_fields(name, footer_pos, fields)
    }

    /// Reads the fields behind the version, whose checksum holds.
    fn decode_fields(name: PackName, footer_pos: u64, mut fields: &[u8]) -> Result<Self, Error> {
        let damaged = |field, damage| {
            Err(Error::Damaged {
                pack: name,
                at: footer_pos + field,
                damage,
            })
        };
        let letter = fields.get_u8();
        let Some(kind) = Kind::from_letter(letter) else {
            return damaged(6, Damage::Kind(letter));
        };
        let reserved = fields.get_u8();
        if reserved != 0 {
            return damaged(7, Damage::Reserved(reserved));
        }
        let container = fields.get_u32_le();
        let index_crc = fields.get_u32_le();
        let (epoch, n) = (fields.get_u64_le(), fields.get_u64_le());
        let number = name.number();
        if (container, epoch, n) != (name.container(), number.epoch, number.n) {
            return damaged(
                8,
                Damage::OtherPack {
                    container,
                    epoch,
                    n,
                },
            );
        }
        let (first_seq, last_seq) = (fields.get_u64_le(), fields.get_u64_le());
        if first_seq > last_seq {
            return damaged(
                32,
                Damage::Operations {
                    first: first_seq,
                    last: last_seq,
                },
            );
        }
        let (index_pos, index_len) = (fields.get_u64_le(), fields.get_u32_le());
        let runs = index_len as usize / ENTRY_BYTES;
        if !(index_len as usize).is_multiple_of(ENTRY_BYTES) || runs == 0 || runs > RUNS_MAX {
            return damaged(56, Damage::IndexLength(index_len));
        }
        if index_pos.checked_add(u64::from(index_len)) != Some(footer_pos) {
            return damaged(
                48,
                Damage::IndexPlace {
                    pos: index_pos,
                    len: index_len,
                },
            );
        }
        Ok(Self {
            name,
            kind,
            first_seq,
            last_seq,
            index_pos,
            index_len,
            index_crc,
        })
    }
}

/// A pack's index: its runs, sorted by segment and offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    runs: Vec<Run>,
}

impl Index {
    /// Reads the index that `footer` speaks of from `bytes`, those at [`Footer::index_range`].
    ///
    /// # Errors
    /// [`Error::WrongLength`] if `bytes` are not as many as that, [`Error::Damaged`].
    pub fn decode(footer: &Footer, bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |at, damage| Error::Damaged {
            pack: footer.name,
            at,
            damage,
        };
        check_length(footer.name, &footer.index_range(), bytes)?;
        let (stored, computed) = (footer.index_crc, crc32c(bytes));
        if stored != computed {
            let damage = Damage::Checksum {
                part: Part::Index,
                stored,
                computed,
            };
            return Err(damaged(footer.index_pos, damage));
        }
        let mut runs = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
        let mut end = 0;
        for (entry, bytes) in bytes.chunks_exact(ENTRY_BYTES).enumerate() {
            let run = decode_entry(bytes);
            let at = footer.index_pos + (entry * ENTRY_BYTES) as u64;
            check_entry(entry, &run, runs.last(), end).map_err(|damage| damaged(at, damage))?;
            end = run.range().end;
            runs.push(run);
        }
        if end != footer.index_pos {
            let damage = Damage::RunPlace {
                entry: runs.len(),
                pos: footer.index_pos,
                end,
            };
            return Err(damaged(footer.index_pos, damage));
        }
        Ok(Self { runs })
    }

    /// Returns all runs, lowest segment and offset first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Returns the run that holds the byte at `offset` of `segment`, if the pack has it.
    pub fn find(&self, segment: u64, offset: u64) -> Option<&Run> {
        let behind = self
            .runs
            .partition_point(|run| (run.segment, run.offset) <= (segment, offset));
        let run = self.runs.get(behind.checked_sub(1)?)?;
        (run.segment == segment && offset - run.offset < u64::from(run.len)).then_some(run)
    }
}

impl Run {
    /// Checks the run's bytes, those at [`Run::range`] in the pack `pack`.
    ///
    /// # Errors
    /// [`Error::WrongLength`] if `bytes` are not as many as that, [`Error::Damaged`] if they are
    /// not what was written.
    pub fn check(&self, pack: PackName, bytes: &[u8]) -> Result<(), Error> {
        check_length(pack, &self.range(), bytes)?;
        let (stored, computed) = (self.crc, crc32c(bytes));
        if stored == computed {
            return Ok(());
        }
        let damage = Damage::Checksum {
            part: Part::Run,
            stored,
            computed,
        };
        Err(Error::Damaged {
            pack,
            at: self.pos,
            damage,
        })
    }
}

pub(super) fn decode_entry(mut bytes: &[u8]) -> Run {
    Run {
        segment: bytes.get_u64_le(),
        offset: bytes.get_u64_le(),
        pos: bytes.get_u64_le(),
        len: bytes.get_u32_le(),
        crc: bytes.get_u32_le(),
    }
}

/// Checks the entry with the number `entry` against the one before it and the end of that one's
/// bytes.
fn check_entry(entry: usize, run: &Run, last: Option<&Run>, end: u64) -> Result<(), Damage> {
    if run.len == 0 {
        return Err(Damage::EmptyRun { entry });
    }
    if run.pos != end {
        return Err(Damage::RunPlace {
            entry,
            pos: run.pos,
            end,
        });
    }
    if run.end().is_none() || last.is_some_and(|last| !run.follows(last)) {
        return Err(Damage::RunOrder {
            entry,
            segment: run.segment,
            offset: run.offset,
        });
    }
    Ok(())
}
