//! Many segments, one owner, one log.
//!
//! A container orders whatever happens to its segments, makes it durable in its log, and only then lets
//! anyone see it. Open one with [`Container::open`]; append through an [`Appender`]; everything else
//! is a method of the handle.
//!
//! An append's way: [`container`](Container) → `pipeline` → `state::admit` → `pipeline::frame` → the
//! log → `state` (`apply`) → `read::tail`, `read::waiters` → answer. Recovery applies the same records.
//!
//! A checkpoint writes what changed to the [index](Indexes), and the log is cut behind it, as far as it
//! holds no bytes of segments that lie nowhere else: `flush` moves these to long-term storage, in packs,
//! and `read::blocks` reads them from there. Copies of the index go there, too (`export`), so that a lost
//! log does not cost everything (`rebuild`). A table that is in use is whole in
//! memory.

mod append;
mod checkpoint;
mod config;
mod container;
mod error;
mod export;
mod flush;
mod index;
mod info;
mod inspect;
mod lifecycle;
mod memory;
mod metrics;
mod operation;
mod pipeline;
mod read;
mod rebuild;
mod recovery;
mod residents;
mod shared;
mod state;
mod tables;
#[cfg(test)]
mod tests;

pub use append::{AppendOp, Appender, Done, Outcome, Outcomes};
pub use config::{Config, Flush};
pub use container::Container;
pub use error::Error;
pub use index::{Indexes, SlateStore, SnapshotMemory};
pub use info::{AttributeUpdate, ContainerStats, Kind, Read, SegmentInfo, TableInfo};
pub use inspect::{CheckpointReport, Inspector, PackReport, Reference, SegmentReport};
pub use lifecycle::{Parts, Running};
pub use memory::{ConnectionCredit, MemoryBudget, MemoryUsage, Permit};
pub use read::turns::{Turn, Turns};
pub use rebuild::{Damaged, Rebuilt, rebuild};
pub use sarit_proto::ids::Offset;
pub use state::operation_bytes_max;
pub use tables::{Delta, Page};
