//! When segments are split and joined: a pure function of rates, policy, age and time.
//!
//! *Split*: three times the target over 10 s, or a fifth more than it over 60 s, into as many parts as
//! the target asks for. Once a split is due, neighbours in need that are nearly due go along, because
//! one change of a stream costs its clients as much as another.
//!
//! *Merge*: neighbours that together stayed below 70 % of the target for the whole window, and that have
//! not changed for as long. A merge takes a split back, so it also asks whether that split still pays:
//! what it divided must fit into one part less. Hence under unchanged load no split is ever followed by
//! a merge, and no merge by a split, however unevenly the load lies on the keys.
//!
//! *One hot key*: a key cannot be split. If a part carries 90 % of what its split divided, the split was
//! of no use, and that part is left alone for ten minutes; then the question is asked again.
//!
//! What a rate of few events says is uncertain: see [`Judge::noise`].

use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::load::{LONG_SECONDS, MIDDLE_SECONDS, NOW_SECONDS, Rates, SHORT_SECONDS};

use super::policy::Policy;

/// A segment that gets this many times its target is split after seconds: nothing that lasts ten
/// seconds at three times is noise, and backlogs of that size hurt readers soon.
const SPLIT_FAST: f64 = 3.0;
/// What a segment may get for a minute before it is split. Below it a split in two would leave parts
/// that the next dip makes candidates for a merge.
const SPLIT_SLOW: f64 = 1.2;
/// From here on a segment goes along with another's split. Above 1, or the parts would be too small.
const SPLIT_ALONG: f64 = 1.05;
/// What a merged segment may get at most: far enough below [`SPLIT_SLOW`] that ordinary daily load
/// does not reach from one to the other.
const MERGE_BELOW: f64 = 0.7;
/// The share of a split's load by which one part shows that the split was of no use.
const HOT_SHARE: f64 = 0.9;
/// How long a part with one hot key is left alone. Keys come and go in minutes at the soonest.
const HOT_MS: u64 = 600_000;
/// Narrower ranges are not made: they hold a millionth of the keys, so one of them is hot.
const WIDTH_MIN: f64 = 1.0 / (1 << 20) as f64;
/// Standard deviations by which few events must be off before it counts. With some ten independent
/// looks a minute, this is wrong once in years.
const NOISE_DEVIATIONS: f64 = 5.0;
/// Most segments of a stream, as its configuration has it.
pub(super) const SEGMENTS_MAX: usize = 10_000;

/// How fast to react, as an operator may set it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    /// Milliseconds for which a new segment is left alone, whatever it gets.
    pub(crate) settle_ms: u64,
    /// Milliseconds for which segments must be idle before they are merged.
    pub(crate) merge_ms: u64,
}

/// A segment of the active epoch, as it is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Judged {
    pub(crate) id: SegmentId,
    pub(crate) range: KeyRange,
    /// In the policy's unit.
    pub(crate) rates: Rates,
    /// The highest rate within the window for merges, over 60 s, or 10 s if the window is shorter.
    pub(crate) peak: f32,
    /// Whether it was there from the stream's beginning: then it need not settle.
    pub(crate) first: bool,
    /// When it began; the clock's milliseconds, as `now`.
    pub(crate) since_ms: u64,
    /// The split that it came from, `None` if from none.
    pub(crate) origin: Option<Origin>,
    /// Until when it is left alone because of one hot key.
    pub(crate) hot_until_ms: u64,
}

/// A split, as its parts remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// What was split.
    pub(crate) range: KeyRange,
    /// Into how many.
    pub(crate) parts: u32,
}

/// One change of a key range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Replace the segment by parts of equal width.
    Split { segment: SegmentId, parts: usize },
    /// Replace neighbours, lowest first, by one.
    Merge { segments: Vec<SegmentId> },
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// All of them belong into one scaling.
    pub(crate) changes: Vec<Change>,
    /// Segments with one hot key, found now, and until when they are left alone.
    pub(crate) hot: Vec<(SegmentId, u64)>,
}

/// Judges a stream's active segments, sorted by range.
pub(crate) fn decide(policy: Policy, pace: Pace, segments: &[Judged], now_ms: u64) -> Verdict {
    let judge = Judge::new(policy, pace, segments, now_ms);
    let mut verdict = Verdict::default();
    judge.splits(&mut verdict);
    // One kind at a time: whoever needs more room should not wait for a merge, and a merge can wait.
    if verdict.changes.is_empty() {
        judge.merges(&mut verdict);
    }
    verdict
}

struct Judge<'a> {
    policy: Policy,
    pace: Pace,
    segments: &'a [Judged],
    now_ms: u64,
    /// Loads of the segments before each, and of all: short, and over the window.
    sums: Vec<[f64; 2]>,
}

const SHORT: usize = 0;
const OVER_WINDOW: usize = 1;

/// A rate and the seconds over which it forgets.
type Seen = (f64, f64);

fn all(rates: Rates) -> [Seen; 4] {
    [
        (rates.now.into(), NOW_SECONDS),
        (rates.short.into(), SHORT_SECONDS),
        (rates.middle.into(), MIDDLE_SECONDS),
        (rates.long.into(), LONG_SECONDS),
    ]
}

/// Returns the highest that a segment's load was within the window for merges: by its peak, and by the
/// averages that the window covers, which also know what was before a restart.
fn over_window(rates: Rates, peak: f32, pace: Pace) -> f64 {
    let window = pace.merge_ms as f64 / 1000.0;
    let [_, short, rest @ ..] = all(rates);
    let covered = rest.iter().filter(|(_, seconds)| *seconds <= window);
    let highest = covered.fold(short.0, |highest, (rate, _)| highest.max(*rate));
    highest.max(peak.into())
}

impl<'a> Judge<'a> {
    fn new(policy: Policy, pace: Pace, segments: &'a [Judged], now_ms: u64) -> Self {
        let mut sums = Vec::with_capacity(segments.len() + 1);
        let mut sum = [0.0; 2];
        sums.push(sum);
        for segment in segments {
            sum[SHORT] += f64::from(segment.rates.short);
            sum[OVER_WINDOW] += over_window(segment.rates, segment.peak, pace);
            sums.push(sum);
        }
        Self {
            policy,
            pace,
            segments,
            now_ms,
            sums,
        }
    }

    fn splits(&self, verdict: &mut Verdict) {
        let target = f64::from(self.policy.target);
        let due = |fast: f64, slow: f64, segment: &Judged| {
            let [(now, _), short, middle, _] = all(segment.rates);
            let fast = self.surely(short, fast * target);
            let slow = self.surely(middle, slow * target);
            // It must still be so: an average remembers load that has gone.
            (fast && now >= target) || (slow && short.0 >= target)
        };
        let mut room = SEGMENTS_MAX.saturating_sub(self.segments.len());
        let mut any = false;
        let (mut urgent, mut along) = (Vec::new(), Vec::new());
        for segment in self.segments.iter().filter(|s| self.may_split(s)) {
            if due(SPLIT_FAST, SPLIT_SLOW, segment) {
                urgent.push(segment);
            } else if due(SPLIT_FAST, SPLIT_ALONG, segment) {
                along.push(segment);
            }
        }
        for (segment, needed) in
            (urgent.iter().map(|s| (s, true))).chain(along.iter().map(|s| (s, false)))
        {
            if !needed && !any {
                break;
            }
            if self.is_hot_key(segment) {
                let until = self.now_ms + HOT_MS;
                verdict.hot.push((segment.id, until));
                continue;
            }
            let parts = self.parts(segment).min(room + 1);
            if parts >= 2 {
                room -= parts - 1;
                any = true;
                let segment = segment.id;
                verdict.changes.push(Change::Split { segment, parts });
            }
        }
    }

    fn may_split(&self, segment: &Judged) -> bool {
        let settled = segment.first || self.age(segment) >= self.pace.settle_ms;
        settled && segment.hot_until_ms <= self.now_ms
    }

    fn age(&self, segment: &Judged) -> u64 {
        self.now_ms.saturating_sub(segment.since_ms)
    }

    /// Returns into how many the segment should be split, less than 2 if it cannot be.
    fn parts(&self, segment: &Judged) -> usize {
        let rate = f64::from(segment.rates.now.max(segment.rates.short));
        let wanted = (rate / f64::from(self.policy.target)).ceil().max(2.0);
        let narrowest = (segment.range.width() / WIDTH_MIN).floor();
        let most = f64::from(self.policy.factor.max(2)).min(narrowest);
        // All are small whole numbers: at most the factor.
        wanted.min(most) as usize
    }

    /// Whether the segment has nearly all of what the split that made it divided.
    fn is_hot_key(&self, segment: &Judged) -> bool {
        let Some(origin) = segment.origin else {
            return false;
        };
        let whole = self.within(origin.range, SHORT);
        f64::from(segment.rates.short) >= HOT_SHARE * whole
    }

    /// Returns the load on a range, from segments on its edge in part. `which` of the sums it is.
    fn within(&self, range: KeyRange, which: usize) -> f64 {
        let first = self
            .segments
            .partition_point(|s| s.range.end() <= range.start());
        let end = self
            .segments
            .partition_point(|s| s.range.start() < range.end());
        if first >= end {
            return 0.0;
        }
        let load = |index: usize| self.sums[index + 1][which] - self.sums[index][which];
        let outside = |index: usize| {
            let segment = self.segments[index].range;
            let below = (range.start().to_f64() - segment.start().to_f64()).max(0.0);
            let above = (segment.end().to_f64() - range.end().to_f64()).max(0.0);
            (below + above) / segment.width()
        };
        let mut sum = self.sums[end][which] - self.sums[first][which];
        sum -= load(first) * outside(first);
        if end - 1 > first {
            sum -= load(end - 1) * outside(end - 1);
        }
        sum
    }

    fn merges(&self, verdict: &mut Verdict) {
        let mut left = self.segments.len();
        let least = (self.policy.segments_min as usize).max(1);
        let mut rest = self.segments;
        while let [_, behind @ ..] = rest {
            let spare = left.saturating_sub(least);
            let run = self.run(rest, spare);
            rest = match run {
                2.. => {
                    let segments = rest[..run].iter().map(|segment| segment.id).collect();
                    verdict.changes.push(Change::Merge { segments });
                    left -= run - 1;
                    &rest[run..]
                }
                _ => behind,
            };
        }
    }

    /// Returns how many of the first segments should become one; below 2 is none.
    fn run(&self, segments: &[Judged], spare: usize) -> usize {
        let mut together = 0.0;
        let mut length = 0;
        for segment in segments.iter().take(spare.saturating_add(1)) {
            together += over_window(segment.rates, segment.peak, self.pace);
            // Far from being split again.
            if !self.may_merge(segment) || together >= self.merge_below() {
                break;
            }
            length += 1;
        }
        length
    }

    fn may_merge(&self, segment: &Judged) -> bool {
        self.age(segment) >= self.pace.merge_ms && segment.origin.is_none_or(|o| self.is_spent(o))
    }

    fn merge_below(&self) -> f64 {
        MERGE_BELOW * f64::from(self.policy.target)
    }

    /// Whether a split has lost its reason: what it divided would now fit into one part less. A split
    /// makes no more parts than its load needs, so under that load it has not.
    fn is_spent(&self, origin: Origin) -> bool {
        let left = origin.parts.saturating_sub(1).max(1);
        self.within(origin.range, OVER_WINDOW) < self.merge_below() * f64::from(left)
    }

    /// Whether a rate is above `limit` by more than chance.
    fn surely(&self, (rate, seconds): Seen, limit: f64) -> bool {
        rate >= limit + self.noise(rate.min(limit), seconds)
    }

    /// Returns what a rate of independent events is off by chance: an average that forgets over T
    /// seconds has the variance rate / 2T. Kilobytes say nothing about the number of events, so one
    /// each is assumed.
    fn noise(&self, rate: f64, seconds: f64) -> f64 {
        NOISE_DEVIATIONS * (rate / (2.0 * seconds)).sqrt()
    }
}

#[cfg(test)]
mod tests;
