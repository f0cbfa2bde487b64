//! The suite every engine runs: random histories with crashes, checked against what was promised.
//!
//! A [`Host`] is a place where a WAL can be started, and ended without warning. [`check`] drives it
//! from one seed and panics, naming the seed, when the contract L1–L7 of `loglet.rs` is broken.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BufMut as _;
use sarit_env::Rng;

use crate::{
    AppendTicket, DurableLog, Error, Frame, FrameNo, LogId, Opened, Priority, Wal, WalEpoch,
};

/// A place where a WAL lives and dies.
#[async_trait]
pub trait Host: Send {
    /// Starts the WAL on what the last life left.
    async fn start(&mut self) -> Result<Wal, Error>;
    /// Ends it without warning, as far as this host can.
    async fn crash(&mut self, wal: Wal);
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Lives, each ended by a crash or, sometimes, by a clean stop.
    pub lives: u64,
    /// Steps per life.
    pub steps: u64,
    /// Logs that share the WAL.
    pub logs: u32,
    /// Largest body in bytes; most are far smaller.
    pub body_max: u64,
}

/// What was observed in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Acknowledged frames.
    pub acked: u64,
    /// Frames replayed at start.
    pub replayed: u64,
    /// Frames replayed without ever having been acknowledged.
    pub ambiguous: u64,
    /// Appends to a fenced owner, all refused.
    pub fenced: u64,
}

/// What is promised of one log.
struct Model {
    /// Bodies acknowledged or replayed: they may never change or vanish.
    committed: BTreeMap<FrameNo, Vec<u8>>,
    /// Bodies sent since the last opening and not known committed.
    sent: BTreeMap<FrameNo, Vec<u8>>,
    keep_from: FrameNo,
    epoch: WalEpoch,
    log: Option<DurableLog>,
    fenced: Option<DurableLog>,
    tickets: VecDeque<AppendTicket>,
}

/// Runs `plan` from `seed` on `host`.
///
/// # Panics
/// If a promise is broken.
pub async fn check(host: &mut dyn Host, seed: u64, plan: &Plan) -> Report {
    let rng = Rng::seeded(seed);
    let mut run = Run {
        models: (0..plan.logs)
            .map(|log| (LogId(log), Model::new()))
            .collect(),
        report: Report::default(),
        rng,
        seed,
        plan: plan.clone(),
    };
    for _ in 0..plan.lives {
        let wal = host.start().await;
        let wal = wal.unwrap_or_else(|error| panic!("seed {seed}: start: {error}"));
        run.live(&wal).await;
        if run.rng.chance(0.2) {
            run.stop(&wal).await;
        }
        for model in run.models.values_mut() {
            // What the tickets would have said nobody knows any more.
            (model.log, model.fenced) = (None, None);
            model.tickets.clear();
        }
        host.crash(wal).await;
    }
    let wal = host.start().await;
    let wal = wal.unwrap_or_else(|error| panic!("seed {seed}: last start: {error}"));
    run.open_all(&wal).await;
    host.crash(wal).await;
    run.report
}

struct Run {
    models: BTreeMap<LogId, Model>,
    report: Report,
    rng: Rng,
    seed: u64,
    plan: Plan,
}

impl Model {
    fn new() -> Self {
        Self {
            committed: BTreeMap::new(),
            sent: BTreeMap::new(),
            keep_from: FrameNo(1),
            epoch: WalEpoch(0),
            log: None,
            fenced: None,
            tickets: VecDeque::new(),
        }
    }
}

impl Run {
    async fn live(&mut self, wal: &Wal) {
        self.open_all(wal).await;
        for _ in 0..self.rng.below(self.plan.steps + 1) {
            let log = LogId(self.rng.below(u64::from(self.plan.logs)) as u32);
            match self.rng.below(100) {
                0..60 => self.append(log),
                60..80 => self.settle(log, 1).await,
                80..85 => self.settle(log, usize::MAX).await,
                85..90 => self.truncate(log).await,
                90..94 => self.read(log).await,
                94..96 => self.open(wal, log).await,
                96..98 => self.append_fenced(log).await,
                _ => {
                    let micros = self.rng.below(2000);
                    tokio::time::sleep(Duration::from_micros(micros)).await;
                }
            }
        }
        for _ in 0..self.rng.below(8) {
            tokio::task::yield_now().await;
        }
    }

    async fn open_all(&mut self, wal: &Wal) {
        for log in (0..self.plan.logs).map(LogId) {
            self.open(wal, log).await;
        }
    }

    /// Opens a log and compares its replay with what was promised.
    async fn open(&mut self, wal: &Wal, id: LogId) {
        let seed = self.seed;
        let opened = wal.open_log(id).await;
        let Opened {
            epoch,
            log,
            mut replay,
        } = opened.unwrap_or_else(|error| panic!("seed {seed}: open log {id}: {error}"));
        let mut frames = Vec::new();
        loop {
            match replay.next().await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => panic!("seed {seed}: replay of log {id}: {error}"),
            }
        }
        self.report.replayed += frames.len() as u64;
        let model = self.models.get_mut(&id).expect("a log of this run");
        // Acks that were on their way when the log was opened again count.
        let tickets = std::mem::take(&mut model.tickets);
        for ticket in tickets {
            if let Ok(frame) = ticket.await {
                self.report.acked += 1;
                model.commit(&frame, seed);
            }
        }
        assert!(
            epoch > model.epoch,
            "seed {seed}: log {id}: epoch {epoch} again"
        );
        let first = frames.first().map(Frame::number);
        if let Some(first) = first {
            assert!(
                first <= model.keep_from,
                "seed {seed}: log {id} starts with {first}, {} was kept",
                model.keep_from
            );
        }
        let present: BTreeMap<_, _> = frames.iter().map(|f| (f.number(), f)).collect();
        for number in model.committed.range(model.keep_from..).map(|(n, _)| n) {
            assert!(
                present.contains_key(number),
                "seed {seed}: log {id} lost frame {number}, replayed {:?}",
                present.keys()
            );
        }
        for frame in &frames {
            let number = frame.number();
            let known = model.committed.get(&number);
            let body = known.or_else(|| model.sent.get(&number));
            assert_eq!(
                body.map(Vec::as_slice),
                Some(&frame.body()[..]),
                "seed {seed}: log {id} frame {number} is not what was sent"
            );
            self.report.ambiguous += u64::from(known.is_none());
            model.commit(frame, seed);
        }
        model.sent.clear();
        model.epoch = epoch;
        model.fenced = model.log.replace(log);
    }

    fn append(&mut self, id: LogId) {
        let model = self.models.get_mut(&id).expect("a log of this run");
        let Some(log) = &model.log else { return };
        if model.tickets.len() > 8 {
            return;
        }
        let max = if self.rng.chance(0.1) {
            self.plan.body_max
        } else {
            600
        };
        let mut body = vec![0; self.rng.below(max.min(self.plan.body_max) + 1) as usize];
        self.rng.fill(&mut body);
        let mut builder = log.builder(body.len());
        builder.body().put_slice(&body);
        let ticket = log.append(builder, body.len() as u64, 1, Priority::Data);
        assert!(
            !model.committed.contains_key(&ticket.number()),
            "a number was used twice"
        );
        model.sent.insert(ticket.number(), body);
        model.tickets.push_back(ticket);
    }

    /// Waits for up to `count` acknowledgements.
    async fn settle(&mut self, id: LogId, count: usize) {
        let model = self.models.get_mut(&id).expect("a log of this run");
        for _ in 0..count {
            let Some(ticket) = model.tickets.pop_front() else {
                return;
            };
            let number = ticket.number();
            let frame = ticket.await;
            let frame = frame.unwrap_or_else(|e| panic!("seed {}: append: {e}", self.seed));
            assert_eq!(frame.number(), number);
            self.report.acked += 1;
            model.commit(&frame, self.seed);
        }
    }

    async fn truncate(&mut self, id: LogId) {
        let model = self.models.get_mut(&id).expect("a log of this run");
        let (Some(log), Some((last, _))) = (&model.log, model.committed.last_key_value()) else {
            return;
        };
        let span = last.0 + 2 - model.keep_from.0;
        let keep_from = FrameNo(model.keep_from.0 + self.rng.below(span));
        // Noted first: the call may take effect and be cut off.
        model.keep_from = keep_from.min(last.next());
        let truncated = log.truncate(keep_from).await;
        truncated.unwrap_or_else(|error| panic!("seed {}: truncate: {error}", self.seed));
    }

    /// Reads a frame back, and a part of it.
    async fn read(&mut self, id: LogId) {
        let model = &self.models[&id];
        let (Some(log), from) = (&model.log, model.keep_from) else {
            return;
        };
        let kept: Vec<_> = model.committed.range(from..).collect();
        if kept.is_empty() {
            return;
        }
        let (number, body) = kept[self.rng.below(kept.len() as u64) as usize];
        let frame = log.read(*number).await;
        let frame = frame.unwrap_or_else(|e| panic!("seed {}: read {number}: {e}", self.seed));
        assert_eq!(frame.body(), &body[..]);
        let at = self.rng.below(body.len() as u64 + 1) as usize;
        let part = log
            .read_range(*number, at as u32, (body.len() - at) as u32)
            .await;
        assert_eq!(part.expect("a durable frame"), &body[at..]);
    }

    /// An owner that was fenced must not get an acknowledgement, whatever it does.
    async fn append_fenced(&mut self, id: LogId) {
        let Some(log) = &self.models[&id].fenced else {
            return;
        };
        let outcome = log.append(log.builder(10), 0, 0, Priority::Data).await;
        assert!(
            outcome.is_err(),
            "seed {}: a fenced append was acknowledged",
            self.seed
        );
        self.report.fenced += 1;
        let outcome = log.truncate(FrameNo(u64::MAX)).await;
        // Where it frees nothing it does not even look whether it is fenced.
        assert!(matches!(
            outcome,
            Ok(()) | Err(Error::Fenced { .. } | Error::Stopped { .. })
        ));
    }

    async fn stop(&mut self, wal: &Wal) {
        for id in (0..self.plan.logs).map(LogId) {
            self.settle(id, usize::MAX).await;
            let model = self.models.get_mut(&id).expect("a log of this run");
            if let Some(log) = model.log.take() {
                let closed = log.close().await;
                closed.unwrap_or_else(|error| panic!("seed {}: close: {error}", self.seed));
            }
        }
        let closed = wal.close().await;
        closed.unwrap_or_else(|error| panic!("seed {}: close: {error}", self.seed));
    }
}

impl Model {
    fn commit(&mut self, frame: &Frame, seed: u64) {
        let body = frame.body().to_vec();
        self.sent.remove(&frame.number());
        let before = self.committed.insert(frame.number(), body);
        if let Some(before) = before {
            assert_eq!(
                &before[..],
                &frame.body()[..],
                "seed {seed}: frame {} changed",
                frame.number()
            );
        }
    }
}
