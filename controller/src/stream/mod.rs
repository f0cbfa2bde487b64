//! The rules of streams, as pure functions on values: no I/O, no clock, no runtime.
//!
//! - [`epoch`]: which segments were active when, and who succeeds whom;
//! - [`scale`]: which segments may be replaced by which;
//! - [`stream_cuts`]: positions across a stream, their order, what lies between two of them;
//! - [`retention`]: where a stream may be cut off;
//! - [`transaction`]: a transaction's states, and how long it may stay open;
//! - [`lifecycle`]: which change is allowed in which state;
//! - [`config`]: what a configuration may ask for.

pub(crate) mod config;
pub(crate) mod epoch;
pub(crate) mod lifecycle;
pub(crate) mod retention;
pub(crate) mod scale;
pub(crate) mod stream_cuts;
pub(crate) mod transaction;
