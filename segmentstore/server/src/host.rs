//! The containers of this process: opens them side by side, hands them out, stops them.
//!
//! The port is open before the containers are; whoever asks for one that is still recovering waits for
//! it. A container whose log is damaged refuses to start and says so, the others serve. A container
//! that ends by itself after it served ends the process: what it had under way is unknown, and only
//! recovery can tell.

use std::sync::Arc;

use sarit_container::{Container, Indexes, MemoryBudget};
use sarit_env::{Clock, Rng};
use sarit_proto::ids::ContainerId;
use sarit_storage::Store;
use sarit_wal::Wal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::Error;
use crate::routing::Routing;

/// Where a container is in its life.
#[derive(Clone, Debug)]
pub enum ContainerState {
    /// It reads its log; requests wait.
    Opening,
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
    /// It will not start.
    Refused(Arc<str>),
    /// The process is stopping.
    Stopping,
}

/// All containers of the process, by number.
pub(crate) struct Host {
    routing: Routing,
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
    pub(crate) fn new(containers: u32) -> Self {
        let opening = |_| watch::Sender::new(ContainerState::Opening);
        Self {
            routing: Routing::new(containers),
            slots: (0..containers).map(opening).collect(),
        }
    }

    /// Returns the number of the container that owns a segment.
    pub(crate) fn owner(&self, segment: &str) -> ContainerId {
        self.routing.container(segment)
    }

    /// Waits until a container serves, or never will.
    pub(crate) async fn serving(&self, id: ContainerId) -> Result<Container, Unavailable> {
        let mut state = self.slots[id.0 as usize].subscribe();
        let settled = state
            .wait_for(|state| !matches!(state, ContainerState::Opening))
            .await;
        match settled.as_deref() {
            Ok(ContainerState::Serving(container)) => Ok(container.clone()),
            Ok(ContainerState::Refused(why)) => Err(Unavailable::Refused(why.clone())),
            Ok(ContainerState::Opening | ContainerState::Stopped) | Err(_) => {
                Err(Unavailable::Stopping)
            }
        }
    }

    /// Returns every container's present state, lowest number first.
    pub(crate) fn states(&self) -> Vec<(ContainerId, ContainerState)> {
        let numbers = (0..).map(ContainerId);
        numbers
            .zip(self.slots.iter().map(|slot| slot.borrow().clone()))
            .collect()
    }

    /// Returns whether no container is still opening, as a wait.
    pub(crate) async fn settled(&self) {
        for slot in &self.slots {
            let mut state = slot.subscribe();
            let settled = |state: &ContainerState| !matches!(state, ContainerState::Opening);
            // The sender is in this very structure.
            let _ = state.wait_for(settled).await;
        }
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
        for number in 0..self.slots.len() {
            let (host, parts, stop) = (self.clone(), parts.clone(), stop.clone());
            let id = ContainerId(number as u32);
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
        let slot = &self.slots[id.0 as usize];
        let own = sarit_container::Parts {
            clock: parts.clock.clone(),
            rng,
            memory: parts.memory.clone(),
            index: parts.index.clone(),
            storage: parts.storage.clone(),
        };
        let opened = Container::open(id, &parts.wal, own, parts.config.clone()).await;
        let (container, mut running) = match opened {
            Ok(opened) => opened,
            Err(source) if is_damage(&source) => {
                error!(container = %id, %source, "container does not start, its log or its index is damaged");
                slot.send_replace(ContainerState::Refused(source.to_string().into()));
                stop.cancelled().await;
                return Ok(());
            }
            Err(source) => return Err(Error::Container { id, source }),
        };
        info!(container = %id, "container serves");
        slot.send_replace(ContainerState::Serving(container.clone()));
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
