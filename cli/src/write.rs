//! `sarit write`: events from a file or standard input.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use sarit_client::event::{Ack, EventWriter};
use serde_json::json;
use tokio::time::Instant;

use crate::admin::stream_name;
use crate::args::{Format, WriteArgs};
use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::print_line;
use crate::records::{Record, Records};

/// Events on their way; bounds memory where the client's own bound, in bytes, would admit millions.
const IN_FLIGHT_MAX: usize = 16_384;

/// Runs `sarit write`.
pub(crate) async fn run(args: WriteArgs) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    if args.key.is_some() && args.format() == Format::Lines {
        let message = "--key needs --csv or --json: plain lines have no columns";
        return Err(Failure::error(Exit::Usage, message));
    }
    let (input, size) = open(&args.file)?;
    let bar = progress_bar(size);
    let records = Records::new(Box::new(bar.wrap_read(input)), args.format(), args.key)?;
    let client = connect(&args.controller)?;
    let writer = client.event_writer(&stream).await?;
    let start = Instant::now();
    let mut window = Window::new(&writer);
    let stopped = window.write_all(records).await;
    // What was accepted before an error is on its way: it is not given up.
    let finished = window.finish().await;
    bar.finish_and_clear();
    let (events, bytes) = stopped
        .and(finished)
        .with_context(|| format!("{} events are durable, then it stopped", window.durable))?;
    let seconds = start.elapsed().as_secs_f64();
    let summary = json!({ "stream": stream.to_string(), "events": events, "bytes": bytes, "seconds": seconds });
    if !std::io::stdout().is_terminal() {
        return print_line(summary);
    }
    let rate = events as f64 / seconds.max(1e-9);
    print_line(format_args!(
        "{events} events ({bytes} bytes) written and durable in {seconds:.2} s, {rate:.0} events/s"
    ))
}

#[allow(
    clippy::disallowed_methods,
    reason = "the user's own file, outside any world"
)]
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let size = file.metadata().ok().map(|meta| meta.len());
    Ok((Box::new(file), size))
}

fn progress_bar(size: Option<u64>) -> ProgressBar {
    let template = match size {
        Some(_) => "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the template is well formed");
    let bar = size
        .map_or_else(ProgressBar::new_spinner, ProgressBar::new)
        .with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Events that are written and not yet acknowledged.
pub(crate) struct Window<'a> {
    writer: &'a EventWriter,
    in_flight: VecDeque<Ack>,
    bytes: u64,
    /// Events acknowledged.
    durable: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(writer: &'a EventWriter) -> Self {
        Self {
            writer,
            in_flight: VecDeque::new(),
            bytes: 0,
            durable: 0,
        }
    }

    async fn write_all(&mut self, records: Records) -> anyhow::Result<()> {
        for record in records {
            self.write(record?).await?;
        }
        Ok(())
    }

    /// Writes an event; waits for the oldest one if too many are on their way.
    pub(crate) async fn write(&mut self, record: Record) -> anyhow::Result<()> {
        let bytes = record.event.len() as u64;
        let ack = match record.key {
            Some(key) => self.writer.write(&key, record.event).await,
            None => self.writer.write_without_key(record.event).await,
        };
        self.in_flight.push_back(ack?);
        self.bytes += bytes;
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.wait_oldest().await?;
        }
        Ok(())
    }

    /// Waits until all are durable; returns how many events and bytes that were.
    pub(crate) async fn finish(&mut self) -> anyhow::Result<(u64, u64)> {
        while !self.in_flight.is_empty() {
            self.wait_oldest().await?;
        }
        Ok((self.durable, self.bytes))
    }

    async fn wait_oldest(&mut self) -> anyhow::Result<()> {
        if let Some(oldest) = self.in_flight.pop_front() {
            oldest.await?;
            self.durable += 1;
        }
        Ok(())
    }
}
