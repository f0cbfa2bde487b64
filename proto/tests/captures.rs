//! What official clients and the official server said to each other, read without rest and written
//! back to the same bytes: `golden/captures`, see the README there.
#![allow(clippy::disallowed_methods, reason = "the recordings are files")]

use bytes::{Bytes, BytesMut};
use sarit_proto::wire::{Command, Encoder, Error, FrameDecoder, RawFrame, Reply};

/// Where the Rust client, and with it the Python one, leaves out optional fields at a frame's end; hand-made
/// frames do it too.
const CUT_SHORT: [&str; 5] = [
    "CreateSegment",
    "CreateTableSegment",
    "MergeSegments",
    "ReadTableKeys",
    "ReadTableEntries",
];

/// One line of a recording.
struct Line<'a> {
    /// File and line.
    place: String,
    from_client: bool,
    name: &'a str,
    bytes: Bytes,
}

fn each_line(mut check: impl FnMut(&Line<'_>)) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/captures");
    let files = std::fs::read_dir(folder).expect("the folder");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    for file in files {
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if name == "README.md" || name.starts_with("grpc-") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("text");
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.trim_end_matches(" *").split(' ').collect();
            let [_, direction @ ("C>S" | "S>C"), command, hex] = words[..] else {
                assert!(is_no_frame(line), "{name}: {line}");
                continue;
            };
            if hex.contains("...(") {
                continue;
            }
            check(&Line {
                place: format!("{name}, line {}, {command}", number + 1),
                from_client: direction == "C>S",
                name: command,
                bytes: decode_hex(hex),
            });
        }
    }
}

/// Comments, outcomes, and frames that are not there as a whole.
fn is_no_frame(line: &str) -> bool {
    line.is_empty()
        || line.starts_with('#')
        || ["(connection closed", "(no reply", "...("]
            .iter()
            .any(|text| line.contains(text))
}

fn decode_hex(text: &str) -> Bytes {
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
        .collect()
}

fn frames(bytes: &Bytes) -> Result<Vec<RawFrame>, Error> {
    let mut buffer = BytesMut::from(&bytes[..]);
    let mut frames = Vec::new();
    while let Some(frame) = FrameDecoder::next(&mut buffer)? {
        frames.push(frame);
    }
    assert!(buffer.is_empty(), "bytes behind the last frame");
    Ok(frames)
}

/// Name of the frame, and its bytes as we write them.
fn rewritten(line: &Line<'_>, frame: RawFrame) -> Result<(&'static str, Bytes), Error> {
    let mut out = Encoder::default();
    let name = if line.from_client {
        let command = Command::decode(frame)?;
        command.encode(&mut out);
        command.name()
    } else {
        let reply = Reply::decode(frame)?;
        reply.encode(&mut out);
        reply.name()
    };
    Ok((name, out.take()))
}

#[test]
fn every_recorded_frame_is_read_without_rest_and_written_back() {
    let (mut same, mut short, mut refused) = (0, 0, Vec::new());
    each_line(|line| {
        let result = frames(&line.bytes).and_then(|frames| {
            let frames = frames.into_iter().map(|frame| rewritten(line, frame));
            frames.collect::<Result<Vec<_>, _>>()
        });
        let frames = match result {
            Ok(frames) => frames,
            Err(error) => return refused.push(format!("{}: {error}", line.name)),
        };
        let written: Vec<u8> = frames
            .iter()
            .flat_map(|(_, bytes)| bytes.to_vec())
            .collect();
        if let [(name, _)] = frames[..] {
            // In `errors.txt`, "+3" says that 3 surplus bytes were sent.
            let (recorded, surplus) = line.name.split_once('+').unwrap_or((line.name, "0"));
            assert_eq!(name, recorded, "{}", line.place);
            let surplus: usize = surplus.parse().expect("a number");
            if surplus > 0 {
                assert_eq!(
                    written[8..],
                    line.bytes[8..line.bytes.len() - surplus],
                    "{}",
                    line.place
                );
                return;
            }
        }
        if written == line.bytes {
            same += 1;
            return;
        }
        assert!(
            CUT_SHORT.contains(&line.name),
            "{}: {written:02x?}",
            line.place
        );
        assert!(written[8..].starts_with(&line.bytes[8..]), "{}", line.place);
        assert!(
            written[line.bytes.len()..].iter().all(|byte| *byte == 0),
            "{}",
            line.place
        );
        short += 1;
    });
    assert_eq!((same, short), (4074, 24));
    assert_eq!(
        refused,
        [
            "unknown-12345: unknown frame type 12345",
            "len--1: frame of type 9 claims -1 bytes, at most 16777207 are allowed",
            "len-16M: frame of type 9 claims 16777216 bytes, at most 16777207 are allowed",
            "Event: unknown frame type 0",
            "SegmentCreated: unknown frame type 21",
        ],
        "what the official server closes the connection for"
    );
}
