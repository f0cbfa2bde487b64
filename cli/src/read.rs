//! `sarit read`: a stream's events to standard output.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sarit_client::Error;
use sarit_client::event::{From, ReadEvent, Until};
use serde_json::{Value, json};

use crate::admin::{cut, stream_name};
use crate::args::ReadArgs;
use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::{self, complain};

/// Output is flushed when this many bytes wait, and whenever the reader has nothing more at hand.
const OUTPUT_BYTES: usize = 64 << 10;

/// Runs `sarit read`.
pub(crate) async fn run(args: ReadArgs) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    let client = connect(&args.client.controller)?;
    let from = match args.from.as_str() {
        "head" => From::Head,
        "tail" => From::Tail,
        text => From::Cut(cut(&client, &stream, text).await?),
    };
    let until = if args.follow {
        Until::Sealed
    } else {
        Until::Tail
    };
    let mut reader = client.event_reader(&stream, from, until).await?;
    let missed = copy(async || reader.next().await, &args, output::print).await?;
    if missed {
        let message = "the stream was truncated while it was read; begin at `--from head` to read what is there";
        return Err(Failure::error(Exit::WrongState, message));
    }
    Ok(())
}

/// Prints events until there are no more. What came before an error is printed before it is returned.
/// Returns whether there were gaps. `next` must be cancel-safe.
async fn copy(
    mut next: impl AsyncFnMut() -> Result<Option<ReadEvent>, Error>,
    args: &ReadArgs,
    mut print: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let (mut output, mut left) = (Vec::new(), args.limit.unwrap_or(u64::MAX));
    let mut missed = false;
    while left > 0 {
        let found = tokio::select! {
            biased;
            found = next() => Some(found),
            // Only when no event is at hand: what was read is not held back.
            () = std::future::ready(()), if !output.is_empty() => None,
        };
        match found {
            Some(Ok(Some(event))) => {
                left -= 1;
                show(&event, args.client.json, &mut output)?;
                if output.len() < OUTPUT_BYTES {
                    continue;
                }
            }
            Some(Ok(None)) => break,
            Some(Err(gap @ (Error::SegmentTruncated { .. } | Error::SegmentGone { .. }))) => {
                print(&std::mem::take(&mut output))?;
                complain(format_args!("sarit: events may have been missed: {gap}"));
                missed = true;
            }
            Some(Err(error)) => {
                print(&output)?;
                return Err(error.into());
            }
            None => {}
        }
        print(&output)?;
        output.clear();
    }
    print(&output)?;
    Ok(missed)
}

fn show(event: &ReadEvent, json: bool, output: &mut Vec<u8>) -> std::io::Result<()> {
    if !json {
        output.extend_from_slice(&event.payload);
        output.push(b'\n');
        return Ok(());
    }
    let mut line = json!({ "segment": event.segment.to_string(), "offset": event.offset.0 });
    match std::str::from_utf8(&event.payload) {
        Ok(text) => line["event"] = Value::from(text),
        Err(_) => line["event_base64"] = Value::from(STANDARD.encode(&event.payload)),
    }
    writeln!(output, "{line}")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use sarit_proto::ids::{Offset, SegmentId};

    use super::*;
    use crate::args::{Cli, Command};

    fn event(payload: &'static str) -> Result<Option<ReadEvent>, Error> {
        Ok(Some(ReadEvent {
            segment: SegmentId::new(0, 0),
            offset: Offset(0),
            payload: payload.into(),
        }))
    }

    /// Copies what `found` has, and returns what was printed as well.
    async fn copied(
        found: Vec<Result<Option<ReadEvent>, Error>>,
    ) -> (anyhow::Result<bool>, Vec<u8>) {
        let Command::Read(args) = Cli::parse_from(["sarit", "read", "s/t"]).command else {
            panic!("it is `read`");
        };
        let (mut found, mut printed) = (found.into_iter(), Vec::new());
        let next = async || found.next().expect("it ends before");
        let print = |bytes: &[u8]| {
            printed.extend_from_slice(bytes);
            Ok(())
        };
        let result = copy(next, &args, print).await;
        (result, printed)
    }

    #[tokio::test]
    async fn what_was_read_is_printed_before_an_error_ends_it() {
        let error = Err(Error::NoSuchSegment("s/t/0.#epoch.0".to_owned()));
        let (result, printed) = copied(vec![event("one"), event("two"), error]).await;
        assert_eq!(printed, b"one\ntwo\n");
        assert!(result.is_err());
    }

    #[tokio::test]
    async fn events_are_printed_once_on_both_sides_of_a_gap() {
        let gap = Err(Error::SegmentGone {
            segment: "s/t/0.#epoch.0".to_owned(),
            offset: 11,
        });
        let (result, printed) = copied(vec![event("one"), gap, event("two"), Ok(None)]).await;
        assert_eq!(printed, b"one\ntwo\n");
        assert!(result.expect("it ends"), "a gap is told");
    }
}
