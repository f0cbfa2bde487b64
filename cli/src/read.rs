//! `sarit read`: a stream's events to standard output.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sarit_client::Error;
use sarit_client::event::{From, Until};
use serde_json::{Value, json};

use crate::admin::{cut, stream_name};
use crate::args::ReadArgs;
use crate::connect;
use crate::exit::{Exit, Failure};

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
    let (mut output, mut left) = (Vec::new(), args.limit.unwrap_or(u64::MAX));
    let mut missed = false;
    while left > 0 {
        let next = tokio::select! {
            biased;
            next = reader.next() => match next {
                Err(gap @ (Error::SegmentTruncated { .. } | Error::SegmentGone { .. })) => {
                    eprintln!("sarit: events may have been missed: {gap}");
                    missed = true;
                    continue;
                }
                next => next?,
            },
            // Only when no event is at hand: what was read is not held back.
            () = std::future::ready(()), if !output.is_empty() => {
                if !print(&mut output)? {
                    return Ok(());
                }
                continue;
            }
        };
        let Some(event) = next else { break };
        left -= 1;
        if args.client.json {
            let mut line =
                json!({ "segment": event.segment.to_string(), "offset": event.offset.0 });
            match std::str::from_utf8(&event.payload) {
                Ok(text) => line["event"] = Value::from(text),
                Err(_) => line["event_base64"] = Value::from(STANDARD.encode(&event.payload)),
            }
            writeln!(output, "{line}")?;
        } else {
            output.extend_from_slice(&event.payload);
            output.push(b'\n');
        }
        if output.len() >= OUTPUT_BYTES && !print(&mut output)? {
            return Ok(());
        }
    }
    print(&mut output)?;
    if missed {
        let message = "the stream was truncated while it was read; begin at `--from head` to read what is there";
        return Err(Failure::error(Exit::WrongState, message));
    }
    Ok(())
}

/// Writes and empties `output`; false if whoever reads our output has gone, as `| head` does.
fn print(output: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    let result = stdout.write_all(output).and_then(|()| stdout.flush());
    output.clear();
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}
