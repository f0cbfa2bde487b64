//! Bytes that other implementations made, read and written to the last bit: `golden/vectors.txt`.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use sarit_proto::event;
use sarit_proto::hash::{key_position, table_key_position};
use sarit_proto::ids::WriterId;
use sarit_proto::stream_cut::StreamCut;
use sarit_proto::wire::append::join;
use sarit_proto::wire::command::*;
use sarit_proto::wire::field::{
    EventFrame, Field as _, IteratorArgs, MergedSource, TableEntry, TableKey, TableValue,
};
use sarit_proto::wire::{Command, Encoder, FrameDecoder, Reply, reply};

const FILE: &str = include_str!("golden/vectors.txt");
const WRITER: WriterId = WriterId(0x00112233_44556677_8899aabb_ccddeeff);
const FLOW_1: i64 = 1 << 32;
const FLOW_2: i64 = 2 << 32;

/// Lines of the file as words; the first is the name.
fn lines() -> impl Iterator<Item = Vec<&'static str>> {
    let lines = FILE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split(' ').collect())
}

fn hex(text: &str) -> Bytes {
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
        .collect()
}

fn vector(name: &str) -> Bytes {
    let mut found = lines().filter(|line| line[0] == name);
    hex(found.next().unwrap_or_else(|| panic!("no vector {name}"))[1])
}

fn segment() -> String {
    "scope/stream/0.#epoch.0".to_owned()
}

fn table() -> String {
    "scope/table_kvtable/0.#epoch.0".to_owned()
}

fn none() -> String {
    String::new()
}

fn hello() -> Bytes {
    let mut out = BytesMut::new();
    event::put_event(&mut out, b"hello").expect("small");
    out.freeze()
}

fn key(version: i64) -> TableKey {
    TableKey {
        key: Bytes::from_static(b"k1"),
        version,
    }
}

fn append_end(data: Bytes) -> AppendBlockEnd {
    AppendBlockEnd {
        writer_id: WRITER,
        size_of_whole_events: 13,
        data: data.into(),
        num_events: 1,
        last_event_number: 1,
        request_id: FLOW_1,
    }
}

/// Every vector that is one command, with its value. Names with `r-` lack optional fields at the end.
fn commands() -> Vec<(&'static str, Command)> {
    let hello_of = |high_version| {
        Hello {
            high_version,
            low_version: 5,
        }
        .into()
    };
    let create = CreateSegment {
        request_id: 1,
        segment: segment(),
        target_rate: 0,
        scale_type: 0,
        token: none(),
        rollover_size: 0,
    };
    let merge = MergeSegments {
        request_id: 1,
        target: segment(),
        source: "src".to_owned(),
        token: none(),
        attribute_updates: Vec::new(),
    };
    let read_keys = |args| ReadTableKeys {
        request_id: 9,
        segment: table(),
        token: none(),
        suggested_count: 10,
        args,
    };
    let bounds = IteratorArgs {
        from_key: Bytes::from_static(&[0, 0]),
        to_key: Bytes::from_static(&[0xff, 0xff]),
        ..IteratorArgs::default()
    };
    vec![
        ("hello-17", hello_of(17)),
        ("hello-15", hello_of(15)),
        ("keep-alive", KeepAlive {}.into()),
        (
            "setup-append",
            SetupAppend {
                request_id: FLOW_1,
                writer_id: WRITER,
                segment: segment(),
                token: none(),
            }
            .into(),
        ),
        ("r-append", append_end(hello()).into()),
        (
            "conditional-append",
            ConditionalAppend {
                writer_id: WRITER,
                event_number: 1,
                expected_offset: 0,
                event: EventFrame(hello()),
                request_id: FLOW_1 + 2,
            }
            .into(),
        ),
        (
            "conditional-block-end",
            ConditionalBlockEnd {
                writer_id: WRITER,
                event_number: 0,
                expected_offset: 0,
                data: hello(),
                request_id: 3,
            }
            .into(),
        ),
        (
            "read-segment",
            ReadSegment {
                segment: segment(),
                offset: 0,
                suggested_length: 1 << 20,
                token: none(),
                request_id: FLOW_2,
            }
            .into(),
        ),
        (
            "locate-offset",
            LocateOffset {
                request_id: 1,
                segment: segment(),
                target_offset: 100,
                token: none(),
            }
            .into(),
        ),
        ("create-segment", create.clone().into()),
        ("r-create-segment", create.into()),
        ("merge-segments", merge.clone().into()),
        ("r-merge-segments", merge.into()),
        (
            "merge-segments-batch",
            MergeSegmentsBatch {
                request_id: 1,
                target: segment(),
                sources: vec!["a".to_owned(), "b".to_owned()],
                token: none(),
            }
            .into(),
        ),
        (
            "create-table-segment",
            CreateTableSegment {
                request_id: 1,
                segment: table(),
                token: none(),
                sorted: false,
                key_length: 8,
                rollover_size: 0,
            }
            .into(),
        ),
        (
            "update-table-entries",
            UpdateTableEntries {
                request_id: 7,
                segment: table(),
                token: none(),
                entries: vec![TableEntry {
                    key: key(TableKey::NOT_EXISTS),
                    value: TableValue(Bytes::from_static(b"v")),
                }],
                expected_length: -1,
            }
            .into(),
        ),
        (
            "remove-table-keys",
            RemoveTableKeys {
                request_id: 8,
                segment: table(),
                token: none(),
                keys: vec![key(TableKey::NO_VERSION)],
                expected_length: -1,
            }
            .into(),
        ),
        ("read-table-keys", read_keys(bounds).into()),
        (
            "r-read-table-keys",
            read_keys(IteratorArgs::default()).into(),
        ),
    ]
}

/// Every vector that is one reply, with its value.
fn replies() -> Vec<(&'static str, Reply)> {
    let read = |offset, end_of_segment, data| reply::SegmentRead {
        segment: segment(),
        offset,
        at_tail: false,
        end_of_segment,
        data,
        request_id: FLOW_2,
    };
    let merged = |source: &str, target_length| MergedSource {
        source: source.to_owned(),
        target_length,
    };
    vec![
        (
            "hello-17",
            reply::Hello {
                high_version: 17,
                low_version: 5,
            }
            .into(),
        ),
        ("keep-alive", reply::KeepAlive {}.into()),
        (
            "append-setup",
            reply::AppendSetup {
                request_id: FLOW_1,
                segment: segment(),
                writer_id: WRITER,
                last_event_number: i64::MIN,
            }
            .into(),
        ),
        (
            "data-appended",
            reply::DataAppended {
                writer_id: WRITER,
                event_number: 1,
                previous_event_number: i64::MIN,
                request_id: FLOW_1,
                current_segment_write_offset: 13,
            }
            .into(),
        ),
        (
            "conditional-check-failed",
            reply::ConditionalCheckFailed {
                writer_id: WRITER,
                event_number: 1,
                request_id: FLOW_1 + 2,
            }
            .into(),
        ),
        ("segment-read", read(0, false, hello()).into()),
        ("segment-read-end", read(13, true, Bytes::new()).into()),
        (
            "offset-located",
            reply::OffsetLocated {
                request_id: 1,
                segment: segment(),
                offset: 120,
            }
            .into(),
        ),
        (
            "segment-created",
            reply::SegmentCreated {
                request_id: 1,
                segment: segment(),
            }
            .into(),
        ),
        (
            "segments-batch-merged",
            reply::SegmentsBatchMerged {
                request_id: 1,
                target: segment(),
                merged: vec![merged("a", 10), merged("b", 20)],
            }
            .into(),
        ),
        (
            "no-such-segment",
            reply::NoSuchSegment {
                request_id: 1,
                segment: segment(),
                stack_trace: none(),
                offset: -1,
            }
            .into(),
        ),
        (
            "wrong-host",
            reply::WrongHost {
                request_id: 1,
                segment: segment(),
                correct_host: none(),
                stack_trace: none(),
            }
            .into(),
        ),
        (
            "segment-is-sealed",
            reply::SegmentIsSealed {
                request_id: FLOW_1,
                segment: segment(),
                stack_trace: none(),
                offset: 2,
            }
            .into(),
        ),
        (
            "invalid-event-number",
            reply::InvalidEventNumber {
                writer_id: WRITER,
                request_id: FLOW_1,
                stack_trace: none(),
                event_number: 7,
            }
            .into(),
        ),
        (
            "auth-token-check-failed",
            reply::AuthTokenCheckFailed {
                request_id: 1,
                stack_trace: none(),
                error_code: 1,
            }
            .into(),
        ),
        (
            "error-message",
            reply::ErrorMessage {
                request_id: 1,
                segment: segment(),
                message: "bad".to_owned(),
                error_code: 0,
            }
            .into(),
        ),
        (
            "table-entries-updated",
            reply::TableEntriesUpdated {
                request_id: 7,
                versions: vec![0],
            }
            .into(),
        ),
        (
            "table-read",
            reply::TableRead {
                request_id: 9,
                segment: table(),
                entries: vec![TableEntry {
                    key: key(TableKey::NOT_EXISTS),
                    value: TableValue::default(),
                }],
            }
            .into(),
        ),
        (
            "table-segment-info",
            reply::TableSegmentInfo {
                request_id: 1,
                segment: table(),
                start_offset: 0,
                length: 100,
                entry_count: 3,
                key_length: 8,
            }
            .into(),
        ),
    ]
}

/// Every append block: bytes stored, number of its last event.
const BLOCKS: [(&str, usize, i64); 5] = [
    ("block-one-event", 1, 1),
    ("block-split-event", 2, 2),
    ("block-split-event-fits", 2, 2),
    ("block-padded", 1, 1),
    ("block-empty", 0, 1),
];

fn decode_commands(bytes: &Bytes) -> Vec<Command> {
    let mut buffer = BytesMut::from(&bytes[..]);
    let mut commands = Vec::new();
    while let Some(frame) = FrameDecoder::next(&mut buffer).expect("a frame") {
        commands.push(Command::decode(frame).expect("a command"));
    }
    assert!(buffer.is_empty());
    commands
}

#[test]
fn commands_are_read_and_written_as_other_implementations_do() {
    for (name, command) in commands() {
        let bytes = vector(name);
        assert_eq!(
            decode_commands(&bytes),
            std::slice::from_ref(&command),
            "{name}"
        );
        // What the Rust client leaves out, and nothing else, it leaves out at the end.
        let left_out = command.encoded_len() - bytes.len();
        assert_eq!(
            left_out > 0,
            name.starts_with("r-") && name != "r-append",
            "{name}"
        );
        let mut out = Encoder::default();
        command.encode(&mut out);
        let written = out.take();
        let (code, payload) = (
            [&written[..4], &bytes[..4]],
            [&written[8..bytes.len()], &bytes[8..]],
        );
        assert_eq!((code[0], payload[0]), (code[1], payload[1]), "{name}");
        assert!(
            written[bytes.len()..].iter().all(|byte| *byte == 0),
            "{name}"
        );
        if left_out == 0 {
            assert_eq!(written, bytes, "{name}");
        }
    }
}

#[test]
fn replies_are_read_and_written_as_other_implementations_do() {
    for (name, reply) in replies() {
        let bytes = vector(name);
        let mut out = Encoder::default();
        reply.encode(&mut out);
        assert_eq!(out.take(), bytes, "{name}");
        let mut buffer = BytesMut::from(&bytes[..]);
        let frame = FrameDecoder::next(&mut buffer)
            .expect("a frame")
            .expect("whole");
        assert_eq!(Reply::decode(frame), Ok(reply), "{name}");
    }
}

#[test]
fn append_blocks_hold_whole_events_however_they_are_split() {
    for (name, events, last) in BLOCKS {
        let bytes = vector(name);
        let commands = decode_commands(&bytes);
        let [
            Command::AppendBlock(block),
            Command::AppendBlockEnd(end),
            ..,
        ] = &commands[..]
        else {
            panic!("{name}: {commands:?}");
        };
        let append = join(Some(block.clone()), end.clone()).expect(name);
        assert_eq!(
            append.pieces().flatten().copied().collect::<Vec<_>>(),
            hello().repeat(events),
            "{name}"
        );
        assert_eq!(end.last_event_number, last, "{name}");
        let mut out = Encoder::default();
        commands.iter().for_each(|command| command.encode(&mut out));
        assert_eq!(out.take(), bytes, "{name}");
    }
}

#[test]
fn an_event_has_the_header_of_every_client() {
    assert_eq!(hello(), vector("event-hello"));
}

#[test]
fn keys_land_where_the_official_client_puts_them() {
    let mut checked = 0;
    for line in lines() {
        let [name @ ("route" | "table-route"), key, bits] = line[..] else {
            continue;
        };
        let key = if key == "-" { Bytes::new() } else { hex(key) };
        let position = match name {
            "route" => key_position(std::str::from_utf8(&key).expect("text")),
            _ => table_key_position(&key),
        };
        let bits = u64::from_str_radix(bits, 16).expect("hex");
        assert_eq!(position.to_f64().to_bits(), bits, "{name} {key:?}");
        checked += 1;
    }
    assert_eq!(checked, 11);
}

#[test]
fn a_string_has_the_form_of_java() {
    let text = "\0é😀".to_owned();
    let mut bytes = vector("string-nul-e-acute-emoji");
    assert_eq!(text.size(), bytes.len());
    assert_eq!(String::get(&mut bytes), Ok(text));
}

#[test]
fn a_stream_cut_has_the_bytes_of_the_official_client() {
    let stream = "scope/stream".parse().expect("a stream");
    let cut = StreamCut::from_raw(stream, [(0, 100), (1 << 32 | 2, -1)]).expect("a cut");
    let bytes = vector("stream-cut");
    assert_eq!(cut.to_bytes().as_deref(), Ok(&bytes[..]));
    assert_eq!(StreamCut::from_bytes(&bytes), Ok(Some(cut)));
}

#[test]
fn every_vector_is_checked() {
    let others = [
        "event-hello",
        "route",
        "table-route",
        "string-nul-e-acute-emoji",
        "stream-cut",
    ];
    let checked: BTreeSet<&str> = (commands().into_iter().map(|(name, _)| name))
        .chain(replies().into_iter().map(|(name, _)| name))
        .chain(BLOCKS.map(|(name, ..)| name))
        .chain(others)
        .collect();
    let there: BTreeSet<&str> = lines().map(|line| line[0]).collect();
    assert_eq!(checked, there);
}
