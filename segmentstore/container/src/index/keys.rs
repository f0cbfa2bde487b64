//! The key space of a container's index, on one screen. Numbers are big-endian in keys, so that their
//! order is that of the bytes, and little-endian in values.
//!
//! ```text
//! 00                       → next seq u64 | next sid u64 | frame u64 | number of segments u64
//! 01 | name                → sid u64
//! 02 | sid                 → start | length | modified_ms | events: 8 bytes each | kind u8 | sealed u8 | key length u16 | name
//! 03 | sid | offset        → frame u64, or 2⁶³ + pack u64 | position u32 | length u32
//! 04 | sid | attribute id  → i64
//! 05 | sid | key           → version u64 | value
//! 06 | sid | offset        → events i64 | time_ms i64
//! 07 | sid | source hash   → merged_ms i64
//! 08 | pack                → bytes in use u64 | bytes of all its runs u64
//! 09 | sid                 → nothing: every start looks at the segment
//! 0a                       → epoch u64: up to it the log was lost
//! ```

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use sarit_proto::ids::AttributeId;
use sarit_storage::PackId;

use crate::state::Sid;

/// First byte of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Space {
    Container = 0,
    Name = 1,
    Segment = 2,
    Extent = 3,
    Attribute = 4,
    TableEntry = 5,
    Boundary = 6,
    Merged = 7,
    Pack = 8,
    Listed = 9,
    Lost = 10,
}

/// The one key of the container itself.
pub(crate) fn container() -> Bytes {
    key(Space::Container, |_| {})
}

/// The one key that an index has from having been rebuilt.
pub(crate) fn lost() -> Bytes {
    key(Space::Lost, |_| {})
}

pub(crate) fn name(name: &str) -> Bytes {
    key(Space::Name, |out| out.put_slice(name.as_bytes()))
}

pub(crate) fn segment(sid: Sid) -> Bytes {
    key(Space::Segment, |out| out.put_u64(sid.0))
}

pub(crate) fn extent(sid: Sid, offset: u64) -> Bytes {
    key(Space::Extent, |out| {
        out.put_u64(sid.0);
        out.put_u64(offset);
    })
}

pub(crate) fn boundary(sid: Sid, offset: u64) -> Bytes {
    key(Space::Boundary, |out| {
        out.put_u64(sid.0);
        out.put_u64(offset);
    })
}

pub(crate) fn attribute(sid: Sid, id: AttributeId) -> Bytes {
    key(Space::Attribute, |out| {
        out.put_u64(sid.0);
        out.put_u128(id.0);
    })
}

pub(crate) fn table_entry(sid: Sid, key_bytes: &[u8]) -> Bytes {
    key(Space::TableEntry, |out| {
        out.put_u64(sid.0);
        out.put_slice(key_bytes);
    })
}

pub(crate) fn listed(sid: Sid) -> Bytes {
    key(Space::Listed, |out| out.put_u64(sid.0))
}

pub(crate) fn pack(id: PackId) -> Bytes {
    key(Space::Pack, |out| out.put_u64(id.get()))
}

/// Whose a key is.
pub(crate) enum Owner<'a> {
    Container,
    Name(&'a str),
    Segment(Sid),
}

/// Returns whose a key is.
pub(crate) fn owner(key: &[u8]) -> Owner<'_> {
    const NAME: u8 = Space::Name as u8;
    const SEGMENTS: [u8; 6] = [
        Space::Segment as u8,
        Space::Extent as u8,
        Space::Attribute as u8,
        Space::TableEntry as u8,
        Space::Boundary as u8,
        Space::Listed as u8,
    ];
    match key.split_first() {
        Some((&NAME, name)) => Owner::Name(std::str::from_utf8(name).unwrap_or_default()),
        Some((space, rest)) if SEGMENTS.contains(space) && rest.len() >= 8 => {
            let sid = rest[..8].try_into().expect("cut to that length");
            Owner::Segment(Sid(u64::from_be_bytes(sid)))
        }
        _ => Owner::Container,
    }
}

/// Returns the range of one segment's keys of one kind.
pub(crate) fn of_segment(space: Space, sid: Sid) -> Range<Bytes> {
    let at = |sid: u64| key(space, |out| out.put_u64(sid));
    at(sid.0)..at(sid.0 + 1)
}

/// Returns the range of all keys of one kind.
pub(crate) fn all(space: Space) -> Range<Bytes> {
    Bytes::copy_from_slice(&[space as u8])..Bytes::copy_from_slice(&[space as u8 + 1])
}

/// Returns the first key behind one.
pub(crate) fn behind(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

pub(crate) fn merged(target: Sid, source_hash: u128) -> Bytes {
    key(Space::Merged, |out| {
        out.put_u64(target.0);
        out.put_u128(source_hash);
    })
}

fn key(space: Space, rest: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    out.put_u8(space as u8);
    rest(&mut out);
    out.freeze()
}
