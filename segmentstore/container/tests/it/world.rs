//! One container over a log in memory, and short forms of what tests do with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sarit_container::{
    AppendOp, Appender, Config, Container, Done, Error, Indexes, Kind, MemoryBudget, Offset,
    Outcome, Outcomes, Parts, Permit, Running, SnapshotMemory,
};
use sarit_env::{Clock, Rng};
use sarit_proto::ids::{ContainerId, WriterId};
use sarit_proto::wire::append::AppendData;
use sarit_storage::Store;
use sarit_wal::memory::Memory;
use sarit_wal::{LogId, Wal};
use tokio::sync::mpsc;

/// A container, and the memory its log lives in.
pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) index: Indexes,
    pub(crate) budget: MemoryBudget,
    pub(crate) config: Config,
    pub(crate) container: Container,
    pub(crate) running: Running,
    /// Long-term storage, in tests that have it.
    pub(crate) storage: Option<Store>,
}

/// A connection with appends.
pub(crate) struct Connection {
    pub(crate) appender: Appender,
    pub(crate) outcomes: mpsc::UnboundedReceiver<Outcomes>,
    ready: Vec<Outcome>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default(), MemoryBudget::default()).await
    }

    pub(crate) async fn with(config: Config, budget: MemoryBudget) -> Self {
        let (memory, index) = (Memory::default(), in_memory());
        let opened = Self::open(memory, index, config, budget).await;
        opened.expect("opens")
    }

    pub(crate) async fn with_objects(
        objects: &sarit_storage::memory::Memory,
        config: Config,
        budget: MemoryBudget,
    ) -> Self {
        let (memory, index) = (Memory::default(), in_memory());
        let storage = Some(objects.store());
        let opened = Self::open_with(memory, index, config, budget, storage).await;
        opened.expect("opens")
    }

    /// One whose index was rebuilt, and whose log is new and begins above `epoch`.
    pub(crate) async fn on(
        objects: &sarit_storage::memory::Memory,
        index: Indexes,
        epoch: u64,
        config: Config,
    ) -> Result<Self, Error> {
        let (memory, storage) = (Memory::default(), Some(objects.store()));
        for _ in 0..epoch {
            let opened = Wal::memory(&memory).open_log(LogId(0)).await;
            opened.expect("opens");
        }
        let budget = MemoryBudget::default();
        Self::open_with(memory, index, config, budget, storage).await
    }

    pub(crate) async fn open(
        memory: Memory,
        index: Indexes,
        config: Config,
        budget: MemoryBudget,
    ) -> Result<Self, Error> {
        Self::open_with(memory, index, config, budget, None).await
    }

    async fn open_with(
        memory: Memory,
        index: Indexes,
        config: Config,
        budget: MemoryBudget,
        storage: Option<Store>,
    ) -> Result<Self, Error> {
        let wal = Wal::memory(&memory);
        let parts = Parts {
            clock: Clock::from_fn(|| 1_000),
            rng: Rng::seeded(1),
            memory: budget.clone(),
            index: index.clone(),
            storage: storage.clone(),
        };
        let (container, running) =
            Container::open(ContainerId(0), &wal, parts, config.clone()).await?;
        Ok(Self {
            memory,
            index,
            budget,
            config,
            container,
            running,
            storage,
        })
    }

    /// Opens the log again, as after a crash of the process that was idle.
    pub(crate) async fn reopen(self) -> Self {
        let (memory, config, budget) = (self.memory, self.config, self.budget);
        let (index, storage) = (self.index, self.storage);
        let digest = self.container.digest().await.unwrap();
        drop((self.container, self.running));
        let again = Self::open_with(memory, index, config, budget, storage).await;
        let again = again.expect("opens again");
        assert_eq!(
            again.container.digest().await.unwrap(),
            digest,
            "replay gives the same state"
        );
        again
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(&self.container)
    }

    pub(crate) async fn stream(&self, name: &str) {
        let created = self.container.create(name, Kind::Stream, vec![]).await;
        created.expect("a new name");
    }

    pub(crate) async fn read(&self, name: &str, offset: u64) -> Result<Bytes, Error> {
        let read = self
            .container
            .read(name, Offset(offset), 1 << 20, Duration::ZERO);
        Ok(read.await?.data)
    }
}

fn in_memory() -> Indexes {
    Indexes::memory(&SnapshotMemory::default())
}

impl Connection {
    pub(crate) fn to(container: &Container) -> Self {
        let (sender, outcomes) = mpsc::unbounded_channel();
        Self {
            appender: container.appender(sender),
            outcomes,
            ready: Vec::new(),
        }
    }

    pub(crate) async fn submit(&self, operations: Vec<AppendOp>) {
        self.appender.submit(operations).await.expect("is running");
    }

    /// Returns the next outcome.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        if self.ready.is_empty() {
            let outcomes = self.outcomes.recv().await.expect("an outcome comes");
            self.ready = outcomes.list;
            self.ready.reverse();
        }
        self.ready.pop().expect("messages are not empty")
    }

    pub(crate) async fn append(
        &mut self,
        name: &str,
        writer: u128,
        number: i64,
        data: &'static [u8],
    ) -> Result<u64, Error> {
        self.submit(vec![append(name, writer, number, data)]).await;
        match self.outcome().await.result? {
            Done::Appended { length } => Ok(length.0),
            done @ Done::Setup { .. } => panic!("an append got {done:?}"),
        }
    }

    pub(crate) async fn setup(&mut self, name: &str, writer: u128) -> Result<i64, Error> {
        self.submit(vec![setup(name, writer)]).await;
        match self.outcome().await.result? {
            Done::Setup { last_event_number } => Ok(last_event_number),
            done @ Done::Appended { .. } => panic!("a set-up got {done:?}"),
        }
    }
}

pub(crate) fn data(bytes: impl Into<Bytes>) -> AppendData {
    [bytes.into()].into_iter().collect()
}

pub(crate) fn append(name: &str, writer: u128, number: i64, bytes: &'static [u8]) -> AppendOp {
    append_bytes(name, writer, number, Bytes::from_static(bytes))
}

pub(crate) fn append_bytes(name: &str, writer: u128, number: i64, bytes: Bytes) -> AppendOp {
    AppendOp::Append {
        segment: Arc::from(name),
        writer: WriterId(writer),
        token: u64::try_from(number).expect("tests use small numbers"),
        last_event_number: number,
        event_count: 1,
        expected_offset: None,
        data: data(bytes),
        permit: Permit::none(),
    }
}

pub(crate) fn conditional(
    name: &str,
    writer: u128,
    number: i64,
    at: u64,
    bytes: &'static [u8],
) -> AppendOp {
    match append(name, writer, number, bytes) {
        AppendOp::Append {
            segment,
            writer,
            token,
            last_event_number,
            event_count,
            data,
            permit,
            ..
        } => AppendOp::Append {
            segment,
            writer,
            token,
            last_event_number,
            event_count,
            expected_offset: Some(Offset(at)),
            data,
            permit,
        },
        setup @ AppendOp::Setup { .. } => setup,
    }
}

pub(crate) fn setup(name: &str, writer: u128) -> AppendOp {
    AppendOp::Setup {
        segment: Arc::from(name),
        writer: WriterId(writer),
        token: 0,
    }
}
