//! Folds what was counted into rates, once a second, and tells the controller.
//!
//! Segments above their target are reported every second, all others every five: the controller sees a
//! hot segment at once and forgets no idle one. Reports are hints; one that fails is not repeated, the
//! next says the same and more. Nothing waits for them. A segment's policy is looked up when it is first
//! written to, and again every half minute, so that a change of policy needs no path of its own.

use std::sync::Arc;
use std::time::Duration;

use sarit_proto::controller::internal::load_client::LoadClient;
use sarit_proto::controller::internal::{LoadReport, SegmentLoad};
use sarit_proto::ids::AttributeId;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use super::{Folded, Known, Meter, Meters, Target};
use crate::host::Host;
use crate::membership::{PROTOCOL_VERSION, channel};
use crate::metrics;

/// How often counters are folded.
const TICK: Duration = Duration::from_secs(1);
/// Every so many ticks everything is reported. The controller takes a segment for idle after 6 s.
const FULL_TICKS: u64 = 5;
/// How often a segment's policy is looked up.
const ASK_TICKS: u32 = 30;
/// Below this share of its target a segment that nobody is set up to write to is forgotten.
const IDLE_SHARE: f64 = 0.001;
/// Segments of one report; stays below the controller's limit for a request with the longest names.
const SEGMENTS_MAX: usize = 4_096;
/// What one report may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// What is measured, and who is told.
pub(crate) struct Reporter {
    pub(crate) meters: Meters,
    pub(crate) host: Arc<Host>,
    pub(crate) net: Arc<dyn sarit_env::Net>,
    /// `host:port`.
    pub(crate) controller: String,
    pub(crate) store_id: String,
}

/// Reports until `stop`.
pub(crate) async fn run(reporter: Reporter, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = reporter.keep_reporting() => {}
    }
}

impl Reporter {
    async fn keep_reporting(&self) {
        let mut client = LoadClient::new(channel(&self.net, &self.controller));
        // Not at once: a controller in the same process is still about to open.
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = Instant::now();
        let mut heard = None;
        for tick in 0_u64.. {
            ticks.tick().await;
            let now = Instant::now();
            let passed = now.duration_since(before);
            before = now;
            let loads = self.fold(passed, tick.is_multiple_of(FULL_TICKS)).await;
            if loads.is_empty() && !tick.is_multiple_of(FULL_TICKS) {
                continue;
            }
            let sent = self.send(&mut client, loads).await;
            if heard != Some(sent.is_ok()) {
                match &sent {
                    Ok(()) => info!(
                        controller = self.controller,
                        "the controller hears of loads"
                    ),
                    Err(reason) => warn!(
                        controller = self.controller,
                        reason, "loads are not reported, nothing scales by them"
                    ),
                }
            }
            heard = Some(sent.is_ok());
        }
    }

    async fn send(
        &self,
        client: &mut LoadClient<Channel>,
        loads: Vec<SegmentLoad>,
    ) -> Result<(), String> {
        // An empty one too: it says that we measure.
        let mut rest = loads;
        loop {
            let later = rest.split_off(rest.len().min(SEGMENTS_MAX));
            let report = LoadReport {
                store_id: self.store_id.clone(),
                protocol_version: PROTOCOL_VERSION,
                segments: rest,
            };
            match timeout(ATTEMPT_MAX, client.report(report)).await {
                Ok(Ok(_)) => metrics::load_reported(true),
                Ok(Err(status)) => {
                    metrics::load_reported(false);
                    return Err(format!("{}: {}", status.code(), status.message()));
                }
                Err(_) => {
                    metrics::load_reported(false);
                    return Err(format!("no answer within {ATTEMPT_MAX:?}"));
                }
            }
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }

    /// Takes in what was counted since, and returns what is to be told: everything, or what is hot.
    async fn fold(&self, passed: Duration, everything: bool) -> Vec<SegmentLoad> {
        let mut loads = Vec::new();
        let mut idle = Vec::new();
        let meters = self.meters.all();
        metrics::measured_segments(meters.len());
        for (segment, meter) in &meters {
            if meter.folded.lock().wants_policy() {
                let policy = self.policy(segment).await;
                meter.folded.lock().learn(policy, meter);
            }
            let mut folded = meter.folded.lock();
            let is_idle = folded.fold(meter, passed);
            if let Known::ByLoad(target) = folded.policy
                && (everything || f64::from(folded.rates.short) >= target.rate)
            {
                loads.push(folded.report(segment, target));
            }
            if is_idle {
                idle.push(segment.clone());
            }
        }
        drop(meters);
        self.meters.forget(&idle);
        loads
    }

    /// Looks up how a segment's load is judged. Not known while its container is opening.
    async fn policy(&self, segment: &str) -> Known {
        let Ok(container) = self.host.serving(self.host.owner(segment)).await else {
            return Known::Nothing;
        };
        let unit = container
            .attribute(segment, AttributeId::SCALE_POLICY_TYPE)
            .await;
        let rate = container
            .attribute(segment, AttributeId::SCALE_POLICY_RATE)
            .await;
        match (unit, rate) {
            (Ok(unit @ 1..=2), Ok(rate @ 1..)) => Known::ByLoad(Target {
                unit: unit as i32,
                rate: rate as f64,
            }),
            (Ok(_), Ok(_)) => Known::Fixed,
            (Err(error), _) | (_, Err(error)) => {
                debug!(segment, %error, "a segment's policy is not known");
                Known::Nothing
            }
        }
    }
}

impl Folded {
    fn wants_policy(&mut self) -> bool {
        self.asked_in = self.asked_in.saturating_sub(1);
        self.asked_in == 0
    }

    fn learn(&mut self, policy: Known, meter: &Meter) {
        self.asked_in = ASK_TICKS;
        if policy == Known::Nothing {
            // Not there yet, or deleted.
            self.asked_in = 1;
            return;
        }
        let unit = |known| match known {
            Known::ByLoad(target) => Some(target.unit),
            Known::Fixed | Known::Nothing => None,
        };
        let (before, after) = (unit(self.policy), unit(policy));
        self.policy = policy;
        if before == after {
            return;
        }
        // Counted in another unit: begin anew. What came before the first look counts.
        let first = before.is_none() && self.age_ms == 0;
        *self = Self {
            policy,
            asked_in: ASK_TICKS,
            counted: match after {
                Some(unit) if !first => meter.counted(unit),
                _ => 0.0,
            },
            ..Self::default()
        };
    }

    /// Takes in what was counted since. Returns whether the segment may be forgotten if nobody writes.
    fn fold(&mut self, meter: &Meter, passed: Duration) -> bool {
        let Known::ByLoad(target) = self.policy else {
            return true;
        };
        let counted = meter.counted(target.unit);
        let new = counted - self.counted;
        self.counted = counted;
        self.total += new;
        self.rates = self.rates.fold(new, passed.as_secs_f64());
        self.age_ms += passed.as_millis() as u64;
        f64::from(self.rates.max()) < IDLE_SHARE * target.rate
    }

    fn report(&self, segment: &str, target: Target) -> SegmentLoad {
        SegmentLoad {
            segment: segment.to_owned(),
            unit: target.unit,
            age_ms: self.age_ms,
            now: self.rates.now,
            short: self.rates.short,
            middle: self.rates.middle,
            long: self.rates.long,
            total: self.total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: Known = Known::ByLoad(Target {
        unit: 2,
        rate: 100.0,
    });

    fn tick(folded: &mut Folded, meter: &Meter) -> bool {
        folded.fold(meter, TICK)
    }

    #[test]
    fn what_was_written_before_the_policy_was_known_counts() {
        let meter = Meter::default();
        let mut folded = Folded::default();
        meter.count(1_000, 10);
        assert!(folded.wants_policy());
        folded.learn(EVENTS, &meter);
        assert!(!tick(&mut folded, &meter));
        assert!(folded.rates.short > 90.0 && folded.total == 1_000.0);
        assert!(!folded.wants_policy());
    }

    #[test]
    fn another_unit_begins_anew_and_another_rate_does_not() {
        let meter = Meter::default();
        let mut folded = Folded::default();
        folded.learn(EVENTS, &meter);
        meter.count(1_000, 1 << 20);
        tick(&mut folded, &meter);
        let Known::ByLoad(target) = EVENTS else {
            unreachable!()
        };
        let rate = 7.0;
        folded.learn(Known::ByLoad(Target { rate, ..target }), &meter);
        assert!(folded.rates.short > 90.0);
        folded.learn(Known::ByLoad(Target { unit: 1, ..target }), &meter);
        assert_eq!((folded.rates, folded.age_ms), (Default::default(), 0));
        tick(&mut folded, &meter);
        assert_eq!(folded.total, 0.0);
        meter.count(0, 5 << 10);
        tick(&mut folded, &meter);
        assert_eq!(folded.total, 5.0);
    }

    #[test]
    fn a_segment_is_idle_when_its_rates_have_faded() {
        let meter = Meter::default();
        let mut folded = Folded::default();
        folded.learn(EVENTS, &meter);
        meter.count(1_000, 0);
        let busy = (0..10_000)
            .take_while(|_| !tick(&mut folded, &meter))
            .count();
        assert!((600..6_000).contains(&busy), "{busy}");
        folded.learn(Known::Fixed, &meter);
        assert!(tick(&mut folded, &meter));
    }
}
