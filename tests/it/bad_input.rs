//! Bad input gets a clear error and costs nothing.

#![allow(clippy::disallowed_methods, reason = "drives real processes")]

use std::process::Command;

use bytes::{Bytes, BytesMut};
use sarit_env::Rng;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_tests::cluster::{Cluster, Layout, Role, binary, repository};
use sarit_tests::raw::Connection;
use sarit_tests::workspace::workspace;

/// Inputs in CI; `SARIT_BAD_INPUTS=1000000` for a long run.
const INPUTS: usize = 20_000;
/// What bad input may cost in memory over as much good input.
const RSS_MORE_MAX: u64 = 16 << 20;

/// Every frame that an official client was seen to send.
fn client_frames() -> Vec<Vec<u8>> {
    let folder = repository().join("proto/tests/golden/captures");
    let mut frames = Vec::new();
    let files = std::fs::read_dir(&folder).expect("the captures are in the repository");
    let mut files: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("captures are text");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [_, "C>S", _, hex] = words[..]
                && let Some(frame) = unhex(hex)
            {
                frames.push(frame);
            }
        }
    }
    assert!(
        frames.len() > 1_000,
        "only {} frames in {}",
        frames.len(),
        folder.display()
    );
    frames
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| Some((digit(pair[0])? << 4 | digit(*pair.get(1)?)?) as u8))
        .collect()
}

/// A frame with something wrong with it, or plain noise.
fn bad(frames: &[Vec<u8>], rng: &Rng) -> Vec<u8> {
    let below = |bound: usize| rng.below(bound as u64) as usize;
    let mut bytes = frames[below(frames.len())].clone();
    match rng.below(7) {
        0 => {
            bytes = vec![0; below(512)];
            rng.fill(&mut bytes);
        }
        1 => bytes.truncate(below(bytes.len())),
        2 => bytes[4..8].copy_from_slice(&(rng.u64() as u32).to_be_bytes()),
        3 => bytes[..4].copy_from_slice(&(rng.below(256) as i32 - 128).to_be_bytes()),
        4 => {
            let other = &frames[below(frames.len())];
            bytes.splice(
                8.min(bytes.len())..,
                other[below(other.len())..].iter().copied(),
            );
        }
        _ => {
            for _ in 0..=rng.below(8) {
                let at = below(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
        }
    }
    bytes
}

#[test]
fn bad_frames_cost_only_the_connection_they_came_on() {
    let count = std::env::var("SARIT_BAD_INPUTS")
        .ok()
        .and_then(|text| text.parse().ok());
    let count = count.unwrap_or(INPUTS);
    let seed = std::env::var("SARIT_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| Rng::from_os().u64());
    println!("replay with SARIT_SEED={seed}");
    let rng = Rng::seeded(seed);
    let frames = client_frames();
    let folder = workspace("bad-input").expect("a folder");
    let mut cluster =
        Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]).expect("a server");
    let address = cluster.store_addr();

    let mut witness = Connection::greet(&address).expect("a good connection");
    witness.create("bad/input/0.#epoch.0").expect("a segment");
    let writer = WriterId(7);
    witness
        .set_up("bad/input/0.#epoch.0", writer)
        .expect("a writer");

    for _ in 0..count {
        let mut good = Connection::open(&address).expect("a connection");
        good.send_bytes(&frames[rng.below(frames.len() as u64) as usize])
            .expect("it is sent");
        good.finish().expect("the server closes too");
    }
    let before = cluster.rss();
    for round in 0..count {
        let mut guilty = Connection::open(&address).expect("the server accepts");
        // It may be closed in the middle of it.
        let _ = guilty.send_bytes(&bad(&frames, &rng));
        let _ = guilty.finish();
        if round % 100 == 99 {
            let number = round as i64;
            witness.queue_append(writer, number, 1, Bytes::from_static(b"still here"));
            witness.flush().expect("the good connection lives");
            match witness.reply().expect("the good connection lives") {
                Reply::DataAppended(ack) => assert_eq!(ack.event_number, number),
                other => panic!("instead of an acknowledgement: {other:?}"),
            }
        }
    }
    witness.keep_alive().expect("the good connection lives");
    let after = cluster.rss();
    println!(
        "{count} bad inputs: memory {} → {} MiB",
        before >> 20,
        after >> 20
    );
    assert!(after <= before + RSS_MORE_MAX, "{before} → {after} bytes");
    let log = std::fs::read_to_string(folder.join("standalone.log")).expect("a log");
    assert!(!log.contains("panicked"), "{}", cluster.log_tail());
    assert!(
        cluster
            .terminate(Role::Standalone)
            .expect("it ends")
            .success()
    );
}

#[test]
fn a_frame_that_claims_much_and_sends_little_reserves_little() {
    let folder = workspace("claims").expect("a folder");
    let cluster =
        Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]).expect("a server");
    let before = cluster.rss();
    let mut claimants = Vec::new();
    for _ in 0..500 {
        let mut connection = Connection::greet(&cluster.store_addr()).expect("a connection");
        let mut claim = BytesMut::new();
        claim.extend_from_slice(&4_i32.to_be_bytes());
        claim.extend_from_slice(&16_000_000_i32.to_be_bytes());
        claim.extend_from_slice(&[0; 100]);
        connection.send_bytes(&claim).expect("it is sent");
        claimants.push(connection);
    }
    let mut witness = Connection::greet(&cluster.store_addr()).expect("a connection");
    witness.keep_alive().expect("an answer");
    let after = cluster.rss();
    println!(
        "500 claims of 16 MB: memory {} → {} MiB",
        before >> 20,
        after >> 20
    );
    // 8 GB are claimed; a receive slab and a task each is what connections cost anyway.
    assert!(after <= before + (160 << 20), "{before} → {after} bytes");
}

#[test]
fn impossible_names_are_refused_with_a_sentence() {
    let folder = workspace("names").expect("a folder");
    let cluster =
        Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]).expect("a server");
    let long = "x".repeat(300);
    for name in [
        "..",
        ".",
        "a/b",
        "with space",
        "tab\there",
        "",
        "ünï",
        &long,
    ] {
        let output = Command::new(binary())
            .args([
                "scope",
                "create",
                "--controller",
                &cluster.uri(),
                "--",
                name,
            ])
            .output()
            .expect("the CLI runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name:?}: {error}");
        assert!(
            error.contains("name") && !error.contains("panicked"),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused_with_a_sentence() {
    let folder = workspace("second").expect("a folder");
    let data = folder.join("data");
    let cluster = Cluster::start(Layout::Standalone, &data, &folder, &[]).expect("a server");
    let second = Cluster::start(Layout::Standalone, &data, &folder.join("second"), &[]);
    let error = format!("{:#}", second.err().expect("it must not start"));
    assert!(error.contains("another process"), "{error}");
    assert!(
        error.contains("data"),
        "the sentence names the directory: {error}"
    );
    let mut witness = Connection::greet(&cluster.store_addr()).expect("the first one serves on");
    witness.keep_alive().expect("an answer");
}
