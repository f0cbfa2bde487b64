//! Deletions of scopes with all that is in them.

use futures_util::future::join_all;

use super::*;
use crate::stream::transaction::End;

const ALL: &str = "__all";

/// A scope with something of everything, some of it under way.
async fn busy() -> World {
    let world = World::new().await;
    let tasks = world.tasks(1);
    for (stream, request) in [
        ("st", Request::Create(config("st", 3, &["a", "b"]))),
        ("sealed", Request::Create(config("sealed", 2, &[]))),
        ("sealed", Request::Seal),
        ("_RGg", Request::CreateGroup(group("g", &["st"]))),
        ("t_kvtable", Request::CreateTable(table("t"))),
    ] {
        tasks.run(&named(stream), request).await.unwrap();
    }
    let first = world.begun(&tasks, "st").await;
    world.begun(&tasks, "st").await;
    tasks.run(&named("st"), reshape()).await.unwrap();
    let third = world.begun(&tasks, "st").await;
    // Its commit waits, and has to roll.
    world.segments.set_away(true);
    for (id, end) in [(first, End::Commit), (third, End::Abort)] {
        let accepted = tasks.end_transaction(&named("st"), id, end, None).await;
        accepted.unwrap();
    }
    let create = Request::CreateGroup(group("late", &[]));
    let late = tasks.run(&named("_RGlate"), create).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    tasks.0.stop.cancel();
    while !tasks.running().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.segments.set_away(false);
    world
}

impl World {
    fn nothing_is_left(&self, place: &str) {
        let mut rows = self.store.snapshot();
        rows.retain(|key, _| !key.starts_with("d/") && !key.starts_with("xd/"));
        assert!(rows.is_empty(), "{place}: {rows:?}");
        let segments = self.segments.all();
        assert!(segments.is_empty(), "{place}: {segments:?}");
    }
}

/// Also where the next process begins with a dump of the records.
#[tokio::test(start_paused = true)]
async fn a_scope_goes_with_what_is_open_and_under_way_whatever_crash_comes_between() {
    for effects in 0.. {
        let mut world = busy().await;
        let fuse = Fuse::after(effects);
        let dying = engine(
            Arc::new(Fused(world.store.clone(), fuse.clone())),
            Arc::new(Fused(world.segments.clone(), fuse.clone())),
            2,
        );
        let outcome = dying.run(&named(ALL), Request::DeleteScope).await;
        if !fuse.is_blown() {
            assert_eq!(outcome, Ok(Answer::Done));
            world.nothing_is_left("at once");
            assert!(effects > 40, "{effects} effects are few");
            break;
        }
        let place = format!("after {effects} effects");
        assert_eq!(world.faults().await, [""; 0], "{place}");
        let dump = store::export(&world.store).await.unwrap();
        world.store = MemoryStore::new();
        store::import(&world.store, &dump).await.unwrap();
        let reborn = world.tasks(3);
        reborn.resume().await.unwrap();
        let again = reborn.run(&named(ALL), Request::DeleteScope).await;
        assert!(
            matches!(again, Ok(Answer::Done | Answer::NoScope)),
            "{place}: {again:?}"
        );
        world.nothing_is_left(&place);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_in_a_scope_that_is_being_deleted() {
    let world = busy().await;
    world.segments.set_away(true);
    let tasks = world.tasks(2);
    // One that has begun is waited for.
    let delete = || tasks.run(&ALL_OF, Request::DeleteScope);
    static ALL_OF: std::sync::LazyLock<ScopedStream> = std::sync::LazyLock::new(|| named(ALL));
    let late = delete().await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
    for (stream, request) in [
        ("new", Request::Create(config("new", 1, &[]))),
        ("_RGnew", Request::CreateGroup(group("new", &[]))),
        ("new_kvtable", Request::CreateTable(table("new"))),
    ] {
        let refused = tasks.run(&named(stream), request).await;
        assert_eq!(refused, Ok(Answer::NoScope), "{stream}");
    }
    world.segments.set_away(false);
    let both = tokio::join!(delete(), delete());
    assert_eq!(both, (Ok(Answer::Done), Ok(Answer::Done)));
    world.nothing_is_left("in the end");
    assert_eq!(tasks.running(), []);
    assert_eq!(delete().await, Ok(Answer::NoScope));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_ends_the_deletion_with_the_reason_and_the_rest_is_gone() {
    let world = busy().await;
    let tasks = world.tasks(2);
    world.segments.refuse(Some("sc/st/"));
    for _ in 0..2 {
        let refused = tasks.run(&named(ALL), Request::DeleteScope).await;
        assert!(
            matches!(&refused, Err(Error::Invalid(reason)) if reason.contains("not liked")),
            "{refused:?}"
        );
        assert_eq!(tasks.running(), []);
        assert_eq!(world.faults().await, [""; 0]);
        let rows = world.store.snapshot();
        let names = rows.keys().filter(|key| key.starts_with("n/"));
        assert_eq!(names.collect::<Vec<_>>(), ["n/sc/st"]);
        let create = Request::Create(config("new", 1, &[]));
        let answer = tasks.run(&named("new"), create).await;
        assert_eq!(answer, Ok(Answer::NoScope));
    }
    world.segments.refuse(None);
    // What was left is taken up before anything new is begun.
    let deleted = tasks.run(&named(ALL), Request::DeleteScope).await;
    assert_eq!(deleted, Ok(Answer::NoScope));
    world.nothing_is_left("in the end");
}

#[tokio::test(start_paused = true)]
async fn what_no_task_can_delete_ends_the_deletion() {
    let world = World::new().await;
    // A name whose creation was lost.
    let name = store::records::Name {
        stream_id: format!("{:032x}", 5),
        visible: false,
    };
    let put = Transaction::new().put("n/sc/st", store::records::encode(&name));
    let put = store::MetaStore::commit(&world.store, put).await;
    assert!(matches!(put, Ok(Outcome::Committed(_))));
    let tasks = world.tasks(1);
    let refused = tasks.run(&named(ALL), Request::DeleteScope).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

/// Tasks that wait for their parts do not take the places that these need.
#[tokio::test(start_paused = true)]
async fn as_many_scopes_as_there_are_places_are_deleted_at_once() {
    let world = World::default();
    let tasks = world.tasks(1);
    let scopes: Vec<String> = (0..=TASKS_MAX).map(|number| format!("s{number}")).collect();
    for scope in &scopes {
        let record = store::records::encode(&store::records::Scope::default());
        let put = Transaction::new().put(format!("s/{scope}"), record);
        let put = store::MetaStore::commit(&world.store, put).await;
        assert!(matches!(put, Ok(Outcome::Committed(_))));
        for stream in ["a", "b"] {
            let name: ScopedStream = format!("{scope}/{stream}").parse().unwrap();
            let create = Request::Create(config(stream, 1, &[]));
            assert_eq!(tasks.run(&name, create).await, Ok(Answer::Done));
        }
    }
    world.segments.set_away(true);
    let all = scopes.iter();
    let all = all.map(|scope| delete_scope::all_of(&ScopeName::new(&**scope).unwrap()));
    let all: Vec<ScopedStream> = all.collect();
    let late = join_all(all.iter().map(|all| tasks.run(all, Request::DeleteScope))).await;
    let waiting = late
        .iter()
        .filter(|late| matches!(late, Err(Error::Unavailable(_))));
    assert_eq!(waiting.count(), TASKS_MAX);
    assert_eq!(late[TASKS_MAX], Err(Error::Overloaded));
    assert_eq!(tasks.running().len(), 2 * TASKS_MAX);
    world.segments.set_away(false);
    while !tasks.running().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let last = tasks.run(&all[TASKS_MAX], Request::DeleteScope).await;
    assert_eq!(last, Ok(Answer::Done));
    world.nothing_is_left("in the end");
}
