//! The controller's calls about transactions.

use std::fmt;

use sarit_proto::controller::internal::OpenTransactionsRequest;
use sarit_proto::controller::{self as api, ping_txn_status, txn_response, txn_state, txn_status};
use sarit_proto::ids::TransactionId;
use sarit_proto::names::ScopedStream;

use super::{Controller, failed, missing};
use crate::Error;
use crate::event::Owner;

/// What has become of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// It can be written to.
    Open,
    /// It will be committed, whatever happens.
    Committing,
    /// Its events are part of the stream.
    Committed,
    /// It will be aborted, whatever happens.
    Aborting,
    /// Its events are gone.
    Aborted,
}

/// A transaction that has not ended. Times are milliseconds since the Unix epoch, by the controller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Its id.
    pub id: TransactionId,
    /// Whether it is open, or about to end.
    pub status: TransactionStatus,
    /// When it was begun.
    pub created_ms: i64,
    /// When it is aborted unless its writer pings it, if it is open.
    pub lease_ends_ms: Option<i64>,
    /// When it is aborted at the latest.
    pub life_ends_ms: i64,
}

impl TransactionStatus {
    /// Whether its events are part of the stream, or will be.
    pub fn is_committed(self) -> bool {
        matches!(self, Self::Committing | Self::Committed)
    }
}

impl fmt::Display for TransactionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
        })
    }
}

impl Controller {
    /// Begins a transaction that is aborted if it is not pinged for `lease_ms`. Returns its id, and the
    /// parents of the segments it writes to. A reply that is lost leaves one behind, which its lease ends.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`]; [`Error::Refused`] if the stream is sealed or the lease too short or too
    /// long; and those of [`Error`].
    pub async fn begin_transaction(
        &self,
        stream: &ScopedStream,
        lease_ms: u64,
    ) -> Result<(TransactionId, Vec<Owner>), Error> {
        let what = "createTransaction";
        let request = api::CreateTxnRequest {
            stream_info: Some(stream.into()),
            lease: i64::try_from(lease_ms).unwrap_or(i64::MAX),
            scale_grace_period: 0,
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.create_transaction(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        let id = api::convert::required(&reply.txn_id, "txn_id");
        let id = id.map_err(|error| self.broken(what, error))?;
        let ranges = reply.active_segments.iter();
        let owners = ranges.map(|range| self.owner(what, range));
        Ok((TransactionId::from(id), owners.collect::<Result<_, _>>()?))
    }

    /// Keeps an open transaction open for `lease_ms` from now. Returns what has become of it.
    ///
    /// # Errors
    /// [`Error::NoSuchTransaction`]; [`Error::Refused`] if it may not stay open for so long; and those of
    /// [`Error`].
    pub async fn ping_transaction(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
        lease_ms: u64,
    ) -> Result<TransactionStatus, Error> {
        use ping_txn_status::Status;
        let what = "pingTransaction";
        let request = api::PingTxnRequest {
            stream_info: Some(stream.into()),
            txn_id: Some(transaction.into()),
            lease: i64::try_from(lease_ms).unwrap_or(i64::MAX),
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.ping_transaction(request).await }
            })
            .await;
        let refused = |message: &str| {
            let message = message.to_owned();
            Err(Error::Refused { what, message })
        };
        match reply.map_err(|error| missing(error, stream))?.status() {
            Status::Ok => Ok(TransactionStatus::Open),
            Status::Committed => Ok(TransactionStatus::Committed),
            Status::Aborted => Ok(TransactionStatus::Aborted),
            Status::Unknown => Err(gone(stream, transaction)),
            Status::LeaseTooLarge => refused("the lease is too long"),
            Status::MaxExecutionTimeExceeded => refused("it has been open for too long"),
            Status::ScaleGraceTimeExceeded | Status::Disconnected => refused("it may not go on"),
        }
    }

    /// Commits a transaction: it will be part of the stream, behind what the stream's earlier commits
    /// bring. [`Controller::transaction_status`] says when it is. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchTransaction`]; [`Error::TransactionEnded`] if it was aborted; and those of [`Error`].
    pub async fn commit_transaction(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
        writer: &str,
    ) -> Result<(), Error> {
        let what = "commitTransaction";
        let request = request(stream, transaction, writer);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.commit_transaction(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        self.ended(what, stream, transaction, reply.status()).await
    }

    /// Aborts a transaction: its events will be gone. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchTransaction`]; [`Error::TransactionEnded`] if it was committed; and those of
    /// [`Error`].
    pub async fn abort_transaction(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
    ) -> Result<(), Error> {
        let what = "abortTransaction";
        let request = request(stream, transaction, "");
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.abort_transaction(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        self.ended(what, stream, transaction, reply.status()).await
    }

    async fn ended(
        &self,
        what: &'static str,
        stream: &ScopedStream,
        transaction: TransactionId,
        status: txn_status::Status,
    ) -> Result<(), Error> {
        use txn_status::Status;
        match status {
            Status::Success => Ok(()),
            Status::StreamNotFound => Err(Error::NoSuchStream(stream.to_string())),
            Status::TransactionNotFound => Err(gone(stream, transaction)),
            Status::Failure => match self.transaction_status(stream, transaction).await? {
                TransactionStatus::Open => Err(failed(what)),
                status => Err(Error::TransactionEnded {
                    transaction: transaction.to_string(),
                    status: status.to_string(),
                }),
            },
        }
    }

    /// Returns what has become of a transaction.
    ///
    /// # Errors
    /// [`Error::NoSuchTransaction`] if it never was, or ended long ago; and those of [`Error`].
    pub async fn transaction_status(
        &self,
        stream: &ScopedStream,
        transaction: TransactionId,
    ) -> Result<TransactionStatus, Error> {
        use txn_state::State;
        let request = request(stream, transaction, "");
        let reply = self
            .ask("checkTransactionState", move |mut api| {
                let request = request.clone();
                async move { api.check_transaction_state(request).await }
            })
            .await;
        match reply.map_err(|error| missing(error, stream))?.state() {
            State::Open => Ok(TransactionStatus::Open),
            State::Committing => Ok(TransactionStatus::Committing),
            State::Committed => Ok(TransactionStatus::Committed),
            State::Aborting => Ok(TransactionStatus::Aborting),
            State::Aborted => Ok(TransactionStatus::Aborted),
            State::Unknown => Err(gone(stream, transaction)),
        }
    }

    /// Lists the transactions of a stream that have not ended. Only our own controller answers this.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], [`Error::Unsupported`], and those of [`Error`].
    pub async fn open_transactions(
        &self,
        stream: &ScopedStream,
    ) -> Result<Vec<OpenTransaction>, Error> {
        let mut open = Vec::new();
        let mut after = String::new();
        loop {
            let request = OpenTransactionsRequest {
                scope: stream.scope.to_string(),
                stream: stream.stream.to_string(),
                after,
            };
            let reply = self
                .ask("openTransactions", |_| {
                    let (mut operations, request) = (self.operations.clone(), request.clone());
                    async move { operations.open_transactions(request).await }
                })
                .await;
            let page = reply.map_err(|error| missing(error, stream))?;
            open.extend(page.transactions.into_iter().map(|one| OpenTransaction {
                id: TransactionId::from_parts(one.high.cast_signed(), one.low.cast_signed()),
                status: match &*one.state {
                    "committing" => TransactionStatus::Committing,
                    "aborting" => TransactionStatus::Aborting,
                    _ => TransactionStatus::Open,
                },
                created_ms: one.created_ms,
                lease_ends_ms: Some(one.lease_ends_ms).filter(|ends| *ends != 0),
                life_ends_ms: one.life_ends_ms,
            }));
            after = page.next;
            if after.is_empty() {
                return Ok(open);
            }
        }
    }

    /// Lists the transactions of a stream that ended lately, with how.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn completed_transactions(
        &self,
        stream: &ScopedStream,
    ) -> Result<Vec<(TransactionId, TransactionStatus)>, Error> {
        let what = "listCompletedTransactions";
        let request = api::ListCompletedTxnRequest {
            stream_info: Some(stream.into()),
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.list_completed_transactions(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        let completed = reply.response.iter().map(|entry| {
            let id = api::convert::required(&entry.txn_id, "txn_id");
            let id = id.map_err(|error| self.broken(what, error))?;
            let status = match entry.status() {
                txn_response::Status::Committed => TransactionStatus::Committed,
                txn_response::Status::Aborted => TransactionStatus::Aborted,
            };
            Ok((TransactionId::from(id), status))
        });
        completed.collect()
    }
}

fn request(stream: &ScopedStream, transaction: TransactionId, writer: &str) -> api::TxnRequest {
    api::TxnRequest {
        stream_info: Some(stream.into()),
        txn_id: Some(transaction.into()),
        writer_id: writer.to_owned(),
        // Writers that note no time say so with this.
        timestamp: i64::MIN,
    }
}

fn gone(stream: &ScopedStream, transaction: TransactionId) -> Error {
    Error::NoSuchTransaction {
        stream: stream.to_string(),
        transaction: transaction.to_string(),
    }
}
