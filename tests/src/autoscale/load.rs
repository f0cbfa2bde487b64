//! The loads that auto-scaling must follow, or leave alone.

use sarit_env::Rng;
use sarit_proto::key_range::KeyRange;

use super::SECONDS;

/// One load on one stream.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// How the load changes with time.
    pub shape: Shape,
    /// How it lies on the keys.
    pub keys: Keys,
    /// What one segment should get, events per second.
    pub target: u32,
    /// Into how many a segment is split at most.
    pub factor: u32,
    /// How many segments there are at least.
    pub segments_min: u32,
    /// When the load changes first: reaction times count from here.
    pub begins: u32,
    /// What is promised of it.
    pub promise: Promise,
}

/// What is promised of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// No change at all.
    Still,
    /// No change after minute 10.
    StillAfterTenMinutes,
    /// At most 1.5 times the changes of an offline optimum.
    NearOptimum,
}

/// Load over time, in multiples of the target.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Always the same.
    Steady(f64),
    /// The first, then the second from a second on.
    Step(f64, f64, u32),
    /// From the first to the second, evenly, between two seconds.
    Ramp(f64, f64, u32, u32),
    /// The first, but the second between two seconds.
    Spike(f64, f64, u32, u32),
    /// Around a middle, so far up and down, with a period in seconds; begins at the bottom.
    Sine(f64, f64, u32),
}

/// How load lies on the keys.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// Evenly: very many keys.
    Even,
    /// So many keys, the n-th with a share as 1/n.
    Zipf(u32),
    /// One key gets this many times the target, beside an even load.
    OneHot(f64),
}

/// All scenarios, each half an hour.
pub const SCENARIOS: [Scenario; 9] = [
    scenario(
        "step",
        Shape::Step(0.5, 5.0, 300),
        300,
        Promise::NearOptimum,
    ),
    scenario(
        "ramp",
        Shape::Ramp(0.5, 8.0, 120, 1_500),
        120,
        Promise::NearOptimum,
    ),
    scenario(
        "spike",
        Shape::Spike(0.8, 6.0, 300, 420),
        300,
        Promise::NearOptimum,
    ),
    scenario(
        "sine",
        Shape::Sine(3.0, 2.5, 1_800),
        0,
        Promise::NearOptimum,
    ),
    Scenario {
        keys: Keys::Zipf(1_000),
        ..scenario("zipf", Shape::Steady(6.0), 0, Promise::StillAfterTenMinutes)
    },
    Scenario {
        keys: Keys::OneHot(5.0),
        ..scenario(
            "hot key",
            Shape::Steady(0.5),
            0,
            Promise::StillAfterTenMinutes,
        )
    },
    Scenario {
        segments_min: 3,
        ..scenario("steady 0.95", Shape::Steady(3.0 * 0.95), 0, Promise::Still)
    },
    Scenario {
        segments_min: 3,
        ..scenario("steady 1.05", Shape::Steady(3.0 * 1.05), 0, Promise::Still)
    },
    Scenario {
        segments_min: 3,
        target: 2,
        ..scenario(
            "steady 1.05, 2/s",
            Shape::Steady(3.0 * 1.05),
            0,
            Promise::Still,
        )
    },
];

const fn scenario(name: &'static str, shape: Shape, begins: u32, promise: Promise) -> Scenario {
    Scenario {
        name,
        shape,
        keys: Keys::Even,
        target: 100,
        factor: 4,
        segments_min: 1,
        begins,
        promise,
    }
}

impl Shape {
    /// Returns the load in a second, in multiples of the target.
    pub fn at(self, second: u32) -> f64 {
        let t = f64::from(second);
        match self {
            Self::Steady(load) => load,
            Self::Step(before, after, from) => {
                if second < from {
                    before
                } else {
                    after
                }
            }
            Self::Ramp(before, after, from, to) => {
                let part = (t - f64::from(from)) / f64::from(to - from);
                before + (after - before) * part.clamp(0.0, 1.0)
            }
            Self::Spike(base, peak, from, to) => {
                if (from..to).contains(&second) {
                    peak
                } else {
                    base
                }
            }
            Self::Sine(middle, swing, period) => {
                let turn = t / f64::from(period) * std::f64::consts::TAU;
                middle - swing * turn.cos()
            }
        }
    }
}

impl Scenario {
    /// Returns the load of every second, in multiples of the target.
    pub fn loads(&self) -> Vec<f64> {
        let hot = match self.keys {
            Keys::OneHot(times) => times,
            Keys::Even | Keys::Zipf(_) => 0.0,
        };
        (0..SECONDS)
            .map(|second| self.shape.at(second) + hot)
            .collect()
    }
}

/// Draws how many events each range gets, with Poisson noise.
pub(super) struct Counts {
    scenario: Scenario,
    /// Where single keys lie, and the share of the load that each has.
    keys: Vec<(f64, f64)>,
    rng: Rng,
}

impl Counts {
    pub(super) fn new(scenario: &Scenario, rng: Rng) -> Self {
        let keys = match scenario.keys {
            Keys::Even => Vec::new(),
            Keys::OneHot(_) => vec![(rng.f64(), 1.0)],
            Keys::Zipf(count) => {
                let all: f64 = (1..=count).map(|n| 1.0 / f64::from(n)).sum();
                let share = |n: u32| (rng.f64(), 1.0 / f64::from(n) / all);
                (1..=count).map(share).collect()
            }
        };
        Self {
            scenario: scenario.clone(),
            keys,
            rng,
        }
    }

    /// Draws the number of events for a range in a second.
    pub(super) fn of(&mut self, range: KeyRange, second: u32) -> u64 {
        let load = self.scenario.shape.at(second);
        let inside = self
            .keys
            .iter()
            .filter(|(at, _)| (range.start().to_f64()..range.end().to_f64()).contains(at));
        let keyed: f64 = inside.map(|(_, share)| share).sum();
        let load = match self.scenario.keys {
            Keys::Even => load * range.width(),
            Keys::Zipf(_) => load * keyed,
            Keys::OneHot(times) => load * range.width() + times * keyed,
        };
        self.poisson(load * f64::from(self.scenario.target))
    }

    /// Counts how many exponential gaps of mean 1 fit.
    fn poisson(&mut self, mean: f64) -> u64 {
        let mut left = mean;
        let mut count = 0;
        loop {
            left += (1.0 - self.rng.f64()).ln();
            if left < 0.0 {
                return count;
            }
            count += 1;
        }
    }
}
