//! Calls on segments: create, seal, truncate, delete, describe, attributes.
//!
//! This is the retrying level of its path: lost connections, other owners and silence are met with
//! another attempt, with backoff and jitter, until the deadline of [`Retry`]. A call that must not be
//! done twice (compare-and-set, conditional table operations) is repeated only while it cannot have
//! arrived; after that it ends as [`Error::OutcomeUnknown`]. One that must not arrive late (puts without a
//! condition, which would undo what was put since) is repeated once the store has ended the connection,
//! but not past a store that keeps silent. Calls whose aim is already reached succeed.
//! Names are full segment names, like `scope/stream/0.#epoch.0`.

use std::sync::Arc;

use sarit_env::Rng;
use sarit_proto::ids::{AttributeId, Offset};
use sarit_proto::wire::{Command, Reply, command};

use super::Locate;
use crate::Error;
use crate::config::{Backoff, Retry};
use crate::connection::{Endpoint, Pool, Unsent};

/// Calls on segments, wherever they are served. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Segments {
    pub(super) pool: Pool,
    pub(super) locate: Arc<dyn Locate>,
    pub(super) retry: Retry,
    pub(super) rng: Rng,
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

/// Whether a request may be done twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// At any time.
    Safe,
    /// Twice, but not late: not while it may still be on its way.
    InOrder,
    /// Only if it was not done.
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

    /// Sends the request until it is answered, and turns failure replies into errors.
    pub(super) async fn ask(
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
            if matches!(error, Error::OutcomeUnknown { .. }) {
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
            Ok(Err(error)) => Err(match repeat {
                Repeat::Safe => error,
                // Nothing of what the peer has closed arrives any more.
                Repeat::InOrder if matches!(error, Error::Disconnected { .. }) => error,
                Repeat::InOrder | Repeat::Unsafe => Error::OutcomeUnknown { what },
            }),
            Ok(Ok(reply)) => match failure(&reply, connection.endpoint(), what) {
                Some(error) => Err(error),
                None => Ok((endpoint, reply)),
            },
        }
    }
}

/// A compare-and-set of an attribute; `NULL_ATTRIBUTE` stands for "not set".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeChange {
    /// The value it must have.
    pub expected: i64,
    /// The value it gets.
    pub new: i64,
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

pub(super) fn created(reply: Result<(Endpoint, Reply), Error>) -> Result<bool, Error> {
    match reply {
        Ok((_, Reply::SegmentCreated(_))) => Ok(true),
        Ok((_, Reply::SegmentAlreadyExists(_))) => Ok(false),
        other => Err(unexpected(other)),
    }
}

pub(super) fn deleted(reply: Result<(Endpoint, Reply), Error>) -> Result<bool, Error> {
    match reply {
        Ok((_, Reply::SegmentDeleted(_))) => Ok(true),
        Err(Error::NoSuchSegment(_)) => Ok(false),
        other => Err(unexpected(other)),
    }
}

/// An answer that is not one to the question.
pub(super) fn unexpected(reply: Result<(Endpoint, Reply), Error>) -> Error {
    match reply {
        Ok((endpoint, reply)) => Error::Protocol {
            endpoint,
            what: format!("unexpected {}", reply.name()),
        },
        Err(error) => error,
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
