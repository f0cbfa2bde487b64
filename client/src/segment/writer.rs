//! Appends to one segment: the window of what is not acknowledged yet, and the link it leaves by.
//!
//! [`Window`] is pure. Events are numbered when they are put into an append, and keep their number for
//! ever; a server drops a number it has seen. So after a lost connection the writer asks for its last
//! event number and sends again exactly what is behind it: every event is stored once. When the segment
//! ends, everything not acknowledged is handed back in order, to be written to its successors.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};
use sarit_proto::event::{self, EVENT_HEADER};
use sarit_proto::ids::WriterId;
use sarit_proto::key_range::KeyPosition;
use sarit_proto::wire::append::AppendData;
use sarit_proto::wire::{BY_REFERENCE_MIN, Reply, command};
use tokio::sync::oneshot;

use crate::Error;
use crate::config::WriterConfig;
use crate::connection::Link;
use crate::metrics::WriterMetrics;

/// Where the outcome of an event goes; nowhere if nobody asked for it.
pub(crate) type Acknowledge = Option<oneshot::Sender<Result<(), Error>>>;

/// An event that is not in an append yet.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) payload: Bytes,
    pub(crate) ticket: Ticket,
}

/// What stays of an event while its bytes are under way.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Decides the segment.
    pub(crate) position: KeyPosition,
    /// Which flush waits for it.
    pub(crate) generation: u64,
    pub(crate) acknowledge: Acknowledge,
}

/// An event whose outcome is known.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its payload, in bytes.
    pub(crate) bytes: usize,
    pub(crate) ticket: Ticket,
}

/// The bytes of one append. Resending gives an equal one. Large payloads are in it as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Append {
    pub(crate) data: AppendData,
    pub(crate) events: i32,
    pub(crate) last_event_number: i64,
}

#[derive(Debug)]
struct InFlight {
    data: AppendData,
    events: VecDeque<Done>,
    last_event_number: i64,
    /// Whether more could have been put into it.
    small: bool,
}

impl InFlight {
    fn append(&self) -> Append {
        Append {
            data: self.data.clone(),
            events: i32::try_from(self.events.len()).expect("batches are limited far below"),
            last_event_number: self.last_event_number,
        }
    }

    fn first_event_number(&self) -> i64 {
        self.last_event_number - self.events.len() as i64 + 1
    }
}

/// Returns how many bytes of a payload are copied into its append: all or none.
fn copied_bytes(payload: &Bytes) -> usize {
    let by_reference = payload.len() >= BY_REFERENCE_MIN;
    if by_reference { 0 } else { payload.len() }
}

/// What was accepted for one segment and is not acknowledged, in order.
#[derive(Debug)]
pub(crate) struct Window {
    limits: WriterConfig,
    pending: VecDeque<Event>,
    pending_bytes: usize,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    small_appends: usize,
    last_event_number: i64,
}

impl Window {
    pub(crate) fn new(limits: WriterConfig) -> Self {
        Self {
            limits,
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            small_appends: 0,
            last_event_number: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty()
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.pending_bytes += EVENT_HEADER + event.payload.len();
        self.pending.push_back(event);
    }

    /// Returns the next append to send, if there is one and the window has room for it.
    ///
    /// An append that is not full is held back while as many such appends as allowed are under way: more
    /// events will join it, and what is under way will wake us.
    pub(crate) fn next_append(&mut self) -> Option<Append> {
        if self.pending.is_empty() {
            return None;
        }
        let small = self.pending_bytes < self.limits.batch_bytes_max
            && self.pending.len() < self.limits.batch_events_max;
        let held_back = small && self.small_appends >= self.limits.small_appends_max.max(1);
        if held_back || self.in_flight_bytes >= self.limits.window_bytes_max.max(1) {
            return None;
        }
        let batch = self.batch(small);
        let append = batch.append();
        self.in_flight_bytes += batch.data.len();
        self.small_appends += usize::from(small);
        self.in_flight.push_back(batch);
        Some(append)
    }

    /// Takes pending events up to the limits of one append, at least one.
    fn batch(&mut self, small: bool) -> InFlight {
        let (mut bytes, mut copied) = (0, 0);
        let mut count = 0;
        for event in self.pending.iter().take(self.limits.batch_events_max) {
            let framed = EVENT_HEADER + event.payload.len();
            if count > 0 && bytes + framed > self.limits.batch_bytes_max {
                break;
            }
            bytes += framed;
            copied += EVENT_HEADER + copied_bytes(&event.payload);
            count += 1;
        }
        let mut copies = BytesMut::with_capacity(copied);
        let mut pieces = Vec::new();
        let mut events = VecDeque::with_capacity(count);
        for Event { payload, ticket } in self.pending.drain(..count) {
            let header = event::header(payload.len()).expect("larger events were not accepted");
            copies.put_slice(&header);
            events.push_back(Done {
                bytes: payload.len(),
                ticket,
            });
            if payload.len() < BY_REFERENCE_MIN {
                copies.put_slice(&payload);
            } else {
                pieces.extend([copies.split().freeze(), payload]);
            }
        }
        pieces.push(copies.freeze());
        self.pending_bytes -= bytes;
        self.last_event_number += count as i64;
        InFlight {
            data: pieces.into_iter().collect(),
            events,
            last_event_number: self.last_event_number,
            small,
        }
    }

    /// Everything up to `event_number` is durable: moves it to `done`, in order.
    pub(crate) fn acknowledge(&mut self, event_number: i64, done: &mut Vec<Done>) {
        while let Some(append) = self.in_flight.front()
            && append.last_event_number <= event_number
        {
            let append = self.in_flight.pop_front().expect("it was just there");
            self.in_flight_bytes -= append.data.len();
            self.small_appends -= usize::from(append.small);
            done.extend(append.events);
        }
        // A server stores an append whole, so this is for one that cuts appends apart.
        if let Some(append) = self.in_flight.front_mut() {
            while append.first_event_number() <= event_number
                && let Some(event) = append.events.pop_front()
            {
                let framed = EVENT_HEADER + event.bytes;
                let _ = append.data.split_to(framed);
                self.in_flight_bytes -= framed;
                done.push(event);
            }
        }
    }

    /// Returns what must be sent again on a new connection, in order.
    pub(crate) fn resend(&self) -> impl Iterator<Item = Append> {
        self.in_flight.iter().map(InFlight::append)
    }

    /// Returns how many events were sent and are not acknowledged.
    pub(crate) fn in_flight_events(&self) -> usize {
        let appends = self.in_flight.iter();
        appends.map(|append| append.events.len()).sum()
    }

    /// Hands back everything not acknowledged, in order. The window is empty afterwards.
    pub(crate) fn take(&mut self) -> Vec<Event> {
        let mut events = self.take_in_flight();
        events.extend(self.take_pending());
        events
    }

    /// Hands back what was not sent, in order.
    pub(crate) fn take_pending(&mut self) -> Vec<Event> {
        self.pending_bytes = 0;
        self.pending.drain(..).collect()
    }

    /// Hands back what was sent and not acknowledged, in order.
    pub(crate) fn take_in_flight(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for mut append in self.in_flight.drain(..) {
            for Done { bytes, ticket } in append.events {
                append.data.split_to(EVENT_HEADER);
                let payload = append.data.split_to(bytes);
                events.push(Event { payload, ticket });
            }
        }
        self.in_flight_bytes = 0;
        self.small_appends = 0;
        events
    }
}

/// One writer of one segment.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    pub(crate) window: Window,
    pub(crate) id: WriterId,
    metrics: WriterMetrics,
    link: Option<Link>,
}

/// What a reply asks of the writer's owner.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing; something may be done.
    Go,
    /// Set up again, here or elsewhere.
    Reconnect(Error),
    /// The segment takes no more: write to its successors.
    Successors,
    /// There is no way on.
    Stop(Error),
}

impl SegmentWriter {
    pub(crate) fn new(id: WriterId, limits: WriterConfig, metrics: WriterMetrics) -> Self {
        Self {
            window: Window::new(limits),
            id,
            metrics,
            link: None,
        }
    }

    /// Takes up work on a connection where the writer is set up, its last durable event being
    /// `last_event_number`; what is durable moves to `done`.
    pub(crate) fn connected(&mut self, link: Link, last_event_number: i64, done: &mut Vec<Done>) {
        self.window.acknowledge(last_event_number, done);
        for append in self.window.resend() {
            self.metrics.appends_resent.increment(1);
            send(&link, self.id, append);
        }
        self.link = Some(link);
        self.pump();
    }

    /// Sends what the window allows.
    pub(crate) fn pump(&mut self) {
        let Some(link) = &self.link else { return };
        while let Some(append) = self.window.next_append() {
            self.metrics.appends.increment(1);
            self.metrics
                .append_bytes
                .increment(append.data.len() as u64);
            send(link, self.id, append);
        }
    }

    /// Works in a reply, or the end of the connection.
    pub(crate) fn replied(&mut self, reply: Result<Reply, Error>, done: &mut Vec<Done>) -> Next {
        let endpoint = match &self.link {
            Some(link) => link.endpoint().clone(),
            // It belongs to a link that was given up.
            None => return Next::Go,
        };
        let next = match reply {
            Ok(Reply::DataAppended(appended)) => {
                self.window.acknowledge(appended.event_number, done);
                self.pump();
                return Next::Go;
            }
            Ok(Reply::SegmentIsSealed(_) | Reply::NoSuchSegment(_)) => Next::Successors,
            Ok(Reply::WrongHost(reply)) => Next::Reconnect(Error::WrongHost {
                segment: reply.segment,
                endpoint,
            }),
            // Setting up again tells which number comes next.
            Ok(Reply::InvalidEventNumber(_)) => Next::Reconnect(Error::OutcomeUnknown {
                what: "AppendBlockEnd",
            }),
            Ok(reply) => Next::Stop(
                crate::segment::admin::failure(&reply, &endpoint, "AppendBlockEnd").unwrap_or(
                    Error::Protocol {
                        endpoint,
                        what: format!("unexpected {}", reply.name()),
                    },
                ),
            ),
            Err(error) if error.is_retryable() => Next::Reconnect(error),
            Err(error) => Next::Stop(error),
        };
        self.link = None;
        next
    }
}

/// An append without a block in front: its data are whole events.
fn send(link: &Link, writer_id: WriterId, append: Append) {
    let size = i32::try_from(append.data.len()).expect("batches are limited far below");
    link.send(
        command::AppendBlockEnd {
            writer_id,
            size_of_whole_events: size,
            data: append.data,
            num_events: append.events,
            last_event_number: append.last_event_number,
            request_id: link.request_id,
        }
        .into(),
    );
}

#[cfg(test)]
mod tests;
