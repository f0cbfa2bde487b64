//! The simulated world's parts: a disk that forgets, turmoil's network, its clock.

mod disk;
mod net;

pub use disk::{DiskFaults, DiskStats, SimDisk};
pub use net::TurmoilNet;

use crate::Clock;

/// Returns the wall clock of the turmoil world the caller runs in; 0 outside of one.
pub fn clock() -> Clock {
    Clock::from_fn(|| {
        turmoil::since_epoch().map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    })
}
