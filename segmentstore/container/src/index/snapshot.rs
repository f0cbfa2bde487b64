//! The whole state of a container as sorted keys and values.
//!
//! Equal states have equal snapshots, whatever way they came about: by live traffic, by replay, or by
//! another snapshot.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::{BufMut, Bytes, BytesMut};

use super::keys;
use crate::Kind;
use crate::state::State;

/// A whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<Bytes, Bytes>);

impl Snapshot {
    /// Dumps a state.
    pub(crate) fn of(state: &State) -> Self {
        let mut snapshot = Self::default();
        snapshot.put(keys::container(), |out| {
            out.put_u64_le(state.next_seq);
            out.put_u64_le(state.next_sid.0);
        });
        for (sid, segment) in state.segments() {
            snapshot.put(keys::name(&segment.name), |out| out.put_u64_le(sid.0));
            snapshot.put(keys::segment(sid), |out| {
                let (kind, key_length) = match segment.kind {
                    Kind::Stream => (0, 0),
                    Kind::Table { key_length } => (1, key_length),
                };
                out.put_u64_le(segment.start);
                out.put_u64_le(segment.length);
                out.put_i64_le(segment.modified_ms);
                out.put_i64_le(segment.events);
                out.put_u8(kind);
                out.put_u8(u8::from(segment.sealed));
                out.put_u16_le(key_length);
            });
            for extent in &segment.extents {
                snapshot.put(keys::extent(sid, extent.offset), |out| {
                    out.put_u64_le(extent.place.to_bits());
                    out.put_u32_le(extent.position);
                    out.put_u32_le(extent.length);
                });
            }
            for (id, value) in segment.numbers.iter() {
                snapshot.put(keys::attribute(sid, id), |out| out.put_i64_le(value));
            }
            let entries = segment.table.iter().flat_map(|table| table.iter());
            for (key, version, value) in entries {
                snapshot.put(keys::table_entry(sid, key), |out| {
                    out.put_u64_le(version);
                    out.put_slice(value);
                });
            }
        }
        for (id, used) in state.usage.packs() {
            snapshot.put(keys::pack(*id), |out| {
                out.put_u64_le(used.live);
                out.put_u64_le(used.size);
            });
        }
        snapshot
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

    fn put(&mut self, key: Bytes, value: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        value(&mut out);
        self.0.insert(key, out.freeze());
    }
}
