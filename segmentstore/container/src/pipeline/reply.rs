//! What is to be answered, and when.
//!
//! An answer is decided at its operation's place in the order and given when the frame it depends on is
//! durable: its own, or else the last one before it. [`release`] is the only place that gives any.

use std::sync::Arc;

use sarit_proto::ids::{ContainerId, Offset};
use tokio::sync::{mpsc, oneshot};

use crate::{Done, Error, Outcome, Outcomes, Permit};

/// Where one connection's outcomes go.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Groups the outcomes of one frame by connection.
    pub(crate) number: u64,
    pub(crate) outcomes: mpsc::UnboundedSender<Outcomes>,
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

/// Gives the answers whose frame is durable; one message per connection.
pub(crate) fn release(container: ContainerId, replies: &mut Vec<Reply>) {
    // Stable: each connection's outcomes keep their order. Requests come first.
    replies.sort_by_key(|reply| match reply {
        Reply::Request(_) => 0,
        Reply::Append { to, .. } => 1 + to.number,
    });
    let mut current: Option<(Arc<Destination>, Vec<Outcome>)> = None;
    let left = replies.len();
    for reply in replies.drain(..) {
        match reply {
            Reply::Request(answer) => answer.send(),
            Reply::Append {
                to,
                outcome,
                permit,
            } => {
                drop(permit);
                match &mut current {
                    Some((same, list)) if same.number == to.number => list.push(outcome),
                    _ => {
                        let mut list = Vec::with_capacity(left.clamp(1, 64));
                        list.push(outcome);
                        if let Some(full) = current.replace((to, list)) {
                            send(container, full);
                        }
                    }
                }
            }
        }
    }
    if let Some(last) = current {
        send(container, last);
    }
}

/// Answers everything with "nobody knows": the log failed.
pub(crate) fn abandon(container: ContainerId, replies: Vec<Reply>) {
    let mut replies = replies.into_iter().map(Reply::forget).collect();
    release(container, &mut replies);
}

fn send(container: ContainerId, (to, list): (Arc<Destination>, Vec<Outcome>)) {
    // A connection that has gone asks again after reconnecting.
    let _ = to.outcomes.send(Outcomes { container, list });
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
