//! A full disk: appends wait, all else goes on, nothing dies, nothing is lost.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{DeleteSegment, TruncateSegment};
use sarit_tests::appender::{Appender, bounds, verify};
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::raw::Connection;
use sarit_tests::tmpfs::TmpFs;
use sarit_tests::watch::{metric, until};
use sarit_tests::workspace::workspace;

/// Longest that the server may take to notice anything, on a busy machine.
const NOTICE_MAX: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// Bytes of an event.
const SIZE: usize = 4_000;
/// Times that the disk is full without a byte left.
const SQUEEZES: usize = 6;
/// One for the log and one for each container, each time it is full.
const WARNINGS_EACH: usize = 3;
/// Times that it may be full: the two that are meant, and some between, when a checkpoint has written what
/// replaces its predecessor and the predecessor is not removed yet.
const TIMES_MAX: usize = 6;
/// Appends of one writer that may be acknowledged while the disk is full: a few frames of as many as it has in flight.
const ALONG_MAX: i64 = 128;
/// How long a checkpoint is seen to find no space: the index tries again every second.
const WITHOUT_SPACE: Duration = Duration::from_secs(2);
/// Long-term storage is on the same disk: history stays in the log where that is to fill it.
const UNFLUSHED: [&str; 4] = [
    "segmentstore.container.flush.bytes=1073741824",
    "segmentstore.container.flush.big_bytes=1073741824",
    "segmentstore.container.flush.period_ms=3600000",
    "segmentstore.container.flush.compact_ms=0",
];
/// Small packs, all the time, and a log that holds little more than them.
const TIERED: [&str; 4] = [
    "segmentstore.wal.quota_bytes=16777216",
    "segmentstore.container.flush.bytes=524288",
    "segmentstore.container.flush.big_bytes=262144",
    "segmentstore.container.flush.period_ms=200",
];
/// Small files, so that the log rolls and containers make checkpoints all the time.
const SETTINGS: [&str; 5] = [
    "segmentstore.containers=2",
    "segmentstore.wal.file_bytes=1MiB",
    "segmentstore.wal.frame_bytes_max=512KiB",
    "segmentstore.wal.reserve_bytes=8MiB",
    "segmentstore.container.checkpoint_bytes=2097152",
];

fn is_full(cluster: &Cluster) -> anyhow::Result<bool> {
    Ok(metric(cluster, Role::Standalone, "segmentstore_wal_full")? == 1.0)
}

fn wait_full(cluster: &Cluster) -> anyhow::Result<()> {
    until("the metric says full", NOTICE_MAX, || is_full(cluster))
}

/// Waits for a hundred more acknowledgements of each.
fn wait_progress(appenders: &[Appender]) -> anyhow::Result<()> {
    wait_progress_since(appenders, &acked(appenders))
}

fn wait_progress_since(appenders: &[Appender], before: &[i64]) -> anyhow::Result<()> {
    until("the writers go on", NOTICE_MAX, || {
        let mut both = appenders.iter().zip(before);
        Ok(both.all(|(appender, before)| appender.acked() >= before + 100))
    })
}

fn acked(appenders: &[Appender]) -> Vec<i64> {
    appenders.iter().map(Appender::acked).collect()
}

/// Writes `events` events to a segment that is left alone then.
fn prepare(address: &str, segment: &str, events: i64) -> anyhow::Result<()> {
    let appender = Appender::start(address, segment, SIZE);
    let enough = || Ok(appender.acked() >= events);
    until("a segment is prepared", NOTICE_MAX, enough)?;
    appender.finish()?;
    Ok(())
}

fn truncate(address: &str, segment: &str) -> anyhow::Result<()> {
    let mut connection = Connection::greet(address)?;
    let command = TruncateSegment {
        request_id: 1,
        segment: segment.to_owned(),
        truncation_offset: 10 * SIZE as i64,
        token: String::new(),
    };
    match connection.ask(command)? {
        Reply::SegmentTruncated(_) => {}
        other => bail!("truncate while full: {other:?}"),
    }
    let (start, _) = bounds(&mut connection, segment)?;
    ensure!(start == 10 * SIZE as i64, "{segment} starts at {start}");
    Ok(())
}

fn delete(address: &str, segment: &str) -> anyhow::Result<()> {
    let mut connection = Connection::greet(address)?;
    let command = DeleteSegment {
        request_id: 1,
        segment: segment.to_owned(),
        token: String::new(),
    };
    match connection.ask(command)? {
        Reply::SegmentDeleted(_) => {}
        other => bail!("delete while full: {other:?}"),
    }
    ensure!(
        bounds(&mut connection, segment).is_err(),
        "{segment} is there"
    );
    Ok(())
}

fn finish(appenders: Vec<Appender>, address: &str) -> anyhow::Result<i64> {
    let mut all = 0;
    for appender in appenders {
        let segment = appender.segment().to_owned();
        let acked = appender.finish()?;
        let there = verify(address, &segment, SIZE)?;
        ensure!(
            there == acked,
            "{segment}: {acked} acknowledged, {there} there"
        );
        all += acked;
    }
    Ok(all)
}

/// Starts where not a byte is free: what finds no space waits and says so, and goes on with what the reserve
/// is for, too little to append, enough to recover. Returns whether containers waited: they need not, if
/// the start found something to remove.
fn start_on_full(cluster: &mut Cluster, disk: &TmpFs) -> anyhow::Result<bool> {
    disk.fill()?;
    cluster.spawn(Role::Standalone)?;
    let mut waited = false;
    until("containers open or wait for space", NOTICE_MAX, || {
        // It may not answer yet.
        let Ok((status, why)) = cluster.http(Role::Standalone, "/health/ready") else {
            return Ok(false);
        };
        waited = why.contains("can't be opened now");
        ensure!(
            !waited || status == 503 && why.contains("No space left"),
            "{status} {why}"
        );
        Ok(waited || !why.contains("is opening"))
    })?;
    let name = "segmentstore_containers_waiting";
    if waited {
        ensure!(
            metric(cluster, Role::Standalone, name)? > 0.0,
            "no container waits"
        );
    }
    disk.resize(disk.used()? + MIB)?;
    until("no container waits any more", NOTICE_MAX, || {
        Ok(metric(cluster, Role::Standalone, name)? == 0.0)
    })?;
    Ok(waited)
}

/// Waits until a checkpoint is being written and comes to no end, there being not a byte free all the while.
/// One that gets done after all, because something was removed, does not count.
fn checkpoint_without_space(cluster: &Cluster, disk: &TmpFs) -> anyhow::Result<()> {
    let writing = || {
        let name = "segmentstore_checkpoints_under_way";
        anyhow::Ok(metric(cluster, Role::Standalone, name)? > 0.0)
    };
    until("a checkpoint finds no space", NOTICE_MAX, || {
        disk.fill()?;
        let made = checkpoints(cluster)?;
        if !writing()? {
            return Ok(false);
        }
        let since = Instant::now();
        while since.elapsed() < WITHOUT_SPACE {
            std::thread::sleep(Duration::from_millis(50));
            if disk.free()? > 0 || !writing()? || checkpoints(cluster)? > made {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

fn checkpoints(cluster: &Cluster) -> anyhow::Result<f64> {
    metric(cluster, Role::Standalone, "segmentstore_checkpoints_total")
}

fn log(folder: &Path) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(folder.join("standalone.log"))?)
}

#[test]
fn a_full_disk_makes_appends_wait_and_nothing_else() {
    let folder = workspace("full-disk").expect("a folder");
    let mount = folder.join("disk");
    std::fs::create_dir(&mount).expect("a folder");
    let disk = TmpFs::mount(&mount, 40 * MIB).expect("a file system");
    let data = disk.path().join("data");
    let settings = [&SETTINGS[..], &UNFLUSHED].concat();
    let mut cluster =
        Cluster::start(Layout::Standalone, &data, &folder, &settings).expect("a server");
    let address = cluster.store_addr();
    let run = |cluster: &mut Cluster| -> anyhow::Result<i64> {
        for segment in ["full/read", "full/truncate", "full/delete"] {
            prepare(&address, segment, 50)?;
        }
        let appenders: Vec<_> = ["full/a", "full/b"]
            .map(|segment| Appender::start(&address, segment, SIZE))
            .into();
        wait_full(cluster)?;
        let (status, why) = cluster.http(Role::Standalone, "/health/ready")?;
        ensure!(
            status == 503 && why.contains("the log is full"),
            "{status} {why}"
        );
        ensure!(
            why.contains("are free in"),
            "the reason has no numbers: {why}"
        );
        let said = log(&folder)?;
        ensure!(said.contains("full"), "the log says nothing: {said}");

        verify(&address, "full/read", SIZE).context("read while full")?;
        let before = acked(&appenders);
        truncate(&address, "full/truncate")?;
        delete(&address, "full/delete")?;
        verify(&address, "full/truncate", SIZE).context("read what is left")?;
        for appender in &appenders {
            // What is acknowledged can be read, also while appends wait behind it.
            appender.verify(&address)?;
            ensure!(appender.in_flight() > 0, "no append waits");
        }
        let after = acked(&appenders);
        // What must go on, a truncation or a checkpoint, takes appends along that are in its frame already.
        let mut along = before.iter().zip(&after);
        ensure!(
            along.all(|(before, after)| after - before <= ALONG_MAX),
            "acknowledged while full: {before:?} → {after:?}"
        );
        ensure!(is_full(cluster)?, "it is not full any more");

        disk.resize(80 * MIB)?;
        wait_progress(&appenders)?;
        let connections: Vec<_> = appenders.iter().map(Appender::connections).collect();
        ensure!(
            connections == [1, 1],
            "writers connected again: {connections:?}"
        );

        wait_full(cluster)?;
        let said = log(&folder)?;
        let times = said.matches("no space for the log").count();
        ensure!(times <= TIMES_MAX, "full {times} times");
        let warnings = said.matches("appends wait").count();
        ensure!(
            warnings <= times * WARNINGS_EACH,
            "{warnings} warnings of {times} times"
        );
        appenders.iter().for_each(Appender::stop);
        disk.resize(160 * MIB)?;
        let events = finish(appenders, &address)?;
        until("it is not full", NOTICE_MAX, || Ok(!is_full(cluster)?))?;
        until("it is ready again", NOTICE_MAX, || {
            Ok(cluster.http(Role::Standalone, "/health/ready")?.0 == 200)
        })?;
        cluster.kill(Role::Standalone)?;
        cluster.restart_all()?;
        for segment in ["full/a", "full/b", "full/read", "full/truncate"] {
            verify(&address, segment, SIZE).context("after a restart")?;
        }
        Ok(events)
    };
    match run(&mut cluster) {
        Ok(events) => println!("full-disk: {events} events, full twice, none lost"),
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}

#[test]
fn no_byte_free_during_rolls_checkpoints_and_recovery_loses_nothing() {
    let folder = workspace("full-squeeze").expect("a folder");
    let mount = folder.join("disk");
    std::fs::create_dir(&mount).expect("a folder");
    let disk = TmpFs::mount(&mount, 64 * MIB).expect("a file system");
    let data = disk.path().join("data");
    let settings = [&SETTINGS[..], &UNFLUSHED].concat();
    let mut cluster =
        Cluster::start(Layout::Standalone, &data, &folder, &settings).expect("a server");
    let address = cluster.store_addr();
    let run = |cluster: &mut Cluster| -> anyhow::Result<(i64, u32, u32)> {
        let appenders: Vec<_> = ["squeeze/a", "squeeze/b", "squeeze/c"]
            .map(|segment| Appender::start(&address, segment, SIZE))
            .into();
        let (mut checkpoints_without_space, mut waited) = (0, 0);
        let mut before = acked(&appenders);
        for round in 0..SQUEEZES {
            wait_progress_since(&appenders, &before)?;
            disk.fill()?;
            wait_full(cluster)?;
            for appender in &appenders {
                appender.verify(&address).context("read while full")?;
            }
            let mut unmade = None;
            if round % 2 == 0 {
                checkpoint_without_space(cluster, &disk)?;
                checkpoints_without_space += 1;
                unmade = Some(checkpoints(cluster)?);
            } else {
                cluster.kill(Role::Standalone)?;
                waited += u32::from(start_on_full(cluster, &disk)?);
                wait_full(cluster)?;
                for appender in &appenders {
                    appender
                        .verify(&address)
                        .context("read after a start on a full disk")?;
                }
            }
            // The space that comes back may be used up before anybody looks again.
            before = acked(&appenders);
            disk.resize(disk.used()? + 24 * MIB)?;
            if let Some(made) = unmade {
                until("the checkpoint is made", NOTICE_MAX, || {
                    Ok(checkpoints(cluster)? > made)
                })?;
                for appender in &appenders {
                    let read = appender.verify(&address);
                    read.context("read after a checkpoint that found no space")?;
                }
            }
        }
        wait_progress_since(&appenders, &before)?;
        appenders.iter().for_each(Appender::stop);
        disk.resize(disk.used()? + 64 * MIB)?;
        let events = finish(appenders, &address)?;
        cluster.kill(Role::Standalone)?;
        cluster.restart_all()?;
        for segment in ["squeeze/a", "squeeze/b", "squeeze/c"] {
            verify(&address, segment, SIZE).context("after a restart")?;
        }
        ensure!(waited > 0, "no start found the disk full");
        Ok((events, checkpoints_without_space, waited))
    };
    match run(&mut cluster) {
        Ok((events, checkpoints, waited)) => println!(
            "full-squeeze: {events} events, {SQUEEZES} times no byte free, {checkpoints} times while a checkpoint was \
             written, {waited} starts waited for space, none lost"
        ),
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}

#[test]
fn long_term_storage_without_space_fills_the_log_and_then_appends_wait() {
    let folder = workspace("full-storage").expect("a folder");
    let mount = folder.join("disk");
    std::fs::create_dir(&mount).expect("a folder");
    let disk = TmpFs::mount(&mount, 8 * MIB).expect("a file system");
    let storage = format!("segmentstore.storage.url=file://{}", disk.path().display());
    let mut settings = [&SETTINGS[..], &TIERED].concat();
    settings.push(&storage);
    let data = folder.join("data");
    let mut cluster =
        Cluster::start(Layout::Standalone, &data, &folder, &settings).expect("a server");
    let address = cluster.store_addr();
    let run = |cluster: &mut Cluster| -> anyhow::Result<(i64, f64)> {
        let appenders: Vec<_> = ["storage/a", "storage/b"]
            .map(|segment| Appender::start(&address, segment, SIZE))
            .into();
        wait_full(cluster)?;
        let (status, why) = cluster.http(Role::Standalone, "/health/ready")?;
        ensure!(status == 503 && why.contains("quota"), "{status} {why}");
        let name = "segmentstore_flush_failures_total";
        ensure!(
            metric(cluster, Role::Standalone, name)? > 0.0,
            "no flush failed"
        );
        for appender in &appenders {
            appender.verify(&address).context("read while full")?;
            ensure!(appender.in_flight() > 0, "no append waits");
        }
        disk.resize(512 * MIB)?;
        wait_progress(&appenders)?;
        let events = finish(appenders, &address)?;
        until("all is flushed", NOTICE_MAX, || {
            Ok(metric(cluster, Role::Standalone, "segmentstore_unflushed_bytes")? == 0.0)
        })?;
        let flushed = metric(
            cluster,
            Role::Standalone,
            "segmentstore_flushed_bytes_total",
        )?;
        cluster.kill(Role::Standalone)?;
        cluster.restart_all()?;
        for segment in ["storage/a", "storage/b"] {
            verify(&address, segment, SIZE).context("after a restart")?;
        }
        Ok((events, flushed))
    };
    match run(&mut cluster) {
        Ok((events, flushed)) => {
            println!("full-storage: {events} events, {flushed} bytes flushed, none lost");
        }
        Err(error) => panic!("{error:#}\n{}", cluster.log_tail()),
    }
}
