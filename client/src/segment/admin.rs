//! Calls on segments: create, seal, truncate, delete, describe, attributes, tables.
//!
//! This is the retrying level of its path: lost connections, other owners and silence are met with
//! another attempt, with backoff and jitter, until the deadline of [`Retry`]. A call that must not be
//! done twice (compare-and-set, conditional table operations) is repeated only while it cannot have
//! arrived; after that it ends as [`Error::OutcomeUnknown`]. Calls whose aim is already reached succeed.
//! Names are full segment names, like `scope/stream/0.#epoch.0`.

use std::sync::Arc;

use bytes::Bytes;
use sarit_env::Rng;
use sarit_proto::ids::{AttributeId, Offset};
use sarit_proto::wire::field::{IteratorArgs, TableEntry, TableKey};
use sarit_proto::wire::{Command, Reply, command};

use super::Locate;
use crate::Error;
use crate::config::{Backoff, Retry};
use crate::connection::{Endpoint, Pool, Unsent};

/// Calls on segments, wherever they are served. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Segments {
    pool: Pool,
    locate: Arc<dyn Locate>,
    retry: Retry,
    rng: Rng,
}

/// A segment's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first byte still kept.
    pub start: Offset,
    /// The offset after its last byte.
    pub length: Offset,
    /// Whether it takes no more appends.
    pub sealed: bool,
    /// When it last changed, in milliseconds since the Unix epoch, as far as the store knows.
    pub last_modified_ms: i64,
}

/// How a segment's load is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentPolicy {
    /// 0 not at all, 1 by KB/s, 2 by events/s.
    pub scale_type: u8,
    /// The rate aimed at, in that unit.
    pub target_rate: i32,
}

/// What a table segment's keys look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKeys {
    /// Any length; pages come in no order and are resumed by token.
    AnyLength,
    /// All of this many bytes, 1 to 256; pages are sorted and may have bounds.
    Fixed(u16),
}

/// Which page of a table to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where the previous page ended; empty at first. Only with [`TableKeys::AnyLength`].
    pub token: Bytes,
    /// First key, inclusive; empty for the very first. Only with [`TableKeys::Fixed`].
    pub from_key: Bytes,
    /// Last key, inclusive; empty for the very last. Only with [`TableKeys::Fixed`].
    pub to_key: Bytes,
    /// How many entries to aim at.
    pub count: i32,
}

/// What changed in a table since a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDelta {
    /// The latest entry of each key that changed.
    pub entries: Vec<TableEntry>,
    /// Whether older knowledge must be thrown away first.
    pub should_clear: bool,
    /// Whether nothing is left to read.
    pub reached_end: bool,
    /// Where to go on.
    pub last_position: i64,
}

/// A table segment's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// The first offset kept.
    pub start: Offset,
    /// The offset after the last byte.
    pub length: Offset,
    /// Entries, as far as they are counted yet.
    pub entries: i64,
    /// Bytes of a key, 0 for any.
    pub key_length: i32,
}

/// Whether a request may be done twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Safe,
    Unsafe,
}

impl Segments {
    /// Creates the calls over `pool`; `locate` says who serves a segment.
    pub fn new(pool: Pool, locate: Arc<dyn Locate>, retry: Retry, rng: Rng) -> Self {
        Self {
            pool,
            locate,
            retry,
            rng,
        }
    }

    /// Creates a segment for events or bytes. Returns whether it is new; an existing one is left alone.
    ///
    /// # Errors
    /// Those of [`Error`]; after a retry a segment made by this very call counts as existing.
    pub async fn create(&self, segment: &str, policy: SegmentPolicy) -> Result<bool, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::CreateSegment {
                    request_id,
                    segment: segment.to_owned(),
                    target_rate: policy.target_rate,
                    scale_type: policy.scale_type,
                    token: String::new(),
                    rollover_size: 0,
                }
                .into()
            })
            .await;
        created(reply)
    }

    /// Creates a table segment. Returns whether it is new; an existing one is left alone.
    ///
    /// # Errors
    /// [`Error::Refused`] for an impossible key length, and those of [`Error`].
    pub async fn create_table(&self, segment: &str, keys: TableKeys) -> Result<bool, Error> {
        let key_length = match keys {
            TableKeys::AnyLength => 0,
            TableKeys::Fixed(length) => i32::from(length),
        };
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::CreateTableSegment {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    sorted: false,
                    key_length,
                    rollover_size: 0,
                }
                .into()
            })
            .await;
        created(reply)
    }

    /// Ends a segment; a sealed one stays so.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn seal(&self, segment: &str) -> Result<(), Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::SealSegment {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::SegmentSealed(_))) | Err(Error::SegmentSealed(_)) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Drops everything below `offset`; what is dropped already stays so.
    ///
    /// # Errors
    /// [`Error::SegmentTruncated`] if `offset` is behind the segment's end; [`Error::NoSuchSegment`].
    pub async fn truncate(&self, segment: &str, offset: Offset) -> Result<(), Error> {
        let truncation_offset = signed(offset);
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::TruncateSegment {
                    request_id,
                    segment: segment.to_owned(),
                    truncation_offset,
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::SegmentTruncated(_))) => Ok(()),
            Err(Error::SegmentTruncated { start, .. }) if truncation_offset <= start => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Deletes a segment, a table segment too. Returns whether it was there.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn delete(&self, segment: &str) -> Result<bool, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::DeleteSegment {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                }
                .into()
            })
            .await;
        deleted(reply)
    }

    /// Deletes a table segment, if asked only an empty one. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::TableNotEmpty`], and those of [`Error`].
    pub async fn delete_table(&self, segment: &str, only_if: Emptiness) -> Result<bool, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::DeleteTableSegment {
                    request_id,
                    segment: segment.to_owned(),
                    must_be_empty: only_if == Emptiness::Empty,
                    token: String::new(),
                }
                .into()
            })
            .await;
        deleted(reply)
    }

    /// Describes a segment.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn info(&self, segment: &str) -> Result<SegmentInfo, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::GetStreamSegmentInfo {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::StreamSegmentInfo(info))) if info.exists && !info.is_deleted => {
                Ok(SegmentInfo {
                    start: unsigned(info.start_offset),
                    length: unsigned(info.write_offset),
                    sealed: info.is_sealed,
                    last_modified_ms: info.last_modified,
                })
            }
            Ok((_, Reply::StreamSegmentInfo(_))) => Err(Error::NoSuchSegment(segment.to_owned())),
            other => Err(unexpected(other)),
        }
    }

    /// Reads an attribute; `NULL_ATTRIBUTE` if it was never set.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn attribute(&self, segment: &str, id: AttributeId) -> Result<i64, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::GetSegmentAttribute {
                    request_id,
                    segment: segment.to_owned(),
                    attribute_id: id,
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::SegmentAttribute(attribute))) => Ok(attribute.value),
            other => Err(unexpected(other)),
        }
    }

    /// Sets an attribute if it has the expected value. Returns whether it had.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if the reply was lost: read it. [`Error::SegmentSealed`],
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn update_attribute(
        &self,
        segment: &str,
        id: AttributeId,
        change: AttributeChange,
    ) -> Result<bool, Error> {
        let reply = self
            .ask(segment, Repeat::Unsafe, |request_id| {
                command::UpdateSegmentAttribute {
                    request_id,
                    segment: segment.to_owned(),
                    attribute_id: id,
                    new_value: change.new,
                    expected_value: change.expected,
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::SegmentAttributeUpdated(updated))) => Ok(updated.success),
            other => Err(unexpected(other)),
        }
    }

    /// Changes how a segment's load is judged.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], [`Error::SegmentSealed`], and those of [`Error`].
    pub async fn update_policy(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::UpdateSegmentPolicy {
                    request_id,
                    segment: segment.to_owned(),
                    target_rate: policy.target_rate,
                    scale_type: policy.scale_type,
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::SegmentPolicyUpdated(_))) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Puts entries into a table, all or none; a key's version is a condition. Returns the new versions.
    ///
    /// # Errors
    /// [`Error::KeyBadVersion`], [`Error::KeyDoesNotExist`]; [`Error::OutcomeUnknown`] if there was a
    /// condition and the reply was lost; and those of [`Error`].
    pub async fn table_update(
        &self,
        segment: &str,
        entries: Vec<TableEntry>,
    ) -> Result<Vec<i64>, Error> {
        let repeat = repeat_of(entries.iter().map(|entry| &entry.key));
        let reply = self
            .ask(segment, repeat, |request_id| {
                command::UpdateTableEntries {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    entries: entries.clone(),
                    expected_length: -1,
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableEntriesUpdated(updated))) => Ok(updated.versions),
            other => Err(unexpected(other)),
        }
    }

    /// Removes keys from a table, all or none; a key's version is a condition.
    ///
    /// # Errors
    /// As [`Segments::table_update`].
    pub async fn table_remove(&self, segment: &str, keys: Vec<TableKey>) -> Result<(), Error> {
        let repeat = repeat_of(keys.iter());
        let reply = self
            .ask(segment, repeat, |request_id| {
                command::RemoveTableKeys {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    keys: keys.clone(),
                    expected_length: -1,
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableKeysRemoved(_))) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Reads the values of `keys`, one per key in their order; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn table_read(
        &self,
        segment: &str,
        keys: Vec<Bytes>,
    ) -> Result<Vec<Option<TableEntry>>, Error> {
        let wanted = keys.len();
        let keys: Vec<_> = keys.into_iter().map(unconditional).collect();
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTable {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    keys: keys.clone(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableRead(read))) if read.entries.len() == wanted => Ok(read
                .entries
                .into_iter()
                .map(|entry| (entry.key.version != TableKey::NOT_EXISTS).then_some(entry))
                .collect()),
            other => Err(unexpected(other)),
        }
    }

    /// Reads a page of keys with their versions, and the token of the next page. No keys: the end.
    ///
    /// # Errors
    /// [`Error::Refused`] if token or bounds don't fit the table, and those of [`Error`].
    pub async fn table_keys(
        &self,
        segment: &str,
        page: Page,
    ) -> Result<(Vec<TableKey>, Bytes), Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTableKeys {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    suggested_count: page.count,
                    args: page.args(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableKeysRead(read))) => Ok((read.keys, read.continuation_token)),
            other => Err(unexpected(other)),
        }
    }

    /// Reads a page of entries, and the token of the next page. No entries: the end.
    ///
    /// # Errors
    /// As [`Segments::table_keys`].
    pub async fn table_entries(
        &self,
        segment: &str,
        page: Page,
    ) -> Result<(Vec<TableEntry>, Bytes), Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTableEntries {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    suggested_count: page.count,
                    args: page.args(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableEntriesRead(read))) => Ok((read.entries, read.continuation_token)),
            other => Err(unexpected(other)),
        }
    }

    /// Reads what changed in a table since `from`, about `count` entries.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for tables of fixed key length, and those of [`Error`].
    pub async fn table_delta(
        &self,
        segment: &str,
        from: i64,
        count: i32,
    ) -> Result<TableDelta, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::ReadTableEntriesDelta {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                    from_position: from,
                    suggested_count: count,
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableEntriesDeltaRead(read))) => Ok(TableDelta {
                entries: read.entries,
                should_clear: read.should_clear,
                reached_end: read.reached_end,
                last_position: read.last_position,
            }),
            other => Err(unexpected(other)),
        }
    }

    /// Reads a table segment's numbers.
    ///
    /// # Errors
    /// [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn table_info(&self, segment: &str) -> Result<TableInfo, Error> {
        let reply = self
            .ask(segment, Repeat::Safe, |request_id| {
                command::GetTableSegmentInfo {
                    request_id,
                    segment: segment.to_owned(),
                    token: String::new(),
                }
                .into()
            })
            .await;
        match reply {
            Ok((_, Reply::TableSegmentInfo(info))) => Ok(TableInfo {
                start: unsigned(info.start_offset),
                length: unsigned(info.length),
                entries: info.entry_count,
                key_length: info.key_length,
            }),
            other => Err(unexpected(other)),
        }
    }

    /// Sends the request until it is answered, and turns failure replies into errors.
    async fn ask(
        &self,
        segment: &str,
        repeat: Repeat,
        build: impl Fn(i64) -> Command,
    ) -> Result<(Endpoint, Reply), Error> {
        let mut backoff = Backoff::new(&self.retry, &self.rng);
        loop {
            let error = match self.ask_once(segment, repeat, &build).await {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            if repeat == Repeat::Unsafe && matches!(error, Error::OutcomeUnknown { .. }) {
                return Err(error);
            }
            self.locate.forget(segment);
            backoff.pause(error).await?;
        }
    }

    async fn ask_once(
        &self,
        segment: &str,
        repeat: Repeat,
        build: impl Fn(i64) -> Command,
    ) -> Result<(Endpoint, Reply), Error> {
        let endpoint = self.locate.locate(segment).await?;
        let connection = self.pool.get(&endpoint).await?;
        let mut what = "";
        let answer = connection
            .call(|request_id| {
                let command = build(request_id);
                what = command.name();
                command
            })
            .await;
        match answer {
            Err(Unsent(error)) => Err(error),
            Ok(Err(_)) if repeat == Repeat::Unsafe => Err(Error::OutcomeUnknown { what }),
            Ok(Err(error)) => Err(error),
            Ok(Ok(reply)) => match failure(&reply, connection.endpoint(), what) {
                Some(error) => Err(error),
                None => Ok((endpoint, reply)),
            },
        }
    }
}

/// Whether a table may be deleted with entries in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptiness {
    /// Only without entries.
    Empty,
    /// With whatever is in it.
    Any,
}

/// A compare-and-set of an attribute; `NULL_ATTRIBUTE` stands for "not set".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeChange {
    /// The value it must have.
    pub expected: i64,
    /// The value it gets.
    pub new: i64,
}

impl Page {
    fn args(&self) -> IteratorArgs {
        IteratorArgs {
            continuation_token: self.token.clone(),
            prefix: Bytes::new(),
            from_key: self.from_key.clone(),
            to_key: self.to_key.clone(),
        }
    }
}

/// The error that a failure reply stands for; `None` if the reply is not a failure.
pub(crate) fn failure(reply: &Reply, endpoint: &Endpoint, what: &'static str) -> Option<Error> {
    Some(match reply {
        Reply::WrongHost(reply) => Error::WrongHost {
            segment: reply.segment.clone(),
            endpoint: endpoint.clone(),
        },
        Reply::SegmentIsSealed(reply) => Error::SegmentSealed(reply.segment.clone()),
        Reply::NoSuchSegment(reply) => Error::NoSuchSegment(reply.segment.clone()),
        Reply::SegmentIsTruncated(reply) => Error::SegmentTruncated {
            segment: reply.segment.clone(),
            given: reply.offset,
            start: reply.start_offset,
        },
        Reply::OperationUnsupported(reply) => Error::Unsupported(reply.operation.clone()),
        Reply::AuthTokenCheckFailed(reply) => Error::Unauthorized {
            what,
            message: format!("token refused, code {}", reply.error_code),
        },
        Reply::ErrorMessage(reply) => Error::Refused {
            what,
            message: reply.message.clone(),
        },
        Reply::TableSegmentNotEmpty(reply) => Error::TableNotEmpty(reply.segment.clone()),
        Reply::TableKeyDoesNotExist(reply) => Error::KeyDoesNotExist(reply.segment.clone()),
        Reply::TableKeyBadVersion(reply) => Error::KeyBadVersion(reply.segment.clone()),
        Reply::InvalidEventNumber(reply) => Error::Refused {
            what,
            message: format!("event number {} went backwards", reply.event_number),
        },
        _ => return None,
    })
}

fn created(reply: Result<(Endpoint, Reply), Error>) -> Result<bool, Error> {
    match reply {
        Ok((_, Reply::SegmentCreated(_))) => Ok(true),
        Ok((_, Reply::SegmentAlreadyExists(_))) => Ok(false),
        other => Err(unexpected(other)),
    }
}

fn deleted(reply: Result<(Endpoint, Reply), Error>) -> Result<bool, Error> {
    match reply {
        Ok((_, Reply::SegmentDeleted(_))) => Ok(true),
        Err(Error::NoSuchSegment(_)) => Ok(false),
        other => Err(unexpected(other)),
    }
}

/// An answer that is not one to the question.
fn unexpected(reply: Result<(Endpoint, Reply), Error>) -> Error {
    match reply {
        Ok((endpoint, reply)) => Error::Protocol {
            endpoint,
            what: format!("unexpected {}", reply.name()),
        },
        Err(error) => error,
    }
}

fn unconditional(key: Bytes) -> TableKey {
    TableKey {
        key,
        version: TableKey::NO_VERSION,
    }
}

fn repeat_of<'a>(mut keys: impl Iterator<Item = &'a TableKey>) -> Repeat {
    if keys.all(|key| key.version == TableKey::NO_VERSION) {
        Repeat::Safe
    } else {
        Repeat::Unsafe
    }
}

pub(crate) fn signed(offset: Offset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(offset: i64) -> Offset {
    Offset(u64::try_from(offset).unwrap_or(0))
}

#[cfg(test)]
mod tests;
