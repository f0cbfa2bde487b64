//! Everything that can happen to a container, as it is stored. See docs/formats/frames.md.
//!
//! Records carry results, not conditions: whatever could be refused was refused before, so applying one
//! needs no decision. Decoding borrows from the frame, copies nothing and never panics.
//!
//! ```text
//! body    version u8 | zero [7] | time_ms i64 | records
//! record  type u8 | zero u8 | n_attr u16 | len u32 | len bytes        all little-endian
//! ```

mod sources;

use bytes::{BufMut, BytesMut};
use sarit_proto::ids::AttributeId;
use sarit_storage::PackId;

pub(crate) use self::sources::{SOURCE, Source, Sources};
use crate::Kind;
use crate::state::Sid;

/// Version of the body this release writes and the newest it reads.
const VERSION: u8 = 1;
/// Bytes in front of the first record.
pub(crate) const PRELUDE: usize = 16;
/// Bytes in front of each record's own.
pub(crate) const RECORD_HEADER: usize = 8;
/// Bytes of one attribute.
pub(crate) const ATTRIBUTE: usize = 24;
/// Bytes of an append record without attributes and payload.
pub(crate) const APPEND: usize = RECORD_HEADER + 24;

/// What is wrong with bytes that should be a record.
pub(crate) type Malformed = &'static str;

/// One entry in a container's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    /// The appends of one segment that lie side by side in one frame.
    Append(Run<'a>),
    Create {
        sid: Sid,
        kind: Kind,
        name: &'a str,
        attributes: Attributes<'a>,
    },
    Seal {
        sid: Sid,
    },
    Truncate {
        sid: Sid,
        start: u64,
    },
    Delete {
        sid: Sid,
    },
    SetAttributes {
        sid: Sid,
        attributes: Attributes<'a>,
    },
    /// Changes of a table; the first gets version `base`.
    TableUpdate {
        sid: Sid,
        base: u64,
        changes: Changes<'a>,
    },
    /// Bytes that lay in the log lie in a pack from now on.
    FlushCommit(Placed<'a>),
    /// Bytes that lay in packs lie in another one from now on.
    Compact(Placed<'a>),
    /// The index has everything up to a frame: the log is not needed for that any more.
    CheckpointEnd {
        frame: u64,
        /// The number of the operation behind that frame's last one.
        next_seq: u64,
    },
    /// Other segments become the end of this one, in order, and are gone.
    Merge {
        sid: Sid,
        /// Length before.
        base: u64,
        attributes: Attributes<'a>,
        sources: Sources<'a>,
    },
}

/// Appends of one segment, joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    pub(crate) sid: Sid,
    /// Where the payload lies in the segment.
    pub(crate) offset: u64,
    pub(crate) events: u32,
    /// The writers' last event numbers afterwards.
    pub(crate) attributes: Attributes<'a>,
    /// Where the payload lies in the frame's body.
    pub(crate) position: u32,
    pub(crate) length: u32,
}

/// Where bytes of segments lie in a pack; runs of segments that are gone by then mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed<'a> {
    pub(crate) pack: PackId,
    /// Bytes of all runs in the pack.
    pub(crate) size: u64,
    /// The runs, as stored.
    raw: &'a [u8],
}

/// One run in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacedRun {
    pub(crate) sid: Sid,
    /// Where it lies in the segment.
    pub(crate) offset: u64,
    /// Where it lies in the pack.
    pub(crate) position: u32,
    pub(crate) length: u32,
}

/// Bytes of one run in a record.
pub(crate) const PLACED_RUN: usize = 24;
/// Bytes of a record of runs in a pack, beside the runs.
const PLACED: usize = 24;

impl<'a> Placed<'a> {
    /// Wraps what [`PlacedRun::encode`] wrote.
    pub(crate) fn new(pack: PackId, size: u64, raw: &'a [u8]) -> Self {
        debug_assert!(raw.len().is_multiple_of(PLACED_RUN));
        Self { pack, size, raw }
    }

    pub(crate) fn runs(self) -> impl Iterator<Item = PlacedRun> + 'a {
        self.raw.chunks_exact(PLACED_RUN).map(|raw| {
            let (sid, raw) = raw.split_at(8);
            let (offset, raw) = raw.split_at(8);
            let (position, length) = raw.split_at(4);
            let long = |raw: &[u8]| u64::from_le_bytes(raw.try_into().expect("8 bytes"));
            let short = |raw: &[u8]| u32::from_le_bytes(raw.try_into().expect("4 bytes"));
            PlacedRun {
                sid: Sid(long(sid)),
                offset: long(offset),
                position: short(position),
                length: short(length),
            }
        })
    }

    fn encode(self, code: u8, out: &mut BytesMut) {
        header(out, code, 0, PLACED + self.raw.len());
        out.put_u64_le(self.pack.get());
        out.put_u64_le(self.size);
        out.put_u32_le(u32::try_from(self.raw.len() / PLACED_RUN).expect("a frame is smaller"));
        out.put_u32_le(0);
        out.put_slice(self.raw);
    }
}

impl PlacedRun {
    /// Writes it the way [`Placed`] reads it.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.sid.0);
        out.put_u64_le(self.offset);
        out.put_u32_le(self.position);
        out.put_u32_le(self.length);
    }
}

/// Attributes and their values, as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Wraps what [`encode_attributes`] wrote.
    pub(crate) fn new(encoded: &'a [u8]) -> Self {
        debug_assert!(encoded.len().is_multiple_of(ATTRIBUTE));
        Self(encoded)
    }

    pub(crate) fn len(self) -> usize {
        self.0.len() / ATTRIBUTE
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = (AttributeId, i64)> + 'a {
        self.0.chunks_exact(ATTRIBUTE).map(|raw| {
            let (id, value) = raw.split_at(16);
            let id = u128::from_le_bytes(id.try_into().expect("16 bytes"));
            let value = i64::from_le_bytes(value.try_into().expect("8 bytes"));
            (AttributeId(id), value)
        })
    }
}

/// Writes attributes the way [`Attributes`] reads them.
pub(crate) fn encode_attributes(
    out: &mut impl BufMut,
    attributes: impl IntoIterator<Item = (AttributeId, i64)>,
) {
    for (id, value) in attributes {
        out.put_u128_le(id.0);
        out.put_i64_le(value);
    }
}

/// Changes of a table, as stored; checked to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changes<'a> {
    raw: &'a [u8],
    count: u32,
}

/// One change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) key: &'a [u8],
    /// `None` removes the key.
    pub(crate) value: Option<&'a [u8]>,
}

impl Change<'_> {
    /// Returns by how much the change moves the length of a table, with keys of `fixed` length or any.
    ///
    /// Source: observed on the official server; the protocol asks only that versions rise.
    pub(crate) fn size(&self, fixed: bool) -> u64 {
        match self.value {
            Some(value) => 17 + (self.key.len() + value.len()) as u64,
            None if fixed => 0,
            None => 17 + self.key.len() as u64,
        }
    }

    /// Returns the bytes it takes in a record.
    pub(crate) fn encoded_len(&self) -> usize {
        8 + self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// Writes it. The key has at most 65,535 bytes.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(u8::from(self.value.is_none()));
        out.put_u8(0);
        out.put_u16_le(u16::try_from(self.key.len()).expect("checked on entry"));
        out.put_u32_le(u32::try_from(self.value.map_or(0, <[u8]>::len)).expect("checked on entry"));
        out.put_slice(self.key);
        out.put_slice(self.value.unwrap_or_default());
    }
}

impl<'a> Changes<'a> {
    /// Wraps `count` changes written by [`Change::encode`].
    pub(crate) fn new(raw: &'a [u8], count: u32) -> Self {
        Self { raw, count }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Change<'a>> {
        let mut rest = Cursor { rest: self.raw };
        (0..self.count).map_while(move |_| rest.change().ok())
    }
}

/// Writes what stands in front of the records.
pub(crate) fn encode_prelude(out: &mut BytesMut, time_ms: i64) {
    out.put_u8(VERSION);
    out.put_bytes(0, 7);
    out.put_i64_le(time_ms);
}

/// Writes an append record up to its payload of `length` bytes, which the caller writes next.
pub(crate) fn encode_run(
    out: &mut BytesMut,
    sid: Sid,
    offset: u64,
    events: u32,
    writers: &[(AttributeId, i64)],
    length: usize,
) {
    header(
        out,
        APPEND_TYPE,
        writers.len(),
        24 + writers.len() * ATTRIBUTE + length,
    );
    out.put_u64_le(sid.0);
    out.put_u64_le(offset);
    out.put_u32_le(events);
    out.put_u32_le(u32::try_from(length).expect("a frame is smaller"));
    encode_attributes(out, writers.iter().copied());
}

fn header(out: &mut BytesMut, code: u8, attributes: usize, len: usize) {
    out.put_u8(code);
    out.put_u8(0);
    out.put_u16_le(u16::try_from(attributes).expect("bounded where they enter"));
    out.put_u32_le(u32::try_from(len).expect("a frame is smaller"));
}

const APPEND_TYPE: u8 = 1;
const CREATE: u8 = 2;
const SEAL: u8 = 3;
const TRUNCATE: u8 = 4;
const DELETE: u8 = 5;
const SET_ATTRIBUTES: u8 = 6;
const TABLE_UPDATE_TYPE: u8 = 7;
const FLUSH_COMMIT: u8 = 8;
const COMPACT: u8 = 9;
const CHECKPOINT_END: u8 = 10;
const MERGE: u8 = 11;

impl<'a> Operation<'a> {
    /// Returns the segments that it changes, those it creates aside.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Sid> + 'a {
        let mut sources = Sources::default();
        let (one, placed) = match *self {
            Self::Merge {
                sid, sources: all, ..
            } => {
                sources = all;
                (Some(sid), None)
            }
            Self::Append(run) => (Some(run.sid), None),
            Self::Seal { sid }
            | Self::Truncate { sid, .. }
            | Self::Delete { sid }
            | Self::SetAttributes { sid, .. }
            | Self::TableUpdate { sid, .. } => (Some(sid), None),
            Self::FlushCommit(placed) | Self::Compact(placed) => (None, Some(placed)),
            Self::Create { .. } | Self::CheckpointEnd { .. } => (None, None),
        };
        let runs = placed.into_iter().flat_map(Placed::runs);
        let sources = sources.iter().map(|source| source.sid);
        one.into_iter()
            .chain(runs.map(|run| run.sid))
            .chain(sources)
    }

    /// Writes the record, for all but appends, whose payload is gathered: see [`encode_run`].
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match *self {
            Self::Append(_) => unreachable!("appends are gathered into runs"),
            Self::Create {
                sid,
                kind,
                name,
                attributes,
            } => {
                let len = 16 + attributes.0.len() + name.len();
                header(out, CREATE, attributes.len(), len);
                let (code, key_length) = match kind {
                    Kind::Stream => (0, 0),
                    Kind::Table { key_length } => (1, key_length),
                };
                out.put_u64_le(sid.0);
                out.put_u8(code);
                out.put_u8(0);
                out.put_u16_le(key_length);
                out.put_u32_le(u32::try_from(name.len()).expect("checked on entry"));
                out.put_slice(attributes.0);
                out.put_slice(name.as_bytes());
            }
            Self::Seal { sid } => {
                header(out, SEAL, 0, 8);
                out.put_u64_le(sid.0);
            }
            Self::Truncate { sid, start } => {
                header(out, TRUNCATE, 0, 16);
                out.put_u64_le(sid.0);
                out.put_u64_le(start);
            }
            Self::Delete { sid } => {
                header(out, DELETE, 0, 8);
                out.put_u64_le(sid.0);
            }
            Self::SetAttributes { sid, attributes } => {
                header(
                    out,
                    SET_ATTRIBUTES,
                    attributes.len(),
                    8 + attributes.0.len(),
                );
                out.put_u64_le(sid.0);
                out.put_slice(attributes.0);
            }
            Self::TableUpdate { sid, base, changes } => {
                header(out, TABLE_UPDATE_TYPE, 0, 24 + changes.raw.len());
                out.put_u64_le(sid.0);
                out.put_u64_le(base);
                out.put_u32_le(changes.count);
                out.put_u32_le(0);
                out.put_slice(changes.raw);
            }
            Self::FlushCommit(placed) => placed.encode(FLUSH_COMMIT, out),
            Self::Compact(placed) => placed.encode(COMPACT, out),
            Self::CheckpointEnd { frame, next_seq } => {
                header(out, CHECKPOINT_END, 0, 16);
                out.put_u64_le(frame);
                out.put_u64_le(next_seq);
            }
            Self::Merge {
                sid,
                base,
                attributes,
                sources,
            } => {
                let len = 24 + attributes.0.len() + sources.raw().len();
                header(out, MERGE, attributes.len(), len);
                out.put_u64_le(sid.0);
                out.put_u64_le(base);
                out.put_u32_le(u32::try_from(sources.len()).expect("bounded where they enter"));
                out.put_u32_le(0);
                out.put_slice(attributes.0);
                out.put_slice(sources.raw());
            }
        }
    }
}

/// The records of one frame's body.
pub(crate) struct Records<'a> {
    body: &'a [u8],
    at: usize,
    /// When the frame was built, by the owner's wall clock.
    pub(crate) time_ms: i64,
}

impl<'a> Records<'a> {
    /// Reads what stands in front of the records.
    ///
    /// # Errors
    /// If this release does not know the layout.
    pub(crate) fn new(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor { rest: body };
        if cursor.u8()? != VERSION {
            return Err("a body of an unknown version");
        }
        cursor.take(7)?;
        Ok(Self {
            body,
            at: PRELUDE,
            time_ms: cursor.i64()?,
        })
    }

    fn record(&mut self) -> Result<Operation<'a>, Malformed> {
        let mut cursor = Cursor {
            rest: &self.body[self.at..],
        };
        let (code, _) = (cursor.u8()?, cursor.u8()?);
        let (attributes, len) = (usize::from(cursor.u16()?), cursor.u32()? as usize);
        let mut cursor = Cursor {
            rest: cursor.take(len)?,
        };
        let end = self.at + RECORD_HEADER + len;
        self.at = end;
        let sid = Sid(cursor.u64()?);
        let operation = match code {
            APPEND_TYPE => {
                let (offset, events, length) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
                let attributes = cursor.attributes(attributes)?;
                cursor.take(length as usize)?;
                let position =
                    u32::try_from(end).map_err(|_| "a body of more than 4 GiB")? - length;
                Operation::Append(Run {
                    sid,
                    offset,
                    events,
                    attributes,
                    position,
                    length,
                })
            }
            CREATE => {
                let (kind, _, key_length) = (cursor.u8()?, cursor.u8()?, cursor.u16()?);
                let name = cursor.u32()? as usize;
                let attributes = cursor.attributes(attributes)?;
                let kind = match kind {
                    0 => Kind::Stream,
                    1 => Kind::Table { key_length },
                    _ => return Err("a segment of an unknown kind"),
                };
                let name = std::str::from_utf8(cursor.take(name)?)
                    .map_err(|_| "a name that is no text")?;
                Operation::Create {
                    sid,
                    kind,
                    name,
                    attributes,
                }
            }
            SEAL => Operation::Seal { sid },
            TRUNCATE => Operation::Truncate {
                sid,
                start: cursor.u64()?,
            },
            DELETE => Operation::Delete { sid },
            SET_ATTRIBUTES => Operation::SetAttributes {
                sid,
                attributes: cursor.attributes(attributes)?,
            },
            TABLE_UPDATE_TYPE => {
                let (base, count, _) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
                let raw = cursor.rest;
                for _ in 0..count {
                    cursor.change()?;
                }
                Operation::TableUpdate {
                    sid,
                    base,
                    changes: Changes { raw, count },
                }
            }
            FLUSH_COMMIT => Operation::FlushCommit(cursor.placed(sid.0)?),
            COMPACT => Operation::Compact(cursor.placed(sid.0)?),
            CHECKPOINT_END => Operation::CheckpointEnd {
                frame: sid.0,
                next_seq: cursor.u64()?,
            },
            MERGE => {
                let (base, count, _) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
                let attributes = cursor.attributes(attributes)?;
                let sources = (count as usize).checked_mul(SOURCE);
                let sources = sources.ok_or("a merge of more than fits")?;
                Operation::Merge {
                    sid,
                    base,
                    attributes,
                    sources: Sources::new(cursor.take(sources)?),
                }
            }
            _ => return Err("a record of an unknown type"),
        };
        if cursor.rest.is_empty() {
            Ok(operation)
        } else {
            Err("a record longer than its content")
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Operation<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.body.len() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.at = self.body.len();
        }
        Some(record)
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

macro_rules! integers {
    ($($name:ident: $type:ty),*) => {$(
        fn $name(&mut self) -> Result<$type, Malformed> {
            let raw = self.take(size_of::<$type>())?;
            Ok(<$type>::from_le_bytes(raw.try_into().expect("taken with that length")))
        }
    )*};
}

impl<'a> Cursor<'a> {
    integers!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64);

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or("a record cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn attributes(&mut self, count: usize) -> Result<Attributes<'a>, Malformed> {
        self.take(count * ATTRIBUTE).map(Attributes)
    }

    fn placed(&mut self, pack: u64) -> Result<Placed<'a>, Malformed> {
        let pack = PackId::from_number(pack).ok_or("a pack of an impossible number")?;
        let (size, count, _) = (self.u64()?, self.u32()? as usize, self.u32()?);
        let raw = self.take(count.checked_mul(PLACED_RUN).ok_or("a record cut short")?)?;
        let placed = Placed { pack, size, raw };
        for run in placed.runs() {
            if run.position.checked_add(run.length).is_none()
                || run.offset.checked_add(run.length.into()).is_none()
            {
                return Err("a run in a pack that ends beyond all bounds");
            }
        }
        Ok(placed)
    }

    fn change(&mut self) -> Result<Change<'a>, Malformed> {
        let (removal, _) = (self.u8()?, self.u8()?);
        let (key, value) = (usize::from(self.u16()?), self.u32()? as usize);
        let (key, value) = (self.take(key)?, self.take(value)?);
        Ok(Change {
            key,
            value: (removal == 0).then_some(value),
        })
    }
}

#[cfg(test)]
mod tests;
