//! A segment ⇄ its keys and values, and the changes that lead from one checkpoint to the next.
//!
//! [`changes`] compares a segment with what the index has of it ([`Before`]), so nothing that changes a
//! segment has to know how it is stored; [`load`] reads one back.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sarit_proto::ids::AttributeId;
use sarit_proto::names::is_transient;
use sarit_storage::PackId;

use super::{Batch, Index, keys};
use crate::state::boundaries::Boundary;
use crate::state::merge::Merge;
use crate::state::writers::Numbers;
use crate::state::{Extent, PackUse, Place, Segment, Sid};
use crate::tables::Table;
use crate::{Error, Kind};

/// Entries read at once.
const PAGE: usize = 512;

/// What stands at the container's own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The last frame whose effects are in.
    pub(crate) frame: u64,
    /// The number of the operation behind the last one whose effects are in.
    pub(crate) next_seq: u64,
    /// The number the next segment gets.
    pub(crate) next_sid: Sid,
    /// How many segments there are.
    pub(crate) segments: u64,
}

/// What the index has of a segment that has changed since.
#[derive(Clone, Debug)]
pub(crate) enum Before {
    /// Nothing: it was created since.
    Nothing,
    Was(Box<Was>),
}

/// The parts of a segment, as the index has them, that a comparison needs.
#[derive(Clone, Debug)]
pub(crate) struct Was {
    name: Arc<str>,
    extents: Vec<Extent>,
    numbers: Numbers,
    boundaries: Vec<Boundary>,
    /// Whether it is listed among those that every start looks at.
    listed: bool,
    /// Keys of its table that may have changed.
    touched: BTreeSet<Bytes>,
}

impl Before {
    /// Remembers a segment that is as the index has it and is going to change.
    pub(crate) fn of(segment: &Segment) -> Self {
        Self::Was(Box::new(Was {
            name: segment.name.clone(),
            extents: segment.extents.clone(),
            numbers: segment.numbers.clone(),
            boundaries: segment.boundaries.clone(),
            listed: is_listed(segment),
            touched: BTreeSet::new(),
        }))
    }

    /// Returns the segment's name, if the index has it.
    pub(crate) fn name(&self) -> Option<Arc<str>> {
        match self {
            Self::Nothing => None,
            Self::Was(was) => Some(was.name.clone()),
        }
    }

    /// Notes that a key of the segment's table is going to change.
    pub(crate) fn touch(&mut self, key: &[u8]) {
        if let Self::Was(was) = self
            && !was.touched.contains(key)
        {
            was.touched.insert(Bytes::copy_from_slice(key));
        }
    }
}

impl Applied {
    pub(crate) fn value(self) -> Bytes {
        value(|out| {
            out.put_u64_le(self.next_seq);
            out.put_u64_le(self.next_sid.0);
            out.put_u64_le(self.frame);
            out.put_u64_le(self.segments);
        })
    }

    fn decode(mut raw: Bytes) -> Result<Self, Error> {
        if raw.len() != 32 {
            return Err(damaged("the container's record has a wrong length"));
        }
        Ok(Self {
            next_seq: raw.get_u64_le(),
            next_sid: Sid(raw.get_u64_le()),
            frame: raw.get_u64_le(),
            segments: raw.get_u64_le(),
        })
    }

    /// Returns how far the index has come; `None` if it is new.
    pub(crate) async fn of(index: &dyn Index) -> Result<Option<Self>, Error> {
        let raw = index.get(keys::container()).await?;
        raw.map(Self::decode).transpose()
    }
}

/// Whether every start has to look at a segment: it has bytes that lie in the log only, or it is
/// transient and to be deleted if its owner is gone.
fn is_listed(segment: &Segment) -> bool {
    segment.unflushed > 0 || is_transient(&segment.name)
}

/// Writes all entries of a segment.
pub(crate) fn entries(sid: Sid, segment: &Segment, put: &mut impl FnMut(Bytes, Bytes)) {
    put(keys::name(&segment.name), sid_value(sid));
    put(keys::segment(sid), head(segment));
    if is_listed(segment) {
        put(keys::listed(sid), Bytes::new());
    }
    for extent in &segment.extents {
        put(keys::extent(sid, extent.offset), extent_value(extent));
    }
    for (id, number) in segment.numbers.iter() {
        put(keys::attribute(sid, id), number_value(number));
    }
    for boundary in &segment.boundaries {
        put(
            keys::boundary(sid, boundary.offset),
            boundary_value(boundary),
        );
    }
    for (key, version, content) in segment.table.iter().flat_map(|table| table.iter()) {
        put(keys::table_entry(sid, key), entry_value(version, content));
    }
}

/// Writes what changed of a segment that is there.
pub(crate) fn changes(sid: Sid, before: &Before, now: &Segment, batch: &mut Batch) {
    let was = match before {
        Before::Nothing => {
            entries(sid, now, &mut |key, value| batch.put(key, value));
            return;
        }
        Before::Was(was) => was,
    };
    batch.put(keys::segment(sid), head(now));
    match (was.listed, is_listed(now)) {
        (false, true) => batch.put(keys::listed(sid), Bytes::new()),
        (true, false) => batch.delete(keys::listed(sid)),
        _ => {}
    }
    let (old, new) = (&was.extents, &now.extents);
    for_changes(
        old,
        new,
        |extent| extent.offset,
        |offset, extent| {
            set(batch, keys::extent(sid, offset), extent.map(extent_value));
        },
    );
    let (old, new): (Vec<_>, Vec<_>) = (was.numbers.iter().collect(), now.numbers.iter().collect());
    for_changes(
        &old,
        &new,
        |(id, _)| *id,
        |id, number| {
            set(
                batch,
                keys::attribute(sid, id),
                number.map(|(_, number)| number_value(*number)),
            );
        },
    );
    let (old, new) = (&was.boundaries, &now.boundaries);
    for_changes(
        old,
        new,
        |boundary| boundary.offset,
        |offset, boundary| {
            set(
                batch,
                keys::boundary(sid, offset),
                boundary.map(boundary_value),
            );
        },
    );
    for key in &was.touched {
        let entry = now.table.as_ref().and_then(|table| table.entry(key));
        let entry = entry.map(|(version, content)| entry_value(version, content));
        set(batch, keys::table_entry(sid, key), entry);
    }
}

/// Writes that a segment is gone, whose table is what is left of it. Its name may be another's by now.
pub(crate) fn removal(sid: Sid, before: &Before, table: Option<&Table>, batch: &mut Batch) {
    let Before::Was(was) = before else {
        return;
    };
    batch.delete(keys::name(&was.name));
    batch.delete(keys::segment(sid));
    if was.listed {
        batch.delete(keys::listed(sid));
    }
    for extent in &was.extents {
        batch.delete(keys::extent(sid, extent.offset));
    }
    for (id, _) in was.numbers.iter() {
        batch.delete(keys::attribute(sid, id));
    }
    for boundary in &was.boundaries {
        batch.delete(keys::boundary(sid, boundary.offset));
    }
    let left = table.iter().flat_map(|table| table.iter());
    let left = left
        .map(|(key, ..)| key)
        .filter(|key| !was.touched.contains(*key));
    for key in was.touched.iter().chain(left) {
        batch.delete(keys::table_entry(sid, key));
    }
}

/// Calls `change` for every key whose item differs, with the new item. Both lists are sorted.
fn for_changes<T: PartialEq, K: Ord + Copy>(
    old: &[T],
    new: &[T],
    key: impl Fn(&T) -> K,
    mut change: impl FnMut(K, Option<&T>),
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(was), Some(is)) => key(was).cmp(&key(is)),
        };
        let was = if order.is_le() { old.next() } else { None };
        let is = if order.is_ge() { new.next() } else { None };
        match (was, is) {
            (was, Some(is)) if was != Some(is) => change(key(is), Some(is)),
            (Some(was), None) => change(key(was), None),
            _ => {}
        }
    }
}

fn set(batch: &mut Batch, key: Bytes, value: Option<Bytes>) {
    match value {
        Some(value) => batch.put(key, value),
        None => batch.delete(key),
    }
}

/// Reads a segment; `None` if there is none of that number.
pub(crate) async fn load(index: &dyn Index, sid: Sid) -> Result<Option<Segment>, Error> {
    let Some(raw) = index.get(keys::segment(sid)).await? else {
        return Ok(None);
    };
    let mut segment = decode_head(raw)?;
    each(
        index,
        keys::of_segment(keys::Space::Extent, sid),
        |mut key, mut raw| {
            if key.len() != 8 || raw.len() != 16 {
                return Err(damaged("an extent has a wrong length"));
            }
            let extent = decode_extent(key.get_u64(), &mut raw)?;
            if extent.place.in_frame().is_some() {
                segment.unflushed += u64::from(extent.length);
            }
            segment.extents.push(extent);
            Ok(())
        },
    )
    .await?;
    each(
        index,
        keys::of_segment(keys::Space::Attribute, sid),
        |mut key, mut raw| {
            if key.len() != 16 || raw.len() != 8 {
                return Err(damaged("an attribute has a wrong length"));
            }
            segment
                .numbers
                .set(AttributeId(key.get_u128()), raw.get_i64_le());
            Ok(())
        },
    )
    .await?;
    each(
        index,
        keys::of_segment(keys::Space::Boundary, sid),
        |mut key, mut raw| {
            if key.len() != 8 || raw.len() != 16 {
                return Err(damaged("a boundary has a wrong length"));
            }
            segment.boundaries.push(Boundary {
                offset: key.get_u64(),
                events: raw.get_i64_le(),
                time_ms: raw.get_i64_le(),
            });
            Ok(())
        },
    )
    .await?;
    if let Some(table) = &mut segment.table {
        each(
            index,
            keys::of_segment(keys::Space::TableEntry, sid),
            |key, mut raw| {
                if raw.len() < 8 {
                    return Err(damaged("an entry of a table has a wrong length"));
                }
                let version = raw.get_u64_le();
                table.restore(&key, version, &raw);
                Ok(())
            },
        )
        .await?;
    }
    Ok(Some(segment))
}

/// Reads the number of a segment by its name.
pub(crate) async fn find(index: &dyn Index, name: &str) -> Result<Option<Sid>, Error> {
    match index.get(keys::name(name)).await? {
        None => Ok(None),
        Some(mut raw) if raw.len() == 8 => Ok(Some(Sid(raw.get_u64_le()))),
        Some(_) => Err(damaged("a segment's number has a wrong length")),
    }
}

/// Calls `with` for each entry in a range: its key, without the range's prefix of 9 bytes, and value.
pub(crate) async fn each(
    index: &dyn Index,
    range: Range<Bytes>,
    mut with: impl FnMut(Bytes, Bytes) -> Result<(), Error>,
) -> Result<(), Error> {
    let Range {
        start: mut from,
        end,
    } = range;
    let prefix = from.len();
    loop {
        let page = index.scan(from.clone()..end.clone(), PAGE).await?;
        let more = page.len() == PAGE;
        if let Some((last, _)) = page.last() {
            from = keys::behind(last);
        }
        for (key, value) in page {
            with(key.slice(prefix..), value)?;
        }
        if !more {
            return Ok(());
        }
    }
}

/// Returns the next entries of the whole index, in order of their keys, none at its end; `from` is where
/// to go on, empty at first.
pub(crate) async fn page(
    index: &dyn Index,
    from: &mut Bytes,
) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let end = Bytes::from_static(&[0xff]);
    let page = index.scan(from.clone()..end, PAGE).await?;
    if let Some((last, _)) = page.last() {
        *from = keys::behind(last);
    }
    Ok(page)
}

fn sid_value(sid: Sid) -> Bytes {
    value(|out| out.put_u64_le(sid.0))
}

pub(crate) fn number_value(number: i64) -> Bytes {
    value(|out| out.put_i64_le(number))
}

fn entry_value(version: u64, content: &[u8]) -> Bytes {
    value(|out| {
        out.put_u64_le(version);
        out.put_slice(content);
    })
}

fn boundary_value(boundary: &Boundary) -> Bytes {
    value(|out| {
        out.put_i64_le(boundary.events);
        out.put_i64_le(boundary.time_ms);
    })
}

fn extent_value(extent: &Extent) -> Bytes {
    value(|out| {
        out.put_u64_le(extent.place.to_bits());
        out.put_u32_le(extent.position);
        out.put_u32_le(extent.length);
    })
}

/// Reads an extent's value.
pub(crate) fn extent_of(offset: u64, mut raw: Bytes) -> Result<Extent, Error> {
    if raw.len() != 16 {
        return Err(damaged("an extent has a wrong length"));
    }
    decode_extent(offset, &mut raw)
}

fn decode_extent(offset: u64, raw: &mut Bytes) -> Result<Extent, Error> {
    let place = Place::from_bits(raw.get_u64_le());
    Ok(Extent {
        offset,
        place: place.ok_or_else(|| damaged("an extent lies in an impossible pack"))?,
        position: raw.get_u32_le(),
        length: raw.get_u32_le(),
    })
}

/// Writes how much of a pack is in use; `None` if nothing is.
pub(crate) fn pack(id: PackId, used: Option<PackUse>, batch: &mut Batch) {
    set(batch, keys::pack(id), used.map(pack_value));
}

pub(crate) fn pack_value(used: PackUse) -> Bytes {
    value(|out| {
        out.put_u64_le(used.live);
        out.put_u64_le(used.size);
    })
}

/// Reads how much of each pack is in use.
pub(crate) async fn load_packs(
    index: &dyn Index,
    mut with: impl FnMut(PackId, PackUse),
) -> Result<(), Error> {
    each(index, keys::all(keys::Space::Pack), |mut key, mut raw| {
        if key.len() != 8 || raw.len() != 16 {
            return Err(damaged("a pack's record has a wrong length"));
        }
        let id = PackId::from_number(key.get_u64());
        let id = id.ok_or_else(|| damaged("a pack of an impossible number"))?;
        let (live, size) = (raw.get_u64_le(), raw.get_u64_le());
        with(id, PackUse { size, live });
        Ok(())
    })
    .await
}

/// Writes when a segment was merged; `None` if that is forgotten.
pub(crate) fn merge((target, source): Merge, at: Option<i64>, batch: &mut Batch) {
    set(batch, keys::merged(target, source), at.map(number_value));
}

/// Reads which segments were merged, and when.
pub(crate) async fn load_merges(
    index: &dyn Index,
    mut with: impl FnMut(Merge, i64),
) -> Result<(), Error> {
    each(index, keys::all(keys::Space::Merged), |mut key, mut raw| {
        if key.len() != 24 || raw.len() != 8 {
            return Err(damaged("a merge has a wrong length"));
        }
        let merge = (Sid(key.get_u64()), key.get_u128());
        with(merge, raw.get_i64_le());
        Ok(())
    })
    .await
}

/// Writes that the log of all epochs up to one is lost.
pub(crate) fn lost(epoch: u64, batch: &mut Batch) {
    batch.put(keys::lost(), value(|out| out.put_u64_le(epoch)));
}

/// Reads up to which epoch the log was lost, 0 if it never was: packs of these epochs hold what is still
/// known of that time only where an extent says so.
pub(crate) async fn load_lost(index: &dyn Index) -> Result<u64, Error> {
    match index.get(keys::lost()).await? {
        None => Ok(0),
        Some(mut raw) if raw.len() == 8 => Ok(raw.get_u64_le()),
        Some(_) => Err(damaged("the epoch that was lost has a wrong length")),
    }
}

fn head(segment: &Segment) -> Bytes {
    let (kind, key_length) = match segment.kind {
        Kind::Stream => (0, 0),
        Kind::Table { key_length } => (1, key_length),
    };
    value(|out| {
        out.put_u64_le(segment.start);
        out.put_u64_le(segment.length);
        out.put_i64_le(segment.modified_ms);
        out.put_i64_le(segment.events);
        out.put_u8(kind);
        out.put_u8(u8::from(segment.sealed));
        out.put_u16_le(key_length);
        out.put_slice(segment.name.as_bytes());
    })
}

fn decode_head(mut raw: Bytes) -> Result<Segment, Error> {
    if raw.len() < 36 {
        return Err(damaged("a segment's record is cut short"));
    }
    let (start, length) = (raw.get_u64_le(), raw.get_u64_le());
    let (modified_ms, events) = (raw.get_i64_le(), raw.get_i64_le());
    let (kind, sealed, key_length) = (raw.get_u8(), raw.get_u8(), raw.get_u16_le());
    let kind = match kind {
        0 => Kind::Stream,
        1 => Kind::Table { key_length },
        _ => return Err(damaged("a segment is of an unknown kind")),
    };
    let name = std::str::from_utf8(&raw).map_err(|_| damaged("a name is no text"))?;
    let mut segment = Segment::new(name.into(), kind);
    segment.start = start;
    segment.length = length;
    segment.modified_ms = modified_ms;
    segment.events = events;
    segment.sealed = sealed != 0;
    Ok(segment)
}

fn value(fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(40);
    fill(&mut out);
    out.freeze()
}

fn damaged(what: &str) -> Error {
    Error::DamagedIndex(what.into())
}
