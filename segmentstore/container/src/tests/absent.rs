//! Names that are asked for and that nobody has.

use std::time::Duration;

use sarit_env::{Clock, Rng};
use sarit_proto::ids::ContainerId;
use sarit_wal::Wal;
use sarit_wal::memory::Memory;

use crate::{Config, Container, Error, Indexes, Kind, MemoryBudget, Parts, SnapshotMemory};

const FEW: usize = 10;

#[tokio::test(start_paused = true)]
async fn names_that_nobody_has_are_forgotten_though_nothing_ever_changes() {
    let parts = Parts {
        clock: Clock::from_fn(|| 1_000),
        rng: Rng::seeded(1),
        memory: MemoryBudget::default(),
        index: Indexes::memory(&SnapshotMemory::default()),
        storage: None,
    };
    let config = Config {
        resident_segments: FEW,
        ..Config::default()
    };
    let wal = Wal::memory(&Memory::default());
    let opened = Container::open(ContainerId(0), &wal, parts, config).await;
    let (container, _running) = opened.unwrap();
    for at in 0..1_000 {
        let name = format!("nobody-{at}");
        let deleted = container.delete(&name).await;
        assert!(matches!(deleted, Err(Error::NoSuchSegment(_))));
        let absent = container.0.shared.state.read().absent_len();
        assert!(absent <= FEW, "{absent} after {at}");
    }
    // What has just been deleted stays known until the index does not have it.
    let name = "somebody";
    container.create(name, Kind::Stream, vec![]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    container.delete(name).await.unwrap();
    for at in 0..1_000 {
        let name = format!("nobody-{at}");
        let deleted = container.delete(&name).await;
        assert!(matches!(deleted, Err(Error::NoSuchSegment(_))));
    }
    assert!(container.info(name).await.is_err());
    container.create(name, Kind::Stream, vec![]).await.unwrap();
}
