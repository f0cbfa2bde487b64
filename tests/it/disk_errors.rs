//! A disk that fails: one line in the log, the process exits, nothing is acknowledged that is not there.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use sarit_env::Rng;
use sarit_tests::appender::{Appender, verify};
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::lossyfs::{Failure, LossyFs, Mode};
use sarit_tests::watch::until;
use sarit_tests::workspace::workspace;

/// Longest that the server may take to notice anything, on a busy machine.
const NOTICE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an event.
const SIZE: usize = 400;
/// The file system lives in memory: small log files keep it small.
const SETTINGS: [&str; 2] = [
    "segmentstore.wal.file_bytes=4MiB",
    "segmentstore.wal.frame_bytes_max=2MiB",
];

fn fails(name: &str, failure: Failure) -> anyhow::Result<()> {
    let folder = workspace(name)?;
    let mount = folder.join("disk");
    std::fs::create_dir(&mount)?;
    let disk = LossyFs::mount(&mount, Rng::from_os(), Mode::Strict)?;
    let data = disk.path().join("data");
    let mut cluster = Cluster::start(Layout::Standalone, &data, &folder, &SETTINGS)?;
    let address = cluster.store_addr();
    let mut run = || -> anyhow::Result<i64> {
        let appenders: Vec<_> = ["fails/a", "fails/b"]
            .map(|segment| Appender::start(&address, segment, SIZE))
            .into();
        let progress = |least: i64| {
            until("the writers go on", NOTICE_MAX, || {
                Ok(appenders.iter().all(|appender| appender.acked() >= least))
            })
        };
        progress(1_000)?;
        let log = folder.join("standalone.log");
        let before = std::fs::read_to_string(&log)?.lines().count();
        disk.fail(Some(failure));
        let status = cluster.wait_exit(Role::Standalone, NOTICE_MAX)?;
        ensure!(!status.success(), "it ended with {status}");
        let said = std::fs::read_to_string(&log)?;
        let since: Vec<_> = said.lines().skip(before).collect();
        // Beside it the process says why it ends, on its last line.
        let errors = since.iter().filter(|line| line.contains(" ERROR "));
        ensure!(errors.count() == 1, "not one line: {since:#?}");
        // The disk fails for the metadata store too, and sled, if it is writing just then, panics.
        let ours = |line: &&&str| line.contains("panicked") && !line.contains("sled-");
        ensure!(!since.iter().any(|line| ours(&line)), "{since:#?}");

        // Nothing that the failed disk had not made durable is there any more.
        let cut = disk.cut_power();
        disk.fail(None);
        let most = appenders.iter().map(Appender::acked).max().unwrap_or(0);
        cluster.spawn(Role::Standalone)?;
        cluster.wait_ready().context("restart")?;
        // A writer that finds less than it was promised never goes on.
        progress(most + 500)?;
        let mut events = 0;
        for appender in appenders {
            let segment = appender.segment().to_owned();
            let acked = appender.finish()?;
            let there = verify(&address, &segment, SIZE)?;
            ensure!(
                acked == there,
                "{segment}: {acked} acknowledged, {there} there"
            );
            events += acked;
        }
        ensure!(cut.syncs > 0, "nothing was ever synced");
        Ok(events)
    };
    let result = run();
    if result.is_err() {
        folder.keep();
    }
    result
        .map(|events| println!("{name}: {events} events, none lost"))
        .map_err(|error| error.context(cluster.log_tail()))
}

#[test]
fn a_failed_sync_ends_the_process_and_nothing_was_promised_too_early() {
    fails("fails-sync", Failure::Syncs).expect("it holds");
}

#[test]
fn a_failed_write_ends_the_process_and_nothing_was_promised_too_early() {
    fails("fails-write", Failure::Writes).expect("it holds");
}
