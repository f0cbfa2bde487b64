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
    /// Seconds between two copies of the index to long-term storage, from which it is rebuilt should the
    /// log be lost; 0: never. More often: less is lost then, at the price of writing all of the index.
    pub export_seconds: u64,
    /// Segments kept in memory although nobody uses them. Others are brought back from the index when
    /// they are asked for, which costs a few lookups; each kept costs about 500 bytes.
    pub resident_segments: usize,
    /// After every cut, rebuild the state from what is left and compare: for tests, it reads the whole
    /// log.
    pub check_cuts: bool,
    /// Long-term storage.
    pub flush: Flush,
}

/// When data moves to long-term storage, and how it is kept there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flush {
    /// Bytes of a container that lie in the log only, from which on they are flushed at once. Also the
    /// most bytes of a pack that segments share, as far as memory allows. More: fewer, larger packs, at
    /// the price of a longer log.
    pub bytes: u64,
    /// Milliseconds after which they are flushed in any case.
    pub period_ms: u64,
    /// Bytes of one segment in the log from which on it gets packs of its own.
    pub big_bytes: u64,
    /// Most bytes of such a pack.
    pub big_pack_bytes: u64,
    /// Packs of one container uploaded at the same time.
    pub uploads: usize,
    /// Milliseconds between two looks for packs and segments worth rewriting; 0: never.
    pub compact_ms: u64,
    /// Packs with less of their length in use than this, in percent, are rewritten.
    pub live_percent: u64,
    /// Segments with more pieces than this are rewritten where the pieces are small.
    pub extents: usize,
    /// Milliseconds that a pack which nobody refers to is kept, for reads under way.
    pub grace_ms: u64,
    /// Milliseconds between two looks for packs that never were referred to.
    pub sweep_ms: u64,
}

impl Default for Flush {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            period_ms: 30_000,
            big_bytes: 8 << 20,
            big_pack_bytes: 128 << 20,
            uploads: 4,
            compact_ms: 60_000,
            live_percent: 50,
            extents: 64,
            grace_ms: 15 * 60_000,
            sweep_ms: 3_600_000,
        }
    }
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
            checkpoint_segments: 4_000,
            checkpoint_seconds: 60,
            export_seconds: 300,
            resident_segments: 10_000,
            check_cuts: false,
            flush: Flush::default(),
        }
    }
}
