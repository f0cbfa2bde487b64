//! What is known of the load of one stream's segments: what stores report, what was inherited, what was
//! remembered over a restart. Pure; the caller brings the time.
//!
//! A store's averages start at zero with its counters. A segment's load is what they say plus a *base*,
//! the load it was born with or had before its counters began anew, decayed since. So a new segment is
//! neither blind nor over-eager, and neither a store's nor the controller's restart forgets.
//!
//! Times are milliseconds of one clock that does not go backwards.

use std::collections::BTreeMap;

use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::load::Rates;
use sarit_proto::names::ScopedStream;

use super::decide::{Judged, Origin};
use super::policy::Policy;
use super::pravega::{Averages, Seen, TICK_MS};
use super::record::{SavedLoads, SavedSegment};
use crate::stream::epoch::{Epoch, Segment};

/// Stores report at least this often; what is older decays.
const REPORTED_MS: u64 = 6_000;
/// How far two clocks may be apart in saying when counting began.
const SLACK_MS: u64 = 3_000;
/// Windows from this on are judged by rates over a minute: those over 10 s jump with few events.
const MINUTE_MS: u64 = 60_000;
/// Segments that ended and may still be written to by transactions begun before.
const ENDED_MAX: usize = 64;

/// Parts of the window whose peaks are kept, besides the present one.
const PARTS: usize = 4;

/// The highest rates of the parts of a sliding window.
#[derive(Clone, Copy, Debug, Default)]
struct Peaks {
    highest: [f32; PARTS + 1],
    /// When the present part, the first, began.
    since_ms: u64,
}

impl Peaks {
    fn note(&mut self, rate: f32, now_ms: u64, window_ms: u64) {
        let part_ms = (window_ms / PARTS as u64).max(1);
        let passed = now_ms.saturating_sub(self.since_ms) / part_ms;
        for _ in 0..passed.min(self.highest.len() as u64) {
            self.highest.rotate_right(1);
            self.highest[0] = 0.0;
        }
        self.since_ms += passed * part_ms;
        self.highest[0] = self.highest[0].max(rate);
    }

    /// Returns the highest within the window, and at most a part before it.
    fn highest(&self) -> f32 {
        self.highest.iter().copied().fold(0.0, f32::max)
    }
}

/// What a store says of one segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reported {
    pub(crate) rates: Rates,
    /// Milliseconds since counting began.
    pub(crate) age_ms: u64,
    pub(crate) total: f64,
}

/// The load of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Loads {
    pub(crate) policy: Policy,
    pub(crate) epoch: i32,
    /// Sorted by range.
    active: Vec<Load>,
    by_id: BTreeMap<SegmentId, usize>,
    ended: Vec<Ended>,
}

#[derive(Clone, Debug)]
struct Load {
    segment: Segment,
    base: Rates,
    base_ms: u64,
    last: Option<Last>,
    /// Not to be believed from counters that began before: it is in the base.
    saved_ms: u64,
    since_ms: u64,
    origin: Option<Origin>,
    hot_until_ms: u64,
    peaks: Peaks,
    averages: Averages,
    averaged: Option<(u64, f64)>,
    asked_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    reported: Reported,
    at_ms: u64,
}

/// A segment that was replaced. What it had is inherited; only what comes on top counts.
#[derive(Clone, Debug)]
struct Ended {
    segment: Segment,
    then: Option<Last>,
    last: Option<Last>,
}

impl Load {
    fn new(segment: Segment, base: Rates, now_ms: u64) -> Self {
        Self {
            segment,
            base,
            base_ms: now_ms,
            last: None,
            saved_ms: now_ms,
            since_ms: now_ms,
            origin: None,
            hot_until_ms: 0,
            peaks: Peaks {
                since_ms: now_ms,
                ..Peaks::default()
            },
            averages: Averages::default(),
            averaged: None,
            asked_ms: 0,
        }
    }

    fn rates(&self, now_ms: u64) -> Rates {
        let base = self.base.decay(seconds(now_ms, self.base_ms));
        match self.last {
            None => base,
            Some(last) => base + last.reported.rates.decay(silent(now_ms, last.at_ms)),
        }
    }

    fn report(&mut self, reported: Reported, now_ms: u64) {
        let began_ms = now_ms.saturating_sub(reported.age_ms);
        match self.last {
            // Counting began anew: what was known until then is the base now. The gap was no idleness.
            Some(last) if reported.age_ms + SLACK_MS < last.reported.age_ms => {
                self.base = self.rates(last.at_ms);
                self.base_ms = began_ms.max(last.at_ms);
                self.averaged = None;
            }
            // Counters older than what was saved know all of it already.
            None if began_ms + SLACK_MS < self.saved_ms => {
                self.base = Rates::default();
            }
            _ => {}
        }
        self.last = Some(Last {
            reported,
            at_ms: now_ms,
        });
        self.average(reported.total, now_ms);
    }

    fn average(&mut self, total: f64, now_ms: u64) {
        match self.averaged {
            Some((at_ms, _)) if now_ms < at_ms + TICK_MS => return,
            Some((at_ms, before)) => {
                let count = (total - before).max(0.0);
                self.averages.fold(count, now_ms - at_ms);
            }
            None => {}
        }
        self.averaged = Some((now_ms, total));
    }
}

fn seconds(now_ms: u64, then_ms: u64) -> f64 {
    now_ms.saturating_sub(then_ms) as f64 / 1000.0
}

/// Returns for how many seconds nothing was heard that should have been.
fn silent(now_ms: u64, at_ms: u64) -> f64 {
    seconds(now_ms, at_ms + REPORTED_MS)
}

fn share(of: KeyRange, inside: KeyRange) -> f64 {
    let start = of.start().max(inside.start()).to_f64();
    let end = of.end().min(inside.end()).to_f64();
    ((end - start) / inside.width()).clamp(0.0, 1.0)
}

impl Loads {
    /// Takes up a stream, with what was saved of it, if anything.
    pub(crate) fn new(
        policy: Policy,
        epoch: &Epoch,
        saved: Option<&SavedLoads>,
        now_ms: u64,
    ) -> Self {
        let created_ms = u64::try_from(epoch.created_ms).unwrap_or(0).min(now_ms);
        let known: BTreeMap<i64, &SavedSegment> = saved
            .iter()
            .flat_map(|saved| &saved.segments)
            .map(|segment| (segment.id, segment))
            .collect();
        let active = epoch.segments.iter().map(|segment| {
            let mut load = Load::new(*segment, Rates::default(), now_ms);
            load.since_ms = created_ms;
            if let (Some(saved), Some(known)) = (saved, known.get(&segment.id.0)) {
                known.restore(&mut load.base, &mut load.origin);
                // Whatever happened while nobody looked was no idleness.
                load.base_ms = now_ms;
                load.saved_ms = saved.saved_ms.min(now_ms);
                load.since_ms = known.since_ms.min(now_ms);
                load.hot_until_ms = known.hot_until_ms;
            }
            load
        });
        let mut loads = Self {
            policy,
            epoch: epoch.number,
            active: active.collect(),
            by_id: BTreeMap::new(),
            ended: Vec::new(),
        };
        loads.index();
        loads
    }

    fn index(&mut self) {
        self.active.sort_unstable_by_key(|load| load.segment.range);
        let ids = self.active.iter().enumerate();
        self.by_id = ids.map(|(at, load)| (load.segment.id, at)).collect();
    }

    /// Takes in a report. Returns whether the segment is known.
    pub(crate) fn report(&mut self, id: SegmentId, reported: Reported, now_ms: u64) -> bool {
        if let Some(at) = self.by_id.get(&id) {
            self.active[*at].report(reported, now_ms);
            return true;
        }
        let ended = self.ended.iter_mut().find(|ended| ended.segment.id == id);
        if let Some(ended) = ended {
            ended.last = Some(Last {
                reported,
                at_ms: now_ms,
            });
            return true;
        }
        false
    }

    /// Goes over to another epoch: new segments inherit from those whose keys they take.
    pub(crate) fn adopt(&mut self, epoch: &Epoch, now_ms: u64) {
        if epoch.number == self.epoch {
            return;
        }
        let before = std::mem::take(&mut self.active);
        let goes_on = |load: &Load| epoch.segments.iter().any(|s| s.id == load.segment.id);
        let (kept, ended): (Vec<Load>, Vec<Load>) = before.into_iter().partition(goes_on);
        let created_ms = u64::try_from(epoch.created_ms).unwrap_or(0).min(now_ms);
        let new = epoch.segments.iter();
        let new = new.filter(|segment| !kept.iter().any(|load| load.segment.id == segment.id));
        let born = new.map(|segment| {
            let parents = ended
                .iter()
                .filter(|load| load.segment.range.overlaps(segment.range));
            let inherited = parents
                .clone()
                .map(|parent| parent.rates(now_ms) * share(segment.range, parent.segment.range));
            let mut load = Load::new(*segment, inherited.sum(), now_ms);
            load.since_ms = created_ms;
            load.origin = only(parents).and_then(|parent| {
                let range = parent.segment.range;
                let parts = epoch
                    .segments
                    .iter()
                    .filter(|s| s.range.overlaps(range))
                    .count();
                let parts = u32::try_from(parts).unwrap_or(u32::MAX);
                (parts > 1).then_some(Origin { range, parts })
            });
            load
        });
        let born: Vec<Load> = born.collect();
        self.active = kept.into_iter().chain(born).collect();
        self.epoch = epoch.number;
        self.index();
        self.ended.extend(ended.into_iter().map(|load| Ended {
            segment: load.segment,
            then: load.last,
            last: load.last,
        }));
        let surplus = self.ended.len().saturating_sub(ENDED_MAX);
        self.ended.drain(..surplus);
    }

    /// Leaves a segment alone until then.
    pub(crate) fn mark_hot(&mut self, id: SegmentId, until_ms: u64) {
        if let Some(at) = self.by_id.get(&id) {
            self.active[*at].hot_until_ms = until_ms;
        }
    }

    /// Notes that a change of these segments was asked for.
    pub(crate) fn asked(&mut self, ids: impl IntoIterator<Item = SegmentId>, now_ms: u64) {
        for id in ids {
            if let Some(at) = self.by_id.get(&id) {
                self.active[*at].asked_ms = now_ms;
            }
        }
    }

    /// Returns the active segments, sorted by range, as they are judged; peaks are those of the window.
    pub(crate) fn judged(&mut self, now_ms: u64, window_ms: u64) -> Vec<Judged> {
        let late: Vec<(KeyRange, Rates)> =
            self.ended.iter().filter_map(|e| e.late(now_ms)).collect();
        let judged = self.active.iter_mut().map(|load| {
            let late = late
                .iter()
                .filter(|(range, _)| range.overlaps(load.segment.range));
            let late: Rates = late
                .map(|(range, rates)| *rates * share(load.segment.range, *range))
                .sum();
            let rates = load.rates(now_ms) + late;
            let lasting = match window_ms {
                MINUTE_MS.. => rates.middle,
                _ => rates.short,
            };
            load.peaks.note(lasting, now_ms, window_ms);
            Judged {
                id: load.segment.id,
                range: load.segment.range,
                rates,
                peak: load.peaks.highest(),
                first: load.segment.id.epoch() == 0,
                since_ms: load.since_ms,
                origin: load.origin,
                hot_until_ms: load.hot_until_ms,
            }
        });
        judged.collect()
    }

    /// Returns the active segments, sorted by range, as the official rule sees them.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let seen = self.active.iter().map(|load| Seen {
            id: load.segment.id,
            averages: load.averages,
            since_ms: load.since_ms,
            asked_ms: load.asked_ms,
        });
        seen.collect()
    }

    /// Returns the range of an active segment.
    pub(crate) fn range(&self, id: SegmentId) -> Option<KeyRange> {
        let at = self.by_id.get(&id)?;
        Some(self.active[*at].segment.range)
    }

    /// Returns what a restart should not forget.
    pub(crate) fn saved(&self, stream: &ScopedStream, now_ms: u64) -> SavedLoads {
        let segments = self.active.iter().map(|load| {
            SavedSegment::new(
                load.segment.id,
                load.rates(now_ms),
                (load.since_ms, load.hot_until_ms),
                load.origin,
            )
        });
        SavedLoads {
            saved_ms: now_ms,
            segments: segments.collect(),
            stream: stream.to_string(),
        }
    }

    /// Returns whether there is anything to remember: load, or more segments than the least.
    pub(crate) fn matters(&self, now_ms: u64) -> bool {
        let loaded = |load: &Load| f64::from(load.rates(now_ms).max()) > 0.001;
        self.active.len() > self.policy.segments_min as usize || self.active.iter().any(loaded)
    }
}

impl Ended {
    /// Returns what was written since it was replaced.
    fn late(&self, now_ms: u64) -> Option<(KeyRange, Rates)> {
        let last = self.last?;
        let quiet = silent(now_ms, last.at_ms);
        let before = match self.then {
            Some(then) if then.at_ms == last.at_ms => return None,
            Some(then) => then.reported.rates.decay(seconds(last.at_ms, then.at_ms)),
            None => Rates::default(),
        };
        let over = |now: f32, before: f32| (now - before).max(0.0);
        let late = Rates {
            now: over(last.reported.rates.now, before.now),
            short: over(last.reported.rates.short, before.short),
            middle: over(last.reported.rates.middle, before.middle),
            long: over(last.reported.rates.long, before.long),
        };
        Some((self.segment.range, late.decay(quiet)))
    }
}

fn only<T>(mut of: impl Iterator<Item = T>) -> Option<T> {
    let first = of.next()?;
    of.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests;
