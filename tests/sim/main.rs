//! The simulated world: controller, segment store and clients in one thread, crashes and power cuts
//! from one seed.
//!
//! `SARIT_WORLDS=1000` runs more worlds, `SARIT_SEED=42` one of them. With `cargo xtask planted` the
//! product carries a bug on purpose, and `planted_bugs_are_found` must find it within 300 worlds, from
//! `SARIT_SEED` on.

mod by_hand;
mod clients;
mod fickle;
mod head;
mod plan;
mod raw;
mod scaling;
mod subscriber;
mod transactions;
mod world;

use world::{ALONE, Report, World};

fn run(seed: u64) -> Report {
    World::new(seed).run()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[cfg(not(planted))]
mod sound {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Worlds in CI.
    const WORLDS: u64 = 60;

    /// Collects what is logged.
    #[derive(Clone)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Log {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// Runs a world with everything that the product logs.
    fn run_logged(seed: u64) -> (Report, String) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = tracing_subscriber::fmt()
            // Not hyper's and h2's, nor their bytes: gRPC answers carry the date of the real world.
            .with_env_filter("off,sarit=trace,sarit_client=trace,sarit_container=trace,sarit_controller=trace,sarit_segmentstore=trace,sarit_wal=trace,turmoil=trace")
            .without_time()
            .with_ansi(false)
            .with_writer(Log(Arc::clone(&log)))
            .finish();
        let report = tracing::subscriber::with_default(lines, || run(seed));
        let log = std::mem::take(&mut *log.lock());
        let log = String::from_utf8_lossy(&log);
        let grpc = format!(":{}", world::CONTROLLER);
        (
            report,
            log.lines()
                .filter(|line| !line.contains(&grpc))
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }

    #[test]
    fn no_world_breaks_a_promise() {
        let _alone = ALONE.lock();
        let seeds: Vec<u64> = match setting("SARIT_SEED") {
            Some(seed) => vec![seed],
            None => (1..=setting("SARIT_WORLDS").unwrap_or(WORLDS)).collect(),
        };
        let mut sum = Report::default();
        for seed in &seeds {
            let report = run(*seed);
            if !report.breaches.is_empty() {
                let end = &report.trace[report.trace.len().saturating_sub(30)..];
                let breaches = report.breaches.join("\n");
                panic!("SARIT_SEED={seed}:\n{breaches}\n{}", end.join("\n"));
            }
            assert!(
                report.dropped > 0,
                "SARIT_SEED={seed}: no crash dropped unsynced bytes"
            );
            assert!(
                report.acknowledged > 0,
                "SARIT_SEED={seed}: nothing was acknowledged"
            );
            sum.crashes += report.crashes;
            sum.dropped += report.dropped;
            sum.acknowledged += report.acknowledged;
            sum.scaled += report.scaled;
            sum.committed += report.committed;
            sum.aborted += report.aborted;
            sum.truncated += report.truncated;
            sum.published += report.published;
            sum.resent += report.resent;
            sum.refused += report.refused;
        }
        println!(
            "{} worlds: {} events acknowledged, {} crashes, {} unsynced bytes dropped, {} splits and merges, {} transactions committed, \
             {} aborted, {} truncations, {} cuts of subscribers, {} repetitions and {} refused \
             conditional appends answered, 0 promises broken",
            seeds.len(),
            sum.acknowledged,
            sum.crashes,
            sum.dropped,
            sum.scaled,
            sum.committed,
            sum.aborted,
            sum.truncated,
            sum.published,
            sum.resent,
            sum.refused
        );
        let many = seeds.len() >= 20;
        assert!(!many || sum.scaled > 0, "no world scaled its stream");
        assert!(
            !many || sum.committed > 0 && sum.aborted > 0 && sum.truncated > 0,
            "no world committed, aborted or truncated"
        );
        assert!(!many || sum.published > 0, "no subscriber published a cut");
        assert!(
            !many || sum.resent > 0 && sum.refused > 0,
            "the writer by hand never looked where other clients do not"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
        let _alone = ALONE.lock();
        for seed in [1, 2, 3] {
            let ((first, log), (second, log_again)) = (run_logged(seed), run_logged(seed));
            let lines = log.lines().zip(log_again.lines()).enumerate();
            if let Some((at, _)) = lines.clone().find(|(_, (a, b))| a != b) {
                let near = |log: &str| {
                    let lines = log.lines().skip(at.saturating_sub(5)).take(8);
                    lines.collect::<Vec<_>>().join("\n")
                };
                panic!(
                    "seed {seed} parts at line {at}:\n{}\n--\n{}",
                    near(&log),
                    near(&log_again)
                );
            }
            assert_eq!(log.len(), log_again.len(), "seed {seed}");
            assert_eq!(first.trace, second.trace, "seed {seed}");
            assert_ne!(first.trace, run(seed + 100).trace, "seed {seed}");
        }
    }

    #[test]
    fn a_disk_that_lies_about_syncs_is_found_out() {
        let _alone = ALONE.lock();
        let breaches = |seed| World::new(seed).with_lying_disk().run().breaches;
        let found = (1..=20).find_map(|seed| breaches(seed).pop());
        let found = found.expect("20 worlds without a sync lost nothing: they prove nothing");
        println!("a lying disk: {found}");
    }
}

#[cfg(planted)]
#[test]
fn planted_bugs_are_found() {
    let _alone = ALONE.lock();
    /// Worlds within which a planted bug must be found.
    const WORLDS_PLANTED: usize = 300;
    let first = setting("SARIT_SEED").unwrap_or(1);
    let mut seeds = (first..).take(WORLDS_PLANTED);
    let found = seeds.find_map(|seed| Some((seed, run(seed).breaches.pop()?)));
    let (seed, breach) = found.unwrap_or_else(|| panic!("not found in {WORLDS_PLANTED} worlds"));
    println!("planted bug found in world {seed}: {breach}");
}
