//! `sarit demo`: real data through a real server that is killed on the way, everything checked.

mod server;

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sarit_client::Client;
use sarit_client::event::{Ack, From, Until};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::server::Server;
use crate::args::{DemoArgs, Format};
use crate::exit::{Exit, Failure};
use crate::output::print_line;
use crate::records::{Record, Records};
use crate::write::Window;

/// The flights of January 2013 from New York, see data/README.md.
static FLIGHTS: &[u8] = include_bytes!("../../../data/flights-2013-01.csv");
/// Column that is the routing key: the aeroplane.
const KEY: &str = "tailnum";
const SEGMENTS: u32 = 4;
/// The server's directory, in the folder that the demo works in.
const DATA: &str = "data";
/// How fast January is replayed, so that there is something to see, and something in flight at the kill.
const REPLAYED_PER_SECOND: u32 = 3_000;
const TICKS_PER_SECOND: u32 = 50;
/// How often January is then written at full speed.
const BURST_MONTHS: usize = 20;

/// Runs the demo; fails unless everything that was promised held.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let (folder, throw_away) = folder(args.data)?;
    print_line(format_args!("Working in {}", folder.display()))?;
    let result = perform(&folder).await;
    match (&result, throw_away) {
        (Ok(()), true) => {
            #[allow(clippy::disallowed_methods, reason = "our own temporary folder")]
            let removed = std::fs::remove_dir_all(&folder);
            removed.with_context(|| format!("remove {}", folder.display()))?;
        }
        (Err(_), _) => print_line(format_args!(
            "Data and log are kept in {}",
            folder.display()
        ))?,
        (Ok(()), false) => {}
    }
    result
}

fn folder(chosen: Option<PathBuf>) -> anyhow::Result<(PathBuf, bool)> {
    let throw_away = chosen.is_none();
    if let Some(folder) = chosen
        .as_deref()
        .filter(|folder| folder.join(DATA).exists())
    {
        let message = format!(
            "{} holds a demo's data already; name another directory, or remove that one",
            folder.display()
        );
        return Err(Failure::error(Exit::WrongState, message));
    }
    let name = format!("sarit-demo-{}", std::process::id());
    let folder = chosen.unwrap_or_else(|| std::env::temp_dir().join(name));
    #[allow(clippy::disallowed_methods, reason = "the demo's own folder")]
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok((folder, throw_away))
}

async fn perform(folder: &std::path::Path) -> anyhow::Result<()> {
    step("Starting a server of our own, a single process")?;
    let mut server = Server::start(folder).await?;
    let client = Client::connect(&server.uri())?;
    let stream: ScopedStream = "demo/flights".parse()?;
    client.controller().create_scope(&stream.scope).await?;
    client
        .controller()
        .create_stream(&stream, &StreamConfig::fixed(SEGMENTS)?)
        .await?;

    let flights = flights()?;
    step(&format!(
        "Streaming {} flights, keyed by {} aeroplanes, into {stream} ({SEGMENTS} segments)",
        flights.values().map(Vec::len).sum::<usize>(),
        flights.len()
    ))?;
    let killed = replay(&client, &stream, &mut server).await?;

    step("Reading everything back")?;
    let read = read_back(&client, &stream).await?;
    let expected: usize = flights.values().map(Vec::len).sum();
    let count: usize = read.values().map(Vec::len).sum();
    ensure!(
        count == expected,
        "{count} flights read, {expected} were acknowledged"
    );
    for (aeroplane, history) in &flights {
        ensure!(
            read.get(aeroplane) == Some(history),
            "the flights of {aeroplane} are not in the order they were written"
        );
    }
    print_line(format_args!(
        "  {count} flights: none lost, none doubled, each aeroplane's in order"
    ))?;
    print_line(format_args!("  {killed}"))?;

    let burst = burst(&client, flights.values().map(Vec::len).sum()).await?;
    print_line(format_args!("  {burst}"))?;
    server.stop().await.context("stop the server")?;
    step("Everything held. What to try next")?;
    print_line("  sarit standalone --data ./data            # your own server")?;
    print_line("  sarit stream create demo/flights --segments 4 --with-scope")?;
    print_line("  sarit write demo/flights data/flights-2013-01.csv --csv --key tailnum")?;
    print_line("  sarit read demo/flights --from tail --follow")?;
    print_line("  and any Pravega client, pointed at tcp://127.0.0.1:9090")
}

fn step(what: &str) -> anyhow::Result<()> {
    print_line(format_args!("\n▸ {what}"))
}

fn records() -> anyhow::Result<Records> {
    Records::new(Box::new(FLIGHTS), Format::Csv, Some(KEY.to_owned()))
}

type Flights = BTreeMap<String, Vec<Vec<u8>>>;

/// Every aeroplane's flights, in order.
fn flights() -> anyhow::Result<Flights> {
    let mut flights = Flights::new();
    for record in records()? {
        let Record { key, event } = record?;
        flights
            .entry(key.unwrap_or_default())
            .or_default()
            .push(event.to_vec());
    }
    Ok(flights)
}

/// Writes January at a steady pace and kills the server half way. Returns what to say about it.
async fn replay(
    client: &Client,
    stream: &ScopedStream,
    server: &mut Server,
) -> anyhow::Result<String> {
    let writer = client.event_writer(stream).await?;
    let records: Vec<_> = records()?.collect::<anyhow::Result<_>>()?;
    let total = records.len();
    let bar = progress(total as u64);
    let mut pace = interval(Duration::from_secs(1) / TICKS_PER_SECOND);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut in_flight: VecDeque<Ack> = VecDeque::new();
    let mut killed = None;
    for (at, record) in records.into_iter().enumerate() {
        if at % (REPLAYED_PER_SECOND / TICKS_PER_SECOND) as usize == 0 {
            pace.tick().await;
        }
        let key = record.key.unwrap_or_default();
        in_flight.push_back(writer.write(&key, record.event).await?);
        if at == total / 2 {
            server.kill().await?;
            bar.println(format!(
                "  kill -9 after {at} flights, {} not acknowledged",
                in_flight.len()
            ));
            killed = Some((Instant::now(), in_flight.len()));
            server.restart().await?;
            bar.println("  the server runs again; the writer goes on by itself");
        }
        while let Some(ack) = in_flight.front_mut() {
            // What is acknowledged already is taken off; nothing is waited for here.
            let Some(done) = futures_util::FutureExt::now_or_never(ack) else {
                break;
            };
            done?;
            in_flight.pop_front();
            bar.inc(1);
        }
    }
    for ack in in_flight {
        ack.await?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (_, in_flight) = killed.context("there is a middle")?;
    Ok(format!(
        "killed with SIGKILL half way, {in_flight} flights on their way: the writer sent them again, once"
    ))
}

async fn read_back(client: &Client, stream: &ScopedStream) -> anyhow::Result<Flights> {
    let mut reader = client.event_reader(stream, From::Head, Until::Tail).await?;
    let key = columns(FLIGHTS)
        .iter()
        .position(|column| *column == KEY)
        .context("the key's column")?;
    let mut read = Flights::new();
    while let Some(event) = reader.next().await? {
        let aeroplane = columns(&event.payload)
            .get(key)
            .map(|text| (*text).to_owned());
        let aeroplane = aeroplane.context("an event that is no flight")?;
        read.entry(aeroplane)
            .or_default()
            .push(event.payload.to_vec());
    }
    Ok(read)
}

/// The first line's columns; no flight has a quoted one.
fn columns(text: &[u8]) -> Vec<&str> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    std::str::from_utf8(line)
        .unwrap_or_default()
        .split(',')
        .collect()
}

/// Writes many Januaries as fast as it goes, then reads them. Returns what to say about it.
async fn burst(client: &Client, month: usize) -> anyhow::Result<String> {
    step(&format!(
        "The same month {BURST_MONTHS} times over, as fast as it goes"
    ))?;
    let stream: ScopedStream = "demo/burst".parse()?;
    client
        .controller()
        .create_stream(&stream, &StreamConfig::fixed(SEGMENTS)?)
        .await?;
    let writer = client.event_writer(&stream).await?;
    let records: Vec<_> = records()?.collect::<anyhow::Result<_>>()?;
    let start = Instant::now();
    let mut window = Window::new(&writer);
    for _ in 0..BURST_MONTHS {
        for Record { key, event } in &records {
            window
                .write(Record {
                    key: key.clone(),
                    event: event.clone(),
                })
                .await?;
        }
    }
    let (events, bytes) = window.finish().await?;
    let write = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut reader = client
        .event_reader(&stream, From::Head, Until::Tail)
        .await?;
    let mut count = 0;
    while reader.next().await?.is_some() {
        count += 1;
    }
    let read = start.elapsed().as_secs_f64();
    ensure!(
        count == month * BURST_MONTHS && count as u64 == events,
        "{count} events read, {events} written"
    );
    let rate = |seconds: f64| (events as f64 / seconds, bytes as f64 / 1e6 / seconds);
    let ((wrote, wrote_mb), (got, got_mb)) = (rate(write), rate(read));
    Ok(format!(
        "{events} events: written and durable at {wrote:.0}/s ({wrote_mb:.0} MB/s), read at {got:.0}/s ({got_mb:.0} MB/s)"
    ))
}

fn progress(total: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {bar:40} {pos}/{len} flights durable, {per_sec}");
    ProgressBar::new(total).with_style(style.expect("the template is well formed"))
}
