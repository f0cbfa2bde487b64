//! Files that are reused, and what happens when there is no room for another.

use super::*;

async fn file_bytes(sim: &Sim) -> u64 {
    let files = sim.disk.list(&Sim::dir()).await.unwrap();
    files.iter().map(|file| file.len).sum()
}

#[tokio::test]
async fn truncated_files_are_reused_and_their_old_frames_stay_dead() {
    let sim = Sim::new(1);
    let mut wal = sim.open().await.unwrap();
    let mut next = 1;
    for life in 0..10u8 {
        let mut opened = wal.open_log(LogId(1)).await.unwrap();
        let frames = replayed(&mut opened).await.unwrap();
        assert_eq!(frames.last().map_or(1, |frame| frame.0 + 1), next);
        for _ in 0..20 {
            // All lives put the same lengths at the same places.
            next = store(&opened.log, life, 9_000).await.0 + 1;
            opened.log.truncate(FrameNo(next - 1)).await.unwrap();
        }
        wal = sim.restart(wal).await;
    }
    let mut opened = wal.open_log(LogId(1)).await.unwrap();
    let frames = replayed(&mut opened).await.unwrap();
    assert!(frames.len() <= 7, "{frames:?}");
    // 200 frames of 9 kB went through a handful of files.
    assert!(file_bytes(&sim).await <= 6 * (64 << 10));
}

#[tokio::test]
async fn one_log_that_keeps_an_old_frame_keeps_only_its_file() {
    let sim = Sim::new(1);
    let wal = sim.open().await.unwrap();
    let idle = wal.open_log(LogId(1)).await.unwrap().log;
    store(&idle, 1, 100).await;
    let busy = wal.open_log(LogId(2)).await.unwrap().log;
    for _ in 0..100 {
        let last = store(&busy, 2, 9_000).await;
        busy.truncate(last).await.unwrap();
    }
    assert!(file_bytes(&sim).await <= 6 * (64 << 10));
    let wal = sim.restart(wal).await;
    let mut idle = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut idle).await.unwrap(), [(1, 1, 100)]);
    let mut busy = wal.open_log(LogId(2)).await.unwrap();
    assert_eq!(replayed(&mut busy).await.unwrap().last().unwrap().0, 100);
}

async fn fill(wal: &Wal, log: &DurableLog) -> Vec<AppendTicket> {
    let mut space = wal.space();
    let mut tickets = Vec::new();
    while *space.borrow_and_update() == Space::Ok {
        assert!(tickets.len() < 60, "the disk never fills");
        tickets.push(append(log, 1, 20_000, Priority::Data));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tickets
}

#[tokio::test(start_paused = true)]
async fn at_the_quota_events_wait_and_truncation_frees_them() {
    let mut sim = Sim::new(1);
    sim.config.quota_bytes = Some(4 * (64 << 10));
    let wal = sim.open().await.unwrap();
    let full = wal.open_log(LogId(1)).await.unwrap().log;
    let other = wal.open_log(LogId(2)).await.unwrap().log;
    let tickets = fill(&wal, &full).await;
    let reason = wal.space().borrow().clone();
    assert!(
        matches!(&reason, Space::Full { reason } if reason.contains("quota")),
        "{reason:?}"
    );
    let count = tickets.len() as u64;
    let durable = full.durable();
    assert!(durable < FrameNo(count), "{durable} of {count}");
    // Others' exempt frames pass; each takes a block, and forty are within the reserve.
    for _ in 0..40 {
        append(&other, 2, 100, Priority::Exempt).await.unwrap();
    }
    assert_eq!(full.durable(), durable);
    assert_ne!(*wal.space().borrow(), Space::Ok);
    other.truncate(FrameNo(41)).await.unwrap();
    full.truncate(durable).await.unwrap();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(*wal.space().borrow(), Space::Ok);
    let wal = sim.restart(wal).await;
    let mut again = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut again).await.unwrap().last().unwrap().0, count);
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_an_exempt_frame_takes_those_before_it_along() {
    let mut sim = Sim::new(1);
    sim.faults.capacity = 700 << 10;
    let wal = sim.start().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    let waiting = fill(&wal, &log).await;
    let other = wal.open_log(LogId(2)).await.unwrap().log;
    let event = append(&other, 1, 100, Priority::Data);
    let before = log.durable();
    append(&log, 2, 100, Priority::Exempt).await.unwrap();
    assert_eq!(log.durable().0, waiting.len() as u64 + 1);
    assert!(log.durable() > before);
    assert_eq!(other.durable(), FrameNo(0));
    // Someone makes room: the next look, a second later, lets the event through.
    sim.disk.set_faults(DiskFaults::default());
    event.await.unwrap();
    assert_eq!(*wal.space().borrow(), Space::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_full_fails_what_waits_and_loses_nothing_acknowledged() {
    let mut sim = Sim::new(1);
    sim.config.quota_bytes = Some(4 * (64 << 10));
    let wal = sim.open().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    let tickets = fill(&wal, &log).await;
    wal.close().await.unwrap();
    let mut acked = 0;
    for ticket in tickets {
        acked += u64::from(ticket.await.is_ok());
    }
    let wal = sim.open().await.unwrap();
    let mut again = wal.open_log(LogId(1)).await.unwrap();
    assert_eq!(replayed(&mut again).await.unwrap().len() as u64, acked);
}

#[tokio::test]
async fn an_owner_that_never_waits_is_stopped() {
    let sim = Sim::new(1);
    let wal = sim.open().await.unwrap();
    let log = wal.open_log(LogId(1)).await.unwrap().log;
    let tickets: Vec<_> = (0..70)
        .map(|_| append(&log, 1, 1, Priority::Data))
        .collect();
    let mut outcomes = Vec::new();
    for ticket in tickets {
        outcomes.push(ticket.await);
    }
    assert!(outcomes[..64].iter().all(Result::is_ok));
    assert!(
        outcomes[64..]
            .iter()
            .all(|o| matches!(o, Err(Error::TooManyInFlight { .. })))
    );
}

#[tokio::test(start_paused = true)]
async fn zeros_are_written_ahead_only_for_a_lane_that_leaves_time_for_it() {
    // A tiny file has three frames, and five writes of its header.
    for (pause, times) in [(0, 1.0..1.5), (1, 2.0..3.0)] {
        let sim = Sim::new(1);
        let wal = sim.open().await.unwrap();
        let log = wal.open_log(LogId(1)).await.unwrap().log;
        let (mut before, mut bytes) = (0, 0.0);
        for round in 0..60 {
            if round == 20 {
                // The first files are made before anybody knows how fast it will go.
                before = sim.disk.stats().written;
            }
            store(&log, 1, 16_000).await;
            if pause > 0 {
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
            bytes += if round < 20 { 0.0 } else { 16_384.0 };
        }
        let written = (sim.disk.stats().written - before) as f64 / bytes;
        assert!(
            times.contains(&written),
            "{written} times with pauses of {pause} s"
        );
    }
}

/// Each crash takes a file that was ready, and what is made ready in its place must not stand in the way.
#[tokio::test(start_paused = true)]
async fn a_start_writes_no_zeros_before_it_serves_and_some_afterwards() {
    let mut sim = Sim::new(1);
    sim.config = Config::default();
    let mut wal = sim.open().await.unwrap();
    for life in 0..6 {
        let log = wal.open_log(LogId(1)).await.unwrap().log;
        let before = sim.disk.stats().written;
        store(&log, life, 100).await;
        let written = sim.disk.stats().written - before;
        assert!(written < 8 << 20, "life {life}: {written} bytes");
        wal = sim.restart(wal).await;
    }
    let before = sim.disk.stats().written;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = sim.disk.stats().written - before;
    assert!(written > 60 << 20, "{written} bytes");
}

/// Uses the reserve up, and returns how many exempt frames it took.
async fn use_reserve(log: &DurableLog) -> u64 {
    for count in 0..60 {
        let ticket = append(log, 2, 20_000, Priority::Exempt);
        match tokio::time::timeout(Duration::from_secs(10), ticket).await {
            Ok(stored) => drop(stored.unwrap()),
            Err(_) => return count,
        }
    }
    panic!("the reserve has no end");
}

#[tokio::test(start_paused = true)]
async fn without_reserve_exempt_frames_wait_and_the_lane_does_not_spin() {
    let mut sim = Sim::new(1);
    sim.config.quota_bytes = Some(4 * (64 << 10));
    let wal = sim.open().await.unwrap();
    let full = wal.open_log(LogId(1)).await.unwrap().log;
    let other = wal.open_log(LogId(2)).await.unwrap().log;
    let tickets = fill(&wal, &full).await;
    let used = use_reserve(&other).await;
    assert!(used >= 6, "{used} frames of 20 kB in a reserve of 256 KiB");
    full.truncate(full.durable()).await.unwrap();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    while other.durable().0 <= used {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_to_the_reserve_is_not_used_for_events() {
    let mut sim = Sim::new(1);
    sim.config.quota_bytes = Some(4 * (64 << 10));
    let wal = sim.open().await.unwrap();
    let full = wal.open_log(LogId(1)).await.unwrap().log;
    let other = wal.open_log(LogId(2)).await.unwrap().log;
    let _tickets = fill(&wal, &full).await;
    let durable = full.durable();
    for _ in 0..4 {
        append(&other, 2, 20_000, Priority::Exempt).await.unwrap();
    }
    for _ in 0..20 {
        let stored = append(&other, 2, 20_000, Priority::Exempt).await.unwrap();
        other.truncate(stored.number()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(full.durable(), durable);
    assert_ne!(*wal.space().borrow(), Space::Ok);
}
