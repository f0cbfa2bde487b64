//! Reads from one segment.
//!
//! This is the retrying level of reads: a lost connection or another owner is met with another attempt,
//! with backoff and jitter, until the deadline of [`Retry`]. A read at the tail of an open segment waits
//! for bytes as long as it takes; a server that gives up waiting is asked again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarit_env::Rng;
use sarit_proto::ids::Offset;
use sarit_proto::wire::{Reply, command};
use tokio::time::Instant;

use super::Locate;
use super::admin::{failure, signed, unsigned};
use crate::Error;
use crate::config::{Backoff, Retry};
use crate::connection::Pool;

/// What lies at an offset of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// At least one byte.
    Data(Bytes),
    /// The segment ends here, for good.
    End,
    /// The offset was truncated away; the first byte kept is at `start`.
    Truncated {
        /// Where to go on.
        start: Offset,
    },
    /// The segment is not there (any more).
    Gone,
}

/// Reads one segment. Clones share their connections.
#[derive(Clone, Debug)]
pub struct SegmentReader {
    pool: Pool,
    locate: Arc<dyn Locate>,
    retry: Retry,
    rng: Rng,
    segment: Arc<str>,
}

impl SegmentReader {
    /// Creates a reader of `segment`, a full name like `scope/stream/0.#epoch.0`.
    pub fn new(
        pool: Pool,
        locate: Arc<dyn Locate>,
        retry: Retry,
        rng: Rng,
        segment: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            pool,
            locate,
            retry,
            rng,
            segment: segment.into(),
        }
    }

    /// Reads up to `bytes_max` bytes (at least 1, the server may have a limit of its own) at `offset`.
    /// Waits at the tail of an open segment. Cancel-safe.
    ///
    /// # Errors
    /// Those of [`Error`], once retrying has not helped.
    pub async fn read(&self, offset: Offset, bytes_max: usize) -> Result<Chunk, Error> {
        let mut backoff = Backoff::new(&self.retry, &self.rng);
        loop {
            let asked = Instant::now();
            match self.read_once(offset, bytes_max).await {
                Ok(Some(chunk)) => return Ok(chunk),
                // The server gave up waiting for bytes. One that does so at once is not asked in a loop.
                Ok(None) => {
                    backoff = Backoff::new(&self.retry, &self.rng);
                    tokio::time::sleep_until(asked + EMPTY_READ_INTERVAL).await;
                }
                Err(error) => {
                    self.locate.forget(&self.segment);
                    // It was served for long: this failure has nothing to do with the one before.
                    let ended = matches!(error, Error::Disconnected { .. } | Error::Timeout { .. });
                    if ended && asked.elapsed() >= SERVED_MIN {
                        backoff = Backoff::new(&self.retry, &self.rng);
                    }
                    backoff.pause(error).await?;
                }
            }
        }
    }

    async fn read_once(&self, offset: Offset, bytes_max: usize) -> Result<Option<Chunk>, Error> {
        let endpoint = self.locate.locate(&self.segment).await?;
        let connection = self.pool.get(&endpoint).await?;
        let bytes_max = bytes_max.max(1);
        let (what, pending) = connection
            .start(|request_id| {
                command::ReadSegment {
                    segment: self.segment.to_string(),
                    offset: signed(offset),
                    suggested_length: i32::try_from(bytes_max).unwrap_or(i32::MAX),
                    token: String::new(),
                    request_id,
                }
                .into()
            })
            .map_err(|unsent| unsent.0)?;
        match pending.await? {
            Reply::SegmentRead(read) if read.offset != signed(offset) => Err(Error::Protocol {
                endpoint,
                what: format!("read at {} answered for {}", offset.0, read.offset),
            }),
            // A server may return more than asked for, if that was little.
            Reply::SegmentRead(mut read) if !read.data.is_empty() => {
                read.data.truncate(bytes_max);
                Ok(Some(Chunk::Data(read.data)))
            }
            Reply::SegmentRead(read) if read.end_of_segment => Ok(Some(Chunk::End)),
            Reply::SegmentRead(_) => Ok(None),
            Reply::SegmentIsSealed(_) => Ok(Some(Chunk::End)),
            Reply::NoSuchSegment(_) => Ok(Some(Chunk::Gone)),
            // Going on must lead forward.
            Reply::SegmentIsTruncated(reply) if reply.start_offset > signed(offset) => {
                Ok(Some(Chunk::Truncated {
                    start: unsigned(reply.start_offset),
                }))
            }
            Reply::SegmentIsTruncated(reply) => Err(Error::Protocol {
                endpoint,
                what: format!("{} is truncated at {}", offset.0, reply.start_offset),
            }),
            reply => Err(
                failure(&reply, &endpoint, what).unwrap_or_else(|| Error::Protocol {
                    endpoint,
                    what: format!("unexpected {}", reply.name()),
                }),
            ),
        }
    }
}

/// A read that ends after this long was waiting at the tail of a segment, not for a connection.
const SERVED_MIN: Duration = Duration::from_secs(10);
/// Least time between two reads that found nothing.
const EMPTY_READ_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
