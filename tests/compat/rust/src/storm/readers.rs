//! The storm's readers: one group, each reader a task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::join_all;
use pravega_client::event::reader::EventReader;
use pravega_client::event::reader_group::ReaderGroup;
use pravega_client_shared::ScopedStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::storm::ledger::Ledger;
use crate::world::World;

pub(crate) const READERS: usize = 4;
/// Longest time without an event while some are due and nothing is written. A reader looks only
/// every 10 s for segments that it could take over.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How long to look out for events that are too many.
const AFTERMATH: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Readers {
    /// All readers share its copy of the group's state: with one each, as several processes have, an
    /// instance keeps segments that another one took (`clear_tombstone` in the client's
    /// `synchronizer.rs`).
    group: ReaderGroup,
    tasks: JoinSet<Result<()>>,
    drain: watch::Sender<bool>,
}

impl Readers {
    pub(crate) async fn start(world: &World, stream: &ScopedStream, ledger: &Arc<Ledger>) -> Self {
        let name = format!("readers-of-{}", stream.stream.name);
        let group = world.create_group(&name, stream).await;
        let (drain, draining) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let readers = (0..READERS).map(|number| group.create_reader(format!("reader-{number}")));
        for reader in join_all(readers).await {
            tasks.spawn(read(reader, Arc::clone(ledger), draining.clone()));
        }
        Self {
            group,
            tasks,
            drain,
        }
    }

    /// Waits until everything was read and nothing follows. Nobody may write meanwhile.
    pub(crate) async fn catch_up(&mut self, ledger: &Ledger) -> Result<()> {
        let mut end = End::new(ledger);
        let mut tick = interval(LOOK_EVERY);
        while !end.is_reached(ledger)? {
            tokio::select! {
                ended = self.tasks.join_next() => {
                    ended.context("there are no readers")?.context("a reader panicked")??;
                    bail!("a reader ended");
                }
                _ = tick.tick() => {}
            }
        }
        Ok(())
    }

    /// Waits until everything was read and nothing follows, and ends. Nobody may write any more.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        self.drain.send_replace(true);
        while let Some(reader) = self.tasks.join_next().await {
            reader.context("a reader panicked")??;
        }
        let left = self.group.list_readers().await;
        ensure!(left.is_empty(), "still in the group: {left:?}");
        Ok(())
    }
}

/// Reads until it is time to drain, everything was read and nothing follows.
async fn read(
    mut reader: EventReader,
    ledger: Arc<Ledger>,
    draining: watch::Receiver<bool>,
) -> Result<()> {
    let mut end = End::new(&ledger);
    loop {
        // Waits up to a second for data.
        if let Some(mut slice) = reader.acquire_segment().await.context("acquire")? {
            slice.by_ref().for_each(|event| ledger.read(&event.value));
            reader.release_segment(slice).await.context("release")?;
        } else if !*draining.borrow() {
            end = End::new(&ledger);
        } else if end.is_reached(&ledger)? {
            return reader.reader_offline().await.context("go offline");
        }
    }
}

/// Tells when nobody writes any more whether all readers together have read everything.
struct End {
    /// Events read and written, and since when these are as many.
    progress: (u64, u64),
    since: Instant,
}

impl End {
    fn new(ledger: &Ledger) -> Self {
        Self {
            progress: ledger.progress(),
            since: Instant::now(),
        }
    }

    /// Whether everything was read and a second has passed without an event.
    fn is_reached(&mut self, ledger: &Ledger) -> Result<bool> {
        if ledger.progress() != self.progress {
            *self = Self::new(ledger);
        }
        let (read, written) = self.progress;
        if read >= written {
            return Ok(self.since.elapsed() > AFTERMATH);
        }
        ensure!(
            self.since.elapsed() < STALL_LIMIT,
            "no more events after {read} of {written}"
        );
        Ok(false)
    }
}
