//! Admitted operations and what is to be answered ⇄ one frame.
//!
//! Appends between two other operations are sorted by segment, keeping each segment's order, and those
//! of one segment become one record with one payload: so a segment has one run of bytes in a frame,
//! and readers find it by one extent. Operations of other kinds keep their place.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use sarit_proto::ids::{AttributeId, WriterId};
use sarit_proto::wire::append::AppendData;
use sarit_wal::FrameBuilder;

use super::reply::Reply;
use crate::operation::{self, APPEND, ATTRIBUTE, PRELUDE};
use crate::residents::Pin;
use crate::state::Sid;

/// A frame being filled.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    items: Vec<Item>,
    appends: Vec<Append>,
    /// The records of operations that are not appends.
    encoded: BytesMut,
    /// Payload of the appends.
    append_bytes: u64,
    /// Upper bound of the body's size.
    bytes: usize,
    /// Rises with every operation that appends must not be sorted across.
    group: u32,
    operations: u32,
    /// Whether it may use the log's reserve.
    exempt: bool,
    /// Answers that depend on this frame or one before it, in order.
    pub(crate) replies: Vec<Reply>,
    /// Of the segments that its requests name.
    pub(crate) pins: Vec<Pin>,
    runs: Vec<RunHead>,
    writers: Vec<(AttributeId, i64)>,
}

/// An admitted append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) sid: Sid,
    pub(crate) offset: u64,
    pub(crate) writer: WriterId,
    pub(crate) last_event_number: i64,
    pub(crate) events: u32,
    pub(crate) data: AppendData,
}

/// Sorts by group, segment, place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    group: u32,
    sid: Sid,
    content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    /// Index into the appends.
    Append(u32),
    /// Range of the encoded records.
    Record(u32, u32),
}

/// The appends of one record.
#[derive(Debug)]
struct RunHead {
    items: Range<usize>,
    writers: Range<usize>,
    events: u32,
    length: usize,
}

/// More writers than this do not fit one record.
const WRITERS_PER_RUN_MAX: usize = u16::MAX as usize;

impl Filling {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns an upper bound of the body's bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn operations(&self) -> u32 {
        self.operations
    }

    /// Returns whether it holds an operation that may use the log's reserve.
    pub(crate) fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// Returns how many appends it holds, and their payload in bytes.
    pub(crate) fn appends(&self) -> (u64, u64) {
        (self.appends.len() as u64, self.append_bytes)
    }

    /// Adds an append.
    pub(crate) fn append(&mut self, append: Append) {
        let bytes = append.data.len();
        self.append_bytes += bytes as u64;
        self.bytes += APPEND + ATTRIBUTE + bytes;
        self.operations += 1;
        self.items.push(Item {
            group: self.group,
            sid: append.sid,
            content: Content::Append(index(self.appends.len())),
        });
        self.appends.push(append);
    }

    /// Adds what `write` writes as the record of an operation; nothing written is nothing added.
    /// `exempt` lets the frame use the log's reserve.
    pub(crate) fn record<T>(&mut self, exempt: bool, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        let from = self.encoded.len();
        let outcome = write(&mut self.encoded);
        let to = self.encoded.len();
        if to > from {
            self.bytes += to - from;
            self.operations += 1;
            self.exempt |= exempt;
            self.items.push(Item {
                group: self.group + 1,
                sid: Sid(0),
                content: Content::Record(index(from), index(to)),
            });
            self.group += 2;
        }
        outcome
    }

    /// Writes the frame, with a builder of the size it needs, and becomes empty but for its memory.
    /// Returns the builder and the number of operations; the replies are taken by the caller.
    pub(crate) fn build(
        &mut self,
        time_ms: i64,
        builder: impl FnOnce(usize) -> FrameBuilder,
    ) -> (FrameBuilder, u32) {
        self.items.sort_unstable();
        let size = self.plan();
        let mut builder = builder(size);
        let body = builder.body();
        operation::encode_prelude(body, time_ms);
        let mut runs = self.runs.iter().peekable();
        let mut at = 0;
        while let Some(item) = self.items.get(at) {
            match item.content {
                Content::Record(from, to) => {
                    body.put_slice(&self.encoded[from as usize..to as usize]);
                    at += 1;
                }
                Content::Append(first) => {
                    let run = runs.next().expect("every append is in a run");
                    let first = &self.appends[first as usize];
                    let writers = &self.writers[run.writers.clone()];
                    operation::encode_run(
                        body,
                        first.sid,
                        first.offset,
                        run.events,
                        writers,
                        run.length,
                    );
                    for item in &self.items[run.items.clone()] {
                        let Content::Append(at) = item.content else {
                            unreachable!("runs hold appends only");
                        };
                        for piece in self.appends[at as usize].data.pieces() {
                            body.put_slice(piece);
                        }
                    }
                    at = run.items.end;
                }
            }
        }
        debug_assert_eq!(body.len(), size, "the plan is exact");
        let operations = self.operations;
        self.clear();
        (builder, operations)
    }

    /// Joins sorted appends into runs and returns the exact size of the body.
    fn plan(&mut self) -> usize {
        let mut size = PRELUDE + self.encoded.len();
        self.runs.clear();
        self.writers.clear();
        let mut at = 0;
        while at < self.items.len() {
            let item = self.items[at];
            let Content::Append(_) = item.content else {
                at += 1;
                continue;
            };
            let (from, writers_from) = (at, self.writers.len());
            let (mut events, mut length) = (0_u32, 0);
            while let Some(next) = self.items.get(at)
                && (next.group, next.sid) == (item.group, item.sid)
                && let Content::Append(index) = next.content
                && at - from < WRITERS_PER_RUN_MAX
            {
                let append = &self.appends[index as usize];
                let Some(sum) = events.checked_add(append.events) else {
                    break;
                };
                events = sum;
                length += append.data.len();
                let (id, number) = (append.writer.into(), append.last_event_number);
                match self.writers[writers_from..].last_mut() {
                    Some(last) if last.0 == id => last.1 = number,
                    _ => self.writers.push((id, number)),
                }
                at += 1;
            }
            keep_last(&mut self.writers, writers_from);
            let writers = writers_from..self.writers.len();
            size += APPEND + writers.len() * ATTRIBUTE + length;
            self.runs.push(RunHead {
                items: from..at,
                writers,
                events,
                length,
            });
        }
        size
    }

    fn clear(&mut self) {
        self.items.clear();
        self.appends.clear();
        self.encoded.clear();
        self.append_bytes = 0;
        self.bytes = 0;
        self.group = 0;
        self.operations = 0;
        self.exempt = false;
    }
}

/// Of the entries from `from` on, keeps the last one of each id.
fn keep_last(writers: &mut Vec<(AttributeId, i64)>, from: usize) {
    if writers.len() - from < 2 {
        return;
    }
    // Stable, so that the last of equals stays the last.
    writers[from..].sort_by_key(|(id, _)| *id);
    let mut kept = from;
    for at in from + 1..writers.len() {
        if writers[at].0 != writers[kept].0 {
            kept += 1;
        }
        writers[kept] = writers[at];
    }
    writers.truncate(kept + 1);
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a frame is smaller than 4 GiB")
}
