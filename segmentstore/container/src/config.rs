//! Settings of a container.

use serde::Deserialize;

/// Settings of every container of a segment store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Size at which a frame is closed, in bytes. Larger frames cost latency and memory, smaller ones
    /// more syncs; one operation that is larger gets a frame of its own.
    pub frame_bytes: usize,
    /// Operations after which a frame is closed.
    pub frame_operations: usize,
    /// Batches of appends, and other requests, that may wait to be put in order. More hide bursts, at
    /// the price of latency when the log is the bottleneck.
    pub inbox: usize,
    /// Most readers that wait at the tail of segments and are woken; others look once a second.
    pub waiters: usize,
    /// Most bytes of one read.
    pub read_bytes: usize,
    /// Bytes of log after which a checkpoint is made, which is what a recovery has to replay at most.
    pub checkpoint_bytes: u64,
    /// Changed segments after which a checkpoint is made. Each takes memory until then.
    pub checkpoint_segments: usize,
    /// Seconds after which a checkpoint is made, if there were changes.
    pub checkpoint_seconds: u64,
    /// After every cut, rebuild the state from what is left and compare: for tests, it reads the whole
    /// log.
    pub check_cuts: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frame_bytes: 1 << 20,
            frame_operations: 4096,
            inbox: 256,
            waiters: 100_000,
            read_bytes: 2 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_segments: 20_000,
            checkpoint_seconds: 60,
            check_cuts: false,
        }
    }
}
