//! A durable, ordered, fenced log; it knows no segments.
//!
//! Every container owns one log. A frame is the unit: the bytes of several operations, written at once
//! and acknowledged once synced. The logs of one process share a lane, hence one write and one sync.
//!
//! In order of flow: [`FrameBuilder`] → [`DurableLog::append`] → lane → [`AppendTicket`]; at start
//! [`Wal::open_log`] → [`Replay`]. Whoever opens a log fences everyone who opened it before.
//!
//! Guarantees: the contract L1–L7 in `loglet.rs`, tested by `conformance`. It does not retry, does not
//! decide what a failure means for the process, and does not lock the folder it works in.

mod buffer;
mod chain;
mod config;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod error;
mod lane;
mod local;
mod log;
mod loglet;
pub mod memory;
mod metrics;
mod record;

pub use buffer::{FrameBuilder, FramePool};
pub use chain::{ChainRecord, ChainStore, LogletRecord, begin_above, chain_record};
pub use config::Config;
pub use error::Error;
pub use log::{DurableLog, Opened, Wal};
pub use loglet::{AppendTicket, Priority, Replay, Space};
pub use metrics::Stats;
pub use record::{Frame, FrameNo, LogId, WalEpoch};
