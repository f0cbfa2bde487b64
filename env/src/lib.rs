//! What a simulated world replaces: clock, randomness, disk, network, worker threads.
//!
//! Product code takes these as constructor arguments and uses nothing else to reach the outside. A
//! simulated world (feature `sim`) hands in its own, so that one seed decides a whole run.
//! Monotonic time is `tokio::time`, which both worlds control; this crate does not wrap it.

pub mod clock;
pub mod disk;
pub mod net;
pub mod rng;
#[cfg(feature = "sim")]
pub mod sim;
mod worker;

pub use clock::Clock;
pub use disk::{Disk, DiskFile, OpenMode};
pub use net::{Listener, Net, NetStream};
pub use rng::Rng;
pub use worker::{Worker, spawn_worker};
