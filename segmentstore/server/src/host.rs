//! The containers of this process: opens them side by side, hands them out, stops them. They may be
//! a part of all there are; the rest are other stores' matter.
//!
//! The port is open before the containers are; whoever asks for one that is still recovering waits for
//! it. One that finds a full disk is tried again until there is space. A container whose log is damaged
//! refuses to start and says so, the others serve. A container
//! that ends by itself after it served ends the process: what it had under way is unknown, and only
//! recovery can tell.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use sarit_container::{Container, Indexes, MemoryBudget};
use sarit_env::{Clock, Rng};
use sarit_proto::ids::ContainerId;
use sarit_proto::placement::{self, ContainerRange};
use sarit_storage::Store;
use sarit_wal::Wal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{Error, metrics};

/// How often a container is tried again that can't be opened now.
const RETRY: Duration = Duration::from_secs(1);

/// Where a container is in its life.
#[derive(Clone, Debug)]
pub enum ContainerState {
    /// It reads its log; requests wait.
    Opening,
    /// It can't be opened for this reason, which may pass: it is tried again, and requests wait.
    Waiting(Arc<str>),
    /// It serves.
    Serving(Container),
    /// It does not start, for this reason; a human has to look.
    Refused(Arc<str>),
    /// It was stopped.
    Stopped,
}

/// Why a container can't be had.
#[derive(Clone, Debug)]
pub(crate) enum Unavailable {
    /// It is another store's.
    Elsewhere,
    /// It will not start.
    Refused(Arc<str>),
    /// The process is stopping.
    Stopping,
}

/// All containers of the process, by number.
pub(crate) struct Host {
    /// How many there are, here and elsewhere.
    total: u32,
    owned: ContainerRange,
    slots: Vec<watch::Sender<ContainerState>>,
}

/// What opening a container takes.
pub(crate) struct Parts {
    pub(crate) wal: Wal,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) memory: MemoryBudget,
    pub(crate) index: Indexes,
    pub(crate) storage: Option<Store>,
    pub(crate) config: sarit_container::Config,
}

impl Host {
    /// Returns the containers `owned`, of `total`, not yet open.
    pub(crate) fn new(total: u32, owned: ContainerRange) -> Self {
        let opening = |_| watch::Sender::new(ContainerState::Opening);
        Self {
            total,
            owned,
            slots: (0..owned.count()).map(opening).collect(),
        }
    }

    /// Returns the number of the container that owns a segment, here or elsewhere.
    pub(crate) fn owner(&self, segment: &str) -> ContainerId {
        placement::container(segment, self.total)
    }

    /// Returns how many containers there are, and which of them are here.
    pub(crate) fn placement(&self) -> (u32, ContainerRange) {
        (self.total, self.owned)
    }

    /// Returns whether a container is here.
    pub(crate) fn owns(&self, id: ContainerId) -> bool {
        self.owned.contains(id)
    }

    /// Returns the numbers of the containers that are here.
    fn ids(&self) -> impl Iterator<Item = ContainerId> + use<> {
        (self.owned.start()..self.owned.end()).map(ContainerId)
    }

    /// The place of a container that is here.
    fn slot(&self, id: ContainerId) -> &watch::Sender<ContainerState> {
        &self.slots[(id.0 - self.owned.start()) as usize]
    }

    /// Waits until a container serves, or never will.
    pub(crate) async fn serving(&self, id: ContainerId) -> Result<Container, Unavailable> {
        if !self.owns(id) {
            return Err(Unavailable::Elsewhere);
        }
        let mut state = self.slot(id).subscribe();
        let settled = state.wait_for(|state| !is_opening(state)).await;
        match settled.as_deref() {
            Ok(ContainerState::Serving(container)) => Ok(container.clone()),
            Ok(ContainerState::Refused(why)) => Err(Unavailable::Refused(why.clone())),
            Ok(ContainerState::Opening | ContainerState::Waiting(_) | ContainerState::Stopped)
            | Err(_) => Err(Unavailable::Stopping),
        }
    }

    /// Returns every container's present state, lowest number first.
    pub(crate) fn states(&self) -> Vec<(ContainerId, ContainerState)> {
        self.ids()
            .zip(self.slots.iter().map(|slot| slot.borrow().clone()))
            .collect()
    }

    /// Returns whether no container is still opening, as a wait.
    pub(crate) async fn settled(&self) {
        for slot in &self.slots {
            let mut state = slot.subscribe();
            let settled = |state: &ContainerState| !is_opening(state);
            // The sender is in this very structure.
            let _ = state.wait_for(settled).await;
        }
    }

    fn count_waiting(&self) {
        let waiting = |slot: &&watch::Sender<ContainerState>| {
            matches!(*slot.borrow(), ContainerState::Waiting(_))
        };
        metrics::containers_waiting(self.slots.iter().filter(waiting).count());
    }

    /// Opens all containers and keeps them until `stop`, then drains and closes them.
    ///
    /// # Errors
    /// That of the first container that ended by itself.
    pub(crate) async fn run(
        self: Arc<Self>,
        parts: Parts,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let parts = Arc::new(parts);
        let mut lives = JoinSet::new();
        for id in self.ids() {
            let (host, parts, stop) = (self.clone(), parts.clone(), stop.clone());
            let rng = parts.rng.split();
            lives.spawn(async move { host.live(id, &parts, rng, stop).await });
        }
        while let Some(ended) = lives.join_next().await {
            ended.map_err(|_| Error::Task("container"))??;
        }
        Ok(())
    }

    /// One container's life.
    async fn live(
        &self,
        id: ContainerId,
        parts: &Parts,
        rng: Rng,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let slot = self.slot(id);
        let opened = loop {
            let own = sarit_container::Parts {
                clock: parts.clock.clone(),
                rng: rng.split(),
                memory: parts.memory.clone(),
                index: parts.index.clone(),
                storage: parts.storage.clone(),
            };
            let opened = Container::open(id, &parts.wal, own, parts.config.clone()).await;
            match opened {
                Err(source) if may_pass(&source) => {
                    slot.send_if_modified(|state| waits(state, id, &source));
                    self.count_waiting();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return Ok(()),
                        () = sleep(RETRY) => {}
                    }
                }
                opened => break opened,
            }
        };
        let (container, mut running) = match opened {
            Ok(opened) => opened,
            Err(source) if is_damage(&source) => {
                error!(container = %id, %source, "container does not start, its log or its index is damaged");
                slot.send_replace(ContainerState::Refused(source.to_string().into()));
                self.count_waiting();
                stop.cancelled().await;
                return Ok(());
            }
            Err(source) => return Err(Error::Container { id, source }),
        };
        info!(container = %id, "container serves");
        slot.send_replace(ContainerState::Serving(container.clone()));
        self.count_waiting();
        let ended = tokio::select! {
            biased;
            ended = &mut running => ended,
            () = stop.cancelled() => {
                container.stop().await;
                running.await
            }
        };
        slot.send_replace(ContainerState::Stopped);
        ended.map_err(|source| Error::Container { id, source })?;
        if stop.is_cancelled() {
            return Ok(());
        }
        Err(Error::Container {
            id,
            source: sarit_container::Error::Stopping,
        })
    }
}

/// Notes why a container can't be opened now; whether that is news.
fn waits(state: &mut ContainerState, id: ContainerId, source: &sarit_container::Error) -> bool {
    let why = source.to_string();
    if let ContainerState::Waiting(known) = state
        && **known == *why
    {
        return false;
    }
    warn!(container = %id, %source, "container can't be opened now, it is tried again");
    *state = ContainerState::Waiting(why.into());
    true
}

fn is_opening(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Opening | ContainerState::Waiting(_))
}

/// Whether it may pass by itself: the disk is full, or the index's place does not answer. Opening changes
/// nothing that a second try would not find or do again.
fn may_pass(error: &sarit_container::Error) -> bool {
    use sarit_container::Error as E;
    match error {
        E::Wal(sarit_wal::Error::Io { source, .. }) => source.kind() == ErrorKind::StorageFull,
        E::Index(_) => true,
        _ => false,
    }
}

/// Whether only this container is affected, and opening it again would find the same.
fn is_damage(error: &sarit_container::Error) -> bool {
    use sarit_container::Error as E;
    matches!(
        error,
        E::Broken { .. }
            | E::DamagedIndex(_)
            | E::Wal(sarit_wal::Error::Corrupt { .. } | sarit_wal::Error::ForeignFile { .. })
    )
}
