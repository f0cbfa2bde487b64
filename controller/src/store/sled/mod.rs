//! The store of a standalone controller: sled 0.34.7, wrapped so that its promises become ours.
//!
//! sled by itself acknowledges what a power cut can lose. Here one writer thread groups what is
//! queued: decide each transaction, apply one atomic batch, `flush()`, then `fdatasync` on our own
//! descriptor of sled's file, and only then reply. Reads have a thread too, and wait for the running
//! group when they touch one of its keys, so nothing is shown that could be lost again. Rows used lately
//! are kept in memory, and reads of those alone are answered without the thread. If opening fails as
//! corrupt, sled's snapshot files (which it can rebuild) are moved aside and opening is tried once more;
//! after that we refuse to start rather than begin anew. An error of a write or a sync fails the store for
//! good. No sled type leaves this module.
//!
//! ```text
//! m                    revision of the last transaction, u64
//! k {key}              revision u64 | number of further pieces u16 | first piece of the value
//! c {key} 00 {n: u16}  piece n of the value, n from 0
//! ```
//! Pieces are small because sled writes a tree node of more than a quarter of a segment as a file of
//! its own, without any sync: nodes have at most 26 leaf items, or 266 keys.

mod layout;
mod recent;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use sarit_env::disk::{DiskFile, DiskLock};
use sarit_env::{Disk, OpenMode, Rng, Worker, spawn_worker};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use self::recent::Recent;
use super::directory::{OpenError, claim, find};
use super::{Error, Expect, MetaStore, Operation, Outcome, Page, Revision, Transaction, Versioned};
use crate::metrics;

/// Requests waiting for a thread; more make callers wait.
const INBOX_MAX: usize = 1024;
/// Transactions in one group.
const GROUP_MAX: usize = 128;
/// How long a group waits for others.
const GATHER: Duration = Duration::from_millis(1);
/// It only does if the group before had so many transactions: who does one thing at a time never waits.
const GATHER_FROM: usize = 4;
/// Bytes sled may keep of nodes read; small, because an idle process should be.
const CACHE_BYTES: u64 = 4 << 20;
/// How often, and how many times, to look whether sled's lock is free.
const UNLOCK_LOOK_EVERY: Duration = Duration::from_millis(20);
const UNLOCK_LOOKS: usize = 100;
/// sled's segment; a node above a quarter of it would become an unsynced file (see above).
const SEGMENT_BYTES: usize = 2 << 20;

/// An open database directory.
#[derive(Debug)]
pub struct SledStore {
    senders: Mutex<Option<Senders>>,
    workers: Mutex<Option<(Worker<()>, Worker<()>)>>,
    applied: Arc<Applied>,
    /// Number of the last group that is durable.
    durable: watch::Receiver<u64>,
    failure: watch::Receiver<Option<String>>,
}

#[derive(Clone, Debug)]
struct Senders {
    commits: mpsc::Sender<Submission>,
    reads: mpsc::Sender<Read>,
}

#[derive(Debug)]
struct Submission {
    transaction: Transaction,
    done: oneshot::Sender<Result<Outcome, Error>>,
}

#[derive(Debug)]
struct Read {
    kind: ReadKind,
    done: oneshot::Sender<Result<Found, Error>>,
}

#[derive(Debug)]
enum ReadKind {
    /// Those of these keys that exist, in this order.
    Some(Vec<String>),
    Range {
        prefix: String,
        after: Option<String>,
        limit: usize,
    },
}

impl ReadKind {
    fn read(&self, db: &::sled::Db) -> Result<Page, String> {
        match self {
            Self::Some(keys) => layout::some(db, keys),
            Self::Range {
                prefix,
                after,
                limit,
            } => layout::range(db, prefix, after.as_deref(), *limit),
        }
    }

    /// Whether any of these keys is read.
    fn touches(&self, keys: &BTreeSet<String>) -> bool {
        match self {
            Self::Some(wanted) => wanted.iter().any(|key| keys.contains(key)),
            Self::Range { prefix, .. } => {
                let start = (Bound::Included(prefix.as_str()), Bound::Unbounded);
                let mut from = keys.range::<str, _>(start);
                from.next().is_some_and(|key| key.starts_with(prefix))
            }
        }
    }
}

#[derive(Debug)]
struct Found {
    page: Page,
    /// The group that must be durable before anyone may see the page.
    visible_after: u64,
}

/// What both threads use.
struct Shared {
    db: ::sled::Db,
    applied: Arc<Applied>,
}

/// What is known of the database without asking it.
#[derive(Debug, Default)]
struct Applied {
    /// Held for writing while a group is applied, for reading by each read.
    group: RwLock<Group>,
    /// Changed only under the lock above, so that it is as the database is.
    recent: Mutex<Recent>,
}

impl Applied {
    /// Answers a read, if all its rows are known and no group is being applied.
    fn read(&self, kind: &ReadKind) -> Option<Found> {
        let ReadKind::Some(keys) = kind else {
            return None;
        };
        let group = self.group.try_read()?;
        let mut recent = self.recent.lock();
        let mut page = Page::default();
        for key in keys {
            if let Some(row) = recent.get(key)? {
                page.entries.push((key.clone(), row));
            }
        }
        let visible_after = group.visible_after(kind);
        Some(Found {
            page,
            visible_after,
        })
    }

    /// Takes note of what a read found. The caller holds the group's lock.
    fn note(&self, kind: &ReadKind, page: &Page) {
        let ReadKind::Some(keys) = kind else {
            return;
        };
        let mut recent = self.recent.lock();
        let mut found = page.entries.iter().peekable();
        for key in keys {
            let row = found.next_if(|(name, _)| name == key);
            recent.put(key.clone(), row.map(|(_, row)| row.clone()));
        }
    }
}

/// The group that is applied but perhaps not yet durable.
#[derive(Debug, Default)]
struct Group {
    number: u64,
    keys: BTreeSet<String>,
}

impl Group {
    /// Returns the group that must be durable before anyone may see what was read.
    fn visible_after(&self, kind: &ReadKind) -> u64 {
        if kind.touches(&self.keys) {
            self.number
        } else {
            0
        }
    }
}

/// Opens the controller's data directory, or makes it. Blocks the calling thread on the disk: for
/// start-up only.
///
/// # Errors
/// Sentences for a user; nothing was changed or deleted.
pub async fn open_sled(
    dir: &Path,
    disk: Arc<dyn Disk>,
    rng: &Rng,
) -> Result<Arc<SledStore>, OpenError> {
    let lock = claim(dir, &*disk, rng).await?;
    let meta = dir.join("meta");
    disk.create_dir_all(&meta)
        .await
        .map_err(|error| OpenError::io("create", &meta, error))?;
    let db = open_database(&meta, &*disk).await?;
    let path = meta.join("db");
    let file = disk.open(&path, OpenMode::ReadWrite).await;
    let file = file.map_err(|error| OpenError::io("open", &path, error))?;
    // sled writes its `conf` once, when the database is created, and never syncs it: a power cut that
    // leaves half of it leaves a database that nothing can open.
    let synced = async {
        disk.open(&meta.join("conf"), OpenMode::ReadWrite)
            .await?
            .sync_data()
            .await?;
        file.sync_data().await?;
        disk.sync_dir(&meta).await?;
        disk.sync_dir(dir).await
    };
    synced
        .await
        .map_err(|error| OpenError::io("sync", &path, error))?;
    info!(dir = %dir.display(), "metadata opened");
    Ok(Arc::new(SledStore::start(db, file, lock)))
}

/// Opens the data directory of a controller that was there before.
///
/// # Errors
/// [`OpenError::Missing`] if there is none, and those of [`open_sled`]; nothing was made.
pub async fn open_sled_found(
    dir: &Path,
    disk: Arc<dyn Disk>,
    rng: &Rng,
) -> Result<Arc<SledStore>, OpenError> {
    find(dir, &*disk).await?;
    open_sled(dir, disk, rng).await
}

async fn open_database(meta: &Path, disk: &dyn Disk) -> Result<::sled::Db, OpenError> {
    let config = ::sled::Config::new()
        .path(meta)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None);
    let first = match open_unlocked(&config).await {
        Ok(db) => return Ok(db),
        Err(error @ ::sled::Error::Corruption { .. }) => error,
        Err(error) => return Err(corrupt(meta, &error)),
    };
    warn!(dir = %meta.display(), error = %first, "metadata snapshot damaged, moving it aside");
    let entries = disk.list(meta).await;
    let entries = entries.map_err(|error| OpenError::io("list", meta, error))?;
    for entry in entries {
        if entry.name().starts_with("snap.") {
            let aside = meta.join(format!("damaged.{}", entry.name()));
            let moved = disk.rename(&entry.path, &aside).await;
            moved.map_err(|error| OpenError::io("move aside", &entry.path, error))?;
        }
    }
    disk.sync_dir(meta)
        .await
        .map_err(|error| OpenError::io("sync", meta, error))?;
    let opened = open_unlocked(&config).await;
    opened.map_err(|error| corrupt(meta, &error))
}

/// Opens the database, waiting a little for sled's own lock. Nobody else has it, since ours is taken; but
/// threads of an instance just closed, or of one that failed to open, may hold it a moment longer.
async fn open_unlocked(config: &::sled::Config) -> ::sled::Result<::sled::Db> {
    for _ in 0..UNLOCK_LOOKS {
        match config.open() {
            Err(::sled::Error::Io(error)) if error.to_string().contains("lock") => {}
            outcome => return outcome,
        }
        tokio::time::sleep(UNLOCK_LOOK_EVERY).await;
    }
    config.open()
}

fn corrupt(meta: &Path, error: &::sled::Error) -> OpenError {
    OpenError::Corrupt {
        dir: meta.to_owned(),
        reason: error.to_string(),
    }
}

impl SledStore {
    fn start(db: ::sled::Db, file: Arc<dyn DiskFile>, lock: DiskLock) -> Self {
        let applied = Arc::new(Applied::default());
        let shared = Arc::new(Shared {
            db,
            applied: applied.clone(),
        });
        let (commits, commit_inbox) = mpsc::channel(INBOX_MAX);
        let (reads, read_inbox) = mpsc::channel(INBOX_MAX);
        let (durable, durable_seen) = watch::channel(0);
        let (failure, failure_seen) = watch::channel(None);
        let writer = Writer {
            shared: shared.clone(),
            file,
            durable,
            failure,
            _lock: lock,
        };
        let writing = spawn_worker("metadata-write", writer.run(commit_inbox));
        let reading = spawn_worker("metadata-read", serve_reads(shared, read_inbox));
        Self {
            senders: Mutex::new(Some(Senders { commits, reads })),
            workers: Mutex::new(Some((writing, reading))),
            applied,
            durable: durable_seen,
            failure: failure_seen,
        }
    }

    /// Finishes what is queued, closes the database and releases the directory. Later calls get
    /// [`Error::Closed`].
    pub async fn close(&self) {
        drop(self.senders.lock().take());
        let workers = self.workers.lock().take();
        if let Some((writing, reading)) = workers {
            reading.await;
            writing.await;
        }
    }

    fn senders(&self) -> Result<Senders, Error> {
        self.senders.lock().clone().ok_or(Error::Closed)
    }

    /// The error that explains why a thread no longer answers.
    fn gone(&self) -> Error {
        match &*self.failure.borrow() {
            Some(reason) => Error::Broken(reason.clone()),
            None => Error::Closed,
        }
    }

    async fn read(&self, kind: ReadKind) -> Result<Page, Error> {
        let senders = self.senders()?;
        let known = self.applied.read(&kind);
        let found = match known {
            Some(found) => {
                metrics::metadata_read("memory");
                found
            }
            None => {
                metrics::metadata_read("database");
                self.ask(&senders, kind).await?
            }
        };
        drop(senders);
        let mut durable = self.durable.clone();
        let visible = durable.wait_for(|group| *group >= found.visible_after);
        visible.await.map_err(|_| self.gone())?;
        Ok(found.page)
    }

    async fn ask(&self, senders: &Senders, kind: ReadKind) -> Result<Found, Error> {
        let (done, found) = oneshot::channel();
        let sent = senders.reads.send(Read { kind, done }).await;
        sent.map_err(|_| self.gone())?;
        found.await.map_err(|_| self.gone())?
    }
}

#[async_trait]
impl MetaStore for SledStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        let page = self.read(ReadKind::Some(vec![key.to_owned()])).await?;
        Ok(page.entries.into_iter().next().map(|(_, row)| row))
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Versioned>>, Error> {
        let page = self.read(ReadKind::Some(keys.to_vec())).await?;
        let mut found = page.entries.into_iter().peekable();
        let of = |key: &String| Some(found.next_if(|(name, _)| name == key)?.1);
        Ok(keys.iter().map(of).collect())
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        let range = ReadKind::Range {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit,
        };
        self.read(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        let (done, outcome) = oneshot::channel();
        let submission = Submission { transaction, done };
        let sent = self.senders()?.commits.send(submission).await;
        sent.map_err(|_| self.gone())?;
        outcome.await.map_err(|_| self.gone())?
    }

    async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let reason = match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            // The writer ended without a failure: the store was closed.
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

/// Waits a little for as many transactions as there were in the group before: those who wait for it had company,
/// and each group costs sled a write, the wakening of all its threads, and two syncs.
async fn gather(
    inbox: &mut mpsc::Receiver<Submission>,
    waiting: &mut Vec<Submission>,
    before: usize,
) {
    let until = Instant::now() + GATHER;
    while waiting.len() < before {
        let more = GROUP_MAX - waiting.len();
        match timeout_at(until, inbox.recv_many(waiting, more)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn serve_reads(shared: Arc<Shared>, mut inbox: mpsc::Receiver<Read>) {
    while let Some(read) = inbox.recv().await {
        let group = shared.applied.group.read();
        let page = read.kind.read(&shared.db);
        if let Ok(page) = &page {
            shared.applied.note(&read.kind, page);
        }
        let visible_after = group.visible_after(&read.kind);
        drop(group);
        let found = page.map(|page| Found {
            page,
            visible_after,
        });
        // The caller may have stopped waiting.
        let _ = read.done.send(found.map_err(Error::Broken));
    }
}

/// Owns all changes. What is queued when it stops by failure is answered as broken.
struct Writer {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    durable: watch::Sender<u64>,
    failure: watch::Sender<Option<String>>,
    _lock: DiskLock,
}

impl Writer {
    async fn run(self, mut inbox: mpsc::Receiver<Submission>) {
        let mut last = match layout::last_revision(&self.shared.db) {
            Ok(last) => last,
            Err(reason) => return self.fail(reason),
        };
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        let mut before = 0;
        while inbox.recv_many(&mut waiting, GROUP_MAX).await > 0 {
            if before >= GATHER_FROM {
                gather(&mut inbox, &mut waiting, before).await;
            }
            before = waiting.len();
            let submissions = std::mem::take(&mut waiting);
            metrics::metadata_group(submissions.len());
            match self.write_group(submissions, last).await {
                Ok(revision) => last = revision,
                Err(reason) => return self.fail(reason),
            }
        }
    }

    /// Dropping the inbox afterwards tells every caller.
    fn fail(&self, reason: String) {
        tracing::error!(error = %reason, "metadata store failed; restart to recover");
        self.failure.send_replace(Some(reason));
    }

    async fn write_group(&self, group: Vec<Submission>, last: u64) -> Result<u64, String> {
        let mut pending = Pending {
            shared: &self.shared,
            rows: BTreeMap::new(),
            absent: BTreeSet::new(),
            last,
        };
        let mut replies = Vec::with_capacity(group.len());
        for submission in group {
            let outcome = pending.decide(submission.transaction)?;
            replies.push((submission.done, outcome));
        }
        let last = pending.last;
        let (rows, absent) = (pending.rows, pending.absent);
        if !rows.is_empty() {
            self.make_durable(rows, absent, last).await?;
        }
        for (done, outcome) in replies {
            // The caller may have stopped waiting.
            let _ = done.send(Ok(outcome));
        }
        Ok(last)
    }

    async fn make_durable(
        &self,
        rows: Rows,
        absent: BTreeSet<String>,
        last: u64,
    ) -> Result<(), String> {
        let number = {
            let mut group = self.shared.applied.group.write();
            group.number += 1;
            group.keys = rows.keys().cloned().collect();
            let mut recent = self.shared.applied.recent.lock();
            layout::apply(&self.shared.db, &rows, last, &mut recent)?;
            // Rows that have come into being since follow.
            for key in absent {
                recent.put(key, None);
            }
            for (key, row) in rows {
                recent.put(key, row);
            }
            group.number
        };
        let started = Instant::now();
        self.shared.db.flush().map_err(|error| error.to_string())?;
        let synced = self.file.sync_data().await;
        synced.map_err(|error| format!("sync of the metadata file: {error}"))?;
        metrics::metadata_sync(started.elapsed());
        self.shared.applied.group.write().keys.clear();
        self.durable.send_replace(number);
        Ok(())
    }
}

/// Rows a group leaves behind, `None` for removed ones.
type Rows = BTreeMap<String, Option<Versioned>>;

/// The database as the transactions decided so far leave it.
struct Pending<'a> {
    shared: &'a Shared,
    rows: Rows,
    /// Keys that the database was asked for in vain: who expects a row to be absent often asks for it next.
    absent: BTreeSet<String>,
    last: u64,
}

impl Pending<'_> {
    fn decide(&mut self, transaction: Transaction) -> Result<Outcome, String> {
        for (key, expect) in &transaction.compares {
            if !self.holds(key, *expect)? {
                return Ok(Outcome::Conflict);
            }
        }
        self.last += 1;
        let revision = Revision(self.last);
        for (key, operation) in transaction.operations {
            let row = match operation {
                Operation::Put(value) => Some(Versioned { value, revision }),
                Operation::Delete => None,
            };
            self.rows.insert(key, row);
        }
        Ok(Outcome::Committed(revision))
    }

    fn holds(&mut self, key: &str, expect: Expect) -> Result<bool, String> {
        match expect {
            Expect::Absent => Ok(self.revision(key)?.is_none()),
            Expect::At(revision) => Ok(self.revision(key)? == Some(revision)),
            Expect::NothingUnder => {
                let start = (Bound::Included(key), Bound::Unbounded);
                let queued = self.rows.range::<str, _>(start);
                let mut queued = queued.take_while(|(found, _)| found.starts_with(key));
                if queued.any(|(_, row)| row.is_some()) {
                    return Ok(false);
                }
                layout::none_under(&self.shared.db, key, |found| self.rows.contains_key(found))
            }
        }
    }

    fn revision(&mut self, key: &str) -> Result<Option<Revision>, String> {
        let of = |row: &Option<Versioned>| row.as_ref().map(|row| row.revision);
        if let Some(row) = self.rows.get(key) {
            return Ok(of(row));
        }
        if let Some(known) = self.shared.applied.recent.lock().get(key) {
            return Ok(of(&known));
        }
        let revision = layout::revision(&self.shared.db, key)?;
        if revision.is_none() {
            self.absent.insert(key.to_owned());
        }
        Ok(revision)
    }
}

#[cfg(test)]
mod tests;
