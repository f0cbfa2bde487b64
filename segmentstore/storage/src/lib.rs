//! Packs: the objects that long-term storage consists of.
//!
//! A pack is written once and never changed. It holds runs, each a piece of one segment, of many
//! segments of one container. The bytes are described in docs/formats/packs.md.
//!
//! In order of flow: [`PackName`] says what the object is called, [`PackWriter`] makes its bytes;
//! [`Footer`], then [`Index`], then [`Run::check`] take them apart again, each from the bytes of
//! one ranged read. Whatever does not fit is refused with what is wrong and where.
//!
//! [`Store`] keeps them: in a local directory, in S3, or in memory. Who uploads packs, when, and what
//! commits and deletes them is up to the container.

mod error;
mod names;
mod pack;
mod store;

pub use error::{Damage, Error, Part};
pub use names::{PackId, PackName, PackNumber};
pub use pack::{BLOCK_BYTES, Blocks, FOOTER_BYTES, Footer, Index, Kind, OBJECT_BYTES_MAX};
pub use pack::{PackWriter, RUNS_MAX, Run, TABLE_HINT_BYTES, WrittenPack};
#[cfg(any(test, feature = "test-util"))]
pub use store::memory;
pub use store::{Config, Counts, ExportName, Operation, READ_BYTES_MAX, Store, StoreError, Upload};
