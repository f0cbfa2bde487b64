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

use crate::storm::ledger::Ledger;
use crate::world::World;

const READERS: usize = 4;
/// Longest time without an event while some are due and nothing is written. A reader looks only
/// every 10 s for segments that it could take over.
const STALL_LIMIT: Duration = Duration::from_secs(60);

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

    /// Waits until everything was read and nothing follows. Nobody may write any more.
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

/// Reads until it is time to drain, everything was read and a second has passed without an event.
async fn read(
    mut reader: EventReader,
    ledger: Arc<Ledger>,
    draining: watch::Receiver<bool>,
) -> Result<()> {
    let mut progress = (ledger.progress(), Instant::now());
    loop {
        // Waits up to a second for data.
        if let Some(mut slice) = reader.acquire_segment().await.context("acquire")? {
            slice.by_ref().for_each(|event| ledger.read(&event.value));
            reader.release_segment(slice).await.context("release")?;
            continue;
        }
        let now = ledger.progress();
        if !*draining.borrow() || now != progress.0 {
            progress = (now, Instant::now());
        } else if now.0 >= now.1 && progress.1.elapsed() > Duration::from_secs(1) {
            return reader.reader_offline().await.context("go offline");
        } else if progress.1.elapsed() > STALL_LIMIT {
            bail!("no more events after {} of {}", now.0, now.1);
        }
    }
}
