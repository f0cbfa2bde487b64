//! Damaged files: what was acknowledged is never lost silently, what was torn is cut.

use super::*;
use crate::local::file::{FileHeader, FileState};
use crate::record::BLOCK;

/// Writes `frames` (log, body length) one by one, then kills the process. Returns the file they are in
/// and where in it each lane write begins, the idle header behind the last one included.
async fn written(sim: &Sim, frames: &[(u32, usize)]) -> (PathBuf, Vec<u64>) {
    let wal = sim.open().await.unwrap();
    let mut logs = BTreeMap::new();
    for (id, _) in frames {
        if !logs.contains_key(id) {
            logs.insert(*id, wal.open_log(LogId(*id)).await.unwrap().log);
        }
    }
    for (byte, (id, len)) in frames.iter().enumerate() {
        store(&logs[id], byte as u8, *len).await;
        // Lets the lane write its idle header.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    sim.disk.kill_process();
    let _ = wal.close().await;
    let path = Sim::dir().join("0000000000000001.wal");
    let bytes = sim.image().await.remove(&path).unwrap();
    let blocks = (0..bytes.len()).step_by(BLOCK as usize);
    let writes = blocks.filter(|at| bytes[*at..].starts_with(b"SLAN"));
    (path, writes.map(|at| at as u64).collect())
}

async fn refusal(wal: &Wal, log: u32) -> Error {
    match wal.open_log(LogId(log)).await {
        Ok(mut opened) => replayed(&mut opened).await.expect_err("the log is damaged"),
        Err(error) => error,
    }
}

#[tokio::test(start_paused = true)]
async fn damage_before_a_later_write_is_corruption_of_the_logs_it_hit() {
    let sim = Sim::new(1);
    let frames = [(1, 100), (2, 100), (1, 100), (2, 100)];
    let (path, writes) = written(&sim, &frames).await;
    assert_eq!(writes.len(), 5);
    // A byte of the body of the second write.
    sim.disk.flip_bit(&path, writes[1] + 150, 3).unwrap();
    for life in 0..3 {
        let wal = sim.open().await.unwrap();
        let error = refusal(&wal, 2).await;
        let Error::Corrupt { file, offset, .. } = &error else {
            panic!("life {life}: {error}")
        };
        assert_eq!((file, *offset), (&path, writes[1] + 40));
        let mut one = wal.open_log(LogId(1)).await.unwrap();
        assert_eq!(replayed(&mut one).await.unwrap().len(), 2 + life);
        store(&one.log, 9, 10).await;
        sim.disk.kill_process();
        let _ = wal.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_damaged_lane_is_overwritten() {
    // In the body of log 2's frame, and in the header of its lane write.
    for at in [150, 8] {
        let sim = Sim::new(1);
        let (path, writes) = written(&sim, &[(1, 100), (2, 100), (1, 100)]).await;
        sim.disk.flip_bit(&path, writes[1] + at, 3).unwrap();
        let before = sim.image().await[&path].clone();
        let wal = sim.open().await.unwrap();
        let log = wal.open_log(LogId(1)).await.unwrap().log;
        assert!(matches!(refusal(&wal, 2).await, Error::Corrupt { .. }));
        for _ in 0..40 {
            let last = store(&log, 1, 20_000).await;
            log.truncate(last).await.unwrap();
        }
        let after = &sim.image().await[&path];
        assert!(after[BLOCK as usize..] == before[BLOCK as usize..], "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn damage_to_the_last_write_is_noticed_thanks_to_the_idle_header() {
    let sim = Sim::new(1);
    let (path, writes) = written(&sim, &[(1, 100), (1, 100)]).await;
    sim.disk.flip_bit(&path, writes[1] + 150, 3).unwrap();
    let wal = sim.open().await.unwrap();
    assert!(matches!(refusal(&wal, 1).await, Error::Corrupt { .. }));
}

/// The residual gap: with nothing behind it, damage cannot be told from a write cut short.
#[tokio::test(start_paused = true)]
async fn damage_to_the_last_write_without_a_witness_looks_torn_and_is_cut() {
    let sim = Sim::new(1);
    let (path, writes) = written(&sim, &[(1, 100), (1, 100)]).await;
    sim.disk.flip_bit(&path, writes[1] + 150, 3).unwrap();
    sim.disk.flip_bit(&path, writes[2], 0).unwrap();
    let wal = sim.open().await.unwrap();
    let mut opened = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut opened).await.unwrap(), [(1, 0, 100)]);
    // A cut stays a cut, even when the bytes heal: their number is taken.
    assert_eq!(store(&opened.log, 7, 100).await, FrameNo(2));
    sim.disk.flip_bit(&path, writes[1] + 150, 3).unwrap();
    sim.disk.flip_bit(&path, writes[2], 0).unwrap();
    let wal = sim.restart(wal).await;
    let mut opened = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(
        replayed(&mut opened).await.unwrap(),
        [(1, 0, 100), (2, 7, 100)]
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_stretch_stops_only_the_logs_that_may_have_been_in_it() {
    let sim = Sim::new(1);
    let frames = [
        (1, 100),
        (2, 100),
        (3, 100),
        (4, 100),
        (1, 100),
        (2, 100),
        (2, 50),
    ];
    let (path, writes) = written(&sim, &frames).await;
    // The lane header of log 2's first frame: which logs had frames there cannot be read.
    sim.disk.flip_bit(&path, writes[1] + 8, 0).unwrap();
    let wal = sim.open().await.unwrap();
    // Log 1 goes on behind it with a frame that names its predecessor; log 2 misses one.
    let mut one = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut one).await.unwrap().len(), 2);
    let error = refusal(&wal, 2).await;
    assert!(
        matches!(&error, Error::Corrupt { offset, .. } if *offset == writes[1]),
        "{error}"
    );
    // Logs 3 and 4 begin behind it with their first frame.
    for log in [3, 4] {
        let mut opened = wal.open_log(LogId(log)).await.unwrap();
        assert_eq!(replayed(&mut opened).await.unwrap().len(), 1);
    }
    // A log that never was has lost nothing.
    assert!(wal.open_log(LogId(9)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_log_whose_end_may_have_been_in_an_unreadable_stretch_is_refused() {
    let sim = Sim::new(1);
    let (path, writes) = written(&sim, &[(1, 100), (2, 100), (3, 100), (3, 100)]).await;
    sim.disk.flip_bit(&path, writes[2], 0).unwrap();
    let wal = sim.open().await.unwrap();
    for log in [1, 2, 3] {
        assert!(
            matches!(refusal(&wal, log).await, Error::Corrupt { .. }),
            "log {log}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_header_stops_the_logs_in_it() {
    let sim = Sim::new(1);
    let (path, _) = written(&sim, &[(1, 100)]).await;
    sim.disk.flip_bit(&path, 60, 0).unwrap();
    let wal = sim.open().await.unwrap();
    let error = refusal(&wal, 1).await;
    assert!(
        error
            .to_string()
            .contains("0000000000000001.wal is corrupt at byte 0"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn damage_in_a_full_file_shows_in_the_replay() {
    let sim = Sim::new(1);
    let wal = sim.open().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    for byte in 0..8 {
        store(&log, byte, 20_000).await;
    }
    sim.disk.kill_process();
    let _ = wal.close().await;
    let path = Sim::dir().join("0000000000000001.wal");
    sim.disk.flip_bit(&path, 4096 + 5000, 0).unwrap();
    let wal = sim.open().await.unwrap();
    let error = refusal(&wal, 1).await;
    assert!(
        matches!(&error, Error::Corrupt { file, .. } if *file == path),
        "{error}"
    );
}

/// The lane had moved on, but the end of the full file was not on record yet.
#[tokio::test(start_paused = true)]
async fn the_next_file_knows_where_the_one_before_ends() {
    let sim = Sim::new(1);
    let (path, writes) = written(&sim, &[(1, 30_000), (2, 1_000), (1, 25_000)]).await;
    let mut header = sim.image().await[&path].clone();
    header.truncate(BLOCK as usize);
    let mut header = FileHeader::decode(&header, &path).unwrap().unwrap();
    assert_eq!(header.state, FileState::Closed { end: writes[2] });
    header.state = FileState::Active { reach: BLOCK };
    let file = sim.disk.open(&path, OpenMode::ReadWrite).await.unwrap();
    file.write_at(0, &[header.encode()]).await.unwrap();
    // The idle header that is still there would tell too.
    file.write_at(writes[2], &[vec![0; 40].into()])
        .await
        .unwrap();
    sim.disk.flip_bit(&path, writes[1] + 150, 0).unwrap();
    let wal = sim.open().await.unwrap();
    assert!(matches!(refusal(&wal, 2).await, Error::Corrupt { .. }));
    let mut one = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut one).await.unwrap().len(), 2);
}

/// A header without a reach is an earlier release's: the proof may be anywhere in the file.
#[tokio::test(start_paused = true)]
async fn proof_is_looked_for_up_to_the_reach_of_a_file_and_without_one_to_its_end() {
    for (reach, refused) in [(u64::MAX, true), (36_864, true), (32_768, false)] {
        let sim = Sim::new(1);
        let (path, writes) = written(&sim, &[(1, 100), (1, 10_000), (1, 10_000), (1, 100)]).await;
        assert_eq!(writes[3..], [32_768, 36_864]);
        let header = sim.image().await[&path][..BLOCK as usize].to_vec();
        let mut header = FileHeader::decode(&header, &path).unwrap().unwrap();
        assert_eq!(header.state, FileState::Active { reach: 40_960 });
        header.state = FileState::Active { reach };
        let file = sim.disk.open(&path, OpenMode::ReadWrite).await.unwrap();
        let mut bytes = header.encode().to_vec();
        if reach == u64::MAX {
            // As it was written: nothing.
            header.state = FileState::Ready;
            let ready = header.encode();
            bytes[80..96].copy_from_slice(&ready[80..96]);
            let crc = crate::record::crc32c(&bytes[..96]);
            bytes[96..100].copy_from_slice(&crc.to_le_bytes());
        }
        file.write_at(0, &[bytes.into()]).await.unwrap();
        // All that lies between is unreadable.
        for at in &writes[1..3] {
            sim.disk.flip_bit(&path, at + 8, 0).unwrap();
        }
        sim.disk.flip_bit(&path, writes[4] + 8, 0).unwrap();
        let wal = sim.open().await.unwrap();
        let opened = match wal.open_log(LogId(1)).await {
            Ok(mut opened) => replayed(&mut opened).await,
            Err(error) => Err(error),
        };
        match opened {
            Err(Error::Corrupt { offset, .. }) => {
                assert!(refused, "{reach}");
                assert_eq!(offset, writes[1]);
            }
            Ok(frames) => {
                assert!(!refused, "{reach}");
                assert_eq!(frames.len(), 1);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_noticed() {
    let sim = Sim::new(1);
    let wal = sim.open().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    for byte in 0..12 {
        store(&log, byte, 20_000).await;
    }
    sim.disk.kill_process();
    let _ = wal.close().await;
    sim.disk
        .remove(&Sim::dir().join("0000000000000002.wal"))
        .await
        .unwrap();
    let wal = sim.open().await.unwrap();
    assert!(matches!(refusal(&wal, 1).await, Error::Corrupt { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_lost_chain_record_is_noticed() {
    let sim = Sim::new(1);
    written(&sim, &[(1, 100)]).await;
    sim.disk
        .remove(&Path::new(DIR).join("chain/1"))
        .await
        .unwrap();
    let wal = sim.open().await.unwrap();
    let error = refusal(&wal, 1).await;
    assert!(
        error.to_string().starts_with("chain/1 is corrupt"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_newer_format_and_another_stores_files_are_refused() {
    let sim = Sim::new(1);
    let (path, _) = written(&sim, &[(1, 100)]).await;
    sim.disk.flip_bit(&path, 5, 0).unwrap();
    let error = sim.open().await.unwrap_err();
    assert!(
        matches!(error, Error::FutureVersion { found: 257, .. }),
        "{error}"
    );
    sim.disk.flip_bit(&path, 5, 0).unwrap();
    let disk = Arc::new(sim.disk.clone());
    let (clock, rng) = (Clock::from_fn(|| 0), Rng::seeded(1));
    let other = Wal::open_local(disk, Path::new(DIR), Config::tiny(), [8; 16], clock, rng).await;
    assert!(matches!(other, Err(Error::ForeignFile { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_ends_the_log_for_good() {
    let sim = Sim::new(1);
    let wal = sim.open().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    store(&log, 1, 100).await;
    // The keeper may use up some of them.
    sim.disk.set_faults(DiskFaults {
        syncs_until_error: Some(0),
        ..DiskFaults::default()
    });
    let failed = append(&log, 2, 100, Priority::Data).await;
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    // The disk is fine again; the log is not.
    sim.disk.set_faults(DiskFaults::default());
    let later = append(&log, 3, 100, Priority::Data).await;
    assert!(matches!(later, Err(Error::Io { .. })), "{later:?}");
    assert!(matches!(wal.failed().await, Error::Io { .. }));
    assert!(wal.open_log(LogId(2)).await.is_err());
    assert!(wal.close().await.is_err());
    sim.disk.cut_power();
    let wal = sim.open().await.unwrap();
    let mut opened = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut opened).await.unwrap()[0], (1, 1, 100));
}

/// One damaged sector anywhere: a log replays all it acknowledged, or is refused. Never less, never more.
#[tokio::test(start_paused = true)]
async fn no_single_fault_loses_or_invents_anything_silently() {
    let sim = Sim::new(1);
    let wal = sim.open().await.unwrap();
    let mut logs = Vec::new();
    for log in 0..3 {
        logs.push(wal.open_log(LogId(log)).await.unwrap().log);
    }
    let rng = Rng::seeded(5);
    let mut stored = vec![Vec::new(); 3];
    for round in 0..24_u8 {
        let (log, len) = (rng.below(3) as usize, rng.below(9_000) as usize + 1);
        let number = store(&logs[log], round, len).await.0;
        stored[log].push((number, round, len));
        if rng.chance(0.3) {
            tokio::task::yield_now().await;
        }
    }
    // Lets the lane write its idle header.
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.disk.kill_process();
    let _ = wal.close().await;
    let image = sim.image().await;
    let files: Vec<_> = image.keys().cloned().collect();
    let (mut refused, mut whole) = (0, 0);
    for _ in 0..120 {
        let mut image = image.clone();
        let file = &files[rng.below(files.len() as u64) as usize];
        let bytes = image.get_mut(file).unwrap();
        let at = rng.below(bytes.len() as u64) as usize;
        if rng.chance(0.5) {
            bytes[at] ^= 1 << rng.below(8);
        } else {
            let sector = at - at % 512;
            let end = bytes.len().min(sector + 512);
            bytes[sector..end].fill(0);
        }
        let sim = crash_states::sim_with(&image).await;
        let Ok(wal) = sim.open().await else {
            refused += 3;
            continue;
        };
        for (log, stored) in stored.iter().enumerate() {
            let replay = match wal.open_log(LogId(log as u32)).await {
                Ok(mut opened) => replayed(&mut opened).await,
                Err(error) => Err(error),
            };
            match replay {
                Ok(frames) => {
                    assert_eq!(&frames, stored, "log {log}, {} at {at}", file.display());
                    whole += 1;
                }
                Err(Error::Corrupt { .. } | Error::FutureVersion { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(
        refused > 30 && whole > 30,
        "{refused} refused, {whole} whole"
    );
}
