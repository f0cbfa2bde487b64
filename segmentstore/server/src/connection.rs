//! One peer: commands in, replies out, one task.
//!
//! Everything a connection has under way is owned by its loop: the batch of appends being handed to a
//! container, the requests, the replies not yet written. Dropping it takes waiting reads back; appends
//! that were handed over happen all the same and nobody hears of them.
//!
//! ```text
//! socket ─▶ Input ─▶ dispatch ─▶ appends ─▶ containers ─▶ outcomes ─▶ Appends ─▶ out ─▶ socket
//!                        └─▶ requests ─▶ containers ─▶ answers ────────────────▶ out
//! ```
//!
//! Order: set-ups and appends reach their container as they arrived; other requests may overtake them
//! and each other. Bounds: nothing more is read from the socket while a batch is being handed over,
//! while `OUT_BYTES_MAX` of replies wait to be written, or while the limit of requests is under way.
//! Requests under way go on whatever the peer does, since they hold what others wait for; of those with
//! large answers only `TURNS` at a time.

use std::collections::{BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sarit_container::{AppendOp, Appender, ConnectionCredit, Outcomes, Permit, Turn, Turns};
use sarit_env::{NetStream, Rng};
use sarit_proto::ids::ContainerId;
use sarit_proto::names;
use sarit_proto::wire::command::{CreateTransientSegment, SetupAppend};
use sarit_proto::wire::{self, Command, Encoder, Reply, reply as replies};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::append::{Appends, Taken};
use crate::config::Limits;
use crate::host::{Host, Unavailable};
use crate::input::{Arrived, Input};
use crate::load::Meters;
use crate::metrics::{Metrics, reached};
use crate::reply::{Close, Refused, refusal, wrong_host};
use crate::request::{self, Answer, Terms};

/// While this many bytes of replies wait to be written, no new ones are made but acknowledgements.
const OUT_BYTES_MAX: usize = 1 << 20;
/// Requests with large answers that are being served, or have been and wait for room among the replies.
/// More hide the latency of long-term storage from a peer with many segments, and cost memory if it is slow.
const TURNS: usize = 8;
/// Pieces of one vectored write.
const SLICES: usize = 64;
/// What a stopping connection may still take to answer what it accepted.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// What a read beyond the limit of waiting ones may wait.
const CROWDED_WAIT: Duration = Duration::from_secs(1);
/// What the peer may take to close its side after we refused to go on.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// Transient segments one connection may have at a time.
const TRANSIENTS_MAX: usize = 1000;
/// What deleting them may delay the end of their connection; what is left goes with the next start.
const BURIAL_MAX: Duration = Duration::from_secs(60);

/// What all connections of a store share.
pub(crate) struct Shared {
    pub(crate) host: Arc<Host>,
    pub(crate) limits: Limits,
    /// Most bytes of one append.
    pub(crate) append_bytes_max: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) meters: Meters,
    /// For the names of transient segments.
    pub(crate) rng: Rng,
}

/// One peer's connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    stop: CancellationToken,
    input: Input<ReadHalf<NetStream>>,
    write: WriteHalf<NetStream>,
    out: Encoder,
    appends: Appends,
    outcomes: mpsc::UnboundedReceiver<Outcomes>,
    outcomes_to: mpsc::UnboundedSender<Outcomes>,
    /// By container; a handful.
    appenders: Vec<(ContainerId, Arc<Appender>)>,
    /// Appends of the commands being dispatched, by container.
    batches: Vec<(ContainerId, Vec<AppendOp>)>,
    handing_over: FuturesUnordered<BoxFuture<'static, HandedOver>>,
    requests: FuturesUnordered<BoxFuture<'static, Served>>,
    /// Answers for which there was no room among the replies yet.
    served: VecDeque<Served>,
    turns: Turns,
    reads: usize,
    /// Segments that go with this connection.
    transients: BTreeSet<String>,
    /// Set once nothing more is read.
    ending: Option<Ending>,
    /// Others get their turn before the next write.
    gathers: bool,
    /// When the peer must have taken some of its replies.
    stalled_at: Option<Instant>,
}

/// How a connection goes down: what is written first, and until when.
struct Ending {
    close: Close,
    /// Whether what is under way is still answered.
    drain: bool,
    deadline: Instant,
}

struct Served {
    was_read: bool,
    /// The segment that was to be created, if it is a transient one.
    transient: Option<String>,
    answer: Answer,
    /// Held until the answer is among the replies, if it may be a large one.
    turn: Option<Turn>,
}

enum HandedOver {
    Done(ContainerId, Arc<Appender>),
    Refused { tokens: Vec<u64>, why: Arc<str> },
    Stopping,
}

impl Connection {
    pub(crate) fn new(
        stream: NetStream,
        shared: Arc<Shared>,
        credit: ConnectionCredit,
        stop: CancellationToken,
    ) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (outcomes_to, outcomes) = mpsc::unbounded_channel();
        let frame_time = Duration::from_secs(shared.limits.frame_seconds);
        Self {
            input: Input::new(read, credit, shared.metrics.clone(), frame_time),
            write,
            out: Encoder::default(),
            appends: Appends::new(
                shared.limits.writers,
                shared.append_bytes_max,
                shared.meters.clone(),
            ),
            outcomes,
            outcomes_to,
            appenders: Vec::new(),
            batches: Vec::new(),
            handing_over: FuturesUnordered::new(),
            requests: FuturesUnordered::new(),
            served: VecDeque::new(),
            turns: Turns::new(TURNS),
            reads: 0,
            transients: BTreeSet::new(),
            ending: None,
            gathers: false,
            stalled_at: None,
            shared,
            stop,
        }
    }

    /// Serves the peer until either side ends it, and returns why.
    pub(crate) async fn run(mut self) -> Close {
        let close = self.serve().await;
        self.shared
            .metrics
            .reads_waiting
            .decrement(self.reads as f64);
        if close.is_fault() && self.out.is_empty() {
            // Closing with unread bytes would reset the connection and may destroy the last reply.
            let _ = self.write.shutdown().await;
            let _ = timeout(LINGER_MAX, self.input.linger()).await;
        }
        let (shared, transients) = (self.shared.clone(), std::mem::take(&mut self.transients));
        // The socket is closed before anything else is waited for.
        drop(self);
        bury(&shared, transients).await;
        close
    }

    async fn serve(&mut self) -> Close {
        loop {
            while self.out.len() < OUT_BYTES_MAX
                && let Some(served) = self.served.pop_front()
            {
                self.reply(served);
            }
            if let Some(close) = self.ended() {
                return close;
            }
            let may_read = self.may_read();
            let deadline = self.deadline();
            if self.gathers {
                self.gathers = false;
                yield_now().await;
                continue;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = self.out.slices(&mut slices);
            // Replies come first and writing after them, so that one write takes all there are.
            tokio::select! {
                biased;
                Some(outcomes) = self.outcomes.recv() => self.complete(outcomes),
                Some(served) = self.requests.next() => self.served.push_back(served),
                Some(handed_over) = self.handing_over.next() => self.handed_over(handed_over),
                written = self.write.write_vectored(&slices[..filled]), if filled > 0 => {
                    self.wrote(written);
                }
                () = self.stop.cancelled(), if self.ending.is_none() => {
                    self.end(Close::Stopping, true);
                }
                arrived = self.input.next(), if may_read => match arrived {
                    Ok(arrived) => self.dispatch_all(arrived),
                    Err(Close::Peer) => return Close::Peer,
                    Err(close) => self.end(close, false),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return self.ending.take().map_or(Close::Stalled, |ending| ending.close);
                }
            }
        }
    }

    fn may_read(&self) -> bool {
        let reads_max = self.shared.limits.parked_reads.saturating_mul(2).max(16);
        self.ending.is_none()
            && self.handing_over.is_empty()
            && self.out.len() < OUT_BYTES_MAX
            && self.requests_under_way() < self.shared.limits.requests
            && self.reads < reads_max
    }

    /// Returns how many there are, reads not counted.
    fn requests_under_way(&self) -> usize {
        self.requests.len() + self.served.len() - self.reads
    }

    fn deadline(&self) -> Option<Instant> {
        let ending = self.ending.as_ref().map(|ending| ending.deadline);
        [ending, self.stalled_at].into_iter().flatten().min()
    }

    /// Returns why the connection is over, once it is.
    fn ended(&mut self) -> Option<Close> {
        let ending = self.ending.as_ref()?;
        let idle = !ending.drain
            || (self.requests.is_empty()
                && self.served.is_empty()
                && self.handing_over.is_empty()
                && self.appends.in_flight() == 0);
        (idle && self.out.is_empty()).then(|| self.ending.take().map(|ending| ending.close))?
    }

    fn end(&mut self, close: Close, drain: bool) {
        if self.ending.is_none() {
            let deadline = Instant::now() + if drain { DRAIN_MAX } else { LINGER_MAX };
            self.ending = Some(Ending {
                close,
                drain,
                deadline,
            });
        }
    }

    fn wrote(&mut self, written: std::io::Result<usize>) {
        match written {
            Ok(bytes @ 1..) => {
                self.out.advance(bytes);
                self.shared.metrics.bytes_out.increment(bytes as u64);
                let patience = Duration::from_secs(self.shared.limits.write_seconds);
                self.stalled_at = (!self.out.is_empty()).then(|| Instant::now() + patience);
            }
            // Nobody is there to read what is left.
            Ok(0) | Err(_) => {
                self.out = Encoder::default();
                self.ending = None;
                self.end(Close::Peer, false);
            }
        }
    }

    /// From now on the peer has so much time to take some of its replies.
    fn wait_for_peer(&mut self) {
        let patience = Duration::from_secs(self.shared.limits.write_seconds);
        self.stalled_at = Some(Instant::now() + patience);
    }

    fn send(&mut self, reply: &Reply) {
        if self.out.is_empty() {
            self.wait_for_peer();
        }
        if let Some(kind) = refusal(reply) {
            self.shared.metrics.refused(kind);
        }
        self.shared.metrics.frames_out.increment(1);
        reply.encode(&mut self.out);
    }

    fn complete(&mut self, outcomes: Outcomes) {
        let Self {
            appends,
            out,
            shared,
            ..
        } = self;
        let (was_empty, mut made) = (out.is_empty(), 0);
        let result = appends.complete(outcomes, &mut |reply| {
            if let Some(kind) = refusal(&reply) {
                shared.metrics.refused(kind);
            }
            reply.encode(out);
            made += 1;
        });
        shared.metrics.frames_out.increment(made);
        if was_empty && made > 0 {
            self.wait_for_peer();
            // One sync ends frames of several containers. Those not heard of yet are about to run: after
            // them one write takes all. A lone append does not wait.
            self.gathers = self.appends.in_flight() > 0;
        }
        if let Err(close) = result {
            self.end(close, false);
        }
    }

    fn reply(&mut self, served: Served) {
        if served.was_read {
            self.reads -= 1;
            self.shared.metrics.reads_waiting.decrement(1.0);
        }
        match served.answer {
            Ok(reply) => {
                self.forget_transients(&reply, served.transient);
                self.send(&reply);
                drop(served.turn);
            }
            Err(close) => self.end(close, false),
        }
    }

    /// Lets go of the transient segments that a reply says are gone, or were never created.
    fn forget_transients(&mut self, reply: &Reply, created: Option<String>) {
        let before = self.transients.len();
        let mut forget = |name: &String| {
            self.transients.remove(name);
        };
        match reply {
            Reply::SegmentCreated(_) => {}
            Reply::SegmentsMerged(merged) => forget(&merged.source),
            Reply::SegmentsBatchMerged(batch) => {
                let merged = batch.merged.iter();
                merged.for_each(|merged| forget(&merged.source));
            }
            Reply::SegmentDeleted(deleted) => forget(&deleted.segment),
            _ => created.iter().for_each(forget),
        }
        let gone = before - self.transients.len();
        self.shared.metrics.transients.decrement(gone as f64);
    }

    /// Names a new transient segment; from here on it goes with this connection.
    fn transient(&mut self, create: &CreateTransientSegment) -> Option<String> {
        if self.transients.len() >= TRANSIENTS_MAX {
            reached("transients");
            let message =
                format!("this connection has {TRANSIENTS_MAX} transient segments already");
            let (id, parent) = (create.request_id, &create.parent);
            self.send(&Refused::illegal_argument(id, parent, message));
            return None;
        }
        let nonce = self.shared.rng.u128();
        let name = names::transient_segment(&create.parent, create.writer_id, nonce);
        self.transients.insert(name.clone());
        self.shared.metrics.transients.increment(1.0);
        Some(name)
    }

    fn handed_over(&mut self, handed_over: HandedOver) {
        match handed_over {
            HandedOver::Done(id, appender) => {
                if !self.appenders.iter().any(|(known, _)| *known == id) {
                    self.appenders.push((id, appender));
                }
            }
            HandedOver::Refused { tokens, why } => {
                let mut made = Vec::new();
                let reply = &mut |reply| made.push(reply);
                self.appends.refuse(&tokens, &why, reply);
                for reply in &made {
                    self.send(reply);
                }
            }
            HandedOver::Stopping => self.end(Close::Container, false),
        }
    }

    fn dispatch_all(&mut self, arrived: VecDeque<Arrived>) {
        for arrived in arrived {
            if self.ending.is_some() {
                break;
            }
            match arrived {
                Arrived::Append(append, permit) => {
                    let taken = self.appends.append(append, permit);
                    self.taken(taken);
                }
                Arrived::Other(command, permit) => self.dispatch(command, permit),
            }
        }
        for (id, mut batch) in self.batches.drain(..) {
            let known = self.appenders.iter().find(|(known, _)| *known == id);
            if let Some((_, appender)) = known {
                // There is nothing being handed over, or else nothing would have been read.
                match appender.try_submit(batch) {
                    Ok(()) => continue,
                    Err(rest) => batch = rest,
                }
            }
            let known = known.map(|(_, appender)| appender.clone());
            let (host, to) = (self.shared.host.clone(), self.outcomes_to.clone());
            let handing_over = hand_over(host, id, known, to, batch);
            self.handing_over.push(Box::pin(handing_over));
        }
    }

    fn dispatch(&mut self, command: Command, permit: Option<Permit>) {
        match command {
            Command::Hello(hello) => {
                let (high_version, low_version) = (wire::VERSION, wire::OLDEST_VERSION);
                self.send(
                    &replies::Hello {
                        high_version,
                        low_version,
                    }
                    .into(),
                );
                let (high, low) = (hello.high_version, hello.low_version);
                if high < wire::OLDEST_VERSION || low > wire::VERSION {
                    self.end(Close::Version { high, low }, true);
                }
            }
            Command::KeepAlive(_) => self.send(&replies::KeepAlive {}.into()),
            Command::Padding(_) => {}
            Command::SetupAppend(setup) => self.set_up(&setup),
            other => self.start(other, permit),
        }
    }

    fn set_up(&mut self, setup: &SetupAppend) {
        if let Err(message) = request::check_segment(&setup.segment) {
            let refusal = Refused::illegal_argument(setup.request_id, &setup.segment, message);
            return self.send(&refusal);
        }
        let container = self.shared.host.owner(&setup.segment);
        if !self.shared.host.owns(container) {
            let refusal = wrong_host(setup.request_id, &setup.segment);
            return self.send(&refusal);
        }
        let taken = self.appends.set_up(setup, container);
        self.taken(taken);
    }

    fn taken(&mut self, taken: Taken) {
        match taken {
            Taken::Submit(id, operation) => {
                match self.batches.iter_mut().find(|(known, _)| *known == id) {
                    Some((_, batch)) => batch.push(operation),
                    None => self.batches.push((id, vec![operation])),
                }
            }
            Taken::Refused(reply) => self.send(&reply),
            Taken::Closed(reply, close) => {
                if let Some(reply) = reply {
                    self.send(&reply);
                }
                self.end(close, false);
            }
        }
    }

    fn start(&mut self, command: Command, permit: Option<Permit>) {
        let mut transient = None;
        if let Command::CreateTransientSegment(create) = &command {
            transient = self.transient(create);
            if transient.is_none() {
                return;
            }
        }
        let was_read = request::is_read(&command);
        let limits = &self.shared.limits;
        let mut read_wait = Duration::from_secs(limits.read_wait_seconds);
        if was_read {
            if self.reads >= limits.parked_reads {
                read_wait = read_wait.min(CROWDED_WAIT);
                reached("parked_reads");
            }
            self.reads += 1;
            self.shared.metrics.reads_waiting.increment(1.0);
        }
        let terms = Terms {
            host: self.shared.host.clone(),
            read_wait,
            stop: self.stop.clone(),
            permit,
            turns: self.turns.clone(),
            transient: transient.clone(),
        };
        let answer = request::serve(command, terms);
        self.requests.push(Box::pin(async move {
            let (answer, turn) = answer.await;
            Served {
                was_read,
                transient,
                answer,
                turn,
            }
        }));
        if !was_read && self.requests_under_way() == self.shared.limits.requests {
            reached("requests");
        }
    }
}

/// Deletes the transient segments of a connection that has ended. One that is being created just now
/// is deleted behind that: its container takes requests in order.
async fn bury(shared: &Shared, transients: BTreeSet<String>) {
    if transients.is_empty() {
        return;
    }
    let deletions = transients.iter().map(|name| async move {
        if let Ok(container) = shared.host.serving(shared.host.owner(name)).await {
            // If it is there at all: it may be merged. If the container stops, its next start does it.
            let _ = container.delete(name).await;
        }
    });
    let _ = timeout(BURIAL_MAX, join_all(deletions)).await;
    shared.metrics.transients.decrement(transients.len() as f64);
}

/// Hands a batch to its container, which is found the first time.
async fn hand_over(
    host: Arc<Host>,
    id: ContainerId,
    known: Option<Arc<Appender>>,
    outcomes: mpsc::UnboundedSender<Outcomes>,
    batch: Vec<AppendOp>,
) -> HandedOver {
    let appender = match known {
        Some(appender) => appender,
        None => match host.serving(id).await {
            Ok(container) => Arc::new(container.appender(outcomes)),
            Err(Unavailable::Refused(why)) => {
                let tokens = batch.iter().map(token_of).collect();
                return HandedOver::Refused { tokens, why };
            }
            // A writer is set up on our own segments only.
            Err(Unavailable::Stopping | Unavailable::Elsewhere) => return HandedOver::Stopping,
        },
    };
    match appender.submit(batch).await {
        Ok(()) => HandedOver::Done(id, appender),
        Err(_) => HandedOver::Stopping,
    }
}

fn token_of(operation: &AppendOp) -> u64 {
    match operation {
        AppendOp::Setup { token, .. } | AppendOp::Append { token, .. } => *token,
    }
}
