//! Callers that go away, and come back.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::transactions::LEASE_MS;
use super::*;
use crate::stream::transaction::End;
use crate::tasks::transactions::Accepted;

/// A stream on a store that can be made slow.
async fn prepared() -> (World, Slow, Tasks) {
    let world = World::new().await;
    let slow = Slow::new(world.store.clone());
    let segments = Arc::new(world.segments.clone());
    let tasks = engine(Arc::new(slow.clone()), segments, 1);
    let create = Request::Create(config("st", 2, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    (world, slow, tasks)
}

/// Calls, and goes away when a change has happened and before its answer has come.
async fn gone_too_early(slow: &Slow, call: impl Future) {
    slow.hold(true);
    let gone = timeout(Duration::from_millis(10), call).await;
    assert!(gone.is_err(), "it was answered");
    slow.hold(false);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_keep_a_transaction_from_its_end() {
    for end in [End::Commit, End::Abort] {
        let (world, slow, tasks) = prepared().await;
        let id = world.begun(&tasks, "st").await;
        let stream = named("st");
        let call = || tasks.end_transaction(&stream, id, end, None);
        gone_too_early(&slow, call()).await;
        world.drained(&tasks).await;
        assert_eq!(call().await, Ok(Accepted::Yes), "{end:?}");
        assert_eq!(world.transaction_segments(), 0, "{end:?}");
        assert_eq!(tasks.context().leases.len(), 0, "{end:?}");
        let length = if end == End::Commit { 5 } else { 0 };
        assert_eq!(world.segments.all()["sc/st/0.#epoch.0"].length, length);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_whose_caller_goes_away_while_it_begins_ends_with_its_lease() {
    let (world, slow, tasks) = prepared().await;
    let stream = named("st");
    gone_too_early(&slow, tasks.begin_transaction(&stream, LEASE_MS)).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(tasks.context().leases.len(), 1);
    assert_eq!(world.transaction_segments(), 2);
    world.drained(&tasks).await;
    assert_eq!(world.transaction_segments(), 0);
}

/// Whatever kept an accepted commit from being worked off, asking again takes it up.
#[tokio::test(start_paused = true)]
async fn a_commit_that_is_asked_for_again_is_taken_up() {
    let (world, _, tasks) = prepared().await;
    let id = world.begun(&tasks, "st").await;
    let fuse = Fuse::after(1);
    let other = engine(
        Arc::new(Fused(world.store.clone(), fuse.clone())),
        Arc::new(Fused(world.segments.clone(), fuse.clone())),
        2,
    );
    let stream = named("st");
    for tasks in [&other, &tasks] {
        let accepted = tasks.end_transaction(&stream, id, End::Commit, None);
        assert_eq!(accepted.await, Ok(Accepted::Yes));
    }
    world.drained(&tasks).await;
    assert_eq!(world.segments.all()["sc/st/0.#epoch.0"].length, 5);
}
