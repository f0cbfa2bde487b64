//! One world: its hosts, its clients, its faults, its verdict.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use sarit_client::Client;
use sarit_client::connection::Endpoint;
use sarit_client::event::{EventWriter, From, Until};
use sarit_controller::StaticStore;
use sarit_controller::store::MemoryStore;
use sarit_env::sim::{DiskFaults, SimDisk, TurmoilNet, clock};
use sarit_env::{Disk, Rng};
use sarit_proto::ids::{Offset, SegmentId, WriterId};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_proto::wire::Reply;
use sarit_segmentstore::Engine;
use sarit_tests::history::{EVENT_MIN, Event, History};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use turmoil::Builder;

use crate::raw::Wire;

pub(crate) const CONTROLLER: u16 = 9090;
const STORE: u16 = 12345;
/// Longest that a world may last, in its own time: a backstop, far above what any needs.
const WORLD_MAX: Duration = Duration::from_secs(240);
/// When every world begins, since the Unix epoch.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);
/// The segment of the writer by hand.
const RAW_SEGMENT: &str = "raw/sim/0.#epoch.0";

/// A runtime that is dropped, as a crash drops it, ends its tasks in an order that depends on their
/// numbers, and tokio counts those through the whole process. So worlds run one at a time, and each
/// begins at a round number. Every test holds this from its first line on.
pub(crate) static ALONE: Mutex<()> = Mutex::new(());

fn align_task_numbers() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers needs nothing");
    let number = || runtime.spawn(async {}).id().to_string().parse::<u64>();
    while number().is_ok_and(|number| number % 1024 != 0) {}
}

/// What a world came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What clients saw and what happened to hosts, with times.
    pub(crate) trace: Vec<String>,
    /// Broken promises; none is the aim.
    pub(crate) breaches: Vec<String>,
    /// Crashes of hosts.
    pub(crate) crashes: u64,
    /// Unsynced bytes that power cuts dropped.
    pub(crate) dropped: u64,
    /// Events acknowledged.
    pub(crate) acknowledged: u64,
}

/// How far the world is; clients and the hand that crashes hosts both look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Hosts crash, clients write.
    Chaos,
    /// No more crashes; what is in flight must get through.
    Drain,
    /// All acknowledged: the last power cut, then everything is read.
    Audit,
    /// The last power cut is over.
    Read,
}

struct Shared {
    phase: Phase,
    report: Report,
    history: History,
}

/// Draws everything about a world from its seed.
pub(crate) struct World {
    seed: u64,
    lying: bool,
}

type SharedRef = Arc<Mutex<Shared>>;

fn note(shared: &SharedRef, what: impl FnOnce() -> String) {
    let at = turmoil::sim_elapsed().unwrap_or_default();
    shared
        .lock()
        .report
        .trace
        .push(format!("{:>9} µs {}", at.as_micros(), what()));
}

fn breach(shared: &SharedRef, what: String) {
    shared.lock().report.breaches.push(what);
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, lying: false }
    }

    /// Syncs answer without doing anything: such a world must break its promises.
    pub(crate) fn with_lying_disk(self) -> Self {
        Self {
            lying: true,
            ..self
        }
    }

    pub(crate) fn run(self) -> Report {
        align_task_numbers();
        let rng = Rng::seeded(self.seed);
        let shared = Arc::new(Mutex::new(Shared {
            phase: Phase::Chaos,
            report: Report::default(),
            history: History::default(),
        }));
        let disk = SimDisk::new(rng.split());
        disk.set_faults(DiskFaults {
            sync_time_max: Duration::from_micros(500 + rng.below(20_000)),
            syncs_lie: self.lying,
            ..DiskFaults::default()
        });
        let mut sim = Builder::new()
            .rng_seed(self.seed)
            .epoch(UNIX_EPOCH + EPOCH)
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(1 + rng.below(10)))
            .tcp_capacity(4096)
            .simulation_duration(WORLD_MAX)
            .build();
        self.add_store(&mut sim, &disk, &rng);
        self.add_controller(&mut sim, &rng);
        let plan = Plan::draw(&rng);
        sim.client(
            "clients",
            clients(Arc::clone(&shared), rng.split(), plan.clone()),
        );
        let run = plan.drive(&mut sim, &disk, &shared, &rng);
        if let Err(error) = run {
            breach(&shared, format!("the world ended: {error}"));
        }
        drop(sim);
        let mut shared = shared.lock();
        let mut report = std::mem::take(&mut shared.report);
        let stats = disk.stats();
        report.dropped = stats.dropped;
        report.acknowledged = shared.history.acknowledged() as u64;
        report.trace.push(format!("{stats:?}"));
        report
    }

    fn add_store(&self, sim: &mut turmoil::Sim<'_>, disk: &SimDisk, rng: &Rng) {
        let (disk, rng) = (disk.clone(), rng.split());
        let file_bytes = [256 << 10, 1 << 20][rng.below(2) as usize];
        let containers = 1 + rng.below(3) as u32;
        sim.host("store", move || {
            let (disk, rng) = (disk.clone(), rng.split());
            async move {
                let mut config = sarit_segmentstore::Config {
                    data: PathBuf::from("/data"),
                    listen: SocketAddr::from(([0, 0, 0, 0], STORE)),
                    advertised: Some(format!("store:{STORE}")),
                    containers: Some(containers),
                    ..sarit_segmentstore::Config::default()
                };
                config.wal.file_bytes = file_bytes;
                config.wal.frame_bytes_max = file_bytes / 2;
                config.container.frame_bytes = 32 << 10;
                config.container.checkpoint_bytes = 256 << 10;
                config.container.check_cuts = true;
                config.index.engine = Engine::Snapshot;
                let disk: Arc<dyn Disk> = Arc::new(disk);
                let parts = sarit_segmentstore::Parts {
                    net: Arc::new(TurmoilNet),
                    disk,
                    clock: clock(),
                    rng,
                };
                sarit_segmentstore::run(config, parts, CancellationToken::new()).await?;
                Ok(())
            }
        });
    }

    fn add_controller(&self, sim: &mut turmoil::Sim<'_>, rng: &Rng) {
        let rng = rng.split();
        // It outlives its host, as sled's synced files do; sled itself is under test elsewhere.
        let store = Arc::new(MemoryStore::default());
        sim.host("controller", move || {
            let (rng, store) = (rng.split(), Arc::clone(&store));
            async move {
                let config = sarit_controller::Config {
                    listen: SocketAddr::from(([0, 0, 0, 0], CONTROLLER)),
                    store: Some(StaticStore {
                        advertised: format!("store:{STORE}"),
                        connect: format!("store:{STORE}"),
                    }),
                    ..sarit_controller::Config::default()
                };
                let parts = sarit_controller::Parts {
                    net: Arc::new(TurmoilNet),
                    clock: clock(),
                    rng,
                    store,
                };
                sarit_controller::run(config, parts, CancellationToken::new()).await?;
                Ok(())
            }
        });
    }
}

/// What will go wrong, and how much is written.
#[derive(Clone, Debug)]
struct Plan {
    writers: u32,
    keys: u32,
    segments: u32,
    event_bytes: usize,
    in_flight: usize,
    crashes: u64,
    pause_max_ms: u64,
}

impl Plan {
    fn draw(rng: &Rng) -> Self {
        Self {
            writers: 1 + rng.below(3) as u32,
            keys: 1 + rng.below(8) as u32,
            segments: 1 + rng.below(3) as u32,
            event_bytes: EVENT_MIN + [0, 100, 5_000][rng.below(3) as usize],
            in_flight: [1, 8, 64][rng.below(3) as usize],
            crashes: 2 + rng.below(4),
            pause_max_ms: [300, 2_000][rng.below(2) as usize],
        }
    }

    /// Steps the world to its end, crashing hosts on the way.
    fn drive(
        &self,
        sim: &mut turmoil::Sim<'_>,
        disk: &SimDisk,
        shared: &SharedRef,
        rng: &Rng,
    ) -> turmoil::Result {
        let soon = |sim: &turmoil::Sim<'_>, max: u64| {
            sim.elapsed() + Duration::from_millis(1 + rng.below(max))
        };
        let mut crashes_left = self.crashes;
        let mut crash_at = soon(sim, 2_000) + Duration::from_secs(1);
        let mut back_at = None;
        let mut host = "store";
        while !sim.step()? {
            if back_at.is_some_and(|at| sim.elapsed() >= at) {
                back_at = None;
                sim.bounce(host);
                crash_at = soon(sim, self.pause_max_ms) + Duration::from_millis(100);
                let mut shared = shared.lock();
                shared.report.trace.push(format!("{host} is back"));
                match shared.phase {
                    Phase::Audit => shared.phase = Phase::Read,
                    Phase::Chaos if crashes_left == 0 && disk.stats().dropped > 0 => {
                        shared.phase = Phase::Drain;
                    }
                    // Every world drops something: go on until one does.
                    Phase::Chaos if crashes_left == 0 => crashes_left = 1,
                    _ => {}
                }
                continue;
            }
            // Nothing crashes before there is something to lose.
            let (phase, writing) = {
                let shared = shared.lock();
                (shared.phase, shared.history.acknowledged() > 0)
            };
            let audit = phase == Phase::Audit;
            let chaos = phase == Phase::Chaos && writing && crashes_left > 0;
            let due = chaos && sim.elapsed() >= crash_at;
            if back_at.is_some() || !(audit || due) {
                continue;
            }
            crashes_left -= u64::from(due);
            host = if audit || rng.chance(0.8) {
                "store"
            } else {
                "controller"
            };
            sim.crash(host);
            if host == "store" {
                if audit || rng.chance(0.7) {
                    disk.cut_power()
                } else {
                    disk.kill_process()
                }
            }
            back_at = Some(soon(sim, 300));
            let mut shared = shared.lock();
            shared.report.crashes += 1;
            let stats = disk.stats();
            shared
                .report
                .trace
                .push(format!("{:?} {host} crashes, {stats:?}", sim.elapsed()));
        }
        Ok(())
    }
}

/// All clients of a world, from creating the stream to the audit.
async fn clients(shared: SharedRef, rng: Rng, plan: Plan) -> turmoil::Result {
    let parts = sarit_client::Parts {
        net: Arc::new(TurmoilNet),
        rng: rng.split(),
    };
    let controller = Endpoint::new("controller", CONTROLLER);
    // An append must fit the worlds' small log files.
    let mut config = sarit_client::Config::default();
    config.writer.batch_bytes_max = 64 << 10;
    let client = Client::new(controller, config, parts)?;
    let stream: ScopedStream = "sim/events".parse()?;
    let scope = stream.scope.clone();
    patiently(&shared, "create scope", async || {
        client.controller().create_scope(&scope).await
    })
    .await;
    let config = StreamConfig::fixed(plan.segments)?;
    patiently(&shared, "create stream", async || {
        client.controller().create_stream(&stream, &config).await
    })
    .await;
    let mut tasks = JoinSet::new();
    for writer in 0..plan.writers {
        let events = patiently(&shared, "open writer", async || {
            client.event_writer(&stream).await
        })
        .await;
        tasks.spawn(write(Arc::clone(&shared), events, writer, plan.clone()));
    }
    tasks.spawn(raw_writer(Arc::clone(&shared), rng.split()));
    let (seen, follower) = follow(&shared, &client, &stream).await;
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    follower.abort();
    note(&shared, || "all acknowledged".to_owned());
    shared.lock().phase = Phase::Audit;
    while shared.lock().phase != Phase::Read {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    audit(&shared, &client, &stream, &seen).await;
    Ok(())
}

/// Repeats a call until it succeeds: in the middle of crashes any may fail.
async fn patiently<T, E: std::fmt::Display>(
    shared: &SharedRef,
    what: &str,
    mut call: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    loop {
        match call().await {
            Ok(value) => {
                note(shared, || what.to_owned());
                return value;
            }
            Err(error) => note(shared, || format!("{what}: {error}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes events with up to `plan.in_flight` unacknowledged, until the chaos is over.
async fn write(shared: SharedRef, events: EventWriter, writer: u32, plan: Plan) {
    let mut in_flight = VecDeque::new();
    let mut turn = 0;
    while shared.lock().phase == Phase::Chaos || !in_flight.is_empty() {
        if shared.lock().phase == Phase::Chaos && in_flight.len() < plan.in_flight {
            let event = shared.lock().history.next(writer, turn % plan.keys);
            turn += 1;
            match events
                .write(&event.routing_key(), event.to_bytes(plan.event_bytes))
                .await
            {
                Ok(ack) => in_flight.push_back((event, ack)),
                Err(error) => return breach(&shared, format!("writer {writer}: {error}")),
            }
            // Otherwise a burst of one writer fills the whole world's time.
            if in_flight.len() < plan.in_flight {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            continue;
        }
        let Some((event, ack)) = in_flight.pop_front() else {
            return;
        };
        match ack.await {
            Ok(()) => {
                shared.lock().history.acknowledge(event);
                note(&shared, || format!("acknowledged {event:?}"));
            }
            Err(error) => return breach(&shared, format!("{event:?}: {error}")),
        }
    }
}

type Seen = Arc<Mutex<BTreeMap<(SegmentId, Offset), Bytes>>>;

/// Follows the stream from its head while hosts crash: what it is shown may never be taken back.
async fn follow(shared: &SharedRef, client: &Client, stream: &ScopedStream) -> (Seen, AbortHandle) {
    let seen = Seen::default();
    let mut reader = patiently(shared, "open reader", async || {
        client.event_reader(stream, From::Head, Until::Sealed).await
    })
    .await;
    let mut task = JoinSet::new();
    let (shared, shown) = (Arc::clone(shared), Arc::clone(&seen));
    let handle = task.spawn(async move {
        loop {
            match reader.next().await {
                Ok(Some(event)) => {
                    shown
                        .lock()
                        .insert((event.segment, event.offset), event.payload);
                }
                Ok(None) => return breach(&shared, "the reader came to an end".to_owned()),
                Err(error) => {
                    note(&shared, || format!("reader: {error}"));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    task.detach_all();
    (seen, handle)
}

/// Reads everything after the last power cut, and compares it with what was promised and shown.
async fn audit(shared: &SharedRef, client: &Client, stream: &ScopedStream, seen: &Seen) {
    let mut reader = patiently(shared, "open auditor", async || {
        client.event_reader(stream, From::Head, Until::Tail).await
    })
    .await;
    let (mut events, mut positions) = (Vec::new(), BTreeMap::new());
    loop {
        match reader.next().await {
            Ok(Some(event)) => {
                events.push(Event::from_bytes(&event.payload));
                positions.insert((event.segment, event.offset), event.payload);
            }
            Ok(None) => break,
            Err(error) => {
                note(shared, || format!("auditor: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let verdict = shared.lock().history.check(events);
    note(shared, || format!("audit: {verdict}"));
    if !verdict.is_clean() {
        breach(shared, format!("audit: {verdict}"));
    }
    let taken_back = seen
        .lock()
        .iter()
        .filter(|(at, bytes)| positions.get(at) != Some(bytes))
        .count();
    if taken_back > 0 {
        breach(
            shared,
            format!("{taken_back} events were shown to a reader and then taken back"),
        );
    }
}

/// Appends by hand, and asks on further connections how far it is: no answer may ever go back, whatever
/// crashes in between.
async fn raw_writer(shared: SharedRef, rng: Rng) {
    let mut raw = RawWriter {
        writer: WriterId(rng.u128()),
        promised: 0,
        length: 0,
        rng,
    };
    while shared.lock().phase == Phase::Chaos {
        if let Err(error) = raw.round(&shared).await {
            note(&shared, || format!("raw writer: {error}"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct RawWriter {
    writer: WriterId,
    /// The highest event number that any answer said was durable.
    promised: i64,
    /// The largest length that any answer gave.
    length: i64,
    rng: Rng,
}

impl RawWriter {
    /// Connects, sets up, appends without waiting, and asks on another connection in between.
    async fn round(&mut self, shared: &SharedRef) -> io::Result<()> {
        let mut wire = Wire::connect(&TurmoilNet, "store", STORE).await?;
        wire.create(RAW_SEGMENT).await?;
        let last = wire.set_up(RAW_SEGMENT, self.writer).await?;
        self.told(shared, "SetupAppend", last);
        for number in last + 1..=last + 1 + self.rng.below(30) as i64 {
            wire.append(self.writer, number, Bytes::from_static(&[7; 100]))
                .await?;
            if self.rng.chance(0.2) {
                let mut other = Wire::connect(&TurmoilNet, "store", STORE).await?;
                let last = other.set_up(RAW_SEGMENT, self.writer).await?;
                self.told(shared, "SetupAppend elsewhere", last);
                let length = other.length(RAW_SEGMENT).await?;
                if length < self.length {
                    breach(
                        shared,
                        format!("the length went from {} back to {length}", self.length),
                    );
                }
                self.length = self.length.max(length);
                // Whoever set up last owns the writer: what this connection sends now is another's.
                break;
            }
            while self.rng.chance(0.3) && self.promised < number {
                if let Reply::DataAppended(ack) = wire.reply().await? {
                    self.told(shared, "DataAppended", ack.event_number);
                }
            }
        }
        Ok(())
    }

    fn told(&mut self, shared: &SharedRef, how: &str, number: i64) {
        note(shared, || format!("raw writer: {how} says {number}"));
        if how != "DataAppended" && number < self.promised {
            breach(
                shared,
                format!("{how} says {number}, {} was promised", self.promised),
            );
        }
        self.promised = self.promised.max(number);
    }
}
