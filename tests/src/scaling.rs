//! Splits and merges a stream at random, by raw calls of the controller's API, while others write and
//! read it.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sarit_env::Rng;
use sarit_proto::controller::scale_request::KeyRangeEntry;
use sarit_proto::controller::scale_response::ScaleStreamStatus;
use sarit_proto::controller::scale_status_response::ScaleStatus;
use sarit_proto::controller::{
    ControllerServiceClient, ScaleRequest, ScaleStatusRequest, SegmentRange, StreamInfo,
};
use tonic::transport::Channel;

/// Neither fewer nor more segments than these.
const SEGMENTS: std::ops::RangeInclusive<usize> = 1..=8;
/// How long one change may take before it counts as stuck.
const CHANGE_MAX: Duration = Duration::from_secs(30);
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A thread that scales one stream.
pub struct Scaler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Achieved>>,
}

/// What a [`Scaler`] has done.
#[derive(Clone, Debug, Default)]
pub struct Achieved {
    /// Segments replaced by several.
    pub splits: u32,
    /// Neighbours replaced by one.
    pub merges: u32,
    /// Neighbours replaced by as many with another border.
    pub shifts: u32,
    /// Calls that the server's death cut short, and changes that others were faster with.
    pub overtaken: u32,
    /// From the request to the answer that it is done.
    pub took: Vec<Duration>,
}

impl Achieved {
    /// All changes together.
    pub fn changes(&self) -> u32 {
        self.splits + self.merges + self.shifts
    }
}

impl fmt::Display for Achieved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut took = self.took.clone();
        took.sort();
        let at = |share: usize| took.get(took.len() * share / 100).copied();
        write!(
            f,
            "{} splits, {} merges, {} shifts, {} overtaken, each in p50 {:?} p99 {:?}",
            self.splits,
            self.merges,
            self.shifts,
            self.overtaken,
            at(50).unwrap_or_default(),
            at(99).unwrap_or_default()
        )
    }
}

impl Scaler {
    /// Begins to change `scope/stream` once in `every`, or as fast as the server does it. Where it is
    /// `contended`, because the server is killed or rolling commits replace segments too, a call may fail
    /// or come too late and another one follows; otherwise each failure is one.
    pub fn start(uri: &str, scope: &str, stream: &str, every: Duration, contended: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let driver = Driver {
            uri: uri.replace("tcp://", "http://"),
            stream: StreamInfo {
                scope: scope.to_owned(),
                stream: stream.to_owned(),
                ..StreamInfo::default()
            },
            contended,
            stop: Arc::clone(&stop),
            rng: Rng::from_os(),
            achieved: Achieved::default(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build()?;
            runtime.block_on(driver.run(every))
        });
        Self { stop, thread }
    }

    /// Stops, and returns what was done.
    ///
    /// # Errors
    /// What went wrong.
    pub fn stop(self) -> anyhow::Result<Achieved> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(achieved) => achieved.context("scaling"),
            Err(_) => bail!("the thread that scales panicked"),
        }
    }
}

struct Driver {
    uri: String,
    stream: StreamInfo,
    contended: bool,
    stop: Arc<AtomicBool>,
    rng: Rng,
    achieved: Achieved,
}

/// One change to ask for.
#[derive(Clone, Copy)]
enum Change {
    Split,
    Merge,
    Shift,
}

impl Driver {
    async fn run(mut self, every: Duration) -> anyhow::Result<Achieved> {
        let endpoint = tonic::transport::Endpoint::from_shared(self.uri.clone())?;
        let endpoint = endpoint.timeout(Duration::from_secs(10));
        let mut api = ControllerServiceClient::new(endpoint.connect_lazy());
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            match self.change(&mut api).await {
                Ok(Change::Split) => self.achieved.splits += 1,
                Ok(Change::Merge) => self.achieved.merges += 1,
                Ok(Change::Shift) => self.achieved.shifts += 1,
                Err(error) if self.contended && error.downcast_ref::<tonic::Status>().is_some() => {
                    self.achieved.overtaken += 1;
                }
                Err(error) => return Err(error),
            }
            if let Some(rest) = every.checked_sub(begun.elapsed()) {
                tokio::time::sleep(rest).await;
            }
        }
        Ok(self.achieved)
    }

    async fn change(
        &mut self,
        api: &mut ControllerServiceClient<Channel>,
    ) -> anyhow::Result<Change> {
        let current = api.get_current_segments(self.stream.clone()).await?;
        let mut segments = current.into_inner().segment_ranges;
        segments.sort_by(|a, b| a.min_key.total_cmp(&b.min_key));
        ensure!(!segments.is_empty(), "the stream has no segments");
        let (change, sealed, borders) = self.choose(&segments);
        let pairs = borders.iter().zip(&borders[1..]);
        let request = ScaleRequest {
            stream_info: Some(self.stream.clone()),
            sealed_segments: sealed.iter().map(id).collect(),
            new_key_ranges: pairs
                .map(|(start, end)| KeyRangeEntry {
                    start: *start,
                    end: *end,
                })
                .collect(),
            scale_timestamp: 0,
        };
        let begun = Instant::now();
        let reply = api.scale(request.clone()).await?.into_inner();
        // An earlier request of ours, or a commit, may still be carried out.
        if self.contended && reply.status() == ScaleStreamStatus::PreconditionFailed {
            return Err(tonic::Status::aborted("overtaken").into());
        }
        ensure!(
            reply.status() == ScaleStreamStatus::Started,
            "{request:?} was answered with {reply:?}"
        );
        let ask = ScaleStatusRequest {
            stream_info: Some(self.stream.clone()),
            epoch: reply.epoch,
        };
        loop {
            let status = api.check_scale(ask.clone()).await;
            match status.map(|status| status.into_inner().status()) {
                Ok(ScaleStatus::Success) => break,
                Ok(ScaleStatus::InProgress) => {}
                Err(_) if self.contended => {}
                other => bail!("{request:?}, while it is carried out: {other:?}"),
            }
            ensure!(
                begun.elapsed() < CHANGE_MAX,
                "{request:?} is not done after {CHANGE_MAX:?}"
            );
            tokio::time::sleep(ASK_AGAIN).await;
        }
        self.achieved.took.push(begun.elapsed());
        Ok(change)
    }

    /// Picks what to seal, and the borders of what replaces it.
    fn choose<'a>(&self, segments: &'a [SegmentRange]) -> (Change, &'a [SegmentRange], Vec<f64>) {
        let count = segments.len();
        let split = count <= *SEGMENTS.start() || (count < *SEGMENTS.end() && self.rng.chance(0.5));
        let within = |range: &SegmentRange, share: f64| {
            range.min_key + (range.max_key - range.min_key) * share
        };
        if split {
            let at = self.rng.below(count as u64) as usize;
            let range = &segments[at];
            let mut borders = vec![range.min_key, within(range, 0.2 + 0.6 * self.rng.f64())];
            if self.rng.chance(0.2) {
                borders.push(within(range, 0.9));
            }
            borders.push(range.max_key);
            return (Change::Split, &segments[at..=at], borders);
        }
        let at = self.rng.below(count as u64 - 1) as usize;
        let pair = &segments[at..at + 2];
        if self.rng.chance(0.2) {
            let borders = [
                pair[0].min_key,
                within(&pair[0], 0.2 + 0.6 * self.rng.f64()),
                pair[1].max_key,
            ];
            return (Change::Shift, pair, borders.to_vec());
        }
        (Change::Merge, pair, vec![pair[0].min_key, pair[1].max_key])
    }
}

fn id(range: &SegmentRange) -> i64 {
    range.segment_id.as_ref().map_or(-1, |id| id.segment_id)
}
