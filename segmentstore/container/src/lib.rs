//! Many segments, one owner, one log.
//!
//! A container orders whatever happens to its segments, makes it durable in its log, and only then lets
//! anyone see it. Open one with [`Container::open`]; append through an [`Appender`]; everything else
//! is a method of the handle.
//!
//! An append's way: [`container`](Container) → `pipeline` → `state::admit` → `pipeline::frame` → the
//! log → `state` (`apply`) → `read::tail`, `read::waiters` → answer. Recovery applies the same records.
//!
//! History stays in the log: this crate does not move data to long-term storage, does not cut the log,
//! and keeps tables in memory.

mod append;
mod config;
mod container;
mod error;
mod index;
mod info;
mod lifecycle;
mod memory;
mod metrics;
mod operation;
mod pipeline;
mod read;
mod recovery;
mod shared;
mod state;
mod tables;
#[cfg(test)]
mod tests;

pub use append::{AppendOp, Appender, Done, Outcome, Outcomes};
pub use config::Config;
pub use container::Container;
pub use error::Error;
pub use info::{ContainerStats, Kind, Read, SegmentInfo, TableInfo};
pub use lifecycle::{Parts, Running};
pub use memory::{ConnectionCredit, MemoryBudget, MemoryUsage, Permit};
pub use sarit_proto::ids::Offset;
pub use tables::{Delta, Page};
