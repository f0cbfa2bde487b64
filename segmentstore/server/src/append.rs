//! The writers of one connection: set-up, window of unacknowledged appends, acknowledgements. No I/O.
//!
//! A *binding* is one writer set up on one segment. Its appends enter the container in the order they
//! arrived, and their outcomes come back in that order, so a queue per binding is all that has to be
//! remembered of them; the token given to the container is the binding's place.
//!
//! ```text
//! SetupAppend ─▶ live ── append refused ──▶ failed ── SetupAppend ─▶ live
//!                  └── the writer is set up on another segment ─▶ replaced (until its queue is empty)
//! ```
//!
//! Guarantees: acknowledgements of a writer rise; several appends of one binding whose outcomes arrive
//! together get one `DataAppended`, conditional ones one each, because clients match those by request.
//! A refused append is answered once for everything already under way; what the writer sends after that
//! is answered with the same refusal and never stored, so there are no gaps.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sarit_container::{AppendOp, Done, Error, Outcomes, Permit};
use sarit_proto::ids::{ContainerId, NULL_ATTRIBUTE, Offset, WriterId};
use sarit_proto::wire::Reply;
use sarit_proto::wire::append::AppendData;
use sarit_proto::wire::command::SetupAppend;
use sarit_proto::wire::reply::{
    AppendSetup, ConditionalCheckFailed, DataAppended, InvalidEventNumber,
};

use crate::load::{Meter, Meters};
use crate::metrics::reached;
use crate::reply::{self, Close, Refused};

/// All writers of one connection.
pub(crate) struct Appends {
    bindings: Vec<Option<Binding>>,
    free: Vec<usize>,
    /// Only looked up, never iterated.
    by_writer: HashMap<WriterId, usize>,
    writers_max: usize,
    /// What fits in a frame of the log.
    append_bytes_max: usize,
    /// Rises with every set-up and append, to tell which writers have been idle longest.
    turn: u64,
    in_flight: usize,
    /// Bindings with an acknowledgement that is still being gathered.
    gathering: Vec<usize>,
    meters: Meters,
}

struct Binding {
    writer: WriterId,
    segment: Arc<str>,
    container: ContainerId,
    state: State,
    /// Highest event number submitted since the last set-up.
    seen: i64,
    /// Highest event number the client was told to be durable.
    acked: i64,
    window: VecDeque<InFlight>,
    gathered: Option<Acked>,
    /// When the writer was last heard of.
    turn: u64,
    /// Counts what arrives, refused or not: it is load.
    meter: Option<Arc<Meter>>,
}

enum State {
    Live,
    /// Every append is answered with this until the next set-up.
    Failed(Box<Reply>),
    Replaced,
}

struct InFlight {
    request_id: i64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Setup,
    Append(i64),
    Conditional(i64),
}

struct Acked {
    event_number: i64,
    request_id: i64,
    length: Offset,
}

/// An append as the client sent it, whichever of the three forms it had.
pub(crate) struct Append {
    pub(crate) writer: WriterId,
    pub(crate) request_id: i64,
    pub(crate) event_number: i64,
    pub(crate) event_count: u32,
    /// The length the segment must have, for a conditional one.
    pub(crate) expected_offset: Option<i64>,
    pub(crate) data: AppendData,
}

/// What becomes of an append.
pub(crate) enum Taken {
    /// To be submitted to this container.
    Submit(ContainerId, AppendOp),
    /// Refused without asking the container.
    Refused(Reply),
    /// Answered, and the connection ends.
    Closed(Option<Reply>, Close),
}

impl Appends {
    /// Takes at most `writers_max` writers, and appends of at most `append_bytes_max`.
    pub(crate) fn new(writers_max: usize, append_bytes_max: usize, meters: Meters) -> Self {
        Self {
            bindings: Vec::new(),
            free: Vec::new(),
            by_writer: HashMap::new(),
            writers_max,
            append_bytes_max,
            turn: 0,
            in_flight: 0,
            gathering: Vec::new(),
            meters,
        }
    }

    /// Returns the operations submitted and not yet answered by their containers.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Binds a writer to a segment, or refreshes the binding.
    ///
    /// Clients don't say that a writer is done, and one that writes transactions has a new one for each. So at
    /// the limit those that have been idle longest are forgotten; one that appends again all the same
    /// finds the connection closed, as if it had never been set up, connects again and goes on.
    pub(crate) fn set_up(&mut self, setup: &SetupAppend, container: ContainerId) -> Taken {
        let bound = self.by_writer.get(&setup.writer_id).copied();
        if bound.is_none() && self.by_writer.len() >= self.writers_max {
            self.forget_idle();
        }
        let same = bound.filter(|place| &*self.at(*place).segment == setup.segment.as_str());
        let place = match same {
            Some(place) => place,
            None if bound.is_none() && self.by_writer.len() >= self.writers_max => {
                reached("writers");
                let message = format!(
                    "a connection serves at most {} writers at work",
                    self.writers_max
                );
                let refused = Refused::unspecified(setup.request_id, &setup.segment, message);
                return Taken::Refused(refused);
            }
            None => self.bind(setup, container, bound),
        };
        self.turn += 1;
        let turn = self.turn;
        let binding = self.at(place);
        binding.turn = turn;
        binding.state = State::Live;
        // The client may start again from its last durable event.
        binding.seen = NULL_ATTRIBUTE;
        let operation = AppendOp::Setup {
            segment: binding.segment.clone(),
            writer: binding.writer,
            token: place as u64,
        };
        self.push(place, setup.request_id, Kind::Setup);
        Taken::Submit(container, operation)
    }

    /// Gives an append its place behind the writer's earlier ones.
    pub(crate) fn append(&mut self, append: Append, permit: Permit) -> Taken {
        let Some(place) = self.by_writer.get(&append.writer).copied() else {
            return Taken::Closed(None, Close::NotSetUp);
        };
        self.turn += 1;
        let (turn, most) = (self.turn, self.append_bytes_max);
        let binding = self.at(place);
        binding.turn = turn;
        if let State::Failed(refusal) = &binding.state {
            let again = reply::repeat(refusal, append.request_id, append.event_number);
            return Taken::Refused(again);
        }
        if append.event_number < binding.seen.max(0) {
            let reply = InvalidEventNumber {
                writer_id: append.writer,
                request_id: append.request_id,
                stack_trace: String::new(),
                event_number: append.event_number,
            };
            return Taken::Closed(Some(reply.into()), Close::EventNumber);
        }
        if append.data.len() > most {
            // Refused by its container it would leave a gap: what follows it would be there by then.
            let bytes = append.data.len();
            let message = format!("an append of {bytes} bytes, at most {most} are possible");
            let refusal = Refused::illegal_argument(append.request_id, &binding.segment, message);
            if binding.window.iter().any(|next| next.kind == Kind::Setup) {
                return Taken::Closed(Some(refusal), Close::TooLarge);
            }
            binding.state = State::Failed(Box::new(refusal.clone()));
            return Taken::Refused(refusal);
        }
        binding.seen = append.event_number;
        if let Some(meter) = &binding.meter {
            meter.count(append.event_count.into(), append.data.len() as u64);
        }
        let container = binding.container;
        let operation = AppendOp::Append {
            segment: binding.segment.clone(),
            writer: append.writer,
            token: place as u64,
            last_event_number: append.event_number,
            event_count: append.event_count,
            // A negative length is nobody's: the container answers it like any other wrong one.
            expected_offset: append
                .expected_offset
                .map(|offset| Offset(u64::try_from(offset).unwrap_or(u64::MAX))),
            data: append.data,
            permit,
        };
        let kind = match append.expected_offset {
            None => Kind::Append(append.event_number),
            Some(_) => Kind::Conditional(append.event_number),
        };
        self.push(place, append.request_id, kind);
        Taken::Submit(container, operation)
    }

    /// Turns outcomes into replies, in an order that clients understand.
    ///
    /// # Errors
    /// The connection must end: what happened to an append is unknown.
    pub(crate) fn complete(
        &mut self,
        outcomes: Outcomes,
        reply: &mut impl FnMut(Reply),
    ) -> Result<(), Close> {
        for outcome in outcomes.list {
            let place = outcome.token as usize;
            self.complete_one(place, outcome.result, reply)?;
        }
        for place in std::mem::take(&mut self.gathering) {
            self.acknowledge(place, reply);
            self.release(place);
        }
        Ok(())
    }

    /// Answers operations that never reached their container, which can't be opened.
    pub(crate) fn refuse(&mut self, tokens: &[u64], why: &str, reply: &mut impl FnMut(Reply)) {
        for token in tokens {
            let place = *token as usize;
            let first = self.pop(place);
            let segment = self.at(place).segment.clone();
            let refusal = Refused::unspecified(first.request_id, &segment, why.to_owned());
            self.fail(place, refusal, reply);
            self.release(place);
        }
    }

    fn complete_one(
        &mut self,
        place: usize,
        result: Result<Done, Error>,
        reply: &mut impl FnMut(Reply),
    ) -> Result<(), Close> {
        let InFlight { request_id, kind } = self.pop(place);
        match (kind, result) {
            (Kind::Append(event_number), Ok(Done::Appended { length })) => {
                self.gather(
                    place,
                    Acked {
                        event_number,
                        request_id,
                        length,
                    },
                );
            }
            (Kind::Conditional(event_number), Ok(Done::Appended { length })) => {
                self.acknowledge(place, reply);
                self.at(place).gathered = Some(Acked {
                    event_number,
                    request_id,
                    length,
                });
                self.acknowledge(place, reply);
            }
            (Kind::Setup, Ok(Done::Setup { last_event_number })) => {
                self.acknowledge(place, reply);
                let binding = self.at(place);
                binding.acked = last_event_number;
                binding.seen = binding.seen.max(last_event_number);
                if !matches!(binding.state, State::Replaced) {
                    binding.state = State::Live;
                }
                reply(Reply::AppendSetup(AppendSetup {
                    request_id,
                    segment: binding.segment.to_string(),
                    writer_id: binding.writer,
                    last_event_number,
                }));
            }
            (Kind::Conditional(event_number), Err(Error::WrongOffset { .. })) => {
                self.acknowledge(place, reply);
                let binding = self.at(place);
                if binding.window.is_empty() {
                    binding.seen = binding.acked;
                }
                reply(Reply::ConditionalCheckFailed(ConditionalCheckFailed {
                    writer_id: binding.writer,
                    event_number,
                    request_id,
                }));
            }
            (kind, Err(error)) => {
                self.acknowledge(place, reply);
                let offset = match kind {
                    Kind::Setup => -1,
                    Kind::Append(number) | Kind::Conditional(number) => number,
                };
                let segment = self.at(place).segment.clone();
                let refused = Refused {
                    request_id,
                    segment: &segment,
                    offset,
                };
                let refusal = refused.reply(error)?;
                self.fail(place, refusal, reply);
            }
            (_, Ok(_)) => return Err(Close::Confused),
        }
        self.release(place);
        Ok(())
    }

    /// Ends a binding, unless a set-up that will revive it is under way.
    fn fail(&mut self, place: usize, refusal: Reply, reply: &mut impl FnMut(Reply)) {
        let binding = self.at(place);
        if !matches!(binding.state, State::Live) {
            return;
        }
        let revived = binding.window.iter().any(|next| next.kind == Kind::Setup);
        if !revived {
            binding.state = State::Failed(Box::new(refusal.clone()));
        }
        reply(refusal);
    }

    fn gather(&mut self, place: usize, acked: Acked) {
        let before = self.at(place).gathered.replace(acked);
        if before.is_none() {
            self.gathering.push(place);
        }
    }

    fn acknowledge(&mut self, place: usize, reply: &mut impl FnMut(Reply)) {
        let Some(binding) = &mut self.bindings[place] else {
            return;
        };
        let Some(acked) = binding.gathered.take() else {
            return;
        };
        // A repeated append is acknowledged again; clients insist on a lower previous number.
        let previous = if binding.acked < acked.event_number {
            binding.acked
        } else {
            acked.event_number - 1
        };
        binding.acked = binding.acked.max(acked.event_number);
        reply(Reply::DataAppended(DataAppended {
            writer_id: binding.writer,
            event_number: acked.event_number,
            previous_event_number: previous,
            request_id: acked.request_id,
            current_segment_write_offset: acked.length.0 as i64,
        }));
    }

    fn bind(&mut self, setup: &SetupAppend, container: ContainerId, old: Option<usize>) -> usize {
        let binding = Binding {
            writer: setup.writer_id,
            segment: setup.segment.as_str().into(),
            container,
            state: State::Live,
            seen: NULL_ATTRIBUTE,
            acked: NULL_ATTRIBUTE,
            window: VecDeque::new(),
            gathered: None,
            turn: 0,
            meter: self.meters.of(&setup.segment),
        };
        if let Some(old) = old {
            self.at(old).state = State::Replaced;
            self.release(old);
        }
        let place = self.free.pop().unwrap_or(self.bindings.len());
        match self.bindings.get_mut(place) {
            Some(free) => *free = Some(binding),
            None => self.bindings.push(Some(binding)),
        }
        self.by_writer.insert(setup.writer_id, place);
        place
    }

    /// Forgets a quarter of the writers, or as many as wait for nothing, those first that have been idle longest.
    fn forget_idle(&mut self) {
        let places = self.by_writer.values();
        let idle = places.filter_map(|place| {
            let binding = self.bindings[*place].as_ref()?;
            let idle = binding.window.is_empty() && binding.gathered.is_none();
            idle.then_some((binding.turn, *place))
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable();
        idle.truncate(self.writers_max.div_ceil(4));
        for (_, place) in idle {
            if let Some(binding) = self.bindings[place].take() {
                self.by_writer.remove(&binding.writer);
                self.free.push(place);
            }
        }
    }

    /// Gives a replaced binding's place back once nothing can refer to it any more.
    fn release(&mut self, place: usize) {
        let done = self.bindings[place].as_ref().is_some_and(|binding| {
            matches!(binding.state, State::Replaced)
                && binding.window.is_empty()
                && binding.gathered.is_none()
        });
        if done {
            self.bindings[place] = None;
            self.free.push(place);
        }
    }

    fn push(&mut self, place: usize, request_id: i64, kind: Kind) {
        self.in_flight += 1;
        let window = &mut self.at(place).window;
        window.push_back(InFlight { request_id, kind });
    }

    fn pop(&mut self, place: usize) -> InFlight {
        self.in_flight -= 1;
        let next = self.at(place).window.pop_front();
        next.expect("a container answers every operation once")
    }

    fn at(&mut self, place: usize) -> &mut Binding {
        let binding = self.bindings.get_mut(place).and_then(Option::as_mut);
        binding.expect("a place is given back only when its window is empty")
    }
}

#[cfg(test)]
mod tests;
