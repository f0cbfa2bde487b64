//! What can be wrong with a pack's name, a run to be written, or the bytes of a pack.
//!
//! Three kinds: *refused* (what the caller asked for makes no pack), *full* (begin another pack)
//! and *broken* (the object is not what was written; it says what is wrong and at which byte).

use std::fmt;

use crate::names::PackName;

/// Why a pack could not be named, written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A listed object that is none of ours; leave it alone.
    #[error("{0:?} is not the name of a pack")]
    NotAPackName(String),
    /// A number that has no room in a pack's name.
    #[error("{what} {given} has no room in the name of a pack, the highest is {max}")]
    NoRoomInName {
        /// Which number.
        what: &'static str,
        /// What was asked for.
        given: u64,
        /// The highest possible one.
        max: u64,
    },
    /// A pack that covers no operation.
    #[error("a pack cannot cover the operations {first} to {last}")]
    NoOperations {
        /// The lowest one.
        first: u64,
        /// The highest one.
        last: u64,
    },
    /// A run that lies before the end of the run in front of it.
    #[error(
        "run of segment {segment} at {offset} does not come after that of segment {last_segment} \
         that ends at {last_end}"
    )]
    OutOfOrder {
        /// Whose run.
        segment: u64,
        /// Where it begins in its segment.
        offset: u64,
        /// The segment of the run in front of it.
        last_segment: u64,
        /// Where that one ends in its segment.
        last_end: u64,
    },
    /// A run without bytes.
    #[error("run of segment {segment} at {offset} has no bytes")]
    EmptyRun {
        /// Whose run.
        segment: u64,
        /// Where it begins in its segment.
        offset: u64,
    },
    /// A run that would not fit even into a pack of its own; cut it.
    #[error("run of segment {segment} at {offset} has {len} bytes, too many for a pack")]
    RunTooLong {
        /// Whose run.
        segment: u64,
        /// Where it begins in its segment.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The pack has no room for this run, the next pack has.
    #[error("pack {pack} with {runs} runs has no room for {len} more bytes")]
    Full {
        /// Which pack.
        pack: PackName,
        /// How many runs it holds.
        runs: usize,
        /// The length in bytes of what was to be added.
        len: u64,
    },
    /// A pack that was finished without a run.
    #[error("pack {0} would be empty")]
    Empty(PackName),
    /// Another number of bytes than asked for, as a cut-off read leaves; read again.
    #[error("{given} bytes of {pack} where {asked} were asked for at {at}")]
    WrongLength {
        /// Which pack.
        pack: PackName,
        /// Position of the first byte asked for.
        at: u64,
        /// How many.
        asked: u64,
        /// How many there are.
        given: u64,
    },
    /// A pack of another release; its checksum holds.
    #[error("pack {pack} has version {version}, this release reads version {known}")]
    UnknownVersion {
        /// Which pack.
        pack: PackName,
        /// Its version.
        version: u16,
        /// The version of this release.
        known: u16,
    },
    /// Bytes that were never written so.
    #[error("pack {pack} is damaged at byte {at}: {damage}")]
    Damaged {
        /// Which pack.
        pack: PackName,
        /// Position in the object of what is wrong.
        at: u64,
        /// What is wrong.
        damage: Damage,
    },
}

/// What is wrong with the bytes of a pack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// An object that cannot be a pack by its length.
    #[error("the object has {0} bytes, which no pack has")]
    ObjectLength(u64),
    /// The footer does not begin as one.
    #[error("a footer begins with SPCK, not with {0:#010x}")]
    Magic(u32),
    /// Bytes that do not fit their checksum.
    #[error("checksum of the {part} is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// Of what.
        part: Part,
        /// What was written.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A letter that is none of the four.
    #[error("unknown kind {0:#04x}")]
    Kind(u8),
    /// A byte that is always 0.
    #[error("a reserved byte is {0:#04x}")]
    Reserved(u8),
    /// The object lies under the name of another pack.
    #[error("the footer is that of container {container}, epoch {epoch}, number {n}")]
    OtherPack {
        /// The container in the footer.
        container: u32,
        /// The epoch in the footer.
        epoch: u64,
        /// The number in the footer.
        n: u64,
    },
    /// A range of operations that ends before it begins.
    #[error("it covers the operations {first} to {last}")]
    Operations {
        /// The lowest one.
        first: u64,
        /// The highest one.
        last: u64,
    },
    /// An index of a length that none has.
    #[error("an index of {0} bytes, which is no number of entries that is allowed")]
    IndexLength(u32),
    /// An index that does not lie right before the footer.
    #[error("an index of {len} bytes at {pos} does not end at the footer")]
    IndexPlace {
        /// Where it is said to begin.
        pos: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// The index's last entry is not that of a table of block checksums.
    #[error("there is no table of the blocks' checksums")]
    BlockTable,
    /// A run without bytes.
    #[error("entry {entry} has no bytes")]
    EmptyRun {
        /// Which entry of the index.
        entry: usize,
    },
    /// Runs leave a gap or lie over one another in the object.
    #[error("entry {entry} lies at {pos}, the bytes before it end at {end}")]
    RunPlace {
        /// Which entry of the index; the one after the last is the index itself.
        entry: usize,
        /// Where it is said to lie.
        pos: u64,
        /// Where it has to lie.
        end: u64,
    },
    /// Runs that are not sorted, overlap in their segment, or go beyond its highest offset.
    #[error("entry {entry}, segment {segment} at {offset}, does not come after the one before it")]
    RunOrder {
        /// Which entry of the index.
        entry: usize,
        /// Whose run.
        segment: u64,
        /// Where it begins in its segment.
        offset: u64,
    },
}

/// What a checksum is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The footer's first 60 bytes.
    Footer,
    /// The whole index.
    Index,
    /// One run's bytes.
    Run,
    /// One block's bytes.
    Block,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Footer => "footer",
            Self::Index => "index",
            Self::Run => "run",
            Self::Block => "block",
        })
    }
}
