//! The server processes: settings in, parts wired, signals handled, health and metrics over HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use sarit_controller::store::open_sled;
use sarit_controller::{Controller, StaticStore};
use sarit_env::disk::RealDisk;
use sarit_env::net::TcpNet;
use sarit_env::{Clock, Disk, Net, Rng};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use toml::Value;
use tracing::{info, warn};

use crate::args::{ControllerArgs, SegmentStoreArgs, ServerArgs, Standalone};
use crate::exit::{Exit, Failure};
use crate::pages::Pages;
use crate::settings::{Settings, Sources};
use crate::telemetry;

/// One half of the server, or both: what it needs from outside, and what of it runs.
struct Process {
    settings: Settings,
    http: SocketAddr,
    net: Arc<dyn Net>,
    disk: Arc<dyn Disk>,
    clock: Clock,
    rng: Rng,
    metrics: PrometheusHandle,
    stop: CancellationToken,
    terminate: Signal,
    interrupt: Signal,
    tasks: JoinSet<anyhow::Result<()>>,
    pages: Pages,
}

/// `sarit standalone`.
pub(crate) async fn standalone(args: Standalone) -> anyhow::Result<()> {
    let mut sources = sources(&args.server)?;
    controller_flags(&mut sources, args.controller_addr)?;
    let advertised = args.segmentstore_advertised_addr.as_deref();
    store_flags(
        &mut sources,
        &args.data.join("segmentstore"),
        args.segmentstore_addr,
        advertised,
        args.storage.as_deref(),
    )?;
    let public = [
        args.controller_addr,
        args.segmentstore_addr,
        args.server.http_addr,
    ];
    let mut process = Process::new(&args.server, sources, &public)?;
    if let Some(range) = process.settings.segmentstore.container_range {
        bail!(
            "segmentstore.container_range is {range}: a part of the containers is for `sarit segmentstore` only"
        );
    }
    let mut reports_to = args.controller_addr;
    if reports_to.ip().is_unspecified() {
        reports_to.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let reports_to_setting = &mut process.settings.segmentstore.reports_to;
    reports_to_setting.get_or_insert_with(|| reports_to.to_string());
    let (advertised, connect) = process.segment_store().await?;
    if let Some(store) = &process.pages.store
        && let report = store.report()
        && report.containers.len() < report.total_containers as usize
    {
        bail!(
            "the segment store has {} of {} containers: run it and the other stores by `sarit segmentstore`",
            report.containers.len(),
            report.total_containers
        );
    }
    process.settings.controller.store = Some(StaticStore {
        advertised,
        connect,
    });
    process.controller(&args.data.join("controller")).await?;
    info!(
        controller = %format!("tcp://{}", args.controller_addr),
        data = %args.data.display(),
        "sarit standalone: point clients to the controller's address"
    );
    process.run().await
}

/// `sarit controller`.
pub(crate) async fn controller(args: ControllerArgs) -> anyhow::Result<()> {
    let mut sources = sources(&args.server)?;
    controller_flags(&mut sources, args.controller_addr)?;
    let public = [args.controller_addr, args.server.http_addr];
    let mut process = Process::new(&args.server, sources, &public)?;
    process.controller(&args.data).await?;
    process.run().await
}

/// `sarit segmentstore`.
pub(crate) async fn segment_store(args: SegmentStoreArgs) -> anyhow::Result<()> {
    let mut sources = sources(&args.server)?;
    let advertised = args.segmentstore_advertised_addr.as_deref();
    store_flags(
        &mut sources,
        &args.data,
        args.segmentstore_addr,
        advertised,
        args.storage.as_deref(),
    )?;
    if let Some(containers) = args.containers {
        sources.put("segmentstore.containers", i64::from(containers).into())?;
    }
    if let Some(range) = &args.container_range {
        sources.put("segmentstore.container_range", range.as_str().into())?;
    }
    let controller = args
        .controller
        .split_once("://")
        .map_or(&*args.controller, |(_, host)| host);
    sources.put(
        "segmentstore.controller",
        controller.trim_end_matches('/').into(),
    )?;
    let public = [args.segmentstore_addr, args.server.http_addr];
    let mut process = Process::new(&args.server, sources, &public)?;
    process.segment_store().await?;
    process.run().await
}

fn sources(args: &ServerArgs) -> anyhow::Result<Sources> {
    let mut sources = Sources::default();
    if let Some(file) = &args.config {
        sources.file(file)?;
    }
    sources.environment(std::env::vars())?;
    for setting in &args.settings {
        sources.assignment(setting)?;
    }
    Ok(sources)
}

fn controller_flags(sources: &mut Sources, listen: SocketAddr) -> anyhow::Result<()> {
    sources.put("controller.listen", listen.to_string().into())
}

fn store_flags(
    sources: &mut Sources,
    data: &Path,
    listen: SocketAddr,
    advertised: Option<&str>,
    storage: Option<&str>,
) -> anyhow::Result<()> {
    if let Some(storage) = storage {
        sources.put("segmentstore.storage.url", storage.into())?;
    }
    let data = data
        .to_str()
        .context("the data directory's name is not UTF-8")?;
    sources.put("segmentstore.data", data.into())?;
    sources.put("segmentstore.listen", listen.to_string().into())?;
    if let Some(advertised) = advertised {
        sources.put(
            "segmentstore.advertised",
            Value::String(advertised.to_owned()),
        )?;
    }
    Ok(())
}

/// Refuses to open a server to the world that anyone could then write to.
fn check_bind(addresses: &[SocketAddr], insecure: bool) -> anyhow::Result<()> {
    for address in addresses
        .iter()
        .filter(|address| !address.ip().is_loopback())
    {
        if !insecure {
            return Err(Failure::error(
                Exit::Usage,
                format!(
                    "{address} can be reached from other machines, and there is no TLS and no authentication yet; \
                     listen on 127.0.0.1, or accept that with --insecure"
                ),
            ));
        }
        warn!(%address, "anyone who can reach this address can read and write everything");
    }
    Ok(())
}

impl Process {
    fn new(args: &ServerArgs, sources: Sources, public: &[SocketAddr]) -> anyhow::Result<Self> {
        telemetry::init_logs(args.log_json);
        check_bind(public, args.insecure)?;
        Ok(Self {
            settings: sources.settings()?,
            http: args.http_addr,
            net: Arc::new(TcpNet),
            disk: Arc::new(RealDisk),
            clock: Clock::system(),
            rng: Rng::from_os(),
            metrics: telemetry::init_metrics()?,
            stop: CancellationToken::new(),
            // From the start on: a signal while the parts still open ends the process as any other
            // does, once they are open.
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            tasks: JoinSet::new(),
            pages: Pages::default(),
        })
    }

    /// Opens the controller's directory and port, and starts it.
    async fn controller(&mut self, data: &Path) -> anyhow::Result<()> {
        let store = open_sled(data, Arc::clone(&self.disk), &self.rng).await?;
        let parts = sarit_controller::Parts {
            net: Arc::clone(&self.net),
            clock: self.clock.clone(),
            rng: self.rng.split(),
            store,
        };
        let controller = Controller::bind(self.settings.controller.clone(), parts).await?;
        self.pages.controller = Some(controller.health());
        self.pages.rest = Some(controller.rest());
        let stop = self.stop.clone();
        self.tasks
            .spawn(async move { Ok(controller.run(stop).await?) });
        Ok(())
    }

    /// Opens the segment store's directory and port, and starts it. Returns the addresses that clients
    /// are given and that the controller beside it connects to.
    async fn segment_store(&mut self) -> anyhow::Result<(String, String)> {
        let parts = sarit_segmentstore::Parts {
            net: Arc::clone(&self.net),
            disk: Arc::clone(&self.disk),
            clock: self.clock.clone(),
            rng: self.rng.split(),
            storage: None,
        };
        let config = self.settings.segmentstore.clone();
        let store = sarit_segmentstore::start(config, parts, self.stop.clone()).await?;
        let (host, port) = store.advertised_address();
        let mut local = store.local_address();
        if local.ip().is_unspecified() {
            local.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        self.pages.store = Some(store.inspect());
        self.tasks.spawn(async move { Ok(store.join().await?) });
        Ok((format!("{host}:{port}"), local.to_string()))
    }

    /// Serves until a signal, or until a part fails. The rest is then stopped in order.
    async fn run(mut self) -> anyhow::Result<()> {
        let pages = std::mem::take(&mut self.pages).router(self.metrics.clone());
        let listener = tokio_listener(self.http).await?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let served =
                axum::serve(listener, pages).with_graceful_shutdown(stop.cancelled_owned());
            served.await.context("serve HTTP")
        });
        let ended = tokio::select! {
            biased;
            Some(ended) = self.tasks.join_next() => Some(ended),
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
        };
        info!("stopping: draining what was accepted");
        self.stop.cancel();
        let mut result = ended.map_or(Ok(()), |ended| ended.context("a part panicked")?);
        while let Some(ended) = self.tasks.join_next().await {
            result = result.and(ended.context("a part panicked").and_then(|ended| ended));
        }
        result
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a real process: HTTP is never simulated"
)]
async fn tokio_listener(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    let listener = tokio::net::TcpListener::bind(address).await;
    listener.with_context(|| format!("listen on {address} for HTTP; --http-addr chooses another"))
}
