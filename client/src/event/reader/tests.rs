use super::*;
use crate::connection::testing::PipeNet;
use crate::event::testing::{self, World, id, read_all, reader_parts};

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut framed = vec![0; 4];
    framed.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
    framed.extend(payload);
    framed
}

fn put(world: &World, segment: i32, payloads: &[&[u8]]) {
    let mut segments = world.segments.lock();
    let segment = segments.get_mut(&id(segment)).expect("it is there");
    for payload in payloads {
        segment.data.extend(framed(payload));
    }
}

fn at(offset: u64) -> SegmentPosition {
    SegmentPosition::At(Offset(offset))
}

type Positions = BTreeMap<SegmentId, SegmentPosition>;

fn positions(pairs: &[(i32, u64)]) -> Positions {
    let pairs = pairs.iter();
    pairs
        .map(|(number, offset)| (id(*number), at(*offset)))
        .collect()
}

async fn reading<T>(
    world: &Arc<World>,
    starts: Positions,
    bounds: Positions,
    client: impl AsyncFnOnce(EventReader) -> T,
) -> T {
    let (net, peers) = PipeNet::new();
    let pool = testing::pool(&net);
    let reader = async {
        let mut parts = reader_parts(world, &pool);
        parts.config.reader.read_bytes_max = 4096;
        let bounds = Bounds::of_epoch(bounds);
        client(EventReader::open(starts, bounds, parts)).await
    };
    tokio::select! {
        result = reader => result,
        () = Arc::clone(world).serve(peers) => unreachable!("it serves for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_put_together_wherever_reads_cut_them() {
    let world = World::new(1, 1);
    let payloads: Vec<Vec<u8>> = (0..200).map(|n| vec![n as u8; n * 50]).collect();
    for payload in &payloads {
        put(&world, 0, &[payload]);
    }
    world.seal_all();
    let read = reading(
        &world,
        positions(&[(0, 0)]),
        Positions::new(),
        async |mut r| read_all(&mut r).await,
    );
    assert_eq!(read.await, payloads);
}

#[tokio::test(start_paused = true)]
async fn reading_from_a_cut_gives_what_comes_next() {
    let world = World::new(2, 1);
    put(&world, 0, &[b"a", b"b"]);
    put(&world, 1, &[b"c"]);
    world.merge(&[id(0), id(1)]);
    put(&world, 2, &[b"d", b"e"]);
    world.seal_all();
    let starts = positions(&[(0, 0), (1, 0)]);
    let cuts = reading(&world, starts, Positions::new(), async |mut reader| {
        let mut cuts = vec![reader.cut()];
        let mut events = Vec::new();
        while let Some(event) = reader.next().await.expect("it can be read") {
            cuts.push(reader.cut());
            events.push(event.payload);
        }
        assert_eq!(events.len(), 5);
        assert_eq!(events[3..], ["d", "e"], "behind both predecessors");
        (cuts, events)
    });
    let (cuts, events) = cuts.await;
    for (index, cut) in cuts.into_iter().enumerate() {
        let rest = reading(
            &world,
            cut.positions,
            Positions::new(),
            async |mut reader| read_all(&mut reader).await,
        );
        let mut rest = rest.await;
        rest.sort();
        assert_eq!(
            rest,
            events[index..]
                .iter()
                .cloned()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_was_read_to_its_end_leads_to_its_successors() {
    let world = World::new(1, 1);
    put(&world, 0, &[b"old"]);
    world.split(id(0));
    put(&world, 1, &[b"new"]);
    world.seal_all();
    let starts = BTreeMap::from([(id(0), SegmentPosition::End)]);
    let read = reading(&world, starts, Positions::new(), async |mut reader| {
        read_all(&mut reader).await
    });
    assert_eq!(read.await, ["new"]);
}

#[tokio::test(start_paused = true)]
async fn a_bounded_reader_stops_there_without_waiting() {
    let world = World::new(2, 1);
    put(&world, 0, &[b"a", b"b", b"c"]);
    let bounds = positions(&[(0, 18), (1, 0)]);
    let read = reading(
        &world,
        positions(&[(0, 0), (1, 0)]),
        bounds,
        async |mut reader| {
            let events = read_all(&mut reader).await;
            (events, reader.cut().positions)
        },
    );
    let (events, cut) = read.await;
    assert_eq!(events, ["a", "b"]);
    assert_eq!(cut, positions(&[(0, 18), (1, 0)]));
}

#[tokio::test(start_paused = true)]
async fn a_following_reader_gets_what_is_written_later() {
    let world = World::new(1, 1);
    let (net, peers) = PipeNet::new();
    let pool = testing::pool(&net);
    let client = async {
        let parts = reader_parts(&world, &pool);
        let mut reader = EventReader::open(positions(&[(0, 0)]), Bounds::default(), parts);
        let (writer, _stop) = testing::writer(&world, &pool, Config::default());
        for number in 0..20 {
            let write = async {
                if number % 5 == 4 {
                    world.split(world.owners()[0].segment);
                }
                writer.write("k", number.to_string()).await?.await
            };
            let (written, read) = tokio::join!(write, reader.next());
            written.expect("durable");
            let read = read.expect("it can be read").expect("there is no end");
            assert_eq!(read.payload, number.to_string());
        }
    };
    tokio::select! {
        () = client => {}
        () = Arc::clone(&world).serve(peers) => unreachable!("it serves for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn truncation_under_the_reader_is_told_once_and_read_over() {
    let world = World::new(1, 1);
    put(&world, 0, &[b"a", b"b", b"c"]);
    world
        .segments
        .lock()
        .get_mut(&id(0))
        .expect("it is there")
        .start = 18;
    world.seal_all();
    let read = reading(
        &world,
        positions(&[(0, 0)]),
        Positions::new(),
        async |mut reader| {
            let gap = reader.next().await;
            (gap, read_all(&mut reader).await)
        },
    );
    let (gap, rest) = read.await;
    let told = matches!(
        gap,
        Err(Error::SegmentTruncated {
            given: 0,
            start: 18,
            ..
        })
    );
    assert!(told, "{gap:?}");
    assert_eq!(rest, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_segment_deleted_under_the_reader_is_told_once_and_read_over() {
    let world = World::new(1, 1);
    put(&world, 0, &[b"a"]);
    world.split(id(0));
    put(&world, 1, &[b"b"]);
    put(&world, 2, &[b"c"]);
    world.delete(id(0));
    world.seal_all();
    let read = reading(
        &world,
        positions(&[(0, 9)]),
        Positions::new(),
        async |mut reader| {
            let gone = reader.next().await;
            (gone, read_all(&mut reader).await)
        },
    );
    let (gone, mut rest) = read.await;
    assert!(
        matches!(gone, Err(Error::SegmentGone { offset: 9, .. })),
        "{gone:?}"
    );
    rest.sort();
    assert_eq!(rest, ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_misses_keys_is_an_error_and_not_the_end() {
    let world = World::new(2, 1);
    put(&world, 0, &[b"a"]);
    world.merge(&[id(0), id(1)]);
    put(&world, 2, &[b"b"]);
    world.seal_all();
    let read = reading(
        &world,
        positions(&[(0, 0)]),
        Positions::new(),
        async |mut reader| {
            let event = reader.next().await.expect("it can be read");
            (event.map(|event| event.payload), reader.next().await)
        },
    );
    let (event, end) = read.await;
    assert_eq!(event, Some(Bytes::from_static(b"a")));
    assert!(
        matches!(&end, Err(Error::CutIncomplete(name)) if name.ends_with("2.#epoch.0")),
        "{end:?}"
    );
}

#[test]
fn nothing_behind_the_end_is_read() {
    let ids = |ids: &[(i32, i32)]| -> BTreeSet<SegmentId> {
        let ids = ids.iter();
        ids.map(|(epoch, number)| SegmentId::new(*epoch, *number))
            .collect()
    };
    let cut: Positions = ids(&[(0, 1), (2, 4)])
        .into_iter()
        .map(|id| (id, at(10)))
        .collect();
    let all = ids(&[(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (3, 5)]);
    let excluded = |bounds: Bounds| -> BTreeSet<SegmentId> {
        let all = all.iter().copied();
        all.filter(|segment| bounds.excludes(*segment)).collect()
    };
    assert_eq!(excluded(Bounds::default()), ids(&[]), "there is no end");
    assert_eq!(excluded(Bounds::of_epoch(cut.clone())), ids(&[(3, 5)]));
    let before = ids(&[(0, 0), (1, 2)]);
    assert_eq!(
        excluded(Bounds::at_cut(cut, before)),
        ids(&[(1, 3), (3, 5)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_begins_behind_its_end_ends_at_once() {
    let world = World::new(1, 1);
    put(&world, 0, &[b"a"]);
    world.split(id(0));
    put(&world, 1, &[b"b"]);
    let (net, peers) = PipeNet::new();
    let pool = testing::pool(&net);
    let client = async {
        let bounds = Bounds::at_cut(positions(&[(0, 9)]), BTreeSet::new());
        let parts = reader_parts(&world, &pool);
        let mut reader = EventReader::open(positions(&[(1, 0), (2, 0)]), bounds, parts);
        assert_eq!(reader.next().await.expect("it can be read"), None);
    };
    tokio::select! {
        () = client => {}
        () = Arc::clone(&world).serve(peers) => unreachable!("it serves for ever"),
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_event_are_an_error_and_not_the_end_of_the_others() {
    let world = World::new(2, 1);
    put(&world, 0, &[b"a"]);
    {
        let mut segments = world.segments.lock();
        let segment = segments.get_mut(&id(0)).expect("it is there");
        segment.data.extend(b"\xff\xff\xff\xff garbage");
    }
    put(&world, 1, &[b"b"]);
    world.seal_all();
    let read = reading(
        &world,
        positions(&[(0, 0), (1, 0)]),
        Positions::new(),
        async |mut reader| {
            let mut events = Vec::new();
            let mut errors = Vec::new();
            loop {
                match reader.next().await {
                    Ok(Some(event)) => events.push(event.payload),
                    Ok(None) => return (events, errors),
                    Err(error) => errors.push(error),
                }
            }
        },
    );
    let (mut events, errors) = read.await;
    events.sort();
    assert_eq!(events, ["a", "b"]);
    assert!(
        matches!(errors[..], [Error::NotAnEvent { offset: 9, .. }]),
        "{errors:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_ends_inside_an_event_is_an_error() {
    let world = World::new(1, 1);
    {
        let mut segments = world.segments.lock();
        let segment = segments.get_mut(&id(0)).expect("it is there");
        segment.data.extend(b"\0\0\0\0\0\0\0\x09half");
    }
    world.seal_all();
    let read = reading(
        &world,
        positions(&[(0, 0)]),
        Positions::new(),
        async |mut reader| (reader.next().await, reader.next().await),
    );
    let (piece, end) = read.await;
    assert!(
        matches!(piece, Err(Error::NotAnEvent { offset: 0, .. })),
        "{piece:?}"
    );
    assert_eq!(end.expect("that was all"), None);
}
