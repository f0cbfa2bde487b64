//! Requests as the container takes them and as the model does, and the answers of either.

use std::sync::Arc;

use sarit_env::Rng;
use tokio::sync::oneshot;

use super::super::model::{Answer, Operation};
use crate::pipeline::Wish;
use crate::pipeline::reply::Caller;
use crate::{AppendOp, Error, Offset, Permit};

pub(super) enum Waiting {
    Nothing(oneshot::Receiver<Result<(), Error>>),
    Offset(oneshot::Receiver<Result<Offset, Error>>),
    Flag(oneshot::Receiver<Result<bool, Error>>),
    Versions(oneshot::Receiver<Result<Vec<i64>, Error>>),
    Offsets(oneshot::Receiver<Result<Vec<Offset>, Error>>),
}

impl Waiting {
    /// Returns the answer if there is one that says anything.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        fn map<T>(
            receiver: &mut oneshot::Receiver<Result<T, Error>>,
            wrap: impl FnOnce(T) -> Answer,
        ) -> Option<Answer> {
            match receiver.try_recv().ok()? {
                Ok(value) => Some(wrap(value)),
                Err(error) => refusal(error),
            }
        }
        match self {
            Self::Nothing(receiver) => map(receiver, |()| Answer::Nothing),
            Self::Offset(receiver) => map(receiver, Answer::Offset),
            Self::Flag(receiver) => map(receiver, Answer::Flag),
            Self::Versions(receiver) => map(receiver, Answer::Versions),
            Self::Offsets(receiver) => map(receiver, Answer::Offsets),
        }
    }
}

pub(super) fn refusal(error: Error) -> Option<Answer> {
    match error {
        Error::Stopping | Error::OutcomeUnknown => None,
        error => Some(Answer::Refused(format!("{error:?}"))),
    }
}

pub(super) fn channel<T>() -> (Caller<T>, oneshot::Receiver<Result<T, Error>>) {
    oneshot::channel()
}

pub(super) fn to_append(name: &Arc<str>, operation: &Operation, token: u64, rng: &Rng) -> AppendOp {
    match operation {
        Operation::Setup { writer } => AppendOp::Setup {
            segment: name.clone(),
            writer: *writer,
            token,
        },
        Operation::Append {
            writer,
            number,
            events,
            expected,
            data,
        } => {
            let split = rng.below(data.len() as u64 + 1) as usize;
            AppendOp::Append {
                segment: name.clone(),
                writer: *writer,
                token,
                last_event_number: *number,
                event_count: *events,
                expected_offset: expected.map(Offset),
                data: [data.slice(..split), data.slice(split..)]
                    .into_iter()
                    .collect(),
                permit: Permit::none(),
            }
        }
        other => unreachable!("{other:?} is a request"),
    }
}

pub(super) fn to_wish(operation: &Operation) -> (Wish, Waiting) {
    match operation.clone() {
        Operation::Append { .. } | Operation::Setup { .. } => unreachable!("not a request"),
        Operation::Create(kind, attributes) => {
            let (caller, waiting) = channel();
            (
                Wish::Create(kind, attributes, caller),
                Waiting::Nothing(waiting),
            )
        }
        Operation::Seal => {
            let (caller, waiting) = channel();
            (Wish::Seal(caller), Waiting::Offset(waiting))
        }
        Operation::Truncate(at) => {
            let (caller, waiting) = channel();
            (
                Wish::Truncate(Offset(at), caller),
                Waiting::Nothing(waiting),
            )
        }
        Operation::Delete { empty_table } => {
            let (caller, waiting) = channel();
            let wish = Wish::Delete {
                empty_table,
                caller,
            };
            (wish, Waiting::Nothing(waiting))
        }
        Operation::UpdateAttribute(id, new, expected) => {
            let (caller, waiting) = channel();
            let wish = Wish::UpdateAttribute(id, new, expected, caller);
            (wish, Waiting::Flag(waiting))
        }
        Operation::TableUpdate(entries, length) => {
            let (caller, waiting) = channel();
            let wish = Wish::TableUpdate(entries, length, caller);
            (wish, Waiting::Versions(waiting))
        }
        Operation::TableRemove(keys, length) => {
            let (caller, waiting) = channel();
            (
                Wish::TableRemove(keys, length, caller),
                Waiting::Nothing(waiting),
            )
        }
        Operation::Merge {
            sources,
            updates,
            lenient,
        } => {
            let (caller, waiting) = channel();
            let wish = Wish::Merge {
                sources,
                updates,
                lenient,
                caller,
            };
            (wish, Waiting::Offsets(waiting))
        }
    }
}
