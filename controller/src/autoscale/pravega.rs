//! The rule of the official server, for those who expect its pace: setting `profile = "pravega"`.
//!
//! Every 5 s four averages are taken, over 2, 5, 10 and 20 minutes. A segment is split when the first is
//! above five times its target, the second above twice, or the third above it; it is cold when the first
//! three are below the target and the last below half of it. Nothing happens within ten minutes of a
//! segment's beginning, or of the last change asked for. Cold neighbours, at most three, become one.
//!
//! Differences: parts are counted by the same rule, but changes due at one time are made together;
//! averages are not persisted, as there, so a restart begins anew.
//!
//! Source: segmentstore/server/host `SegmentAggregates`, `AutoScaleProcessor`; controller
//! `AutoScaleTask`, as inventoried in the official repository at version 0.15.

use sarit_proto::ids::SegmentId;

use super::decide::{Change, SEGMENTS_MAX, Verdict};
use super::policy::Policy;

/// How often the averages are taken.
pub(super) const TICK_MS: u64 = 5_000;
/// Cool-down of a new segment, and mute after a change.
const QUIET_MS: u64 = 600_000;
const MINUTE_MS: u64 = 60_000;
/// Minutes of the averages.
const MINUTES: [f64; 4] = [2.0, 5.0, 10.0, 20.0];

/// The four averages of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Averages {
    rates: [f64; 4],
}

impl Averages {
    /// Takes in what was counted in `ms`.
    pub(crate) fn fold(&mut self, count: f64, ms: u64) {
        if ms == 0 {
            return;
        }
        let seconds = ms as f64 / 1000.0;
        let rate = count / seconds;
        for (average, minutes) in self.rates.iter_mut().zip(MINUTES) {
            // An average without a past starts where the load is.
            if *average == 0.0 {
                *average = rate;
                continue;
            }
            let weight = 1.0 - (-seconds / 60.0 / minutes).exp();
            *average += weight * (rate - *average);
        }
    }
}

/// A segment as this rule sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) id: SegmentId,
    pub(crate) averages: Averages,
    pub(crate) since_ms: u64,
    /// When a change of it was asked for last; 0 never.
    pub(crate) asked_ms: u64,
}

/// Judges a stream's active segments, sorted by range.
pub(crate) fn decide(policy: Policy, segments: &[Seen], now_ms: u64) -> Verdict {
    let mut verdict = Verdict::default();
    let mut room = SEGMENTS_MAX.saturating_sub(segments.len());
    for segment in segments.iter().filter(|segment| is_free(segment, now_ms)) {
        let parts = parts(policy, segment, now_ms).min(room + 1);
        if parts >= 2 {
            room -= parts - 1;
            let segment = segment.id;
            verdict.changes.push(Change::Split { segment, parts });
        }
    }
    if !verdict.changes.is_empty() {
        return verdict;
    }
    let mut spare = segments
        .len()
        .saturating_sub(policy.segments_min.max(1) as usize);
    let mut rest = segments;
    while !rest.is_empty() {
        let cold = rest.iter().take(3.min(spare + 1));
        let run = cold
            .take_while(|segment| is_cold(policy, segment, now_ms))
            .count();
        if run >= 2 {
            let segments = rest[..run].iter().map(|segment| segment.id).collect();
            verdict.changes.push(Change::Merge { segments });
            spare -= run - 1;
        }
        rest = &rest[run.max(1)..];
    }
    verdict
}

fn is_free(segment: &Seen, now_ms: u64) -> bool {
    let muted = segment.asked_ms > 0 && now_ms.saturating_sub(segment.asked_ms) < QUIET_MS;
    !muted && now_ms.saturating_sub(segment.since_ms) > QUIET_MS
}

fn parts(policy: Policy, segment: &Seen, now_ms: u64) -> usize {
    let age = now_ms.saturating_sub(segment.since_ms);
    let target = f64::from(policy.target);
    let [two, five, ten, _] = segment.averages.rates;
    let hot = (two > 5.0 * target && age > 2 * MINUTE_MS)
        || (five > 2.0 * target && age > 5 * MINUTE_MS)
        || (ten > target && age > 10 * MINUTE_MS);
    if !hot {
        return 0;
    }
    let asked = (two.max(five).max(ten) / target).floor().max(2.0);
    asked.min(f64::from(policy.factor.max(2))) as usize
}

fn is_cold(policy: Policy, segment: &Seen, now_ms: u64) -> bool {
    let target = f64::from(policy.target);
    let [two, five, ten, twenty] = segment.averages.rates;
    is_free(segment, now_ms)
        && now_ms.saturating_sub(segment.since_ms) > 20 * MINUTE_MS
        && two.max(five).max(ten) < target
        && twenty < target / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        unit: 2,
        target: 100,
        factor: 4,
        segments_min: 1,
    };

    fn seen(number: i32, rate: f64) -> Seen {
        let mut averages = Averages::default();
        averages.fold(rate * 5.0, TICK_MS);
        Seen {
            id: SegmentId::new(0, number),
            averages,
            since_ms: 0,
            asked_ms: 0,
        }
    }

    #[test]
    fn a_hot_segment_waits_for_ten_minutes() {
        let hot = [seen(0, 700.0)];
        assert_eq!(decide(POLICY, &hot, QUIET_MS), Verdict::default());
        let later = decide(POLICY, &hot, QUIET_MS + 1).changes;
        let (segment, parts) = (hot[0].id, 4);
        assert_eq!(later, [Change::Split { segment, parts }]);
    }

    #[test]
    fn a_change_asked_for_mutes_the_segment() {
        let mut hot = seen(0, 700.0);
        hot.asked_ms = 700_000;
        assert_eq!(decide(POLICY, &[hot], 1_299_999), Verdict::default());
        assert!(!decide(POLICY, &[hot], 1_300_000).changes.is_empty());
    }

    #[test]
    fn at_most_three_cold_neighbours_become_one_and_never_below_the_minimum() {
        let cold: Vec<Seen> = (0..5).map(|number| seen(number, 30.0)).collect();
        let now = 20 * MINUTE_MS + 1;
        let merged = |least| {
            let policy = Policy {
                segments_min: least,
                ..POLICY
            };
            let changes = decide(policy, &cold, now).changes;
            let sizes = changes.iter().map(|change| match change {
                Change::Merge { segments } => segments.len(),
                Change::Split { .. } => 0,
            });
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(merged(1), [3, 2]);
        assert_eq!(merged(3), [3]);
        assert_eq!(merged(4), [2]);
        assert_eq!(merged(5), Vec::<usize>::new());
        assert!(decide(POLICY, &cold, now - 1).changes.is_empty());
    }
}
