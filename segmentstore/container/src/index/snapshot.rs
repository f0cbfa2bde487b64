//! The whole state of a container as sorted keys and values.
//!
//! Equal states have equal snapshots, whatever way they came about: by live traffic, by replay, or by
//! another snapshot.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use super::keys::Owner;
use super::{Index, entries, keys};
use crate::Error;
use crate::state::State;

/// A whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<Bytes, Bytes>);

impl Snapshot {
    /// Dumps a state.
    pub(crate) fn of(state: &State) -> Self {
        let mut snapshot = Self::default();
        snapshot.put(keys::container(), state.applied().value());
        for (sid, segment) in state.segments() {
            entries::entries(sid, segment, &mut |key, value| snapshot.put(key, value));
        }
        for (id, used) in state.usage.packs() {
            snapshot.put(keys::pack(*id), entries::pack_value(*used));
        }
        for ((target, source), at) in state.merged.iter() {
            snapshot.put(keys::merged(target, source), entries::number_value(at));
        }
        snapshot
    }

    /// Reads all that an index has.
    pub(crate) async fn read(index: &dyn Index) -> Result<Self, Error> {
        let mut snapshot = Self::default();
        let everything = Bytes::new()..Bytes::from_static(&[0xff]);
        let copy = |key, value| {
            snapshot.put(key, value);
            Ok(())
        };
        entries::each(index, everything, copy).await?;
        Ok(snapshot)
    }

    /// Replaces what the index has by what the state has, of all that is in memory or gone.
    pub(crate) fn with(mut self, state: &State) -> Self {
        self.0.retain(|key, _| match keys::owner(key) {
            Owner::Container => false,
            Owner::Name(name) => !state.knows(name),
            Owner::Segment(sid) => state.segment(sid).is_none() && !state.dirty.is_gone(sid),
        });
        self.0.append(&mut Self::of(state).0);
        self
    }

    /// Returns a number that equal states share and different ones do not, but for chance. Not for
    /// storing: another release may compute it differently.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for entry in &self.0 {
            entry.hash(&mut hasher);
        }
        hasher.finish()
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.0.insert(key, value);
    }
}
