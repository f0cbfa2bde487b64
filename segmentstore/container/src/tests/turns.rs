//! Containers that write their checkpoints in turn.

use std::time::Duration;

use sarit_env::{Clock, Rng};
use sarit_proto::ids::ContainerId;
use sarit_wal::Wal;
use sarit_wal::memory::Memory;

use crate::{
    Config, Container, Error, Indexes, Kind, MemoryBudget, Parts, Running, SnapshotMemory,
};

async fn open(memory: &MemoryBudget) -> (Container, Running) {
    let parts = Parts {
        clock: Clock::from_fn(|| 1_000),
        rng: Rng::seeded(1),
        memory: memory.clone(),
        index: Indexes::memory(&SnapshotMemory::default()),
        storage: None,
    };
    let wal = Wal::memory(&Memory::default());
    let opened = Container::open(ContainerId(0), &wal, parts, Config::default()).await;
    opened.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_waits_for_its_turn_and_not_for_ever() {
    let memory = MemoryBudget::default();
    let (container, _running) = open(&memory).await;
    let changed = || !container.0.shared.state.read().dirty.is_empty();
    // Another one's index hangs.
    let turn = memory.checkpoint().await;
    container.create("a", Kind::Stream, vec![]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert!(changed(), "it has been due for two seconds");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!changed());
    drop(turn);
    container.create("b", Kind::Stream, vec![]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert!(!changed());
}

#[tokio::test(start_paused = true)]
async fn a_merge_of_too_many_is_refused_before_their_names_are_looked_up() {
    let (container, _running) = open(&MemoryBudget::default()).await;
    container
        .create("target", Kind::Stream, vec![])
        .await
        .unwrap();
    let sources: Vec<_> = (0..10_001).map(|at| format!("source-{at}")).collect();
    let refused = container.merge_batch("target", &sources).await;
    assert!(
        matches!(refused, Err(Error::InvalidArgument(_))),
        "{refused:?}"
    );
    assert_eq!(container.0.shared.state.read().absent_len(), 0);
}
