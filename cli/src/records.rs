//! Cuts input into events and finds their routing keys: lines, CSV records, lines of JSON.

use std::io::{BufRead as _, BufReader, Read};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use sarit_proto::event::EVENT_MAX;

use crate::args::Format;
use crate::exit::{Exit, Failure};

/// The largest event and the end of its line.
const LINE_BYTES_MAX: usize = EVENT_MAX + 2;
/// What may stand before the first column's name.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An event and its routing key.
pub(crate) struct Record {
    pub(crate) key: Option<String>,
    pub(crate) event: Bytes,
}

/// The events of an input. After an error there is no way to go on.
pub(crate) struct Records {
    input: BufReader<Box<dyn Read>>,
    format: Format,
    /// Column number for CSV, field name for JSON.
    key: Option<Key>,
    /// Lines read.
    lines: u64,
    /// The line in which the last record began, from 1.
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
            lines: 0,
            line: 0,
        };
        records.key = match (format, key) {
            (Format::Csv, key) => {
                let header = records.text()?.unwrap_or_default();
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

    /// The next event's text. Between CSV records lines may be empty.
    fn text(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            match self.line()? {
                Some(line) if line.is_empty() && self.format == Format::Csv => {}
                line => return Ok(line),
            }
        }
    }

    /// The next line without its end; a quoted CSV field may hold line ends.
    fn line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let (mut line, mut place) = (Vec::new(), Place::default());
        self.line = self.lines + 1;
        loop {
            let begun = line.len();
            let most = (LINE_BYTES_MAX - begun) as u64;
            let read = self.input.by_ref().take(most).read_until(b'\n', &mut line);
            let piece = read?;
            self.lines += 1;
            if self.format == Format::Csv {
                place = place.behind(&line[begun..]);
            }
            let ended = piece > 0 && line.ends_with(b"\n");
            if ended && place != Place::Quoted {
                break;
            }
            if line.len() == LINE_BYTES_MAX {
                return Err(self.too_large());
            }
            if !ended {
                ensure!(
                    place != Place::Quoted,
                    "line {}: a quote opens a field of this record and none closes it",
                    self.line
                );
                if line.is_empty() {
                    return Ok(None);
                }
                break;
            }
        }
        for end in [b'\n', b'\r'] {
            if line.last() == Some(&end) {
                line.pop();
            }
        }
        if line.len() > EVENT_MAX {
            return Err(self.too_large());
        }
        Ok(Some(line))
    }

    fn too_large(&self) -> anyhow::Error {
        anyhow::anyhow!("line {}: an event has at most {EVENT_MAX} bytes", self.line)
    }

    fn record(&self, line: Vec<u8>) -> anyhow::Result<Record> {
        let key = match &self.key {
            None => None,
            Some(Key::Column(at)) => {
                let mut columns = columns(&line);
                let there = *at < columns.len();
                ensure!(there, "line {}: only {} columns", self.line, columns.len());
                Some(columns.swap_remove(*at))
            }
            Some(Key::Field(name)) => {
                let value: serde_json::Value =
                    serde_json::from_slice(&line).with_context(|| format!("line {}", self.line))?;
                match &value[name] {
                    serde_json::Value::String(text) => Some(text.clone()),
                    serde_json::Value::Null => bail!("line {}: no field {name:?}", self.line),
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
        match self.text() {
            Ok(Some(line)) => Some(self.record(line)),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// How far a CSV record has been looked through. [`columns`] takes quotes by the same rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before a field. Only here does a quote open it.
    #[default]
    Before,
    /// In a field without quotes, or behind the one that closed it.
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: it has closed, or is half of a doubled quote.
    Quote,
}

impl Place {
    /// The place behind a further piece of the record.
    fn behind(self, piece: &[u8]) -> Self {
        let piece = piece.strip_prefix(BYTE_ORDER_MARK).unwrap_or(piece);
        piece.iter().fold(self, |place, byte| match (place, byte) {
            (Self::Before | Self::Quote, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) => Self::Quoted,
            (_, b',') => Self::Before,
            _ => Self::Plain,
        })
    }
}

fn columns(line: &[u8]) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        // A carriage return within a line is data, as where lines are cut.
        .terminator(csv::Terminator::Any(b'\n'))
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
        let key = key.map(str::to_owned);
        let records = Records::new(Box::new(text.as_bytes()), format, key).unwrap();
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

    #[test]
    fn a_quote_counts_only_where_a_field_begins() {
        let events = read("a,b\n5\" disk,x\n6\" disk,y\n", Format::Csv, Some("b"));
        assert_eq!(events[0], (Some("x".into()), "5\" disk,x".into()));
        assert_eq!(events[1], (Some("y".into()), "6\" disk,y".into()));
        let marked = read("\u{feff}\"a\",\"b\nc\"\n1,2\n", Format::Csv, Some("a"));
        assert_eq!(marked, [(Some("1".into()), "1,2".into())]);
    }

    #[test]
    fn empty_lines_are_no_csv_records() {
        let events = read("\na\n\r\n1\n\n", Format::Csv, Some("a"));
        assert_eq!(events, [(Some("1".into()), "1".into())]);
    }

    /// The records that the csv crate finds in a text; `None` if a field is left open.
    fn by_the_crate(text: &str) -> Option<Vec<Vec<String>>> {
        let text = format!("{text}\nend");
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(text.as_bytes());
        let records = reader.records().map(|record| {
            let record = record.expect("UTF-8");
            record.iter().map(str::to_owned).collect()
        });
        let mut records: Vec<Vec<String>> = records.collect();
        (records.pop()? == ["end"]).then_some(records)
    }

    #[test]
    fn records_are_cut_as_the_csv_crate_cuts_them() {
        for number in 0..4_u32.pow(6) {
            let letters =
                (0..6).map(|at| ["\"", ",", "\n", "x"][(number >> (2 * at) & 3) as usize]);
            let text: String = letters.collect();
            let input = format!("header\n{text}");
            let records = Records::new(Box::new(std::io::Cursor::new(input)), Format::Csv, None);
            let cut = records.expect("a header").map(|record| {
                let event = record.ok()?.event;
                Some(columns(&event))
            });
            let cut: Option<Vec<_>> = cut.collect();
            assert_eq!(cut, by_the_crate(&text), "{text:?}");
        }
    }

    /// Reads up to the first error.
    fn fail(input: impl Read + 'static, format: Format) -> String {
        let mut records = Records::new(Box::new(input), format, None).expect("a header");
        let error = records.find_map(Result::err);
        format!("{:#}", error.expect("it is refused"))
    }

    #[test]
    fn a_field_that_is_left_open_is_refused_by_its_first_line() {
        let error = fail("a,b\n1,2\n3,\"x\n4,5\n".as_bytes(), Format::Csv);
        assert!(error.starts_with("line 3: a quote opens"), "{error}");
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_kept() {
        for format in [Format::Lines, Format::Json, Format::Csv] {
            let input = "one\n".as_bytes().chain(std::io::repeat(b'x'));
            let error = fail(input, format);
            assert!(error.starts_with("line 2: an event has"), "{error}");
        }
        let lines = std::io::repeat(b'\n').take(LINE_BYTES_MAX as u64);
        let error = fail("a\n1\n\"".as_bytes().chain(lines), Format::Csv);
        assert!(error.starts_with("line 3: an event has"), "{error}");
    }

    #[test]
    fn the_largest_event_may_end_its_line_in_every_way() {
        for end in ["", "\n", "\r\n"] {
            let largest = std::io::repeat(b'x').take(EVENT_MAX as u64);
            let input = Box::new(largest.chain(end.as_bytes()));
            let mut records = Records::new(input, Format::Lines, None).expect("lines");
            let event = records.next().expect("it").expect("it is taken").event;
            assert_eq!(event.len(), EVENT_MAX);
            assert!(records.next().is_none());
            let larger = std::io::repeat(b'x').take(EVENT_MAX as u64 + 1);
            fail(larger.chain(end.as_bytes()), Format::Lines);
        }
    }
}
