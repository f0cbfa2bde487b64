use std::time::Duration;

use sarit_proto::ids::TransactionId;
use tokio::time::{sleep, timeout};

use super::*;
use crate::stream::transaction::{End, State as TransactionState};
use crate::tasks::transactions::{Accepted, Began, Kept, Time};

pub(super) const LEASE_MS: i64 = 20_000;

impl World {
    /// Begins a transaction and writes to each of its segments.
    pub(super) async fn begun(&self, tasks: &Tasks, stream: &str) -> TransactionId {
        let began = tasks.begin_transaction(&named(stream), LEASE_MS).await;
        let Ok(Began::Open(id, segments)) = began else {
            panic!("{began:?}");
        };
        for segment in segments {
            let name = named(stream).segment(segment.id).transaction(id);
            self.segments.grow(&name.to_string(), 5);
        }
        id
    }

    /// Waits until nothing is left of any transaction, and no task runs.
    pub(super) async fn drained(&self, tasks: &Tasks) {
        for _ in 0..1000 {
            let rows = self.store.snapshot();
            let left = rows.keys().any(|key| key.starts_with("x/"));
            if !left && tasks.running().is_empty() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("not drained: {:?}", self.store.snapshot().keys());
    }

    /// What was merged into a stream's segments, in order, as short names.
    fn merged(&self) -> BTreeMap<String, Vec<String>> {
        let all = self.segments.all().into_iter();
        let all = all.filter(|(name, _)| name.starts_with("sc/st/"));
        all.map(|(name, fake)| (name, fake.merged)).collect()
    }

    pub(super) fn transaction_segments(&self) -> usize {
        let all = self.segments.all().into_keys();
        all.filter(|name| name.contains("#transaction.")).count()
    }
}

async fn end(tasks: &Tasks, id: TransactionId, end: End) -> Accepted {
    tasks
        .end_transaction(&named("st"), id, end, None)
        .await
        .unwrap()
}

/// Steps of a story, each of which waits for its own end.
#[derive(Clone, Copy)]
enum Act {
    /// Commit the nth transaction begun.
    Commit(usize),
    Abort(usize),
    Scale,
    Seal,
}

/// How many transactions begin before and after the stream is scaled, and what follows.
struct Story {
    name: &'static str,
    before: usize,
    after: Option<usize>,
    acts: &'static [Act],
}

const STORIES: [Story; 5] = [
    Story {
        name: "commits and an abort",
        before: 3,
        after: None,
        acts: &[Act::Commit(1), Act::Commit(0), Act::Abort(2)],
    },
    Story {
        name: "commits over a scaling",
        before: 1,
        after: Some(1),
        acts: &[Act::Commit(0), Act::Commit(1)],
    },
    Story {
        name: "commits beside a scaling",
        before: 2,
        after: None,
        acts: &[Act::Commit(1), Act::Scale, Act::Commit(0)],
    },
    Story {
        name: "a seal of what is committed and open",
        before: 2,
        after: Some(1),
        acts: &[Act::Commit(0), Act::Seal],
    },
    Story {
        name: "an abort over a scaling",
        before: 1,
        after: Some(1),
        acts: &[Act::Abort(0), Act::Abort(1)],
    },
];

async fn prologue(story: &Story) -> (World, Vec<TransactionId>) {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 3, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..story.before {
        ids.push(world.begun(&tasks, "st").await);
    }
    if let Some(after) = story.after {
        tasks.run(&named("st"), reshape()).await.unwrap();
        for _ in 0..after {
            ids.push(world.begun(&tasks, "st").await);
        }
    }
    (world, ids)
}

/// Plays the acts, each to its end as far as the process lives.
async fn play(world: &World, tasks: &Tasks, story: &Story, ids: &[TransactionId]) -> Option<()> {
    let patience = Duration::from_secs(10);
    let stream = named("st");
    for act in story.acts {
        let acted = async {
            match act {
                Act::Commit(n) => {
                    let accepted = tasks
                        .end_transaction(&stream, ids[*n], End::Commit, None)
                        .await;
                    assert_eq!(accepted, Ok(Accepted::Yes), "{}", story.name);
                    ended(world, ids[*n]).await;
                }
                Act::Abort(n) => {
                    let accepted = tasks
                        .end_transaction(&stream, ids[*n], End::Abort, None)
                        .await;
                    assert_eq!(accepted, Ok(Accepted::Yes), "{}", story.name);
                    ended(world, ids[*n]).await;
                }
                Act::Scale => drop(tasks.run(&stream, reshape()).await.ok()?),
                Act::Seal => drop(tasks.run(&stream, Request::Seal).await.ok()?),
            }
            Some(())
        };
        timeout(patience, acted).await.ok()??;
    }
    Some(())
}

async fn ended(world: &World, id: TransactionId) {
    let row = format!("{:032x}", id.0);
    let open = |key: &String| key.starts_with("x/") && key.ends_with(&row);
    while world.store.snapshot().keys().any(open) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Whatever the effect after which the process dies, a new process in which the acts are repeated comes
/// to the same end: nothing lost, nothing merged twice, no segment left over.
#[tokio::test(start_paused = true)]
async fn a_crash_between_any_two_effects_of_a_transaction_changes_nothing_about_its_end() {
    for story in &STORIES {
        let (expected, ids) = prologue(story).await;
        let tasks = expected.tasks(2);
        play(&expected, &tasks, story, &ids).await.unwrap();
        let mut effects = 0;
        loop {
            let (world, ids) = prologue(story).await;
            let fuse = Fuse::after(effects);
            let dying = engine(
                Arc::new(Fused(world.store.clone(), fuse.clone())),
                Arc::new(Fused(world.segments.clone(), fuse.clone())),
                2,
            );
            let played = play(&world, &dying, story, &ids).await;
            if !fuse.is_blown() {
                played.unwrap();
                assert!(effects > 5, "{} has few effects", story.name);
                break;
            }
            let place = format!("{} after {effects} effects", story.name);
            let reborn = world.tasks(3);
            reborn.resume().await.unwrap();
            play(&world, &reborn, story, &ids).await.expect(&place);
            assert_eq!(world.merged(), expected.merged(), "{place}");
            assert_eq!(world.state(), expected.state(), "{place}");
            assert_eq!(world.faults().await, [""; 0], "{place}");
            effects += 1;
        }
        let open = story.acts.len() < ids.len() && !story.name.contains("seal");
        assert!(
            open || expected.transaction_segments() == 0,
            "{}",
            story.name
        );
    }
}

#[tokio::test(start_paused = true)]
async fn commits_are_merged_in_the_order_they_were_accepted() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 2, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.begun(&tasks, "st").await);
    }
    ids.rotate_left(2);
    world.segments.set_away(true);
    for id in &ids {
        assert_eq!(end(&tasks, *id, End::Commit).await, Accepted::Yes);
    }
    world.segments.set_away(false);
    world.drained(&tasks).await;
    for (segment, merged) in world.merged() {
        let number = segment.split('/').next_back().unwrap();
        let expected = ids.iter();
        let expected: Vec<_> = expected
            .map(|id| format!("sc/st/{number}#transaction.{:032x}", id.0))
            .collect();
        assert_eq!(merged, expected, "{segment}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_waited_for_a_little_and_said_once_its_events_are_there() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 2, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let id = world.begun(&tasks, "st").await;
    let state = async || tasks.transaction_state(&named("st"), id).await.unwrap();
    assert_eq!(state().await, Some(TransactionState::Open));
    world.segments.set_away(true);
    assert_eq!(end(&tasks, id, End::Commit).await, Accepted::Yes);
    let asked = tokio::time::Instant::now();
    assert_eq!(state().await, Some(TransactionState::Committing));
    let waited = asked.elapsed();
    assert!(
        waited > Duration::ZERO && waited < Duration::from_secs(1),
        "{waited:?}"
    );
    world.segments.set_away(false);
    while state().await != Some(TransactionState::Committed) {
        assert!(asked.elapsed() < Duration::from_secs(60));
    }
    for (segment, merged) in world.merged() {
        assert_eq!(merged.len(), 1, "{segment}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rolling_commit_is_read_between_the_old_segments_and_the_new() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 1, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let id = world.begun(&tasks, "st").await;
    let split = Request::Scale(scaling(&[(0, 0)], &[(0.0, 0.5), (0.5, 1.0)]));
    tasks.run(&named("st"), split).await.unwrap();
    end(&tasks, id, End::Commit).await;
    world.drained(&tasks).await;
    let context = tasks.context();
    let stream = context
        .catalog
        .visible(&named("st"))
        .await
        .unwrap()
        .unwrap();
    let follow = async |epoch, number| {
        let id = SegmentId::new(epoch, number);
        let named = named("st");
        let heirs = scale_stream::successors(context, &named, stream, id).await;
        let heirs = heirs.unwrap().into_iter();
        heirs
            .map(|heir| (heir.segment.id, heir.predecessors))
            .collect::<Vec<_>>()
    };
    let id = SegmentId::new;
    // As the official server does it, recorded in `java-rolling-txn`.
    assert_eq!(follow(1, 1).await, [(id(2, 0), vec![id(1, 1), id(1, 2)])]);
    let resumed = [(id(3, 1), vec![id(2, 0)]), (id(3, 2), vec![id(2, 0)])];
    assert_eq!(follow(2, 0).await, resumed);
    let segments = world.segments.all();
    assert_eq!(segments["sc/st/0.#epoch.2"].length, 5);
    assert!(segments["sc/st/0.#epoch.2"].sealed && !segments["sc/st/1.#epoch.3"].sealed);
    // What begins now is written beside the segments of the epoch that the active one repeats.
    let next = world.begun(&tasks, "st").await;
    assert_eq!(next.epoch(), 1);
    end(&tasks, next, End::Commit).await;
    world.drained(&tasks).await;
    assert_eq!(world.segments.all()["sc/st/1.#epoch.3"].length, 5);
}

/// How often the stream's active segments were replaced.
async fn active_epoch(tasks: &Tasks) -> i32 {
    let catalog = &tasks.context().catalog;
    let id = catalog.visible(&named("st")).await.unwrap().unwrap();
    catalog.status(id).await.unwrap().active_epoch
}

#[tokio::test(start_paused = true)]
async fn a_rolling_commit_replaces_only_what_was_scaled_and_written_to() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 3, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let id = world.begun(&tasks, "st").await;
    let began = tasks.begin_transaction(&named("st"), LEASE_MS).await;
    let Ok(Began::Open(elsewhere, segments)) = began else {
        panic!("{began:?}");
    };
    let untouched = named("st").segment(segments[2].id).transaction(elsewhere);
    world.segments.grow(&untouched.to_string(), 7);
    tasks.run(&named("st"), reshape()).await.unwrap();
    end(&tasks, id, End::Commit).await;
    ended(&world, id).await;
    let segments = world.segments.all();
    assert_eq!(active_epoch(&tasks).await, 3);
    for (name, length, sealed) in [
        ("sc/st/0.#epoch.2", 5, true),
        ("sc/st/1.#epoch.2", 5, true),
        ("sc/st/2.#epoch.0", 5, false),
        ("sc/st/3.#epoch.3", 0, false),
        ("sc/st/4.#epoch.3", 0, false),
    ] {
        let found = &segments[name];
        assert_eq!((found.length, found.sealed), (length, sealed), "{name}");
    }
    assert!(!segments.contains_key("sc/st/2.#epoch.2"));
    // It has written only where nothing was scaled.
    end(&tasks, elsewhere, End::Commit).await;
    world.drained(&tasks).await;
    assert_eq!(active_epoch(&tasks).await, 3);
    assert_eq!(world.segments.all()["sc/st/2.#epoch.0"].length, 12);
    assert_eq!(world.transaction_segments(), 0);
    assert_eq!(world.faults().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn transactions_of_one_epoch_roll_together_and_never_pass_an_older_one() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 3, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(world.begun(&tasks, "st").await);
    }
    tasks.run(&named("st"), reshape()).await.unwrap();
    let mut new = Vec::new();
    for _ in 0..3 {
        new.push(world.begun(&tasks, "st").await);
    }
    world.segments.set_away(true);
    for id in [new[0], old[0], new[1], old[1], new[2], old[2]] {
        assert_eq!(end(&tasks, id, End::Commit).await, Accepted::Yes);
    }
    world.segments.set_away(false);
    world.drained(&tasks).await;
    assert_eq!(active_epoch(&tasks).await, 3);
    let merged = world.merged();
    let expected = |number: i32, epoch: i32, ids: &[TransactionId]| {
        let parent = named("st").segment(SegmentId::new(epoch, number));
        let names = ids.iter();
        let names = names.map(|id| parent.transaction(*id).to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(merged["sc/st/3.#epoch.1"], expected(3, 1, &new[..1]));
    assert_eq!(merged["sc/st/0.#epoch.2"], expected(0, 0, &old));
    assert_eq!(merged["sc/st/3.#epoch.3"], expected(3, 1, &new[1..]));
    let mut shared = expected(2, 1, &new[..1]);
    shared.extend(expected(2, 0, &old));
    shared.extend(expected(2, 1, &new[1..]));
    assert_eq!(merged["sc/st/2.#epoch.0"], shared);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_on_rolling_waits_longer_each_time() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 3, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let mut late = Vec::new();
    for _ in 0..30 {
        late.push(world.begun(&tasks, "st").await);
    }
    tasks.run(&named("st"), reshape()).await.unwrap();
    for id in late {
        assert_eq!(end(&tasks, id, End::Commit).await, Accepted::Yes);
        sleep(Duration::from_millis(100)).await;
    }
    world.drained(&tasks).await;
    // At 0, 1 and 3 seconds.
    assert_eq!(active_epoch(&tasks).await, 1 + 2 * 3);
    assert_eq!(world.faults().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_nobody_keeps_open_is_aborted_and_leaves_no_segment() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 2, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let lost = world.begun(&tasks, "st").await;
    let kept = world.begun(&tasks, "st").await;
    for _ in 0..5 {
        sleep(Duration::from_secs(15)).await;
        let renewed = tasks.keep_transaction(&named("st"), kept, LEASE_MS).await;
        assert_eq!(renewed, Ok(Kept::Open));
    }
    let state = async |id| tasks.transaction_state(&named("st"), id).await.unwrap();
    assert_eq!(state(lost).await, Some(TransactionState::Aborted));
    assert_eq!(state(kept).await, Some(TransactionState::Open));
    assert_eq!(world.transaction_segments(), 2);
    assert_eq!(end(&tasks, lost, End::Commit).await, Accepted::No);
    assert_eq!(end(&tasks, lost, End::Abort).await, Accepted::Yes);
    let renewed = tasks.keep_transaction(&named("st"), lost, LEASE_MS).await;
    assert_eq!(renewed, Ok(Kept::Not(Some(TransactionState::Aborted))));
    // Whoever kept it open dies, and so does the controller: the next one ends it.
    let reborn = world.tasks(2);
    sleep(Duration::from_secs(21)).await;
    world.drained(&reborn).await;
    assert_eq!(world.transaction_segments(), 0);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_open_transactions_end_without_a_trace() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 1, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..10_000 {
        let began = tasks.begin_transaction(&named("st"), LEASE_MS).await;
        let Ok(Began::Open(id, _)) = began else {
            panic!("{began:?}");
        };
        ids.push(id);
    }
    for id in ids.iter().step_by(2) {
        assert_eq!(end(&tasks, *id, End::Commit).await, Accepted::Yes);
    }
    sleep(Duration::from_secs(25)).await;
    world.drained(&tasks).await;
    assert_eq!(world.transaction_segments(), 0);
    assert_eq!(tasks.context().leases.len(), 0);
    let done = world.store.snapshot();
    let done = done.keys().filter(|key| key.starts_with("xd/"));
    assert_eq!(done.count(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn leases_out_of_bounds_and_sealed_streams_are_refused() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 1, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    for lease in [-1, 0, 9_999, 600_001, i64::MAX] {
        let refused = tasks.begin_transaction(&named("st"), lease).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let missing = tasks.begin_transaction(&named("none"), LEASE_MS).await;
    assert_eq!(missing, Ok(Began::NoStream));
    let open = world.begun(&tasks, "st").await;
    tasks.run(&named("st"), Request::Seal).await.unwrap();
    let sealed = tasks.begin_transaction(&named("st"), LEASE_MS).await;
    assert_eq!(sealed, Ok(Began::Sealed));
    assert_eq!(end(&tasks, open, End::Commit).await, Accepted::No);
    let unknown = TransactionId(77);
    assert_eq!(end(&tasks, unknown, End::Commit).await, Accepted::Unknown);
}

/// A time that comes with a commit is noted at the end of the stream behind its events, also where the
/// commit rolls; of several the latest counts.
#[tokio::test(start_paused = true)]
async fn the_time_of_a_commit_is_noted_behind_its_events() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    tasks.resume().await.unwrap();
    let create = Request::Create(config("st", 3, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let stream = named("st");
    let commit = async |id, writer: &str, noted| {
        let time = Time {
            writer: writer.to_owned(),
            noted,
        };
        let accepted = tasks.end_transaction(&stream, id, End::Commit, Some(time));
        assert_eq!(accepted.await, Ok(Accepted::Yes));
        ended(&world, id).await;
        while !tasks.running().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let marks = async || {
        let context = tasks.context();
        let id = context.catalog.visible(&stream).await.unwrap().unwrap();
        context.watermarks.marks(id).await.unwrap()
    };
    let lengths = || -> Vec<i64> {
        let all = world.segments.all().into_iter();
        let all =
            all.filter(|(name, _)| name.starts_with("sc/st/") && !name.contains("#transaction."));
        all.map(|(_, fake)| fake.length as i64).collect()
    };
    let (first, rolled) = (
        world.begun(&tasks, "st").await,
        world.begun(&tasks, "st").await,
    );
    let silent = world.begun(&tasks, "st").await;
    assert_eq!(end(&tasks, silent, End::Commit).await, Accepted::Yes);
    ended(&world, silent).await;
    assert!(marks().await.is_empty(), "nobody noted a time");
    commit(first, "w", 100).await;
    let noted = marks().await;
    assert_eq!(noted["w"].time, 100);
    let position: Vec<_> = noted["w"].position.values().copied().collect();
    assert_eq!((position.len(), position), (3, lengths()));
    tasks.run(&stream, reshape()).await.unwrap();
    commit(rolled, "w", 200).await;
    let noted = marks().await;
    assert_eq!(noted["w"].time, 200);
    let active = tasks
        .context()
        .catalog
        .visible(&stream)
        .await
        .unwrap()
        .unwrap();
    let active = tasks.context().catalog.active(active).await.unwrap();
    let ids: Vec<_> = active.segments.iter().map(|segment| segment.id).collect();
    let mut known: Vec<_> = noted["w"].position.keys().copied().collect();
    known.sort_by_key(|id| ids.iter().position(|of| of == id));
    assert_eq!(
        known, ids,
        "where the stream goes on behind the rolled commit"
    );
    let back = world.begun(&tasks, "st").await;
    commit(back, "w", 150).await;
    assert_eq!(
        marks().await["w"].time,
        200,
        "an earlier time changes nothing"
    );
}

/// As earlier versions accepted it: the names of the writers do not fit into one row.
#[tokio::test(start_paused = true)]
async fn a_writer_of_whatever_name_does_not_keep_commits_from_rolling() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    tasks
        .run(&named("st"), Request::Create(config("st", 3, &[])))
        .await
        .unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.begun(&tasks, "st").await);
    }
    tasks.run(&named("st"), reshape()).await.unwrap();
    world.segments.set_away(true);
    let stream = named("st");
    for id in ids {
        let time = Time {
            writer: "w".repeat(400_000),
            noted: 5,
        };
        let accepted = tasks.end_transaction(&stream, id, End::Commit, Some(time));
        assert_eq!(accepted.await, Ok(Accepted::Yes));
    }
    world.segments.set_away(false);
    world.drained(&tasks).await;
    assert_eq!(active_epoch(&tasks).await, 3);
}

/// A stream all of whose segments were replaced since a transaction wrote to the first one.
async fn wide(segments: i32) -> (World, TransactionId) {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", segments, &[]));
    tasks.run(&named("st"), create).await.unwrap();
    let began = tasks.begin_transaction(&named("st"), LEASE_MS).await;
    let Ok(Began::Open(id, begun)) = began else {
        panic!("{began:?}");
    };
    let written = named("st").segment(begun[0].id).transaction(id);
    world.segments.grow(&written.to_string(), 5);
    let update = Request::Update(config("st", segments + 1, &[]));
    assert_eq!(tasks.run(&named("st"), update).await, Ok(Answer::Done));
    (world, id)
}

async fn rolled(world: &World, tasks: &Tasks) {
    world.drained(tasks).await;
    assert_eq!(active_epoch(tasks).await, 3);
    let segments = world.segments.all();
    assert_eq!(segments["sc/st/0.#epoch.2"].length, 5);
    assert_eq!(segments["sc/st/0.#epoch.2"].merged.len(), 1);
    assert_eq!(world.faults().await, [""; 0]);
}

/// As wide as streams may be, all of which has to roll.
#[tokio::test(start_paused = true)]
async fn a_commit_rolls_over_every_segment_of_the_widest_stream() {
    let (world, id) = wide(9_999).await;
    let tasks = world.tasks(2);
    assert_eq!(end(&tasks, id, End::Commit).await, Accepted::Yes);
    rolled(&world, &tasks).await;
}

/// So wide that its epochs are published by more than one write.
#[tokio::test(start_paused = true)]
async fn a_crash_between_any_two_writes_of_a_wide_rolling_commit_changes_nothing_about_its_end() {
    for writes in 0.. {
        let (world, id) = wide(5_100).await;
        let fuse = Fuse::after(writes);
        let dying = engine(
            Arc::new(Fused(world.store.clone(), fuse.clone())),
            Arc::new(world.segments.clone()),
            2,
        );
        let played = async {
            end(&dying, id, End::Commit).await;
            world.drained(&dying).await;
        };
        let _dead = timeout(Duration::from_secs(10), played).await;
        if !fuse.is_blown() {
            assert!(writes >= 5, "published by too few writes");
            break;
        }
        assert_eq!(world.faults().await, [""; 0], "after {writes} writes");
        let reborn = world.tasks(3);
        reborn.resume().await.unwrap();
        assert_eq!(end(&reborn, id, End::Commit).await, Accepted::Yes);
        rolled(&world, &reborn).await;
    }
}
