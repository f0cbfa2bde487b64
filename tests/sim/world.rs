//! One world: its hosts and its verdict.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use sarit_container::Flush;
use sarit_controller::store::MemoryStore;
use sarit_controller::{StaticStore, TransactionConfig};
use sarit_env::sim::{DiskFaults, SimDisk, TurmoilNet, clock};
use sarit_env::{Disk, Rng};
use sarit_segmentstore::Engine;
use sarit_storage::memory::{Faults, Memory as Objects};
use sarit_tests::history::History;
use tokio_util::sync::CancellationToken;
use turmoil::Builder;

use crate::clients::clients;
use crate::plan::Plan;
use crate::{head, transactions};

pub(crate) const CONTROLLER: u16 = 9090;
pub(crate) const STORE: u16 = 12345;
/// Longest that a world may last, in its own time: a backstop, far above what any needs.
const WORLD_MAX: Duration = Duration::from_secs(900);
/// When every world begins, since the Unix epoch.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

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
    /// Splits and merges.
    pub(crate) scaled: u64,
    /// Transactions committed.
    pub(crate) committed: u64,
    /// Transactions aborted.
    pub(crate) aborted: u64,
    /// Truncations answered.
    pub(crate) truncated: u64,
    /// Cuts that a subscriber published, and was answered.
    pub(crate) published: u64,
    /// Times that the writer by hand resent what it was promised, and got an answer.
    pub(crate) resent: u64,
    /// Conditional appends of the writer by hand that were refused.
    pub(crate) refused: u64,
}

/// How far the world is; clients and the hand that crashes hosts both look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Hosts crash, clients write.
    Chaos,
    /// No more crashes; what is in flight must get through.
    Drain,
    /// All acknowledged: the last power cut, then everything is read.
    Audit,
    /// The last power cut is over.
    Read,
}

/// What clients and the hand that crashes hosts share.
pub(crate) struct Shared {
    pub(crate) phase: Phase,
    pub(crate) report: Report,
    pub(crate) history: History,
}

/// Draws everything about a world from its seed.
pub(crate) struct World {
    seed: u64,
    lying: bool,
}

pub(crate) type SharedRef = Arc<Mutex<Shared>>;

/// Adds a line to the trace.
pub(crate) fn note(shared: &SharedRef, what: impl FnOnce() -> String) {
    let at = turmoil::sim_elapsed().unwrap_or_default();
    shared
        .lock()
        .report
        .trace
        .push(format!("{:>9} µs {}", at.as_micros(), what()));
}

/// Notes a broken promise.
pub(crate) fn breach(shared: &SharedRef, what: String) {
    shared.lock().report.breaches.push(what);
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, lying: false }
    }

    /// Syncs answer without doing anything: such a world must break its promises.
    #[cfg(not(planted))]
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
        // It outlives the host, as object stores do.
        let objects = Objects::new(rng.split());
        objects.set_faults(Faults {
            refuse: 0.05,
            lose_answer: 0.05,
            stall: 0.05,
            stall_time: Duration::from_millis(rng.below(2000)),
            ..Faults::default()
        });
        let flush = Flush {
            bytes: 4 << 10,
            period_ms: 20 + rng.below(1000),
            big_bytes: 2 << 10,
            big_pack_bytes: 8 << 10,
            compact_ms: 50 + rng.below(1000),
            live_percent: 70,
            extents: 3,
            grace_ms: rng.below(300),
            sweep_ms: 100 + rng.below(1000),
            ..Flush::default()
        };
        let file_bytes = [256 << 10, 1 << 20][rng.below(2) as usize];
        let containers = 1 + rng.below(3) as u32;
        sim.host("store", move || {
            let (disk, rng) = (disk.clone(), rng.split());
            let (objects, flush) = (objects.clone(), flush.clone());
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
                config.container.flush = flush;
                config.container.checkpoint_bytes = 256 << 10;
                config.container.check_cuts = true;
                config.container.export_seconds = 1;
                config.index.engine = Engine::Snapshot;
                let disk: Arc<dyn Disk> = Arc::new(disk);
                let parts = sarit_segmentstore::Parts {
                    net: Arc::new(TurmoilNet),
                    disk,
                    clock: clock(),
                    rng,
                    storage: Some(objects.store()),
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
                    transactions: TransactionConfig {
                        lease_min_ms: transactions::LEASE_MS,
                        ..TransactionConfig::default()
                    },
                    retention_period_ms: head::RETENTION_PERIOD_MS,
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
