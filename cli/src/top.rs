//! `sarit top`: what flows where, live, in a terminal or once into a pipe.
//!
//! Process-wide figures come from a server's metrics page, the streams' from the controller and their
//! segments. It only looks: the load it makes is two small requests per segment and look.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use sarit_client::Client;
use sarit_client::event::Owner;
use sarit_env::Net as _;
use sarit_env::net::TcpNet;
use sarit_proto::ids::{AttributeId, SegmentId};
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::admin::{pages, user_streams};
use crate::args::elastic::TopArgs;
use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::print;

/// Streams looked at; with more, name a scope.
const STREAMS_MAX: usize = 100;
/// Questions on their way at once.
const AT_ONCE: usize = 16;
const PAGE_BYTES_MAX: usize = 16 << 20;
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Home, and clear what is below.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Runs `sarit top`.
pub(crate) async fn run(args: TopArgs) -> anyhow::Result<()> {
    if !(0.1..=3600.0).contains(&args.every) {
        let message = format!("--every {} is not between 0.1 and 3600", args.every);
        return Err(Failure::error(Exit::Usage, message));
    }
    let every = Duration::from_secs_f64(args.every);
    let client = connect(&args.client.controller)?;
    let live = std::io::stdout().is_terminal() && !args.client.json;
    let count = args.count.unwrap_or(if live { u64::MAX } else { 1 });
    let mut before = Look::take(&client, &args).await?;
    for _ in 0..count {
        tokio::time::sleep(every).await;
        let now = Look::take(&client, &args).await?;
        let text = match args.client.json {
            true => format!("{}\n", now.json(&before)),
            false => now.table(&before),
        };
        let clear = if live { REDRAW } else { "" };
        print(format!("{clear}{text}").as_bytes())?;
        before = now;
    }
    Ok(())
}

/// What was there at one moment.
#[derive(Debug)]
struct Look {
    at: Instant,
    metrics: BTreeMap<String, f64>,
    streams: BTreeMap<ScopedStream, Vec<Segment>>,
    /// Streams that were left out.
    more: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Segment {
    owner: Owner,
    bytes: u64,
    events: u64,
}

/// What a stream did between two looks.
#[derive(Debug, Default, PartialEq)]
struct Rates {
    events: f64,
    bytes: f64,
    /// Segments that are new, and segments that have gone.
    created: usize,
    gone: usize,
    /// The busiest segment's share of all bytes.
    hottest: Option<(SegmentId, f64)>,
}

impl Look {
    async fn take(client: &Client, args: &TopArgs) -> anyhow::Result<Self> {
        let page = page(&args.http_addr, "/metrics").await?;
        let (names, more) = names(client, args.scope.as_deref()).await?;
        let at = Instant::now();
        let streams = futures_util::stream::iter(names)
            .map(|stream| async move {
                let segments = segments(client, &stream).await;
                segments.map(|segments| (stream, segments))
            })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let mut found = BTreeMap::new();
        for stream in streams {
            match stream {
                Ok((stream, segments)) => {
                    found.insert(stream, segments);
                }
                // It was deleted, or scaled and truncated, since we asked for its name.
                Err(
                    sarit_client::Error::NoSuchStream(_) | sarit_client::Error::NoSuchSegment(_),
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self {
            at,
            metrics: sums(&page),
            streams: found,
            more,
        })
    }

    /// A counter's growth per second. Of a server that was restarted: nothing.
    fn per_second(&self, before: &Self, counter: &str) -> f64 {
        let of = |look: &Self| look.metrics.get(counter).copied().unwrap_or(0.0);
        rate(of(self) - of(before), self.at - before.at)
    }

    fn rates(&self, before: &Self, stream: &ScopedStream) -> Rates {
        let none = Vec::new();
        let now = &self.streams[stream];
        let old = before.streams.get(stream).unwrap_or(&none);
        rates(now, old, self.at - before.at)
    }

    fn table(&self, before: &Self) -> String {
        let per_second = |counter: &str| self.per_second(before, counter);
        let level = |gauge: &str| self.metrics.get(gauge).copied().unwrap_or(0.0);
        let mut text = String::new();
        let _ = writeln!(
            text,
            "appends {}/s  in {}B/s  out {}B/s  syncs {}/s  frames {}/s",
            short(per_second("segmentstore_appends_total")),
            short(per_second("segmentstore_append_bytes_total")),
            short(per_second("segmentstore_read_bytes_total")),
            short(per_second("segmentstore_wal_syncs_total")),
            short(per_second("segmentstore_frames_total")),
        );
        let _ = writeln!(
            text,
            "segments {}  connections {}  waiting reads {}  memory {}B  controller {} calls/s, {} tasks running",
            short(level("segmentstore_segments")),
            short(level("segmentstore_connections")),
            short(level("segmentstore_waiting_reads")),
            short(level("segmentstore_memory_bytes")),
            short(per_second("controller_rpcs_total")),
            short(level("controller_tasks_running")),
        );
        let _ = writeln!(
            text,
            "\n{:<40} {:>8} {:>6} {:>10} {:>10} {:>10}  HOTTEST",
            "STREAM", "SEGMENTS", "EPOCH", "EVENTS/S", "BYTES/S", "BYTES"
        );
        for (stream, segments) in &self.streams {
            let rates = self.rates(before, stream);
            let change = match (rates.created, rates.gone) {
                (0, 0) => String::new(),
                (created, gone) => format!("  +{created} -{gone} segments"),
            };
            let hottest = match rates.hottest {
                Some((segment, share)) => format!("{segment} {:.0}%", share * 100.0),
                None => String::new(),
            };
            let _ = writeln!(
                text,
                "{:<40} {:>8} {:>6} {:>10} {:>10} {:>10}  {hottest}{change}",
                stream.to_string(),
                segments.len(),
                epoch(segments),
                short(rates.events),
                short(rates.bytes),
                short(segments.iter().map(|segment| segment.bytes as f64).sum()),
            );
        }
        if self.more > 0 {
            let _ = writeln!(text, "and {} more; name a scope with --scope", self.more);
        }
        text
    }

    fn json(&self, before: &Self) -> Value {
        let streams = self.streams.iter().map(|(stream, segments)| {
            let rates = self.rates(before, stream);
            json!({
                "stream": stream.to_string(),
                "segments": segments.len(),
                "epoch": epoch(segments),
                "events_per_second": rates.events,
                "bytes_per_second": rates.bytes,
                "created": rates.created,
                "gone": rates.gone,
                "hottest": rates.hottest.map(|(segment, _)| segment.to_string()),
            })
        });
        json!({
            "appends_per_second": self.per_second(before, "segmentstore_appends_total"),
            "in_bytes_per_second": self.per_second(before, "segmentstore_append_bytes_total"),
            "out_bytes_per_second": self.per_second(before, "segmentstore_read_bytes_total"),
            "syncs_per_second": self.per_second(before, "segmentstore_wal_syncs_total"),
            "streams": streams.collect::<Vec<_>>(),
            "more": self.more,
        })
    }
}

fn epoch(segments: &[Segment]) -> i32 {
    let epochs = segments.iter().map(|segment| segment.owner.segment.epoch());
    epochs.max().unwrap_or_default()
}

fn rate(growth: f64, over: Duration) -> f64 {
    (growth / over.as_secs_f64().max(1e-3)).max(0.0)
}

fn rates(now: &[Segment], before: &[Segment], over: Duration) -> Rates {
    let old = |segment: &Segment| {
        let mut before = before.iter();
        before.find(|before| before.owner.segment == segment.owner.segment)
    };
    let mut rates = Rates::default();
    let mut most = 0;
    for segment in now {
        // One that is new was empty before, unless this stream is seen for the first time.
        let (bytes, events) = match old(segment) {
            Some(before) => (before.bytes, before.events),
            None if before.is_empty() => (segment.bytes, segment.events),
            None => {
                rates.created += 1;
                (0, 0)
            }
        };
        let grown = segment.bytes.saturating_sub(bytes);
        rates.events += segment.events.saturating_sub(events) as f64;
        rates.bytes += grown as f64;
        if grown > most {
            most = grown;
            rates.hottest = Some((segment.owner.segment, grown as f64));
        }
    }
    rates.gone = before
        .iter()
        .filter(|before| {
            let mut now = now.iter();
            !now.any(|now| now.owner.segment == before.owner.segment)
        })
        .count();
    rates.hottest = rates
        .hottest
        .map(|(segment, grown)| (segment, grown / rates.bytes));
    rates.events = rate(rates.events, over);
    rates.bytes = rate(rates.bytes, over);
    rates
}

/// The streams to look at, and how many there are besides.
async fn names(client: &Client, scope: Option<&str>) -> anyhow::Result<(Vec<ScopedStream>, usize)> {
    let scopes = match scope {
        Some(scope) => vec![ScopeName::new(scope)?],
        None => {
            let names = pages(async |from| client.controller().list_scopes(from).await).await?;
            let names = names.into_iter().filter(|name| !name.starts_with('_'));
            names.map(ScopeName::new).collect::<Result<_, _>>()?
        }
    };
    let mut streams = Vec::new();
    for scope in scopes {
        for stream in user_streams(client, &scope, None).await? {
            streams.push(ScopedStream {
                scope: scope.clone(),
                stream: StreamName::new(stream)?,
            });
        }
    }
    let more = streams.len().saturating_sub(STREAMS_MAX);
    streams.truncate(STREAMS_MAX);
    Ok((streams, more))
}

async fn segments(
    client: &Client,
    stream: &ScopedStream,
) -> Result<Vec<Segment>, sarit_client::Error> {
    let mut segments = Vec::new();
    for owner in client.controller().current_segments(stream).await? {
        let name = stream.segment(owner.segment).to_string();
        let bytes = client.segments().info(&name).await?.length.0;
        let count = AttributeId::EVENT_COUNT;
        let events = client.segments().attribute(&name, count).await?;
        segments.push(Segment {
            owner,
            bytes,
            // Negative: none were counted yet.
            events: u64::try_from(events).unwrap_or(0),
        });
    }
    Ok(segments)
}

/// Gets a page of a server over HTTP.
async fn page(address: &str, path: &str) -> anyhow::Result<String> {
    let wrong = |exit, why: &str| {
        Failure::error(
            exit,
            format!(
                "cannot read http://{address}{path}: {why}; name the server's address with --http-addr"
            ),
        )
    };
    let parts = address.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or_else(|| wrong(Exit::Usage, "it is no HOST:PORT"))?;
    let get = async {
        let mut stream = TcpNet.connect(host, port).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut limited = stream.take(PAGE_BYTES_MAX as u64);
        limited.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = match tokio::time::timeout(PAGE_TIMEOUT, get).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(wrong(Exit::Unreachable, &error.to_string())),
        Err(_) => return Err(wrong(Exit::Unreachable, "no answer in 5 s")),
    };
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        Some((head, _)) => Err(wrong(Exit::Failed, head.lines().next().unwrap_or_default())),
        None => Err(wrong(Exit::Failed, "that is no HTTP server")),
    }
}

/// Adds up each metric over its labels.
fn sums(page: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((metric, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let name = metric.split('{').next().unwrap_or(metric);
        if let Ok(value) = value.parse::<f64>() {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

/// A number in at most five characters and a letter.
fn short(number: f64) -> String {
    const LETTERS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut scaled = number;
    let mut letter = 0;
    while scaled >= 9_999.5 && letter + 1 < LETTERS.len() {
        scaled /= 1_000.0;
        letter += 1;
    }
    match scaled {
        small if small < 10.0 && small.fract() > 0.05 => format!("{small:.1}{}", LETTERS[letter]),
        large => format!("{large:.0}{}", LETTERS[letter]),
    }
}

#[cfg(test)]
mod tests {
    use sarit_proto::key_range::KeyRange;

    use super::*;

    fn segment(number: i32, bytes: u64, events: u64) -> Segment {
        let owner = Owner {
            segment: SegmentId::new(0, number),
            keys: KeyRange::FULL,
        };
        Segment {
            owner,
            bytes,
            events,
        }
    }

    #[test]
    fn metrics_are_added_up_over_their_labels() {
        let page = "# HELP a b\na{x=\"1\"} 2\na{x=\"2\"} 3.5\nb 7\nnonsense\nc{y=\"z z\"} 1e3\n";
        let sums = sums(page);
        assert_eq!(
            sums.into_iter().collect::<Vec<_>>(),
            [("a".into(), 5.5), ("b".into(), 7.0), ("c".into(), 1000.0)]
        );
    }

    #[test]
    fn a_split_counts_what_the_new_segments_took() {
        let before = [segment(0, 1_000, 10), segment(1, 50, 5)];
        let now = [segment(1, 150, 15), segment(2, 300, 3), segment(3, 0, 0)];
        let rates = rates(&now, &before, Duration::from_secs(2));
        assert_eq!(
            rates,
            Rates {
                events: 6.5,
                bytes: 200.0,
                created: 2,
                gone: 1,
                hottest: Some((SegmentId::new(0, 2), 0.75)),
            }
        );
    }

    #[test]
    fn a_stream_seen_for_the_first_time_has_no_rate() {
        let now = [segment(0, 1_000, 10)];
        assert_eq!(rates(&now, &[], Duration::from_secs(1)), Rates::default());
    }

    #[test]
    fn numbers_stay_short() {
        let shortened = [0.0, 0.5, 7.0, 9_999.0, 10_000.0, 123_456.0, 5.0e9, 1.0e18].map(short);
        assert_eq!(
            shortened,
            ["0", "0.5", "7", "9999", "10k", "123k", "5000M", "1000000T"]
        );
    }
}
