//! Auto-scaling in virtual time: a whole server, and load that exists only as counts.
//!
//! A controller and a segment store run in one simulated world, as they would in two processes. Instead
//! of clients there is a [`Shape`] of load: every second as many events as it says are counted on the
//! store's own meters, each on the segment that owns its key. All behind the meters is real: folding,
//! reports over gRPC, decision, scaling task, wire protocol, log. Half an hour takes seconds.

mod load;
mod optimum;

pub use load::{Keys, Promise, SCENARIOS, Scenario, Shape};
pub use optimum::{Optimum, optimum};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use sarit_client::Client;
use sarit_client::connection::Endpoint;
use sarit_controller::store::MemoryStore;
use sarit_controller::{AutoScale, StaticStore};
use sarit_env::sim::{SimDisk, TurmoilNet, clock};
use sarit_env::{Disk, Rng};
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::{RateUnit, ScalingPolicy, StreamConfig};
use sarit_segmentstore::{Engine, Meters};
use sarit_storage::memory::Memory as Objects;
use tokio_util::sync::CancellationToken;
use turmoil::Builder;

use load::Counts;

const CONTROLLER: u16 = 9090;
const STORE: u16 = 12345;
/// When every world begins, since the Unix epoch.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);
/// How long a scenario lasts, in its own time.
pub const SECONDS: u32 = 1_800;
/// How fine the world's time is: a round trip takes two of these.
const TICK: Duration = Duration::from_millis(50);

/// What was seen in one second.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Events counted in it.
    pub events: u64,
    /// Active segments at its end.
    pub segments: usize,
    /// Epochs begun until then, without the first.
    pub epochs: usize,
}

/// One change of the stream.
#[derive(Clone, Debug)]
pub struct Scaling {
    /// The second in which it was seen.
    pub at: u32,
    /// Segments that were split.
    pub splits: usize,
    /// Segments that came from several.
    pub merges: usize,
    /// Active segments afterwards.
    pub segments: usize,
}

/// What a scenario came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Second by second.
    pub samples: Vec<Sample>,
    /// In order.
    pub scalings: Vec<Scaling>,
}

impl Outcome {
    /// Returns how long after the load changed the next change of the stream was seen.
    pub fn reaction(&self, from: u32) -> Option<u32> {
        let next = self.scalings.iter().find(|scaling| scaling.at >= from);
        next.map(|scaling| scaling.at - from)
    }
}

type Active = Vec<(SegmentId, KeyRange)>;

#[derive(Default)]
struct Shared {
    meters: Option<Meters>,
    outcome: Outcome,
    trouble: Option<String>,
}

/// How long hosts are away that crashed.
const AWAY: Duration = Duration::from_secs(5);

/// Runs a scenario under a seed.
///
/// # Errors
/// Why the world did not live as long as it should.
pub fn run(scenario: &Scenario, settings: &AutoScale, seed: u64) -> Result<Outcome, String> {
    run_with_crash(scenario, settings, seed, None)
}

/// Runs a scenario under a seed; in a second of it all of the server crashes and is started again.
///
/// # Errors
/// Why the world did not live as long as it should.
pub fn run_with_crash(
    scenario: &Scenario,
    settings: &AutoScale,
    seed: u64,
    crash_at: Option<u32>,
) -> Result<Outcome, String> {
    let rng = Rng::seeded(seed);
    let shared = Arc::<Mutex<Shared>>::default();
    let mut sim = Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + EPOCH)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(2))
        .tcp_capacity(4096)
        .simulation_duration(Duration::from_secs(u64::from(SECONDS) + 60))
        .build();
    let (in_store, store_rng) = (shared.clone(), rng.split());
    let disk = SimDisk::new(rng.split());
    let stored = disk.clone();
    let objects = Objects::new(Rng::seeded(seed));
    sim.host("store", move || {
        let (shared, rng, disk) = (in_store.clone(), store_rng.split(), stored.clone());
        let objects = objects.clone();
        async move { store(shared, rng, disk, objects).await }
    });
    let (settings, controller_rng) = (settings.clone(), rng.split());
    let records = Arc::new(MemoryStore::default());
    sim.host("controller", move || {
        let (settings, rng) = (settings.clone(), controller_rng.split());
        let records = records.clone();
        async move { controller(settings, rng, records).await }
    });
    let (in_load, scenario) = (shared.clone(), scenario.clone());
    sim.client("load", async move {
        let outcome = load(&in_load, &scenario, rng).await;
        in_load.lock().trouble = outcome.err().map(|error| error.to_string());
        Ok(())
    });
    let mut crash_at = crash_at.map(|second| Duration::from_secs(second.into()));
    let mut back_at = None;
    while !sim.step().map_err(|error| error.to_string())? {
        if crash_at.is_some_and(|at| sim.elapsed() >= at) {
            sim.crash("store");
            sim.crash("controller");
            disk.kill_process();
            (crash_at, back_at) = (None, Some(sim.elapsed() + AWAY));
        }
        if back_at.is_some_and(|at| sim.elapsed() >= at) {
            sim.bounce("store");
            sim.bounce("controller");
            back_at = None;
        }
    }
    drop(sim);
    let mut shared = shared.lock();
    match shared.trouble.take() {
        Some(trouble) => Err(trouble),
        None => Ok(std::mem::take(&mut shared.outcome)),
    }
}

async fn store(
    shared: Arc<Mutex<Shared>>,
    rng: Rng,
    disk: SimDisk,
    objects: Objects,
) -> turmoil::Result {
    let mut config = sarit_segmentstore::Config {
        data: PathBuf::from("/data"),
        listen: SocketAddr::from(([0, 0, 0, 0], STORE)),
        advertised: Some(format!("store:{STORE}")),
        containers: Some(1),
        reports_to: Some(format!("controller:{CONTROLLER}")),
        ..sarit_segmentstore::Config::default()
    };
    // The other one has threads, which know nothing of virtual time.
    config.index.engine = Engine::Snapshot;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let parts = sarit_segmentstore::Parts {
        net: Arc::new(TurmoilNet),
        disk,
        clock: clock(),
        rng,
        storage: Some(objects.store()),
    };
    let running = sarit_segmentstore::start(config, parts, CancellationToken::new()).await?;
    shared.lock().meters = Some(running.inspect().meters());
    Ok(running.join().await?)
}

async fn controller(autoscale: AutoScale, rng: Rng, store: Arc<MemoryStore>) -> turmoil::Result {
    let config = sarit_controller::Config {
        listen: SocketAddr::from(([0, 0, 0, 0], CONTROLLER)),
        store: Some(StaticStore {
            advertised: format!("store:{STORE}"),
            connect: format!("store:{STORE}"),
        }),
        autoscale,
        ..sarit_controller::Config::default()
    };
    let parts = sarit_controller::Parts {
        net: Arc::new(TurmoilNet),
        clock: clock(),
        rng,
        store,
    };
    Ok(sarit_controller::run(config, parts, CancellationToken::new()).await?)
}

async fn load(shared: &Mutex<Shared>, scenario: &Scenario, rng: Rng) -> anyhow::Result<()> {
    let parts = sarit_client::Parts {
        net: Arc::new(TurmoilNet),
        rng: rng.split(),
    };
    let endpoint = Endpoint::new("controller", CONTROLLER);
    let client = Client::new(endpoint, sarit_client::Config::default(), parts)?;
    let stream: ScopedStream = "load/stream".parse()?;
    let controller = client.controller();
    while controller.create_scope(&stream.scope).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut config = StreamConfig::fixed(1)?;
    let (target, factor) = (scenario.target, scenario.factor);
    config.scaling =
        ScalingPolicy::by_rate(RateUnit::Events, target, factor, scenario.segments_min)?;
    // The store may still be opening; what has begun goes on.
    while controller.create_stream(&stream, &config).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut counts = Counts::new(scenario, rng);
    let mut before = active(&client, &stream).await?;
    let begin = tokio::time::Instant::now();
    let mut epochs = 0;
    for second in 0..SECONDS {
        let mut events = 0;
        let end = begin + Duration::from_secs(u64::from(second) + 1);
        // What could not be written while the server was away is not made up for.
        let missed = tokio::time::Instant::now() >= end;
        for (id, range) in before.iter().filter(|_| !missed) {
            let count = counts.of(*range, second);
            events += count;
            let meters = shared.lock().meters.clone();
            let segment = stream.segment(*id).to_string();
            if let Some(meter) = meters.and_then(|meters| meters.of(&segment)) {
                meter.count(count, count * 100);
            }
        }
        tokio::time::sleep_until(end).await;
        // While the server is away nothing is seen of it.
        let now = active(&client, &stream)
            .await
            .unwrap_or_else(|_| before.clone());
        let mut shared = shared.lock();
        if let Some(scaling) = compare(&before, &now, second + 1) {
            epochs += 1;
            shared.outcome.scalings.push(scaling);
        }
        shared.outcome.samples.push(Sample {
            events,
            segments: now.len(),
            epochs,
        });
        before = now;
    }
    Ok(())
}

async fn active(client: &Client, stream: &ScopedStream) -> anyhow::Result<Active> {
    let owners = client.controller().current_segments(stream).await?;
    let mut active: Active = owners
        .iter()
        .map(|owner| (owner.segment, owner.keys))
        .collect();
    active.sort_by_key(|(_, range)| *range);
    Ok(active)
}

/// Describes the change from one set of segments to another.
fn compare(before: &Active, now: &Active, at: u32) -> Option<Scaling> {
    let gone: Vec<_> = before
        .iter()
        .filter(|segment| !now.contains(segment))
        .collect();
    let new: Vec<_> = now
        .iter()
        .filter(|segment| !before.contains(segment))
        .collect();
    if gone.is_empty() && new.is_empty() {
        return None;
    }
    let over = |of: &[&(SegmentId, KeyRange)], range: KeyRange| {
        of.iter().filter(|(_, other)| other.overlaps(range)).count()
    };
    Some(Scaling {
        at,
        splits: gone
            .iter()
            .filter(|(_, range)| over(&new, *range) > 1)
            .count(),
        merges: new
            .iter()
            .filter(|(_, range)| over(&gone, *range) > 1)
            .count(),
        segments: now.len(),
    })
}
