//! The segment store over real sockets: what its protocol promises, told by what peers see.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests, outside of test functions"
)]

mod bad_input;
mod by_hand;
mod membership;
mod merge;
mod replay;
mod session;
mod stalled;
mod start_stop;
mod transient;
mod world;
mod wrong_host;
