//! Very many streams: what one costs to create beside a call that does next to nothing, what its
//! metadata takes, and whether lists and restarts get slower by them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sarit_client::Client;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use sarit_proto::policy::StreamConfig;
use sarit_tests::cluster::{Cluster, Layout, Role, rss};
use tokio::task::JoinSet;

use crate::Bench;
use crate::figures::{Quantiles, cpu_seconds};
use crate::report::{Goal, Row};

const SCOPE: &str = "many";
const STREAMS: usize = 100_000;
const CALLERS: usize = 16;
const EMPTY_CALLS: usize = 20_000;
/// Pages looked at, at the beginning and at the end of the list.
const PAGES: usize = 50;

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let streams = bench.choose(STREAMS, STREAMS / 10);
    bench.report.section(
        "many",
        &format!(
            "{streams} streams of one segment, created by {CALLERS} callers; CPU is the server's"
        ),
    );
    let data = bench.dir.join("many");
    let mut server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let client = runtime.block_on(async { Client::connect(&server.uri()) })?;
    let scope = ScopeName::new(SCOPE)?;
    runtime.block_on(client.controller().create_scope(&scope))?;

    let calls = bench.choose(EMPTY_CALLS, EMPTY_CALLS / 4);
    let empty = runtime.block_on(spend(&server, calls, {
        let (client, scope) = (client.clone(), scope.clone());
        move |_| {
            let (client, scope) = (client.clone(), scope.clone());
            async move {
                ensure!(client.controller().scope_exists(&scope).await?, "no scope");
                Ok(())
            }
        }
    }))?;
    let created = runtime.block_on(spend(&server, streams, {
        let client = client.clone();
        move |number| {
            let client = client.clone();
            async move {
                let config = StreamConfig::fixed(1)?;
                let created = client
                    .controller()
                    .create_stream(&stream(number)?, &config)
                    .await?;
                ensure!(created, "stream {number} was there");
                Ok(())
            }
        }
    }))?;
    let (first, last, listed) = runtime.block_on(pages(&client, &scope))?;
    ensure!(
        listed == streams,
        "{listed} of {streams} streams are listed"
    );
    let metadata = bytes_below(&data.join("controller"))?;
    let memory = server
        .pids()
        .iter()
        .filter_map(|pid| rss(*pid))
        .sum::<u64>() as f64
        / 1e6;
    server.kill(Role::Standalone)?;
    let begin = Instant::now();
    server.restart_all()?;
    let config = runtime.block_on(client.controller().stream_config(&stream(streams - 1)?))?;
    let restart = begin.elapsed();
    ensure!(config == StreamConfig::fixed(1)?, "another configuration");
    drop(server);
    std::fs::remove_dir_all(&data)?;

    let report = &mut bench.report;
    for (what, spent) in [("empty call", &empty), ("stream created", &created)] {
        let row = Row::new(what)
            .number("per second", spent.count as f64 / spent.time.as_secs_f64())
            .number("CPU µs each", spent.cpu_micros());
        report.row(&row)?;
    }
    let row = Row::new("all of them")
        .number("B metadata each", metadata as f64 / streams as f64)
        .number("RSS MB", memory)
        .number("first page µs", first)
        .number("last page µs", last)
        .number("restart ms", restart.as_secs_f64() * 1e3);
    report.row(&row)?;
    let cpu = created.cpu_micros() / empty.cpu_micros();
    report.figure(
        "CPU of a stream created / of an empty call",
        cpu,
        Goal::AtMost(10.0),
        false,
    )?;
    report.figure(
        "a page at the end of the list / at its beginning",
        last / first,
        Goal::AtMost(1.5),
        false,
    )?;
    report.figure(
        "restart after SIGKILL, s",
        restart.as_secs_f64(),
        Goal::AtMost(2.0),
        false,
    )
}

struct Spent {
    count: usize,
    time: Duration,
    cpu_seconds: f64,
}

impl Spent {
    fn cpu_micros(&self) -> f64 {
        self.cpu_seconds / self.count as f64 * 1e6
    }
}

/// Makes so many calls, some at a time, and returns what they cost the server.
async fn spend<F, R>(server: &Cluster, count: usize, call: F) -> anyhow::Result<Spent>
where
    F: Fn(usize) -> R + Clone + Send + 'static,
    R: Future<Output = anyhow::Result<()>> + Send,
{
    let pids = server.pids();
    let (before, begin) = (cpu_seconds(&pids)?, Instant::now());
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (next, call) = (Arc::clone(&next), call.clone());
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                call(number).await?;
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(Spent {
        count,
        time: begin.elapsed(),
        cpu_seconds: cpu_seconds(&pids)? - before,
    })
}

fn stream(number: usize) -> anyhow::Result<ScopedStream> {
    Ok(ScopedStream {
        scope: ScopeName::new(SCOPE)?,
        stream: StreamName::new(format!("stream{number:06}"))?,
    })
}

/// Lists all streams; returns the median microseconds of the first pages and of the last ones, and how
/// many streams there are.
async fn pages(client: &Client, scope: &ScopeName) -> anyhow::Result<(f64, f64, usize)> {
    let (mut took, mut listed, mut from) = (Vec::new(), 0, String::new());
    loop {
        let begin = Instant::now();
        let page = client.controller().list_streams(scope, &from).await?;
        took.push(begin.elapsed());
        if page.names.is_empty() {
            break;
        }
        // Internal streams come with them.
        let visible = page.names.iter().filter(|name| !name.starts_with('_'));
        listed += visible.count();
        from = page.next;
    }
    // The one behind the last is empty.
    took.pop();
    let median = |times: &[Duration]| {
        let mut quantiles = Quantiles::default();
        times.iter().for_each(|time| quantiles.add(*time));
        quantiles.micros(0.5)
    };
    let some = PAGES.min(took.len() / 2).max(1);
    Ok((
        median(&took[..some]),
        median(&took[took.len() - some..]),
        listed,
    ))
}

fn bytes_below(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() {
            bytes_below(&entry.path())?
        } else {
            meta.len()
        };
    }
    Ok(sum)
}
