use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use sarit_proto::ids::Offset;
use sarit_proto::stream_cut::SegmentPosition;

use super::*;
use crate::connection::testing::PipeNet;
use crate::event::EventReader;
use crate::event::reader::Bounds;
use crate::event::testing::{self, Faults, World, id, read_all, reader_parts};

/// Runs `client` beside a store that serves `world`.
async fn beside<T>(world: &Arc<World>, client: impl AsyncFnOnce(Arc<PipeNet>, Pool) -> T) -> T {
    let (net, peers) = PipeNet::new();
    let pool = testing::pool(&net);
    tokio::select! {
        result = client(net, pool) => result,
        () = Arc::clone(world).serve(peers) => unreachable!("it serves for ever"),
    }
}

/// Checks that every key's events are there once and in order.
fn check(events: &[Bytes], keys: usize, per_key: usize) {
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        let text = std::str::from_utf8(event).expect("our text");
        let (key, number) = text.split_once(' ').expect("our form");
        let expected = next.entry(key.to_owned()).or_insert(0);
        assert_eq!(number.parse(), Ok(*expected), "the next event of key {key}");
        *expected += 1;
    }
    assert_eq!(next.len(), keys);
    for (key, count) in next {
        assert_eq!(count, per_key, "events of key {key}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_is_stored_once_and_in_order_whatever_is_lost_split_or_merged() {
    const KEYS: usize = 20;
    const PER_KEY: usize = 40;
    for seed in 0..60 {
        let world = World::new(2, seed);
        *world.faults.lock() = Faults {
            lose_append: 0.1,
            lose_ack: 0.1,
            split: 0.1,
            merge: 0.1,
            segments_max: 30,
            slow: None,
        };
        let events = beside(&world, async |_net, pool| {
            let mut config = Config::default();
            config.writer.batch_events_max = 7;
            let (writer, _stop) = testing::writer(&world, &pool, config);
            let mut acks = Vec::new();
            for number in 0..PER_KEY {
                for key in 0..KEYS {
                    let event = format!("{key} {number}");
                    let ack = writer.write(&key.to_string(), event).await;
                    acks.push(ack.expect("accepted"));
                }
                // Gives the store its turn, so that acknowledgements and faults mix with writing.
                tokio::task::yield_now().await;
            }
            writer.flush().await.expect("all are durable");
            for ack in acks {
                ack.await.expect("durable");
            }
            world.seal_all();
            let starts = [0, 1].map(|number| (id(number), SegmentPosition::At(Offset(0))));
            let starts = starts.into_iter().collect();
            let parts = reader_parts(&world, &pool);
            read_all(&mut EventReader::open(starts, Bounds::default(), parts)).await
        })
        .await;
        println!("seed {seed}");
        check(&events, KEYS, PER_KEY);
    }
}

#[tokio::test(start_paused = true)]
async fn a_merge_keeps_the_order_of_every_key() {
    let world = World::new(2, 1);
    let events = beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        for number in 0..30 {
            if number == 10 {
                writer.flush().await.expect("durable");
                world.merge(&[id(0), id(1)]);
            }
            for key in 0..10 {
                let event = format!("{key} {number}");
                drop(
                    writer
                        .write(&key.to_string(), event)
                        .await
                        .expect("accepted"),
                );
            }
        }
        writer.flush().await.expect("durable");
        world.seal_all();
        let starts = [0, 1].map(|number| (id(number), SegmentPosition::At(Offset(0))));
        let parts = reader_parts(&world, &pool);
        let starts = starts.into_iter().collect();
        read_all(&mut EventReader::open(starts, Bounds::default(), parts)).await
    })
    .await;
    check(&events, 10, 30);
}

#[tokio::test(start_paused = true)]
async fn a_sealed_stream_fails_the_writer_and_all_that_waits() {
    let world = World::new(1, 1);
    beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        writer
            .write("k", "1")
            .await
            .expect("accepted")
            .await
            .expect("durable");
        world.seal_all();
        let ack = writer.write("k", "2").await.expect("accepted");
        let error = ack.await.expect_err("nobody takes it");
        assert!(
            matches!(&error, Error::StreamSealed(name) if name == "scope/stream"),
            "{error}"
        );
        assert!(matches!(
            writer.write("k", "3").await,
            Err(Error::StreamSealed(_))
        ));
        assert!(matches!(writer.flush().await, Err(Error::StreamSealed(_))));
    })
    .await;
    let stored = &world.segments.lock()[&id(0)].data;
    assert_eq!(
        &stored[..],
        b"\0\0\0\0\0\0\0\x011",
        "only what was acknowledged"
    );
}

/// Keys that two equal segments own.
fn key_of(segment: i32) -> String {
    let mut keys = (0..).map(|number: u32| number.to_string());
    let upper = KeyPosition::from_f64(0.5).expect("a position");
    keys.find(|key| (key_position(key) >= upper) == (segment == 1))
        .expect("half of them")
}

#[tokio::test(start_paused = true)]
async fn what_other_segments_took_is_acknowledged_before_a_sealed_stream_ends_the_writer() {
    let world = World::new(2, 1);
    world.faults.lock().slow = Some(id(1));
    beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        world.seal(id(0));
        let taken = writer.write(&key_of(1), "1").await.expect("accepted");
        let refused = writer.write(&key_of(0), "0").await.expect("accepted");
        assert!(matches!(refused.await, Err(Error::StreamSealed(_))));
        assert!(
            matches!(writer.write("k", "2").await, Err(Error::StreamSealed(_))),
            "it takes no more"
        );
        taken.await.expect("segment 1 was still open and took it");
        assert!(matches!(writer.flush().await, Err(Error::StreamSealed(_))));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_to_a_segment_that_is_deleted_is_in_doubt_and_not_sent_again() {
    let world = World::new(1, 1);
    world.faults.lock().slow = Some(id(0));
    beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        let ack = writer.write("k", "1").await.expect("accepted");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!(world.segments.lock()[&id(0)].data.len(), 9, "it is stored");
        world.split(id(0));
        world.delete(id(0));
        world.restart();
        let error = ack.await.expect_err("who knows");
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
        let failure = writer.flush().await.expect_err("the writer has failed");
        assert!(
            matches!(failure, Error::EventsInDoubt { events: 1, .. }),
            "{failure}"
        );
    })
    .await;
    let stored: usize = world.segments.lock().values().map(|s| s.data.len()).sum();
    assert_eq!(stored, 0, "nothing was written a second time");
}

#[tokio::test(start_paused = true)]
async fn events_go_on_to_the_successors_of_a_segment_that_was_deleted_meanwhile() {
    let world = World::new(1, 1);
    beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        world.split(id(0));
        world.delete(id(0));
        let ack = writer.write("k", "1").await.expect("accepted");
        ack.await.expect("durable");
    })
    .await;
    let stored: usize = world.segments.lock().values().map(|s| s.data.len()).sum();
    assert_eq!(stored, 9);
}

#[tokio::test(start_paused = true)]
async fn a_store_out_of_reach_fails_the_writer_at_the_deadline() {
    let world = World::new(1, 1);
    beside(&world, async |net, pool| {
        net.refuse(u32::MAX);
        let mut config = Config::default();
        config.retry.deadline_ms = 5_000;
        let (writer, _stop) = testing::writer(&world, &pool, config);
        let start = tokio::time::Instant::now();
        let ack = writer.write("k", "1").await.expect("accepted");
        let error = ack.await.expect_err("it was never sent");
        assert!(matches!(error, Error::Connect { .. }), "{error}");
        assert!(start.elapsed().as_secs() <= 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_writer_outlives_restarts_that_lie_apart() {
    let world = World::new(1, 1);
    beside(&world, async |_net, pool| {
        let mut config = Config::default();
        config.retry.deadline_ms = 5_000;
        let (writer, _stop) = testing::writer(&world, &pool, config);
        let ack = writer.write("k", "0").await.expect("accepted");
        ack.await.expect("durable");
        for _ in 0..5 {
            world.restart();
            // The time passes at once; it is what the deadline is measured by.
            tokio::time::sleep(std::time::Duration::from_secs(3_600)).await;
        }
        let ack = writer.write("k", "1").await.expect("accepted");
        ack.await.expect("durable");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn writers_wait_while_too_much_is_under_way() {
    let world = World::new(1, 1);
    beside(&world, async |net, pool| {
        net.refuse(5);
        let mut config = Config::default();
        config.writer.memory_bytes_max = 64 << 10;
        let (writer, _stop) = testing::writer(&world, &pool, config);
        let big = || Bytes::from(vec![0; 40 << 10]);
        let first = writer.write("k", big()).await.expect("accepted");
        let second = writer.write("k", big());
        tokio::pin!(second);
        assert!((&mut second).now_or_never().is_none(), "there is no room");
        let second = second.await.expect("accepted once the first is durable");
        assert!(matches!(first.now_or_never(), Some(Ok(()))), "it made room");
        second.await.expect("durable");
        let larger_than_all = Bytes::from(vec![0; 1 << 20]);
        let ack = writer
            .write("k", larger_than_all)
            .await
            .expect("one event always fits");
        ack.await.expect("durable");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_large_is_refused_at_once() {
    let world = World::new(1, 1);
    beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        let refused = writer.write("k", vec![0; EVENT_MAX + 1]).await;
        assert!(matches!(refused, Err(Error::EventTooLarge { .. })));
        let fits = writer
            .write("k", vec![0; EVENT_MAX])
            .await
            .expect("accepted");
        fits.await.expect("durable");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_written_after_the_writer_is_dropped() {
    let world = World::new(1, 1);
    beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        let ack = writer.write_without_key("1").await.expect("accepted");
        drop(writer);
        ack.await.expect("durable");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_client_fails_what_waits() {
    let world = World::new(1, 1);
    beside(&world, async |net, pool| {
        net.refuse(u32::MAX);
        let (writer, stop) = testing::writer(&world, &pool, Config::default());
        let ack = writer.write("k", "1").await.expect("accepted");
        stop.cancel();
        assert!(matches!(ack.await, Err(Error::Closed)));
        assert!(matches!(writer.write("k", "2").await, Err(Error::Closed)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_event_is_counted_once_whatever_is_lost() {
    let values = crate::metrics::testing::Values::default();
    let _recorder = metrics::set_default_local_recorder(&values);
    let world = World::new(2, 3);
    *world.faults.lock() = Faults {
        lose_append: 0.1,
        lose_ack: 0.1,
        split: 0.1,
        segments_max: 6,
        ..Faults::default()
    };
    beside(&world, async |_net, pool| {
        let mut config = Config::default();
        config.writer.batch_events_max = 7;
        let (writer, _stop) = testing::writer(&world, &pool, config);
        for number in 0..500 {
            let written = writer.write(&(number % 10).to_string(), "event").await;
            drop(written.expect("accepted"));
            if number % 20 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(values.get("client_bytes_in_flight") > 0);
        writer.flush().await.expect("durable");
    })
    .await;
    assert_eq!(values.get("client_events_written_total"), 500);
    assert_eq!(values.get("client_events_acknowledged_total"), 500);
    assert_eq!(values.get("client_events_failed_total"), 0);
    assert_eq!(values.get("client_bytes_in_flight"), 0);
    assert!(values.get("client_reconnects_total") > 0);
    assert!(values.get("client_appends_total") >= 500 / 7);
    assert!(values.get("client_append_bytes_total") >= 500 * 13);
    assert!(values.get("client_connections_total") > 0);
}

#[tokio::test(start_paused = true)]
async fn events_of_a_writer_that_fails_are_counted_as_failed() {
    let values = crate::metrics::testing::Values::default();
    let _recorder = metrics::set_default_local_recorder(&values);
    let world = World::new(1, 1);
    beside(&world, async |_net, pool| {
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        writer
            .write("k", "1")
            .await
            .expect("accepted")
            .await
            .expect("durable");
        world.seal_all();
        let late = writer.write("k", "2").await.expect("accepted");
        late.await.expect_err("the stream is sealed");
    })
    .await;
    assert_eq!(values.get("client_events_acknowledged_total"), 1);
    assert_eq!(values.get("client_events_failed_total"), 1);
    assert_eq!(values.get("client_bytes_in_flight"), 0);
}
