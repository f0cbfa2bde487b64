//! One event at a time, each stored once however often it is tried: for the controller's own streams.
//!
//! For anything that should be fast there is the event writer; here every append sets its writer up
//! anew and waits for its own acknowledgement.

use bytes::{BufMut as _, Bytes, BytesMut};
use sarit_proto::event;
use sarit_proto::ids::{Offset, WriterId};
use sarit_proto::wire::field::EventFrame;
use sarit_proto::wire::{Reply, command};

use super::Segments;
use super::admin::failure;
use crate::Error;
use crate::config::Backoff;
use crate::connection::{Connection, Unsent};

/// An event with the number under which its writer stores it.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// Who writes; nobody else may write to the segment under this id at the same time.
    pub writer: WriterId,
    /// Rises by event, from 1 on.
    pub number: i64,
    /// The event, without its header.
    pub payload: Bytes,
}

impl Segments {
    /// Appends an event, unless the segment has it. Durable on return.
    ///
    /// # Errors
    /// [`Error::SegmentSealed`], [`Error::NoSuchSegment`], and those of [`Error`]: then it may have been
    /// stored; the same call again finds out.
    pub async fn append_once(&self, segment: &str, event: &Numbered) -> Result<(), Error> {
        let header = event::header(event.payload.len()).map_err(|error| Error::Refused {
            what: "append",
            message: error.to_string(),
        })?;
        let mut data = BytesMut::with_capacity(header.len() + event.payload.len());
        data.put_slice(&header);
        data.put_slice(&event.payload);
        let data = data.freeze();
        let mut backoff = Backoff::new(&self.retry, &self.rng);
        loop {
            let error = match self.append_at_once(segment, event, data.clone()).await {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            self.locate.forget(segment);
            backoff.pause(error).await?;
        }
    }

    /// Appends an event if the segment ends at `expected`; returns whether it did. Durable on return. Where
    /// an answer was lost, it may say no although this very event was appended: look at the segment.
    ///
    /// # Errors
    /// [`Error::SegmentSealed`], [`Error::NoSuchSegment`], and those of [`Error`].
    pub async fn append_at(
        &self,
        segment: &str,
        expected: Offset,
        payload: &[u8],
    ) -> Result<bool, Error> {
        let header = event::header(payload.len()).map_err(|error| Error::Refused {
            what: "append",
            message: error.to_string(),
        })?;
        let data: Bytes = [&header[..], payload].concat().into();
        let mut backoff = Backoff::new(&self.retry, &self.rng);
        loop {
            let error = match self.append_there(segment, expected, data.clone()).await {
                Err(error) if error.is_retryable() => error,
                done => return done,
            };
            self.locate.forget(segment);
            backoff.pause(error).await?;
        }
    }

    async fn append_there(
        &self,
        segment: &str,
        expected: Offset,
        data: Bytes,
    ) -> Result<bool, Error> {
        let endpoint = self.locate.locate(segment).await?;
        let connection = self.pool.get(&endpoint).await?;
        // Of this try alone: what decides is the length.
        let writer_id = WriterId(self.rng.u128());
        let set_up = |request_id| {
            command::SetupAppend {
                request_id,
                writer_id,
                segment: segment.to_owned(),
                token: String::new(),
            }
            .into()
        };
        match ask(&connection, "SetupAppend", set_up).await? {
            Reply::AppendSetup(_) => {}
            other => return Err(unexpected(&other)),
        }
        let append = |request_id| {
            command::ConditionalAppend {
                writer_id,
                event_number: 1,
                expected_offset: expected.0 as i64,
                event: EventFrame(data),
                request_id,
            }
            .into()
        };
        match ask(&connection, "ConditionalAppend", append).await? {
            Reply::DataAppended(_) => Ok(true),
            Reply::ConditionalCheckFailed(_) => Ok(false),
            other => Err(unexpected(&other)),
        }
    }

    async fn append_at_once(
        &self,
        segment: &str,
        event: &Numbered,
        data: Bytes,
    ) -> Result<(), Error> {
        let endpoint = self.locate.locate(segment).await?;
        let connection = self.pool.get(&endpoint).await?;
        let set_up = |request_id| {
            command::SetupAppend {
                request_id,
                writer_id: event.writer,
                segment: segment.to_owned(),
                token: String::new(),
            }
            .into()
        };
        let last = match ask(&connection, "SetupAppend", set_up).await? {
            Reply::AppendSetup(reply) => reply.last_event_number,
            other => return Err(unexpected(&other)),
        };
        if last >= event.number {
            return Ok(());
        }
        let append = |request_id| {
            command::AppendBlockEnd {
                writer_id: event.writer,
                size_of_whole_events: data.len() as i32,
                data: data.into(),
                num_events: 1,
                last_event_number: event.number,
                request_id,
            }
            .into()
        };
        match ask(&connection, "AppendBlockEnd", append).await? {
            Reply::DataAppended(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

async fn ask(
    connection: &Connection,
    what: &'static str,
    build: impl FnOnce(i64) -> sarit_proto::wire::Command,
) -> Result<Reply, Error> {
    let answer = connection.call(build).await;
    let reply = answer.map_err(|Unsent(error)| error)??;
    match failure(&reply, connection.endpoint(), what) {
        Some(error) => Err(error),
        None => Ok(reply),
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Refused {
        what: "append",
        message: format!("answered with {}", reply.name()),
    }
}
