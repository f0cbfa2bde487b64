//! After a life: everything anyone was told must still be true.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE};

use super::super::model::{Model, Segment};
use super::life::{Asked, Peek};
use crate::{Container, Error, Kind, Offset, residents};

/// What is left of a life.
pub(super) struct Ended {
    /// The order of all operations, as the sequencer notes it.
    pub(super) order: Vec<(Option<u64>, u64)>,
    pub(super) appends: BTreeMap<u64, VecDeque<Asked>>,
    pub(super) requests: VecDeque<Asked>,
    pub(super) peeks: Vec<Peek>,
}

impl Ended {
    /// Compares all that was told with the model, from `model` on. `durable` is the number of the next
    /// operation that the log is known to hold. Returns the model at that point.
    pub(super) fn verify(self, mut model: Model, durable: u64, all_answered: bool) -> Model {
        let Self {
            order,
            mut appends,
            mut requests,
            mut peeks,
        } = self;
        let matches = |peek: &Peek, model: &Model, at: usize| {
            peek.at >= at && model.0.get(&peek.name).map(visible) == peek.seen
        };
        peeks.retain(|peek| !matches(peek, &model, 0));
        for (at, (connection, next_seq)) in order.into_iter().enumerate() {
            let asked = match connection {
                Some(number) => appends.get_mut(&number).and_then(VecDeque::pop_front),
                None => requests.pop_front(),
            };
            let asked = asked.expect("only what was asked is in the order");
            let kept = next_seq <= durable;
            if kept {
                let expected = model.perform(&asked.name, &asked.operation);
                if let Some(answer) = &asked.answer {
                    assert_eq!(
                        answer, &expected,
                        "{at}: {:?} {:?}",
                        asked.name, asked.operation
                    );
                }
                assert!(
                    asked.answer.is_some() || !all_answered,
                    "{at} has no answer"
                );
                peeks.retain(|peek| !matches(peek, &model, at + 1));
            } else {
                // Not in the log: nobody may have been told anything that rests on it.
                assert!(
                    asked.answer.is_none(),
                    "{at}: {:?} was answered",
                    asked.operation
                );
            }
        }
        if let Some(peek) = peeks.first() {
            panic!(
                "{} was seen as {:?}, at or before {}",
                peek.name, peek.seen, peek.at
            );
        }
        let left = requests.iter().chain(appends.values().flatten());
        let left = left.filter(|asked| asked.answer.is_some()).count();
        assert_eq!(left, 0, "answered, but never in the order");
        model
    }
}

/// Returns the segment as a reader can see it.
pub(super) fn visible(segment: &Segment) -> Segment {
    let mut seen = segment.clone();
    seen.bytes.drain(..seen.start as usize);
    seen.numbers.retain(|_, value| *value != NULL_ATTRIBUTE);
    // Seen only through the answers to merges.
    seen.merged.clear();
    seen
}

pub(super) async fn look(container: &Container, name: &Arc<str>) -> Result<Option<Segment>, Error> {
    let pinned = residents::pin(&container.0.shared, name).await;
    let _pin = pinned.expect("loads");
    let state = container.0.shared.state.read().clone();
    let Some((_, segment)) = state.find(name) else {
        return Ok(None);
    };
    let mut seen = Segment::from_state(segment);
    let mut offset = segment.start;
    while offset < segment.length && segment.table.is_none() {
        let read = container.read(name, Offset(offset), 100, Duration::ZERO);
        let read = read.await?;
        assert!(!read.data.is_empty());
        let left = (segment.length - offset) as usize;
        seen.bytes
            .extend_from_slice(&read.data[..read.data.len().min(left)]);
        offset += read.data.len() as u64;
    }
    Ok(Some(seen))
}

impl Segment {
    pub(super) fn from_state(segment: &crate::state::Segment) -> Self {
        let mut model = Self::default();
        model.start = segment.start;
        model.sealed = segment.sealed;
        model.numbers = segment.numbers.iter().collect();
        if segment.events != NULL_ATTRIBUTE {
            model
                .numbers
                .insert(AttributeId::EVENT_COUNT, segment.events);
        }
        if let Some(table) = &segment.table {
            model.make_table(segment.length);
            if let Kind::Table { key_length } = segment.kind {
                model.key_length = key_length;
            }
            for (key, version, value) in table.iter() {
                let entry = (version as i64, value.clone());
                model.entries.insert(key.clone(), entry);
            }
        }
        model
    }
}
