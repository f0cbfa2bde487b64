//! `kill -9` under load from the official Java client.

#![allow(
    clippy::disallowed_methods,
    reason = "kills real processes in real time"
)]

use std::time::{Duration, Instant};

use anyhow::ensure;
use sarit_env::Rng;
use sarit_tests::appender::{Appender, verify};
use sarit_tests::clients::Storm;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::watch::{Lives, RESTLESS};
use sarit_tests::workspace::workspace;

/// How long acknowledgements may stay away after a restart. The Java writer retries after 1.1 s, then
/// only after 11 s and 20 s.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Tries at meeting a moment with appends in flight before a round is given up.
const MOMENTS_MAX: u32 = 1_000;
/// Bytes of an event of the slow writer, and its pause between two appends: what it writes is scattered
/// over many packs, which are then compacted and deleted. Fast writers fill packs of their own.
const SLOW_SIZE: usize = 1_000;
const SLOW_PAUSE: Duration = Duration::from_millis(20);
/// Every so many rounds the life before the kill is long enough for everything that is counted.
const LONG_EVERY: usize = 3;
/// Longest that all of it may take on a busy machine.
const LONG_MAX: Duration = Duration::from_secs(60);

/// Kills `role` at a random moment with appends in flight, restarts it, waits for acknowledgements.
fn round(
    cluster: &mut Cluster,
    storm: &mut Storm,
    role: Role,
    rng: &Rng,
    lives: &mut Lives,
    long: bool,
) -> anyhow::Result<()> {
    if long {
        lives.wait(cluster, role, LONG_MAX)?;
    }
    std::thread::sleep(Duration::from_millis(100 + rng.below(900)));
    if role != Role::Controller {
        lives.add(cluster, role)?;
    }
    let mut moments = 0;
    while storm.status("inflight")? == 0 {
        moments += 1;
        ensure!(moments < MOMENTS_MAX, "appends were never in flight");
    }
    cluster.kill(role)?;
    let acked = storm.status("acked")?;
    cluster.spawn(role)?;
    cluster.wait_ready()?;
    let deadline = Instant::now() + RECOVERY_MAX;
    // What was on its way to the client when the server died may still be counted: see real progress.
    while storm.status("acked")? < acked + 5_000 {
        ensure!(
            Instant::now() < deadline,
            "no acknowledgements {RECOVERY_MAX:?} after a restart"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn rounds(name: &str, layout: Layout, roles: &[Role], count: usize) {
    let start = Instant::now();
    let folder = workspace(name).expect("a folder");
    let mut cluster =
        Cluster::start(layout, &folder.join("data"), &folder, &RESTLESS).expect("a server");
    let rng = Rng::from_os();
    let mut lives = Lives::default();
    let mut run = |cluster: &mut Cluster| -> anyhow::Result<serde_json::Value> {
        let options = [
            "--segments",
            "4",
            "--writers",
            "4",
            "--keys",
            "100",
            "--size",
            "100",
        ];
        let log = folder.join("client.log");
        let mut storm = Storm::start(&cluster.uri(), name, &options, &log)?;
        let address = cluster.store_addr();
        let slow = Appender::start_paced(&address, "kill/slow", SLOW_SIZE, SLOW_PAUSE);
        for role in roles {
            for number in 0..count {
                let long = *role != Role::Controller && number % LONG_EVERY == 0;
                round(cluster, &mut storm, *role, &rng, &mut lives, long)?;
            }
        }
        let found = storm.verify()?;
        let acked = slow.finish()?;
        let there = verify(&address, "kill/slow", SLOW_SIZE)?;
        ensure!(
            there == acked,
            "kill/slow: {acked} acknowledged, {there} there"
        );
        lives.ensure(&Lives::ALL)?;
        Ok(found)
    };
    match run(&mut cluster) {
        Ok(found) => {
            let minutes = start.elapsed().as_secs_f64() / 60.0;
            println!(
                "{name}: {} kills, {lives}, {found}, {minutes:.1} min",
                count * roles.len()
            );
        }
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}

#[test]
fn ten_kills_of_standalone_lose_nothing() {
    rounds(
        "kill-standalone",
        Layout::Standalone,
        &[Role::Standalone],
        10,
    );
}

#[test]
fn five_kills_of_each_half_lose_nothing() {
    rounds(
        "kill-halves",
        Layout::Separate,
        &[Role::SegmentStore, Role::Controller],
        5,
    );
}
