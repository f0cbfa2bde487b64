//! Every command but appends → one call on a container → one reply.
//!
//! What needs no container is checked here: names, offsets, lengths, the size of answers. A dropped
//! request may still happen: its container finishes what it has begun.

mod merge;
mod table;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sarit_container::{Container, Error, Kind, Permit, Turn, Turns};
use sarit_proto::ids::{AttributeId, Offset};
use sarit_proto::wire::command::{CreateSegment, ReadSegment, TruncateSegment};
use sarit_proto::wire::reply::{
    OffsetLocated, SegmentAttribute, SegmentAttributeUpdated, SegmentCreated, SegmentDeleted,
    SegmentPolicyUpdated, SegmentRead, SegmentSealed, SegmentTruncated, StreamSegmentInfo,
};
use sarit_proto::wire::{Command, HEADER, PAYLOAD_MAX, Reply};
use tokio_util::sync::CancellationToken;

use crate::host::{Host, Unavailable};
use crate::reply::{Close, Refused, unsupported, wrong_host};

/// Longest segment name: two names of 255 bytes and the longest prefix and suffixes there are.
const SEGMENT_BYTES_MAX: usize = 2 * 255 + 256;
/// Most bytes one read returns.
const READ_BYTES_MAX: usize = 2 << 20;
/// What a read that asks for nothing gets.
const READ_BYTES_UNASKED: usize = 8;

/// The answer to a request, or the reason to close the connection instead.
pub(crate) type Answer = Result<Reply, Close>;

/// An answer, and the turn that it holds if it may be a large one.
pub(crate) type Turned = (Answer, Option<Turn>);

/// How a request is served.
pub(crate) struct Terms {
    pub(crate) host: Arc<Host>,
    /// How long a read at the tail may wait.
    pub(crate) read_wait: Duration,
    /// Ends waiting reads with an empty answer.
    pub(crate) stop: CancellationToken,
    /// Memory held until the answer is there.
    pub(crate) permit: Option<Permit>,
    /// The connection's, for answers that may be large.
    pub(crate) turns: Turns,
    /// The name of the transient segment to create.
    pub(crate) transient: Option<String>,
}

/// Starts a request. Dropping the future takes a waiting read back.
pub(crate) fn serve(command: Command, terms: Terms) -> BoxFuture<'static, Turned> {
    async move {
        let what = What::of(&command);
        let refused = what.unbuilt(&command).or_else(|| what.check().err());
        let mut turn = None;
        let answer = match refused {
            Some(refusal) => Ok(refusal),
            None => what.answer(command, &terms, &mut turn).await,
        };
        drop(terms.permit);
        (answer.map(|reply| what.bounded(reply)), turn)
    }
    .boxed()
}

/// Returns whether the answer may be a large one. A read takes its turn when there is something to fetch.
fn lists(command: &Command) -> bool {
    matches!(
        command,
        Command::ReadTable(_)
            | Command::ReadTableKeys(_)
            | Command::ReadTableEntries(_)
            | Command::ReadTableEntriesDelta(_)
    )
}

/// Returns whether the command is a read that may wait.
pub(crate) fn is_read(command: &Command) -> bool {
    matches!(command, Command::ReadSegment(_))
}

/// Checks a segment's name: any text that can't leave its place.
pub(crate) fn check_segment(segment: &str) -> Result<(), String> {
    if segment.is_empty() {
        return Err("segment name is empty".to_owned());
    }
    if segment.len() > SEGMENT_BYTES_MAX {
        let bytes = segment.len();
        return Err(format!(
            "segment name has {bytes} bytes, at most {SEGMENT_BYTES_MAX} are allowed"
        ));
    }
    if segment.chars().any(char::is_control) {
        return Err("segment name contains a control character".to_owned());
    }
    if segment
        .split('/')
        .any(|part| matches!(part, "" | "." | ".."))
    {
        return Err("segment name has a part that is empty, '.' or '..'".to_owned());
    }
    Ok(())
}

/// What every reply repeats of its request.
struct What {
    request_id: i64,
    segment: String,
    /// What refusals carry as offset.
    offset: i64,
}

macro_rules! what {
    ($command:expr; $($name:ident),*; $($target:ident),*; $($other:ident),*) => {
        match $command {
            $(Command::$name(c) => (c.request_id, c.segment.clone()),)*
            $(Command::$target(c) => (c.request_id, c.target.clone()),)*
            $(Command::$other(c) => (c.request_id, String::new()),)*
            Command::CreateTransientSegment(c) => (c.request_id, c.parent.clone()),
            Command::ConditionalAppend(c) => (c.request_id, String::new()),
            Command::ConditionalBlockEnd(c) => (c.request_id, String::new()),
            Command::AppendBlockEnd(c) => (c.request_id, String::new()),
            Command::Hello(_) | Command::KeepAlive(_) | Command::Padding(_)
            | Command::AppendBlock(_) => (-1, String::new()),
        }
    };
}

impl What {
    fn of(command: &Command) -> Self {
        let (request_id, segment) = what!(command;
            SetupAppend, ReadSegment, GetStreamSegmentInfo, GetSegmentAttribute,
            UpdateSegmentAttribute, LocateOffset, CreateSegment, SealSegment, TruncateSegment,
            DeleteSegment, UpdateSegmentPolicy, GetTableSegmentInfo, CreateTableSegment,
            DeleteTableSegment, UpdateTableEntries, RemoveTableKeys, ReadTable, ReadTableKeys,
            ReadTableEntries, ReadTableEntriesDelta, ListStorageChunks;
            MergeSegments, MergeSegmentsBatch;
            FlushToStorage
        );
        let offset = match command {
            Command::ReadSegment(read) => read.offset,
            Command::TruncateSegment(truncate) => truncate.truncation_offset,
            Command::UpdateTableEntries(update) => update.expected_length,
            Command::RemoveTableKeys(remove) => remove.expected_length,
            _ => -1,
        };
        Self {
            request_id,
            segment,
            offset,
        }
    }

    fn check(&self) -> Result<(), Reply> {
        check_segment(&self.segment).map_err(|message| self.illegal(message))
    }

    async fn answer(&self, command: Command, terms: &Terms, turn: &mut Option<Turn>) -> Answer {
        let container = match terms.host.serving(terms.host.owner(&self.segment)).await {
            Ok(container) => container,
            Err(Unavailable::Refused(why)) => {
                return Ok(Refused::unspecified(
                    self.request_id,
                    &self.segment,
                    why.to_string(),
                ));
            }
            Err(Unavailable::Elsewhere) => return Ok(wrong_host(self.request_id, &self.segment)),
            Err(Unavailable::Stopping) if is_read(&command) => return Ok(self.nothing_yet()),
            Err(Unavailable::Stopping) => return Err(Close::Container),
        };
        let (request_id, segment) = (self.request_id, self.segment.clone());
        if lists(&command) {
            *turn = Some(terms.turns.take().await);
        }
        let result = match command {
            Command::ReadSegment(read) => self.read(&container, read, terms, turn).await,
            Command::GetStreamSegmentInfo(_) => self.info(&container).await,
            Command::LocateOffset(locate) => self.locate(&container, locate.target_offset).await,
            Command::GetSegmentAttribute(get) => container
                .attribute(&segment, get.attribute_id)
                .await
                .map(|value| SegmentAttribute { request_id, value }.into()),
            Command::UpdateSegmentAttribute(set) => container
                .update_attribute(
                    &segment,
                    set.attribute_id,
                    set.new_value,
                    set.expected_value,
                )
                .await
                .map(|success| {
                    SegmentAttributeUpdated {
                        request_id,
                        success,
                    }
                    .into()
                }),
            Command::CreateSegment(create) => self.create(&container, &create).await,
            Command::CreateTransientSegment(_) => self.create_transient(&container, terms).await,
            Command::SealSegment(_) => container.seal(&segment).await.map(|_| {
                SegmentSealed {
                    request_id,
                    segment,
                }
                .into()
            }),
            Command::TruncateSegment(truncate) => self.truncate(&container, &truncate).await,
            Command::DeleteSegment(_) => container.delete(&segment).await.map(|()| {
                SegmentDeleted {
                    request_id,
                    segment,
                }
                .into()
            }),
            Command::UpdateSegmentPolicy(policy) => container
                .update_policy(&segment, policy.scale_type, policy.target_rate)
                .await
                .map(|()| {
                    SegmentPolicyUpdated {
                        request_id,
                        segment,
                    }
                    .into()
                }),
            Command::GetTableSegmentInfo(_) => self.table_info(&container).await,
            Command::CreateTableSegment(create) => self.create_table(&container, &create).await,
            Command::DeleteTableSegment(delete) => container
                .delete_table(&segment, delete.must_be_empty)
                .await
                .map(|()| {
                    SegmentDeleted {
                        request_id,
                        segment,
                    }
                    .into()
                }),
            Command::UpdateTableEntries(update) => self.update_table(&container, update).await,
            Command::RemoveTableKeys(remove) => self.remove_keys(&container, remove).await,
            Command::ReadTable(read) => self.read_table(&container, &read.keys).await,
            Command::ReadTableKeys(read) => {
                self.table_keys(&container, read.suggested_count, read.args)
                    .await
            }
            Command::ReadTableEntries(read) => {
                self.table_entries(&container, read.suggested_count, read.args)
                    .await
            }
            Command::ReadTableEntriesDelta(delta) => self.delta(&container, &delta).await,
            Command::MergeSegments(merge) => return self.merge(&container, merge, terms).await,
            Command::MergeSegmentsBatch(merge) => self.merge_batch(&container, merge, terms).await,
            other => Ok(unsupported(request_id, other.name())),
        };
        result.or_else(|error| self.refused(error))
    }

    /// Answers what this release does not do yet.
    fn unbuilt(&self, command: &Command) -> Option<Reply> {
        let operation = match command {
            Command::FlushToStorage(_) | Command::ListStorageChunks(_) => "not served on this port",
            _ => return None,
        };
        Some(unsupported(self.request_id, operation))
    }

    async fn read(
        &self,
        container: &Container,
        read: ReadSegment,
        terms: &Terms,
        turn: &mut Option<Turn>,
    ) -> Result<Reply, Error> {
        let Ok(offset) = u64::try_from(read.offset) else {
            return Ok(self.illegal(format!("read at offset {}", read.offset)));
        };
        // The protocol's own lower bound of 8 gives clients more than they asked for, which they
        // do not survive.
        let max = usize::try_from(read.suggested_length).unwrap_or(0);
        let max = if max == 0 {
            READ_BYTES_UNASKED
        } else {
            max.min(READ_BYTES_MAX)
        };
        let (segment, offset) = (&self.segment, Offset(offset));
        let read = container.read_in_turn(segment, offset, max, terms.read_wait, &terms.turns);
        let data = tokio::select! {
            biased;
            data = read => data,
            () = terms.stop.cancelled() => return Ok(self.nothing_yet()),
        };
        match data {
            Ok((read, taken)) => {
                *turn = taken;
                Ok(self.segment_read(read.data, read.at_tail, read.end_of_segment))
            }
            Err(Error::Stopping) => Ok(self.nothing_yet()),
            Err(error) => Err(error),
        }
    }

    /// The client asks again.
    fn nothing_yet(&self) -> Reply {
        self.segment_read(Bytes::new(), true, false)
    }

    fn segment_read(&self, data: Bytes, at_tail: bool, end_of_segment: bool) -> Reply {
        let (request_id, segment, offset) = (self.request_id, self.segment.clone(), self.offset);
        SegmentRead {
            segment,
            offset,
            at_tail,
            end_of_segment,
            data,
            request_id,
        }
        .into()
    }

    async fn info(&self, container: &Container) -> Result<Reply, Error> {
        let info = container.info(&self.segment).await?;
        let reply = StreamSegmentInfo {
            request_id: self.request_id,
            segment: self.segment.clone(),
            exists: true,
            is_sealed: info.sealed,
            is_deleted: false,
            last_modified: info.last_modified_ms,
            write_offset: info.length.0 as i64,
            start_offset: info.start.0 as i64,
        };
        Ok(reply.into())
    }

    /// Clients take the reply to a truncation for the news that the offset is truncated.
    async fn locate(&self, container: &Container, target: i64) -> Result<Reply, Error> {
        let (request_id, segment) = (self.request_id, self.segment.clone());
        let Ok(offset) = u64::try_from(target) else {
            return Ok(self.illegal(format!("an event is looked for at offset {target}")));
        };
        match container.locate(&segment, Offset(offset)).await {
            Ok(offset) => Ok(OffsetLocated {
                request_id,
                segment,
                offset: offset.0 as i64,
            }
            .into()),
            Err(Error::SegmentTruncated { .. }) => Ok(SegmentTruncated {
                request_id,
                segment,
            }
            .into()),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, container: &Container, create: &CreateSegment) -> Result<Reply, Error> {
        let attributes = vec![
            (AttributeId::SCALE_POLICY_TYPE, i64::from(create.scale_type)),
            (
                AttributeId::SCALE_POLICY_RATE,
                i64::from(create.target_rate),
            ),
            (AttributeId::ROLLOVER_SIZE, create.rollover_size.max(0)),
        ];
        container
            .create(&self.segment, Kind::Stream, attributes)
            .await?;
        Ok(self.created())
    }

    /// Creates a segment that the connection has named, and will delete.
    async fn create_transient(&self, container: &Container, terms: &Terms) -> Result<Reply, Error> {
        let segment = terms.transient.clone().unwrap_or_default();
        if let Err(message) = check_segment(&segment) {
            return Ok(self.illegal(message));
        }
        container.create(&segment, Kind::Stream, Vec::new()).await?;
        let request_id = self.request_id;
        Ok(SegmentCreated {
            request_id,
            segment,
        }
        .into())
    }

    fn created(&self) -> Reply {
        let (request_id, segment) = (self.request_id, self.segment.clone());
        SegmentCreated {
            request_id,
            segment,
        }
        .into()
    }

    async fn truncate(
        &self,
        container: &Container,
        truncate: &TruncateSegment,
    ) -> Result<Reply, Error> {
        let Ok(offset) = u64::try_from(truncate.truncation_offset) else {
            let offset = truncate.truncation_offset;
            return Ok(self.illegal(format!("truncation at offset {offset}")));
        };
        container.truncate(&self.segment, Offset(offset)).await?;
        let (request_id, segment) = (self.request_id, self.segment.clone());
        Ok(SegmentTruncated {
            request_id,
            segment,
        }
        .into())
    }

    fn refused(&self, error: Error) -> Answer {
        let Self {
            request_id,
            segment,
            offset,
        } = self;
        Refused {
            request_id: *request_id,
            segment,
            offset: *offset,
        }
        .reply(error)
    }

    fn illegal(&self, message: String) -> Reply {
        Refused::illegal_argument(self.request_id, &self.segment, message)
    }

    /// Replaces a reply that no frame can carry.
    fn bounded(&self, reply: Reply) -> Reply {
        let bytes = reply.encoded_len();
        if bytes <= HEADER + PAYLOAD_MAX {
            return reply;
        }
        self.illegal(format!(
            "the answer would have {bytes} bytes, a frame holds {PAYLOAD_MAX}: ask for less at once"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_place_is_refused() {
        for name in ["", "..", "a/../b", "a//b", "a/\0/b", "a/b\n", "/a", "a/"] {
            assert!(check_segment(name).is_err(), "{name:?}");
        }
        assert!(check_segment(&"x".repeat(SEGMENT_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn any_other_name_is_taken() {
        let transaction = format!(
            "{}/_RG{}/7.#epoch.1#transaction.{:032x}",
            "s".repeat(255),
            "g".repeat(252),
            1
        );
        for name in [
            "plainname",
            "a..b/c.d/0.#epoch.0",
            "é/x_kvtable/0.#epoch.0",
            &transaction,
        ] {
            check_segment(name).unwrap();
        }
    }
}
