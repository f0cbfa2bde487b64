//! Compatibility suite: the official Rust client `pravega-client` 0.3.7, unchanged, against any
//! server that speaks Pravega's protocol.
//!
//! `compat URI [SCENARIO…]` runs all scenarios, or the named ones, one after the other. Each prints
//! one line, `ok NAME SECONDS` or `FAILED NAME: reason`; the last line is `N passed, N failed`.
//! Exit status: 0 when all passed, 1 when one failed, 2 when nothing was run (bad arguments, nobody
//! listening).
//!
//! Each scenario has a scope, a client and a runtime of its own and a hard time limit, and removes
//! what it created. Nothing here knows which server it talks to.
//!
//! `compat --storm URI SCOPE STREAM` and `compat --soak …` are none of the scenarios, see `storm`.

// Errors are the client's own; their size is not ours to choose.
#![allow(clippy::result_large_err)]

mod admin;
mod byte_stream;
mod events;
mod groups;
mod large;
mod lifecycle;
mod storm;
mod synchronizer;
mod tables;
mod world;

use std::any::Any;
use std::future::Future;
use std::net::{TcpStream, ToSocketAddrs};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures_util::FutureExt;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::storm::Weather;
use crate::world::World;

type Run = fn(&World) -> Pin<Box<dyn Future<Output = Result<()>> + '_>>;

/// One subject of the suite.
struct Scenario {
    name: &'static str,
    /// Longest time it may take, in seconds; several times what the reference needs on a busy
    /// machine.
    limit_s: u64,
    run: Run,
}

macro_rules! scenarios {
    ($($name:literal $limit_s:literal $function:path;)*) => {
        &[$(Scenario { name: $name, limit_s: $limit_s, run: |world| Box::pin($function(world)) }),*]
    };
}

const SCENARIOS: &[Scenario] = scenarios! {
    "admin" 60 admin::scopes_and_streams;
    "events_1_segment" 120 events::on_one_segment;
    "events_4_segments" 120 events::on_four_segments;
    "seal_delete_recreate" 90 lifecycle::seal_delete_recreate;
    "truncate" 90 lifecycle::truncate_at_a_cut;
    "reader_offline" 90 groups::reader_goes_offline;
    "reader_takeover" 90 groups::vanished_reader_is_replaced;
    "table" 90 tables::operations;
    "table_iterators" 90 tables::iterators;
    "synchronizer" 90 synchronizer::two_instances;
    "byte_stream" 90 byte_stream::write_read_seek_truncate_seal;
    "event_8_mib" 60 large::largest_plain_event;
    "event_9_mib" 60 large::large_event;
};

const USAGE: &str =
    "usage: compat URI [SCENARIO…] | compat --list     (URI: tcp://127.0.0.1:9090, a controller)";
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--list"] {
        for scenario in SCENARIOS {
            println!("{}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    match arguments.first().map(String::as_str) {
        Some("--storm") => return storm::run(Weather::Scaling, &arguments[1..]),
        Some("--soak") => return storm::run(Weather::Kills, &arguments[1..]),
        _ => {}
    }
    match select(&arguments).and_then(|chosen| {
        listening(&arguments[0])?;
        Ok(chosen)
    }) {
        Ok(chosen) => run_all(&arguments[0], &chosen),
        Err(error) => {
            eprintln!("compat: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Finds the scenarios asked for, all of them when none is named.
fn select(arguments: &[String]) -> Result<Vec<&'static Scenario>> {
    let (uri, names) = arguments.split_first().context(USAGE)?;
    anyhow::ensure!(!uri.starts_with('-'), USAGE);
    if names.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        found.ok_or_else(|| anyhow!("no scenario is called {name}, see --list"))
    };
    names.iter().map(find).collect()
}

/// Checks that somebody listens: the client itself would retry in silence for a minute.
fn listening(uri: &str) -> Result<()> {
    let address = uri.strip_prefix("tcp://").unwrap_or(uri);
    let resolved = address
        .to_socket_addrs()
        .with_context(|| format!("resolve {address}"))?;
    let mut last = anyhow!("{address} has no address");
    for address in resolved {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(_) => return Ok(()),
            Err(error) => last = anyhow!(error).context(format!("connect to {address}")),
        }
    }
    Err(last)
}

fn run_all(uri: &str, chosen: &[&'static Scenario]) -> ExitCode {
    let mut failed = 0;
    for scenario in chosen {
        let start = Instant::now();
        match run_one(uri, scenario) {
            Ok(()) => println!("ok {} {:.1}", scenario.name, start.elapsed().as_secs_f64()),
            Err(error) => {
                failed += 1;
                println!(
                    "FAILED {}: {}",
                    scenario.name,
                    format!("{error:#}").replace('\n', " ")
                );
            }
        }
    }
    println!("{} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a scenario in a thread with a runtime of its own, so that neither a panic nor a hang inside
/// the client reaches the next one. A thread that hangs is left behind, and so is its scope; the
/// process ends without it.
fn run_one(uri: &str, scenario: &'static Scenario) -> Result<()> {
    let (report, outcome) = mpsc::channel();
    let uri = uri.to_owned();
    thread::spawn(move || {
        let runtime = Runtime::new().expect("a runtime needs only threads and a poller");
        let result = runtime.block_on(async {
            let world = World::new(&uri, scenario.name)?;
            let result = AssertUnwindSafe((scenario.run)(&world))
                .catch_unwind()
                .await;
            let result = result.unwrap_or_else(|panic| Err(described(panic.as_ref())));
            let cleaned = match timeout(CLEAN_UP_LIMIT, world.clean_up()).await {
                Ok(cleaned) => cleaned,
                Err(_) => Err(anyhow!("not done after {} s", CLEAN_UP_LIMIT.as_secs())),
            };
            result.and(cleaned.context("clean up"))
        });
        // Tasks that the client left behind, such as reads that wait for data, are dropped.
        runtime.shutdown_background();
        report.send(result).ok();
    });
    match outcome.recv_timeout(Duration::from_secs(scenario.limit_s)) {
        Ok(result) => result,
        Err(_) => Err(anyhow!("not done after {} s", scenario.limit_s)),
    }
}

/// What a panic of the client said.
fn described(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow!("panicked: {}", text.unwrap_or("no message"))
}
