//! Table segments, in the hash layout and with keys of one length.

use bytes::Bytes;
use sarit_container::{Error, Kind, Page};
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};

use crate::world::World;

const ANY: i64 = TableKey::NO_VERSION;
const ABSENT: i64 = TableKey::NOT_EXISTS;

fn key(key: &str, version: i64) -> TableKey {
    TableKey {
        key: Bytes::copy_from_slice(key.as_bytes()),
        version,
    }
}

fn entry(name: &str, version: i64, value: &str) -> TableEntry {
    TableEntry {
        key: key(name, version),
        value: TableValue(Bytes::copy_from_slice(value.as_bytes())),
    }
}

async fn with_table() -> World {
    let world = World::new().await;
    let kind = Kind::Table { key_length: 0 };
    world.container.create("t", kind, vec![]).await.unwrap();
    world
}

impl World {
    async fn set(&self, entries: &[TableEntry]) -> Result<Vec<i64>, Error> {
        self.container
            .table_update("t", entries.to_vec(), None)
            .await
    }

    async fn remove(&self, keys: &[TableKey]) -> Result<(), Error> {
        self.container.table_remove("t", keys.to_vec(), None).await
    }

    async fn get(&self, name: &str) -> (i64, String) {
        let keys = [Bytes::copy_from_slice(name.as_bytes())];
        let entries = self.container.table_get("t", &keys).await.unwrap();
        let entry = &entries[0];
        assert_eq!(entry.key.key, keys[0]);
        let value = String::from_utf8(entry.value.0.to_vec()).unwrap();
        (entry.key.version, value)
    }
}

#[tokio::test]
async fn versions_grow_by_the_size_of_what_was_written() {
    let world = with_table().await;
    let set = world
        .set(&[entry("k", ANY, "value"), entry("l", ABSENT, "")])
        .await;
    assert_eq!(set.unwrap(), [0, 23]);
    assert_eq!(world.set(&[entry("k", 0, "new")]).await.unwrap(), [41]);
    world.remove(&[key("l", 23)]).await.unwrap();
    let info = world.container.table_info("t").await.unwrap();
    assert_eq!((info.length.0, info.entries), (41 + 21 + 18, 1));
    let world = world.reopen().await;
    assert_eq!(world.get("k").await, (41, "new".into()));
    assert_eq!(world.get("l").await, (ABSENT, String::new()));
    assert_eq!(world.set(&[]).await.unwrap(), [0; 0]);
}

#[tokio::test]
async fn a_batch_is_checked_against_the_table_before_it_and_is_all_or_nothing() {
    let world = with_table().await;
    let twice = [entry("k", ABSENT, "1"), entry("k", ABSENT, "2")];
    assert_eq!(world.set(&twice).await.unwrap(), [0, 19]);
    assert_eq!(world.get("k").await, (19, "2".into()));
    let mixed = [entry("new", ANY, "x"), entry("k", 0, "3")];
    let refused = world.set(&mixed).await;
    assert!(matches!(refused, Err(Error::KeyBadVersion(_))));
    assert_eq!(world.get("new").await.0, ABSENT);
    let refused = world.set(&[entry("none", 5, "x")]).await;
    assert!(matches!(refused, Err(Error::KeyDoesNotExist(_))));
    let refused = world.set(&[entry("k", ABSENT, "x")]).await;
    assert!(matches!(refused, Err(Error::KeyBadVersion(_))));
}

#[tokio::test]
async fn removal_of_absent_keys_succeeds_unless_a_version_is_asked_for() {
    let world = with_table().await;
    world.set(&[entry("k", ANY, "v")]).await.unwrap();
    world
        .remove(&[key("none", ANY), key("none", ABSENT)])
        .await
        .unwrap();
    let refused = world.remove(&[key("k", ABSENT)]).await;
    assert!(matches!(refused, Err(Error::KeyBadVersion(_))));
    let refused = world.remove(&[key("none", 3)]).await;
    assert!(matches!(refused, Err(Error::KeyDoesNotExist(_))));
    let refused = world.remove(&[key("k", 0), key("none", 3)]).await;
    assert!(refused.is_err());
    assert_eq!(world.get("k").await.0, 0);
    world.remove(&[key("k", 0), key("k", 0)]).await.unwrap();
    assert_eq!(world.get("k").await.0, ABSENT);
}

#[tokio::test]
async fn the_length_can_be_a_condition() {
    let world = with_table().await;
    let container = &world.container;
    let set = |length| container.table_update("t", vec![entry("k", ANY, "v")], Some(length));
    assert_eq!(set(0).await.unwrap(), [0]);
    for wrong in [0, -2] {
        let refused = set(wrong).await;
        assert!(matches!(refused, Err(Error::BadOffset { given, .. }) if given == wrong));
    }
    let refused = container
        .table_remove("t", vec![key("k", ANY)], Some(0))
        .await;
    assert!(matches!(refused, Err(Error::BadOffset { .. })));
}

#[tokio::test]
async fn pages_show_every_entry_once_also_while_the_table_changes() {
    let world = with_table().await;
    let names: Vec<_> = (0..100).map(|n| format!("key-{n:03}")).collect();
    let entries: Vec<_> = names.iter().map(|name| entry(name, ANY, "v")).collect();
    world.set(&entries).await.unwrap();
    let mut page = Page {
        count: 7,
        ..Page::default()
    };
    let mut seen = Vec::new();
    loop {
        let (entries, token) = world
            .container
            .table_entries("t", page.clone())
            .await
            .unwrap();
        if entries.is_empty() {
            assert!(token.is_empty());
            break;
        }
        assert!(entries.len() <= 7);
        seen.extend(entries.into_iter().map(|entry| entry.key.key));
        page.token = token;
        let last = std::str::from_utf8(seen.last().unwrap()).unwrap();
        world.remove(&[key(last, ANY)]).await.unwrap();
        world.set(&[entry("key-000-later", ANY, "")]).await.unwrap();
    }
    seen.retain(|key| !key.ends_with(b"later"));
    assert_eq!(seen, names);
    let foreign = Page {
        token: Bytes::from("foreign"),
        ..page.clone()
    };
    let bounds = Page {
        token: Bytes::new(),
        from_key: Bytes::from("a"),
        ..page
    };
    for wrong in [foreign, bounds] {
        let refused = world.container.table_entries("t", wrong).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    }
}

#[tokio::test]
async fn a_delta_holds_what_was_set_since_and_is_still_there() {
    let world = with_table().await;
    let delta = async |from, count| {
        let delta = world.container.table_delta("t", from, count).await.unwrap();
        assert!(!delta.should_clear);
        let keys = delta.entries.iter().map(|entry| entry.key.key.clone());
        let keys: Vec<_> = keys.collect();
        (keys, delta.reached_end, delta.last_position)
    };
    assert_eq!(delta(0, 10).await, (vec![], true, 0));
    let versions = world
        .set(&[
            entry("a", ANY, "1"),
            entry("b", ANY, "2"),
            entry("c", ANY, "3"),
        ])
        .await
        .unwrap();
    assert_eq!(versions, [0, 19, 38]);
    let (a, b, c) = (Bytes::from("a"), Bytes::from("b"), Bytes::from("c"));
    assert_eq!(delta(0, 2).await, (vec![a.clone(), b], false, 38));
    assert_eq!(delta(38, 2).await, (vec![c.clone()], true, 57));
    world.remove(&[key("b", ANY)]).await.unwrap();
    world.set(&[entry("a", ANY, "4")]).await.unwrap();
    assert_eq!(delta(0, 10).await, (vec![c, a], true, 94));
    assert_eq!(delta(94, 10).await, (vec![], true, 0));
    world.remove(&[key("a", ANY)]).await.unwrap();
    assert_eq!(delta(94, 10).await, (vec![], true, 112));
    for outside in [-1, 113] {
        let refused = world.container.table_delta("t", outside, 10).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    }
}

#[tokio::test]
async fn a_table_can_be_deleted_only_if_empty() {
    let world = with_table().await;
    world.stream("s").await;
    world.set(&[entry("k", ANY, "v")]).await.unwrap();
    let container = &world.container;
    let refused = container.delete_table("t", true).await;
    assert!(matches!(refused, Err(Error::TableNotEmpty(_))));
    let refused = container.delete_table("s", false).await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
    let refused = container.delete_table("none", true).await;
    assert!(matches!(refused, Err(Error::NoSuchSegment(_))));
    world.remove(&[key("k", ANY)]).await.unwrap();
    container.delete_table("t", true).await.unwrap();
    assert_eq!(container.stats().table_bytes, 0);
    let kind = Kind::Table { key_length: 0 };
    container.create("t", kind, vec![]).await.unwrap();
    assert_eq!(world.set(&[entry("k", ABSENT, "v")]).await.unwrap(), [0]);
}

#[tokio::test]
async fn what_a_table_cannot_hold_is_refused() {
    let world = with_table().await;
    world.stream("s").await;
    let container = &world.container;
    let long = "k".repeat(8193);
    for wrong in ["", &long] {
        let refused = world.set(&[entry(wrong, ANY, "v")]).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    }
    world.set(&[entry(&long[..8192], ANY, "v")]).await.unwrap();
    let large = "v".repeat(1 << 20);
    world.set(&[entry("large", ANY, &large)]).await.unwrap();
    assert_eq!(world.get("large").await.1, large);
    let fixed = Kind::Table { key_length: 257 };
    let refused = container.create("fixed", fixed, vec![]).await;
    assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    let refused = container
        .table_update("s", vec![entry("k", ANY, "v")], None)
        .await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
    let refused = container.table_get("s", &[]).await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
    let refused = world.connect().append("t", 1, 1, b"x").await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
}

#[tokio::test]
async fn ranges_of_a_table_with_keys_of_one_length_end_where_they_should() {
    let world = World::new().await;
    let kind = Kind::Table { key_length: 2 };
    world.container.create("t", kind, vec![]).await.unwrap();
    let names = ["aa", "ab", "b\0", "ba", "zz"];
    let entries: Vec<_> = names.iter().map(|name| entry(name, ABSENT, "v")).collect();
    world.set(&entries).await.unwrap();
    let range = async |from: &'static str, to: &'static str, count| {
        let page = Page {
            from_key: Bytes::from(from),
            to_key: Bytes::from(to),
            count,
            ..Page::default()
        };
        let page = world.container.table_entries("t", page).await?;
        let keys = page.0.iter().map(|entry| entry.key.key.to_vec());
        Ok::<_, Error>(
            keys.map(|key| String::from_utf8(key).unwrap())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(range("", "", 10).await.unwrap(), names);
    assert_eq!(range("ab", "ba", 10).await.unwrap(), names[1..4]);
    assert_eq!(range("ac", "ac", 10).await.unwrap(), [""; 0]);
    assert_eq!(range("ab", "", 2).await.unwrap(), names[1..3]);
    assert_eq!(range("", "", 0).await.unwrap(), [""; 0]);
    for (from, to) in [("ba", "ab"), ("a", ""), ("", "abc")] {
        let refused = range(from, to, 10).await;
        assert!(
            matches!(refused, Err(Error::InvalidArgument(_))),
            "{from} {to}"
        );
    }
    let token = Page {
        token: Bytes::from_static(b"\x01aa"),
        count: 10,
        ..Page::default()
    };
    let refused = world.container.table_entries("t", token).await;
    assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    let refused = world.container.table_delta("t", 0, 10).await;
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
    // Removing moves nothing, unlike in the other layout.
    let before = world.container.table_info("t").await.unwrap();
    world
        .remove(&[key("aa", ANY), key("ab", ANY)])
        .await
        .unwrap();
    let after = world.container.table_info("t").await.unwrap();
    assert_eq!(
        (before.length, before.entries - 2),
        (after.length, after.entries)
    );
    let refused = world.set(&[entry("aa", 0, "v")]).await;
    assert!(matches!(refused, Err(Error::KeyBadVersion(_))));
}
