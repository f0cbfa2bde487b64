//! What goes wrong in a world, when, and how much is written.

use std::time::Duration;

use sarit_env::Rng;
use sarit_env::sim::SimDisk;
use sarit_tests::history::EVENT_MIN;

use crate::world::{Phase, SharedRef};

/// How long a crash that is to hit the middle of a write waits for one.
const MID_WRITE_WAIT_MAX: Duration = Duration::from_millis(500);

/// What will go wrong, and how much is written.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) writers: u32,
    pub(crate) keys: u32,
    pub(crate) segments: u32,
    pub(crate) event_bytes: usize,
    pub(crate) in_flight: usize,
    /// Whether somebody writes transactions.
    pub(crate) transactions: bool,
    /// Whether there is a second stream, whose head moves.
    pub(crate) truncated: bool,
    /// Whether somebody writes through old and new writers in turn.
    pub(crate) fickle: bool,
    crashes: u64,
    pause_max_ms: u64,
}

impl Plan {
    pub(crate) fn draw(rng: &Rng) -> Self {
        Self {
            writers: 1 + rng.below(3) as u32,
            keys: 1 + rng.below(8) as u32,
            segments: 1 + rng.below(3) as u32,
            event_bytes: EVENT_MIN + [0, 100, 5_000][rng.below(3) as usize],
            in_flight: [1, 8, 64][rng.below(3) as usize],
            // Not all in every world: each costs as much as all the rest.
            transactions: rng.chance(0.4),
            truncated: rng.chance(0.3),
            fickle: rng.chance(0.3),
            crashes: 2 + rng.below(4),
            pause_max_ms: [300, 2_000][rng.below(2) as usize],
        }
    }

    /// Steps the world to its end, or to the first broken promise, crashing hosts on the way.
    pub(crate) fn drive(
        &self,
        sim: &mut turmoil::Sim<'_>,
        disk: &SimDisk,
        shared: &SharedRef,
        rng: &Rng,
    ) -> turmoil::Result {
        let soon = |sim: &turmoil::Sim<'_>, max: u64| {
            sim.elapsed() + Duration::from_millis(1 + rng.below(max))
        };
        let mut crashes_left = self.crashes;
        let mut crash_at = soon(sim, 2_000) + Duration::from_secs(1);
        let mut back_at = None;
        let (mut host, mut mid_write) = ("store", true);
        while !sim.step()? {
            if back_at.is_some_and(|at| sim.elapsed() >= at) {
                back_at = None;
                sim.bounce(host);
                crash_at = soon(sim, self.pause_max_ms) + Duration::from_millis(100);
                let mut shared = shared.lock();
                shared.report.trace.push(format!("{host} is back"));
                match shared.phase {
                    Phase::Audit => shared.phase = Phase::Read,
                    Phase::Chaos if crashes_left == 0 && disk.stats().dropped > 0 => {
                        shared.phase = Phase::Drain;
                    }
                    // Every world drops something: go on until one does.
                    Phase::Chaos if crashes_left == 0 => crashes_left = 1,
                    _ => {}
                }
                continue;
            }
            // Nothing crashes before there is something to lose.
            let (phase, writing, broken) = {
                let shared = shared.lock();
                let broken = !shared.report.breaches.is_empty();
                (shared.phase, shared.history.acknowledged() > 0, broken)
            };
            if broken {
                return Ok(());
            }
            let audit = phase == Phase::Audit;
            let chaos = phase == Phase::Chaos && writing && crashes_left > 0;
            // Mostly in the middle of a write: a power cut at another moment has nothing to drop.
            let late = sim.elapsed().checked_sub(crash_at);
            let due = chaos
                && late.is_some_and(|late| {
                    !mid_write || disk.unsynced() > 0 || late > MID_WRITE_WAIT_MAX
                });
            if back_at.is_some() || !(audit || due) {
                continue;
            }
            crashes_left -= u64::from(due);
            mid_write = rng.chance(0.7);
            host = if audit || rng.chance(0.8) {
                "store"
            } else {
                "controller"
            };
            sim.crash(host);
            if host == "store" {
                if audit || rng.chance(0.7) {
                    disk.cut_power()
                } else {
                    disk.kill_process()
                }
            }
            back_at = Some(soon(sim, 300));
            let mut shared = shared.lock();
            shared.report.crashes += 1;
            let stats = disk.stats();
            shared
                .report
                .trace
                .push(format!("{:?} {host} crashes, {stats:?}", sim.elapsed()));
        }
        Ok(())
    }
}
