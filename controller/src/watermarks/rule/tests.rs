use proptest::prelude::*;

use super::*;

fn id(epoch: i32, number: i32) -> SegmentId {
    SegmentId::new(epoch, number)
}

fn epoch(number: i32) -> Option<Vec<Segment>> {
    let halves = KeyRange::FULL.split(2)?;
    let segment = |id, range| Segment { id, range };
    match number {
        0 => Some(vec![
            segment(id(0, 0), halves[0]),
            segment(id(0, 1), halves[1]),
        ]),
        // The upper half is split.
        1 => {
            let upper = halves[1].split(2)?;
            Some(vec![
                segment(id(0, 0), halves[0]),
                segment(id(1, 2), upper[0]),
                segment(id(1, 3), upper[1]),
            ])
        }
        _ => None,
    }
}

fn mark(time: i64, position: &[(SegmentId, i64)]) -> Mark {
    Mark {
        time,
        position: position.iter().copied().collect(),
        noted_ms: 0,
        gone: false,
    }
}

fn marks(of: &[(&str, Mark)]) -> BTreeMap<String, Mark> {
    of.iter()
        .map(|(name, mark)| ((*name).to_owned(), mark.clone()))
        .collect()
}

fn offsets(watermark: &Watermark) -> Vec<(SegmentId, u64)> {
    watermark
        .cut
        .iter()
        .map(|(id, _, offset)| (*id, offset.0))
        .collect()
}

#[test]
fn time_and_position_never_go_back() {
    let before = mark(10, &[(id(0, 0), 5)]);
    let noted = |after| note(Some(&before), after);
    assert_eq!(noted(before.clone()), Ok(before.clone()));
    assert_eq!(noted(mark(9, &[(id(0, 0), 6)])), Err(Backwards::Time));
    assert_eq!(noted(mark(11, &[(id(0, 0), 4)])), Err(Backwards::Position));
    assert_eq!(noted(mark(11, &[])).unwrap().position, before.position);
    assert!(noted(mark(11, &[(id(1, 2), 0)])).is_ok());
    assert_eq!(note(None, before.clone()), Ok(before));
}

#[test]
fn a_watermark_is_the_lowest_time_behind_all_positions() {
    let of = marks(&[
        ("a", mark(10, &[(id(0, 0), 5), (id(0, 1), -1)])),
        ("b", mark(30, &[(id(0, 0), 2), (id(0, 1), -1)])),
    ]);
    let watermark = judge(&of, None, 0, 0, epoch).watermark.unwrap();
    assert_eq!((watermark.lower, watermark.upper), (10, 30));
    // Nobody wrote to the second: its beginning will do, and readers understand that.
    assert_eq!(offsets(&watermark), [(id(0, 0), 5), (id(0, 1), 0)]);
    assert!(
        judge(&of, Some(&watermark), 0, 0, epoch)
            .watermark
            .is_none()
    );
}

#[test]
fn a_segment_that_was_split_is_replaced_by_its_parts() {
    let of = marks(&[
        ("a", mark(10, &[(id(0, 0), 5), (id(0, 1), 7)])),
        ("b", mark(20, &[(id(0, 0), 1), (id(1, 2), 3)])),
    ]);
    let watermark = judge(&of, None, 0, 0, epoch).watermark.unwrap();
    assert_eq!(
        offsets(&watermark),
        [(id(0, 0), 5), (id(1, 2), 3), (id(1, 3), 0)]
    );
    // The writer that got so far is forgotten: the cut stays where it was.
    let later = marks(&[("a", mark(11, &[(id(0, 0), 6), (id(0, 1), 8)]))]);
    let next = judge(&later, Some(&watermark), 0, 0, epoch)
        .watermark
        .unwrap();
    assert_eq!(
        offsets(&next),
        [(id(0, 0), 6), (id(1, 2), 3), (id(1, 3), 0)]
    );
}

#[test]
fn a_silent_writer_holds_others_back_until_its_time_is_over() {
    let before = judge(
        &marks(&[("a", mark(10, &[])), ("b", mark(10, &[]))]),
        None,
        0,
        0,
        epoch,
    );
    let before = before.watermark.unwrap();
    let mut of = marks(&[("a", mark(20, &[])), ("b", mark(10, &[]))]);
    of.get_mut("a").unwrap().noted_ms = 1_000;
    assert_eq!(
        judge(&of, Some(&before), 0, i64::MAX, epoch),
        Outcome::default()
    );
    let held = judge(&of, Some(&before), 1_000, 1_000, epoch);
    assert!(held.watermark.is_none() && held.again);
    let over = judge(&of, Some(&before), 1_000, 1_001, epoch);
    assert_eq!(over.watermark.unwrap().lower, 20);
    assert_eq!(over.forgotten, ["b"]);
}

#[test]
fn a_writer_that_left_counts_once_and_is_forgotten() {
    let mut of = marks(&[("a", mark(10, &[])), ("b", mark(20, &[]))]);
    of.get_mut("a").unwrap().gone = true;
    let first = judge(&of, None, 0, 0, epoch);
    assert!(first.again && first.forgotten.is_empty());
    let first = first.watermark.unwrap();
    assert_eq!(first.lower, 10);
    let second = judge(&of, Some(&first), 0, 0, epoch);
    assert_eq!(second.forgotten, ["a"]);
    assert_eq!(second.watermark.unwrap().lower, 20);
}

#[test]
fn a_position_in_an_epoch_that_never_was_makes_no_watermark() {
    let of = marks(&[("a", mark(10, &[(id(9, 9), 1)]))]);
    assert!(judge(&of, None, 0, 0, epoch).watermark.is_none());
    let of = marks(&[("a", mark(10, &[(SegmentId(-1), 1), (id(0, 0), 3)]))]);
    let watermark = judge(&of, None, 0, 0, epoch).watermark.unwrap();
    assert_eq!(offsets(&watermark), [(id(0, 0), 3), (id(0, 1), 0)]);
}

/// What happens in a model of writers, clock and watermarks.
#[derive(Clone, Debug)]
enum Step {
    /// A writer writes an event so much later than its last one.
    Write(usize, usize, i64),
    /// A writer notes its time and where it is.
    Note(usize),
    /// A writer says goodbye; it never writes again.
    Leave(usize),
    Wait(i64),
    Judge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writer = 0..4_usize;
    let step = prop_oneof![
        4 => (writer.clone(), 0..2_usize, 0..20_i64).prop_map(|(w, s, t)| Step::Write(w, s, t)),
        3 => writer.clone().prop_map(Step::Note),
        1 => writer.prop_map(Step::Leave),
        2 => (1..40_i64).prop_map(Step::Wait),
        4 => Just(Step::Judge),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Behind a watermark's cut there is nothing older than its lower bound, unless from a writer whose
    /// silence had lasted too long; lower bounds and cuts only rise.
    #[test]
    fn watermarks_promise_what_writers_do(steps in steps(), timeout in prop_oneof![Just(0), Just(30_i64)]) {
        let mut lengths = [0_i64; 2];
        let mut written: Vec<(usize, usize, i64, i64)> = Vec::new();
        let mut clocks = [0_i64; 4];
        let mut left = [false; 4];
        let mut rows: BTreeMap<String, Mark> = BTreeMap::new();
        let mut made: Vec<(Watermark, Vec<usize>)> = Vec::new();
        // Writers that watermarks do not wait for: without a mark at the time, as if they had not come yet.
        let mut now = 0;
        for step in steps {
            match step {
                Step::Write(writer, segment, later) if !left[writer] => {
                    clocks[writer] += later;
                    written.push((writer, segment, lengths[segment], clocks[writer]));
                    lengths[segment] += 10;
                }
                Step::Note(writer) if !left[writer] => {
                    let position = [(id(0, 0), lengths[0]), (id(0, 1), lengths[1])];
                    let mut mark = mark(clocks[writer], &position);
                    mark.noted_ms = now;
                    let name = writer.to_string();
                    let noted = note(rows.get(&name), mark).unwrap();
                    rows.insert(name, noted);
                }
                Step::Leave(writer) => {
                    left[writer] = true;
                    if let Some(mark) = rows.get_mut(&writer.to_string()) {
                        mark.gone = true;
                    }
                }
                Step::Wait(ms) => now += ms,
                Step::Judge => {
                    let before = made.last().map(|(watermark, _)| watermark);
                    let outcome = judge(&rows, before, timeout, now, epoch);
                    for writer in &outcome.forgotten {
                        rows.remove(writer);
                    }
                    if let Some(watermark) = outcome.watermark {
                        let known = rows.keys().map(|name| name.parse().unwrap());
                        made.push((watermark, known.collect()));
                    }
                }
                Step::Write(..) | Step::Note(_) => {}
            }
        }
        for pair in made.windows(2) {
            prop_assert!(pair[0].0.lower < pair[1].0.lower);
            let behind = pair[0].0.cut.iter().zip(&pair[1].0.cut);
            prop_assert!(behind.clone().all(|(a, b)| a.2 <= b.2));
        }
        for (watermark, known) in &made {
            for (writer, segment, offset, time) in &written {
                let behind = *offset as u64 >= watermark.cut[*segment].2.0;
                let promised = known.contains(writer) && behind;
                prop_assert!(!promised || *time >= watermark.lower, "{writer} {time} {watermark:?}");
            }
        }
    }

    /// Once everybody has noted the same time, it becomes a watermark, whatever was before.
    #[test]
    fn what_all_have_noted_is_said(times in prop::collection::vec(0..100_i64, 1..5)) {
        let mut rows = BTreeMap::new();
        let mut before = None;
        for (writer, time) in times.iter().enumerate() {
            rows.insert(writer.to_string(), mark(*time, &[]));
            before = judge(&rows, before.as_ref(), 0, 0, epoch).watermark.or(before);
        }
        rows.values_mut().for_each(|mark| mark.time = 100);
        let outcome = judge(&rows, before.as_ref(), 0, 0, epoch);
        prop_assert_eq!(outcome.watermark.unwrap().lower, 100);
    }
}
