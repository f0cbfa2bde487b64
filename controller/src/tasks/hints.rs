//! Index rows that may be stale: tags, streams to be retained, subscriptions.
//!
//! A row is believed only as far as the record it points to agrees, so rows may be written a little
//! early and removed a little late, and as many as there are, in transactions of their own. The few
//! of an ordinary change ride in the transaction that needs them.

use std::collections::BTreeSet;

use bytes::Bytes;
use sarit_proto::controller::{ReaderGroupConfiguration, StreamConfig, StreamInfo};
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};

use super::{Context, Error, Result};
use crate::store::records::{Subscriber, encode};
use crate::store::{OPERATIONS_MAX, Operation, Transaction, keys};

/// Operations that the transaction itself may need.
const RESERVED: usize = 30;

/// One row to write or to remove.
pub(super) type Hint = (String, Operation);

/// Adds the rows to `transaction` if they are few; else writes them first.
pub(super) async fn with_hints(
    context: &Context,
    mut transaction: Transaction,
    hints: Vec<Hint>,
) -> Result<Transaction> {
    if hints.len() <= OPERATIONS_MAX - RESERVED {
        transaction.operations.extend(hints);
        return Ok(transaction);
    }
    for some in hints.chunks(OPERATIONS_MAX) {
        let mut chunk = Transaction::new();
        chunk.operations.extend_from_slice(some);
        let _unconditional = context.catalog.store.commit(chunk).await?;
    }
    Ok(transaction)
}

/// Returns the changes of tag rows and of the row of streams to be retained from one configuration to
/// another, either of which may be missing.
pub(super) fn tags(
    stream: &ScopedStream,
    before_config: Option<&StreamConfig>,
    after_config: Option<&StreamConfig>,
) -> Vec<Hint> {
    let (before, after) = (tags_of(before_config), tags_of(after_config));
    let added = after.difference(&before);
    let added = added.map(|tag| (keys::tag(stream, tag), Operation::Put(Bytes::new())));
    let removed = before.difference(&after);
    let removed = removed.map(|tag| (keys::tag(stream, tag), Operation::Delete));
    let retained = |config: Option<&StreamConfig>| {
        config.is_some_and(|config| config.retention_policy.is_some())
    };
    let retention = match (retained(before_config), retained(after_config)) {
        (false, true) => Some(Operation::Put(Bytes::new())),
        (true, false) => Some(Operation::Delete),
        _ => None,
    };
    let retention = retention.map(|operation| (keys::retention(stream), operation));
    added.chain(removed).chain(retention).collect()
}

fn tags_of(config: Option<&StreamConfig>) -> BTreeSet<&str> {
    let tags = config.and_then(|config| config.tags.as_ref()).into_iter();
    tags.flat_map(|tags| tags.tag.iter().map(String::as_str))
        .collect()
}

/// Returns the streams that a group keeps from being truncated beyond what it has read.
///
/// # Errors
/// If a stream's name is none.
pub(crate) fn subscriptions(config: &ReaderGroupConfiguration) -> Result<BTreeSet<ScopedStream>> {
    if config.retention_type == 0 {
        return Ok(BTreeSet::new());
    }
    let streams = config.starting_stream_cuts.iter();
    streams
        .map(|cut| stream_named(cut.stream_info.as_ref()))
        .collect()
}

/// Reads the name of a stream that need not exist.
pub(crate) fn stream_named(info: Option<&StreamInfo>) -> Result<ScopedStream> {
    let info = info.ok_or_else(|| Error::Invalid("a stream is not named".to_owned()))?;
    let invalid = |error: sarit_proto::names::NameError| Error::Invalid(error.to_string());
    Ok(ScopedStream {
        scope: ScopeName::occurring(&info.scope).map_err(invalid)?,
        stream: StreamName::occurring(&info.stream).map_err(invalid)?,
    })
}

/// Returns the changes of subscription rows from one configuration of a group to another.
pub(super) fn subscribers(
    group: &str,
    before: Option<&ReaderGroupConfiguration>,
    after: Option<&ReaderGroupConfiguration>,
) -> Result<Vec<Hint>> {
    let streams = |config: Option<&_>| config.map(subscriptions).transpose();
    let subscribed = streams(before)?.unwrap_or_default();
    let wanted = streams(after)?.unwrap_or_default();
    let id = after.map(|config| config.reader_group_id.clone());
    let row = encode(&Subscriber {
        reader_group_id: id.unwrap_or_default(),
        ..Subscriber::default()
    });
    let added = wanted.difference(&subscribed);
    let added = added.map(|stream| {
        let put = Operation::Put(row.clone());
        (keys::subscriber(stream, group), put)
    });
    let removed = subscribed.difference(&wanted);
    let removed = removed.map(|stream| (keys::subscriber(stream, group), Operation::Delete));
    Ok(added.chain(removed).collect())
}
