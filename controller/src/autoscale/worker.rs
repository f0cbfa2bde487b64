//! The task that owns all loads: takes reports, judges streams, has them scaled.
//!
//! Stopping loses at most a minute of averages; a scaling under way is a task of its own and goes on at
//! the next start.

use std::collections::{BTreeMap, BTreeSet};

use sarit_env::Clock;
use sarit_proto::controller::internal::{LoadReport, SegmentLoad};
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::load::Rates;
use sarit_proto::names::{ScopedStream, StreamSegment};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::decide::{Change, Verdict, decide};
use super::loads::{Loads, Reported};
use super::policy::Policy;
use super::record::SavedLoads;
use super::{Config, Profile, TICK, pravega};
use crate::metrics;
use crate::store::catalog::{self, Catalog, PAGE};
use crate::store::keys::{self, StreamId};
use crate::store::{OPERATIONS_MAX, Transaction};
use crate::stream::lifecycle::State;
use crate::stream::scale::Scaling;
use crate::tasks::{self, Answer, Request, Tasks};

/// How often a stream is judged of which nothing hot was reported.
const JUDGE_MS: u64 = 5_000;
/// How often a stream's records are read again: its policy may have changed.
const REFRESH_MS: u64 = 60_000;
/// How often loads are saved.
const SAVE_MS: u64 = 60_000;
/// Without any report for so long, nothing is known about loads and nothing is decided.
const SILENCE_MS: u64 = 15_000;
/// How long a stream is left alone whose scaling did not happen.
const RETRY_MS: u64 = 5_000;
/// Bytes of saved loads in one transaction; the store takes 1 MiB.
const SAVED_BYTES_MAX: usize = 512 << 10;

/// All loads, and what it takes to act on them.
pub(crate) struct Worker {
    config: Config,
    catalog: Catalog,
    tasks: Tasks,
    time: Time,
    streams: BTreeMap<ScopedStream, Stream>,
    scales: JoinSet<(ScopedStream, Result<Answer, tasks::Error>)>,
    heard_ms: Option<u64>,
}

/// Wall time when it started, and from there on without jumps.
struct Time {
    base_ms: u64,
    base: Instant,
}

impl Time {
    fn now_ms(&self) -> u64 {
        let passed = self.base.elapsed().as_millis();
        self.base_ms + u64::try_from(passed).unwrap_or(u64::MAX - self.base_ms)
    }
}

struct Stream {
    id: StreamId,
    loads: Loads,
    /// Something was reported that may ask for a decision now.
    pressing: bool,
    scaling: bool,
    judged_ms: u64,
    refreshed_ms: u64,
    saved_ms: u64,
    not_before_ms: u64,
}

impl Worker {
    pub(crate) fn new(config: Config, catalog: Catalog, tasks: Tasks, clock: &Clock) -> Self {
        let time = Time {
            base_ms: u64::try_from(clock.now_ms()).unwrap_or(0),
            base: Instant::now(),
        };
        Self {
            config,
            catalog,
            tasks,
            time,
            streams: BTreeMap::new(),
            scales: JoinSet::new(),
            heard_ms: None,
        }
    }

    /// Works until `stop`.
    pub(crate) async fn run(
        mut self,
        mut reports: mpsc::Receiver<LoadReport>,
        stop: CancellationToken,
    ) {
        if !self.config.enabled {
            // What arrives is dropped at the door.
            reports.close();
            return;
        }
        if let Err(error) = self.take_up().await {
            warn!(%error, "saved loads cannot be read, averages begin anew");
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.scales.join_next() => match ended {
                    Ok((stream, outcome)) => self.scaled(&stream, outcome).await,
                    Err(_) => Ok(()),
                },
                Some(report) = reports.recv() => self.report(report).await,
                _ = ticks.tick() => self.look_around().await,
            };
            if let Err(error) = outcome {
                warn!(%error, "a stream's load cannot be judged");
            }
        }
    }

    /// Takes up what an earlier run knew.
    async fn take_up(&mut self) -> Result<(), catalog::Error> {
        let mut after: Option<String> = None;
        loop {
            let store = self.catalog.store.clone();
            let page = store.range(keys::LOADS, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.entries.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (key, row) in page.entries {
                let saved = SavedLoads::decode(&row.value).ok();
                let stream = saved.as_ref().and_then(|saved| saved.stream.parse().ok());
                let known = match &stream {
                    Some(stream) => self.track(stream, saved.as_ref()).await?,
                    None => false,
                };
                // Of a stream that is gone, has another policy, or damaged.
                let same = stream.as_ref().and_then(|stream| self.streams.get(stream));
                if !known || same.is_some_and(|stream| keys::load(stream.id) != key) {
                    let _gone = store.commit(Transaction::new().delete(key)).await?;
                }
            }
        }
    }

    /// Begins to look after a stream, if it scales by load. Returns whether it does.
    async fn track(
        &mut self,
        stream: &ScopedStream,
        saved: Option<&SavedLoads>,
    ) -> Result<bool, catalog::Error> {
        let Some((id, policy, epoch)) = self.read(stream).await? else {
            return Ok(false);
        };
        let now_ms = self.time.now_ms();
        let loads = Loads::new(policy, &epoch, saved, now_ms);
        let tracked = Stream {
            id,
            loads,
            pressing: false,
            scaling: false,
            judged_ms: now_ms,
            refreshed_ms: now_ms,
            saved_ms: now_ms,
            not_before_ms: 0,
        };
        self.streams.insert(stream.clone(), tracked);
        metrics::autoscale_streams(self.streams.len());
        Ok(true)
    }

    /// Reads what a stream's records say, `None` if it does not scale by load.
    async fn read(
        &self,
        stream: &ScopedStream,
    ) -> Result<Option<(StreamId, Policy, crate::stream::epoch::Epoch)>, catalog::Error> {
        let Some(id) = self.catalog.visible(stream).await? else {
            return Ok(None);
        };
        if self.catalog.status(id).await?.state != State::Active {
            return Ok(None);
        }
        let config = self.catalog.config(id).await?.value;
        let Some(policy) = Policy::of(&config) else {
            return Ok(None);
        };
        let epoch = self.catalog.active(id).await?;
        Ok(Some((id, policy, epoch)))
    }

    /// Reads a stream's records again. Returns whether it still scales by load.
    async fn refresh(&mut self, stream: &ScopedStream) -> Result<bool, catalog::Error> {
        let now_ms = self.time.now_ms();
        let read = self.read(stream).await?;
        let Some(tracked) = self.streams.get_mut(stream) else {
            return Ok(false);
        };
        tracked.refreshed_ms = now_ms;
        match read {
            Some((id, policy, epoch)) if id == tracked.id => {
                if policy.unit == tracked.loads.policy.unit {
                    tracked.loads.policy = policy;
                    tracked.loads.adopt(&epoch, now_ms);
                } else {
                    tracked.loads = Loads::new(policy, &epoch, None, now_ms);
                }
                Ok(true)
            }
            _ => {
                let gone = Transaction::new().delete(keys::load(tracked.id));
                self.streams.remove(stream);
                metrics::autoscale_streams(self.streams.len());
                let _idempotent = self.catalog.store.commit(gone).await?;
                Ok(false)
            }
        }
    }

    async fn report(&mut self, report: LoadReport) -> Result<(), catalog::Error> {
        self.heard_ms = Some(self.time.now_ms());
        for load in report.segments {
            let Ok(segment) = load.segment.parse::<StreamSegment>() else {
                continue;
            };
            let known = self.streams.contains_key(&segment.stream)
                || self.track(&segment.stream, None).await?;
            if known {
                self.reported(&segment, &load).await?;
            }
        }
        Ok(())
    }

    async fn reported(
        &mut self,
        segment: &StreamSegment,
        load: &SegmentLoad,
    ) -> Result<(), catalog::Error> {
        let now_ms = self.time.now_ms();
        let rates = Rates {
            now: load.now,
            short: load.short,
            middle: load.middle,
            long: load.long,
        };
        let reported = Reported {
            rates,
            age_ms: load.age_ms,
            total: load.total,
        };
        for fresh in [false, true] {
            let Some(stream) = self.streams.get_mut(&segment.stream) else {
                return Ok(());
            };
            let unit = stream.loads.policy.unit == load.unit;
            if !unit || !rates.is_sane() || !load.total.is_finite() {
                return Ok(());
            }
            if stream.loads.report(segment.id, reported, now_ms) {
                stream.pressing |= f64::from(rates.short) >= f64::from(stream.loads.policy.target);
                return Ok(());
            }
            // A segment we have not heard of: somebody else scaled. Or one that is long gone.
            if !fresh && now_ms >= stream.refreshed_ms + RETRY_MS {
                self.refresh(&segment.stream).await?;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn look_around(&mut self) -> Result<(), catalog::Error> {
        let now_ms = self.time.now_ms();
        if self
            .heard_ms
            .is_none_or(|heard| now_ms > heard + SILENCE_MS)
        {
            return Ok(());
        }
        let due = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.is_due(now_ms));
        let due: Vec<ScopedStream> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            self.look_at(&name).await?;
        }
        self.save(now_ms).await
    }

    async fn look_at(&mut self, name: &ScopedStream) -> Result<(), catalog::Error> {
        let now_ms = self.time.now_ms();
        let stream = self.streams.get_mut(name);
        let Some(stream) = stream else {
            return Ok(());
        };
        stream.pressing = false;
        stream.judged_ms = now_ms;
        if now_ms >= stream.refreshed_ms + REFRESH_MS && !self.refresh(name).await? {
            return Ok(());
        }
        if self.verdict(name, now_ms).changes.is_empty() {
            return Ok(());
        }
        if self.scales.len() >= self.config.scales_max {
            metrics::autoscale_deferred();
            return Ok(());
        }
        // On fresh records: somebody may just have scaled it or changed its policy.
        if !self.refresh(name).await? {
            return Ok(());
        }
        let verdict = self.verdict(name, now_ms);
        if !verdict.changes.is_empty() {
            self.scale(name, &verdict, now_ms);
        }
        Ok(())
    }

    fn verdict(&mut self, name: &ScopedStream, now_ms: u64) -> Verdict {
        let Some(stream) = self.streams.get_mut(name) else {
            return Verdict::default();
        };
        let policy = stream.loads.policy;
        let verdict = match self.config.profile {
            Profile::Sarit => {
                let pace = self.config.pace();
                let judged = stream.loads.judged(now_ms, pace.merge_ms);
                decide(policy, pace, &judged, now_ms)
            }
            Profile::Pravega => pravega::decide(policy, &stream.loads.seen(), now_ms),
        };
        for (segment, until_ms) in &verdict.hot {
            info!(stream = %name, %segment, "one hot key: the segment cannot usefully be split");
            metrics::autoscale_decided("hot_key");
            stream.loads.mark_hot(*segment, *until_ms);
        }
        verdict
    }

    fn scale(&mut self, name: &ScopedStream, verdict: &Verdict, now_ms: u64) {
        let Some(stream) = self.streams.get_mut(name) else {
            return;
        };
        let Some(wanted) = scaling(&stream.loads, &verdict.changes) else {
            return;
        };
        for change in &verdict.changes {
            metrics::autoscale_decided(match change {
                Change::Split { .. } => "split",
                Change::Merge { .. } => "merge",
            });
        }
        info!(stream = %name, changes = ?verdict.changes, "scaling by load");
        stream.loads.asked(wanted.sealed.iter().copied(), now_ms);
        stream.scaling = true;
        let (tasks, name) = (self.tasks.clone(), name.clone());
        self.scales.spawn(async move {
            let outcome = tasks.run(&name, Request::Scale(wanted)).await;
            (name, outcome)
        });
    }

    async fn scaled(
        &mut self,
        name: &ScopedStream,
        outcome: Result<Answer, tasks::Error>,
    ) -> Result<(), catalog::Error> {
        let now_ms = self.time.now_ms();
        let Some(stream) = self.streams.get_mut(name) else {
            return Ok(());
        };
        stream.scaling = false;
        match outcome {
            Ok(Answer::Scaled(_)) => {
                // At every change what is known is saved at once.
                stream.saved_ms = 0;
            }
            Ok(answer) => {
                debug!(stream = %name, ?answer, "a scaling by load was refused");
                stream.not_before_ms = now_ms + RETRY_MS;
            }
            Err(error) => {
                info!(stream = %name, %error, "a scaling by load did not end in time");
                stream.not_before_ms = now_ms + RETRY_MS;
            }
        }
        self.refresh(name).await?;
        Ok(())
    }

    /// Writes down what a restart should not forget, of all streams for which it is time.
    async fn save(&mut self, now_ms: u64) -> Result<(), catalog::Error> {
        let mut transaction = Transaction::new();
        let (mut rows, mut bytes) = (0, 0);
        for (name, stream) in &mut self.streams {
            if now_ms < stream.saved_ms + SAVE_MS || !stream.loads.matters(now_ms) {
                continue;
            }
            stream.saved_ms = now_ms;
            let row = stream.loads.saved(name, now_ms).encode();
            (rows, bytes) = (rows + 1, bytes + row.len());
            transaction = transaction.put(keys::load(stream.id), row);
            if rows >= OPERATIONS_MAX || bytes >= SAVED_BYTES_MAX {
                let full = std::mem::take(&mut transaction);
                let _unconditional = self.catalog.store.commit(full).await?;
                (rows, bytes) = (0, 0);
            }
        }
        if rows > 0 {
            let _unconditional = self.catalog.store.commit(transaction).await?;
        }
        Ok(())
    }
}

impl Stream {
    fn is_due(&self, now_ms: u64) -> bool {
        let time = self.pressing || now_ms >= self.judged_ms + JUDGE_MS;
        time && !self.scaling && now_ms >= self.not_before_ms
    }
}

/// Turns decisions into one scaling.
fn scaling(loads: &Loads, changes: &[Change]) -> Option<Scaling> {
    let mut sealed = BTreeSet::new();
    let mut ranges = Vec::new();
    let range = |id: &SegmentId| loads.range(*id);
    for change in changes {
        match change {
            Change::Split { segment, parts } => {
                sealed.insert(*segment);
                ranges.extend(range(segment)?.split(*parts)?);
            }
            Change::Merge { segments } => {
                sealed.extend(segments.iter().copied());
                let joined = segments.iter().map(range);
                let joined = joined.reduce(|a, b| KeyRange::join(a?, b?));
                ranges.push(joined??);
            }
        }
    }
    ranges.sort_unstable();
    Some(Scaling { sealed, ranges })
}
