//! The simulated world: controller, segment store and clients in one thread, crashes and power cuts
//! from one seed.
//!
//! `SARIT_WORLDS=1000` runs more worlds, `SARIT_SEED=42` one of them. With `--cfg planted="…"` the
//! product carries a bug on purpose, and `planted_bugs_are_found` must find it within 200 worlds.

mod raw;
mod world;

use world::{Report, World};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64) -> Report {
    World::new(seed).run()
}

#[cfg(not(any(
    planted = "ack_before_sync",
    planted = "skip_sync",
    planted = "skip_dedupe",
    planted = "speculative_reply"
)))]
mod sound {
    use super::*;

    /// Worlds in CI.
    const WORLDS: u64 = 60;

    #[test]
    fn no_world_breaks_a_promise() {
        let seeds: Vec<u64> = match setting("SARIT_SEED") {
            Some(seed) => vec![seed],
            None => (1..=setting("SARIT_WORLDS").unwrap_or(WORLDS)).collect(),
        };
        let (mut crashes, mut dropped, mut acknowledged) = (0, 0, 0);
        for seed in &seeds {
            let report = run(*seed);
            assert!(
                report.breaches.is_empty(),
                "SARIT_SEED={seed}: {:#?}",
                report.breaches
            );
            assert!(
                report.dropped > 0,
                "SARIT_SEED={seed}: no crash dropped unsynced bytes"
            );
            assert!(
                report.acknowledged > 0,
                "SARIT_SEED={seed}: nothing was acknowledged"
            );
            crashes += report.crashes;
            dropped += report.dropped;
            acknowledged += report.acknowledged;
        }
        println!(
            "{} worlds: {acknowledged} events acknowledged, {crashes} crashes, {dropped} unsynced bytes dropped, \
             0 promises broken",
            seeds.len()
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
        for seed in [1, 2, 3] {
            let (first, second) = (run(seed), run(seed));
            let difference = first
                .trace
                .iter()
                .zip(&second.trace)
                .position(|(a, b)| a != b);
            if let Some(at) = difference {
                let near = |trace: &[String]| trace[at.saturating_sub(3)..=at].join("\n");
                panic!(
                    "seed {seed} parts at line {at}:\n{}\n--\n{}",
                    near(&first.trace),
                    near(&second.trace)
                );
            }
            assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
            assert_ne!(first.trace, run(seed + 100).trace, "seed {seed}");
        }
    }

    #[test]
    fn a_disk_that_lies_about_syncs_is_found_out() {
        let found = (1..=20).find(|seed| {
            let report = World::new(*seed).with_lying_disk().run();
            !report.breaches.is_empty()
        });
        assert!(
            found.is_some(),
            "20 worlds without a single sync lost nothing: the worlds prove nothing"
        );
    }
}

#[cfg(any(
    planted = "ack_before_sync",
    planted = "skip_sync",
    planted = "skip_dedupe",
    planted = "speculative_reply"
))]
#[test]
fn planted_bugs_are_found() {
    /// Worlds within which a planted bug must be found.
    const WORLDS_PLANTED: u64 = 200;
    let found = (1..=WORLDS_PLANTED).find(|seed| !run(*seed).breaches.is_empty());
    println!("planted bug found in world {found:?}");
    assert!(found.is_some(), "not found in {WORLDS_PLANTED} worlds");
}
