//! A container's state as one ordered key space, so that it can be dumped, compared and put back.
//!
//! The one implementation here keeps the whole state in memory; it is what recovery is tested against.

pub(crate) mod keys;
pub(crate) mod snapshot;
