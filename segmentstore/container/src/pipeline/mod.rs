//! The sequencer: one task that puts operations in order, in frames, in the log; applies what is
//! durable; and answers.
//!
//! Two inboxes, both bounded: what brings data (appends, new entries of tables), and everything else.
//! While the log is full only the second is read, so that truncations and deletions can make room; the
//! first waits where it is, in order.
//!
//! Timer-less group commit: with nothing in flight a frame goes out at once; with frames in flight it
//! gathers until it is worth sending or the window opens. Fail-stop: a log error ends the run, and
//! whatever was on its way is answered "outcome unknown".

pub(crate) mod credit;
pub(crate) mod frame;
pub(crate) mod reply;
mod request;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;

use sarit_env::Clock;
use sarit_wal::{AppendTicket, Frame, Priority, Space};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::frame::Filling;
use self::reply::{Answer, Destination, Reply, appended};
use self::request::Next;
pub(crate) use self::request::{Filler, Request, Wish};
use self::window::Window;
use crate::operation::{Operation, Placed, Records};
use crate::residents::Pin;
use crate::shared::Shared;
use crate::state::admit::{Intent, Verdict};
use crate::state::{Effect, Sid, Speculation};
use crate::{AppendOp, Done, Error, Offset, Permit};

/// A frame this large is worth sending although others are in flight.
const WORTH_SENDING: usize = 256 << 10;
/// Batches of appends taken from the inbox at once.
const BATCHES: usize = 64;
/// Answers that may wait for one frame. More than operations: repeated and refused appends write nothing.
const REPLIES_MAX: usize = 1 << 16;
/// Frames in flight beyond the window, for operations that help to free space.
const EXEMPT_FRAMES: usize = 16;

/// A frame on its way to the log.
struct Flight {
    ticket: AppendTicket,
    started: Instant,
    bytes: usize,
    /// Number of its last operation.
    last_seq: u64,
    replies: Vec<Reply>,
    /// Keeps the segments in memory that it changes.
    _pins: Vec<Pin>,
}

/// The task's own state.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    clock: Clock,
    speculation: Speculation,
    fillers: mpsc::Receiver<Filler>,
    requests: mpsc::Receiver<Request>,
    space: watch::Receiver<Space>,
    full: bool,
    /// Size at which a frame is closed.
    frame_bytes: usize,
    /// Taken from the inbox, not yet in order.
    backlog: VecDeque<Filler>,
    /// An operation taken from the backlog that did not fit the frame.
    next: Option<Next>,
    waiting: VecDeque<Request>,
    filling: Filling,
    flights: VecDeque<Flight>,
    /// Answers that depend on nothing that is not durable.
    ready: Vec<Reply>,
    window: Window,
    /// Segments to wake readers of, kept for its memory.
    woken: Vec<Sid>,
    /// Emptied lists of replies, kept for their memory.
    spare: Vec<Vec<Reply>>,
}

impl Pipeline {
    pub(crate) fn new(
        shared: Arc<Shared>,
        clock: Clock,
        fillers: mpsc::Receiver<Filler>,
        requests: mpsc::Receiver<Request>,
        space: watch::Receiver<Space>,
    ) -> Self {
        let speculation = Speculation::new(&shared.state.read(), shared.log.frame_bytes_max());
        let window = Window::new(shared.log.window());
        // Half, because the last operation may make it a little larger.
        let most = usize::try_from(shared.log.frame_bytes_max() / 2).unwrap_or(usize::MAX);
        let frame_bytes = shared.config.frame_bytes.min(most);
        let mut pipeline = Self {
            shared,
            clock,
            speculation,
            fillers,
            requests,
            space,
            full: false,
            frame_bytes,
            backlog: VecDeque::new(),
            next: None,
            waiting: VecDeque::new(),
            filling: Filling::default(),
            flights: VecDeque::new(),
            ready: Vec::new(),
            window,
            woken: Vec::new(),
            spare: Vec::new(),
        };
        pipeline.note_space();
        pipeline
    }

    /// Runs until `stop`, then answers everything accepted before it; or until the log fails.
    ///
    /// # Errors
    /// The log's, or [`Error::Broken`] if a frame of our own cannot be applied. What is durable is then
    /// unknown, and only recovery can tell.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let outcome = self.sequence(&stop).await;
        self.end();
        outcome
    }

    async fn sequence(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let (mut fillers_open, mut requests_open) = (true, true);
        let mut fillers = Vec::with_capacity(BATCHES);
        let mut requests = Vec::with_capacity(BATCHES);
        loop {
            self.admit();
            self.submit();
            if stop.is_cancelled() && self.is_done(fillers_open, requests_open) {
                return Ok(());
            }
            let in_flight = !self.flights.is_empty();
            let room = self.backlog.is_empty() && self.next.is_none();
            tokio::select! {
                biased;
                durable = first(&mut self.flights), if in_flight => self.complete(&durable?)?,
                received = self.requests.recv_many(&mut requests, BATCHES),
                    if requests_open && self.waiting.is_empty() =>
                {
                    requests_open = received > 0;
                    self.waiting.extend(requests.drain(..));
                }
                received = self.fillers.recv_many(&mut fillers, BATCHES),
                    if fillers_open && room && !self.full =>
                {
                    fillers_open = received > 0;
                    self.backlog.extend(fillers.drain(..));
                }
                changed = self.space.changed() => {
                    if changed.is_err() {
                        return Err(Error::Stopping);
                    }
                    self.note_space();
                }
                () = stop.cancelled(), if !self.requests.is_closed() => {
                    self.fillers.close();
                    self.requests.close();
                }
            }
        }
    }

    /// Whether a stop need not wait any longer: all is answered, or what is left waits for space.
    fn is_done(&self, fillers_open: bool, requests_open: bool) -> bool {
        let idle = self.flights.is_empty()
            && self.filling.is_empty()
            && self.backlog.is_empty()
            && self.next.is_none()
            && self.waiting.is_empty();
        let requests_done = !requests_open && self.waiting.is_empty();
        requests_done && (self.full || (idle && !fillers_open))
    }

    fn note_space(&mut self) {
        let space = self.space.borrow_and_update();
        let was_full = std::mem::replace(&mut self.full, matches!(*space, Space::Full { .. }));
        self.shared.checkpoints.hurry(self.full);
        let id = self.shared.id;
        match &*space {
            Space::Ok => tracing::debug!(container = %id, "the log has room"),
            Space::Full { .. } if was_full => {}
            Space::Full { reason } => {
                tracing::warn!(container = %id, reason, "appends wait for room")
            }
        }
    }

    /// Puts operations in order until the frame is full.
    fn admit(&mut self) {
        let shared = self.shared.clone();
        let state = shared.state.read();
        while let Some(bytes) = self.waiting.front().map(|request| request.wish.bytes())
            && self.has_room(bytes)
            && let Some(request) = self.waiting.pop_front()
        {
            #[cfg(test)]
            let own = request.wish.is_own();
            let reply = self.perform(&state, request);
            #[cfg(test)]
            if !own {
                self.trace(None);
            }
            self.answer(reply);
        }
        while !self.full
            && let Some(next) = self.take()
        {
            if !self.has_room(next.bytes()) {
                self.next = Some(next);
                break;
            }
            #[cfg(test)]
            let connection = match &next {
                Next::Append(to, _) => Some(to.number),
                Next::Request(_) => None,
            };
            let reply = match next {
                Next::Append(to, operation) => self.sequence_append(&state, &to, operation),
                Next::Request(request) => self.perform(&state, request),
            };
            #[cfg(test)]
            self.trace(connection);
            self.answer(reply);
        }
        drop(state);
        reply::release(self.shared.id, &mut self.ready);
    }

    #[cfg(test)]
    fn trace(&self, connection: Option<u64>) {
        let next_seq = self.speculation.next_seq();
        self.shared.trace.lock().push((connection, next_seq));
    }

    fn has_room(&self, bytes: usize) -> bool {
        let filling = &self.filling;
        let newest = match self.flights.back() {
            Some(flight) if filling.is_empty() => &flight.replies,
            _ => &filling.replies,
        };
        newest.len() < REPLIES_MAX
            && (filling.is_empty()
                || (filling.bytes() + bytes <= self.frame_bytes
                    && (filling.operations() as usize) < self.shared.config.frame_operations))
    }

    fn take(&mut self) -> Option<Next> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        loop {
            if let Filler::Appends(to, operations) = self.backlog.front_mut()?
                && let Some(operation) = operations.next()
            {
                return Some(Next::Append(to.clone(), operation));
            }
            if let Filler::Request(request) = self.backlog.pop_front()? {
                return Some(Next::Request(request));
            }
        }
    }

    fn sequence_append(
        &mut self,
        state: &crate::state::State,
        to: &Arc<Destination>,
        operation: AppendOp,
    ) -> Reply {
        match operation {
            AppendOp::Setup {
                segment,
                writer,
                token,
            } => {
                let number = self.speculation.last_event_number(state, &segment, writer);
                let done = number.map(|last_event_number| Done::Setup { last_event_number });
                appended(to, token, done, Permit::none())
            }
            AppendOp::Append {
                segment,
                writer,
                token,
                last_event_number,
                event_count,
                expected_offset,
                data,
                permit,
            } => {
                let bytes = data.len() as u64;
                let intent = Intent {
                    writer,
                    last_event_number,
                    expected_offset,
                    bytes,
                };
                let done = match self.speculation.append(state, &segment, intent) {
                    Ok(Verdict::Write { sid, offset }) => {
                        self.filling.append(frame::Append {
                            sid,
                            offset,
                            writer,
                            last_event_number,
                            events: event_count,
                            data,
                        });
                        Ok(offset + bytes)
                    }
                    Ok(Verdict::Duplicate { length }) => {
                        self.shared.metrics.duplicates.add(1);
                        Ok(length)
                    }
                    Err(error) => Err(error),
                };
                let done = done.map(|length| Done::Appended {
                    length: Offset(length),
                });
                appended(to, token, done, permit)
            }
        }
    }

    fn perform(&mut self, state: &crate::state::State, request: Request) -> Reply {
        let Request {
            segment: name,
            wish,
            mut pins,
        } = request;
        let speculation = &mut self.speculation;
        let exempt = wish.is_exempt();
        let answer = self.filling.record(exempt, |out| match wish {
            Wish::Create(kind, attributes, caller) => Answer::Nothing(
                caller,
                speculation.create(state, &name, kind, &attributes, out),
            ),
            Wish::Seal(caller) => Answer::Offset(caller, speculation.seal(state, &name, out)),
            Wish::Truncate(start, caller) => {
                Answer::Nothing(caller, speculation.truncate(state, &name, start, out))
            }
            Wish::Delete {
                empty_table,
                caller,
            } => Answer::Nothing(caller, speculation.delete(state, &name, empty_table, out)),
            Wish::UpdateAttribute(id, new, expected, caller) => Answer::Flag(
                caller,
                speculation.update_attribute(state, &name, id, new, expected, out),
            ),
            Wish::OverwriteAttributes(attributes, caller) => Answer::Nothing(
                caller,
                speculation.overwrite_attributes(state, &name, &attributes, out),
            ),
            Wish::TableUpdate(entries, length, caller) => Answer::Versions(
                caller,
                speculation.table_update(state, &name, &entries, length, out),
            ),
            Wish::TableRemove(keys, length, caller) => Answer::Nothing(
                caller,
                speculation.table_remove(state, &name, &keys, length, out),
            ),
            Wish::Place {
                compact,
                pack,
                size,
                runs,
                caller,
            } => {
                let placed = Placed::new(pack, size, &runs);
                let operation = if compact {
                    Operation::Compact(placed)
                } else {
                    Operation::FlushCommit(placed)
                };
                Answer::Nothing(caller, speculation.place(&operation, out))
            }
            Wish::CheckpointEnd(applied, caller) => {
                speculation.checkpoint_end(applied, out);
                Answer::Nothing(caller, Ok(()))
            }
            Wish::Merge {
                sources,
                updates,
                lenient,
                caller,
            } => Answer::Offsets(
                caller,
                speculation.merge(state, &name, &sources, &updates, lenient, out),
            ),
        });
        if !self.filling.is_empty() {
            self.filling.pins.append(&mut pins);
        }
        Reply::Request(answer)
    }

    /// Attaches an answer to the newest frame it may depend on.
    fn answer(&mut self, reply: Reply) {
        #[cfg(planted = "speculative_reply")]
        if reply.only_tells() {
            self.ready.push(reply);
            return;
        }
        if !self.filling.is_empty() {
            self.filling.replies.push(reply);
        } else if let Some(last) = self.flights.back_mut() {
            last.replies.push(reply);
        } else {
            self.ready.push(reply);
        }
    }

    /// Sends the frame if it is time, and goes on filling while there is something to fill with.
    fn submit(&mut self) {
        while self.is_due() {
            let priority = if self.filling.is_exempt() {
                Priority::Exempt
            } else {
                Priority::Data
            };
            let last_seq = self.speculation.next_seq() - 1;
            let mut replies = self.spare.pop().unwrap_or_default();
            std::mem::swap(&mut replies, &mut self.filling.replies);
            let Shared { log, metrics, .. } = &*self.shared;
            let (appends, append_bytes) = self.filling.appends();
            metrics.appended(appends, append_bytes);
            let (builder, operations) = self
                .filling
                .build(self.clock.now_ms(), |bytes| log.builder(bytes));
            let bytes = builder.body_len();
            let first_seq = last_seq + 1 - u64::from(operations);
            let ticket = log.append(builder, first_seq, operations, priority);
            self.flights.push_back(Flight {
                ticket,
                started: Instant::now(),
                bytes,
                last_seq,
                replies,
                _pins: std::mem::take(&mut self.filling.pins),
            });
            self.shared.metrics.in_flight.set(self.flights.len() as u64);
            self.admit();
        }
    }

    fn is_due(&self) -> bool {
        if self.filling.is_empty() {
            return false;
        }
        let in_flight = self.flights.len();
        if self.full {
            return in_flight < self.window.frames() + EXEMPT_FRAMES;
        }
        let full = !self.waiting.is_empty() || self.next.is_some() || !self.backlog.is_empty();
        in_flight == 0
            || in_flight < self.window.frames()
                && (full
                    || self
                        .window
                        .is_worth(self.filling.bytes().min(WORTH_SENDING)))
    }

    /// Makes a durable frame true, wakes readers, and gives the answers that waited for it.
    fn complete(&mut self, durable: &Frame) -> Result<(), Error> {
        let mut flight = self.flights.pop_front().expect("it just completed");
        self.shared.metrics.in_flight.set(self.flights.len() as u64);
        let latency = flight.started.elapsed();
        self.window.completed(latency, flight.bytes);
        let shared = self.shared.clone();
        shared.metrics.frame_durable(latency, flight.bytes);
        {
            let mut state = shared.state.write();
            let number = durable.number().0;
            let broken = |what| Error::Broken {
                frame: number,
                what,
            };
            let records = Records::new(durable.body()).map_err(broken)?;
            let time_ms = records.time_ms;
            // Before the state names it, so that no reader misses it here.
            shared.memory.frames().insert(shared.owner, durable.clone());
            for operation in records {
                let operation = operation.map_err(broken)?;
                if let Operation::Delete { sid } = operation
                    && let Some(segment) = state.segment(sid)
                {
                    self.speculation.retire_name(&segment.name, flight.last_seq);
                }
                if let Operation::Merge { sid, sources, .. } = operation {
                    shared.metrics.merges.add(sources.len() as u64);
                    for source in sources.iter() {
                        if let Some(segment) = state.segment(source.sid) {
                            let name = &segment.name;
                            self.speculation.retire_source(sid, name, flight.last_seq);
                        }
                        self.woken.push(source.sid);
                    }
                }
                if let Effect::Wakes(sid) =
                    state.apply(number, time_ms, &operation).map_err(broken)?
                {
                    self.woken.push(sid);
                }
                self.speculation.retire(&operation, flight.last_seq);
            }
            state.next_seq = flight.last_seq + 1;
            state.frame = number;
            shared.metrics.state(&state);
            shared.tier_state(&mut state);
            shared
                .checkpoints
                .grown(flight.bytes, state.dirty.len(), &shared.config);
        }
        self.woken.sort_unstable();
        self.woken.dedup();
        shared.waiters.wake(&self.woken);
        self.woken.clear();
        reply::release(shared.id, &mut flight.replies);
        if self.spare.len() < EXEMPT_FRAMES {
            self.spare.push(flight.replies);
        }
        debug_assert!(
            !self.flights.is_empty() || !self.filling.is_empty() || self.speculation.len() == 0,
            "nothing is on its way, yet something is expected"
        );
        Ok(())
    }

    /// Answers what is left: unknown if it got a place in the order, refused if not.
    fn end(mut self) {
        self.fillers.close();
        self.requests.close();
        let id = self.shared.id;
        for flight in self.flights.drain(..) {
            reply::abandon(id, flight.replies);
        }
        reply::abandon(id, std::mem::take(&mut self.filling.replies));
        let mut refused = Vec::new();
        loop {
            while let Some(next) = self.take() {
                match next {
                    Next::Append(to, operation) => {
                        let (token, _) = operation.place();
                        refused.push(appended(&to, token, Err(Error::Stopping), Permit::none()));
                    }
                    Next::Request(request) => self.waiting.push_back(request),
                }
            }
            match self.fillers.try_recv() {
                Ok(filler) => self.backlog.push_back(filler),
                Err(_) => break,
            }
        }
        reply::release(id, &mut refused);
        while let Ok(request) = self.requests.try_recv() {
            self.waiting.push_back(request);
        }
        for request in self.waiting.drain(..) {
            request.wish.refuse();
        }
    }
}

/// Waits for the oldest frame in flight. Cancel-safe: the ticket stays where it is.
async fn first(flights: &mut VecDeque<Flight>) -> Result<Frame, Error> {
    match flights.front_mut() {
        Some(flight) => Ok((&mut flight.ticket).await?),
        None => std::future::pending().await,
    }
}
