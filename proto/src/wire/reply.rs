//! What a server answers.

use bytes::Bytes;

use super::codec::{Encoder, RawFrame};
use super::command::frames;
use super::field::{Field, FieldError, MergedSource, StorageChunk, TableEntry, TableKey, get_or};
use super::{Error, HEADER, PAYLOAD_MAX};
use crate::ids::WriterId;

frames! {
    /// A frame from a server. Every field is always written: the Rust client rejects short payloads.
    pub enum Reply {
        /// Versions the server can speak; answered before anything else.
        Hello = -127 { /** Highest. */ high_version: i32, /** Lowest. */ low_version: i32 }
        /// Echo.
        KeepAlive = 100 {}
        /// The writer's last durable event number, `i64::MIN` for a new one.
        AppendSetup = 2 { request_id: i64, segment: String, writer_id: WriterId, last_event_number: i64 }
        /// Everything up to `event_number` is durable.
        DataAppended = 7 {
            writer_id: WriterId,
            event_number: i64,
            previous_event_number: i64 = -1,
            request_id: i64 = -1,
            current_segment_write_offset: i64 = -1,
        }
        /// The segment's length was not the expected one.
        ConditionalCheckFailed = 8 { writer_id: WriterId, event_number: i64, request_id: i64 = -1 }
        /// Bytes from `offset`, which is the request's.
        SegmentRead = 10 {
            segment: String,
            offset: i64,
            at_tail: bool,
            end_of_segment: bool,
            data: Bytes,
            request_id: i64 = -1,
        }
        /// A segment's state.
        StreamSegmentInfo = 12 {
            request_id: i64,
            segment: String,
            exists: bool,
            is_sealed: bool,
            is_deleted: bool,
            last_modified: i64,
            write_offset: i64,
            start_offset: i64 = 0,
        }
        /// An attribute's value, `i64::MIN` if never set.
        SegmentAttribute = 35 { request_id: i64, value: i64 }
        /// Whether the attribute had the expected value and was set.
        SegmentAttributeUpdated = 37 { request_id: i64, success: bool }
        /// Answer to `LocateOffset`.
        OffsetLocated = 42 { request_id: i64, segment: String, offset: i64 }
        /// Done.
        SegmentCreated = 21 { request_id: i64, segment: String }
        /// Done.
        SegmentSealed = 29 { request_id: i64, segment: String }
        /// Done.
        SegmentTruncated = 39 { request_id: i64, segment: String }
        /// Done.
        SegmentDeleted = 31 { request_id: i64, segment: String }
        /// Done.
        SegmentPolicyUpdated = 33 { request_id: i64, segment: String }
        /// Done; the source is gone.
        SegmentsMerged = 59 { request_id: i64, target: String, source: String, new_target_write_offset: i64 = -1 }
        /// Done, with the target's length after each source.
        SegmentsBatchMerged = 91 { request_id: i64, target: String, merged: Vec<MergedSource> }
        /// A table segment's numbers.
        TableSegmentInfo = 69 {
            request_id: i64,
            segment: String,
            start_offset: i64,
            length: i64,
            entry_count: i64,
            key_length: i32,
        }
        /// The new versions, in the order of the request.
        TableEntriesUpdated = 75 { request_id: i64, versions: Vec<i64> }
        /// Done.
        TableKeysRemoved = 77 { request_id: i64, segment: String }
        /// One entry per key asked for, in that order; a missing one has version −1.
        TableRead = 79 { request_id: i64, segment: String, entries: Vec<TableEntry> }
        /// A page of keys; none at the end.
        TableKeysRead = 84 { request_id: i64, segment: String, keys: Vec<TableKey>, continuation_token: Bytes }
        /// A page of entries; none at the end.
        TableEntriesRead = 86 { request_id: i64, segment: String, entries: Vec<TableEntry>, continuation_token: Bytes }
        /// What changed since the position asked for.
        TableEntriesDeltaRead = 87 {
            request_id: i64,
            segment: String,
            entries: Vec<TableEntry>,
            should_clear: bool,
            reached_end: bool,
            last_position: i64,
        }
        /// Admin gateway only.
        StorageFlushed = -4 { request_id: i64 }
        /// Admin gateway only.
        StorageChunksListed = -6 { request_id: i64, chunks: Vec<StorageChunk> }
        /// Not this server's segment: ask the controller again.
        WrongHost = 50 { request_id: i64, segment: String, correct_host: String, stack_trace: String = String::new() }
        /// No more appends.
        SegmentIsSealed = 51 { request_id: i64, segment: String, stack_trace: String = String::new(), offset: i64 = -1 }
        /// It exists already.
        SegmentAlreadyExists = 52 { request_id: i64, segment: String, stack_trace: String = String::new() }
        /// No such segment.
        NoSuchSegment = 53 { request_id: i64, segment: String, stack_trace: String = String::new(), offset: i64 = -1 }
        /// An event number went backwards.
        InvalidEventNumber = 55 {
            writer_id: WriterId,
            request_id: i64,
            stack_trace: String = String::new(),
            event_number: i64 = -1,
        }
        /// The offset is outside of what is there.
        SegmentIsTruncated = 56 {
            request_id: i64,
            segment: String,
            start_offset: i64,
            stack_trace: String = String::new(),
            offset: i64 = -1,
        }
        /// Not for this segment, or not built.
        OperationUnsupported = 57 { request_id: i64, operation: String, stack_trace: String = String::new() }
        /// The token does not allow it: −1 unspecified, 0 refused, 1 expired.
        AuthTokenCheckFailed = 60 { request_id: i64, stack_trace: String = String::new(), error_code: i32 = -1 }
        /// Anything else: −1 unspecified, 0 illegal argument.
        ErrorMessage = 61 { request_id: i64, segment: String, message: String, error_code: i32 }
        /// It still has entries.
        TableSegmentNotEmpty = 80 { request_id: i64, segment: String, stack_trace: String }
        /// A version was given for a key that is not there.
        TableKeyDoesNotExist = 81 { request_id: i64, segment: String, stack_trace: String }
        /// The key has another version.
        TableKeyBadVersion = 82 { request_id: i64, segment: String, stack_trace: String }
    }
}
