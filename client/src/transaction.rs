//! Transactions: events that become part of a stream together, or not at all.
//!
//! A transaction writes to segments of its own beside those of the stream, so it goes on undisturbed
//! while the stream splits and merges; commit merges them. Events of one transaction keep their order
//! per routing key, and transactions become visible in the order in which they were committed.
//!
//! An open transaction is kept alive in the background until it is committed, aborted or dropped; a
//! dropped one is aborted by the server when its lease is over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sarit_proto::ids::{SegmentId, TransactionId};
use sarit_proto::names::ScopedStream;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;
use crate::client::Client;
use crate::connection::Endpoint;
use crate::controller::{Controller, TransactionStatus};
use crate::event::{EventWriter, Successor, Topology};
use crate::segment::Locate;

/// Begins transactions on one stream.
#[derive(Debug)]
pub struct TransactionWriter {
    client: Client,
    stream: ScopedStream,
    /// What the controller knows this writer by.
    writer: String,
    lease_ms: u64,
}

impl TransactionWriter {
    pub(crate) fn new(client: Client, stream: ScopedStream, writer: String, lease_ms: u64) -> Self {
        Self {
            client,
            stream,
            writer,
            lease_ms,
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`]; [`Error::Refused`] if the stream is sealed; and those of [`Error`].
    pub async fn begin(&self) -> Result<Transaction, Error> {
        let controller = self.client.controller();
        let (id, owners) = controller
            .begin_transaction(&self.stream, self.lease_ms)
            .await?;
        let topology = Arc::new(Segments {
            controller: controller.clone(),
            stream: self.stream.clone(),
            transaction: id,
        });
        let events = self.client.open_writer(&owners, topology)?;
        let stop = CancellationToken::new();
        let (pings, stream, lease_ms) = (controller.clone(), self.stream.clone(), self.lease_ms);
        let ping = async move || pings.ping_transaction(&stream, id, lease_ms).await;
        let pinging = keep_open(ping, id, lease_ms);
        self.client.beside(stop.clone(), pinging);
        Ok(Transaction {
            id,
            events,
            controller: controller.clone(),
            stream: self.stream.clone(),
            writer: self.writer.clone(),
            lease_ms: self.lease_ms,
            _pinging: stop.drop_guard(),
        })
    }
}

/// Pings three times in a lease, and again at once where no answer comes, so that lost pings do not end it.
async fn keep_open<P>(ping: P, transaction: TransactionId, lease_ms: u64)
where
    P: AsyncFn() -> Result<TransactionStatus, Error>,
{
    let part = Duration::from_millis(lease_ms / 6);
    let mut pause = 2 * part;
    loop {
        tokio::time::sleep(pause).await;
        pause = 2 * part;
        match tokio::time::timeout(part, ping()).await {
            Ok(Ok(TransactionStatus::Open)) => {}
            Ok(Ok(status)) => {
                tracing::debug!(%transaction, %status, "transaction needs no more pings");
                return;
            }
            // The writer will be told when it commits.
            Ok(Err(error)) => {
                tracing::debug!(%transaction, %error, "transaction cannot be kept open");
                if !error.is_retryable() {
                    return;
                }
            }
            Err(_) => {
                tracing::debug!(%transaction, "no answer to a ping");
                pause = Duration::ZERO;
            }
        }
    }
}

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    id: TransactionId,
    events: EventWriter,
    controller: Controller,
    stream: ScopedStream,
    writer: String,
    lease_ms: u64,
    _pinging: DropGuard,
}

impl Transaction {
    /// Returns its id.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// Puts an event behind all events of its key that this transaction has. Waits while too much is under
    /// way. Returns before it is durable: [`Transaction::commit`] waits for that.
    ///
    /// # Errors
    /// [`Error::EventTooLarge`]; [`Error::TransactionEnded`] or what the writer failed with, if it has.
    pub async fn write(&self, routing_key: &str, payload: impl Into<Bytes>) -> Result<(), Error> {
        // The event is not taken back, and what fails, fails the commit too.
        drop(self.events.write(routing_key, payload).await?);
        Ok(())
    }

    /// Waits until everything written so far is durable; visible it is only once committed.
    ///
    /// # Errors
    /// As [`Transaction::write`].
    pub async fn flush(&self) -> Result<(), Error> {
        self.events.flush().await
    }

    /// Keeps it open for another lease; this happens in the background too.
    ///
    /// # Errors
    /// [`Error::TransactionEnded`], [`Error::NoSuchTransaction`]; [`Error::Refused`] if it may not stay
    /// open for so long; and those of [`Error`].
    pub async fn ping(&self) -> Result<(), Error> {
        let pinged = self
            .controller
            .ping_transaction(&self.stream, self.id, self.lease_ms)
            .await?;
        match pinged {
            TransactionStatus::Open => Ok(()),
            status => Err(ended(self.id, status)),
        }
    }

    /// Returns what has become of it.
    ///
    /// # Errors
    /// [`Error::NoSuchTransaction`], and those of [`Error`].
    pub async fn status(&self) -> Result<TransactionStatus, Error> {
        self.controller
            .transaction_status(&self.stream, self.id)
            .await
    }

    /// Makes all its events durable and commits it: they will be part of the stream, whatever happens.
    /// [`Committing::wait`] says when they are.
    ///
    /// # Errors
    /// [`Error::TransactionEnded`] if its lease was over or somebody else ended it: nothing was written.
    /// [`Error::NoSuchTransaction`], and those of [`Error`]: after those that are retryable, ask for its
    /// status.
    pub async fn commit(self) -> Result<Committing, Error> {
        self.flush().await?;
        self.controller
            .commit_transaction(&self.stream, self.id, &self.writer)
            .await?;
        Ok(Committing {
            id: self.id,
            controller: self.controller,
            stream: self.stream,
        })
    }

    /// Aborts it: its events are never part of the stream.
    ///
    /// # Errors
    /// [`Error::TransactionEnded`] if somebody else has committed it; [`Error::NoSuchTransaction`]; and
    /// those of [`Error`].
    pub async fn abort(self) -> Result<(), Error> {
        self.controller
            .abort_transaction(&self.stream, self.id)
            .await
    }
}

/// A transaction on its way into the stream.
#[derive(Debug)]
pub struct Committing {
    id: TransactionId,
    controller: Controller,
    stream: ScopedStream,
}

impl Committing {
    /// Returns the transaction's id.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// Waits until its events can be read.
    ///
    /// # Errors
    /// [`Error::Timeout`] after the deadline of [`Retry`](crate::config::Retry): it is committed all the
    /// same. And those of [`Error`].
    pub async fn wait(&self) -> Result<(), Error> {
        let begun = Instant::now();
        let mut pause = ASK_AGAIN_MIN;
        loop {
            let status = self
                .controller
                .transaction_status(&self.stream, self.id)
                .await?;
            match status {
                TransactionStatus::Committed => return Ok(()),
                TransactionStatus::Committing => {}
                status => return Err(ended(self.id, status)),
            }
            self.controller.within_deadline("commit", begun)?;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN_MAX);
        }
    }
}

fn ended(transaction: TransactionId, status: TransactionStatus) -> Error {
    Error::TransactionEnded {
        transaction: transaction.to_string(),
        status: status.to_string(),
    }
}

/// Where a transaction's segments are: nobody ever takes over from one.
#[derive(Debug)]
struct Segments {
    controller: Controller,
    stream: ScopedStream,
    transaction: TransactionId,
}

impl Locate for Segments {
    fn locate<'a>(&'a self, segment: &'a str) -> BoxFuture<'a, Result<Endpoint, Error>> {
        self.controller.locate(segment)
    }

    fn forget(&self, segment: &str) {
        self.controller.forget(segment);
    }
}

impl Topology for Segments {
    fn successors(&self, _segment: SegmentId) -> BoxFuture<'_, Result<Vec<Successor>, Error>> {
        Box::pin(async move {
            let known = self
                .controller
                .transaction_status(&self.stream, self.transaction)
                .await?;
            // Its segments are sealed or deleted only after that was decided.
            Err(match known {
                TransactionStatus::Open => Error::Unavailable {
                    what: "checkTransactionState",
                    message: format!("{} is open and its segments are not", self.transaction),
                },
                status => ended(self.transaction, status),
            })
        })
    }

    fn segment_name(&self, segment: SegmentId) -> String {
        let parent = self.stream.segment(segment);
        parent.transaction(self.transaction).to_string()
    }
}

/// How long to wait at first before asking again whether a commit is done: a few syncs.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(2);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ping_without_an_answer_is_repeated_before_the_lease_ends() {
        const LEASE_MS: u64 = 12_000;
        let (begin, calls) = (Instant::now(), Cell::new(0));
        let ping = async || {
            calls.set(calls.get() + 1);
            match calls.get() {
                1 => std::future::pending().await,
                2 => assert!(begin.elapsed() < Duration::from_millis(LEASE_MS)),
                _ => return Ok(TransactionStatus::Aborted),
            }
            Ok(TransactionStatus::Open)
        };
        keep_open(ping, TransactionId(1), LEASE_MS).await;
        assert_eq!(calls.get(), 3);
        assert_eq!(begin.elapsed(), Duration::from_millis(10_000));
    }
}
