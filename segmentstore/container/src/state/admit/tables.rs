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
            check_key(&entry.key.key)?;
            self.check_version(state, name, sid, &entry.key)?;
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
            check_key(&key.key)?;
            self.check_version(state, name, sid, key)?;
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
        let grows: u64 = changes.clone().map(|change| as_change(change).size()).sum();
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
            head.length += change.size();
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
        sid: Sid,
        key: &TableKey,
    ) -> Result<(), Error> {
        match (key.version, self.version(state, sid, &key.key)) {
            (TableKey::NO_VERSION, _) | (TableKey::NOT_EXISTS, None) => Ok(()),
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

fn check_key(key: &Bytes) -> Result<(), Error> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "a table key of {} bytes, it must have 1 to {KEY_BYTES_MAX}",
        key.len()
    )))
}
