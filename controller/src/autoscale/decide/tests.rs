use proptest::prelude::*;
use sarit_proto::load::Rates;

use super::*;

const POLICY: Policy = Policy {
    unit: 2,
    target: 1000,
    factor: 8,
    segments_min: 1,
};
const PACE: Pace = Pace {
    settle_ms: 30_000,
    merge_ms: 600_000,
};
const WHOLE: Origin = Origin {
    range: KeyRange::FULL,
    parts: 3,
};
const HOUR: u64 = 3_600_000;

fn segments(rates: &[f64]) -> Vec<Judged> {
    let ranges = KeyRange::FULL.split(rates.len()).unwrap();
    let judged = |(number, (range, rate)): (i32, (KeyRange, &f64))| Judged {
        id: SegmentId::new(0, number),
        range,
        rates: Rates::steady(*rate),
        peak: *rate as f32,
        first: false,
        since_ms: 0,
        origin: None,
        hot_until_ms: 0,
    };
    (0..)
        .zip(ranges.into_iter().zip(rates))
        .map(judged)
        .collect()
}

fn verdict(segments: &[Judged]) -> Verdict {
    decide(POLICY, PACE, segments, HOUR)
}

fn split(number: i32, parts: usize) -> Change {
    let segment = SegmentId::new(0, number);
    Change::Split { segment, parts }
}

fn merge(numbers: &[i32]) -> Change {
    let segments = numbers.iter().map(|number| SegmentId::new(0, *number));
    Change::Merge {
        segments: segments.collect(),
    }
}

#[test]
fn load_around_the_target_changes_nothing() {
    for rate in [400.0, 950.0, 1000.0, 1050.0, 1190.0] {
        assert_eq!(
            verdict(&segments(&[rate, rate])),
            Verdict::default(),
            "{rate}"
        );
    }
}

#[test]
fn a_segment_above_its_target_gets_as_many_parts_as_it_needs() {
    assert_eq!(verdict(&segments(&[1400.0])).changes, [split(0, 2)]);
    assert_eq!(verdict(&segments(&[4900.0])).changes, [split(0, 5)]);
    assert_eq!(verdict(&segments(&[99_000.0])).changes, [split(0, 8)]);
}

#[test]
fn three_times_the_target_is_enough_after_ten_seconds() {
    let mut new = segments(&[0.0]);
    new[0].rates = (0..10).fold(Rates::default(), |rates, _| rates.fold(5000.0, 1.0));
    assert_eq!(verdict(&new).changes, [split(0, 5)]);
    new[0].rates = (0..10).fold(Rates::default(), |rates, _| rates.fold(2500.0, 1.0));
    assert_eq!(verdict(&new), Verdict::default());
}

#[test]
fn load_that_has_gone_splits_nothing() {
    let mut past = segments(&[2000.0]);
    past[0].rates = past[0].rates.decay(15.0);
    assert!(past[0].rates.middle > 1500.0);
    assert_eq!(verdict(&past), Verdict::default());
}

#[test]
fn a_new_segment_is_left_alone_for_a_while() {
    let mut new = segments(&[4000.0]);
    new[0].since_ms = HOUR - PACE.settle_ms + 1;
    assert_eq!(verdict(&new), Verdict::default());
    new[0].first = true;
    assert_eq!(verdict(&new).changes, [split(0, 4)]);
}

#[test]
fn whoever_is_nearly_due_goes_along_but_starts_nothing() {
    assert_eq!(verdict(&segments(&[1150.0, 1150.0])), Verdict::default());
    let changes = verdict(&segments(&[1150.0, 1400.0, 1000.0])).changes;
    assert_eq!(changes, [split(1, 2), split(0, 2)]);
}

#[test]
fn idle_neighbours_become_one_but_not_fewer_than_the_minimum() {
    let idle = segments(&[0.0, 10.0, 20.0, 0.0]);
    assert_eq!(verdict(&idle).changes, [merge(&[0, 1, 2, 3])]);
    let policy = |least| Policy {
        segments_min: least,
        ..POLICY
    };
    assert_eq!(
        decide(policy(3), PACE, &idle, HOUR).changes,
        [merge(&[0, 1])]
    );
    assert_eq!(decide(policy(4), PACE, &idle, HOUR), Verdict::default());
    assert_eq!(decide(policy(9), PACE, &idle, HOUR), Verdict::default());
    assert_eq!(verdict(&segments(&[400.0, 400.0])), Verdict::default());
}

#[test]
fn only_neighbours_are_merged() {
    assert_eq!(
        verdict(&segments(&[100.0, 900.0, 100.0])),
        Verdict::default()
    );
}

#[test]
fn what_changed_within_the_window_is_not_merged() {
    let mut idle = segments(&[0.0, 0.0]);
    idle[1].since_ms = HOUR - PACE.merge_ms + 1;
    assert_eq!(verdict(&idle), Verdict::default());
    let mut was_busy = segments(&[0.0, 0.0]);
    was_busy[0].rates.long = 800.0;
    assert_eq!(verdict(&was_busy), Verdict::default());
    let mut was_busy = segments(&[0.0, 0.0]);
    was_busy[0].peak = 800.0;
    assert_eq!(verdict(&was_busy), Verdict::default());
}

#[test]
fn a_short_window_asks_only_averages_that_it_covers() {
    let mut was_busy = segments(&[0.0, 0.0]);
    was_busy[0].rates.long = 800.0;
    was_busy[0].rates.middle = 800.0;
    let pace = Pace {
        merge_ms: 20_000,
        ..PACE
    };
    assert_eq!(
        decide(POLICY, pace, &was_busy, HOUR).changes,
        [merge(&[0, 1])]
    );
}

#[test]
fn a_part_with_all_of_the_load_is_left_alone_for_ten_minutes() {
    let mut parts = segments(&[5000.0, 20.0, 20.0]);
    parts.iter_mut().for_each(|part| part.origin = Some(WHOLE));
    let found = verdict(&parts);
    assert_eq!(found.changes, []);
    assert_eq!(found.hot, [(parts[0].id, HOUR + HOT_MS)]);
    parts[0].hot_until_ms = HOUR + HOT_MS;
    assert_eq!(verdict(&parts), Verdict::default());
    // Another key has come: the split pays now.
    parts[0].hot_until_ms = 0;
    parts[2].rates = Rates::steady(900.0);
    assert_eq!(verdict(&parts).changes, [split(0, 5)]);
}

#[test]
fn the_cold_siblings_of_a_hot_key_are_not_merged() {
    let mut parts = segments(&[5000.0, 20.0, 20.0]);
    parts.iter_mut().for_each(|part| part.origin = Some(WHOLE));
    parts[0].hot_until_ms = HOUR + HOT_MS;
    assert_eq!(verdict(&parts), Verdict::default());
    (parts[0].rates, parts[0].peak) = (Rates::steady(30.0), 30.0);
    assert_eq!(verdict(&parts).changes, [merge(&[0, 1, 2])]);
}

#[test]
fn no_range_becomes_narrower_than_a_millionth() {
    let mut narrow = segments(&[9000.0]);
    let width = |parts: f64| KeyRange::from_f64(0.0, parts / f64::from(1 << 20)).unwrap();
    narrow[0].range = width(3.0);
    assert_eq!(verdict(&narrow).changes, [split(0, 3)]);
    narrow[0].range = width(1.0);
    assert_eq!(verdict(&narrow), Verdict::default());
}

#[test]
fn few_events_must_be_off_by_more_than_chance() {
    let policy = Policy {
        target: 1,
        ..POLICY
    };
    let at = |rate| decide(policy, PACE, &segments(&[rate]), HOUR);
    assert_eq!(at(1.4), Verdict::default());
    assert_eq!(at(2.0).changes, [split(0, 2)]);
}

/// Carries changes out as the controller does: equal parts, load by where the keys lie.
fn carry_out(
    segments: &[Judged],
    changes: &[Change],
    load: impl Fn(KeyRange) -> f64,
) -> Vec<Judged> {
    let mut after: Vec<Judged> = Vec::new();
    let of = |id: SegmentId| segments.iter().find(|s| s.id == id).unwrap();
    let mut gone = Vec::new();
    for change in changes {
        let (ranges, origin): (Vec<KeyRange>, _) = match change {
            Change::Split { segment, parts } => {
                gone.push(*segment);
                let range = of(*segment).range;
                let origin = Origin {
                    range,
                    parts: *parts as u32,
                };
                (range.split(*parts).unwrap(), Some(origin))
            }
            Change::Merge { segments } => {
                gone.extend(segments);
                let ranges = segments.iter().map(|id| of(*id).range);
                (
                    vec![ranges.reduce(|a, b| a.join(b).unwrap()).unwrap()],
                    None,
                )
            }
        };
        after.extend(ranges.into_iter().map(|range| Judged {
            id: SegmentId::new(1, 0),
            range,
            rates: Rates::steady(load(range)),
            peak: load(range) as f32,
            first: false,
            since_ms: 0,
            origin,
            hot_until_ms: 0,
        }));
    }
    after.extend(segments.iter().filter(|s| !gone.contains(&s.id)));
    after.sort_by_key(|segment| segment.range);
    for (number, segment) in (0..).zip(&mut after) {
        segment.id = SegmentId::new(1, number);
    }
    after
}

proptest! {
    /// However unevenly an unchanging load lies on the keys: splits come to an end, and no merge follows.
    #[test]
    fn under_unchanged_load_splits_end_and_are_never_taken_back(
        keys in prop::collection::vec((0.0..1.0_f64, 1.0..4000.0_f64), 1..60),
        factor in 1..9_u32,
    ) {
        let policy = Policy { factor, ..POLICY };
        let load = |range: KeyRange| {
            let inside = keys.iter().filter(|(at, _)| range.start().to_f64() <= *at && *at < range.end().to_f64());
            inside.map(|(_, rate)| rate).sum::<f64>()
        };
        let mut now = segments(&[load(KeyRange::FULL)]);
        let mut rounds = 0;
        loop {
            let verdict = decide(policy, PACE, &now, HOUR);
            let merged = verdict.changes.iter().any(|change| matches!(change, Change::Merge { .. }));
            prop_assert!(!merged, "{:?}", verdict.changes);
            if verdict.changes.is_empty() {
                break;
            }
            now = carry_out(&now, &verdict.changes, load);
            rounds += 1;
            prop_assert!(rounds < 40, "{} segments", now.len());
        }
    }

    /// What a merge makes is not split again under the same load.
    #[test]
    fn a_merge_is_never_followed_by_a_split(rates in prop::collection::vec(0.0..1190.0_f64, 2..20)) {
        let before = segments(&rates);
        let changes = verdict(&before).changes;
        let width = before[0].range.width();
        let load = |range: KeyRange| {
            let inside = before.iter().filter(|s| range.overlaps(s.range) && s.range.width() <= width + 1e-9);
            inside.map(|s| f64::from(s.rates.short)).sum::<f64>()
        };
        let after = carry_out(&before, &changes, load);
        let again = verdict(&after).changes;
        prop_assert!(!again.iter().any(|change| matches!(change, Change::Split { .. })), "{changes:?} {again:?}");
    }
}
