//! The segment store: TCP in front, containers behind.
//!
//! In order of flow: [`start`] locks the data directory and opens the port; `listener` accepts;
//! `connection` serves one peer, with `input` (bytes → commands), `append` (writers and their
//! acknowledgements), `request` (everything else) and `reply` (refusals → wire replies); `host`
//! finds a segment's container and keeps those that are here. `admin` is what operators see,
//! `membership` tells a controller in another process that this store is there, `load` how much is
//! written to each segment. [`recover_from_storage`] makes a data directory anew when the log is lost.
//!
//! Guarantees: what is acknowledged is durable; a peer's bad input ends at most its own connection; no
//! queue, buffer or wait is without a bound. Not here: which bytes are durable, and in which order
//! (container, wal); TLS and tokens.

mod admin;
mod append;
mod config;
mod connection;
mod directory;
mod error;
mod host;
mod indexes;
mod input;
mod listener;
mod load;
mod membership;
mod metrics;
mod offline;
mod recover;
mod reply;
mod request;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sarit_container::MemoryBudget;
use sarit_env::{Clock, Disk, Listener, Net, Rng};
use sarit_wal::Wal;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use admin::{ContainerReport, Health, Inspect, Report};
pub use config::{Config, Engine, Index, Limits, Memory};
pub use error::Error;
pub use host::ContainerState;
pub use load::{Meter, Meters};
pub use offline::Offline;
pub use recover::recover_from_storage;

use crate::connection::Shared;
use crate::directory::{Directory, Format};
use crate::host::Host;

/// Pauses between two tries to reach long-term storage at start.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(500);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// The outside world of a segment store.
#[derive(Clone)]
pub struct Parts {
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Wall time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Long-term storage; without it, the one that the settings name.
    pub storage: Option<sarit_storage::Store>,
}

/// A segment store that listens. Dropping it ends everything at once, as a crash would.
pub struct Running {
    local: SocketAddr,
    advertised: (String, u16),
    inspect: Inspect,
    tasks: JoinSet<Result<(), Error>>,
}

/// Starts a segment store and serves until `stop`, then drains and returns.
///
/// # Errors
/// See [`start`] and [`Running::join`].
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) -> Result<(), Error> {
    start(config, parts, stop).await?.join().await
}

/// Locks the data directory, creates it if needed, and opens the port. Containers recover behind it,
/// side by side; requests wait for theirs.
///
/// # Errors
/// A setting, the directory, or the address is not usable. Nothing was changed then.
pub async fn start(
    config: Config,
    parts: Parts,
    stop: CancellationToken,
) -> Result<Running, Error> {
    start_with(config, parts, stop, None).await
}

/// Starts a segment store on a log that is already open, for tests.
///
/// # Errors
/// As [`start`].
pub async fn start_on(
    wal: Wal,
    config: Config,
    parts: Parts,
    stop: CancellationToken,
) -> Result<Running, Error> {
    start_with(config, parts, stop, Some(wal)).await
}

async fn start_with(
    config: Config,
    parts: Parts,
    stop: CancellationToken,
    wal: Option<Wal>,
) -> Result<Running, Error> {
    config.validate()?;
    let shape = config.shape();
    let directory = Directory::open(&*parts.disk, &config.data, shape, &parts.rng).await?;
    let (containers, owned) = (directory.format.containers, directory.format.owned());
    let address = config.listen;
    let storage = match &parts.storage {
        Some(storage) => storage.clone(),
        None => sarit_storage::Store::open(&config.storage, &config.data)
            .map_err(|error| Error::Config(error.to_string()))?,
    };
    let listening = |source| Error::Listen { address, source };
    let listener = parts.net.listen(address).await.map_err(listening)?;
    let local = listener.local_addr().map_err(listening)?;
    let inspect = Inspect {
        host: Arc::new(Host::new(containers, owned)),
        wal: Arc::new(OnceCell::new_with(wal)),
        memory: MemoryBudget::new(config.memory.budget),
        connections: Arc::default(),
        meters: Meters::default(),
        identity: directory.format.identity(),
        stop: stop.clone(),
    };
    let advertised = config.advertised(local);
    info!(
        %local,
        advertised = format!("{}:{}", advertised.0, advertised.1),
        containers,
        %owned,
        data = %config.data.display(),
        %storage,
        "segment store listens"
    );
    let mut tasks = JoinSet::new();
    let parts = Parts {
        storage: Some(storage),
        ..parts
    };
    let store = Store {
        config,
        parts,
        inspect: inspect.clone(),
        directory,
        stop,
    };
    tasks.spawn(store.serve(listener, advertised.clone()));
    Ok(Running {
        local,
        advertised,
        inspect,
        tasks,
    })
}

impl Running {
    /// Returns the address it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Returns host and port that clients are to be given.
    pub fn advertised_address(&self) -> (String, u16) {
        self.advertised.clone()
    }

    /// Returns a view of the store that outlives this handle.
    pub fn inspect(&self) -> Inspect {
        self.inspect.clone()
    }

    /// Waits until the store has stopped: in order after `stop`, or by itself.
    ///
    /// # Errors
    /// The log or a container failed. What was under way is unknown; start again to find out.
    pub async fn join(mut self) -> Result<(), Error> {
        match self.tasks.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(Error::Task("segment store")),
        }
    }
}

/// Everything one store runs on.
struct Store {
    config: Config,
    parts: Parts,
    inspect: Inspect,
    directory: Directory,
    stop: CancellationToken,
}

impl Store {
    /// Serves until `stop`, then stops in the order data flows: listener, connections, containers, log.
    async fn serve(
        self,
        listener: Box<dyn Listener>,
        advertised: (String, u16),
    ) -> Result<(), Error> {
        let Self {
            config,
            parts,
            inspect,
            directory,
            stop,
        } = self;
        let metrics = Arc::new(metrics::Metrics::new());
        // It may not be open yet, and will be as it is configured then.
        let wal = inspect.wal.get();
        let frame_bytes_max = wal.map_or(config.wal.frame_bytes_max, Wal::frame_bytes_max);
        let shared = Shared {
            host: inspect.host.clone(),
            limits: config.limits.clone(),
            append_bytes_max: sarit_container::operation_bytes_max(frame_bytes_max),
            metrics,
            meters: inspect.meters.clone(),
            rng: parts.rng.split(),
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(listener::run(
            listener,
            Arc::new(shared),
            inspect.memory.clone(),
            inspect.connections.clone(),
            stop.clone(),
        ));
        accepting.spawn(metrics::sample_memory(inspect.memory.clone(), stop.clone()));
        if let Some(controller) = config.controller.clone() {
            let membership = membership::Membership {
                net: parts.net.clone(),
                rng: parts.rng.split(),
                controller,
                store_id: directory.format.uuid.clone(),
                advertised,
                placement: inspect.host.placement(),
            };
            accepting.spawn(membership::run(membership, stop.clone()));
        }
        if let Some(controller) = config.reports_to.clone().or(config.controller.clone()) {
            let reporter = load::report::Reporter {
                meters: inspect.meters.clone(),
                host: inspect.host.clone(),
                net: parts.net.clone(),
                controller,
                store_id: directory.format.uuid.clone(),
            };
            accepting.spawn(load::report::run(reporter, stop.clone()));
        }
        let containers_stop = CancellationToken::new();
        let mut containers = JoinSet::new();
        containers.spawn(open_containers(
            config,
            parts,
            inspect.clone(),
            directory.format.clone(),
            containers_stop.clone(),
        ));
        let accepted = async {
            while let Some(ended) = accepting.join_next().await {
                ended.map_err(|_| Error::Task("listener"))?;
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            biased;
            ended = containers.join_next() => return Err(ended_early(ended)),
            ended = accepted => ended?,
        }
        info!("connections are closed, containers stop");
        containers_stop.cancel();
        let result = match containers.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(Error::Task("containers")),
        };
        if let Some(wal) = inspect.wal.get() {
            result.and(wal.close().await.map_err(Error::from))?;
        } else {
            result?;
        }
        // Only now may another process have the directory.
        drop(directory);
        info!("segment store has stopped");
        Ok(())
    }
}

/// Opens the log and then the containers, and keeps them until `stop`.
async fn open_containers(
    config: Config,
    parts: Parts,
    inspect: Inspect,
    format: Format,
    stop: CancellationToken,
) -> Result<(), Error> {
    let wal = inspect
        .wal
        .get_or_try_init(|| open_log(&config, &parts, &inspect))
        .await?
        .clone();
    let index = indexes::open(
        parts.disk.clone(),
        &config.data,
        &config.index,
        inspect.memory.index_cache_bytes(),
        parts.clock.clone(),
    )
    .await?;
    let (storage, nonce) = (parts.storage, parts.rng.u128());
    let own = host::Parts {
        index,
        wal: wal.clone(),
        clock: parts.clock,
        rng: parts.rng,
        memory: inspect.memory,
        storage: storage.clone(),
        config: config.container,
    };
    tokio::select! {
        biased;
        ended = inspect.host.run(own, stop) => ended,
        error = wal.failed() => Err(error.into()),
        error = probe(storage, nonce, format) => Err(error),
    }
}

/// Finds out whether long-term storage can be relied on and is ours, as soon as it answers, and removes what
/// a crash left there. Resolves only if not.
async fn probe(storage: Option<sarit_storage::Store>, nonce: u128, format: Format) -> Error {
    let Some(storage) = storage else {
        return std::future::pending().await;
    };
    let mut pause = PROBE_PAUSE_MIN;
    // A name for each try: the answer to the one before may have been lost.
    let mut attempt = 0;
    loop {
        let fit = storage.probe(nonce.wrapping_add(attempt)).await;
        let claimed = match fit {
            Ok(()) => storage.claim(format.encode()).await,
            Err(source) => Err(source),
        };
        match claimed {
            Ok(note) if format.is_same_store(&note) => break,
            Ok(note) => {
                return Error::ForeignStorage {
                    storage: storage.to_string(),
                    owner: one_line(&note),
                };
            }
            Err(source) if source.is_retryable() => {
                tracing::warn!(%storage, error = %source, "long-term storage does not answer");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(PROBE_PAUSE_MAX);
                attempt += 1;
            }
            Err(source) => return Error::Storage(source),
        }
    }
    match storage.remove_unfinished().await {
        Ok(0) => {}
        Ok(removed) => info!(removed, "unfinished uploads removed"),
        Err(source) => {
            return Error::Io {
                what: "remove unfinished uploads".to_owned(),
                source,
            };
        }
    }
    storage.claimed();
    tracing::debug!(%storage, "long-term storage answers");
    std::future::pending().await
}

/// Returns a note, which was written to be read, as one line.
fn one_line(note: &[u8]) -> String {
    let text = String::from_utf8_lossy(note);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn open_log(config: &Config, parts: &Parts, inspect: &Inspect) -> Result<Wal, Error> {
    let identity = inspect.identity.to_be_bytes();
    let (clock, rng) = (parts.clock.clone(), parts.rng.split());
    let (disk, mut settings) = (parts.disk.clone(), config.wal.clone());
    let warm = usize::try_from(inspect.memory.warm_bytes()).unwrap_or(usize::MAX);
    settings.pool_bytes = settings.pool_bytes.min(warm);
    Ok(Wal::open_local(disk, &config.data, settings, identity, clock, rng).await?)
}

fn ended_early(ended: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Error {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Ok(Ok(())) | Err(_)) | None => Error::Task("containers"),
    }
}
