//! What happens by the clock: transactions whose lease is over end, streams stay within their retention.

pub(crate) mod leases;
pub(crate) mod retention;
