//! More data than memory: written, flushed, and read back from long-term storage by the official Java
//! client, in bounded memory.
//!
//! `SARIT_HISTORY_GIB=20` writes more than CI does.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sarit_tests::clients::Storm;
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::watch::{MemoryWatch, labelled_metric, metric, until};
use sarit_tests::workspace::workspace;

/// Gigabytes in CI.
const GIB: u64 = 2;
/// Bytes of an event.
const SIZE: u64 = 10_000;
/// What the process may take: its default budget, and what a process needs besides.
const RSS_MAX: u64 = (256 + 150) << 20;
/// Least share of the bytes read that must come from long-term storage.
const FROM_PACKS: f64 = 0.99;
/// Longest that writing a gigabyte, or flushing all of it, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn check_memory(when: &str, cluster: &Cluster, watch: &MemoryWatch) -> anyhow::Result<u64> {
    // The kernel's own high-water mark sees what lies between two looks.
    let peak = cluster.rss_peak().max(watch.largest());
    ensure!(peak <= RSS_MAX, "{when}: {} MiB of memory", peak >> 20);
    Ok(peak >> 20)
}

#[test]
fn more_than_memory_is_read_back_from_packs_within_the_budget() {
    #[allow(clippy::disallowed_methods, reason = "real time")]
    let start = Instant::now();
    let gib = std::env::var("SARIT_HISTORY_GIB").ok();
    let gib = gib.and_then(|text| text.parse().ok()).unwrap_or(GIB);
    let folder = workspace("history").expect("a folder");
    let settings = ["segmentstore.container.flush.period_ms=2000"];
    let mut cluster =
        Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &settings).expect("it");
    let run = |cluster: &mut Cluster| -> anyhow::Result<String> {
        let size = SIZE.to_string();
        let options = [
            "--segments",
            "4",
            "--writers",
            "4",
            "--keys",
            "100",
            "--size",
            &size,
        ];
        let log = folder.join("client.log");
        let mut storm = Storm::start(&cluster.uri(), "history", &options, &log)?;
        let watch = MemoryWatch::start(cluster);
        let events = (gib << 30) / SIZE;
        let patience = PATIENCE * u32::try_from(gib)?;
        until("it is written", patience, || {
            Ok(storm.status("acked")? >= events)
        })?;
        storm.pause()?;
        until("what is in flight is acknowledged", PATIENCE, || {
            Ok(storm.status("inflight")? == 0)
        })?;
        until("all is flushed", patience, || {
            Ok(metric(cluster, Role::Standalone, "segmentstore_unflushed_bytes")? == 0.0)
        })?;
        let writing = check_memory("written and flushed", cluster, &watch)?;
        cluster.kill(Role::Standalone)?;
        cluster.restart_all()?;
        let watch = MemoryWatch::start(cluster);
        let found = storm.verify()?;
        let reading = check_memory("read back", cluster, &watch)?;
        let name = "segmentstore_read_bytes_total";
        let packs = labelled_metric(cluster, Role::Standalone, name, "source=\"packs\"")?;
        let all = metric(cluster, Role::Standalone, name)?;
        let share = packs / all;
        ensure!(
            packs >= (gib << 30) as f64,
            "only {packs} bytes came from packs"
        );
        ensure!(
            share >= FROM_PACKS,
            "{packs} of {all} bytes came from packs"
        );
        let share = share * 100.0;
        Ok(format!(
            "{gib} GiB, {writing} MiB of memory at most while writing, {reading} while reading, \
             {share:.2} % from packs, {found}"
        ))
    };
    match run(&mut cluster) {
        Ok(done) => {
            let minutes = start.elapsed().as_secs_f64() / 60.0;
            println!("history: {done}, {minutes:.1} min");
        }
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}
