//! Writes events to a stream, each exactly once, in order per routing key.
//!
//! One task owns all segments of the stream that have been written to. An event takes its place in the
//! order of its segment as [`EventWriter::write`] returns, and is durable when the returned [`Ack`] says
//! so; any number may be in between, bounded by their memory. Events that wait together leave in one
//! append.
//!
//! This is the retrying level of appends. Lost connections, restarted and moved servers are met with
//! reconnecting, with backoff and jitter, and sending again what is missing. A sealed segment's rest
//! goes to its successors. Only when a segment can't be reached until the deadline of
//! [`Retry`](crate::config::Retry), or the stream is sealed or gone, the writer fails: everything not
//! acknowledged fails with it, and it takes no more. An append waits without limit while its server
//! shows signs of life: a full store makes writers wait.

mod task;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use sarit_env::Rng;
use sarit_proto::event::EVENT_MAX;
use sarit_proto::hash::key_position;
use sarit_proto::key_range::KeyPosition;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::router::Router;
use super::{Owner, Topology};
use crate::Error;
use crate::client::Client;
use crate::config::Config;
use crate::connection::Pool;
use task::{Input, Task};

/// Writes events to one stream. Dropping it lets what was accepted be written as long as the client
/// lives; [`EventWriter::flush`] says when it is.
#[derive(Debug)]
pub struct EventWriter {
    inbox: mpsc::UnboundedSender<Input>,
    memory: Arc<Memory>,
    rng: Rng,
    /// Keeps the client's tasks running.
    _client: Option<Client>,
}

/// What the writer's task needs from the client.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) topology: Arc<dyn Topology>,
    pub(crate) pool: Pool,
    pub(crate) rng: Rng,
    pub(crate) stop: CancellationToken,
}

/// What bounds the events between acceptance and acknowledgement, and why the writer has failed.
#[derive(Debug)]
struct Memory {
    bytes: Semaphore,
    bytes_max: usize,
    failure: Mutex<Option<Error>>,
}

impl Memory {
    /// What an event takes of the budget. One always fits.
    fn charge(&self, payload: usize) -> usize {
        (payload + EVENT_OVERHEAD).min(self.bytes_max)
    }

    fn failure(&self) -> Error {
        self.failure.lock().clone().unwrap_or(Error::Closed)
    }

    /// Ends the writer: whoever waits for room, or comes later, gets `error`.
    fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        self.bytes.close();
    }
}

impl EventWriter {
    pub(crate) fn open(owners: &[Owner], parts: Parts, tasks: &TaskTracker) -> Result<Self, Error> {
        let router = Router::new(owners).ok_or(Error::Unavailable {
            what: "getCurrentSegments",
            message: "the segments do not cover all keys".to_owned(),
        })?;
        let bytes_max = parts.config.writer.memory_bytes_max;
        let memory = Arc::new(Memory {
            bytes: Semaphore::new(bytes_max),
            bytes_max,
            failure: Mutex::default(),
        });
        let (inbox, inputs) = mpsc::unbounded_channel();
        let rng = parts.rng.split();
        tasks.spawn(Task::new(router, parts, Arc::clone(&memory)).run(inputs));
        Ok(Self {
            inbox,
            memory,
            rng,
            _client: None,
        })
    }

    pub(crate) fn keeping(self, client: Client) -> Self {
        Self {
            _client: Some(client),
            ..self
        }
    }

    /// Puts an event behind all events of its key that were written before. Waits while too much is
    /// under way. Cancel-safe: a dropped call has written nothing.
    ///
    /// # Errors
    /// [`Error::EventTooLarge`] above [`EVENT_MAX`] bytes; what the writer failed with, if it has.
    pub async fn write(&self, routing_key: &str, payload: impl Into<Bytes>) -> Result<Ack, Error> {
        self.accept(key_position(routing_key), payload.into()).await
    }

    /// Writes an event to any segment: such events have no order among each other.
    ///
    /// # Errors
    /// As [`EventWriter::write`].
    pub async fn write_without_key(&self, payload: impl Into<Bytes>) -> Result<Ack, Error> {
        let anywhere = KeyPosition::from_f64(self.rng.f64());
        let anywhere = anywhere.expect("a random fraction lies between 0 and 1");
        self.accept(anywhere, payload.into()).await
    }

    async fn accept(&self, position: KeyPosition, payload: Bytes) -> Result<Ack, Error> {
        if payload.len() > EVENT_MAX {
            return Err(Error::EventTooLarge {
                bytes: payload.len(),
                max: EVENT_MAX,
            });
        }
        let charge = u32::try_from(self.memory.charge(payload.len()))
            .expect("the budget is limited to 2 GiB by validation");
        let permit = self.memory.bytes.acquire_many(charge).await;
        let permit = permit.map_err(|_| self.memory.failure())?;
        let (acknowledge, outcome) = oneshot::channel();
        let input = Input::Event {
            payload,
            position,
            acknowledge,
        };
        self.inbox.send(input).map_err(|_| self.memory.failure())?;
        // The task gives it back with the event's outcome.
        permit.forget();
        Ok(Ack {
            outcome,
            memory: Arc::clone(&self.memory),
        })
    }

    /// Waits until everything accepted before is durable. Cancel-safe.
    ///
    /// # Errors
    /// What the writer failed with, if it has.
    pub async fn flush(&self) -> Result<(), Error> {
        let (done, durable) = oneshot::channel();
        let input = Input::Flush(done);
        self.inbox.send(input).map_err(|_| self.memory.failure())?;
        durable.await.unwrap_or_else(|_| Err(self.memory.failure()))
    }
}

/// Resolves when an event is durable. Dropping it does not take the event back.
#[derive(Debug)]
#[must_use = "the event is durable only when this says so"]
pub struct Ack {
    outcome: oneshot::Receiver<Result<(), Error>>,
    memory: Arc<Memory>,
}

impl Future for Ack {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        Poll::Ready(outcome.unwrap_or_else(|_| Err(self.memory.failure())))
    }
}

/// What an event costs besides its payload: its header and our records of it, in bytes.
const EVENT_OVERHEAD: usize = 128;

#[cfg(test)]
mod outages;
#[cfg(test)]
mod tests;
