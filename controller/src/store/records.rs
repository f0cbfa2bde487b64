//! What the values are: a version byte, then a protobuf message. Layout: `docs/formats/records.md`.
//!
//! Fields are only ever added; a change of meaning takes a new version byte. A byte we do not know is
//! an error, never a guess. Integrity is the store's matter: each has checksums of its own.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use sarit_proto::controller::{KeyValueTableConfig, ReaderGroupConfiguration, StreamConfig};

/// The version byte of everything written today.
const VERSION: u8 = 1;

/// A value that is not what its key says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata record {key}: {reason}")]
pub(crate) struct Damaged {
    pub(crate) key: String,
    pub(crate) reason: String,
}

impl Damaged {
    pub(crate) fn new(key: &str, reason: impl ToString) -> Self {
        Self {
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }
}

pub(crate) fn encode(record: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + record.encoded_len());
    bytes.put_u8(VERSION);
    record.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

pub(crate) fn decode<R: Message + Default>(key: &str, value: &Bytes) -> Result<R, Damaged> {
    match value.first() {
        Some(&VERSION) => R::decode(value.slice(1..)).map_err(|error| Damaged::new(key, error)),
        Some(version) => Err(Damaged::new(key, format!("version {version} is unknown"))),
        None => Err(Damaged::new(key, "empty")),
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Scope {
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub(crate) created_ms: i64,
    /// While it is being deleted with all that is in it: names the work row. 32 hex digits, else empty.
    #[prost(string, tag = "2")]
    pub(crate) deletion: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Name {
    /// 32 hex digits.
    #[prost(string, tag = "1")]
    pub(crate) stream_id: String,
    /// Whether clients may see it: not while it is being created or deleted.
    #[prost(bool, tag = "2")]
    pub(crate) visible: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Deleted {
    #[prost(int32, tag = "1")]
    pub(crate) next_number: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Config {
    /// As clients gave it, normalized; names the stream.
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<StreamConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StreamState {
    #[prost(enumeration = "State", tag = "1")]
    pub(crate) state: i32,
    #[prost(int32, tag = "2")]
    pub(crate) active_epoch: i32,
    /// The epoch whose segments the active one repeats.
    #[prost(int32, tag = "3")]
    pub(crate) reference_epoch: i32,
    #[prost(int64, tag = "4")]
    pub(crate) created_ms: i64,
    /// The lowest segment number never used; 0 before the first scaling: look at the epochs.
    #[prost(int32, tag = "5")]
    pub(crate) next_number: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum State {
    Unknown = 0,
    Creating = 1,
    Active = 2,
    Sealing = 3,
    Sealed = 4,
    Deleting = 5,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Truncation {
    /// Segment id to offset.
    #[prost(btree_map = "int64, int64", tag = "1")]
    pub(crate) cut: BTreeMap<i64, i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EpochRecord {
    #[prost(int32, tag = "1")]
    pub(crate) reference: i32,
    #[prost(int64, tag = "2")]
    pub(crate) created_ms: i64,
    /// The segments that begin with it.
    #[prost(message, repeated, tag = "3")]
    pub(crate) added: Vec<SegmentRecord>,
    /// The segments that end with it.
    #[prost(message, repeated, tag = "4")]
    pub(crate) sealed: Vec<SegmentRecord>,
}

/// All segments of the active epoch; there from the first scaling on.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ActiveEpoch {
    #[prost(int32, tag = "1")]
    pub(crate) number: i32,
    #[prost(int32, tag = "2")]
    pub(crate) reference: i32,
    #[prost(int64, tag = "3")]
    pub(crate) created_ms: i64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) segments: Vec<SegmentRecord>,
}

/// An epoch that is about to begin.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NextEpoch {
    #[prost(int32, tag = "1")]
    pub(crate) number: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) epoch: Option<EpochRecord>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct SegmentRecord {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    #[prost(double, tag = "2")]
    pub(crate) start: f64,
    #[prost(double, tag = "3")]
    pub(crate) end: f64,
}

/// An unfinished task: what it needs beyond the stream's own records.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Work {
    #[prost(string, tag = "1")]
    pub(crate) scope: String,
    #[prost(string, tag = "2")]
    pub(crate) stream: String,
    #[prost(oneof = "Job", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19")]
    pub(crate) job: Option<Job>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Job {
    /// Make the segments, then show the stream.
    #[prost(message, tag = "10")]
    Create(CreateJob),
    /// Tell the segments their policy, then replace the configuration.
    #[prost(message, tag = "11")]
    Update(UpdateJob),
    /// Seal the active segments.
    #[prost(message, tag = "12")]
    Seal(SealJob),
    /// Cut the segments' heads off as the truncation record says.
    #[prost(message, tag = "13")]
    Truncate(TruncateJob),
    /// Delete all segments, then the records.
    #[prost(message, tag = "14")]
    Delete(DeleteJob),
    /// Make the new segments, seal the old ones, then begin the new epoch.
    #[prost(message, tag = "15")]
    Scale(ScaleJob),
    /// Commit transactions begun in an earlier epoch, in two epochs of their own.
    #[prost(message, tag = "16")]
    Roll(RollJob),
    /// Make a table's segments, then show it.
    #[prost(message, tag = "17")]
    CreateTable(TableJob),
    /// Delete a table's segments, then its record.
    #[prost(message, tag = "18")]
    DeleteTable(TableJob),
    /// Delete all that is in a scope, then the scope.
    #[prost(message, tag = "19")]
    DeleteScope(DeleteScopeJob),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableJob {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteScopeJob {}

/// A key-value table.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Table {
    /// 32 hex digits; names its work row.
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// Whether clients may see it: not while it is being created or deleted.
    #[prost(bool, tag = "2")]
    pub(crate) visible: bool,
    /// As the client gave it.
    #[prost(message, optional, tag = "3")]
    pub(crate) config: Option<KeyValueTableConfig>,
    /// The number of its first segment: what was meant for a deleted table of its name never reaches it.
    #[prost(int32, tag = "4")]
    pub(crate) first_number: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RollJob {
    /// Duplicates of the segments that the transactions were written beside.
    #[prost(message, optional, tag = "1")]
    pub(crate) merged: Option<NextEpoch>,
    /// Duplicates of the segments that were active.
    #[prost(message, optional, tag = "2")]
    pub(crate) resumed: Option<NextEpoch>,
    /// The transactions, in the order of their commits.
    #[prost(message, repeated, tag = "3")]
    pub(crate) queue: Vec<Queued>,
    /// Whether the stream is being sealed, which goes on after this.
    #[prost(bool, tag = "4")]
    pub(crate) then_seal: bool,
}

/// A transaction that has not ended.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Transaction {
    #[prost(enumeration = "TransactionState", tag = "1")]
    pub(crate) state: i32,
    #[prost(string, tag = "2")]
    pub(crate) scope: String,
    #[prost(string, tag = "3")]
    pub(crate) stream: String,
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub(crate) created_ms: i64,
    /// When its life is over, however often its lease is renewed.
    #[prost(int64, tag = "5")]
    pub(crate) ends_ms: i64,
    /// The lease it began with, in milliseconds.
    #[prost(int64, tag = "6")]
    pub(crate) lease_ms: i64,
    /// Its place among the commits of its stream, once committing.
    #[prost(uint64, tag = "7")]
    pub(crate) order: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum TransactionState {
    Unknown = 0,
    Open = 1,
    Committing = 2,
    Aborting = 3,
}

/// A transaction to be committed.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Queued {
    #[prost(uint64, tag = "1")]
    pub(crate) order: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) high: u64,
    #[prost(fixed64, tag = "3")]
    pub(crate) low: u64,
    /// The time that its writer noted with the commit, and that writer.
    #[prost(sint64, optional, tag = "4")]
    pub(crate) time: Option<i64>,
    #[prost(string, tag = "5")]
    pub(crate) writer: String,
}

/// Where a stream's tail was.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RecordedCut {
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub(crate) at_ms: i64,
    /// Bytes of the stream before it, since its creation.
    #[prost(int64, tag = "2")]
    pub(crate) size: i64,
    #[prost(btree_map = "int64, int64", tag = "3")]
    pub(crate) cut: BTreeMap<i64, i64>,
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Ended {
    #[prost(bool, tag = "1")]
    pub(crate) committed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateJob {
    /// The configuration to be.
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<StreamConfig>,
    /// The scaling it asks for, if any.
    #[prost(message, optional, tag = "2")]
    pub(crate) scale: Option<ScaleJob>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ScaleJob {
    #[prost(message, optional, tag = "1")]
    pub(crate) next: Option<NextEpoch>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateJob {
    /// The stream of watermarks made with it, if it did not exist: 32 hex digits, else empty.
    #[prost(string, tag = "1")]
    pub(crate) mark_id: String,
    /// The reader group whose state it keeps, if it was made for one.
    #[prost(message, optional, tag = "2")]
    pub(crate) group: Option<ReaderGroup>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SealJob {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TruncateJob {
    /// The cut before: what lies behind it is deleted already. Empty if there was none.
    #[prost(btree_map = "int64, int64", tag = "1")]
    pub(crate) before: BTreeMap<i64, i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteJob {
    /// The stream of watermarks that goes with it: 32 hex digits, or empty.
    #[prost(string, tag = "1")]
    pub(crate) mark_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReaderGroup {
    /// As the client gave it, to be shown unchanged, but for the generation.
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<ReaderGroupConfiguration>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Subscriber {
    #[prost(string, tag = "1")]
    pub(crate) reader_group_id: String,
    /// What the group has published as read; empty at first.
    #[prost(btree_map = "int64, int64", tag = "2")]
    pub(crate) cut: BTreeMap<i64, i64>,
    /// The group's generation when it did: what it read before a reset says nothing about it after.
    #[prost(int64, tag = "3")]
    pub(crate) generation: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes written by version 1; they must be read for ever.
    #[test]
    fn golden_bytes_are_written_and_read() {
        let state = StreamState {
            state: State::Active as i32,
            active_epoch: 0,
            reference_epoch: 0,
            created_ms: 1_700_000_000_000,
            next_number: 0,
        };
        let golden = b"\x01\x08\x02\x20\x80\xd0\x95\xff\xbc\x31";
        assert_eq!(encode(&state), &golden[..]);
        assert_eq!(decode("k", &Bytes::from_static(golden)), Ok(state));
        let name = Name {
            stream_id: "00ff".to_owned(),
            visible: true,
        };
        let golden = b"\x01\x0a\x0400ff\x10\x01";
        assert_eq!(encode(&name), &golden[..]);
        assert_eq!(decode("k", &Bytes::from_static(golden)), Ok(name));
        let work = Work {
            scope: "s".to_owned(),
            stream: "t".to_owned(),
            job: Some(Job::Seal(SealJob {})),
        };
        let golden = b"\x01\x0a\x01s\x12\x01t\x62\x00";
        assert_eq!(encode(&work), &golden[..]);
        assert_eq!(decode("k", &Bytes::from_static(golden)), Ok(work));
        let work = Work {
            scope: "s".to_owned(),
            stream: "__all".to_owned(),
            job: Some(Job::DeleteScope(DeleteScopeJob {})),
        };
        let golden = b"\x01\x0a\x01s\x12\x05__all\x9a\x01\x00";
        assert_eq!(encode(&work), &golden[..]);
        assert_eq!(decode("k", &Bytes::from_static(golden)), Ok(work));
        let mut scope = Scope {
            created_ms: 5,
            deletion: String::new(),
        };
        // As it was written before a scope could be deleted with all that is in it.
        let golden = b"\x01\x08\x05";
        assert_eq!(encode(&scope), &golden[..]);
        assert_eq!(decode("k", &Bytes::from_static(golden)), Ok(scope.clone()));
        scope.deletion = "00ff".to_owned();
        let golden = b"\x01\x08\x05\x12\x0400ff";
        assert_eq!(encode(&scope), &golden[..]);
        assert_eq!(decode("k", &Bytes::from_static(golden)), Ok(scope));
        let mut subscriber = Subscriber {
            reader_group_id: "g".to_owned(),
            cut: BTreeMap::from([(1, 5)]),
            generation: 0,
        };
        // Also as it was written before there were generations.
        let golden = b"\x01\x0a\x01g\x12\x04\x08\x01\x10\x05";
        assert_eq!(encode(&subscriber), &golden[..]);
        assert_eq!(
            decode("k", &Bytes::from_static(golden)),
            Ok(subscriber.clone())
        );
        subscriber.generation = 2;
        let golden = b"\x01\x0a\x01g\x12\x04\x08\x01\x10\x05\x18\x02";
        assert_eq!(encode(&subscriber), &golden[..]);
        assert_eq!(decode("k", &Bytes::from_static(golden)), Ok(subscriber));
    }

    #[test]
    fn unknown_versions_and_cut_off_values_are_errors() {
        for value in [&b""[..], b"\x02", b"\x00\x08\x02", b"\x01\x0a\x7f"] {
            let value = Bytes::copy_from_slice(value);
            assert!(decode::<Name>("k", &value).is_err(), "{value:?}");
        }
    }
}
