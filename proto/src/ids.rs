//! Numbers with a meaning: raw integers appear only in codecs.

use std::fmt;

/// A byte position in a segment, counted from the first byte ever written to it; truncation does not
/// move it. `0 <= offset <= i64::MAX`, because the wire carries it as a signed number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

/// The identity of a segment within its stream: creation epoch and number.
///
/// On the wire one `i64`: epoch in the upper 32 bits, number in the lower. Both are `>= 0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub i64);

impl SegmentId {
    /// Puts an id together.
    ///
    /// # Panics
    /// If a part is negative: ids come from our own counters, or through [`SegmentId::parse`].
    pub fn new(epoch: i32, number: i32) -> Self {
        assert!(
            epoch >= 0 && number >= 0,
            "segment id from epoch {epoch}, number {number}"
        );
        Self((i64::from(epoch) << 32) | i64::from(number))
    }

    /// Checks an id that came from outside: both parts must be `>= 0`.
    pub fn parse(raw: i64) -> Option<Self> {
        let id = Self(raw);
        (id.epoch() >= 0 && id.number() >= 0).then_some(id)
    }

    /// Returns the epoch in which the segment was created.
    pub fn epoch(self) -> i32 {
        (self.0 >> 32) as i32
    }

    /// Returns the number, unique within the stream's life but for duplicates made by rolling commits.
    pub fn number(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.#epoch.{}", self.number(), self.epoch())
    }
}

/// Who appends to a segment. Chosen at random by the client, one per segment writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(pub u128);

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The identity of a transaction: epoch of the stream when it began in the upper 32 bits, then a number
/// that is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u128);

impl TransactionId {
    /// Puts an id together from its halves, as the controller's API carries them.
    pub fn from_parts(high: i64, low: i64) -> Self {
        Self((u128::from(high as u64) << 64) | u128::from(low as u64))
    }

    /// Returns the upper half.
    pub fn high(self) -> i64 {
        (self.0 >> 64) as i64
    }

    /// Returns the lower half.
    pub fn low(self) -> i64 {
        self.0 as i64
    }

    /// Returns the epoch whose segments the transaction writes beside. Negative only in ids that no
    /// controller gave out.
    pub fn epoch(self) -> i32 {
        (self.0 >> 96) as i32
    }
}

/// As a UUID: five groups of hex digits.
impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            id >> 96,
            id >> 80 & 0xFFFF,
            id >> 64 & 0xFFFF,
            id >> 48 & 0xFFFF,
            id & 0xFFFF_FFFF_FFFF
        )
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of a number kept with a segment. A writer's last event number is the attribute whose id is
/// the writer's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeId(pub u128);

impl AttributeId {
    /// Number of events appended. Source: the core attributes of `protocol`, upper half `i64::MIN`.
    pub const EVENT_COUNT: Self = Self::core(1);
    /// Creation time, milliseconds since the Unix epoch.
    pub const CREATION_TIME: Self = Self::core(0);
    /// How the segment scales: 0 not at all, 1 by KB/s, 2 by events/s.
    pub const SCALE_POLICY_TYPE: Self = Self::core(2);
    /// Target rate of that policy.
    pub const SCALE_POLICY_RATE: Self = Self::core(3);
    /// Chunk size asked for by the creator; kept, otherwise unused.
    pub const ROLLOVER_SIZE: Self = Self::core(4);

    const fn core(number: u128) -> Self {
        Self((1 << 127) | number)
    }

    /// Returns whether clients may only read it.
    pub fn is_core(self) -> bool {
        self.0 >> 64 == 1 << 63
    }
}

impl From<WriterId> for AttributeId {
    fn from(writer: WriterId) -> Self {
        Self(writer.0)
    }
}

impl fmt::Debug for AttributeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The value of an attribute, or of a writer's last event number, that was never set.
pub const NULL_ATTRIBUTE: i64 = i64::MIN;

/// The number of a container: the owner of many segments and one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(pub u32);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
