//! The control plane: scopes, streams, reader groups.
//!
//! In the order a change takes:
//! - `api`: gRPC to clients and stores, HTTP to people: parse, call, reply; `rest`: Pravega's REST API;
//! - `tasks`: changes that outlive a crash, in steps that may be repeated;
//! - `periodic`: what happens by the clock;
//! - `stream`: the rules, pure;
//! - `autoscale`: streams that split and merge by their load; `watermarks`: how far event time has got;
//! - `segments`, `placement`: the calls to segment stores, and which store serves what;
//! - [`store`]: versioned records, the only durable state.
//!
//! Anything the controller acknowledged is durable. It serves queries from the records alone; changes
//! also need the segment store, and are UNAVAILABLE without it.

mod api;
mod autoscale;
mod config;
mod metrics;
mod periodic;
mod placement;
mod rest;
mod segments;
pub mod store;
mod stream;
mod tasks;
#[cfg(test)]
mod testing;
mod watermarks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sarit_client::connection::Endpoint;
use sarit_env::{Clock, Listener, Net, Rng};
use sarit_proto::controller::internal::LoadReport;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::api::grpc::Service;
use crate::autoscale::{AutoScaler, Worker};
use crate::placement::hosts::{Hosts, SharedHosts};
use crate::segments::{SegmentStore, WireStore};
use crate::store::MetaStore;
use crate::store::catalog::Catalog;
use crate::tasks::Tasks;

pub use crate::api::admin::{Check, Health, KnownStore};
pub use crate::autoscale::{Config as AutoScale, Profile};
pub use crate::config::{Config, StaticStore, TransactionConfig};
pub use crate::watermarks::Config as WatermarkConfig;

/// How long tasks and connections may take to end after stop.
const STOP_MAX: Duration = Duration::from_secs(1);

/// What a controller reaches the world through.
pub struct Parts {
    /// To listen, and to reach the segment store.
    pub net: Arc<dyn Net>,
    /// Wall time, for creation dates.
    pub clock: Clock,
    /// Ids and jitter.
    pub rng: Rng,
    /// The records.
    pub store: Arc<dyn MetaStore>,
}

/// Why a controller does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// Nothing can listen there.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the network said.
        source: std::io::Error,
    },
    /// The server cannot go on.
    #[error("gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
    /// The metadata store has failed for good; a new start recovers what is durable.
    #[error("metadata store failed: {0}")]
    Metadata(String),
}

/// A controller whose port is open, but which does not answer yet.
pub struct Controller {
    listener: Box<dyn Listener>,
    address: SocketAddr,
    service: Service,
    health: Health,
    loads: AutoScaler,
    scaling: (Worker, mpsc::Receiver<LoadReport>),
    watermarking: watermarks::Worker,
    tracker: TaskTracker,
    stop_tasks: CancellationToken,
    retention_period: Duration,
}

/// Runs a controller until `stop`.
///
/// # Errors
/// Those of [`Controller::bind`] and [`Controller::run`].
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) -> Result<(), Error> {
    Controller::bind(config, parts).await?.run(stop).await
}

impl Controller {
    /// Opens the port.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Listen`].
    pub async fn bind(config: Config, parts: Parts) -> Result<Self, Error> {
        config.validate().map_err(Error::Config)?;
        let hosts = Arc::new(hosts(&config)?);
        let tracker = TaskTracker::new();
        let rng = parts.rng.split();
        let wire = WireStore::new(parts.net.clone(), hosts.clone(), rng, tracker.clone());
        Self::assemble(config, parts, hosts, Arc::new(wire), tracker).await
    }

    async fn assemble(
        config: Config,
        parts: Parts,
        hosts: SharedHosts,
        segments: Arc<dyn SegmentStore>,
        tracker: TaskTracker,
    ) -> Result<Self, Error> {
        metrics::describe();
        let failed = |source| Error::Listen {
            address: config.listen,
            source,
        };
        let listener = parts.net.listen(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let advertised = match &config.advertised {
            Some(text) => endpoint(text)?,
            None => Endpoint::new(&address.ip().to_string(), address.port()),
        };
        let catalog = Catalog::new(parts.store.clone());
        let stop_tasks = CancellationToken::new();
        let tasks = Tasks::new(
            catalog.clone(),
            segments.clone(),
            (parts.clock.clone(), parts.rng, config.transactions.bounds()),
            tracker.clone(),
            stop_tasks.clone(),
        );
        let (loads, reports) = AutoScaler::new();
        let (autoscale, clock) = (config.autoscale.clone(), &parts.clock);
        let worker = Worker::new(autoscale, catalog.clone(), tasks.clone(), clock);
        let watermarking = watermarks::Worker {
            watermarks: tasks.context().watermarks.clone(),
            segments: segments.clone(),
            config: config.watermarks.clone(),
        };
        let service = Service {
            catalog,
            watermarks: watermarking.watermarks.clone(),
            tasks: tasks.clone(),
            hosts: hosts.clone(),
            advertised,
        };
        let health = Health {
            store: parts.store,
            segments,
            hosts,
            tasks,
        };
        Ok(Self {
            listener,
            address,
            service,
            health,
            loads,
            scaling: (worker, reports),
            watermarking,
            tracker,
            stop_tasks,
            retention_period: Duration::from_millis(config.retention_period_ms),
        })
    }

    /// Returns where it listens; with port 0 asked for, the one given.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the health checks.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Returns the HTTP routes for health and introspection, to be served by the caller.
    pub fn router(&self) -> axum::Router {
        api::admin::router(self.health.clone())
    }

    /// Returns the HTTP routes of Pravega's REST API, to be served by the caller.
    pub fn rest(&self) -> axum::Router {
        rest::router(self.service.clone(), self.health.clone())
    }

    /// Serves until `stop`. Then calls in progress get a moment, and tasks end where they are; their
    /// work rows bring them back at the next start.
    ///
    /// # Errors
    /// [`Error::Metadata`] as soon as the metadata store fails: nothing can be trusted to it any more.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        info!(address = %self.address, "controller serves");
        let tasks = self.service.tasks.clone();
        let (stopped, resumed) = (self.stop_tasks.clone(), tasks.clone());
        self.tracker.spawn(async move {
            let resuming = resumed.resume();
            tokio::select! {
                biased;
                outcome = resuming => match outcome {
                    Ok(()) => {}
                    Err(error) => error!(%error, "unfinished tasks cannot be taken up"),
                },
                () = stopped.cancelled() => {}
            }
        });
        let (stopped, watching) = (self.stop_tasks.clone(), tasks.clone());
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = watching.watch_transactions() => {}
                () = stopped.cancelled() => {}
            }
        });
        let (worker, reports) = self.scaling;
        self.tracker
            .spawn(worker.run(reports, self.stop_tasks.clone()));
        self.tracker
            .spawn(self.watermarking.run(self.stop_tasks.clone()));
        let (stopped, retaining) = (self.stop_tasks.clone(), tasks.clone());
        let period = self.retention_period;
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = periodic::retention::run(retaining, period) => {}
                () = stopped.cancelled() => {}
            }
        });
        let store = self.health.store.clone();
        let internal = api::serve::Internal {
            hosts: self.service.hosts.clone(),
            store: store.clone(),
            loads: self.loads,
        };
        let serving = api::serve::serve(self.listener, self.service, internal, stop);
        let outcome = tokio::select! {
            biased;
            reason = store.failed() => Err(Error::Metadata(reason)),
            served = serving => served.map_err(Error::Serve),
        };
        self.stop_tasks.cancel();
        drop(tasks);
        drop(self.health);
        self.tracker.close();
        // A caller that still holds a handle keeps connections open; they end with the process.
        if timeout(STOP_MAX, self.tracker.wait()).await.is_err() {
            warn!("tasks did not end in time");
        }
        outcome
    }
}

fn hosts(config: &Config) -> Result<Hosts, Error> {
    let Some(store) = &config.store else {
        return Ok(Hosts::default());
    };
    Ok(Hosts::Static {
        advertised: endpoint(&store.advertised)?,
        connect: endpoint(&store.connect)?,
    })
}

fn endpoint(text: &str) -> Result<Endpoint, Error> {
    Endpoint::parse(text).map_err(|error| Error::Config(error.to_string()))
}
