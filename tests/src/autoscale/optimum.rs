//! The fewest changes with which one who knows the whole load beforehand could serve it.
//!
//! The bounds are the promises of our own rule, with some time to act: no segment above 1.2 times its
//! target for more than 90 s; no neighbours that could be one, below 70 % of a target together, for more
//! than 15 minutes, unless the policy's minimum keeps them. Segments are taken to share the load evenly,
//! which favours the optimum. A change may split every segment into as many parts as the policy allows,
//! or merge as many as it likes.

use super::Scenario;

/// Seconds that an overload may last.
const OVERLOAD: usize = 90;
/// Seconds that segments may stay which could be merged.
const WASTE: usize = 900;
/// More segments are never needed here.
const SEGMENTS_MAX: usize = 32;

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Optimum {
    /// Changes of the stream.
    pub changes: usize,
}

/// Returns the optimum for a scenario.
pub fn optimum(scenario: &Scenario) -> Optimum {
    let loads = scenario.loads();
    let least = scenario.segments_min as usize;
    let factor = scenario.factor.max(2) as usize;
    let impossible = usize::MAX;
    let mut cost = vec![impossible; SEGMENTS_MAX + 1];
    cost[least] = 0;
    for now in 0..loads.len() {
        let (low, high) = (lowest(&loads, now), highest(&loads, now, least));
        let before = cost.clone();
        for (count, cheapest) in cost.iter_mut().enumerate().skip(1) {
            *cheapest = impossible;
            if count < low.max(least) || count > high.max(low).max(least) {
                continue;
            }
            for (from, paid) in before
                .iter()
                .enumerate()
                .filter(|(_, paid)| **paid < impossible)
            {
                let step = usize::from(from != count);
                if count <= from * factor {
                    *cheapest = (*cheapest).min(paid + step);
                }
            }
        }
    }
    let changes = cost.into_iter().min().unwrap_or(0);
    Optimum { changes }
}

/// Returns how many segments there must be, because the load has asked for them long enough.
fn lowest(loads: &[f64], now: usize) -> usize {
    let Some(from) = now.checked_sub(OVERLOAD) else {
        return 1;
    };
    let lasting = loads[from..=now].iter().copied().fold(f64::MAX, f64::min);
    ((lasting / 1.2).ceil() as usize).max(1)
}

/// Returns how many there may be, because the load has asked for them not too long ago.
fn highest(loads: &[f64], now: usize, least: usize) -> usize {
    let Some(from) = now.checked_sub(WASTE) else {
        return SEGMENTS_MAX;
    };
    let recent = loads[from..=now].iter().copied().fold(0.0, f64::max);
    ((2.0 * recent / 0.7).floor() as usize).max(least)
}

#[cfg(test)]
mod tests {
    use super::super::load::SCENARIOS;
    use super::*;

    #[test]
    fn the_optimum_of_a_step_is_to_double_as_often_as_it_must() {
        let step = SCENARIOS
            .iter()
            .find(|scenario| scenario.name == "step")
            .unwrap();
        // 5 / 1.2 needs five segments, one split makes at most four.
        assert_eq!(optimum(step).changes, 2);
        let wide = Scenario {
            factor: 8,
            ..step.clone()
        };
        assert_eq!(optimum(&wide).changes, 1);
    }

    #[test]
    fn steady_load_needs_no_change() {
        let steady = SCENARIOS
            .iter()
            .filter(|scenario| scenario.name.starts_with("steady"));
        assert!(
            steady
                .map(|scenario| optimum(scenario).changes)
                .all(|changes| changes == 0)
        );
    }
}
