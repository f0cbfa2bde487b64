//! One segment at a time: [`admin`] creates, seals, describes it, [`table`] does so with tables, `writer`
//! appends to it, [`reader`] reads it. Who serves it is asked through [`Locate`].

pub mod admin;
mod append;
mod merge;
pub mod reader;
pub mod table;
pub(crate) mod writer;

use std::fmt::Debug;

use futures_util::future::BoxFuture;

use crate::Error;
use crate::connection::Endpoint;

pub use admin::{SegmentInfo, Segments};
pub use append::Numbered;
pub use reader::{Chunk, SegmentReader};

/// Who knows which segment store serves a segment: for users the controller, for the controller itself
/// its own records.
pub trait Locate: Debug + Send + Sync {
    /// Returns the address of the store that serves `segment`, a full name like
    /// `scope/stream/0.#epoch.0`. May answer from a cache.
    fn locate<'a>(&'a self, segment: &'a str) -> BoxFuture<'a, Result<Endpoint, Error>>;

    /// Drops what is remembered about `segment`: the store denied it, or could not be reached.
    fn forget(&self, segment: &str);
}

/// One store serves everything.
impl Locate for Endpoint {
    fn locate<'a>(&'a self, _segment: &'a str) -> BoxFuture<'a, Result<Endpoint, Error>> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }

    fn forget(&self, _segment: &str) {}
}
