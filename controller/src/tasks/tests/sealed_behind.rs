//! Segments that a client has sealed at the segment store, behind the controller's back.

use super::*;
use crate::stream::transaction::End;
use crate::tasks::transactions::Accepted;

async fn prepared(segments: i32) -> (World, Tasks) {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", segments, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    (world, tasks)
}

async fn done(tasks: &Tasks, request: Request) {
    let answer = tasks.run(&named("st"), request).await;
    assert_eq!(answer, Ok(Answer::Done));
}

#[tokio::test(start_paused = true)]
async fn a_sealed_segment_needs_no_new_policy() {
    let (world, tasks) = prepared(2).await;
    world.segments.seal_behind("sc/st/0.#epoch.0");
    done(&tasks, Request::Update(by_rate("st", 2))).await;
    let segments = world.segments.all();
    assert_eq!(segments["sc/st/1.#epoch.0"].policy.target_rate, 100);
    done(&tasks, Request::Seal).await;
    done(&tasks, Request::Delete).await;
    assert_eq!(world.faults().await, [""; 0]);
}

async fn commit(tasks: &Tasks, id: sarit_proto::ids::TransactionId) {
    let stream = named("st");
    let accepted = tasks.end_transaction(&stream, id, End::Commit, None);
    assert_eq!(accepted.await, Ok(Accepted::Yes));
}

/// What is committed beside a segment that takes nothing more goes on behind it.
#[tokio::test(start_paused = true)]
async fn a_commit_goes_on_behind_a_sealed_segment() {
    let (world, tasks) = prepared(3).await;
    let id = world.begun(&tasks, "st").await;
    world.segments.grow("sc/st/2.#epoch.0", 7);
    world.segments.seal_behind("sc/st/2.#epoch.0");
    commit(&tasks, id).await;
    world.drained(&tasks).await;
    let segments = world.segments.all();
    for (name, length, sealed) in [
        ("sc/st/0.#epoch.0", 5, false),
        ("sc/st/1.#epoch.0", 5, false),
        ("sc/st/2.#epoch.0", 7, true),
        ("sc/st/2.#epoch.1", 5, true),
        ("sc/st/2.#epoch.2", 0, false),
    ] {
        let found = &segments[name];
        assert_eq!((found.length, found.sealed), (length, sealed), "{name}");
    }
    assert_eq!(world.transaction_segments(), 0);
    assert_eq!(world.faults().await, [""; 0]);
    let next = world.begun(&tasks, "st").await;
    commit(&tasks, next).await;
    world.drained(&tasks).await;
    assert_eq!(world.segments.all()["sc/st/2.#epoch.2"].length, 5);
}

/// The same where the commit rolls for another reason, and where the stream is being sealed.
#[tokio::test(start_paused = true)]
async fn a_rolling_commit_goes_on_behind_a_sealed_segment_that_was_not_scaled() {
    for then_seal in [false, true] {
        let (world, tasks) = prepared(3).await;
        let id = world.begun(&tasks, "st").await;
        tasks.run(&named("st"), reshape()).await.unwrap();
        world.segments.seal_behind("sc/st/2.#epoch.0");
        world.segments.set_away(then_seal);
        commit(&tasks, id).await;
        world.segments.set_away(false);
        if then_seal {
            done(&tasks, Request::Seal).await;
        }
        world.drained(&tasks).await;
        let segments = world.segments.all().into_iter();
        let written = segments.filter(|(name, fake)| name.starts_with("sc/st/") && fake.length > 0);
        let written: Vec<_> = written.map(|(name, fake)| (name, fake.length)).collect();
        let names: Vec<_> = written.iter().map(|(name, _)| &name[..10]).collect();
        assert_eq!(names, ["sc/st/0.#e", "sc/st/1.#e", "sc/st/2.#e"]);
        assert!(written.iter().all(|(_, length)| *length == 5));
        assert_eq!(world.transaction_segments(), 0);
        assert_eq!(world.faults().await, [""; 0]);
        if then_seal {
            done(&tasks, Request::Delete).await;
        }
    }
}
