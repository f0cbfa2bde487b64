//! How much is written to each segment, counted where appends arrive.
//!
//! A [`Meter`] is two counters that all writers of a segment share; what transactions write counts for
//! the segment they will be merged into, at once. Counting costs an append two additions. Whether a
//! segment's stream scales by load at all is asked later, by `report`, once a second and not in an
//! append's way; so every segment of a user's stream that is written to has a meter.
//!
//! Bounded by [`METERS_MAX`]. Counters live in memory: a restart begins anew.

pub(crate) mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use sarit_proto::load::Rates;
use sarit_proto::names::{SegmentName, is_internal};

/// Most segments measured at once; writers of further ones are not counted, which a metric shows. Each
/// takes about 200 bytes with its name.
const METERS_MAX: usize = 100_000;

/// The counters of one segment.
#[derive(Debug, Default)]
pub struct Meter {
    events: AtomicU64,
    bytes: AtomicU64,
    folded: Mutex<Folded>,
}

/// What only the reporting task looks at.
#[derive(Debug, Default)]
struct Folded {
    policy: Known,
    /// Counted when last looked, in the policy's unit.
    counted: f64,
    rates: Rates,
    total: f64,
    age_ms: u64,
    /// Seconds until the policy is asked for again.
    asked_in: u32,
}

/// What is known of a segment's policy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Known {
    #[default]
    Nothing,
    /// It does not scale by load.
    Fixed,
    ByLoad(Target),
}

/// How a segment's load is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Target {
    /// 1 units of 1,024 bytes, 2 events.
    unit: i32,
    /// Per second.
    rate: f64,
}

impl Meter {
    /// Counts an append.
    pub fn count(&self, events: u64, bytes: u64) {
        self.events.fetch_add(events, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn counted(&self, unit: i32) -> f64 {
        match unit {
            UNIT_EVENTS => self.events.load(Relaxed) as f64,
            _ => self.bytes.load(Relaxed) as f64 / 1024.0,
        }
    }
}

/// The protocol's number for events per second.
const UNIT_EVENTS: i32 = 2;

/// The meters of a store. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Meters(Arc<Mutex<BTreeMap<Arc<str>, Arc<Meter>>>>);

impl Meters {
    /// Returns the meter of a segment of any name, made if need be; `None` for one that is never
    /// measured, or if there are too many.
    pub fn of(&self, segment: &str) -> Option<Arc<Meter>> {
        let measured = measured(segment)?;
        let mut meters = self.0.lock();
        if let Some(meter) = meters.get(&*measured) {
            return Some(meter.clone());
        }
        if meters.len() >= METERS_MAX {
            crate::metrics::unmeasured();
            return None;
        }
        let meter = Arc::<Meter>::default();
        meters.insert(measured, meter.clone());
        Some(meter)
    }

    fn all(&self) -> Vec<(Arc<str>, Arc<Meter>)> {
        let meters = self.0.lock();
        meters
            .iter()
            .map(|(segment, meter)| (segment.clone(), meter.clone()))
            .collect()
    }

    /// Forgets meters that nobody counts on, of those given.
    fn forget(&self, idle: &[Arc<str>]) {
        let mut meters = self.0.lock();
        for segment in idle {
            // Only the map has it: whoever wants it back must come through the map's lock.
            if meters
                .get(segment)
                .is_some_and(|meter| Arc::strong_count(meter) == 1)
            {
                meters.remove(segment);
            }
        }
    }
}

/// Returns the segment that an append to this one counts for.
fn measured(segment: &str) -> Option<Arc<str>> {
    if is_internal(segment) {
        return None;
    }
    match segment.parse().ok()? {
        SegmentName::Stream(of) if of.stream.stream.is_internal() => None,
        SegmentName::Stream(_) => Some(segment.into()),
        SegmentName::Transaction { parent, .. } => Some(parent.to_string().into()),
        SegmentName::Transient { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_count_for_their_parent_and_internal_segments_for_nobody() {
        let meters = Meters::default();
        let parent = meters.of("scope/stream/3.#epoch.1").unwrap();
        let transaction = format!("scope/stream/3.#epoch.1#transaction.{:032x}", 7);
        meters.of(&transaction).unwrap().count(2, 300);
        assert_eq!(parent.counted(UNIT_EVENTS), 2.0);
        assert_eq!(parent.counted(1), 300.0 / 1024.0);
        for nobody in [
            "_system/x/0.#epoch.0",
            "scope/_RGgroup/0.#epoch.0",
            "free",
            "",
        ] {
            assert!(meters.of(nobody).is_none(), "{nobody}");
        }
    }

    #[test]
    fn a_meter_in_use_is_not_forgotten() {
        let meters = Meters::default();
        let name: Arc<str> = "scope/stream/0.#epoch.0".into();
        let used = meters.of(&name).unwrap();
        meters.forget(std::slice::from_ref(&name));
        assert!(Arc::ptr_eq(&used, &meters.of(&name).unwrap()));
        drop(used);
        meters.forget(&[name]);
        assert!(meters.all().is_empty());
    }
}
