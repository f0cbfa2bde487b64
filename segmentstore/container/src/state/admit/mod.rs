//! Checks every operation against what the operations before it will have done, durable or not, and
//! fixes its result.
//!
//! An overlay: only what differs from the durable [`State`] is here, each entry with the number of the
//! operation that made it, and [`Speculation::retire`] takes it out again when that operation is
//! durable and applied. So nothing is held twice, and an idle container holds nothing here.
//!
//! Nothing is ever rolled back: a log that fails ends the container.

mod merge;
mod tables;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE, Offset, WriterId};

pub(crate) use self::merge::check_sources;
use super::merge::Merge;
use super::{Seeded, Segment, Sid, State};
use crate::index::entries::Applied;
use crate::operation::{Attributes, Operation, encode_attributes};
use crate::{Error, Kind};

/// Offsets are signed on the wire.
const LENGTH_MAX: u64 = i64::MAX as u64;
/// Longest name of a segment in bytes; those of the protocol are shorter.
const NAME_BYTES_MAX: usize = 4096;
/// Longest key of a table whose keys all have the same length. Source: the protocol.
const FIXED_KEY_BYTES_MAX: u16 = 256;
/// Most attributes given at creation.
const ATTRIBUTES_MAX: usize = 256;
/// Copies of names that are remembered: those of as many writers, if they append to a segment each.
const RECENT: usize = 1 << 10;
/// Bytes of a frame that are no payload, at most, if it holds one operation.
const OVERHEAD: usize = 1 << 10;

/// A segment as the operations so far will leave it.
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: Kind,
    start: u64,
    length: u64,
    sealed: bool,
    deleted: bool,
    entries: u64,
    seq: u64,
}

impl Head {
    fn of(segment: &Segment) -> Self {
        Self {
            kind: segment.kind,
            start: segment.start,
            length: segment.length,
            sealed: segment.sealed,
            deleted: false,
            entries: segment.table.as_ref().map_or(0, |t| t.len() as u64),
            seq: 0,
        }
    }
}

/// An overlay entry and the number of the operation that made it.
#[derive(Clone, Copy, Debug)]
struct Made<T> {
    by: u64,
    value: T,
}

/// What operations on their way to the log will change.
#[derive(Debug)]
pub(crate) struct Speculation {
    names: HashMap<Arc<str>, Made<Option<Sid>>, Seeded>,
    heads: HashMap<Sid, Head, Seeded>,
    numbers: HashMap<(Sid, AttributeId), Made<i64>, Seeded>,
    keys: HashMap<(Sid, Bytes), Made<Option<u64>>, Seeded>,
    /// Merges, each with the number of its operation.
    merged: HashMap<Merge, u64, Seeded>,
    next_sid: Sid,
    next_seq: u64,
    hasher: Seeded,
    /// Most bytes of one operation, so that it fits a frame.
    bytes_max: usize,
    /// Segments of recent appends by their callers' own copies of the names, each in the one slot it has.
    recent: Vec<Option<(Arc<str>, Sid)>>,
}

/// What an append wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intent {
    pub(crate) writer: WriterId,
    pub(crate) last_event_number: i64,
    pub(crate) expected_offset: Option<Offset>,
    pub(crate) bytes: u64,
}

/// What becomes of an append that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It gets this place.
    Write { sid: Sid, offset: u64 },
    /// An operation before it has written these events; nothing is written again.
    Duplicate { length: u64 },
}

/// Returns the most bytes that one operation may bring, where frames of the log have bodies of at most
/// `frame_bytes_max`. A larger append is refused, and must be by whoever takes appends: those that follow it on its
/// way are not.
pub fn operation_bytes_max(frame_bytes_max: u64) -> usize {
    usize::try_from(frame_bytes_max)
        .unwrap_or(usize::MAX)
        .saturating_sub(OVERHEAD)
}

impl Speculation {
    /// Starts with nothing on its way. Frames can have bodies of at most `frame_bytes_max`.
    pub(crate) fn new(state: &State, frame_bytes_max: u64) -> Self {
        let hasher = state.hasher();
        Self {
            names: HashMap::with_hasher(hasher),
            heads: HashMap::with_hasher(hasher),
            numbers: HashMap::with_hasher(hasher),
            keys: HashMap::with_hasher(hasher),
            merged: HashMap::with_hasher(hasher),
            next_sid: state.next_sid,
            next_seq: state.next_seq,
            hasher,
            bytes_max: operation_bytes_max(frame_bytes_max),
            recent: Vec::new(),
        }
    }

    /// Returns the number the next admitted operation gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Returns how many differences to the durable state it holds.
    pub(crate) fn len(&self) -> usize {
        let changes = self.heads.len() + self.numbers.len() + self.keys.len();
        changes + self.names.len() + self.merged.len()
    }

    /// Checks an append and gives it its place.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentSealed`], [`Error::WrongOffset`],
    /// [`Error::InvalidArgument`] if it fits no frame, [`Error::Unsupported`] for a table. Whether the writer has written these events already is
    /// asked before all of these but the first: a repeated append must never look refused.
    pub(crate) fn append(
        &mut self,
        state: &State,
        name: &Arc<str>,
        intent: Intent,
    ) -> Result<Verdict, Error> {
        let (sid, mut head) = self.find_recent(state, name)?;
        if matches!(head.kind, Kind::Table { .. }) {
            return Err(unsupported(name, "append"));
        }
        let writer = AttributeId::from(intent.writer);
        let repeated = intent.last_event_number <= self.number(state, sid, writer);
        if repeated && cfg!(not(planted = "skip_dedupe")) {
            return Ok(Verdict::Duplicate {
                length: head.length,
            });
        }
        if head.sealed {
            return Err(Error::SegmentSealed(name.clone()));
        }
        if let Some(expected) = intent.expected_offset
            && expected.0 != head.length
        {
            return Err(Error::WrongOffset {
                segment: name.clone(),
                expected,
                actual: Offset(head.length),
            });
        }
        let offset = head.length;
        self.check_size(usize::try_from(intent.bytes).unwrap_or(usize::MAX))?;
        if LENGTH_MAX - offset < intent.bytes {
            return Err(Error::InvalidArgument(format!("segment {name} is full")));
        }
        let seq = self.advance();
        head.length += intent.bytes;
        self.put(sid, head, seq);
        let value = intent.last_event_number;
        self.numbers.insert((sid, writer), Made { by: seq, value });
        Ok(Verdict::Write { sid, offset })
    }

    /// Returns a writer's last event number, [`NULL_ATTRIBUTE`] for a new one; also of sealed segments.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Unsupported`] for a table.
    pub(crate) fn last_event_number(
        &mut self,
        state: &State,
        name: &Arc<str>,
        writer: WriterId,
    ) -> Result<i64, Error> {
        let (sid, head) = self.find_recent(state, name)?;
        if matches!(head.kind, Kind::Table { .. }) {
            return Err(unsupported(name, "setupAppend"));
        }
        Ok(self.number(state, sid, writer.into()))
    }

    /// Creates a segment.
    ///
    /// # Errors
    /// [`Error::SegmentExists`], [`Error::InvalidArgument`].
    pub(crate) fn create(
        &mut self,
        state: &State,
        name: &Arc<str>,
        kind: Kind,
        attributes: &[(AttributeId, i64)],
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let what = format!("a segment name of {} bytes", name.len());
            return Err(Error::InvalidArgument(what));
        }
        if attributes.len() > ATTRIBUTES_MAX {
            let what = format!("a segment with {} attributes", attributes.len());
            return Err(Error::InvalidArgument(what));
        }
        if matches!(kind, Kind::Table { key_length } if key_length > FIXED_KEY_BYTES_MAX) {
            let what = format!("a table with keys of more than {FIXED_KEY_BYTES_MAX} bytes");
            return Err(Error::InvalidArgument(what));
        }
        if self.sid(state, name).is_some() {
            return Err(Error::SegmentExists(name.clone()));
        }
        let (sid, seq) = (self.next_sid, self.advance());
        self.next_sid = Sid(sid.0 + 1);
        self.name(name, Some(sid), seq);
        let mut segment = Segment::new(name.clone(), kind);
        let mut encoded = BytesMut::new();
        for &(id, value) in attributes {
            segment.set_attribute(id, value);
            self.numbers.insert((sid, id), Made { by: seq, value });
        }
        encode_attributes(&mut encoded, attributes.iter().copied());
        self.numbers.insert(
            (sid, AttributeId::EVENT_COUNT),
            Made {
                by: seq,
                value: segment.events,
            },
        );
        self.put(sid, Head::of(&segment), seq);
        let attributes = Attributes::new(&encoded);
        Operation::Create {
            sid,
            kind,
            name,
            attributes,
        }
        .encode(out);
        Ok(())
    }

    /// Seals a segment and returns its length; a sealed one stays as it is and nothing is written.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Unsupported`] for a table.
    pub(crate) fn seal(
        &mut self,
        state: &State,
        name: &Arc<str>,
        out: &mut BytesMut,
    ) -> Result<Offset, Error> {
        let (sid, mut head) = self.find(state, name)?;
        if matches!(head.kind, Kind::Table { .. }) {
            return Err(unsupported(name, "sealSegment"));
        }
        if !head.sealed {
            head.sealed = true;
            let seq = self.advance();
            self.put(sid, head, seq);
            Operation::Seal { sid }.encode(out);
        }
        Ok(Offset(head.length))
    }

    /// Truncates a segment; to where it starts already, nothing is written.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::BadOffset`], [`Error::Unsupported`] for a table.
    pub(crate) fn truncate(
        &mut self,
        state: &State,
        name: &Arc<str>,
        start: Offset,
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        let (sid, mut head) = self.find(state, name)?;
        if matches!(head.kind, Kind::Table { .. }) {
            return Err(unsupported(name, "truncateSegment"));
        }
        if !(head.start..=head.length).contains(&start.0) {
            return Err(bad_offset(
                name,
                head,
                i64::try_from(start.0).unwrap_or(i64::MAX),
            ));
        }
        if head.start != start.0 {
            head.start = start.0;
            let seq = self.advance();
            self.put(sid, head, seq);
            Operation::Truncate {
                sid,
                start: start.0,
            }
            .encode(out);
        }
        Ok(())
    }

    /// Deletes a segment; the name can be used again at once. With `empty_table` only a table without
    /// entries.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`]; with `empty_table` [`Error::TableNotEmpty`], [`Error::Unsupported`].
    pub(crate) fn delete(
        &mut self,
        state: &State,
        name: &Arc<str>,
        empty_table: bool,
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        let (sid, mut head) = self.find(state, name)?;
        // The official server does not know whether a table with keys of fixed length is empty.
        let tells = matches!(head.kind, Kind::Table { key_length: 0 });
        if empty_table && !tells {
            return Err(unsupported(name, "deleteTableSegment"));
        }
        if empty_table && head.entries > 0 {
            return Err(Error::TableNotEmpty(name.clone()));
        }
        head.deleted = true;
        let seq = self.advance();
        self.put(sid, head, seq);
        self.name(name, None, seq);
        Operation::Delete { sid }.encode(out);
        Ok(())
    }

    /// Sets an attribute if it has the value `expected`, and returns whether it had.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentSealed`].
    pub(crate) fn update_attribute(
        &mut self,
        state: &State,
        name: &Arc<str>,
        id: AttributeId,
        new: i64,
        expected: i64,
        out: &mut BytesMut,
    ) -> Result<bool, Error> {
        let (sid, head) = self.find(state, name)?;
        if head.sealed {
            return Err(Error::SegmentSealed(name.clone()));
        }
        // Core attributes come with the segment; the official server refuses to add one.
        let added = id.is_core() && expected == NULL_ATTRIBUTE;
        if added || self.number(state, sid, id) != expected {
            return Ok(false);
        }
        self.set_attributes(sid, head, &[(id, new)], out);
        Ok(true)
    }

    /// Sets attributes whatever they were.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentSealed`].
    pub(crate) fn overwrite_attributes(
        &mut self,
        state: &State,
        name: &Arc<str>,
        attributes: &[(AttributeId, i64)],
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        let (sid, head) = self.find(state, name)?;
        if head.sealed {
            return Err(Error::SegmentSealed(name.clone()));
        }
        self.set_attributes(sid, head, attributes, out);
        Ok(())
    }

    fn set_attributes(
        &mut self,
        sid: Sid,
        head: Head,
        attributes: &[(AttributeId, i64)],
        out: &mut BytesMut,
    ) {
        let seq = self.advance();
        let mut encoded = BytesMut::new();
        encode_attributes(&mut encoded, attributes.iter().copied());
        for &(id, value) in attributes {
            self.numbers.insert((sid, id), Made { by: seq, value });
        }
        self.put(sid, head, seq);
        let attributes = Attributes::new(&encoded);
        Operation::SetAttributes { sid, attributes }.encode(out);
    }

    /// Notes in the log that the index has everything up to `applied`.
    pub(crate) fn checkpoint_end(&mut self, applied: Applied, out: &mut BytesMut) {
        self.advance();
        let Applied {
            frame, next_seq, ..
        } = applied;
        Operation::CheckpointEnd { frame, next_seq }.encode(out);
    }

    /// Adds a record about where bytes lie. Whatever becomes of their segments until then is dealt with
    /// when it is applied.
    pub(crate) fn place(
        &mut self,
        operation: &Operation<'_>,
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        let from = out.len();
        operation.encode(out);
        if let Err(error) = self.check_size(out.len() - from) {
            out.truncate(from);
            return Err(error);
        }
        self.advance();
        Ok(())
    }

    /// Forgets what a durable operation made; `last_seq` is that of the last operation in its frame.
    pub(crate) fn retire(&mut self, operation: &Operation<'_>, last_seq: u64) {
        let sid = match *operation {
            Operation::Append(run) => {
                for (id, _) in run.attributes.iter() {
                    self.retire_number(run.sid, id, last_seq);
                }
                run.sid
            }
            Operation::Create {
                sid,
                name,
                attributes,
                ..
            } => {
                for (id, _) in attributes.iter() {
                    self.retire_number(sid, id, last_seq);
                }
                self.retire_number(sid, AttributeId::EVENT_COUNT, last_seq);
                self.retire_name(name, last_seq);
                sid
            }
            Operation::SetAttributes { sid, attributes } => {
                for (id, _) in attributes.iter() {
                    self.retire_number(sid, id, last_seq);
                }
                sid
            }
            Operation::TableUpdate { sid, changes, .. } => {
                for change in changes.iter() {
                    // The key's bytes are copied for the lookup only; tables are not the hot path.
                    let key = (sid, Bytes::copy_from_slice(change.key));
                    if self.keys.get(&key).is_some_and(|made| made.by <= last_seq) {
                        self.keys.remove(&key);
                    }
                }
                sid
            }
            Operation::Merge {
                sid,
                attributes,
                sources,
                ..
            } => {
                for (id, _) in attributes.iter() {
                    self.retire_number(sid, id, last_seq);
                }
                for source in sources.iter() {
                    self.retire_head(source.sid, last_seq);
                }
                sid
            }
            Operation::Seal { sid }
            | Operation::Truncate { sid, .. }
            | Operation::Delete { sid } => sid,
            // They change nothing that an operation is checked against.
            Operation::FlushCommit(_) | Operation::Compact(_) => return,
            Operation::CheckpointEnd { .. } => return,
        };
        self.retire_head(sid, last_seq);
    }

    fn retire_head(&mut self, sid: Sid, last_seq: u64) {
        if let Entry::Occupied(head) = self.heads.entry(sid)
            && head.get().seq <= last_seq
        {
            head.remove();
        }
    }

    /// Forgets what a durable creation or deletion did to a name.
    pub(crate) fn retire_name(&mut self, name: &str, last_seq: u64) {
        if self.names.get(name).is_some_and(|made| made.by <= last_seq) {
            self.names.remove(name);
        }
    }

    fn retire_number(&mut self, sid: Sid, id: AttributeId, last_seq: u64) {
        if let Entry::Occupied(made) = self.numbers.entry((sid, id))
            && made.get().by <= last_seq
        {
            made.remove();
        }
    }

    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        if bytes <= self.bytes_max {
            return Ok(());
        }
        let max = self.bytes_max;
        let what = format!("an operation of {bytes} bytes, at most {max} are possible");
        Err(Error::InvalidArgument(what))
    }

    fn advance(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    fn put(&mut self, sid: Sid, head: Head, seq: u64) {
        self.heads.insert(sid, Head { seq, ..head });
    }

    fn name(&mut self, name: &Arc<str>, value: Option<Sid>, by: u64) {
        self.names.insert(name.clone(), Made { by, value });
    }

    /// Looks a segment up by the name that an append gives, mostly by where that copy of it lies. What was
    /// found so is right as long as it is there: numbers are given once.
    fn find_recent(&mut self, state: &State, name: &Arc<str>) -> Result<(Sid, Head), Error> {
        let slot = self.hasher.hash_one(name.as_ptr() as usize) as usize % RECENT;
        if let Some(Some((recent, sid))) = self.recent.get(slot)
            && Arc::ptr_eq(recent, name)
            && let Some(head) = self.head(state, *sid)
        {
            return Ok((*sid, head));
        }
        let (sid, head) = self.find(state, name)?;
        if self.recent.is_empty() {
            self.recent.resize(RECENT, None);
        }
        self.recent[slot] = Some((name.clone(), sid));
        Ok((sid, head))
    }

    fn sid(&self, state: &State, name: &str) -> Option<Sid> {
        match self.names.get(name) {
            Some(made) => made.value,
            None => {
                debug_assert!(state.knows(name), "{name} was not pinned");
                state.sid(name)
            }
        }
    }

    fn head(&self, state: &State, sid: Sid) -> Option<Head> {
        let head = match self.heads.get(&sid) {
            Some(head) => *head,
            None => Head::of(state.segment(sid)?),
        };
        (!head.deleted).then_some(head)
    }

    fn find(&self, state: &State, name: &Arc<str>) -> Result<(Sid, Head), Error> {
        let sid = self.sid(state, name).ok_or_else(|| missing(name))?;
        let head = self.head(state, sid).ok_or_else(|| missing(name))?;
        Ok((sid, head))
    }

    fn number(&self, state: &State, sid: Sid, id: AttributeId) -> i64 {
        match self.numbers.get(&(sid, id)) {
            Some(made) => made.value,
            None => state
                .segment(sid)
                .map_or(NULL_ATTRIBUTE, |s| s.attribute(id)),
        }
    }
}

fn missing(name: &Arc<str>) -> Error {
    Error::NoSuchSegment(name.clone())
}

fn unsupported(name: &Arc<str>, operation: &'static str) -> Error {
    Error::Unsupported {
        segment: name.clone(),
        operation,
    }
}

fn bad_offset(name: &Arc<str>, head: Head, given: i64) -> Error {
    Error::BadOffset {
        segment: name.clone(),
        start: Offset(head.start),
        length: Offset(head.length),
        given,
    }
}
