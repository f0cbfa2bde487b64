//! The same for merges: a repeated one is no refusal, and nothing is written for it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::BytesMut;
use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE, Offset};
use sarit_proto::names;

use super::{Head, LENGTH_MAX, Made, Speculation, unsupported};
use crate::operation::{
    ATTRIBUTE, Attributes, Operation, SOURCE, Source, Sources, encode_attributes,
};
use crate::state::{Sid, State, source_hash};
use crate::{AttributeUpdate, Error, Kind};

/// Most sources of one merge.
const SOURCES_MAX: usize = 10_000;
/// Most attributes set with a merge.
const UPDATES_MAX: usize = 256;

/// Refuses a merge of more sources than are possible.
///
/// # Errors
/// [`Error::InvalidArgument`].
pub(crate) fn check_sources(count: usize) -> Result<(), Error> {
    bounded(count, SOURCES_MAX, "sources")
}

fn bounded(count: usize, max: usize, what: &str) -> Result<(), Error> {
    if count <= max {
        return Ok(());
    }
    let what = format!("a merge with {count} {what}, at most {max} are possible");
    Err(Error::InvalidArgument(what))
}

/// A source that is there, and how the operations so far will leave it.
struct Found<'a> {
    name: &'a Arc<str>,
    sid: Sid,
    head: Head,
}

impl Speculation {
    /// Makes segments the end of another one and deletes them, all or none. Returns the target's
    /// length behind each.
    ///
    /// A source that was merged into this target within the last day counts as done, whatever became
    /// of the target since. With `lenient` one that is not there does too.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`] of the target, or of a source unless `lenient`;
    /// [`Error::SegmentSealed`] of the target; [`Error::AttributeMismatch`];
    /// [`Error::InvalidArgument`], [`Error::Unsupported`] for a table.
    pub(crate) fn merge(
        &mut self,
        state: &State,
        name: &Arc<str>,
        sources: &[Arc<str>],
        updates: &[AttributeUpdate],
        lenient: bool,
        out: &mut BytesMut,
    ) -> Result<Vec<Offset>, Error> {
        let (sid, mut head) = self.find(state, name)?;
        if matches!(head.kind, Kind::Table { .. }) {
            return Err(unsupported(name, "mergeSegments"));
        }
        let bounds = [
            (sources.len(), SOURCES_MAX, "sources"),
            (updates.len(), UPDATES_MAX, "attributes"),
        ];
        for (count, max, what) in bounds {
            bounded(count, max, what)?;
        }
        let (base, mut open_end) = (head.length, false);
        let mut found: Vec<Found<'_>> = Vec::new();
        let mut known = HashSet::with_hasher(state.hasher());
        let mut lengths = Vec::with_capacity(sources.len());
        for source in sources {
            match self.find(state, source) {
                Ok((other, _)) if known.contains(&other) => {}
                Ok((other, from)) => {
                    check_source(sid, other, source, from)?;
                    if LENGTH_MAX - head.length < from.length {
                        return Err(Error::InvalidArgument(format!("segment {name} is full")));
                    }
                    head.length += from.length;
                    known.insert(other);
                    found.push(Found {
                        name: source,
                        sid: other,
                        head: from,
                    });
                }
                Err(_) if self.was_merged(state, sid, source) => {}
                Err(_) if lenient => open_end = true,
                Err(error) => return Err(error),
            }
            lengths.push(Offset(head.length));
        }
        if head.sealed && (open_end || !found.is_empty()) {
            return Err(Error::SegmentSealed(name.clone()));
        }
        if found.is_empty() {
            return Ok(lengths);
        }
        let values = self.check_updates(state, name, sid, updates)?;
        self.check_size(found.len() * SOURCE + values.len() * ATTRIBUTE)?;
        self.write_merge(sid, base, head, &found, &values, out);
        Ok(lengths)
    }

    fn write_merge(
        &mut self,
        sid: Sid,
        base: u64,
        head: Head,
        found: &[Found<'_>],
        values: &[(AttributeId, i64)],
        out: &mut BytesMut,
    ) {
        let seq = self.advance();
        let (mut sources, mut attributes) = (BytesMut::new(), BytesMut::new());
        for source in found {
            Source {
                sid: source.sid,
                length: source.head.length,
                one_event: names::is_transient(source.name),
            }
            .encode(&mut sources);
            if cfg!(planted = "merge_twice") {
                continue;
            }
            let deleted = Head {
                deleted: true,
                ..source.head
            };
            self.put(source.sid, deleted, seq);
            self.name(source.name, None, seq);
            self.merged.insert((sid, source_hash(source.name)), seq);
        }
        encode_attributes(&mut attributes, values.iter().copied());
        for &(id, value) in values {
            self.numbers.insert((sid, id), Made { by: seq, value });
        }
        self.put(sid, head, seq);
        Operation::Merge {
            sid,
            base,
            attributes: Attributes::new(&attributes),
            sources: Sources::new(&sources),
        }
        .encode(out);
    }

    /// Returns the values after the updates, each attribute once, if all conditions hold.
    fn check_updates(
        &self,
        state: &State,
        name: &Arc<str>,
        sid: Sid,
        updates: &[AttributeUpdate],
    ) -> Result<Vec<(AttributeId, i64)>, Error> {
        let mut values: Vec<(AttributeId, i64)> = Vec::with_capacity(updates.len());
        for update in updates {
            let at = values.iter().position(|(id, _)| *id == update.id);
            let is = match at {
                Some(at) => values[at].1,
                None => self.number(state, sid, update.id),
            };
            // Core attributes come with the segment; the official server refuses to add one.
            let added = update.id.is_core() && is == NULL_ATTRIBUTE;
            if added || update.expected.is_some_and(|expected| expected != is) {
                return Err(Error::AttributeMismatch(name.clone()));
            }
            match at {
                Some(at) => values[at].1 = update.value,
                None => values.push((update.id, update.value)),
            }
        }
        Ok(values)
    }

    fn was_merged(&self, state: &State, sid: Sid, source: &str) -> bool {
        let merge = (sid, source_hash(source));
        self.merged.contains_key(&merge) || state.merged.contains(merge)
    }

    /// Forgets what a durable merge into `target` did to a source's name.
    pub(crate) fn retire_source(&mut self, target: Sid, name: &str, last_seq: u64) {
        self.retire_name(name, last_seq);
        let merge = (target, source_hash(name));
        if self.merged.get(&merge).is_some_and(|by| *by <= last_seq) {
            self.merged.remove(&merge);
        }
    }
}

fn check_source(target: Sid, sid: Sid, name: &Arc<str>, head: Head) -> Result<(), Error> {
    if matches!(head.kind, Kind::Table { .. }) {
        return Err(unsupported(name, "mergeSegments"));
    }
    if sid == target {
        let what = format!("a merge of segment {name} into itself");
        return Err(Error::InvalidArgument(what));
    }
    if head.start > 0 {
        let what = format!("segment {name} is truncated, so it can't be merged");
        return Err(Error::InvalidArgument(what));
    }
    Ok(())
}
