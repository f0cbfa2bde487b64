//! The log is lost, and the index with it; long-term storage is not.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::ensure;
use sarit_tests::appender::{Appender, verify};
use sarit_tests::cluster::{Cluster, Layout, Role, binary};
use sarit_tests::watch::{metric, until};
use sarit_tests::workspace::workspace;

const STORE: Role = Role::Standalone;
const SIZE: usize = 4_000;
const SEGMENTS: [&str; 2] = ["lost/a", "lost/b"];
const PATIENCE: Duration = Duration::from_secs(120);
const SETTINGS: [&str; 4] = [
    "segmentstore.containers=1",
    "segmentstore.container.checkpoint_seconds=1",
    "segmentstore.container.export_seconds=1",
    "segmentstore.container.flush.period_ms=200",
];

fn admin(data: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(binary());
    command.arg("admin").args(arguments).arg("--data").arg(data);
    Ok(command.output()?)
}

fn said(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}: {out}{error}", output.status)
}

fn wait_flushed(cluster: &Cluster) -> anyhow::Result<()> {
    until("all is flushed", PATIENCE, || {
        Ok(metric(cluster, STORE, "segmentstore_unflushed_bytes")? == 0.0)
    })
}

fn lose_and_recover(cluster: &mut Cluster, data: &Path) -> anyhow::Result<()> {
    let address = cluster.store_addr();
    let appenders = SEGMENTS.map(|segment| Appender::start(&address, segment, SIZE));
    until("both have begun", PATIENCE, || {
        Ok(appenders.iter().all(|appender| appender.acked() > 0))
    })?;
    // The one under way may have begun before.
    let exports = || metric(cluster, STORE, "segmentstore_exports_total");
    let before = exports()?;
    until("the index is exported", PATIENCE, || {
        Ok(exports()? >= before + 2.0)
    })?;
    let mut written = Vec::new();
    for appender in appenders {
        written.push((appender.segment().to_owned(), appender.finish()?));
    }
    wait_flushed(cluster)?;
    let locked = said(&admin(data, &["container", "show", "0"])?);
    ensure!(locked.contains("in use"), "{locked}");
    cluster.kill(STORE)?;
    let shown = said(&admin(data, &["container", "show", "0"])?);
    for what in [
        "checkpoint of frame",
        "lost/a: bytes 0..",
        ".pk  ",
        "log: epoch 1",
    ] {
        ensure!(shown.contains(what), "{what:?} in {shown}");
    }
    let refused = said(&admin(data, &["recover-from-storage"])?);
    ensure!(refused.contains("is there"), "{refused}");
    let folder = data.join("segmentstore");
    for lost in ["wal", "chain", "index"] {
        std::fs::remove_dir_all(folder.join(lost))?;
    }
    std::fs::remove_file(folder.join("FORMAT"))?;
    let recovered = admin(data, &["recover-from-storage"])?;
    println!("recover: {}", said(&recovered));
    ensure!(recovered.status.success(), "{}", said(&recovered));
    ensure!(
        !said(&recovered).contains("shorter"),
        "{}",
        said(&recovered)
    );
    let checked = admin(data, &["fsck"])?;
    ensure!(checked.status.success(), "fsck: {}", said(&checked));
    cluster.restart_all()?;
    for (segment, acked) in &written {
        let there = verify(&address, segment, SIZE)?;
        ensure!(there == *acked, "{segment}: {acked} written, {there} there");
    }
    // It goes on, and no pack gets the name of one that is there.
    let after = Appender::start(&address, "lost/after", SIZE);
    until("it goes on", PATIENCE, || Ok(after.acked() > 100))?;
    let acked = after.finish()?;
    wait_flushed(cluster)?;
    cluster.kill(STORE)?;
    cluster.restart_all()?;
    written.push(("lost/after".to_owned(), acked));
    for (segment, acked) in &written {
        let there = verify(&address, segment, SIZE)?;
        ensure!(there == *acked, "{segment}: {acked} written, {there} there");
    }
    cluster.terminate(STORE)?;
    let checked = admin(data, &["fsck", "--json"])?;
    ensure!(checked.status.success(), "fsck: {}", said(&checked));
    lose_a_pack(data)
}

/// What the index refers to and is not there is found out.
fn lose_a_pack(data: &Path) -> anyhow::Result<()> {
    // Others may wait for their deletion.
    let shown = said(&admin(data, &["container", "show", "0"])?);
    let pack = shown.split_whitespace().find(|word| word.ends_with(".pk"));
    let pack = data.join("segmentstore").join(pack.unwrap_or_default());
    let bytes = std::fs::read(&pack)?;
    std::fs::remove_file(&pack)?;
    let found = admin(data, &["fsck"])?;
    let text = said(&found);
    ensure!(found.status.code() == Some(1), "a missing pack: {text}");
    ensure!(text.contains("which is missing"), "{text}");
    std::fs::write(&pack, bytes)?;
    let whole = admin(data, &["fsck"])?;
    ensure!(whole.status.success(), "it is back: {}", said(&whole));
    Ok(())
}

#[test]
fn a_lost_log_is_recovered_from_long_term_storage() {
    let folder = workspace("recover").expect("a folder");
    let data = folder.join("data");
    let mut cluster = Cluster::start(Layout::Standalone, &data, &folder, &SETTINGS).expect("it");
    if let Err(error) = lose_and_recover(&mut cluster, &data) {
        panic!("{error:#}\n{}", cluster.log_tail());
    }
}
