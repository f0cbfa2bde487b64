//! One life of a container: what is asked of it at random, and what it answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarit_env::{Clock, Rng};
use sarit_proto::ids::{AttributeId, ContainerId, NULL_ATTRIBUTE, WriterId};
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};
use sarit_storage::memory::Faults;
use sarit_wal::Wal;
use tokio::sync::mpsc;

use super::super::model::{Answer, Operation, Segment};
use super::answers::{Waiting, refusal, to_append, to_wish};
use super::end::{Ended, look};
use super::store::Store;
use super::{CONNECTIONS, NAMES};
use crate::pipeline::{Request, Wish};
use crate::{
    Appender, AttributeUpdate, Config, Container, Error, Flush, Kind, MemoryBudget, Outcomes,
    Parts, Running, residents,
};

/// What was asked, and the answer once there is one.
pub(super) struct Asked {
    pub(super) name: Arc<str>,
    pub(super) operation: Operation,
    pub(super) answer: Option<Answer>,
}

/// What a reader saw of a segment, and how long the order was then.
pub(super) struct Peek {
    pub(super) name: Arc<str>,
    pub(super) seen: Option<Segment>,
    pub(super) at: usize,
}

/// One life of the container.
pub(super) struct Life {
    pub(super) rng: Rng,
    pub(super) wal: Wal,
    pub(super) container: Container,
    pub(super) running: Option<Running>,
    pub(super) connections: Vec<Connection>,
    pub(super) requests: Vec<(Asked, Waiting)>,
    pub(super) peeks: Vec<Peek>,
}

pub(super) struct Connection {
    pub(super) appender: Appender,
    pub(super) outcomes: mpsc::UnboundedReceiver<Outcomes>,
    pub(super) asked: Vec<Asked>,
}

impl Life {
    pub(super) async fn open(rng: Rng, store: &Store) -> Self {
        let wal = store.wal(&rng).await;
        let parts = Parts {
            clock: Clock::from_fn(|| 5),
            rng: rng.split(),
            memory: MemoryBudget::default(),
            index: store.index.clone(),
            storage: Some(store.objects.store()),
        };
        let flush = Flush {
            bytes: 1500,
            period_ms: 1 + rng.below(5),
            big_bytes: 500,
            big_pack_bytes: 3000,
            uploads: 1 + rng.below(3) as usize,
            compact_ms: 1 + rng.below(8),
            live_percent: 70,
            extents: 3,
            grace_ms: rng.below(4),
            sweep_ms: 1 + rng.below(20),
        };
        let config = Config {
            frame_bytes: 512,
            frame_operations: 12,
            checkpoint_bytes: [500, 4_000, 20_000][rng.below(3) as usize],
            checkpoint_segments: 1_000,
            resident_segments: rng.below(5) as usize,
            check_cuts: true,
            // Lives are short: packs would outlive them all.
            export_seconds: 0,
            flush,
            ..Config::default()
        };
        let opened = Container::open(ContainerId(3), &wal, parts, config).await;
        let (container, running) = opened.expect("the log is whole");
        // What the start itself did is no part of the order asked for.
        container.0.shared.trace.lock().clear();
        let connections = (0..CONNECTIONS).map(|_| {
            let (sender, outcomes) = mpsc::unbounded_channel();
            Connection {
                appender: container.appender(sender),
                outcomes,
                asked: Vec::new(),
            }
        });
        Self {
            connections: connections.collect(),
            rng,
            wal,
            container,
            running: Some(running),
            requests: Vec::new(),
            peeks: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> Arc<str> {
        NAMES[self.rng.below(NAMES.len() as u64) as usize].into()
    }

    pub(super) async fn act(&mut self, store: &Store) {
        match self.rng.below(100) {
            0..50 => self.append().await,
            50..80 => self.request().await,
            80..88 => self.peek().await,
            88..96 => tokio::time::sleep(Duration::from_micros(self.rng.below(3000))).await,
            96..98 => store.slow(Duration::from_micros(
                self.rng.below(4) * self.rng.below(1000),
            )),
            98 => tokio::time::sleep(Duration::from_millis(self.rng.below(300))).await,
            99.. => store.objects.set_faults(self.faults()),
        }
    }

    /// What goes wrong with long-term storage from now on; mostly nothing.
    fn faults(&self) -> Faults {
        let rng = &self.rng;
        let some = |often: f64| if rng.chance(0.4) { often } else { 0.0 };
        Faults {
            refuse: some(0.3),
            lose_answer: some(0.3),
            stall: some(0.3),
            stall_time: Duration::from_micros(rng.below(5000)),
            ..Faults::default()
        }
    }

    pub(super) async fn append(&mut self) {
        let connection = self.rng.below(CONNECTIONS) as usize;
        let mut batch = Vec::new();
        for _ in 0..1 + self.rng.below(6) {
            let name = self.name();
            // A writer keeps to one connection, as clients do.
            let writer = WriterId(u128::from(connection as u64 * 2 + self.rng.below(2)));
            let token = self.connections[connection].asked.len() as u64;
            let operation = if self.rng.chance(0.2) {
                Operation::Setup { writer }
            } else {
                let fill = self.rng.u64() as u8;
                let size = if self.rng.chance(0.02) { 2000 } else { 40 };
                let expected = self.rng.chance(0.3).then(|| self.likely_length(&name));
                Operation::Append {
                    writer,
                    // Mostly rising, sometimes repeated.
                    number: (token + self.rng.below(4)) as i64,
                    events: 1 + self.rng.below(3) as u32,
                    expected,
                    data: vec![fill; self.rng.below(size) as usize].into(),
                }
            };
            batch.push(to_append(&name, &operation, token, &self.rng));
            self.connections[connection].asked.push(Asked {
                name,
                operation,
                answer: None,
            });
        }
        let submitted = self.connections[connection].appender.submit(batch).await;
        submitted.expect("is running");
    }

    /// Returns a length that has some chance to be the right one.
    fn likely_length(&self, name: &Arc<str>) -> u64 {
        let state = self.container.0.shared.state.read();
        state
            .find(name)
            .map_or(0, |(_, segment)| segment.length + 20 * self.rng.below(2))
    }

    pub(super) async fn request(&mut self) {
        let (wish, waiting, asked) = self.draw();
        let mut pins = Vec::new();
        for name in [&asked.name].into_iter().chain(wish.others()) {
            let pin = residents::pin(&self.container.0.shared, name).await;
            pins.push(pin.expect("loads"));
        }
        let request = Request {
            segment: asked.name.clone(),
            wish,
            pins,
        };
        if self.container.0.requests.try_send(request).is_ok() {
            self.requests.push((asked, waiting));
        }
    }

    /// Draws a request.
    fn draw(&self) -> (Wish, Waiting, Asked) {
        let rng = &self.rng;
        let name = self.name();
        let key = || {
            let key = Bytes::from(vec![b'k', rng.below(5) as u8]);
            // Now and then one that no table of fixed length has.
            if rng.chance(0.05) {
                key.slice(..1)
            } else {
                key
            }
        };
        let version = |key: &Bytes| match rng.below(4) {
            0 => TableKey::NOT_EXISTS,
            1 => {
                let state = self.container.0.shared.state.read();
                let table = state.find(&name).and_then(|(_, s)| s.table.as_ref());
                let version = table.and_then(|table| table.version(key));
                version.map_or(7, |version| version as i64)
            }
            _ => TableKey::NO_VERSION,
        };
        let table_key = || {
            let key = key();
            let version = version(&key);
            TableKey { key, version }
        };
        let length = rng.chance(0.1).then(|| self.likely_length(&name) as i64);
        let operation = match rng.below(25) {
            20.. => self.merge(),
            0..4 => {
                let kind = match &*name {
                    "t" => Kind::Table { key_length: 0 },
                    "u" => Kind::Table { key_length: 2 },
                    _ => Kind::Stream,
                };
                Operation::Create(kind, vec![(AttributeId(99), 1)])
            }
            4 => Operation::Seal,
            5..8 => Operation::Truncate(rng.below(1 + self.likely_length(&name))),
            8 => Operation::Delete {
                empty_table: rng.chance(0.5),
            },
            9..13 => {
                let values = [NULL_ATTRIBUTE, 0, 1, 2];
                let value = || values[rng.below(4) as usize];
                Operation::UpdateAttribute(
                    AttributeId(99 + u128::from(rng.below(2))),
                    value(),
                    value(),
                )
            }
            13..18 => {
                let entry = |_| TableEntry {
                    key: table_key(),
                    value: TableValue(vec![b'v'; rng.below(30) as usize].into()),
                };
                Operation::TableUpdate((0..rng.below(4)).map(entry).collect(), length)
            }
            18..20 => {
                let keys = (0..rng.below(3)).map(|_| table_key()).collect();
                Operation::TableRemove(keys, length)
            }
        };
        let (wish, waiting) = to_wish(&operation);
        let asked = Asked {
            name,
            operation,
            answer: None,
        };
        (wish, waiting, asked)
    }

    fn merge(&self) -> Operation {
        let rng = &self.rng;
        let lenient = rng.chance(0.5);
        let sources = if lenient { rng.below(4) } else { 1 };
        let values = [NULL_ATTRIBUTE, 0, 1, 2];
        let update = |_| AttributeUpdate {
            id: AttributeId(99 + u128::from(rng.below(2))),
            value: values[rng.below(4) as usize],
            expected: rng.chance(0.5).then(|| values[rng.below(4) as usize]),
        };
        let updates = if lenient { 0 } else { rng.below(3) };
        Operation::Merge {
            sources: (0..sources).map(|_| self.name()).collect(),
            updates: (0..updates).map(update).collect(),
            lenient,
        }
    }

    /// Looks at one segment through the public API.
    pub(super) async fn peek(&mut self) {
        let name = self.name();
        let next_seq = || self.container.0.shared.state.read().next_seq;
        let before = next_seq();
        let looked = look(&self.container, &name).await;
        if next_seq() != before {
            // It was not one moment that was looked at: packs may take their time.
            return;
        }
        let seen = match looked {
            Err(Error::Storage(error)) if error.is_retryable() => return,
            looked => looked.expect("can be read"),
        };
        let at = self.container.0.shared.trace.lock().len();
        self.peeks.push(Peek { name, seen, at });
    }

    /// Takes all answers that have been given.
    pub(super) fn collect(&mut self) {
        for connection in &mut self.connections {
            while let Ok(outcomes) = connection.outcomes.try_recv() {
                assert_eq!(outcomes.container, ContainerId(3));
                for outcome in outcomes.list {
                    let asked = &mut connection.asked[outcome.token as usize];
                    assert!(asked.answer.is_none(), "one answer each");
                    asked.answer = match outcome.result {
                        Ok(done) => Some(Answer::Append(done)),
                        Err(error) => refusal(error),
                    };
                }
            }
        }
        for (asked, waiting) in &mut self.requests {
            if asked.answer.is_none() {
                asked.answer = waiting.answer();
            }
        }
    }

    /// Lets go of everything but what was asked and seen.
    pub(super) fn end(self) -> Ended {
        let order = std::mem::take(&mut *self.container.0.shared.trace.lock());
        let connections = self.connections.into_iter().map(|c| c.asked.into());
        Ended {
            order,
            appends: (0..).zip(connections).collect(),
            requests: self.requests.into_iter().map(|(asked, _)| asked).collect(),
            peeks: self.peeks,
        }
    }
}
