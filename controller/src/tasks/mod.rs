//! Changes that outlive a crash.
//!
//! A change of a stream is one task at a time. It begins with a transaction that writes what is to be
//! done into the stream's work row, goes on with calls to the segment store that may be repeated, and
//! ends with a transaction that shows the result and removes the row. So after a crash anywhere the
//! row says what is left, and doing all of it again is right. Rows left over are taken up at start-up,
//! and before the next change of their stream.
//!
//! A task runs by itself: a caller that stops waiting does not stop it. Callers wait for
//! [`PATIENCE`]; one that asks for the same again meanwhile joins the running task. A task whose
//! segment store is away goes on trying, with a delay, until the controller stops; then the row stays. One
//! that the segment store refuses ends, see `give_up`.

mod commit_transactions;
mod commits;
mod create_group;
mod create_stream;
mod delete_group;
pub(crate) mod delete_scope;
mod delete_stream;
mod give_up;
pub(crate) mod hints;
mod retain_stream;
pub(crate) mod scale_stream;
mod seal_stream;
mod steps;
mod tables;
#[cfg(test)]
mod tests;
pub(crate) mod transactions;
mod truncate_stream;
mod update_group;
mod update_stream;
mod watch_transactions;

pub(crate) use hints::subscriptions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use sarit_env::{Clock, Rng};
use sarit_proto::controller::{KeyValueTableConfig, ReaderGroupConfiguration, StreamConfig};
use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::names::{ScopeName, ScopedStream, StreamName, StreamSegment};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use self::steps::Steps;
use crate::metrics;
use crate::periodic::leases::Leases;
use crate::segments::{self, Call, SegmentStore};
use crate::store::catalog::{self, Catalog, PAGE, Row};
use crate::store::keys::{self, StreamId};
use crate::store::records::{Damaged, Job, Work};
use crate::store::{self, Expect, Outcome, Transaction};
use crate::stream::epoch::Transition;
use crate::stream::scale::{self, Scaling};
use crate::stream::transaction::Bounds;
use crate::watermarks::Watermarks;

/// How long a caller waits for a task before it is told to ask again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most tasks at once; each is one entry of memory while its segment store is away. There are places for
/// as many again that are parts of others: those wait for them, and must not have taken all places.
const TASKS_MAX: usize = 1024;
/// How often a change is decided anew because something else changed first.
const CONFLICTS_MAX: usize = 20;
/// Calls to the segment store at once, per task.
const CALLS_MAX: usize = 64;
/// Unfinished tasks taken up at once.
const RESUMED_MAX: usize = 64;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// What a caller wants of one stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    /// Make it, with a configuration in normal form.
    Create(StreamConfig),
    /// Replace its configuration by another in normal form.
    Update(StreamConfig),
    /// Let it take no more events.
    Seal,
    /// Drop what is before a cut; numbers as the client gave them.
    Truncate(BTreeMap<i64, i64>),
    /// Record a cut at the tail, and drop what the retention policy allows.
    Retain,
    /// Replace segments by others.
    Scale(Scaling),
    /// Remove it.
    Delete,
    /// Make a reader group and the stream of its state, which the task runs under.
    CreateGroup(ReaderGroupConfiguration),
    /// Replace a group's configuration.
    UpdateGroup(ReaderGroupConfiguration),
    /// Remove the group with this id.
    DeleteGroup(String),
    /// Make a key-value table; the task runs under the name of its segments.
    CreateTable(KeyValueTableConfig),
    /// Remove a key-value table.
    DeleteTable,
    /// Remove a scope with all that is in it; see [`delete_scope::all_of`] for what the task runs under.
    DeleteScope,
    /// Commit some of the transactions whose commit was accepted.
    Commit,
    /// Finish what a crash interrupted.
    Resume,
}

/// How a change ended. Refusals that have a status of their own are answers, not errors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// It is so now.
    Done,
    /// Some of it; ask again.
    More,
    /// Nothing yet; ask again after this time.
    Later(Duration),
    /// There is one of that name already.
    Exists,
    /// The scope does not exist.
    NoScope,
    /// The stream or group does not exist.
    NotThere,
    /// The stream takes no more changes.
    Sealed,
    /// The stream must be sealed first.
    NotSealed,
    /// The change that was made.
    Scaled(Transition),
    /// The segments cannot be replaced so. Nothing changed.
    NotScaled(scale::Refusal),
    /// The group as it is stored.
    Group(ReaderGroupConfiguration),
    /// The group's new generation.
    Generation(i64),
    /// The caller knows an older state of the group, or another group of that name.
    StaleGroup,
}

/// Why a change did not happen, or not for certain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The request can never succeed. Nothing changed.
    #[error("{0}")]
    Invalid(String),
    /// It may have begun; it goes on by itself. Ask again.
    #[error("{0}")]
    Unavailable(String),
    /// Too much is going on. Nothing changed.
    #[error("{TASKS_MAX} changes are in progress, more cannot be started now")]
    Overloaded,
    /// The records cannot be read or written.
    #[error(transparent)]
    Metadata(#[from] catalog::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::TooLarge { .. } => Self::Invalid(error.to_string()),
            error => Self::Metadata(error.into()),
        }
    }
}

impl From<Damaged> for Error {
    fn from(error: Damaged) -> Self {
        Self::Metadata(error.into())
    }
}

impl From<segments::Error> for Error {
    fn from(error: segments::Error) -> Self {
        match error {
            segments::Error::Refused(_) => Self::Invalid(error.to_string()),
            segments::Error::Unavailable(_)
            | segments::Error::Missing(_)
            | segments::Error::Sealed(_) => Self::Unavailable(error.to_string()),
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// What a decision led to.
enum Begun {
    /// All is done, or refused.
    Answered(Answer),
    /// The work row is written; once it is worked off, this is the answer.
    Working(StreamId, Answer),
    /// Something changed between reading and writing: decide anew.
    Conflict,
}

/// What an outcome of the first transaction means for a decision.
fn begun(outcome: Outcome, then: Begun) -> Begun {
    match outcome {
        Outcome::Committed(_) => then,
        Outcome::Conflict => Begun::Conflict,
    }
}

/// The running tasks; clones share them.
#[derive(Clone)]
pub(crate) struct Tasks(Arc<Context>);

/// What a task works with.
pub(crate) struct Context {
    pub(crate) catalog: Catalog,
    pub(crate) segments: Arc<dyn SegmentStore>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) watermarks: Watermarks,
    bounds: Bounds,
    rolls: commit_transactions::Rolls,
    commits: commits::Commits,
    pub(crate) leases: Leases,
    /// Whether the open transactions of an earlier run are noted.
    loaded: watch::Sender<bool>,
    /// The order that the next commit gets.
    order: AtomicU64,
    /// Streams whose queue of commits is about to be worked off.
    kicked: Mutex<BTreeSet<ScopedStream>>,
    aborts: Semaphore,
    begins: Steps,
    ends: Steps,
    running: Mutex<BTreeMap<ScopedStream, Running>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Running {
    request: Request,
    outcome: watch::Receiver<Option<Result<Answer>>>,
}

/// What to do about a stream's running task.
enum Slot {
    Join(Running),
    WaitFor(Running),
}

impl Tasks {
    /// Creates an engine that works until `stop`; `tracker` owns its tasks.
    pub(crate) fn new(
        catalog: Catalog,
        segments: Arc<dyn SegmentStore>,
        (clock, rng, bounds): (Clock, Rng, Bounds),
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let watermarks = Watermarks::new(catalog.clone(), clock.clone());
        Self(Arc::new(Context {
            watermarks,
            catalog,
            segments,
            clock,
            rng,
            bounds,
            rolls: commit_transactions::Rolls::default(),
            commits: commits::Commits::default(),
            leases: Leases::default(),
            loaded: watch::channel(false).0,
            order: AtomicU64::new(0),
            kicked: Mutex::default(),
            aborts: Semaphore::new(transactions::ABORTS_MAX),
            begins: Steps::new("begin", tracker.clone(), stop.clone()),
            ends: Steps::new("end", tracker.clone(), stop.clone()),
            running: Mutex::default(),
            tracker,
            stop,
        }))
    }

    /// Does `request` and waits for its end, for [`PATIENCE`] at most. Cancel-safe: what has begun goes
    /// on.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not finished by then.
    pub(crate) async fn run(&self, stream: &ScopedStream, request: Request) -> Result<Answer> {
        let deadline = Instant::now() + PATIENCE;
        self.run_until(stream, request, Some(deadline), TASKS_MAX)
            .await
    }

    /// Does `request` as a part of a running task, however long it takes.
    async fn run_part(&self, stream: &ScopedStream, request: Request) -> Result<Answer> {
        let answer = self.run_until(stream, request, None, 2 * TASKS_MAX).await;
        answer.map_err(|error| match error {
            Error::Overloaded => Error::Unavailable(error.to_string()),
            error => error,
        })
    }

    async fn run_until(
        &self,
        stream: &ScopedStream,
        request: Request,
        deadline: Option<Instant>,
        places: usize,
    ) -> Result<Answer> {
        let late = || {
            let what = match delete_scope::is_all(stream) {
                true => format!("the deletion of scope {}", stream.scope),
                false => format!("a change of {stream}"),
            };
            Error::Unavailable(format!("{what} is still in progress"))
        };
        loop {
            let (mut running, joined) = match self.slot(stream, &request, places)? {
                Slot::Join(running) => (running, true),
                Slot::WaitFor(running) => (running, false),
            };
            let outcome = running.outcome.wait_for(Option::is_some);
            let outcome = match deadline {
                Some(deadline) => timeout_at(deadline, outcome).await.map_err(|_| late())?,
                None => outcome.await,
            };
            if joined {
                let outcome = outcome.map(|outcome| outcome.clone());
                let stopped = || Error::Unavailable("the controller is stopping".to_owned());
                return outcome.ok().flatten().ok_or_else(stopped)?;
            }
        }
    }

    /// Finds or starts the stream's task, if fewer than `places` run.
    fn slot(&self, stream: &ScopedStream, request: &Request, places: usize) -> Result<Slot> {
        let mut running = self.0.running.lock();
        if let Some(other) = running.get(stream) {
            let same = other.request == *request && request.may_be_joined();
            let other = other.clone();
            return Ok(if same {
                Slot::Join(other)
            } else {
                Slot::WaitFor(other)
            });
        }
        if running.len() >= places {
            return Err(Error::Overloaded);
        }
        let (done, outcome) = watch::channel(None);
        let task = Running {
            request: request.clone(),
            outcome,
        };
        running.insert(stream.clone(), task.clone());
        metrics::task_started();
        let (context, stream, request) = (self.0.clone(), stream.clone(), request.clone());
        self.0.tracker.spawn(async move {
            let outcome = tokio::select! {
                biased;
                outcome = context.execute(&stream, &request) => outcome,
                () = context.stop.cancelled() => {
                    Err(Error::Unavailable("the controller is stopping".to_owned()))
                }
            };
            debug!(%stream, kind = request.kind(), ?outcome, "task ended");
            metrics::task_ended(request.kind());
            context.running.lock().remove(&stream);
            done.send_replace(Some(outcome));
        });
        Ok(Slot::Join(task))
    }

    /// Takes up what an earlier run left unfinished. Returns when all of it was tried.
    pub(crate) async fn resume(&self) -> Result<()> {
        let store = self.0.catalog.store.clone();
        let mut after: Option<String> = None;
        loop {
            let page = store.range(keys::WORK, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.entries.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            let mut unfinished = Vec::with_capacity(page.entries.len());
            for (key, row) in page.entries {
                let work: Work = store::records::decode(&key, &row.value)?;
                unfinished.push(named(&key, &work)?);
            }
            let resumed = stream::iter(unfinished).for_each_concurrent(RESUMED_MAX, |stream| {
                let tasks = self.clone();
                async move { tasks.resume_one(&stream).await }
            });
            resumed.await;
        }
    }

    async fn resume_one(&self, stream: &ScopedStream) {
        info!(%stream, "taking up an unfinished task");
        match self.run(stream, Request::Resume).await {
            // What is still waiting for its segment store goes on by itself.
            Ok(_) | Err(Error::Unavailable(_)) => {}
            Err(error) => error!(%stream, %error, "unfinished task cannot go on"),
        }
    }

    /// Returns the streams that are being changed, for people who look.
    pub(crate) fn running(&self) -> Vec<(String, &'static str)> {
        let running = self.0.running.lock();
        let tasks = running.iter();
        tasks
            .map(|(stream, task)| (stream.to_string(), task.request.kind()))
            .collect()
    }

    /// Returns what the tasks work with.
    pub(crate) fn context(&self) -> &Context {
        &self.0
    }
}

impl Request {
    fn kind(&self) -> &'static str {
        match self {
            Self::Create(_) => "create stream",
            Self::Update(_) => "update stream",
            Self::Seal => "seal stream",
            Self::Truncate(_) => "truncate stream",
            Self::Retain => "retain stream",
            Self::Scale(_) => "scale stream",
            Self::Delete => "delete stream",
            Self::CreateGroup(_) => "create reader group",
            Self::UpdateGroup(_) => "update reader group",
            Self::DeleteGroup(_) => "delete reader group",
            Self::CreateTable(_) => "create table",
            Self::DeleteTable => "delete table",
            Self::DeleteScope => "delete scope",
            Self::Commit => "commit transactions",
            Self::Resume => "resume",
        }
    }

    /// Whether two callers who ask for the same may share the outcome. Of two who compare generations
    /// only one may win; a commit's queue may have been read before the second came.
    fn may_be_joined(&self) -> bool {
        !matches!(self, Self::UpdateGroup(_) | Self::Commit)
    }
}

impl Context {
    async fn execute(self: &Arc<Self>, stream: &ScopedStream, request: &Request) -> Result<Answer> {
        for attempt in 0..CONFLICTS_MAX {
            let catalog = match request {
                // Mostly there is nothing yet, and nothing left over: then nobody has to ask first.
                Request::Create(_) if attempt == 0 && self.segments.trouble().is_none() => {
                    self.catalog.without(create_stream::rows(stream))
                }
                Request::Create(_) => {
                    let rows = create_stream::rows(stream);
                    self.catalog.prefetched(rows).await?
                }
                _ => self.catalog.clone(),
            };
            if self.finish_left_over(&catalog, stream).await? {
                // What was read may have changed.
                continue;
            }
            let begun = match request {
                Request::Create(config) => {
                    create_stream::begin(self, &catalog, stream, config).await?
                }
                Request::Update(config) => update_stream::begin(self, stream, config).await?,
                Request::Seal => seal_stream::begin(self, stream).await?,
                Request::Truncate(cut) => truncate_stream::begin(self, stream, cut).await?,
                Request::Retain => retain_stream::begin(self, stream).await?,
                Request::Scale(wanted) => scale_stream::begin(self, stream, wanted).await?,
                Request::Delete => delete_stream::begin(self, stream).await?,
                Request::CreateGroup(config) => create_group::begin(self, stream, config).await?,
                Request::UpdateGroup(config) => update_group::begin(self, stream, config).await?,
                Request::DeleteGroup(id) => delete_group::begin(self, stream, id).await?,
                Request::CreateTable(config) => tables::create(self, stream, config).await?,
                Request::DeleteTable => tables::delete(self, stream).await?,
                Request::DeleteScope => delete_scope::begin(self, stream).await?,
                Request::Commit => commit_transactions::begin(self, stream).await?,
                Request::Resume => Begun::Answered(Answer::Done),
            };
            match begun {
                Begun::Answered(answer) => return Ok(answer),
                Begun::Working(id, answer) => {
                    self.work_off(stream, id).await?;
                    return Ok(answer);
                }
                Begun::Conflict => {}
            }
        }
        Err(Error::Unavailable(format!(
            "{stream} is changed by others all the time"
        )))
    }

    /// Finishes the stream's unfinished task. Returns whether a crash had left one.
    async fn finish_left_over(
        self: &Arc<Self>,
        catalog: &Catalog,
        stream: &ScopedStream,
    ) -> Result<bool> {
        let id = match stream.stream.table() {
            Some(_) => tables::id_of(self, stream).await?,
            None if delete_scope::is_all(stream) => delete_scope::id_of(self, stream).await?,
            None => catalog.name(stream).await?.map(|found| found.id),
        };
        let Some(id) = id else {
            return Ok(false);
        };
        if self.catalog.work(id).await?.is_none() {
            return Ok(false);
        }
        self.work_off(stream, id).await?;
        Ok(true)
    }

    /// Does what the work row says, until it is done.
    async fn work_off(self: &Arc<Self>, stream: &ScopedStream, id: StreamId) -> Result<()> {
        let mut delay = RETRY_DELAY_MIN;
        let mut refused = None;
        loop {
            let Some(work) = self.catalog.work(id).await? else {
                return refused.map_or(Ok(()), |reason| Err(Error::Invalid(reason)));
            };
            let unavailable = match self.work_once(stream, id, &work).await {
                // One task may have put another in its place.
                Ok(()) => continue,
                Err(Error::Unavailable(reason)) => reason,
                Err(Error::Invalid(reason)) => {
                    if !give_up::give_up(self, stream, id, &work, &reason).await? {
                        return Err(Error::Invalid(reason));
                    }
                    refused = Some(reason);
                    continue;
                }
                Err(error) => return Err(error),
            };
            warn!(%stream, reason = %unavailable, "task waits for the segment store");
            metrics::task_retried(kind(&work.value));
            let jitter = 0.5 + self.rng.f64() / 2.0;
            tokio::time::sleep(delay.mul_f64(jitter)).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    async fn work_once(
        self: &Arc<Self>,
        stream: &ScopedStream,
        id: StreamId,
        work: &Row<Work>,
    ) -> Result<()> {
        let key = keys::work(id);
        let job = work.value.job.as_ref();
        let job = job.ok_or_else(|| Damaged::new(&key, "names no known job"))?;
        let done = Transaction::new()
            .expect(&key, Expect::At(work.revision))
            .delete(&key);
        match job {
            Job::Create(job) => create_stream::work(self, stream, id, job, done).await,
            Job::Update(job) => update_stream::work(self, stream, id, job, done).await,
            Job::Seal(_) => seal_stream::work(self, stream, id, work.revision, done).await,
            Job::Truncate(job) => truncate_stream::work(self, stream, id, job, done).await,
            Job::Delete(job) => delete_stream::work(self, stream, id, job, done).await,
            Job::CreateTable(_) => tables::work(self, stream, true, done).await,
            Job::DeleteTable(_) => tables::work(self, stream, false, done).await,
            Job::DeleteScope(_) => {
                delete_scope::work(Tasks(self.clone()), &stream.scope, done).await
            }
            Job::Roll(job) => commit_transactions::work(self, stream, id, job, done).await,
            Job::Scale(job) => scale_stream::work(self, stream, id, job, done).await,
        }
    }

    /// Ends a task. A conflict means that someone else has ended it.
    async fn finish(&self, transaction: Transaction) -> Result<()> {
        match self.catalog.store.commit(transaction).await? {
            Outcome::Committed(_) | Outcome::Conflict => Ok(()),
        }
    }

    /// Makes all calls, several at once. Stops at the first failure.
    async fn call_all<S: ToString>(&self, calls: Vec<(S, Call)>) -> Result<()> {
        Ok(self.try_all(calls).await?)
    }

    /// Like [`Context::call_all`], for callers whom the reason matters to.
    async fn try_all<S: ToString>(
        &self,
        calls: Vec<(S, Call)>,
    ) -> std::result::Result<(), segments::Error> {
        let calls = calls.into_iter().map(|(segment, call)| {
            let (store, segment) = (self.segments.clone(), segment.to_string());
            async move { call.make(&*store, &segment).await }
        });
        let mut calls = stream::iter(calls).buffer_unordered(CALLS_MAX);
        while let Some(outcome) = calls.next().await {
            outcome?;
        }
        Ok(())
    }

    /// Measures the segments, several at once; a missing one has no bytes.
    async fn lengths(&self, segments: Vec<StreamSegment>) -> Result<BTreeMap<SegmentId, Offset>> {
        let calls = segments.into_iter().map(|segment| {
            let store = self.segments.clone();
            async move {
                match store.extent(&segment.to_string()).await {
                    Ok(extent) => Ok((segment.id, extent.length)),
                    Err(segments::Error::Missing(_)) => Ok((segment.id, Offset(0))),
                    Err(error) => Err(error),
                }
            }
        });
        let mut calls = stream::iter(calls).buffer_unordered(CALLS_MAX);
        let mut lengths = BTreeMap::new();
        while let Some(outcome) = calls.next().await {
            let (id, length) = outcome?;
            lengths.insert(id, length);
        }
        Ok(lengths)
    }

    /// Refuses to begin what would have to wait for a segment store at once.
    fn check_store(&self) -> Result<()> {
        match self.segments.trouble() {
            Some(trouble) => Err(Error::Unavailable(trouble)),
            None => Ok(()),
        }
    }

    fn new_id(&self) -> StreamId {
        StreamId::new(self.clock.now_ms(), self.rng.u128())
    }
}

fn work_row(stream: &ScopedStream, job: Job) -> bytes::Bytes {
    store::records::encode(&Work {
        scope: stream.scope.to_string(),
        stream: stream.stream.to_string(),
        job: Some(job),
    })
}

fn named(key: &str, work: &Work) -> Result<ScopedStream> {
    let wrong = |error| Damaged::new(key, error);
    Ok(ScopedStream {
        scope: ScopeName::occurring(&work.scope).map_err(wrong)?,
        stream: StreamName::occurring(&work.stream).map_err(wrong)?,
    })
}

fn kind(work: &Work) -> &'static str {
    match &work.job {
        Some(Job::Create(_)) => "create stream",
        Some(Job::Update(_)) => "update stream",
        Some(Job::Seal(_)) => "seal stream",
        Some(Job::Truncate(_)) => "truncate stream",
        Some(Job::Delete(_)) => "delete stream",
        Some(Job::Scale(_)) => "scale stream",
        Some(Job::Roll(_)) => "roll transactions",
        Some(Job::CreateTable(_)) => "create table",
        Some(Job::DeleteTable(_)) => "delete table",
        Some(Job::DeleteScope(_)) => "delete scope",
        None => "unknown",
    }
}
