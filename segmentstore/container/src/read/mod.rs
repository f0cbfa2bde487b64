//! The read path. Reads never enter the sequencer's queue: they look at durable state, and fetch bytes
//! from frames in memory or from the log.

pub(crate) mod reader;
pub(crate) mod tail;
pub(crate) mod waiters;
