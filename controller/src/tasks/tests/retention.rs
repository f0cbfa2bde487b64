use std::sync::atomic::{AtomicI64, Ordering};

use sarit_proto::controller::RetentionPolicy;

use super::*;
use crate::store::records::{Subscriber, encode};

fn retained(kind: i32, min: i64, max: i64) -> StreamConfig {
    let mut config = config("st", 2, &[]);
    config.retention_policy = Some(RetentionPolicy {
        retention_type: kind,
        retention_param: min,
        retention_max: max,
    });
    config
}

/// A world whose clock is set by hand.
struct Timed {
    world: World,
    tasks: Tasks,
    now: Arc<AtomicI64>,
    written: u64,
    /// The lower of the two segments' numbers.
    first: i64,
}

impl Timed {
    async fn new(config: StreamConfig) -> Self {
        let world = World::new().await;
        let now = Arc::new(AtomicI64::new(1_000));
        let clock = now.clone();
        let tasks = engine_at(
            Arc::new(world.store.clone()),
            Arc::new(world.segments.clone()),
            1,
            Clock::from_fn(move || clock.load(Ordering::Relaxed)),
        );
        let created = tasks.run(&named("st"), Request::Create(config)).await;
        assert_eq!(created, Ok(Answer::Done));
        Self {
            world,
            tasks,
            now,
            written: 0,
            first: 0,
        }
    }

    /// A second passes, ten bytes go to each segment, and a round of retention is made.
    async fn second(&mut self) {
        self.pass();
        crate::periodic::retention::round(&self.tasks).await;
    }

    fn pass(&mut self) {
        self.now.fetch_add(1_000, Ordering::Relaxed);
        self.written += 10;
        for name in self.names() {
            self.world.segments.grow(&name, self.written);
        }
    }

    /// Another process on the same world, which dies when the fuse has burnt.
    fn engine(&self, fuse: &Fuse, seed: u64) -> Tasks {
        let now = self.now.clone();
        engine_at(
            Arc::new(Fused(self.world.store.clone(), fuse.clone())),
            Arc::new(Fused(self.world.segments.clone(), fuse.clone())),
            seed,
            Clock::from_fn(move || now.load(Ordering::Relaxed)),
        )
    }

    fn starts(&self) -> [u64; 2] {
        let segments = self.world.segments.all();
        self.names().map(|name| segments[&name].start)
    }

    fn names(&self) -> [String; 2] {
        [self.first, self.first + 1].map(|number| format!("sc/st/{number}.#epoch.0"))
    }

    fn cut(&self, low: i64, high: i64) -> BTreeMap<i64, i64> {
        BTreeMap::from([(self.first, low), (self.first + 1, high)])
    }

    async fn subscribe(&self, name: &str) {
        let create = Request::CreateGroup(group(name, &["st"]));
        let state = named(&format!("_RG{name}"));
        self.tasks.run(&state, create).await.unwrap();
    }

    /// The group goes back to this position; nothing means the stream's head.
    async fn reset(&self, generation: i64, cut: BTreeMap<i64, i64>) {
        let mut config = group("g", &["st"]);
        config.generation = generation;
        config.starting_stream_cuts[0].cut = cut;
        let update = Request::UpdateGroup(config);
        let updated = self.tasks.run(&named("_RGg"), update).await;
        assert_eq!(updated, Ok(Answer::Generation(generation + 1)));
    }

    /// Another stream takes the name; the numbers of its segments go on.
    async fn replace(&mut self, config: StreamConfig) {
        for request in [Request::Seal, Request::Delete, Request::Create(config)] {
            let done = self.tasks.run(&named("st"), request).await;
            assert_eq!(done, Ok(Answer::Done));
        }
        (self.first, self.written) = (2, 0);
    }

    /// What a subscriber has read.
    async fn publish(&self, low: i64, high: i64) {
        self.publish_as("g", 0, low, high).await;
    }

    async fn publish_as(&self, group: &str, generation: i64, low: i64, high: i64) {
        let record = Subscriber {
            reader_group_id: ID.to_owned(),
            cut: self.cut(low, high),
            generation,
        };
        let key = keys::subscriber(&named("st"), &format!("sc/{group}"));
        let publish = Transaction::new().put(key, encode(&record));
        let outcome = store::MetaStore::commit(&self.world.store, publish).await;
        assert!(matches!(outcome, Ok(Outcome::Committed(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn time_and_size_are_kept_and_what_is_older_goes() {
    // Five seconds at least; the tail moves ten bytes a second in each segment.
    let mut timed = Timed::new(retained(1, 5_000, 0)).await;
    for second in 1..=30_u64 {
        timed.second().await;
        let expected = 10 * second.saturating_sub(5);
        assert_eq!(timed.starts(), [expected; 2], "second {second}");
    }
    // A hundred bytes at least: five seconds' worth.
    let mut sized = Timed::new(retained(2, 100, 0)).await;
    for second in 1..=30_u64 {
        sized.second().await;
        let expected = 10 * second.saturating_sub(5);
        assert_eq!(sized.starts(), [expected; 2], "second {second}");
    }
    let rows = sized.world.store.snapshot();
    let cuts = rows.keys().filter(|key| key.starts_with("cut/")).count();
    assert!(cuts <= 6, "{cuts} cuts recorded");
    // All of it goes with the stream.
    sized.tasks.run(&named("st"), Request::Seal).await.unwrap();
    sized
        .tasks
        .run(&named("st"), Request::Delete)
        .await
        .unwrap();
    let left = sized.world.store.snapshot();
    let left: Vec<&str> = left.keys().map(String::as_str).collect();
    assert_eq!(left, ["d/sc/_MARKst", "d/sc/st", "s/sc"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_holds_retention_up_to_the_maximum() {
    for kind in [1, 2] {
        let (min, max) = if kind == 1 {
            (3_000, 10_000)
        } else {
            (60, 200)
        };
        let mut timed = Timed::new(retained(kind, min, max)).await;
        timed.subscribe("g").await;
        timed.publish(20, 10).await;
        for _ in 0..8 {
            timed.second().await;
        }
        assert_eq!(timed.starts(), [20, 10], "kind {kind}");
        for _ in 0..12 {
            timed.second().await;
        }
        // Twenty seconds, of which ten are the most that is kept.
        assert_eq!(timed.starts(), [100, 100], "kind {kind}");
        timed.publish(200, 200).await;
        timed.second().await;
        // All is read: three seconds are kept.
        assert_eq!(timed.starts(), [180, 180], "kind {kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_of_an_earlier_stream_says_nothing_about_the_next() {
    let config = retained(1, 3_000, 0);
    let mut timed = Timed::new(config.clone()).await;
    for name in ["g", "h"] {
        timed.subscribe(name).await;
        timed.publish_as(name, 0, 5, 5).await;
    }
    timed.second().await;
    timed.replace(config).await;
    // The other group never comes back.
    timed.publish(20, 10).await;
    for _ in 0..8 {
        timed.second().await;
    }
    assert_eq!(timed.starts(), [20, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_goes_back_holds_retention_from_there() {
    for head in [false, true] {
        let mut timed = Timed::new(retained(1, 3_000, 0)).await;
        timed.subscribe("g").await;
        timed.publish(20, 20).await;
        for _ in 0..8 {
            timed.second().await;
        }
        assert_eq!(timed.starts(), [20, 20]);
        timed.publish(50, 50).await;
        let back = match head {
            true => BTreeMap::new(),
            false => timed.cut(30, 40),
        };
        timed.reset(0, back).await;
        for _ in 0..8 {
            timed.second().await;
        }
        let expected = if head { [20, 20] } else { [30, 40] };
        assert_eq!(timed.starts(), expected, "to the head: {head}");
        // As soon as it publishes again, that counts, though it is less than before.
        timed.publish_as("g", 1, 45, 45).await;
        timed.second().await;
        assert_eq!(timed.starts(), [45, 45], "to the head: {head}");
    }
}

/// Whatever the effect of a round after which the process dies, the next rounds come to the same end.
#[tokio::test(start_paused = true)]
async fn a_crash_between_any_two_effects_of_retention_changes_nothing_about_its_end() {
    let prepared = async || {
        let mut timed = Timed::new(retained(1, 5_000, 0)).await;
        for _ in 0..7 {
            timed.second().await;
        }
        timed.pass();
        timed
    };
    let settle = async |timed: &Timed| {
        let tasks = timed.engine(&Fuse::after(1_000), 3);
        tasks.resume().await.unwrap();
        for _ in 0..3 {
            tasks.run(&named("st"), Request::Retain).await.unwrap();
        }
    };
    let expected = prepared().await;
    settle(&expected).await;
    assert_eq!(expected.starts(), [30; 2]);
    for effects in 0.. {
        let timed = prepared().await;
        let fuse = Fuse::after(effects);
        let dying = timed.engine(&fuse, 2);
        let outcome = dying.run(&named("st"), Request::Retain).await;
        if !fuse.is_blown() {
            outcome.unwrap();
            assert!(effects > 3, "a round has few effects");
            break;
        }
        settle(&timed).await;
        assert_eq!(
            timed.world.state(),
            expected.world.state(),
            "after {effects} effects"
        );
        assert_eq!(
            timed.world.faults().await,
            [""; 0],
            "after {effects} effects"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_refused_ends_with_the_reason_and_its_stream_goes_on() {
    let world = World::new().await;
    let tasks = world.tasks(1);
    let refused = async |stream: &str, request: Request| {
        let answer = tasks.run(&named(stream), request).await;
        assert!(
            matches!(&answer, Err(Error::Invalid(reason)) if reason.contains("not liked")),
            "{answer:?}"
        );
        assert_eq!(tasks.running(), []);
    };
    let create = || Request::Create(config("st", 3, &["a"]));
    world.segments.refuse(Some("st/1.#epoch"));
    refused("st", create()).await;
    let rows = world.store.snapshot();
    assert!(
        !rows
            .keys()
            .any(|key| key.starts_with("n/") || key.starts_with("w/"))
    );
    world.segments.refuse(None);
    assert_eq!(tasks.run(&named("st"), create()).await, Ok(Answer::Done));
    world.segments.grow("sc/st/3.#epoch.0", 9);
    // Numbers went on behind those of the failed creation.
    world.segments.refuse(Some("st/"));
    let cut = BTreeMap::from([(3, 4), (4, 0), (5, 0)]);
    refused("st", Request::Truncate(cut)).await;
    let wanted = scaling(&[(0, 3)], &[(0.0, 0.1), (0.1, THIRD)]);
    refused("st", Request::Scale(wanted.clone())).await;
    refused("st", Request::Seal).await;
    world.segments.refuse(None);
    // A seal cannot be taken back; what asks next finishes it.
    let sealed = tasks.run(&named("st"), Request::Scale(wanted)).await;
    assert_eq!(sealed, Ok(Answer::Sealed));
    assert_eq!(
        tasks.run(&named("st"), Request::Delete).await,
        Ok(Answer::Done)
    );
}
