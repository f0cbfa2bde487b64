//! The whole way of a note, with time that is paused and crashes between any two effects.

use std::time::Duration;

use bytes::Bytes;
use sarit_env::Rng;
use sarit_proto::controller::{ScalingPolicy, StreamConfig, StreamInfo};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::segments::SegmentStore;
use crate::store::{MemoryStore, MetaStore};
use crate::stream::config::normalize;
use crate::tasks::{Answer, Request, Tasks};
use crate::testing::{Fuse, Fused, MemorySegments};

const MARK: &str = "sc/_MARKst/0.#epoch.0";
const PERIOD: Duration = Duration::from_millis(100);

#[derive(Clone, Default)]
struct World {
    store: MemoryStore,
    segments: MemorySegments,
}

fn stream() -> ScopedStream {
    "sc/st".parse().unwrap()
}

fn clock() -> Clock {
    let started = tokio::time::Instant::now();
    Clock::from_fn(move || i64::try_from(started.elapsed().as_millis()).unwrap())
}

/// Notes of a world, and the task that works on them until the token is cancelled.
struct Process {
    watermarks: Watermarks,
    stop: CancellationToken,
    ended: tokio::task::JoinSet<()>,
}

impl Process {
    fn start(store: Arc<dyn MetaStore>, segments: Arc<dyn SegmentStore>) -> Self {
        let watermarks = Watermarks::new(Catalog::new(store), clock());
        let worker = Worker {
            watermarks: watermarks.clone(),
            segments,
            config: Config {
                period_ms: PERIOD.as_millis() as u64,
            },
        };
        let stop = CancellationToken::new();
        let mut ended = tokio::task::JoinSet::new();
        ended.spawn(worker.run(stop.clone()));
        Self {
            watermarks,
            stop,
            ended,
        }
    }

    async fn note(&self, writer: &str, time: i64, offset: i64) -> Noted {
        let position = BTreeMap::from([(0, offset)]);
        self.watermarks
            .note(&stream(), writer, time, &position)
            .await
            .unwrap()
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.ended.join_next().await.unwrap().unwrap();
    }
}

impl World {
    async fn new(timeout_ms: i64) -> Self {
        let world = Self::default();
        let scope = encode(&crate::store::records::Scope {
            created_ms: 7,
            deletion: String::new(),
        });
        let scope = Transaction::new().put("s/sc", scope);
        let _first = world.store.commit(scope).await.unwrap();
        let config = StreamConfig {
            stream_info: Some(StreamInfo {
                scope: "sc".to_owned(),
                stream: "st".to_owned(),
                access_operation: 0,
            }),
            scaling_policy: Some(ScalingPolicy {
                min_num_segments: 1,
                ..ScalingPolicy::default()
            }),
            timestamp_aggregation_timeout: timeout_ms,
            ..StreamConfig::default()
        };
        let create = Request::Create(normalize(config).unwrap());
        assert_eq!(world.change(create).await, Answer::Done);
        world
    }

    async fn change(&self, request: Request) -> Answer {
        let tasks = Tasks::new(
            Catalog::new(Arc::new(self.store.clone())),
            Arc::new(self.segments.clone()),
            (
                clock(),
                Rng::seeded(1),
                crate::TransactionConfig::default().bounds(),
            ),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        tasks.run(&stream(), request).await.unwrap()
    }

    fn process(&self) -> Process {
        Process::start(
            Arc::new(self.store.clone()),
            Arc::new(self.segments.clone()),
        )
    }

    /// Returns number, lower bound and the first segment's offset of all watermarks.
    fn made(&self) -> Vec<(i64, i64, i64)> {
        let field =
            |event: &Bytes, at: usize| i64::from_be_bytes(event[at..at + 8].try_into().unwrap());
        let events = self.segments.events(MARK).into_iter();
        events
            .map(|(number, event)| (number, field(&event, 8), field(&event, event.len() - 8)))
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_note_becomes_a_watermark_within_a_period() {
    let world = World::new(0).await;
    let process = world.process();
    assert_eq!(process.note("a", 10, 5).await, Noted::Taken);
    sleep(2 * PERIOD).await;
    assert_eq!(world.made(), [(1, 10, 5)]);
    assert_eq!(process.note("b", 12, 9).await, Noted::Taken);
    assert_eq!(process.note("a", 11, 7).await, Noted::Taken);
    assert_eq!(process.note("a", 10, 8).await, Noted::TimeBack);
    assert_eq!(process.note("a", 11, 6).await, Noted::PositionBack);
    sleep(2 * PERIOD).await;
    assert_eq!(world.made()[1..], [(2, 11, 9)]);
    // Nothing new, nothing made.
    sleep(10 * PERIOD).await;
    assert_eq!(world.made().len(), 2);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silent_and_removed_writers_stop_holding_others_back() {
    let world = World::new(1_000).await;
    let process = world.process();
    process.note("silent", 10, 0).await;
    process.note("busy", 20, 0).await;
    sleep(Duration::from_millis(500)).await;
    process.note("busy", 30, 0).await;
    assert_eq!(world.made(), [(1, 10, 0)]);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(world.made(), [(1, 10, 0), (2, 30, 0)]);
    process.note("leaves", 40, 0).await;
    process.note("busy", 50, 0).await;
    let left = process.watermarks.remove(&stream(), "leaves").await;
    assert_eq!(left.unwrap(), Removed::Done);
    let nobody = process.watermarks.remove(&stream(), "nobody").await;
    assert_eq!(nobody.unwrap(), Removed::Unknown);
    sleep(4 * PERIOD).await;
    assert_eq!(world.made()[2..], [(3, 40, 0), (4, 50, 0)]);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_delays_watermarks_and_loses_none() {
    let world = World::new(0).await;
    let process = world.process();
    world.segments.set_away(true);
    process.note("a", 10, 5).await;
    sleep(5 * PERIOD).await;
    process.note("a", 11, 6).await;
    world.segments.set_away(false);
    sleep(3 * PERIOD).await;
    assert_eq!(world.made(), [(1, 10, 5), (2, 11, 6)]);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_anywhere_every_watermark_is_there_once() {
    let mut effects = 0;
    loop {
        let world = World::new(0).await;
        let fuse = Fuse::after(effects);
        let store = Arc::new(Fused(world.store.clone(), fuse.clone()));
        let segments = Arc::new(Fused(world.segments.clone(), fuse.clone()));
        let mut process = Process::start(store, segments);
        let notes = async {
            process.note("a", 10, 5).await;
            sleep(2 * PERIOD).await;
            process.note("a", 20, 6).await;
        };
        let _crashed = tokio::time::timeout(10 * PERIOD, notes).await;
        sleep(2 * PERIOD).await;
        let blown = fuse.is_blown();
        process.ended.abort_all();
        // The writer notes again what was not answered.
        let process = world.process();
        assert_ne!(process.note("a", 20, 6).await, Noted::TimeBack);
        sleep(3 * PERIOD).await;
        let made = world.made();
        assert_eq!(
            made.last().unwrap().1,
            20,
            "after {effects} effects: {made:?}"
        );
        let numbers: Vec<_> = made.iter().map(|(number, ..)| *number).collect();
        assert_eq!(numbers, (1..=made.len() as i64).collect::<Vec<_>>());
        assert!(
            made.windows(2).all(|pair| pair[0].1 < pair[1].1),
            "{made:?}"
        );
        process.stop().await;
        if !blown {
            assert_eq!(made, [(1, 10, 5), (2, 20, 6)]);
            break;
        }
        effects += 1;
    }
    assert!(effects >= 8, "only {effects} effects");
}

#[tokio::test(start_paused = true)]
async fn rows_of_a_stream_that_is_gone_are_removed() {
    let world = World::new(0).await;
    let process = world.process();
    process.note("a", 10, 5).await;
    sleep(2 * PERIOD).await;
    process.stop().await;
    world.change(Request::Seal).await;
    assert_eq!(world.change(Request::Delete).await, Answer::Done);
    let process = world.process();
    assert_eq!(process.note("a", 10, 5).await, Noted::NoStream);
    sleep(2 * PERIOD).await;
    let rows = world.store.snapshot();
    let left = rows.keys().filter(|key| key.starts_with("wm"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<&String>::new());
    process.stop().await;
}
