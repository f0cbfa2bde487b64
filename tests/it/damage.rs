//! A flipped bit in what had been acknowledged is neither taken for a torn tail nor written over.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes and damages their files"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{GetStreamSegmentInfo, ReadSegment};
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::raw::Connection;
use sarit_tests::workspace::workspace;

/// Bytes of a log file's header.
const HEADER: usize = 4096;
const SEGMENTS: usize = 16;
/// Appends to each segment; those to other segments lie between and behind them.
const ROUNDS: i64 = 5;

fn segment(number: usize) -> String {
    format!("damage/s{number}/0.#epoch.0")
}

/// Bytes found nowhere else in the log.
fn payload(number: usize, round: i64) -> Bytes {
    format!("<event {round} of segment {number}, to be found on disk>").into()
}

fn log_files(data: &Path) -> Vec<PathBuf> {
    let lane = data.join("segmentstore/wal/lane-0");
    let entries = std::fs::read_dir(&lane).expect("the lane's folder");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        // One that was being made when the server was killed never held anything; a start removes it.
        .filter(|path| path.extension().is_none_or(|extension| extension != "tmp"))
        .collect();
    files.sort();
    files
}

fn find(files: &[PathBuf], pattern: &[u8]) -> (PathBuf, usize) {
    for file in files {
        let bytes = std::fs::read(file).expect("a log file");
        if let Some(at) = bytes
            .windows(pattern.len())
            .position(|window| window == pattern)
        {
            return (file.clone(), at);
        }
    }
    panic!("not in the log: {pattern:?}");
}

fn info(connection: &mut Connection, segment: &str) -> anyhow::Result<Reply> {
    connection.ask(GetStreamSegmentInfo {
        request_id: 9,
        segment: segment.into(),
        token: String::new(),
    })
}

#[test]
fn damaged_data_stops_its_container_and_no_other() {
    let folder = workspace("damage").expect("a folder");
    let data = folder.join("data");
    let settings = ["segmentstore.containers=4"];
    let mut cluster =
        Cluster::start(Layout::Standalone, &data, &folder, &settings).expect("a server");
    let mut connection = Connection::greet(&cluster.store_addr()).expect("a connection");
    for round in 1..=ROUNDS {
        for number in 0..SEGMENTS {
            let writer = WriterId(number as u128 + 1);
            if round == 1 {
                connection.create(&segment(number)).expect("it is created");
                connection
                    .set_up(&segment(number), writer)
                    .expect("a writer");
            }
            connection.queue_append(writer, round, 1, payload(number, round));
            connection.flush().expect("it is sent");
            let reply = connection.reply().expect("an answer");
            assert!(matches!(reply, Reply::DataAppended(_)), "{reply:?}");
        }
    }
    cluster.kill(Role::Standalone).expect("it is killed");

    let (file, at) = find(&log_files(&data), &payload(3, 2));
    let mut bytes = std::fs::read(&file).expect("the log file");
    bytes[at + 5] ^= 0x10;
    std::fs::write(&file, &bytes).expect("it is damaged");
    let before: BTreeMap<_, _> = log_files(&data)
        .into_iter()
        .map(|file| (file.clone(), std::fs::read(file).expect("it")))
        .collect();

    cluster.spawn(Role::Standalone).expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(30);
    let reasons = loop {
        match cluster.http(Role::Standalone, "/health/ready") {
            Ok((503, reasons)) if reasons.contains("does not start") => break reasons,
            answer => assert!(
                Instant::now() < deadline,
                "{answer:?}\n{}",
                cluster.log_tail()
            ),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let name = file
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(
        reasons.contains(&name) && reasons.contains("at byte"),
        "file and offset: {reasons}"
    );
    assert_eq!(
        reasons.matches("does not start").count(),
        1,
        "one container: {reasons}"
    );

    let (mut served, mut refused) = (0, 0);
    for number in 0..SEGMENTS {
        // A refusal may close the connection, so each has its own.
        let mut connection = Connection::greet(&cluster.store_addr()).expect("a connection");
        match info(&mut connection, &segment(number)) {
            Ok(Reply::StreamSegmentInfo(info)) => {
                served += 1;
                let length: usize = (1..=ROUNDS).map(|round| payload(number, round).len()).sum();
                assert_eq!(info.write_offset, length as i64, "segment {number}");
                let read = ReadSegment {
                    segment: segment(number),
                    offset: 0,
                    suggested_length: 1 << 20,
                    token: String::new(),
                    request_id: 5,
                };
                match connection.ask(read).expect("an answer") {
                    Reply::SegmentRead(read) => assert!(read.data.starts_with(&payload(number, 1))),
                    other => panic!("instead of bytes: {other:?}"),
                }
            }
            Ok(Reply::NoSuchSegment(_)) => panic!("damaged data was taken for absent"),
            _ => refused += 1,
        }
    }
    assert!(
        refused > 0 && served > 0,
        "{served} segments served, {refused} refused"
    );
    // A file's header says where it ends, and may be brought up to date; files without data may be used.
    for (file, bytes) in before {
        let now = std::fs::read(&file).expect("nothing was removed");
        let data = &bytes[HEADER..];
        let same = now.len() == bytes.len() && now[HEADER..] == *data;
        assert!(
            same || data.iter().all(|byte| *byte == 0),
            "{} was written to",
            file.display()
        );
    }
    println!("{served} segments served, {refused} refused: {reasons}");
}
