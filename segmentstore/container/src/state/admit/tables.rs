//! The same for tables: versions are compared with the table as the batch finds it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sarit_proto::wire::field::{TableEntry, TableKey};

use super::{Head, LENGTH_MAX, Made, Speculation, bad_offset, unsupported};
use crate::operation::{Change, Changes, Operation};
use crate::state::{Sid, State};
use crate::{Error, Kind};

/// Longest key of a table.
const KEY_BYTES_MAX: usize = 8192;

impl Speculation {
    /// Sets entries of a table, all or none, and returns the version of each.
    ///
    /// Versions are compared with the table before the batch; a key may appear more than once, and
    /// the last one stays.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::Unsupported`] for a stream, [`Error::BadOffset`],
    /// [`Error::KeyDoesNotExist`], [`Error::KeyBadVersion`], [`Error::InvalidArgument`].
    pub(crate) fn table_update(
        &mut self,
        state: &State,
        name: &Arc<str>,
        entries: &[TableEntry],
        expected_length: Option<i64>,
        out: &mut BytesMut,
    ) -> Result<Vec<i64>, Error> {
        let (sid, head) = self.table(state, name, expected_length, "updateTableEntries")?;
        for entry in entries {
            check_key(head, &entry.key.key)?;
            self.check_version(state, name, (sid, head), &entry.key)?;
        }
        let changes = entries
            .iter()
            .map(|entry| (&entry.key.key, Some(&entry.value.0)));
        self.change_table(state, name, sid, head, changes, out)
    }

    /// Removes keys of a table, all or none. Removing an absent key succeeds and writes nothing.
    ///
    /// # Errors
    /// As [`Self::table_update`].
    pub(crate) fn table_remove(
        &mut self,
        state: &State,
        name: &Arc<str>,
        keys: &[TableKey],
        expected_length: Option<i64>,
        out: &mut BytesMut,
    ) -> Result<(), Error> {
        let (sid, head) = self.table(state, name, expected_length, "removeTableKeys")?;
        for key in keys {
            check_key(head, &key.key)?;
            self.check_version(state, name, (sid, head), key)?;
        }
        let mut there: Vec<_> = keys.iter().map(|key| &key.key).collect();
        there.sort_unstable();
        there.dedup();
        there.retain(|key| self.version(state, sid, key).is_some());
        let changes = there.into_iter().map(|key| (key, None));
        self.change_table(state, name, sid, head, changes, out)?;
        Ok(())
    }

    fn change_table<'a>(
        &mut self,
        state: &State,
        name: &Arc<str>,
        sid: Sid,
        mut head: Head,
        changes: impl Iterator<Item = (&'a Bytes, Option<&'a Bytes>)> + Clone,
        out: &mut BytesMut,
    ) -> Result<Vec<i64>, Error> {
        let as_change = |(key, value): (&'a Bytes, Option<&'a Bytes>)| Change {
            key,
            value: value.map(|value| &value[..]),
        };
        let fixed = key_length(head) > 0;
        let sizes = changes.clone().map(|change| as_change(change).size(fixed));
        let grows: u64 = sizes.sum();
        if LENGTH_MAX - head.length < grows {
            return Err(Error::InvalidArgument(format!("table {name} is full")));
        }
        self.check_size(
            changes
                .clone()
                .map(|change| as_change(change).encoded_len())
                .sum(),
        )?;
        let base = head.length;
        let (mut raw, mut count) = (BytesMut::new(), 0);
        let mut versions = Vec::new();
        let seq = self.next_seq;
        for (key, value) in changes {
            let change = as_change((key, value));
            let there = self.version(state, sid, key).is_some();
            let (was, is) = (u64::from(there), u64::from(value.is_some()));
            head.entries = head.entries + is - was;
            let version = value.is_some().then_some(head.length);
            let made = Made {
                by: seq,
                value: version,
            };
            self.keys.insert((sid, key.clone()), made);
            versions.push(i64::try_from(head.length).expect("bounded above"));
            head.length += change.size(fixed);
            change.encode(&mut raw);
            count += 1;
        }
        if count > 0 {
            self.advance();
            self.put(sid, head, seq);
            let changes = Changes::new(&raw, count);
            Operation::TableUpdate { sid, base, changes }.encode(out);
        }
        Ok(versions)
    }

    fn table(
        &self,
        state: &State,
        name: &Arc<str>,
        expected_length: Option<i64>,
        operation: &'static str,
    ) -> Result<(Sid, Head), Error> {
        let (sid, head) = self.find(state, name)?;
        if matches!(head.kind, Kind::Stream) {
            return Err(unsupported(name, operation));
        }
        match expected_length {
            Some(given) if u64::try_from(given) != Ok(head.length) => {
                Err(bad_offset(name, head, given))
            }
            _ => Ok((sid, head)),
        }
    }

    fn check_version(
        &self,
        state: &State,
        name: &Arc<str>,
        (sid, head): (Sid, Head),
        key: &TableKey,
    ) -> Result<(), Error> {
        match (key.version, self.version(state, sid, &key.key)) {
            (TableKey::NO_VERSION, _) | (TableKey::NOT_EXISTS, None) => Ok(()),
            // Source: observed on the official server.
            (_, None) if key_length(head) > 0 => Err(Error::KeyBadVersion(name.clone())),
            (_, None) => Err(Error::KeyDoesNotExist(name.clone())),
            (given, Some(is)) if u64::try_from(given) == Ok(is) => Ok(()),
            (_, Some(_)) => Err(Error::KeyBadVersion(name.clone())),
        }
    }

    fn version(&self, state: &State, sid: Sid, key: &Bytes) -> Option<u64> {
        match self.keys.get(&(sid, key.clone())) {
            Some(made) => made.value,
            None => state.segment(sid)?.table.as_ref()?.version(key),
        }
    }
}

/// Returns the length that all keys have, 0 for any.
fn key_length(head: Head) -> usize {
    match head.kind {
        Kind::Table { key_length } => usize::from(key_length),
        Kind::Stream => 0,
    }
}

fn check_key(head: Head, key: &Bytes) -> Result<(), Error> {
    let all = key_length(head);
    if all > 0 && key.len() != all {
        let bytes = key.len();
        let what = format!("a key of {bytes} bytes for a table with keys of {all} bytes");
        return Err(Error::InvalidArgument(what));
    }
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "a table key of {} bytes, it must have 1 to {KEY_BYTES_MAX}",
        key.len()
    )))
}
