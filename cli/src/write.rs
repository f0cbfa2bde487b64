//! `sarit write`: events from a file or standard input.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use sarit_client::event::{Ack, EventWriter};
use serde_json::json;
use tokio::time::Instant;

use crate::admin::stream_name;
use crate::args::{Format, WriteArgs};
use crate::connect;
use crate::exit::{Exit, Failure};

/// Events on their way; bounds memory where the client's own bound, in bytes, would admit millions.
const IN_FLIGHT_MAX: usize = 16_384;

/// An event and its routing key.
pub(crate) struct Record {
    pub(crate) key: Option<String>,
    pub(crate) event: Bytes,
}

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
    for record in records {
        window.write(record?).await?;
    }
    let (events, bytes) = window.finish().await?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let summary = json!({ "stream": stream.to_string(), "events": events, "bytes": bytes, "seconds": seconds });
    if std::io::stdout().is_terminal() {
        let rate = events as f64 / seconds.max(1e-9);
        println!(
            "{events} events ({bytes} bytes) written and durable in {seconds:.2} s, {rate:.0} events/s"
        );
    } else {
        println!("{summary}");
    }
    Ok(())
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
    events: u64,
    bytes: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(writer: &'a EventWriter) -> Self {
        Self {
            writer,
            in_flight: VecDeque::new(),
            events: 0,
            bytes: 0,
        }
    }

    /// Writes an event; waits for the oldest one if too many are on their way.
    pub(crate) async fn write(&mut self, record: Record) -> anyhow::Result<()> {
        self.events += 1;
        self.bytes += record.event.len() as u64;
        let ack = match record.key {
            Some(key) => self.writer.write(&key, record.event).await,
            None => self.writer.write_without_key(record.event).await,
        };
        self.in_flight.push_back(ack?);
        if self.in_flight.len() >= IN_FLIGHT_MAX
            && let Some(oldest) = self.in_flight.pop_front()
        {
            oldest.await?;
        }
        Ok(())
    }

    /// Waits until all are durable; returns how many events and bytes that were.
    pub(crate) async fn finish(mut self) -> anyhow::Result<(u64, u64)> {
        for ack in self.in_flight.drain(..) {
            ack.await?;
        }
        Ok((self.events, self.bytes))
    }
}

/// Cuts input into events.
pub(crate) struct Records {
    input: BufReader<Box<dyn Read>>,
    format: Format,
    /// Column number for CSV, field name for JSON.
    key: Option<Key>,
    line: u64,
}

enum Key {
    Column(usize),
    Field(String),
}

impl Records {
    pub(crate) fn new(
        input: Box<dyn Read>,
        format: Format,
        key: Option<String>,
    ) -> anyhow::Result<Self> {
        let mut records = Self {
            input: BufReader::new(input),
            format,
            key: None,
            line: 0,
        };
        records.key = match (format, key) {
            (Format::Csv, key) => {
                let header = records.line()?.unwrap_or_default();
                let columns = columns(&header);
                key.map(|key| {
                    let at = columns.iter().position(|column| *column == key);
                    at.map(Key::Column).ok_or_else(|| {
                        let message =
                            format!("no column {key:?}; there are {}", columns.join(", "));
                        Failure::error(Exit::Usage, message)
                    })
                })
                .transpose()?
            }
            (_, key) => key.map(Key::Field),
        };
        Ok(records)
    }

    /// The next line without its end; a quoted CSV field may hold line ends.
    fn line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            self.line += 1;
            if self.input.read_until(b'\n', &mut line)? == 0 {
                return Ok((!line.is_empty()).then_some(line));
            }
            let quotes = line.iter().filter(|byte| **byte == b'"').count();
            if self.format != Format::Csv || quotes % 2 == 0 {
                break;
            }
        }
        for end in [b'\n', b'\r'] {
            if line.last() == Some(&end) {
                line.pop();
            }
        }
        Ok(Some(line))
    }

    fn record(&self, line: Vec<u8>) -> anyhow::Result<Record> {
        let key = match &self.key {
            None => None,
            Some(Key::Column(at)) => {
                let mut columns = columns(&line);
                let there = *at < columns.len();
                anyhow::ensure!(there, "line {}: only {} columns", self.line, columns.len());
                Some(columns.swap_remove(*at))
            }
            Some(Key::Field(name)) => {
                let value: serde_json::Value =
                    serde_json::from_slice(&line).with_context(|| format!("line {}", self.line))?;
                match &value[name] {
                    serde_json::Value::String(text) => Some(text.clone()),
                    serde_json::Value::Null => {
                        anyhow::bail!("line {}: no field {name:?}", self.line)
                    }
                    other => Some(other.to_string()),
                }
            }
        };
        Ok(Record {
            key,
            event: line.into(),
        })
    }
}

impl Iterator for Records {
    type Item = anyhow::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.line() {
            Ok(Some(line)) => Some(self.record(line)),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

fn columns(line: &[u8]) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(line);
    let first = reader
        .byte_records()
        .next()
        .and_then(Result::ok)
        .unwrap_or_default();
    first
        .iter()
        .map(|column| String::from_utf8_lossy(column).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        text: &'static str,
        format: Format,
        key: Option<&str>,
    ) -> Vec<(Option<String>, String)> {
        let records =
            Records::new(Box::new(text.as_bytes()), format, key.map(str::to_owned)).unwrap();
        let record = |record: anyhow::Result<Record>| {
            let record = record.unwrap();
            (
                record.key,
                String::from_utf8(record.event.to_vec()).unwrap(),
            )
        };
        records.map(record).collect()
    }

    #[test]
    fn lines_are_events_without_their_ends() {
        let events = read("one\r\n\ntwo", Format::Lines, None);
        assert_eq!(
            events,
            [
                (None, "one".into()),
                (None, String::new()),
                (None, "two".into())
            ]
        );
    }

    #[test]
    fn csv_records_keep_their_text_and_give_their_key() {
        let events = read("a,b\n1,\"x,\ny\"\n2,z\n", Format::Csv, Some("b"));
        assert_eq!(events[0], (Some("x,\ny".into()), "1,\"x,\ny\"".into()));
        assert_eq!(events[1], (Some("z".into()), "2,z".into()));
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_are_there() {
        let error = Records::new(Box::new("a,b\n".as_bytes()), Format::Csv, Some("c".into()));
        let error = error.err().expect("there is no c").to_string();
        assert!(error.contains("\"c\"") && error.contains("a, b"), "{error}");
    }

    #[test]
    fn json_keys_may_be_text_or_numbers() {
        let events = read("{\"k\":\"v\"}\n{\"k\":7}\n", Format::Json, Some("k"));
        assert_eq!(events[0].0.as_deref(), Some("v"));
        assert_eq!(events[1].0.as_deref(), Some("7"));
    }
}
