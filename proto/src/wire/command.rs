//! What a client sends.

use bytes::Bytes;

use super::append::AppendData;
use super::codec::{Encoder, RawFrame};
use super::field::{
    AttributeUpdate, EventFrame, Field, FieldError, IteratorArgs, Rest, TableEntry, TableKey,
    get_or,
};
use super::{Error, HEADER, PAYLOAD_MAX};
use crate::ids::{AttributeId, WriterId};

/// Declares an enum of frames: `Name = code { field: type, optional: type = default }`.
///
/// Fields are listed in wire order. An optional one may be missing at the payload's end when read; it
/// is always written. Surplus bytes behind the last field are ignored.
macro_rules! frames {
    (
        $(#[$edoc:meta])* pub enum $enum:ident {
            $($(#[$doc:meta])* $name:ident = $code:literal {
                $($(#[$fdoc:meta])* $field:ident: $type:ty $(= $default:expr)?),* $(,)?
            })*
        }
    ) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            #[allow(missing_docs, reason = "the protocol's own field names, see docs/formats/wire.md")]
            pub struct $name { $($(#[$fdoc])* pub $field: $type),* }

            impl $name {
                fn decode(#[allow(unused_mut, unused_variables)] mut bytes: Bytes) -> Result<Self, FieldError> {
                    Ok(Self { $($field: frames!(@get bytes, $type $(, $default)?)),* })
                }
            }

            impl From<$name> for $enum {
                fn from(frame: $name) -> Self {
                    Self::$name(frame)
                }
            }
        )*

        $(#[$edoc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $enum {
            $($(#[$doc])* $name($name),)*
        }

        impl $enum {
            /// Reads a frame's payload. Payload bytes are shared, not copied.
            ///
            /// # Errors
            /// An unknown type, or a payload that does not hold the type's fields: close.
            pub fn decode(frame: RawFrame) -> Result<Self, Error> {
                match frame.code {
                    $($code => $name::decode(frame.payload).map(Self::$name).map_err(|error| match error {
                        FieldError::Short => Error::Short { command: stringify!($name) },
                        FieldError::Invalid(what) => Error::Invalid { command: stringify!($name), what },
                    }),)*
                    code => Err(Error::Unknown(code)),
                }
            }

            /// Writes the whole frame. Its payload must not be larger than [`PAYLOAD_MAX`]: the peer
            /// would close the connection. Where data decides, ask [`Self::encoded_len`] first.
            pub fn encode(&self, out: &mut Encoder) {
                match self {
                    $(Self::$name(frame) => {
                        let _ = frame;
                        ($code as i32).put(out);
                        let size: usize = 0 $(+ frame.$field.size())*;
                        debug_assert!(size <= PAYLOAD_MAX, "a payload of {size} bytes");
                        (size as i32).put(out);
                        $(frame.$field.put(out);)*
                    })*
                }
            }

            /// Returns the bytes of the whole frame.
            pub fn encoded_len(&self) -> usize {
                match self {
                    $(Self::$name(frame) => { let _ = frame; HEADER $(+ frame.$field.size())* })*
                }
            }

            #[cfg(test)]
            pub(crate) fn any() -> proptest::prelude::BoxedStrategy<Self> {
                use proptest::prelude::*;
                use super::tests::Sample;
                proptest::strategy::Union::new([$(
                    (Just(()), $(<$type>::sample(),)*)
                        .prop_map(|((), $($field,)*)| Self::$name($name { $($field),* }))
                        .boxed(),
                )*]).boxed()
            }

            /// Every type of frame.
            #[cfg(test)]
            pub(crate) const CODES: &[i32] = &[$($code),*];

            /// Returns the frame's name in the protocol.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }
    };
    (@get $bytes:ident, $type:ty) => { <$type>::get(&mut $bytes)? };
    (@get $bytes:ident, $type:ty, $default:expr) => { get_or::<$type>(&mut $bytes, $default)? };
}
pub(super) use frames;

frames! {
    /// A frame from a client.
    pub enum Command {
        /// The first frame: versions this side can speak.
        Hello = -127 { /** Highest. */ high_version: i32, /** Lowest. */ low_version: i32 }
        /// Are you there? Answered with the same.
        KeepAlive = 100 {}
        /// To be ignored outside an append block.
        Padding = -1 { /** Zeros. */ padding: Rest }
        /// Binds a writer to a segment and asks for its last event number.
        SetupAppend = 1 { request_id: i64, writer_id: WriterId, segment: String, token: String }
        /// The first part of an append: events, and at its end perhaps a `Padding` or `PartialEvent` frame.
        AppendBlock = 3 { writer_id: WriterId, data: Rest }
        /// The second part, or the whole of one.
        AppendBlockEnd = 4 {
            writer_id: WriterId,
            size_of_whole_events: i32,
            data: AppendData,
            num_events: i32,
            last_event_number: i64,
            request_id: i64 = -1,
        }
        /// One event, stored with its header if the segment's length is `expected_offset`.
        ConditionalAppend = 5 {
            writer_id: WriterId,
            event_number: i64,
            expected_offset: i64,
            event: EventFrame,
            request_id: i64 = -1,
        }
        /// Raw bytes, stored if the segment's length is `expected_offset`.
        ConditionalBlockEnd = 89 {
            writer_id: WriterId,
            event_number: i64,
            expected_offset: i64,
            data: Bytes,
            request_id: i64,
        }
        /// Reads up to `suggested_length` bytes from `offset`.
        ReadSegment = 9 { segment: String, offset: i64, suggested_length: i32, token: String, request_id: i64 = -1 }
        /// Asks for length, start and flags.
        GetStreamSegmentInfo = 11 { request_id: i64, segment: String, token: String }
        /// Reads an attribute.
        GetSegmentAttribute = 34 { request_id: i64, segment: String, attribute_id: AttributeId, token: String }
        /// Sets an attribute if it has the expected value.
        UpdateSegmentAttribute = 36 {
            request_id: i64,
            segment: String,
            attribute_id: AttributeId,
            new_value: i64,
            expected_value: i64,
            token: String,
        }
        /// Asks for the event boundary at or behind an offset (version 17).
        LocateOffset = 41 { request_id: i64, segment: String, target_offset: i64, token: String }
        /// Creates a segment.
        CreateSegment = 20 {
            request_id: i64,
            segment: String,
            target_rate: i32,
            scale_type: u8,
            token: String,
            rollover_size: i64 = 0,
        }
        /// Creates a segment that dies with the connection.
        CreateTransientSegment = 40 { request_id: i64, writer_id: WriterId, parent: String, token: String }
        /// Ends a segment.
        SealSegment = 28 { request_id: i64, segment: String, token: String }
        /// Drops everything below an offset.
        TruncateSegment = 38 { request_id: i64, segment: String, truncation_offset: i64, token: String }
        /// Deletes a segment.
        DeleteSegment = 30 { request_id: i64, segment: String, token: String }
        /// Changes the scaling attributes.
        UpdateSegmentPolicy = 32 { request_id: i64, segment: String, target_rate: i32, scale_type: u8, token: String }
        /// Appends a segment to another and removes it.
        MergeSegments = 58 {
            request_id: i64,
            target: String,
            source: String,
            token: String,
            attribute_updates: Vec<AttributeUpdate> = Vec::new(),
        }
        /// The same for several, in order.
        MergeSegmentsBatch = 90 { request_id: i64, target: String, sources: Vec<String>, token: String }
        /// Asks for a table segment's numbers.
        GetTableSegmentInfo = 68 { request_id: i64, segment: String, token: String }
        /// Creates a table segment; `key_length` 0 means keys of any length.
        CreateTableSegment = 70 {
            request_id: i64,
            segment: String,
            token: String,
            sorted: bool = false,
            key_length: i32 = 0,
            rollover_size: i64 = 0,
        }
        /// Deletes a table segment.
        DeleteTableSegment = 71 { request_id: i64, segment: String, must_be_empty: bool, token: String }
        /// Puts entries, all or none; a key's version is a condition.
        UpdateTableEntries = 74 {
            request_id: i64,
            segment: String,
            token: String,
            entries: Vec<TableEntry>,
            expected_length: i64 = -1,
        }
        /// Removes keys, all or none.
        RemoveTableKeys = 76 {
            request_id: i64,
            segment: String,
            token: String,
            keys: Vec<TableKey>,
            expected_length: i64 = -1,
        }
        /// Reads the values of keys.
        ReadTable = 78 { request_id: i64, segment: String, token: String, keys: Vec<TableKey> }
        /// Reads a page of keys.
        ReadTableKeys = 83 { request_id: i64, segment: String, token: String, suggested_count: i32, args: IteratorArgs }
        /// Reads a page of entries.
        ReadTableEntries = 85 { request_id: i64, segment: String, token: String, suggested_count: i32, args: IteratorArgs }
        /// Reads what changed since a position.
        ReadTableEntriesDelta = 88 {
            request_id: i64,
            segment: String,
            token: String,
            from_position: i64,
            suggested_count: i32,
        }
        /// Admin gateway only: flushes a container.
        FlushToStorage = -3 { container_id: i32, token: String, request_id: i64 }
        /// Admin gateway only: lists a segment's objects.
        ListStorageChunks = -5 { segment: String, token: String, request_id: i64 }
    }
}
