//! What a container would answer if every operation were durable before the next one came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE, WriterId};
use sarit_proto::wire::field::{TableEntry, TableKey};

use crate::{AttributeUpdate, Done, Error, Kind, Offset};

/// An operation and its arguments, without whoever waits for the answer.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Append {
        writer: WriterId,
        number: i64,
        events: u32,
        expected: Option<u64>,
        data: Bytes,
    },
    Setup {
        writer: WriterId,
    },
    Create(Kind, Vec<(AttributeId, i64)>),
    Seal,
    Truncate(u64),
    Delete {
        empty_table: bool,
    },
    UpdateAttribute(AttributeId, i64, i64),
    TableUpdate(Vec<TableEntry>, Option<i64>),
    TableRemove(Vec<TableKey>, Option<i64>),
    Merge {
        sources: Vec<Arc<str>>,
        updates: Vec<AttributeUpdate>,
        lenient: bool,
    },
}

/// An answer of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Append(Done),
    Nothing,
    Offset(Offset),
    Flag(bool),
    Versions(Vec<i64>),
    Offsets(Vec<Offset>),
    Refused(String),
}

/// A segment, in the simplest form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    table: bool,
    /// Of all keys, 0 for any.
    pub(crate) key_length: u16,
    pub(crate) bytes: Vec<u8>,
    pub(crate) start: u64,
    pub(crate) sealed: bool,
    pub(crate) numbers: BTreeMap<AttributeId, i64>,
    pub(crate) entries: BTreeMap<Bytes, (i64, Bytes)>,
    length: u64,
    /// Names of what was merged into it.
    pub(crate) merged: BTreeSet<Arc<str>>,
}

/// All segments by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model(pub(crate) BTreeMap<Arc<str>, Segment>);

impl Segment {
    pub(crate) fn length(&self) -> u64 {
        if self.table {
            self.length
        } else {
            self.bytes.len() as u64
        }
    }

    /// Makes it a table of this length.
    pub(crate) fn make_table(&mut self, length: u64) {
        (self.table, self.length) = (true, length);
    }

    fn number(&self, id: AttributeId) -> i64 {
        self.numbers.get(&id).copied().unwrap_or(NULL_ATTRIBUTE)
    }
}

impl Model {
    /// Does it and answers.
    pub(crate) fn perform(&mut self, name: &Arc<str>, operation: &Operation) -> Answer {
        self.attempt(name, operation)
            .unwrap_or_else(|error| Answer::Refused(format!("{error:?}")))
    }

    fn attempt(&mut self, name: &Arc<str>, operation: &Operation) -> Result<Answer, Error> {
        if let Operation::Create(kind, attributes) = operation {
            if self.0.contains_key(name) {
                return Err(Error::SegmentExists(name.clone()));
            }
            let table = matches!(kind, Kind::Table { .. });
            let key_length = match kind {
                Kind::Table { key_length } => *key_length,
                Kind::Stream => 0,
            };
            let mut segment = Segment {
                table,
                key_length,
                ..Segment::default()
            };
            if !table {
                segment.numbers.insert(AttributeId::EVENT_COUNT, 0);
            }
            segment.numbers.extend(attributes.iter().copied());
            self.0.insert(name.clone(), segment);
            return Ok(Answer::Nothing);
        }
        if let Operation::Merge {
            sources,
            updates,
            lenient,
        } = operation
        {
            return self.merge(name, sources, updates, *lenient);
        }
        let missing = || Error::NoSuchSegment(name.clone());
        let segment = self.0.get_mut(name).ok_or_else(missing)?;
        let unsupported = |operation| {
            Err(Error::Unsupported {
                segment: name.clone(),
                operation,
            })
        };
        let sealed = || Err(Error::SegmentSealed(name.clone()));
        let (start, length) = (Offset(segment.start), Offset(segment.length()));
        let bad_offset = |given| {
            Err(Error::BadOffset {
                segment: name.clone(),
                start,
                length,
                given,
            })
        };
        match operation {
            Operation::Create(..) | Operation::Merge { .. } => unreachable!("done above"),
            Operation::Setup { .. } if segment.table => unsupported("setupAppend"),
            Operation::Setup { writer } => Ok(Answer::Append(Done::Setup {
                last_event_number: segment.number((*writer).into()),
            })),
            Operation::Append { .. } if segment.table => unsupported("append"),
            Operation::Append {
                writer,
                number,
                events,
                expected,
                data,
            } => {
                let id = AttributeId::from(*writer);
                if segment.number(id) < *number {
                    if segment.sealed {
                        return sealed();
                    }
                    if let Some(expected) = *expected
                        && expected != length.0
                    {
                        return Err(Error::WrongOffset {
                            segment: name.clone(),
                            expected: Offset(expected),
                            actual: length,
                        });
                    }
                    segment.numbers.insert(id, *number);
                    let count = segment.numbers.entry(AttributeId::EVENT_COUNT).or_default();
                    *count += i64::from(*events);
                    segment.bytes.extend_from_slice(data);
                }
                Ok(Answer::Append(Done::Appended {
                    length: Offset(segment.length()),
                }))
            }
            Operation::Seal if segment.table => unsupported("sealSegment"),
            Operation::Seal => {
                segment.sealed = true;
                Ok(Answer::Offset(length))
            }
            Operation::Truncate(_) if segment.table => unsupported("truncateSegment"),
            Operation::Truncate(at) => {
                if !(segment.start..=length.0).contains(at) {
                    return bad_offset(i64::try_from(*at).expect("tests use small numbers"));
                }
                segment.start = *at;
                Ok(Answer::Nothing)
            }
            Operation::Delete { empty_table } => {
                if *empty_table && (!segment.table || segment.key_length > 0) {
                    return unsupported("deleteTableSegment");
                }
                if *empty_table && !segment.entries.is_empty() {
                    return Err(Error::TableNotEmpty(name.clone()));
                }
                self.0.remove(name);
                Ok(Answer::Nothing)
            }
            Operation::UpdateAttribute(id, new, expected) => {
                if segment.sealed {
                    return sealed();
                }
                if segment.number(*id) != *expected {
                    return Ok(Answer::Flag(false));
                }
                if *new == NULL_ATTRIBUTE {
                    segment.numbers.remove(id);
                } else {
                    segment.numbers.insert(*id, *new);
                }
                Ok(Answer::Flag(true))
            }
            Operation::TableUpdate(..) if !segment.table => unsupported("updateTableEntries"),
            Operation::TableRemove(..) if !segment.table => unsupported("removeTableKeys"),
            Operation::TableUpdate(_, Some(given)) | Operation::TableRemove(_, Some(given))
                if u64::try_from(*given) != Ok(length.0) =>
            {
                bad_offset(*given)
            }
            Operation::TableUpdate(entries, _) => {
                for entry in entries {
                    segment.check(name, &entry.key)?;
                }
                let mut versions = Vec::new();
                for entry in entries {
                    let version = i64::try_from(segment.length).expect("tests use small numbers");
                    versions.push(version);
                    let (key, value) = (entry.key.key.clone(), entry.value.0.clone());
                    segment.length += 17 + (key.len() + value.len()) as u64;
                    segment.entries.insert(key, (version, value));
                }
                Ok(Answer::Versions(versions))
            }
            Operation::TableRemove(keys, _) => {
                for key in keys {
                    segment.check(name, key)?;
                }
                for key in keys {
                    if segment.entries.remove(&key.key).is_some() && segment.key_length == 0 {
                        segment.length += 17 + key.key.len() as u64;
                    }
                }
                Ok(Answer::Nothing)
            }
        }
    }
}

impl Model {
    /// Works on a copy and keeps it only if all of it went well.
    fn merge(
        &mut self,
        name: &Arc<str>,
        sources: &[Arc<str>],
        updates: &[AttributeUpdate],
        lenient: bool,
    ) -> Result<Answer, Error> {
        let missing = |name: &Arc<str>| Error::NoSuchSegment(name.clone());
        let unsupported = |name: &Arc<str>| Error::Unsupported {
            segment: name.clone(),
            operation: "mergeSegments",
        };
        let mut after = self.clone();
        let mut target = after.0.remove(name).ok_or_else(|| missing(name))?;
        if target.table {
            return Err(unsupported(name));
        }
        let (mut moved, mut unknown) = (0, false);
        let mut offsets = Vec::new();
        for source in sources {
            if source == name {
                let what = format!("a merge of segment {name} into itself");
                return Err(Error::InvalidArgument(what));
            }
            match after.0.get(source) {
                Some(other) if other.table => return Err(unsupported(source)),
                Some(other) if other.start > 0 => {
                    let what = format!("segment {source} is truncated, so it can't be merged");
                    return Err(Error::InvalidArgument(what));
                }
                Some(_) => {
                    let other = after.0.remove(source).expect("just found");
                    target.bytes.extend_from_slice(&other.bytes);
                    let events = match other.number(AttributeId::EVENT_COUNT) {
                        _ if sarit_proto::names::is_transient(source) => 1,
                        NULL_ATTRIBUTE => 0,
                        events => events,
                    };
                    let count = target.numbers.entry(AttributeId::EVENT_COUNT).or_default();
                    *count += events;
                    target.merged.insert(source.clone());
                    moved += 1;
                }
                None if target.merged.contains(source) => {}
                None if lenient => unknown = true,
                None => return Err(missing(source)),
            }
            offsets.push(Offset(target.length()));
        }
        if target.sealed && (moved > 0 || unknown) {
            return Err(Error::SegmentSealed(name.clone()));
        }
        if moved == 0 {
            return Ok(Answer::Offsets(offsets));
        }
        for update in updates {
            let is = target.number(update.id);
            if update.expected.is_some_and(|expected| expected != is) {
                return Err(Error::AttributeMismatch(name.clone()));
            }
            if update.value == NULL_ATTRIBUTE {
                target.numbers.remove(&update.id);
            } else {
                target.numbers.insert(update.id, update.value);
            }
        }
        after.0.insert(name.clone(), target);
        *self = after;
        Ok(Answer::Offsets(offsets))
    }
}

impl Segment {
    fn check(&self, name: &Arc<str>, key: &TableKey) -> Result<(), Error> {
        let there = self.entries.get(&key.key).map(|(version, _)| *version);
        let (all, bytes) = (usize::from(self.key_length), key.key.len());
        if all > 0 && bytes != all {
            let what = format!("a key of {bytes} bytes for a table with keys of {all} bytes");
            return Err(Error::InvalidArgument(what));
        }
        match (key.version, there) {
            (TableKey::NO_VERSION, _) | (TableKey::NOT_EXISTS, None) => Ok(()),
            (_, None) if all > 0 => Err(Error::KeyBadVersion(name.clone())),
            (_, None) => Err(Error::KeyDoesNotExist(name.clone())),
            (version, Some(there)) if version == there => Ok(()),
            (_, Some(_)) => Err(Error::KeyBadVersion(name.clone())),
        }
    }
}
