//! What is to be answered, and when.
//!
//! An answer is decided at its operation's place in the order and given when the frame it depends on is
//! durable: its own, or else the last one before it. [`release`] is the only place that gives any.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use sarit_proto::ids::{ContainerId, Offset};
use tokio::sync::{mpsc, oneshot};

use crate::residents::Pin;
use crate::state::Seeded;
use crate::{AppendOp, Done, Error, Outcome, Outcomes, Permit};

/// Where one connection's outcomes go.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Groups the outcomes of one frame by connection.
    pub(crate) number: u64,
    pub(crate) outcomes: mpsc::UnboundedSender<Outcomes>,
    /// Keeps the segments in memory that its writers append to, each writer's last one.
    pub(crate) pins: Mutex<HashMap<u64, (Arc<str>, Pin), Seeded>>,
}

impl Destination {
    /// Whether the segment that an operation names was pinned for its writer.
    pub(crate) fn is_pinned(&self, operation: &AppendOp) -> bool {
        let (token, segment) = operation.place();
        let pins = self.pins.lock();
        let pinned = pins.get(&token);
        pinned.is_some_and(|(pinned, _)| Arc::ptr_eq(pinned, segment) || pinned == segment)
    }
}

/// An answer that waits for its frame.
#[derive(Debug)]
pub(crate) enum Reply {
    Append {
        to: Arc<Destination>,
        outcome: Outcome,
        /// Held until the bytes are durable.
        permit: Permit,
    },
    Request(Answer),
}

/// Who asked, and the answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Nothing(Caller<()>, Result<(), Error>),
    Offset(Caller<Offset>, Result<Offset, Error>),
    Flag(Caller<bool>, Result<bool, Error>),
    Versions(Caller<Vec<i64>>, Result<Vec<i64>, Error>),
    Offsets(Caller<Vec<Offset>>, Result<Vec<Offset>, Error>),
}

/// Waits for an answer.
pub(crate) type Caller<T> = oneshot::Sender<Result<T, Error>>;

impl Answer {
    // A caller that has gone does not want to know.
    fn send(self) {
        match self {
            Self::Nothing(caller, result) => drop(caller.send(result)),
            Self::Offset(caller, result) => drop(caller.send(result)),
            Self::Flag(caller, result) => drop(caller.send(result)),
            Self::Versions(caller, result) => drop(caller.send(result)),
            Self::Offsets(caller, result) => drop(caller.send(result)),
        }
    }
}

impl Reply {
    /// Turns the answer into "nobody knows".
    fn forget(self) -> Self {
        const UNKNOWN: Error = Error::OutcomeUnknown;
        match self {
            Self::Append {
                to,
                outcome,
                permit,
            } => Self::Append {
                to,
                outcome: Outcome {
                    result: Err(UNKNOWN),
                    ..outcome
                },
                permit,
            },
            Self::Request(answer) => Self::Request(match answer {
                Answer::Nothing(caller, _) => Answer::Nothing(caller, Err(UNKNOWN)),
                Answer::Offset(caller, _) => Answer::Offset(caller, Err(UNKNOWN)),
                Answer::Flag(caller, _) => Answer::Flag(caller, Err(UNKNOWN)),
                Answer::Versions(caller, _) => Answer::Versions(caller, Err(UNKNOWN)),
                Answer::Offsets(caller, _) => Answer::Offsets(caller, Err(UNKNOWN)),
            }),
        }
    }

    /// Whether it tells something that only durable state may tell, without having written itself.
    #[cfg(planted = "speculative_reply")]
    pub(crate) fn only_tells(&self) -> bool {
        matches!(
            self,
            Self::Append {
                outcome: Outcome {
                    result: Ok(Done::Setup { .. }) | Err(Error::WrongOffset { .. }),
                    ..
                },
                ..
            }
        )
    }
}

/// What one connection is to be told of a frame.
struct Told {
    to: Arc<Destination>,
    outcomes: Vec<Outcome>,
    /// Of all of them, so that it is given back at once.
    permit: Permit,
}

/// Gives the answers whose frame is durable; one message per connection. Requests come first.
pub(crate) fn release(container: ContainerId, replies: &mut Vec<Reply>) {
    let mut told: Vec<Told> = Vec::new();
    // Where each connection is in it. Only looked up, and only once there are several.
    let mut places: HashMap<u64, usize, Seeded> = HashMap::with_hasher(Seeded(0));
    let mut last = 0;
    let mut left = replies.len();
    for reply in replies.drain(..) {
        left -= 1;
        let (to, outcome, permit) = match reply {
            Reply::Request(answer) => {
                answer.send();
                continue;
            }
            Reply::Append {
                to,
                outcome,
                permit,
            } => (to, outcome, permit),
        };
        if told
            .get(last)
            .is_none_or(|told| told.to.number != to.number)
        {
            last = *places.entry(to.number).or_insert(told.len());
        }
        match told.get_mut(last) {
            Some(told) => {
                told.outcomes.push(outcome);
                told.permit.absorb(permit);
            }
            None => {
                let mut outcomes = Vec::with_capacity(1 + left.min(63));
                outcomes.push(outcome);
                told.push(Told {
                    to,
                    outcomes,
                    permit,
                });
            }
        }
    }
    for Told {
        to,
        outcomes,
        permit,
    } in told
    {
        drop(permit);
        let list = outcomes;
        // A connection that has gone asks again after reconnecting.
        let _ = to.outcomes.send(Outcomes { container, list });
    }
}

/// Answers everything with "nobody knows": the log failed.
pub(crate) fn abandon(container: ContainerId, replies: Vec<Reply>) {
    let mut replies = replies.into_iter().map(Reply::forget).collect();
    release(container, &mut replies);
}

/// Puts an append's answer together.
pub(crate) fn appended(
    to: &Arc<Destination>,
    token: u64,
    result: Result<Done, Error>,
    permit: Permit,
) -> Reply {
    Reply::Append {
        to: to.clone(),
        outcome: Outcome { token, result },
        permit,
    }
}
