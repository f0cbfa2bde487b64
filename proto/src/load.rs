//! How much is written to a segment: rates that forget, each over a time of its own.
//!
//! Pure, with no clock of its own: whoever counts says how long it counted. Both sides of a load report
//! use it, so that a controller can go on where a store's counters stop.
//!
//! A rate is an exponentially decaying average. Averages of this kind add up: two segments' rates are
//! the rates of their union, and one that started at a known value is that value, decayed, plus the one
//! that started at zero. Inheritance and restarts are built on that.

use std::ops::{Add, Mul};

/// Averages of one quantity per second, 16 bytes a segment.
///
/// A step is seen in full after about three times a rate's time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Over 3 s: what it is now, too noisy to act on alone.
    pub now: f32,
    /// Over 10 s.
    pub short: f32,
    /// Over 60 s.
    pub middle: f32,
    /// Over 10 min.
    pub long: f32,
}

/// Seconds over which [`Rates::now`] forgets.
pub const NOW_SECONDS: f64 = 3.0;
/// Seconds over which [`Rates::short`] forgets.
pub const SHORT_SECONDS: f64 = 10.0;
/// Seconds over which [`Rates::middle`] forgets.
pub const MIDDLE_SECONDS: f64 = 60.0;
/// Seconds over which [`Rates::long`] forgets.
pub const LONG_SECONDS: f64 = 600.0;

impl Rates {
    /// Returns the rates after `seconds` more in which `count` was counted, evenly.
    #[must_use]
    pub fn fold(self, count: f64, seconds: f64) -> Self {
        if seconds <= 0.0 {
            return self;
        }
        let rate = count / seconds;
        let next = |old: f32, time: f64| {
            let kept = (-seconds / time).exp();
            (f64::from(old) * kept + rate * (1.0 - kept)) as f32
        };
        Self {
            now: next(self.now, NOW_SECONDS),
            short: next(self.short, SHORT_SECONDS),
            middle: next(self.middle, MIDDLE_SECONDS),
            long: next(self.long, LONG_SECONDS),
        }
    }

    /// Returns the rates after `seconds` in which nothing happened.
    #[must_use]
    pub fn decay(self, seconds: f64) -> Self {
        self.fold(0.0, seconds)
    }

    /// Returns the rates of something that always had this one.
    pub fn steady(rate: f64) -> Self {
        let rate = rate as f32;
        Self {
            now: rate,
            short: rate,
            middle: rate,
            long: rate,
        }
    }

    /// Returns the highest of the four.
    pub fn max(self) -> f32 {
        self.now.max(self.short).max(self.middle).max(self.long)
    }

    /// Returns whether all are numbers that a counter can have made.
    pub fn is_sane(self) -> bool {
        [self.now, self.short, self.middle, self.long]
            .iter()
            .all(|rate| rate.is_finite() && *rate >= 0.0)
    }
}

impl Add for Rates {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            now: self.now + other.now,
            short: self.short + other.short,
            middle: self.middle + other.middle,
            long: self.long + other.long,
        }
    }
}

impl Mul<f64> for Rates {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        let times = |rate: f32| (f64::from(rate) * factor) as f32;
        Self {
            now: times(self.now),
            short: times(self.short),
            middle: times(self.middle),
            long: times(self.long),
        }
    }
}

impl std::iter::Sum for Rates {
    fn sum<I: Iterator<Item = Self>>(rates: I) -> Self {
        rates.fold(Self::default(), Self::add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: Rates, b: Rates) -> bool {
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-3 * (1.0 + a.abs().max(b.abs()));
        near(a.now, b.now)
            && near(a.short, b.short)
            && near(a.middle, b.middle)
            && near(a.long, b.long)
    }

    #[test]
    fn a_step_is_seen_as_far_as_each_rate_remembers() {
        let mut rates = Rates::default();
        for _ in 0..10 {
            rates = rates.fold(100.0, 1.0);
        }
        assert!((rates.short - 63.2).abs() < 0.1, "{rates:?}");
        assert!(rates.now > 96.0 && rates.middle < 16.0 && rates.long < 2.0);
        assert!(rates.decay(3600.0).max() < 0.01);
    }

    #[test]
    fn no_time_changes_nothing() {
        let rates = Rates::steady(5.0);
        assert_eq!(rates.fold(1e9, 0.0), rates);
        assert!(rates.is_sane() && !Rates::steady(f64::NAN).is_sane());
        assert!(!Rates::steady(-1.0).is_sane());
    }

    proptest! {
        #[test]
        fn one_long_count_is_many_short_ones(rate in 0.0..1e6_f64, seconds in 1..60_u32) {
            let long = Rates::steady(7.0).fold(rate * f64::from(seconds), seconds.into());
            let short = (0..seconds).fold(Rates::steady(7.0), |rates, _| rates.fold(rate, 1.0));
            prop_assert!(close(long, short), "{long:?} {short:?}");
        }

        #[test]
        fn a_known_start_only_adds_its_decay(counts in prop::collection::vec(0.0..1e5_f64, 1..50)) {
            let count = |from: Rates| counts.iter().fold(from, |rates, count| rates.fold(*count, 1.0));
            let known = Rates::steady(500.0);
            let added = known.decay(counts.len() as f64) + count(Rates::default());
            prop_assert!(close(count(known), added));
        }
    }
}
