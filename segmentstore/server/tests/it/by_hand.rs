//! Requests made by hand against the official server, one by one, made again against ours.
//!
//! Most are answered alike. Where the official server closes the connection, or is not to be imitated
//! for another reason, [`OURS`] says what we answer instead.

use std::collections::BTreeSet;

use sarit_proto::wire::{Command, Reply};

use crate::replay::{Line, Play, recording};
use crate::world::append;

/// What we answer instead, by exchange: names of replies, `closed` for the end of the connection.
const OURS: &[(&str, &[&str])] = &[
    // Refused by a reply that the client understands.
    ("LocateOffset on 0.13", &["NoSuchSegment"]),
    (
        "admin FlushToStorage, normal port",
        &["OperationUnsupported"],
    ),
    ("append 2 (older)", &["InvalidEventNumber", "closed"]),
    ("event number -5 after 0", &["InvalidEventNumber", "closed"]),
    ("negative offset", &["ErrorMessage"]),
    ("truncate -1", &["ErrorMessage"]),
    ("append again without setup", &["SegmentIsSealed"]),
    ("read beyond sealed end", &["SegmentRead"]),
    ("create keyLen 300", &["ErrorMessage"]),
    ("create keyLen -1", &["ErrorMessage"]),
    ("table info of a stream segment", &["OperationUnsupported"]),
    ("hash keys bad token", &["ErrorMessage"]),
    ("update stream segment as table", &["OperationUnsupported"]),
    ("delete stream seg as table", &["OperationUnsupported"]),
    ("empty key (total 12, stop)", &["ErrorMessage"]),
    // Dropped and acknowledged, instead of stored twice and never answered.
    ("append 3 again (duplicate)", &["DataAppended"]),
    ("cond same number", &["DataAppended"]),
    // As for an update of a key that is not there.
    ("hash remove absent @5", &["TableKeyDoesNotExist"]),
    // Removing what is not there takes no place in the table.
    ("hash info", &["TableSegmentInfo"]),
    ("hash delta 0", &["TableEntriesDeltaRead"]),
    // Any name can be created, also one that was just deleted.
    ("CreateSegment odd name", &["SegmentCreated"]),
    ("create after delete", &["SegmentCreated"]),
    // The moment of creation, and a type that only the official server gives segments.
    ("core attr 0", &["SegmentAttribute"]),
    ("core attr 9", &["SegmentAttribute"]),
    // Events are counted, merged ones too, a large one as one.
    ("EVENT_COUNT", &["SegmentAttribute"]),
    ("EVENT_COUNT of target", &["SegmentAttribute"]),
    // The target's length where the missing source stands in the list, not behind the next one.
    (
        "batch merge (4,missing,5,empty 6)",
        &["SegmentsBatchMerged"],
    ),
    // What was merged is gone at once.
    ("append to merged", &["NoSuchSegment"]),
    ("setup on merged", &["NoSuchSegment"]),
    ("merge truncated source", &["ErrorMessage"]),
    // As many entries as asked for, and how many there are.
    ("fixed keys", &["TableKeysRead"]),
    ("fixed info", &["TableSegmentInfo"]),
];

/// Exchanges that are left out: they rest on others left out, or on long frames that the recording does
/// not hold.
const LEFT_OUT: &[&str] = &[
    "append 8 MiB+8",
    "append in frame of exactly 0xFFFFFF",
    "frame 0xFFFFFF+1",
    "hash key too long",
    "hash value max",
    "hash value max+1",
    "hash 257 entries",
    "fixed key too long",
    "fixed value max",
    "fixed value max+1",
    "fixed 257 entries",
    "fixed prefixFilter set",
    "empty table delete mustBeEmpty",
];

/// Whole sections of them.
const SECTIONS_LEFT_OUT: &[(&str, &str)] = &[
    ("append to table segment: setup", "read of table segment"),
    (
        "transient long after connection close",
        "create hash table, deleted name, later",
    ),
];

/// Lines up to each label, with the label.
fn exchanges() -> Vec<(String, Vec<Line>)> {
    let (mut exchanges, mut lines) = (Vec::new(), Vec::new());
    let mut until = None;
    for line in recording("errors.txt") {
        let Line::Label(label) = line else {
            lines.push(line);
            continue;
        };
        let lines = std::mem::take(&mut lines);
        if let Some((_, last)) = SECTIONS_LEFT_OUT.iter().find(|(first, _)| *first == label) {
            until = Some(*last);
        }
        let left_out = LEFT_OUT.contains(&&*label);
        match until {
            Some(last) if last == label => until = None,
            Some(_) => {}
            None if left_out => {}
            None => exchanges.push((label, lines)),
        }
    }
    exchanges
}

#[tokio::test]
async fn requests_made_by_hand_are_answered_alike_or_better() {
    let mut play = Play::start(&[]).await;
    // Connections that the official server had closed by now and we have not.
    let mut kept = BTreeSet::new();
    let mut different = 0;
    for (label, lines) in exchanges() {
        let ours = OURS
            .iter()
            .find(|(of, _)| *of == label)
            .map(|(_, ours)| *ours);
        let last = lines.len() - 1;
        let mut sent_on = 0;
        for (number, line) in lines.iter().enumerate() {
            match line {
                Line::Sent {
                    connection,
                    frame,
                    command,
                } => {
                    sent_on = *connection;
                    if kept.contains(connection) || !is_keep_alive(command.as_ref()) {
                        play.send(*connection, frame, command.as_ref()).await;
                    } else {
                        // It may be closed already.
                        play.peer(*connection).await.try_send_bytes(frame).await;
                    }
                }
                _ if number == last && ours.is_some() => {
                    different += 1;
                    kept.insert(sent_on);
                    for name in ours.into_iter().flatten() {
                        let got = play.peer(sent_on).await.next().await;
                        let got = got.as_ref().map_or("closed", Reply::name);
                        assert_eq!(got, *name, "{label}");
                    }
                }
                Line::Got { connection, reply } => {
                    eprintln!("{label}: {reply:?}");
                    play.expect(*connection, reply).await;
                }
                Line::Closed { connection } if kept.contains(connection) => {
                    let reply = play.peer(*connection).await.next().await;
                    let still = matches!(reply, None | Some(Reply::KeepAlive(_)));
                    assert!(still, "{label}: {reply:?}");
                }
                Line::Closed { connection } => {
                    play.peer(*connection).await.assert_closed().await;
                }
                Line::Silence { connection } => {
                    let peer = play.peer(*connection).await;
                    peer.echo().await;
                    assert!(peer.pending.is_empty(), "{label}: {:?}", peer.pending);
                }
                Line::Cut { .. } | Line::Label(_) => panic!("{label} has a frame that was cut"),
            }
        }
        if label == "append 3 again (duplicate)" {
            // The official server stored it twice; lengths shall be the same from here on.
            let mut filler = play.world.peer().await;
            filler.set_up("err/a/0.#epoch.0", 99).await;
            filler.send(append(99, 1, &[0; 13])).await;
            assert_eq!(filler.reply().await.name(), "DataAppended");
        }
    }
    assert_eq!(different, OURS.len());
    assert!(play.compared > 120, "{} answers compared", play.compared);
}

fn is_keep_alive(command: Option<&Command>) -> bool {
    matches!(command, Some(Command::KeepAlive(_)))
}
