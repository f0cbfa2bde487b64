//! What happens by the clock: open transactions whose lease is over end.

pub(crate) mod leases;
