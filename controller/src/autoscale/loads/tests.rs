use super::*;

const POLICY: Policy = Policy {
    unit: 2,
    target: 100,
    factor: 4,
    segments_min: 1,
};
const START: u64 = 1_000_000;
const WINDOW: u64 = 600_000;

fn first(count: usize) -> Epoch {
    Epoch::first(count, 0, 0).unwrap()
}

fn split(parts: usize, number: i32) -> Epoch {
    let ranges = KeyRange::FULL.split(parts).unwrap();
    let segments = (0..).zip(ranges).map(|(n, range)| Segment {
        id: SegmentId::new(number, n),
        range,
    });
    Epoch {
        number,
        reference: number,
        created_ms: START as i64,
        segments: segments.collect(),
    }
}

/// Counters of a store that began `seconds` ago and counted so much each second.
fn counted(rate: f64, seconds: u32) -> Reported {
    Reported {
        rates: (0..seconds).fold(Rates::default(), |rates, _| rates.fold(rate, 1.0)),
        age_ms: u64::from(seconds) * 1000,
        total: rate * f64::from(seconds),
    }
}

fn rates(loads: &Loads, now_ms: u64) -> Vec<Rates> {
    let judged = loads.clone().judged(now_ms, WINDOW);
    judged.iter().map(|judged| judged.rates).collect()
}

fn near(a: f32, b: f64) -> bool {
    (f64::from(a) - b).abs() < 0.02 * b.max(1.0)
}

#[test]
fn parts_inherit_by_their_share_and_go_on_from_there() {
    let mut loads = Loads::new(POLICY, &first(1), None, START);
    let id = SegmentId::new(0, 0);
    assert!(loads.report(id, counted(400.0, 3600), START));
    loads.adopt(&split(4, 1), START);
    for rates in rates(&loads, START) {
        assert!(
            near(rates.long, 100.0) && near(rates.now, 100.0),
            "{rates:?}"
        );
    }
    // A minute later the same load, as counters say that began at the split.
    let now = START + 60_000;
    for number in 0..4 {
        loads.report(SegmentId::new(1, number), counted(100.0, 60), now);
    }
    for rates in rates(&loads, now) {
        assert!(
            near(rates.long, 100.0) && near(rates.middle, 100.0),
            "{rates:?}"
        );
    }
    let origin = loads.judged(now, WINDOW)[2].origin;
    let (range, parts) = (KeyRange::FULL, 4);
    assert_eq!(origin, Some(Origin { range, parts }));
}

#[test]
fn a_merged_segment_has_the_load_of_all_and_no_origin() {
    let mut loads = Loads::new(POLICY, &first(2), None, START);
    loads.report(SegmentId::new(0, 0), counted(10.0, 3600), START);
    loads.report(SegmentId::new(0, 1), counted(20.0, 3600), START);
    loads.adopt(&split(1, 1), START);
    let judged = loads.judged(START, WINDOW);
    assert_eq!(judged.len(), 1);
    assert!(near(judged[0].rates.long, 30.0) && judged[0].origin.is_none());
}

#[test]
fn a_store_that_begins_anew_makes_no_load_vanish() {
    let mut loads = Loads::new(POLICY, &first(1), None, START);
    let id = SegmentId::new(0, 0);
    loads.report(id, counted(100.0, 3600), START);
    // Away for five minutes, then back for ten seconds.
    let now = START + 310_000;
    loads.report(id, counted(100.0, 10), now);
    let seen = rates(&loads, now)[0];
    assert!(
        near(seen.long, 100.0) && near(seen.short, 100.0),
        "{seen:?}"
    );
}

#[test]
fn silence_is_idleness() {
    let mut loads = Loads::new(POLICY, &first(1), None, START);
    loads.report(SegmentId::new(0, 0), counted(100.0, 3600), START);
    assert!(near(rates(&loads, START + 6_000)[0].short, 100.0));
    assert!(rates(&loads, START + 66_000)[0].short < 1.0);
}

#[test]
fn a_restart_remembers_and_counts_nothing_twice() {
    let mut loads = Loads::new(POLICY, &first(1), None, START);
    let id = SegmentId::new(0, 0);
    loads.report(id, counted(100.0, 60), START);
    let saved = loads.saved(&"scope/stream".parse().unwrap(), START);
    assert_eq!(SavedLoads::decode(&saved.encode()).unwrap(), saved);
    // The store went on counting: its averages say all there is.
    let now = START + 20_000;
    let mut same = Loads::new(POLICY, &first(1), Some(&saved), now);
    assert!(near(rates(&same, now)[0].middle, 63.2));
    same.report(id, counted(100.0, 80), now);
    assert!(
        near(rates(&same, now)[0].middle, 73.6),
        "{:?}",
        rates(&same, now)
    );
    // The store was restarted too: what was saved is all there is of the past.
    let mut new = Loads::new(POLICY, &first(1), Some(&saved), now);
    new.report(id, counted(100.0, 5), now);
    assert!(
        near(rates(&new, now)[0].middle, 71.2),
        "{:?}",
        rates(&new, now)
    );
}

#[test]
fn what_transactions_write_to_a_replaced_segment_counts_for_its_successors_once() {
    let mut loads = Loads::new(POLICY, &first(1), None, START);
    let id = SegmentId::new(0, 0);
    loads.report(id, counted(100.0, 3600), START);
    loads.adopt(&split(2, 1), START);
    assert!(near(rates(&loads, START)[0].short, 50.0));
    // Nothing more is written: what was inherited fades.
    let now = START + 60_000;
    let idle = Reported {
        rates: counted(100.0, 3600).rates.decay(60.0),
        age_ms: 3_660_000,
        total: 360_000.0,
    };
    loads.report(id, idle, now);
    assert!(
        rates(&loads, now)[0].short < 1.0,
        "{:?}",
        rates(&loads, now)
    );
    // As much as ever is written, by transactions alone.
    loads.report(id, counted(100.0, 3660), now);
    assert!(
        near(rates(&loads, now)[0].short, 50.0),
        "{:?}",
        rates(&loads, now)
    );
}

#[test]
fn a_peak_is_remembered_for_the_window() {
    let mut peaks = Peaks::default();
    peaks.note(7.0, 0, 400);
    for now_ms in [100, 200, 399, 400] {
        peaks.note(1.0, now_ms, 400);
        assert_eq!(peaks.highest(), 7.0, "{now_ms}");
    }
    peaks.note(1.0, 500, 400);
    assert_eq!(peaks.highest(), 1.0);
    peaks.note(2.0, 1_000_000, 400);
    assert_eq!(peaks.highest(), 2.0);
}

#[test]
fn an_unknown_segment_is_said_to_be_unknown() {
    let mut loads = Loads::new(POLICY, &first(1), None, START);
    assert!(!loads.report(SegmentId::new(7, 7), counted(1.0, 1), START));
}
