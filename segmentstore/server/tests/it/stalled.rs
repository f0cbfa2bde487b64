//! Peers that do not take their replies, and what the others feel of that.

use std::time::Duration;

use sarit_proto::wire::{Command, Encoder};
use sarit_segmentstore::ContainerState;
use tokio::time::sleep;

use crate::world::{World, append, read};

const SEGMENT: &str = "scope/stream/0.#epoch.0";
/// Bytes of an append, and how many there are: more than the caches hold.
const APPEND: usize = 100_000;
const APPENDS: i64 = 160;
/// Bytes asked for at once: as many as a block of a pack has.
const ASKED: i32 = 256 << 10;

/// Returns how many bytes lie in the log only.
fn unflushed(world: &World) -> u64 {
    let containers = world.inspect().containers();
    let serving = containers.iter().map(|(_, state)| match state {
        ContainerState::Serving(container) => container.stats().unflushed,
        state => panic!("{state:?}"),
    });
    serving.sum()
}

#[tokio::test]
async fn a_peer_that_takes_nothing_keeps_no_other_from_history() {
    let world = World::start_with(|config| {
        // Room for 18 blocks of packs, of which two may be fetched at once.
        config.memory.budget = 32 << 20;
        config.wal = sarit_wal::Config::default();
        config.container.flush.period_ms = 50;
    })
    .await;
    let mut writer = world.peer().await;
    writer.create(SEGMENT).await;
    writer.set_up(SEGMENT, 1).await;
    for number in 1..=APPENDS {
        let reply = writer.ask(append(1, number, &[7; APPEND])).await;
        assert_eq!(reply.name(), "DataAppended", "{reply:?}");
    }
    while unflushed(&world) > 0 {
        sleep(Duration::from_millis(10)).await;
    }

    // More than the sockets hold, all over the segment, and none of it taken.
    let blocks = APPENDS * APPEND as i64 / i64::from(ASKED);
    let mut stalled = world.peer().await;
    let mut out = Encoder::default();
    for turn in 0..1_000 {
        let offset = turn % blocks * i64::from(ASKED);
        Command::from(read(SEGMENT, offset, ASKED)).encode(&mut out);
    }
    stalled.send_bytes(&out.take()).await;
    sleep(Duration::from_millis(500)).await;

    for turn in 0..blocks {
        let offset = turn * i64::from(ASKED);
        let reply = writer.read(SEGMENT, offset, ASKED).await;
        assert!(!reply.data.is_empty(), "{reply:?}");
    }
    // It gets all of it when it wants to.
    for _ in 0..1_000 {
        assert_eq!(stalled.reply().await.name(), "SegmentRead");
    }
}
