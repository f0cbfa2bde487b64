use proptest::prelude::*;
use sarit_proto::ids::WriterId;

use super::*;
use crate::pipeline::frame::{Append, Filling};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn append(
    sid: u64,
    offset: u64,
    writer: u128,
    number: i64,
    data: &'static [&'static [u8]],
) -> Append {
    Append {
        sid: Sid(sid),
        offset,
        writer: WriterId(writer),
        last_event_number: number,
        events: 2,
        data: data
            .iter()
            .map(|piece| bytes::Bytes::from_static(piece))
            .collect(),
    }
}

/// A frame with every kind of record.
fn body() -> Vec<u8> {
    let mut encoded = BytesMut::new();
    encode_attributes(&mut encoded, [(AttributeId(0xA), -1)]);
    let attributes = Attributes::new(&encoded);
    let mut changes = BytesMut::new();
    for (key, value) in [(&b"k"[..], Some(&b"vw"[..])), (&b"l"[..], None)] {
        Change { key, value }.encode(&mut changes);
    }
    let kind = Kind::Table { key_length: 5 };
    let (sid, name, start) = (Sid(9), "näme", 4);
    let changes = Changes::new(&changes, 2);
    let mut runs = BytesMut::new();
    for (offset, position) in [(6, 0), (70, 64)] {
        let length = 5;
        let run = PlacedRun {
            sid,
            offset,
            position,
            length,
        };
        run.encode(&mut runs);
    }
    let placed = Placed::new(PackId::new(2, 3).expect("small"), 201, &runs);
    let mut filling = Filling::default();
    let mut record = |operation: Operation<'_>| filling.record(false, |out| operation.encode(out));
    record(Operation::Create {
        sid,
        kind,
        name,
        attributes,
    });
    record(Operation::TableUpdate {
        sid,
        base: 3,
        changes,
    });
    record(Operation::SetAttributes { sid, attributes });
    filling.append(append(8, 5, 0xB, 1, &[b"he", b"llo"]));
    filling.append(append(7, 0, 0xB, 1, &[b"x"]));
    filling.append(append(8, 10, 0xC, 7, &[b"you"]));
    filling.append(append(8, 13, 0xB, 2, &[]));
    for operation in [
        Operation::Seal { sid },
        Operation::Truncate { sid, start },
        Operation::Delete { sid },
        Operation::FlushCommit(placed),
        Operation::Compact(placed),
        Operation::CheckpointEnd {
            frame: 9,
            next_seq: 5,
        },
    ] {
        filling.record(false, |out| operation.encode(out));
    }
    let mut sources = BytesMut::new();
    for (sid, length, one_event) in [(7, 1, false), (8, 8, true)] {
        Source {
            sid: Sid(sid),
            length,
            one_event,
        }
        .encode(&mut sources);
    }
    let merge = Operation::Merge {
        sid,
        base: 13,
        attributes,
        sources: Sources::new(&sources),
    };
    filling.record(false, |out| merge.encode(out));
    let (mut builder, operations) = filling.build(0x0102, sarit_wal::FrameBuilder::with_capacity);
    assert_eq!(operations, 14);
    builder.body().to_vec()
}

#[test]
fn the_bytes_are_those_described() {
    let id = |id: &str| format!("{id}{}", "0".repeat(30));
    let sid = "0900000000000000";
    let minus_one = "ffffffffffffffff";
    let placed = |code: &str| {
        let head = format!("{code}000000480000000300000002000000c900000000000000");
        let first = format!("{sid}06000000000000000000000005000000");
        let second = format!("{sid}46000000000000004000000005000000");
        format!("{head}0200000000000000{first}{second}")
    };
    let golden = [
        // Version and time.
        "01000000000000000201000000000000".to_owned(),
        // Create: kind, key length, name length, attribute, name.
        format!(
            "020001002d000000{sid}0100050005000000{}{minus_one}6ec3a46d65",
            id("0a")
        ),
        // Table update: base, count, two changes.
        format!("070000002c000000{sid}03000000000000000200000000000000"),
        "00000100020000006b7677".to_owned(),
        "01000100000000006c".to_owned(),
        format!("0600010020000000{sid}{}{minus_one}", id("0a")),
        // Append: offset, events, data length, writers, data.
        "01000100310000000700000000000000000000000000000002000000".to_owned() + "01000000",
        format!("{}010000000000000078", id("0b")),
        "01000200500000000800000000000000050000000000000006000000".to_owned() + "08000000",
        format!("{}0200000000000000{}0700000000000000", id("0b"), id("0c")),
        "68656c6c6f796f75".to_owned(),
        format!("0300000008000000{sid}"),
        format!("0400000010000000{sid}0400000000000000"),
        format!("0500000008000000{sid}"),
        // Flush commit, then compact: pack, length of the object, two runs.
        placed("08"),
        placed("09"),
        // Checkpoint end: the frame, the number of the operation behind it.
        format!("0a00000010000000{sid}0500000000000000"),
        // Merge: length before, number of sources, attribute, sources.
        format!("0b00010060000000{sid}0d000000000000000200000000000000"),
        format!("{}{minus_one}", id("0a")),
        "070000000000000001000000000000000000000000000000".to_owned(),
        "080000000000000008000000000000000100000000000000".to_owned(),
    ];
    assert_eq!(hex(&body()), golden.concat());
}

#[test]
fn what_was_written_is_read() {
    let body = body();
    let records = Records::new(&body).unwrap();
    assert_eq!(records.time_ms, 0x0102);
    let records: Vec<_> = records.map(Result::unwrap).collect();
    assert_eq!(records.len(), 12);
    let sid = Sid(9);
    assert!(matches!(
        records[0],
        Operation::Create { name: "näme", kind: Kind::Table { key_length: 5 }, attributes, .. }
            if attributes.iter().eq([(AttributeId(0xA), -1)])
    ));
    let Operation::TableUpdate { changes, base, .. } = records[1] else {
        panic!("{:?}", records[1]);
    };
    let changes: Vec<_> = changes.iter().collect();
    assert_eq!((base, changes.len()), (3, 2));
    assert_eq!(
        (changes[0].value, changes[1].value),
        (Some(&b"vw"[..]), None)
    );
    let Operation::Append(run) = records[4] else {
        panic!("{:?}", records[4]);
    };
    let (from, to) = (run.position as usize, (run.position + run.length) as usize);
    assert_eq!((run.sid, run.offset, run.events), (Sid(8), 5, 6));
    assert_eq!(body[from..to], b"helloyou"[..]);
    assert_eq!(records[7], Operation::Delete { sid });
    let Operation::FlushCommit(placed) = records[8] else {
        panic!("{:?}", records[8]);
    };
    assert_eq!(
        (placed.pack, placed.size),
        (PackId::new(2, 3).unwrap(), 201)
    );
    let runs: Vec<_> = placed
        .runs()
        .map(|run| (run.offset, run.position))
        .collect();
    assert_eq!(runs, [(6, 0), (70, 64)]);
    assert_eq!(records[9], Operation::Compact(placed));
    let Operation::Merge { base, sources, .. } = records[11] else {
        panic!("{:?}", records[11]);
    };
    let sources: Vec<_> = sources.iter().collect();
    assert_eq!((base, sources.len()), (13, 2));
    assert_eq!((sources[1].sid, sources[1].one_event), (Sid(8), true));
}

#[test]
fn a_newer_version_is_refused() {
    let mut body = body();
    body[0] = 2;
    assert!(Records::new(&body).is_err());
}

proptest! {
    #[test]
    fn garbage_gives_an_error_and_ends(
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = body();
        for (at, byte) in noise {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(cut.index(body.len() + 1));
        if let Ok(records) = Records::new(&body) {
            for operation in records.flatten() {
                if let Operation::TableUpdate { changes, .. } = operation {
                    prop_assert!(changes.iter().count() <= body.len());
                }
            }
        }
    }
}
