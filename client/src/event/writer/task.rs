//! The task behind an event writer: routes, connects, reroutes, completes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarit_proto::ids::{SegmentId, WriterId};
use sarit_proto::key_range::KeyPosition;
use sarit_proto::wire::{Reply, command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Memory, Parts, Router};
use crate::Error;
use crate::config::Backoff;
use crate::connection::{Link, Pool, Tagged};
use crate::event::{Owner, Successor};
use crate::metrics::WriterMetrics;
use crate::segment::Locate;
use crate::segment::admin::failure;
use crate::segment::writer::{Done, Event, Next, SegmentWriter, Ticket};

/// What callers send to the task.
#[derive(Debug)]
pub(super) enum Input {
    Event {
        payload: Bytes,
        position: KeyPosition,
        acknowledge: oneshot::Sender<Result<(), Error>>,
    },
    Flush(oneshot::Sender<Result<(), Error>>),
}

/// A result of work done beside the task.
#[derive(Debug)]
enum Finding {
    Connected {
        segment: SegmentId,
        tag: u64,
        backoff: Backoff,
        link: Result<Linked, Error>,
    },
    Successors {
        segment: SegmentId,
        found: Result<Vec<Successor>, Error>,
    },
}

/// A link on which the writer is set up.
#[derive(Debug)]
enum Linked {
    Ready { link: Link, last_event_number: i64 },
    SegmentGone,
}

/// One segment being written to.
#[derive(Debug)]
struct Slot {
    writer: SegmentWriter,
    /// Carried by replies of the present link; others are late.
    tag: u64,
    /// Present unless an attempt to connect has it.
    backoff: Option<Backoff>,
    /// Since when the present link, or the last one, was there.
    linked: Option<Instant>,
}

/// Events accepted between two flushes.
#[derive(Debug, Default)]
struct Generation {
    outstanding: usize,
    /// Told when this generation and all before are durable.
    flush: Option<oneshot::Sender<Result<(), Error>>>,
}

pub(super) struct Task {
    router: Router,
    parts: Parts,
    memory: Arc<Memory>,
    slots: BTreeMap<SegmentId, Slot>,
    segment_of_tag: BTreeMap<u64, SegmentId>,
    next_tag: u64,
    beside: JoinSet<Finding>,
    replies: mpsc::UnboundedSender<Tagged>,
    replied: mpsc::UnboundedReceiver<Tagged>,
    generations: VecDeque<Generation>,
    /// Number of the front of `generations`.
    first_generation: u64,
    metrics: WriterMetrics,
    /// Segments with something new to send.
    dirty: Vec<SegmentId>,
    done: Vec<Done>,
    /// Why nothing more is written: the stream is sealed or gone. What is under way is waited for.
    ending: Option<Error>,
}

impl Task {
    pub(super) fn new(router: Router, parts: Parts, memory: Arc<Memory>) -> Self {
        let (replies, replied) = mpsc::unbounded_channel();
        Self {
            router,
            parts,
            memory,
            slots: BTreeMap::new(),
            segment_of_tag: BTreeMap::new(),
            next_tag: 0,
            beside: JoinSet::new(),
            replies,
            replied,
            generations: VecDeque::from([Generation::default()]),
            first_generation: 0,
            metrics: WriterMetrics::new(),
            dirty: Vec::new(),
            done: Vec::new(),
            ending: None,
        }
    }

    /// Runs until the writer is dropped and everything accepted is durable, or the writer fails. When
    /// the client stops it, what is not acknowledged is abandoned: it may or may not be written.
    pub(super) async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        let error = match self.work(&mut inputs).await {
            Ok(()) => Error::Closed,
            Err(error) => {
                tracing::debug!(%error, "event writer ends");
                error
            }
        };
        // What is known to be durable is not in doubt, whatever came behind it.
        self.complete();
        self.fail(&error);
        inputs.close();
        while let Some(input) = inputs.recv().await {
            let waiting = match input {
                Input::Event { acknowledge, .. } => acknowledge,
                Input::Flush(done) => done,
            };
            let _ = waiting.send(Err(error.clone()));
        }
    }

    async fn work(&mut self, inputs: &mut mpsc::UnboundedReceiver<Input>) -> Result<(), Error> {
        let stop = self.parts.stop.clone();
        let mut received = Vec::with_capacity(INPUTS_PER_TURN);
        let mut replied = Vec::with_capacity(INPUTS_PER_TURN);
        let mut open = true;
        while open || self.generations.iter().any(|g| g.outstanding > 0) {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::Closed),
                _ = self.replied.recv_many(&mut replied, INPUTS_PER_TURN) => {
                    for tagged in replied.drain(..) {
                        self.reply(tagged)?;
                    }
                }
                Some(finding) = self.beside.join_next() => {
                    self.found(finding.map_err(|_| Error::Closed)?)?;
                }
                count = inputs.recv_many(&mut received, INPUTS_PER_TURN), if open => {
                    open = count > 0;
                    self.accepted(&received);
                    for input in received.drain(..) {
                        self.input(input);
                    }
                }
            }
            self.complete();
            for segment in std::mem::take(&mut self.dirty) {
                if let Some(slot) = self.slots.get_mut(&segment) {
                    slot.writer.pump();
                }
            }
            if let Some(error) = self.ended() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns why the writer ends, once the outcome of everything that was sent is known.
    fn ended(&self) -> Option<Error> {
        let error = self.ending.as_ref()?;
        let settled = self
            .slots
            .values()
            .all(|slot| slot.writer.window.is_empty());
        settled.then(|| error.clone())
    }

    /// Counts what came in; a writer that ends refuses it.
    fn accepted(&self, inputs: &[Input]) {
        if self.ending.is_some() {
            return;
        }
        let (mut events, mut bytes) = (0, 0);
        for input in inputs {
            if let Input::Event { payload, .. } = input {
                events += 1;
                bytes += self.memory.charge(payload.len());
            }
        }
        self.metrics.events_written.increment(events);
        self.metrics.bytes_in_flight.increment(bytes as f64);
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Event {
                payload,
                position,
                acknowledge,
            } => {
                if let Some(error) = &self.ending {
                    let _ = acknowledge.send(Err(error.clone()));
                    return;
                }
                let generation = self.generations.back_mut().expect("there is always one");
                generation.outstanding += 1;
                let number = self.first_generation + self.generations.len() as u64 - 1;
                self.route(Event {
                    payload,
                    ticket: Ticket {
                        position,
                        generation: number,
                        acknowledge: Some(acknowledge),
                    },
                });
            }
            Input::Flush(done) => {
                let generation = self.generations.back_mut().expect("there is always one");
                generation.flush = Some(done);
                self.generations.push_back(Generation::default());
            }
        }
    }

    /// Queues an event for the segment that owns its key now.
    fn route(&mut self, event: Event) {
        let segment = self.router.segment(event.ticket.position);
        if !self.slots.contains_key(&segment) {
            self.add(segment);
        }
        let slot = self.slots.get_mut(&segment).expect("it was just added");
        slot.writer.window.push(event);
        if self.dirty.last() != Some(&segment) {
            self.dirty.push(segment);
        }
    }

    fn add(&mut self, segment: SegmentId) {
        let id = WriterId(self.parts.rng.u128());
        let slot = Slot {
            writer: SegmentWriter::new(id, self.parts.config.writer.clone(), self.metrics.clone()),
            tag: 0,
            backoff: Some(Backoff::new(&self.parts.config.retry, &self.parts.rng)),
            linked: None,
        };
        self.slots.insert(segment, slot);
        self.connect(segment, None);
    }

    /// Starts connecting, after a pause if something went wrong before.
    fn connect(&mut self, segment: SegmentId, wrong: Option<Error>) {
        let slot = self.slots.get_mut(&segment).expect("only slots connect");
        self.segment_of_tag.remove(&slot.tag);
        self.next_tag += 1;
        let tag = self.next_tag;
        slot.tag = tag;
        self.segment_of_tag.insert(tag, segment);
        let mut backoff = slot.backoff.take().expect("one attempt at a time");
        let attempt = Attempt {
            locate: Arc::clone(&self.parts.topology) as Arc<dyn Locate>,
            pool: self.parts.pool.clone(),
            replies: self.replies.clone(),
            segment: self.parts.topology.segment_name(segment),
            writer: slot.writer.id,
            tag,
        };
        self.beside.spawn(async move {
            let link = attempt.until_linked(&mut backoff, wrong).await;
            Finding::Connected {
                segment,
                tag,
                backoff,
                link,
            }
        });
    }

    fn reply(&mut self, Tagged { tag, reply }: Tagged) -> Result<(), Error> {
        let Some(&segment) = self.segment_of_tag.get(&tag) else {
            return Ok(());
        };
        let slot = self.slots.get_mut(&segment).expect("tags lead to slots");
        let before = self.done.len();
        match slot.writer.replied(reply, &mut self.done) {
            Next::Go => {
                if self.done.len() > before {
                    // Something was achieved: the next failure starts a new run of attempts.
                    slot.backoff = Some(Backoff::new(&self.parts.config.retry, &self.parts.rng));
                }
                Ok(())
            }
            Next::Reconnect(error) => {
                self.metrics.reconnects.increment(1);
                // It was there for long, be it that a full store acknowledged nothing: this failure has
                // nothing to do with the one before.
                if slot.linked.is_some_and(|at| at.elapsed() >= LINKED_MIN) {
                    slot.backoff = Some(Backoff::new(&self.parts.config.retry, &self.parts.rng));
                }
                self.connect(segment, Some(error));
                Ok(())
            }
            Next::Successors => {
                self.ask_successors(segment);
                Ok(())
            }
            Next::Stop(error) => Err(error),
        }
    }

    fn ask_successors(&mut self, segment: SegmentId) {
        tracing::debug!(%segment, "segment has ended, asking for its successors");
        let topology = Arc::clone(&self.parts.topology);
        self.beside.spawn(async move {
            Finding::Successors {
                segment,
                found: topology.successors(segment).await,
            }
        });
    }

    fn found(&mut self, finding: Finding) -> Result<(), Error> {
        match finding {
            Finding::Connected {
                segment,
                tag,
                backoff,
                link,
            } => {
                let slot = self.slots.get_mut(&segment).expect("a slot waits for it");
                debug_assert_eq!(slot.tag, tag, "one attempt at a time");
                slot.backoff = Some(backoff);
                match link? {
                    // What ended it has been told already, when nobody knew of the link.
                    Linked::Ready { link, .. } if link.is_closed() => {
                        let endpoint = link.endpoint().clone();
                        let reason = "it ended while the writer was set up".to_owned();
                        self.connect(segment, Some(Error::Disconnected { endpoint, reason }));
                    }
                    Linked::Ready {
                        link,
                        last_event_number,
                    } => {
                        slot.linked = Some(Instant::now());
                        slot.writer
                            .connected(link, last_event_number, &mut self.done);
                        // Nothing is owed, so nothing will be acknowledged: this was what could be
                        // achieved, and a failure in an hour is not the same one.
                        if slot.writer.window.is_empty() {
                            let fresh = Backoff::new(&self.parts.config.retry, &self.parts.rng);
                            slot.backoff = Some(fresh);
                        }
                    }
                    // Appends that were sent on a connection that was lost, and the segment that would
                    // know about them is gone: writing them again could be the second time.
                    Linked::SegmentGone if slot.writer.window.in_flight_events() > 0 => {
                        return Err(Error::EventsInDoubt {
                            events: slot.writer.window.in_flight_events(),
                            segment: self.parts.topology.segment_name(segment),
                        });
                    }
                    Linked::SegmentGone => self.ask_successors(segment),
                }
                Ok(())
            }
            Finding::Successors { segment, found } => match found {
                Ok(successors) => self.reroute(segment, &successors),
                Err(error @ Error::NoSuchStream(_)) => {
                    self.end(segment, error);
                    Ok(())
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Gives a segment's keys, and everything not acknowledged, to those who take over. All of that is
    /// known not to be in the segment.
    fn reroute(&mut self, ended: SegmentId, successors: &[Successor]) -> Result<(), Error> {
        let name = self.parts.topology.segment_name(ended);
        if successors.is_empty() || self.ending.is_some() {
            let stream = name.rsplit_once('/').map_or("", |(stream, _)| stream);
            self.end(ended, Error::StreamSealed(stream.to_owned()));
            return Ok(());
        }
        let owners: Vec<Owner> = successors.iter().map(|successor| successor.owner).collect();
        if !self.router.replace(ended, &owners) {
            return Err(Error::Unavailable {
                what: "getSegmentsImmediatelyFollowing",
                message: format!("the successors of {name} do not cover its keys"),
            });
        }
        let mut slot = self.slots.remove(&ended).expect("it was written to");
        self.segment_of_tag.remove(&slot.tag);
        for event in slot.writer.window.take() {
            self.route(event);
        }
        Ok(())
    }

    /// Nobody takes over from a segment: nothing more is sent anywhere, and what was not sent, or refused
    /// by this segment, fails.
    fn end(&mut self, segment: SegmentId, error: Error) {
        let error = self.ending.get_or_insert(error).clone();
        self.memory.fail(error.clone());
        if let Some(mut slot) = self.slots.remove(&segment) {
            self.segment_of_tag.remove(&slot.tag);
            for event in slot.writer.window.take() {
                finish(event, error.clone(), &self.memory, &self.metrics);
            }
        }
        for slot in self.slots.values_mut() {
            for event in slot.writer.window.take_pending() {
                finish(event, error.clone(), &self.memory, &self.metrics);
            }
        }
    }

    /// Tells everyone whose event is durable.
    fn complete(&mut self) {
        let mut freed = 0;
        self.metrics
            .events_acknowledged
            .increment(self.done.len() as u64);
        for Done { bytes, ticket } in self.done.drain(..) {
            freed += self.memory.charge(bytes);
            let index = ticket.generation - self.first_generation;
            self.generations[index as usize].outstanding -= 1;
            if let Some(acknowledge) = ticket.acknowledge {
                let _ = acknowledge.send(Ok(()));
            }
        }
        self.memory.bytes.add_permits(freed);
        self.metrics.bytes_in_flight.decrement(freed as f64);
        while let Some(generation) = self.generations.front_mut()
            && generation.outstanding == 0
            && let Some(flush) = generation.flush.take()
        {
            let _ = flush.send(Ok(()));
            self.generations.pop_front();
            self.first_generation += 1;
        }
    }

    /// Fails everything not acknowledged. What was under way may be written all the same.
    fn fail(&mut self, error: &Error) {
        self.memory.fail(error.clone());
        for slot in self.slots.values_mut() {
            for event in slot.writer.window.take_in_flight() {
                finish(
                    event,
                    Error::OutcomeUnknown { what: "append" },
                    &self.memory,
                    &self.metrics,
                );
            }
            for event in slot.writer.window.take() {
                finish(event, error.clone(), &self.memory, &self.metrics);
            }
        }
        for generation in self.generations.drain(..) {
            if let Some(flush) = generation.flush {
                let _ = flush.send(Err(error.clone()));
            }
        }
    }
}

fn finish(event: Event, error: Error, memory: &Memory, metrics: &WriterMetrics) {
    metrics.events_failed.increment(1);
    let bytes = memory.charge(event.payload.len());
    metrics.bytes_in_flight.decrement(bytes as f64);
    if let Some(acknowledge) = event.ticket.acknowledge {
        let _ = acknowledge.send(Err(error));
    }
}

/// What it takes to set a writer up.
struct Attempt {
    locate: Arc<dyn Locate>,
    pool: Pool,
    replies: mpsc::UnboundedSender<Tagged>,
    segment: String,
    writer: WriterId,
    tag: u64,
}

impl Attempt {
    async fn until_linked(
        &self,
        backoff: &mut Backoff,
        wrong: Option<Error>,
    ) -> Result<Linked, Error> {
        let mut wrong = wrong;
        loop {
            if let Some(error) = wrong.take() {
                self.locate.forget(&self.segment);
                backoff.pause(error).await?;
            }
            match self.once().await {
                Err(error) if error.is_retryable() => wrong = Some(error),
                done => return done,
            }
        }
    }

    /// Asks for the writer's last durable event number. The server answers after everything it accepted
    /// from this writer before, on whatever connection; while it is full that takes as long as that, so only the end of
    /// the connection ends the wait.
    async fn once(&self) -> Result<Linked, Error> {
        let endpoint = self.locate.locate(&self.segment).await?;
        let connection = self.pool.get(&endpoint).await?;
        let set_up = connection.start(|request_id| {
            command::SetupAppend {
                request_id,
                writer_id: self.writer,
                segment: self.segment.clone(),
                token: String::new(),
            }
            .into()
        });
        let (_, answer) = set_up.map_err(|unsent| unsent.0)?;
        match answer.await? {
            Reply::AppendSetup(set_up) => Ok(Linked::Ready {
                link: connection
                    .attach(self.tag, self.replies.clone())
                    .map_err(|unsent| unsent.0)?,
                last_event_number: set_up.last_event_number,
            }),
            Reply::NoSuchSegment(_) | Reply::SegmentIsSealed(_) => Ok(Linked::SegmentGone),
            reply => Err(
                failure(&reply, &endpoint, "SetupAppend").unwrap_or_else(|| Error::Protocol {
                    endpoint,
                    what: format!("unexpected {}", reply.name()),
                }),
            ),
        }
    }
}

/// A link that ends after this long was a good one.
const LINKED_MIN: Duration = Duration::from_secs(10);
/// Taken together from each inbox: large enough to fill an append, small enough to stay fair.
const INPUTS_PER_TURN: usize = 512;
