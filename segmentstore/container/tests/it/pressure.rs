//! Limits: credit, the inbox, a log without room, events larger than anything else.

use std::time::Duration;

use bytes::Bytes;
use sarit_container::{AppendOp, Config, Done, Error, Kind, MemoryBudget, Offset};
use sarit_proto::wire::field::{TableEntry, TableKey, TableValue};
use sarit_wal::memory::MemoryFaults;
use tokio::time::timeout;

use crate::world::{World, append, append_bytes};

const MOMENT: Duration = Duration::from_millis(100);

fn full() -> MemoryFaults {
    MemoryFaults {
        full: Some("the quota is used up".into()),
        ..MemoryFaults::default()
    }
}

#[tokio::test(start_paused = true)]
async fn credit_is_given_in_order_and_given_back() {
    let budget = MemoryBudget::default();
    let connection = budget.connection();
    let most = connection.reserve(8_000_000).await;
    assert_eq!(budget.usage().operations, 8_000_000);
    let more = timeout(MOMENT, connection.reserve(500_000)).await;
    assert!(more.is_err(), "the credit is 8 MiB");
    assert_eq!(budget.usage().operations, 8_000_000);
    // Another connection has its own.
    drop(budget.connection().reserve(8_000_000).await);
    drop(most);
    drop(timeout(MOMENT, connection.reserve(500_000)).await.unwrap());
    assert_eq!(budget.usage().operations, 0);
    assert_eq!(budget.usage().credit_waits, 1);
}

#[tokio::test(start_paused = true)]
async fn an_operation_larger_than_all_credit_gets_through_alone() {
    let budget = MemoryBudget::new(16 << 20);
    let (one, two) = (budget.connection(), budget.connection());
    let small = two.reserve(1).await;
    assert!(timeout(MOMENT, one.reserve(16 << 20)).await.is_err());
    drop(small);
    let large = timeout(MOMENT, one.reserve(16 << 20)).await.unwrap();
    assert!(timeout(MOMENT, two.reserve(1)).await.is_err());
    drop(large);
    timeout(MOMENT, two.reserve(1)).await.unwrap();
}

#[tokio::test]
async fn appends_hold_their_credit_until_they_are_durable() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    world.memory.set_faults(full());
    let credit = world.budget.connection();
    let AppendOp::Append {
        segment,
        writer: id,
        data,
        ..
    } = append("s", 1, 1, b"abc")
    else {
        unreachable!("an append");
    };
    let permit = credit.reserve(1000).await;
    let operation = AppendOp::Append {
        segment,
        writer: id,
        token: 1,
        last_event_number: 1,
        event_count: 1,
        expected_offset: None,
        data,
        permit,
    };
    writer.submit(vec![operation]).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.budget.usage().operations, 1000);
    world.memory.set_faults(MemoryFaults::default());
    writer.outcome().await.result.unwrap();
    assert_eq!(world.budget.usage().operations, 0);
}

#[tokio::test(start_paused = true)]
async fn without_room_appends_wait_in_order_and_what_makes_room_goes_on() {
    let config = Config {
        inbox: 4,
        ..Config::default()
    };
    let world = World::with(config, MemoryBudget::default()).await;
    for name in ["s", "old", "older"] {
        world.stream(name).await;
    }
    let kind = Kind::Table { key_length: 0 };
    world.container.create("t", kind, vec![]).await.unwrap();
    let mut writer = world.connect();
    writer.append("s", 1, 1, b"1").await.unwrap();
    world.memory.set_faults(full());
    let mut accepted = 1;
    while accepted < 1000 {
        let operations = vec![append("s", 1, accepted + 1, b"x")];
        let submit = timeout(MOMENT, writer.appender.submit(operations)).await;
        let Ok(submitted) = submit else { break };
        submitted.unwrap();
        accepted += 1;
    }
    assert!(accepted < 1000, "the inbox is bounded");
    assert!(timeout(MOMENT, writer.outcome()).await.is_err());
    world.container.truncate("s", Offset(1)).await.unwrap();
    world.container.seal("old").await.unwrap();
    world.container.delete("older").await.unwrap();
    let policy = world.container.update_policy("s", 1, 1);
    let policy = timeout(MOMENT, policy).await;
    assert!(policy.is_err(), "clients could do it without end");
    let entry = TableEntry {
        key: TableKey {
            key: "k".into(),
            version: TableKey::NO_VERSION,
        },
        value: TableValue("v".into()),
    };
    let update = world.container.table_update("t", vec![entry], None);
    let update = timeout(MOMENT, update).await;
    assert!(update.is_err(), "new entries fill the log further");
    world.container.delete("t").await.unwrap();
    let info = world.container.info("s").await.unwrap();
    assert_eq!(info.start, Offset(1));
    world.memory.set_faults(MemoryFaults::default());
    for length in 2..=accepted {
        let done = writer.outcome().await.result.unwrap();
        let length = Offset(length as u64);
        assert_eq!(done, Done::Appended { length });
    }
    assert_eq!(
        writer.append("s", 1, 5000, b"y").await.unwrap(),
        accepted as u64 + 1
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_room_refuses_what_waits() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    world.memory.set_faults(full());
    for number in 1..=5 {
        writer.submit(vec![append("s", 1, number, b"x")]).await;
    }
    tokio::time::sleep(MOMENT).await;
    let stopped = timeout(MOMENT, world.container.stop()).await;
    assert!(stopped.is_ok(), "does not wait for room");
    for _ in 1..=5 {
        let refused = writer.outcome().await.result.unwrap_err();
        assert!(
            matches!(refused, Error::Stopping | Error::OutcomeUnknown),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn events_as_large_as_the_wire_allows_are_stored_whole() {
    let world = World::new().await;
    world.stream("s").await;
    let mut writer = world.connect();
    let sizes = [8_388_608 + 8, (16 << 20) - 1, 3];
    let event = |size, fill| Bytes::from(vec![fill; size]);
    let batch = sizes.iter().zip(1_u8..);
    let batch = batch.map(|(size, n)| append_bytes("s", 1, n.into(), event(*size, n)));
    writer.submit(batch.collect()).await;
    for _ in sizes {
        writer.outcome().await.result.unwrap();
    }
    let mut offset = 0;
    for (size, fill) in sizes.into_iter().zip(1..) {
        let end = offset + size as u64;
        while offset < end {
            let wanted = (end - offset).min(1 << 20);
            let mut bytes = world.read("s", offset).await.unwrap();
            bytes.truncate(wanted as usize);
            assert!(bytes.iter().all(|byte| *byte == fill));
            offset += bytes.len() as u64;
        }
    }
}

#[tokio::test]
async fn what_fits_no_frame_is_refused() {
    let world = World::new().await;
    world.stream("s").await;
    let kind = Kind::Table { key_length: 0 };
    world.container.create("t", kind, vec![]).await.unwrap();
    let mut writer = world.connect();
    let huge = Bytes::from(vec![0; 17 << 20]);
    writer
        .submit(vec![append_bytes("s", 1, 1, huge.clone())])
        .await;
    let refused = writer.outcome().await.result;
    assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    let entry = |key: u8, value: Bytes| TableEntry {
        key: TableKey {
            key: vec![key].into(),
            version: TableKey::NO_VERSION,
        },
        value: TableValue(value),
    };
    let half = huge.slice(..9 << 20);
    for entries in [
        vec![entry(1, huge)],
        vec![entry(1, half.clone()), entry(2, half.clone())],
    ] {
        let refused = world.container.table_update("t", entries, None).await;
        assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    }
    // Several that fit one each, at once.
    let set = |key| {
        world
            .container
            .table_update("t", vec![entry(key, half.clone())], None)
    };
    let (one, two, three) = tokio::join!(set(1), set(2), set(3));
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(writer.append("s", 1, 1, b"x").await.unwrap(), 1);
}

#[tokio::test]
async fn outcomes_of_a_frame_come_in_one_message_per_connection_and_in_order() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.stream(name).await;
    }
    let mut connections = [world.connect(), world.connect()];
    world.memory.set_faults(MemoryFaults {
        latency: Duration::from_millis(5),
        ..MemoryFaults::default()
    });
    for number in 1..=100 {
        for connection in &connections {
            let id = std::ptr::from_ref(connection) as u128;
            let operations = vec![append("a", id, number, b"a"), append("b", id, number, b"b")];
            connection.submit(operations).await;
        }
    }
    for connection in &mut connections {
        let mut messages = 0;
        let mut tokens = Vec::new();
        while tokens.len() < 200 {
            let outcomes = connection.outcomes.recv().await.unwrap();
            messages += 1;
            tokens.extend(outcomes.list.into_iter().map(|outcome| {
                outcome.result.unwrap();
                outcome.token
            }));
        }
        assert!(tokens.is_sorted());
        assert!(messages < 50, "{messages} messages");
    }
}
