mod callers;
mod retention;
mod scopes;
mod sealed_behind;
mod transactions;

use sarit_proto::controller::scaling_policy::ScalingPolicyType;
use sarit_proto::controller::{ScalingPolicy, StreamCut, StreamInfo, Tags};

use sarit_proto::key_range::KeyRange;

use super::*;
use crate::store::MemoryStore;
use crate::stream::epoch::Segment;
use crate::testing::{Fake, Fuse, Fused, MemorySegments, Slow};

const ID: &str = "00000000-0000-0000-0000-000000000005";

#[derive(Clone, Default)]
struct World {
    store: MemoryStore,
    segments: MemorySegments,
}

fn engine(store: Arc<dyn store::MetaStore>, segments: Arc<dyn SegmentStore>, seed: u64) -> Tasks {
    engine_at(store, segments, seed, Clock::from_fn(|| 7))
}

fn engine_at(
    store: Arc<dyn store::MetaStore>,
    segments: Arc<dyn SegmentStore>,
    seed: u64,
    clock: Clock,
) -> Tasks {
    let bounds = crate::TransactionConfig::default().bounds();
    let world = (clock, Rng::seeded(seed), bounds);
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let tasks = Tasks::new(Catalog::new(store), segments, world, tracker.clone(), stop);
    let watching = tasks.clone();
    tracker.spawn(async move { watching.watch_transactions().await });
    tasks
}

impl World {
    async fn new() -> Self {
        let world = Self::default();
        let record = store::records::encode(&store::records::Scope {
            created_ms: 7,
            deletion: String::new(),
        });
        let scope = Transaction::new().put("s/sc", record);
        assert_ne!(
            store::MetaStore::commit(&world.store, scope).await,
            Ok(Outcome::Conflict)
        );
        world
    }

    fn tasks(&self, seed: u64) -> Tasks {
        engine(
            Arc::new(self.store.clone()),
            Arc::new(self.segments.clone()),
            seed,
        )
    }

    async fn done(&self, stream: &str, request: Request) -> Answer {
        self.tasks(1).run(&named(stream), request).await.unwrap()
    }

    /// What is wrong with the records.
    async fn faults(&self) -> Vec<String> {
        store::fsck(Arc::new(self.store.clone())).await.unwrap()
    }

    /// Everything durable, with each stream's random id replaced by its name.
    fn state(&self) -> (BTreeMap<String, String>, BTreeMap<String, Fake>) {
        let rows = self.store.snapshot();
        let mut names = BTreeMap::new();
        for (key, value) in &rows {
            if key.starts_with("n/") {
                let row: store::records::Name = store::records::decode(key, value).unwrap();
                names.insert(row.stream_id, format!("<{key}>"));
            }
            if key.starts_with("kvt/") {
                let row: store::records::Table = store::records::decode(key, value).unwrap();
                names.insert(row.id, format!("<{key}>"));
            }
        }
        let known = |text: &str| {
            let mut text = text.to_owned();
            for (id, name) in &names {
                text = text.replace(id, name);
            }
            text
        };
        let rows = rows.iter();
        let rows = rows.map(|(key, value)| (known(key), known(&value.escape_ascii().to_string())));
        (rows.collect(), self.segments.all())
    }
}

fn named(stream: &str) -> ScopedStream {
    format!("sc/{stream}").parse().unwrap()
}

fn info(stream: &str) -> StreamInfo {
    StreamInfo {
        scope: "sc".to_owned(),
        stream: stream.to_owned(),
        access_operation: 0,
    }
}

fn config(stream: &str, segments: i32, tags: &[&str]) -> StreamConfig {
    StreamConfig {
        stream_info: Some(info(stream)),
        scaling_policy: Some(ScalingPolicy {
            min_num_segments: segments,
            ..ScalingPolicy::default()
        }),
        tags: Some(Tags {
            tag: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        }),
        ..StreamConfig::default()
    }
}

fn by_rate(stream: &str, segments: i32) -> StreamConfig {
    let mut config = config(stream, segments, &["new"]);
    let policy = config.scaling_policy.as_mut().unwrap();
    policy.scale_type = ScalingPolicyType::ByRateInEventsPerSec as i32;
    (policy.target_rate, policy.scale_factor) = (100, 2);
    config
}

fn group(name: &str, streams: &[&str]) -> ReaderGroupConfiguration {
    let cuts = streams.iter().map(|stream| StreamCut {
        stream_info: Some(info(stream)),
        ..StreamCut::default()
    });
    ReaderGroupConfiguration {
        scope: "sc".to_owned(),
        reader_group_name: name.to_owned(),
        reader_group_id: ID.to_owned(),
        retention_type: 2,
        starting_stream_cuts: cuts.collect(),
        ..ReaderGroupConfiguration::default()
    }
}

fn scaling(sealed: &[(i32, i32)], ranges: &[(f64, f64)]) -> Scaling {
    let sealed = sealed.iter();
    let ranges = ranges.iter();
    Scaling {
        sealed: sealed
            .map(|(epoch, number)| SegmentId::new(*epoch, *number))
            .collect(),
        ranges: ranges
            .map(|(start, end)| KeyRange::from_f64(*start, *end).unwrap())
            .collect(),
    }
}

const THIRD: f64 = 1.0 / 3.0;

/// Puts the bound between the lower two of three segments elsewhere.
fn reshape() -> Request {
    let ranges = [(0.0, 0.5), (0.5, 2.0 * THIRD)];
    Request::Scale(scaling(&[(0, 0), (0, 1)], &ranges))
}

fn segment(epoch: i32, number: i32, start: f64, end: f64) -> Segment {
    Segment {
        id: SegmentId::new(epoch, number),
        range: KeyRange::from_f64(start, end).unwrap(),
    }
}

fn reshaped() -> Transition {
    Transition {
        number: 1,
        reference: 1,
        created_ms: 7,
        sealed: vec![segment(0, 0, 0.0, THIRD), segment(0, 1, THIRD, 2.0 * THIRD)],
        added: vec![segment(1, 3, 0.0, 0.5), segment(1, 4, 0.5, 2.0 * THIRD)],
    }
}

fn split() -> Transition {
    Transition {
        number: 2,
        reference: 2,
        created_ms: 7,
        sealed: vec![segment(0, 2, 2.0 * THIRD, 1.0)],
        added: vec![segment(2, 5, 2.0 * THIRD, 0.75), segment(2, 6, 0.75, 1.0)],
    }
}

fn table(name: &str) -> KeyValueTableConfig {
    KeyValueTableConfig {
        scope: "sc".to_owned(),
        kvt_name: name.to_owned(),
        partition_count: 3,
        primary_key_length: 8,
        secondary_key_length: 4,
        rollover_size_bytes: 0,
    }
}

/// A change, what must be there before it, and the answers that a second asking may get.
struct Scenario {
    name: &'static str,
    stream: &'static str,
    before: Vec<(&'static str, Request)>,
    change: Request,
    again: Vec<Answer>,
}

fn scenarios() -> Vec<Scenario> {
    let create = || ("st", Request::Create(config("st", 3, &["a", "b"])));
    let seal = || ("st", Request::Seal);
    let scale = || ("st", reshape());
    let create_table = || ("t_kvtable", Request::CreateTable(table("t")));
    let create_group = || Request::CreateGroup(group("g", &["st", "other"]));
    vec![
        Scenario {
            name: "create",
            stream: "st",
            before: vec![],
            change: create().1,
            again: vec![Answer::Done, Answer::Exists],
        },
        Scenario {
            name: "create again",
            stream: "st",
            before: vec![create(), seal(), ("st", Request::Delete)],
            change: create().1,
            again: vec![Answer::Done, Answer::Exists],
        },
        Scenario {
            name: "update",
            stream: "st",
            before: vec![create()],
            change: Request::Update(by_rate("st", 2)),
            again: vec![Answer::Done],
        },
        Scenario {
            name: "seal",
            stream: "st",
            before: vec![create()],
            change: Request::Seal,
            again: vec![Answer::Done],
        },
        Scenario {
            name: "scale",
            stream: "st",
            before: vec![create()],
            change: scale().1,
            again: vec![Answer::Scaled(reshaped())],
        },
        Scenario {
            name: "scale again",
            stream: "st",
            before: vec![create(), scale()],
            change: Request::Scale(scaling(&[(0, 2)], &[(2.0 * THIRD, 0.75), (0.75, 1.0)])),
            again: vec![Answer::Scaled(split())],
        },
        Scenario {
            name: "update to another number of segments",
            stream: "st",
            before: vec![create(), scale()],
            change: Request::Update(config("st", 4, &["new"])),
            again: vec![Answer::Done],
        },
        Scenario {
            name: "truncate over epochs",
            stream: "st",
            before: vec![
                create(),
                (
                    "st",
                    Request::Truncate(BTreeMap::from([(0, 0), (1, 0), (2, 0)])),
                ),
                scale(),
            ],
            change: Request::Truncate(BTreeMap::from([(2, 4), (1 << 32 | 3, 5), (1 << 32 | 4, 0)])),
            again: vec![Answer::Done],
        },
        Scenario {
            name: "seal after scale",
            stream: "st",
            before: vec![create(), scale()],
            change: Request::Seal,
            again: vec![Answer::Done],
        },
        Scenario {
            name: "delete after scale",
            stream: "st",
            before: vec![create(), scale(), seal()],
            change: Request::Delete,
            again: vec![Answer::Done, Answer::NotThere],
        },
        Scenario {
            name: "truncate",
            stream: "st",
            before: vec![create()],
            change: Request::Truncate(BTreeMap::from([(0, 4), (1, -1), (2, 0)])),
            again: vec![Answer::Done],
        },
        Scenario {
            name: "delete",
            stream: "st",
            before: vec![create(), seal()],
            change: Request::Delete,
            again: vec![Answer::Done, Answer::NotThere],
        },
        Scenario {
            name: "create group",
            stream: "_RGg",
            before: vec![create()],
            change: create_group(),
            again: vec![Answer::Group(group("g", &["st", "other"]))],
        },
        Scenario {
            name: "update group",
            stream: "_RGg",
            before: vec![create(), ("_RGg", create_group())],
            change: Request::UpdateGroup(group("g", &["st", "third"])),
            again: vec![Answer::Generation(1), Answer::StaleGroup],
        },
        Scenario {
            name: "create table",
            stream: "t_kvtable",
            before: vec![],
            change: create_table().1,
            again: vec![Answer::Done, Answer::Exists],
        },
        Scenario {
            name: "create table again",
            stream: "t_kvtable",
            before: vec![create_table(), ("t_kvtable", Request::DeleteTable)],
            change: create_table().1,
            again: vec![Answer::Done, Answer::Exists],
        },
        Scenario {
            name: "delete table",
            stream: "t_kvtable",
            before: vec![create_table()],
            change: Request::DeleteTable,
            again: vec![Answer::Done, Answer::NotThere],
        },
        Scenario {
            name: "delete group",
            stream: "_RGg",
            before: vec![create(), ("_RGg", create_group())],
            change: Request::DeleteGroup(ID.to_owned()),
            again: vec![Answer::Done, Answer::NotThere],
        },
        Scenario {
            name: "delete scope",
            stream: "__all",
            before: vec![
                create(),
                scale(),
                ("sealed", Request::Create(config("sealed", 1, &["a"]))),
                ("sealed", Request::Seal),
                ("_RGg", create_group()),
                create_table(),
            ],
            change: Request::DeleteScope,
            again: vec![Answer::Done, Answer::NoScope],
        },
    ]
}

async fn prepared(scenario: &Scenario) -> World {
    let world = World::new().await;
    for (stream, request) in &scenario.before {
        world.done(stream, request.clone()).await;
    }
    for segment in world.segments.all().keys() {
        if segment.starts_with("sc/st/") {
            world.segments.grow(segment, 9);
        }
    }
    world
}

/// The heart of it: whatever the effect after which the process dies, a new process and a repeated
/// request lead to the same end as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn a_crash_between_any_two_effects_changes_nothing_about_the_end() {
    for scenario in scenarios() {
        let expected = prepared(&scenario).await;
        expected
            .done(scenario.stream, scenario.change.clone())
            .await;
        for effects in 0.. {
            let world = prepared(&scenario).await;
            let fuse = Fuse::after(effects);
            let dying = engine(
                Arc::new(Fused(world.store.clone(), fuse.clone())),
                Arc::new(Fused(world.segments.clone(), fuse.clone())),
                2,
            );
            let stream = named(scenario.stream);
            let outcome = dying.run(&stream, scenario.change.clone()).await;
            if !fuse.is_blown() {
                outcome.unwrap();
                assert!(effects > 0, "{} has no effects", scenario.name);
                break;
            }
            let place = format!("{} after {effects} effects", scenario.name);
            assert!(
                matches!(outcome, Err(Error::Unavailable(_))),
                "{place}: {outcome:?}"
            );
            let reborn = world.tasks(3);
            reborn.resume().await.unwrap();
            let again = reborn.run(&stream, scenario.change.clone()).await.unwrap();
            assert!(scenario.again.contains(&again), "{place}: {again:?}");
            assert_eq!(world.state(), expected.state(), "{place}");
            assert_eq!(world.faults().await, [""; 0], "{place}");
        }
    }
}

/// A reader goes on with a successor once its segment is at its end, and a writer writes to one once
/// its own is sealed: so one is named as soon as the segment is sealed, never before, and exists.
#[tokio::test(start_paused = true)]
async fn successors_are_named_exactly_when_their_predecessor_is_sealed() {
    let changes = [reshape(), Request::Update(config("st", 5, &[]))];
    for (change, effects) in changes.iter().flat_map(|c| (0..24).map(move |n| (c, n))) {
        let world = World::new().await;
        world
            .done("st", Request::Create(config("st", 3, &[])))
            .await;
        let fuse = Fuse::after(effects);
        let dying = engine(
            Arc::new(Fused(world.store.clone(), fuse.clone())),
            Arc::new(Fused(world.segments.clone(), fuse.clone())),
            2,
        );
        let _late_or_done = dying.run(&named("st"), change.clone()).await;
        let tasks = world.tasks(3);
        let context = tasks.context();
        let id = context
            .catalog
            .visible(&named("st"))
            .await
            .unwrap()
            .unwrap();
        let segments = world.segments.all();
        for number in 0..3 {
            let old = named("st").segment(SegmentId::new(0, number));
            let stream = named("st");
            let heirs = scale_stream::successors(context, &stream, id, old.id);
            let heirs = heirs.await.unwrap();
            let sealed = segments[&old.to_string()].sealed;
            assert_eq!(!heirs.is_empty(), sealed, "{old} after {effects} effects");
            for heir in heirs {
                let name = named("st").segment(heir.segment.id).to_string();
                assert!(
                    segments.contains_key(&name),
                    "{name} after {effects} effects"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_scaled_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let create = Request::Create(config("st", 3, &[]));
    world.done("st", create).await;
    let before = world.state();
    let refused = [
        scaling(&[(0, 7)], &[(0.0, 1.0)]),
        scaling(&[(0, 0)], &[(0.0, 0.5)]),
        scaling(&[], &[]),
        scaling(&[(0, 0), (0, 1)], &[(0.0, 2.0 * THIRD)]),
    ];
    for wanted in refused {
        let answer = world.done("st", Request::Scale(wanted)).await;
        assert!(matches!(answer, Answer::NotScaled(_)), "{answer:?}");
    }
    let missing = Request::Scale(scaling(&[(0, 0)], &[(0.0, 1.0)]));
    assert_eq!(world.done("none", missing).await, Answer::NotThere);
    assert_eq!(world.state(), before);
}

#[tokio::test(start_paused = true)]
async fn truncating_deletes_what_lies_before_the_cut_once() {
    let world = World::new().await;
    world.done("st", Request::Create(by_rate("st", 1))).await;
    for pair in 0..3 {
        let (epoch, number) = (2 * pair, 3 * pair);
        let split = scaling(&[(epoch, number)], &[(0.0, 0.5), (0.5, 1.0)]);
        let halves = [(epoch + 1, number + 1), (epoch + 1, number + 2)];
        for wanted in [split, scaling(&halves, &[(0.0, 1.0)])] {
            let answer = world.done("st", Request::Scale(wanted)).await;
            assert!(matches!(answer, Answer::Scaled(_)), "{answer:?}");
        }
    }
    let cut = |epoch: i64, number: i64| BTreeMap::from([(epoch << 32 | number, 0)]);
    let left = || {
        let segments = world.segments.all().into_keys();
        segments.filter(|name| name.starts_with("sc/st/")).count()
    };
    assert_eq!(left(), 10);
    assert_eq!(
        world.done("st", Request::Truncate(cut(2, 3))).await,
        Answer::Done
    );
    assert_eq!(left(), 7);
    assert_eq!(
        world.done("st", Request::Truncate(cut(6, 9))).await,
        Answer::Done
    );
    assert_eq!(left(), 1);
    // Whoever comes late is still told how to go on.
    let tasks = world.tasks(1);
    let context = tasks.context();
    let id = context
        .catalog
        .visible(&named("st"))
        .await
        .unwrap()
        .unwrap();
    let stream = named("st");
    let first = scale_stream::successors(context, &stream, id, SegmentId::new(0, 0));
    assert_eq!(first.await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_seen_of_a_stream_before_its_segments_exist() {
    let world = World::new().await;
    world.segments.set_away(true);
    let tasks = world.tasks(1);
    let create = Request::Create(config("st", 2, &["a"]));
    let late = tasks.run(&named("st"), create.clone()).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    let catalog = Catalog::new(Arc::new(world.store.clone()));
    assert_eq!(catalog.visible(&named("st")).await, Ok(None));
    world.segments.set_away(false);
    let joined = tasks.run(&named("st"), create).await;
    assert_eq!(joined, Ok(Answer::Done));
    assert!(catalog.visible(&named("st")).await.unwrap().is_some());
    assert_eq!(tasks.running(), []);
}

#[tokio::test(start_paused = true)]
async fn one_stream_that_cannot_go_on_does_not_hold_up_another() {
    let world = World::new().await;
    let fuse = Fuse::after(1);
    let stuck = engine(
        Arc::new(world.store.clone()),
        Arc::new(Fused(world.segments.clone(), fuse)),
        1,
    );
    let create = Request::Create(config("st", 1, &[]));
    assert!(stuck.run(&named("st"), create).await.is_err());
    let started = Instant::now();
    let missing = stuck.run(&named("other"), Request::Seal).await;
    assert_eq!(missing, Ok(Answer::NotThere));
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(stuck.running(), [("sc/st".to_owned(), "create stream")]);
}

#[tokio::test(start_paused = true)]
async fn two_who_compare_the_same_generation_do_not_both_win() {
    let world = World::new().await;
    let create = Request::CreateGroup(group("g", &[]));
    world.done("_RGg", create).await;
    let tasks = world.tasks(1);
    let update = || tasks.run(&STATE, Request::UpdateGroup(group("g", &["st"])));
    static STATE: std::sync::LazyLock<ScopedStream> = std::sync::LazyLock::new(|| named("_RGg"));
    let (first, second) = tokio::join!(update(), update());
    assert_eq!(first, Ok(Answer::Generation(1)));
    assert_eq!(second, Ok(Answer::StaleGroup));
}

#[tokio::test(start_paused = true)]
async fn a_cut_beyond_a_tail_or_before_the_head_is_refused_and_changes_nothing() {
    let world = World::new().await;
    world
        .done("st", Request::Create(config("st", 2, &[])))
        .await;
    world.segments.grow("sc/st/0.#epoch.0", 10);
    let truncate = |offset| Request::Truncate(BTreeMap::from([(0, offset), (1, 0)]));
    assert_eq!(world.done("st", truncate(5)).await, Answer::Done);
    let before = world.state();
    for offset in [11, 4, -2, i64::MAX] {
        let refused = world.tasks(1).run(&named("st"), truncate(offset)).await;
        assert!(
            matches!(refused, Err(Error::Invalid(_))),
            "{offset}: {refused:?}"
        );
    }
    let partial = Request::Truncate(BTreeMap::from([(0, 6)]));
    let refused = world.tasks(1).run(&named("st"), partial).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(world.state(), before);
    assert_eq!(world.segments.all()["sc/st/0.#epoch.0"].start, 5);
    assert_eq!(world.done("st", truncate(-1)).await, Answer::Done);
    assert_eq!(world.segments.all()["sc/st/0.#epoch.0"].start, 10);
}

#[tokio::test(start_paused = true)]
async fn segment_numbers_go_on_after_delete_and_create() {
    let world = World::new().await;
    for round in 0..3 {
        let create = Request::Create(config("st", 2, &["t"]));
        assert_eq!(world.done("st", create).await, Answer::Done);
        let segments = world.segments.all();
        let names: Vec<&str> = segments.keys().map(String::as_str).collect();
        let expected = [
            format!("sc/_MARKst/{round}.#epoch.0"),
            format!("sc/st/{}.#epoch.0", 2 * round),
            format!("sc/st/{}.#epoch.0", 2 * round + 1),
        ];
        assert_eq!(names, expected);
        assert_eq!(world.done("st", Request::Delete).await, Answer::NotSealed);
        world.done("st", Request::Seal).await;
        assert_eq!(world.done("st", Request::Delete).await, Answer::Done);
        assert_eq!(world.segments.all().len(), 0);
        let rows = world.store.snapshot();
        let left: Vec<&str> = rows.keys().map(String::as_str).collect();
        assert_eq!(left, ["d/sc/_MARKst", "d/sc/st", "s/sc"]);
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_tags_as_are_allowed_come_and_go() {
    let world = World::new().await;
    let tags: Vec<String> = (0..128).map(|number| format!("tag{number}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let create = Request::Create(config("st", 1, &tags));
    assert_eq!(world.done("st", create).await, Answer::Done);
    let rows = || world.store.snapshot().into_keys();
    assert_eq!(rows().filter(|key| key.starts_with("tag/")).count(), 128);
    let update = Request::Update(config("st", 1, &["only"]));
    assert_eq!(world.done("st", update).await, Answer::Done);
    let left: Vec<String> = rows().filter(|key| key.starts_with("tag/")).collect();
    assert_eq!(left, ["tag/sc/only\0st"]);
}
