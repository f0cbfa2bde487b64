//! The read path. Reads never enter the sequencer's queue: they look at durable state, and fetch bytes
//! from frames in memory, from the log, or from packs.

pub(crate) mod ahead;
pub(crate) mod blocks;
pub(crate) mod reader;
pub(crate) mod slabs;
pub(crate) mod tail;
pub(crate) mod turns;
pub(crate) mod waiters;
