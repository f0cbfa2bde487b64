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
use sarit_env::{Clock, Disk, Listener, Net, Rng};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use toml::Value;
use tracing::{info, warn};

use crate::args::{ControllerArgs, SegmentStoreArgs, ServerArgs, Standalone};
use crate::exit::{Exit, Failure, usage};
use crate::http;
use crate::pages::Pages;
use crate::settings::{Settings, Sources};
use crate::telemetry;

/// The controller that a segment store registers with unless told otherwise.
const CONTROLLER: &str = "127.0.0.1:9090";

/// One half of the server, or both: what it needs from outside, and what of it runs.
struct Process {
    settings: Settings,
    http: Box<dyn Listener>,
    net: Arc<dyn Net>,
    disk: Arc<dyn Disk>,
    clock: Clock,
    rng: Rng,
    metrics: PrometheusHandle,
    stop: CancellationToken,
    /// Waits for signals as long as the process has not ended.
    signals: JoinSet<()>,
    tasks: JoinSet<anyhow::Result<()>>,
    pages: Pages,
}

/// `sarit standalone`.
pub(crate) async fn standalone(args: Standalone) -> anyhow::Result<()> {
    let mut settings = standalone_settings(&args).map_err(usage)?;
    let (controller, store) = (settings.controller.listen, settings.segmentstore.listen);
    let mut reports_to = controller;
    if reports_to.ip().is_unspecified() {
        reports_to.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let reports_to_setting = &mut settings.segmentstore.reports_to;
    reports_to_setting.get_or_insert_with(|| reports_to.to_string());
    let public = [controller, store, args.server.http_addr];
    let mut process = Process::new(&args.server, settings, &public).await?;
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
        controller = %format!("tcp://{controller}"),
        data = %args.data.display(),
        "sarit standalone: point clients to the controller's address"
    );
    process.run().await
}

/// `sarit controller`.
pub(crate) async fn controller(args: ControllerArgs) -> anyhow::Result<()> {
    let settings = controller_settings(&args).map_err(usage)?;
    let public = [settings.controller.listen, args.server.http_addr];
    let mut process = Process::new(&args.server, settings, &public).await?;
    process.controller(&args.data).await?;
    process.run().await
}

/// `sarit segmentstore`.
pub(crate) async fn segment_store(args: SegmentStoreArgs) -> anyhow::Result<()> {
    let settings = store_settings(&args).map_err(usage)?;
    let public = [settings.segmentstore.listen, args.server.http_addr];
    let mut process = Process::new(&args.server, settings, &public).await?;
    process.segment_store().await?;
    process.run().await
}

fn standalone_settings(args: &Standalone) -> anyhow::Result<Settings> {
    if args.data.join("FORMAT").exists() {
        bail!(
            "{} is the directory of a segment store or a controller alone: in that of a standalone server they are \
             `segmentstore` and `controller`. Move it into another directory by this name, and give that one",
            args.data.display()
        );
    }
    let mut sources = sources(&args.server)?;
    address(&mut sources, "controller.listen", args.controller_addr)?;
    address(&mut sources, "segmentstore.listen", args.segmentstore_addr)?;
    store_flags(
        &mut sources,
        &args.data.join("segmentstore"),
        args.segmentstore_advertised_addr.as_deref(),
        args.storage.as_deref(),
    )?;
    let settings = sources.settings()?;
    if let Some(range) = settings.segmentstore.container_range {
        bail!(
            "segmentstore.container_range is {range}: a part of the containers is for `sarit segmentstore` only"
        );
    }
    Ok(settings)
}

fn controller_settings(args: &ControllerArgs) -> anyhow::Result<Settings> {
    let mut sources = sources(&args.server)?;
    address(&mut sources, "controller.listen", args.controller_addr)?;
    sources.settings()
}

fn store_settings(args: &SegmentStoreArgs) -> anyhow::Result<Settings> {
    let mut sources = sources(&args.server)?;
    address(&mut sources, "segmentstore.listen", args.segmentstore_addr)?;
    store_flags(
        &mut sources,
        &args.data,
        args.segmentstore_advertised_addr.as_deref(),
        args.storage.as_deref(),
    )?;
    if let Some(containers) = args.containers {
        sources.put("segmentstore.containers", i64::from(containers).into())?;
    }
    if let Some(range) = &args.container_range {
        sources.put("segmentstore.container_range", range.as_str().into())?;
    }
    if let Some(controller) = &args.controller {
        let address = controller
            .split_once("://")
            .map_or(&**controller, |(_, host)| host);
        let address = address.trim_end_matches('/');
        sources.put("segmentstore.controller", address.into())?;
    }
    let mut settings = sources.settings()?;
    let controller = &mut settings.segmentstore.controller;
    controller.get_or_insert_with(|| CONTROLLER.to_owned());
    Ok(settings)
}

fn sources(args: &ServerArgs) -> anyhow::Result<Sources> {
    let mut sources = Sources::default();
    if let Some(file) = &args.config {
        sources.file(file)?;
    }
    sources.environment(std::env::vars_os())?;
    for setting in &args.settings {
        sources.assignment(setting)?;
    }
    Ok(sources)
}

/// Sets an address if its flag is given.
fn address(sources: &mut Sources, setting: &str, flag: Option<SocketAddr>) -> anyhow::Result<()> {
    match flag {
        Some(address) => sources.put(setting, address.to_string().into()),
        None => Ok(()),
    }
}

fn store_flags(
    sources: &mut Sources,
    data: &Path,
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
    /// Sets up what the parts need, and opens the port for HTTP. No file is touched.
    async fn new(
        args: &ServerArgs,
        settings: Settings,
        public: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        telemetry::init_logs(args.log_json);
        check_bind(public, args.insecure)?;
        let (net, stop, mut signals) = (TcpNet, CancellationToken::new(), JoinSet::new());
        // From the start on: a signal while the parts still open ends the process as any other
        // does, once they are open.
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        signals.spawn(heed(signal(terminate)?, signal(interrupt)?, stop.clone()));
        let address = args.http_addr;
        let http = net.listen(address).await.with_context(|| {
            format!("listen on {address} for HTTP; --http-addr chooses another")
        })?;
        Ok(Self {
            settings,
            http,
            net: Arc::new(net),
            disk: Arc::new(RealDisk),
            clock: Clock::system(),
            rng: Rng::from_os(),
            metrics: telemetry::init_metrics()?,
            stop,
            signals,
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
    async fn run(self) -> anyhow::Result<()> {
        let Self {
            http,
            metrics,
            stop,
            signals: _signals,
            mut tasks,
            pages,
            ..
        } = self;
        let (pages, stopped) = (pages.router(metrics), stop.clone());
        tasks.spawn(async move {
            http::serve(http, pages, http::Bounds::default(), stopped).await;
            Ok(())
        });
        let ended = tokio::select! {
            biased;
            Some(ended) = tasks.join_next() => Some(ended),
            () = stop.cancelled() => None,
        };
        info!("stopping: draining what was accepted; a second signal ends it at once");
        stop.cancel();
        let mut result = ended.map_or(Ok(()), |ended| ended.context("a part panicked")?);
        while let Some(ended) = tasks.join_next().await {
            result = result.and(ended.context("a part panicked").and_then(|ended| ended));
        }
        result
    }
}

/// Stops the process in order on a signal, and ends it on a second one.
async fn heed(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    told().await;
    stop.cancel();
    told().await;
    warn!("ended by a second signal: what was accepted may not be answered");
    std::process::exit(Exit::Failed as i32);
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings(arguments: &str) -> anyhow::Result<Settings> {
        let arguments = arguments.split(' ');
        match Cli::parse_from(std::iter::once("sarit").chain(arguments)).command {
            Command::Standalone(args) => standalone_settings(&args),
            Command::Controller(args) => controller_settings(&args),
            Command::Segmentstore(args) => store_settings(&args),
            other => panic!("{other:?} is no server"),
        }
    }

    #[test]
    fn an_address_is_the_flag_s_else_the_setting_s_else_the_default() {
        let port = |arguments: &str| {
            let settings = settings(arguments).expect("they make sense");
            let listen = [settings.controller.listen, settings.segmentstore.listen];
            listen.map(|address| address.port())
        };
        let set = "standalone --data d --set controller.listen=127.0.0.1:1 --set segmentstore.listen=127.0.0.1:2";
        assert_eq!(port("standalone --data d"), [9090, 12_345]);
        assert_eq!(port(set), [1, 2]);
        let flags = "--controller-addr 127.0.0.1:3 --segmentstore-addr 127.0.0.1:4";
        assert_eq!(port(&format!("{set} {flags}")), [3, 4]);
    }

    #[test]
    fn a_store_s_controller_is_the_flag_s_else_the_setting_s_else_the_default() {
        let controller = |arguments: &str| {
            let settings = settings(arguments).expect("they make sense");
            settings.segmentstore.controller.expect("there is one")
        };
        let set = "segmentstore --data d --set segmentstore.controller=set:1";
        assert_eq!(controller("segmentstore --data d"), CONTROLLER);
        assert_eq!(controller(set), "set:1");
        let flag = format!("{set} --controller http://flag:2/");
        assert_eq!(controller(&flag), "flag:2");
    }
}
