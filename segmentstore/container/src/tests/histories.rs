//! Random histories, with frames that take their time and crashes at any moment.
//!
//! Every answer is compared with the serial model's at the same place in the order, and after a crash
//! whatever anyone was told, by an answer or by a read, must still be true.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarit_env::sim::{DiskFaults, SimDisk};
use sarit_env::{Clock, Disk, Rng};
use sarit_proto::ids::{AttributeId, ContainerId, NULL_ATTRIBUTE, WriterId};
use sarit_proto::names::is_transient;
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};
use sarit_storage::memory::{Faults, Memory as Objects};
use sarit_wal::memory::{Memory, MemoryFaults};
use sarit_wal::{LogId, Wal};
use slatedb::object_store::memory::InMemory;
use tokio::sync::{mpsc, oneshot};

use super::model::{Answer, Model, Operation, Segment};
use crate::index::snapshot::Snapshot;
use crate::pipeline::reply::Caller;
use crate::pipeline::{Request, Wish};
use crate::state::{Seeded, State};
use crate::{
    AppendOp, Appender, AttributeUpdate, Config, Container, Error, Flush, Indexes, Kind,
    MemoryBudget, Offset, Outcomes, Parts, Permit, Running, SlateStore, SnapshotMemory,
};
use crate::{recovery, residents};

const CONNECTIONS: u64 = 3;
/// Histories of each kind, unless `SARIT_HISTORIES` says how many.
const HISTORIES: u64 = 334;
/// The first ones are long: what comes late is found there.
const LONG: u64 = 20;

fn actions(seed: u64) -> u64 {
    if seed < LONG { 250 } else { 40 }
}
/// Plain segments, tables in both layouts, a transient segment.
const NAMES: [&str; 7] = ["a", "b", "c", "d", "t", "u", TRANSIENT];
const TRANSIENT: &str =
    "a#transient.00000000000000000000000000000001.00000000000000000000000000000002";

/// Where log, index and packs live; outlives the container.
struct Store {
    log: Log,
    index: Indexes,
    objects: Objects,
}

enum Log {
    Memory(Memory),
    Disk(SimDisk),
}

impl Store {
    async fn wal(&self, rng: &Rng) -> Wal {
        match &self.log {
            Log::Memory(memory) => Wal::memory(memory),
            Log::Disk(disk) => {
                let disk: Arc<dyn Disk> = Arc::new(disk.clone());
                let (clock, config) = (Clock::from_fn(|| 5), sarit_wal::Config::tiny());
                let dir = Path::new("/data");
                let wal = Wal::open_local(disk, dir, config, [7; 16], clock, rng.split()).await;
                wal.expect("the disk works")
            }
        }
    }

    fn slow(&self, latency: Duration) {
        match &self.log {
            Log::Memory(memory) => memory.set_faults(MemoryFaults {
                latency,
                ..MemoryFaults::default()
            }),
            Log::Disk(disk) => disk.set_faults(DiskFaults {
                sync_time_max: latency,
                ..DiskFaults::default()
            }),
        }
    }

    fn crash(&self, rng: &Rng) {
        match &self.log {
            Log::Memory(memory) => memory.crash(rng),
            Log::Disk(disk) => disk.cut_power(),
        }
    }
}

/// What was asked, and the answer once there is one.
struct Asked {
    name: Arc<str>,
    operation: Operation,
    answer: Option<Answer>,
}

/// What a reader saw of a segment, and how long the order was then.
struct Peek {
    name: Arc<str>,
    seen: Option<Segment>,
    at: usize,
}

/// One life of the container.
struct Life {
    rng: Rng,
    wal: Wal,
    container: Container,
    running: Option<Running>,
    connections: Vec<Connection>,
    requests: Vec<(Asked, Waiting)>,
    peeks: Vec<Peek>,
}

struct Connection {
    appender: Appender,
    outcomes: mpsc::UnboundedReceiver<Outcomes>,
    asked: Vec<Asked>,
}

enum Waiting {
    Nothing(oneshot::Receiver<Result<(), Error>>),
    Offset(oneshot::Receiver<Result<Offset, Error>>),
    Flag(oneshot::Receiver<Result<bool, Error>>),
    Versions(oneshot::Receiver<Result<Vec<i64>, Error>>),
    Offsets(oneshot::Receiver<Result<Vec<Offset>, Error>>),
}

impl Waiting {
    /// Returns the answer if there is one that says anything.
    fn answer(&mut self) -> Option<Answer> {
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

fn refusal(error: Error) -> Option<Answer> {
    match error {
        Error::Stopping | Error::OutcomeUnknown => None,
        error => Some(Answer::Refused(format!("{error:?}"))),
    }
}

fn channel<T>() -> (Caller<T>, oneshot::Receiver<Result<T, Error>>) {
    oneshot::channel()
}

impl Life {
    async fn open(rng: Rng, store: &Store) -> Self {
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

    fn name(&self) -> Arc<str> {
        NAMES[self.rng.below(NAMES.len() as u64) as usize].into()
    }

    async fn act(&mut self, store: &Store) {
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
            overwrite: false,
        }
    }

    async fn append(&mut self) {
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

    async fn request(&mut self) {
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
    async fn peek(&mut self) {
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
    fn collect(&mut self) {
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
    fn end(self) -> Ended {
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

/// What is left of a life.
struct Ended {
    /// The order of all operations, as the sequencer notes it.
    order: Vec<(Option<u64>, u64)>,
    appends: BTreeMap<u64, VecDeque<Asked>>,
    requests: VecDeque<Asked>,
    peeks: Vec<Peek>,
}

impl Ended {
    /// Compares all that was told with the model, from `model` on. `durable` is the number of the next
    /// operation that the log is known to hold. Returns the model at that point.
    fn verify(self, mut model: Model, durable: u64, all_answered: bool) -> Model {
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
fn visible(segment: &Segment) -> Segment {
    let mut seen = segment.clone();
    seen.bytes.drain(..seen.start as usize);
    seen.numbers.retain(|_, value| *value != NULL_ATTRIBUTE);
    // Seen only through the answers to merges.
    seen.merged.clear();
    seen
}

async fn look(container: &Container, name: &Arc<str>) -> Result<Option<Segment>, Error> {
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
    fn from_state(segment: &crate::state::Segment) -> Self {
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

fn to_append(name: &Arc<str>, operation: &Operation, token: u64, rng: &Rng) -> AppendOp {
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

fn to_wish(operation: &Operation) -> (Wish, Waiting) {
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

/// Lives several lives over one log and returns a number that tells runs apart.
async fn history(seed: u64, store: fn(&Rng) -> Store, flushes: &mut Flushes) -> u64 {
    let rng = Rng::seeded(seed);
    let store = store(&rng);
    let mut model = Model::default();
    let mut digest = 0_u64;
    for _ in 0..3 {
        store.objects.set_faults(Faults::default());
        let mut life = Life::open(rng.split(), &store).await;
        model.0.retain(|name, _| !is_transient(name));
        for (name, segment) in &model.0 {
            let seen = look(&life.container, name).await.expect("can be read");
            assert_eq!(seen, Some(visible(segment)), "{name} after recovery");
        }
        let count = life.container.0.shared.state.read().total;
        assert_eq!(count, model.0.len() as u64, "segments after recovery");
        for _ in 0..actions(seed) {
            life.act(&store).await;
            if rng.chance(0.3) {
                tokio::task::yield_now().await;
            }
        }
        let crash = rng.chance(0.7);
        if crash {
            store.crash(&rng);
            life.collect();
            // Frames in flight fail now; an idle container would not notice.
            for _ in 0..rng.below(10) {
                tokio::task::yield_now().await;
            }
            life.running.take();
            tokio::task::yield_now().await;
        } else {
            life.container.stop().await;
            let ended = life.running.take().expect("runs").await;
            ended.expect("stops in order");
            life.wal.close().await.expect("the disk works");
        }
        life.collect();
        let state = life.container.0.shared.state.read().clone();
        let live = state.next_seq;
        tally(&life.container, flushes);
        // Whoever opens the log next is alone with it, as after a real crash.
        let ended = life.end();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (durable, recovered, last) = durable(&store, &rng, &state).await;
        if durable == live {
            // Nobody, not even the container itself, may have relied on what is not in the log.
            assert_eq!(recovered, last, "the state as of operation {live}");
        }
        digest = digest.rotate_left(7) ^ last ^ durable;
        model = ended.verify(model, durable, !crash);
    }
    digest
}

fn tally(container: &Container, flushes: &mut Flushes) {
    let metrics = &container.0.shared.metrics;
    flushes.flushed += u64::from(metrics.flushed_bytes.get() > 0);
    flushes.compacted += u64::from(metrics.compacted_bytes.get() > 0);
    flushes.deleted += u64::from(metrics.packs_deleted.get() > 0);
    flushes.failed += u64::from(metrics.flush_failures.get() > 0);
    flushes.served += u64::from(metrics.served_packs.get() > 0);
}

/// In how many lives something happened in long-term storage.
#[derive(Debug, Default)]
struct Flushes {
    flushed: u64,
    compacted: u64,
    deleted: u64,
    failed: u64,
    served: u64,
}

/// Returns the number of the operation behind the last one that the log holds, and the digests of the
/// state behind it and of the one that the container had, what was not in memory included.
async fn durable(store: &Store, rng: &Rng, live: &State) -> (u64, u64, u64) {
    let wal = store.wal(rng).await;
    let opened = wal.open_log(LogId(3)).await.expect("opens");
    let index = store.index.open(ContainerId(3)).await.expect("opens");
    let state = recovery::recover(&*index, &opened.log, opened.replay, Seeded(1)).await;
    let state = state.expect("the log is whole");
    let indexed = Snapshot::read(&*index).await.expect("is there");
    index.close().await;
    wal.close().await.expect("the disk works");
    let digest = |state| indexed.clone().with(state).digest();
    (state.next_seq, digest(&state), digest(live))
}

fn run(seed: u64, store: fn(&Rng) -> Store, flushes: &mut Flushes) -> u64 {
    println!("seed {seed}: replay with SARIT_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let history = history(seed, store, flushes);
    runtime.expect("a runtime").block_on(history)
}

fn seeds() -> Vec<u64> {
    match std::env::var("SARIT_SEED") {
        Ok(seed) => vec![seed.parse().expect("SARIT_SEED is a number")],
        Err(_) => {
            let count = std::env::var("SARIT_HISTORIES").ok();
            let count = count.map_or(HISTORIES, |n| {
                n.parse().expect("SARIT_HISTORIES is a number")
            });
            (0..count).collect()
        }
    }
}

fn in_memory(rng: &Rng) -> Store {
    Store {
        log: Log::Memory(Memory::default()),
        index: Indexes::memory(&SnapshotMemory::default()),
        objects: Objects::new(rng.split()),
    }
}

fn on_disk(rng: &Rng) -> Store {
    let disk = SimDisk::new(rng.split());
    let index = Indexes::files(Arc::new(disk.clone()), "/data/index".into());
    let log = Log::Disk(disk);
    let objects = Objects::new(rng.split());
    Store {
        log,
        index,
        objects,
    }
}

fn on_slate(rng: &Rng) -> Store {
    let clock = Clock::from_fn(|| 1_700_000_000_000);
    Store {
        log: Log::Memory(Memory::default()),
        index: Indexes::slate(SlateStore::new(Arc::new(InMemory::new()), 1 << 20, clock)),
        objects: Objects::new(rng.split()),
    }
}

#[test]
fn every_answer_is_that_of_a_serial_container_and_outlives_a_crash() {
    let mut flushes = Flushes::default();
    let seeds = seeds();
    for seed in &seeds {
        run(*seed, in_memory, &mut flushes);
    }
    println!("lives with: {flushes:?}");
    if seeds.len() > 10 {
        let Flushes {
            flushed,
            compacted,
            deleted,
            failed,
            served,
        } = flushes;
        let least = [flushed, compacted, deleted, failed, served]
            .into_iter()
            .min();
        assert!(least > Some(10), "{flushes:?}");
    }
}

#[test]
fn every_answer_outlives_a_crash_with_its_index_in_slatedb() {
    for seed in seeds() {
        run(seed, on_slate, &mut Flushes::default());
    }
}

#[test]
fn every_answer_outlives_a_power_cut() {
    for seed in seeds() {
        run(seed, on_disk, &mut Flushes::default());
    }
}

#[test]
fn one_seed_gives_one_history() {
    for store in [in_memory, on_disk] {
        let run = |seed| run(seed, store, &mut Flushes::default());
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
