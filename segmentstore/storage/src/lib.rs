//! Packs: the objects that long-term storage consists of.
//!
//! A pack is written once and never changed. It holds runs, each a piece of one segment, of many
//! segments of one container. The bytes are described in docs/formats/packs.md.
//!
//! In order of flow: [`PackName`] says what the object is called, [`PackWriter`] makes its bytes;
//! [`Footer`], then [`Index`], then [`Run::check`] take them apart again, each from the bytes of
//! one ranged read. Whatever does not fit is refused with what is wrong and where.
//!
//! There is no I/O here and no object store yet: who uploads packs, when, and what commits and
//! deletes them comes with tiering. Nothing in the servers uses this crate so far.

mod error;
mod names;
mod pack;

pub use error::{Damage, Error, Part};
pub use names::{PackId, PackName, PackNumber};
pub use pack::{FOOTER_BYTES, Footer, Index, Kind, OBJECT_BYTES_MAX, RUNS_MAX, Run};
pub use pack::{PackWriter, WrittenPack};
