//! A stream's end and second life: seal, delete, re-create under the same name; truncate at a cut.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use pravega_client::event::reader_group::{
    ReaderGroupConfigBuilder, StreamCutV1, StreamCutVersioned,
};
use pravega_client_shared::{ScopedSegment, Segment};

use crate::events::{self, Ledger};
use crate::world::{World, configuration};

const KEYS: u32 = 100;
const EVENTS_PER_KEY: u32 = 20;

pub(crate) async fn seal_delete_recreate(world: &World) -> Result<()> {
    let controller = world.controller();
    let stream = world.create_stream("reborn", 4).await?;
    let before = world.head(&stream).await?;
    let ledger = Ledger::new(world.nonce, KEYS, EVENTS_PER_KEY);
    events::write(&world.client, &stream, &ledger).await?;

    // The writer exists before the seal and learns of it from the segment store.
    let mut writer = world.client.create_event_writer(stream.clone());
    let first = writer
        .write_event_by_routing_key("last".into(), vec![7; 10])
        .await;
    first
        .await?
        .context("write the last event before the seal")?;
    ensure!(
        controller.seal_stream(&stream).await?,
        "the seal was refused"
    );
    let late = writer
        .write_event_by_routing_key("late".into(), vec![7; 10])
        .await;
    ensure!(
        !matches!(late.await, Ok(Ok(()))),
        "a sealed stream took an event"
    );
    let open = controller
        .get_current_segments(&stream)
        .await?
        .get_segments();
    ensure!(
        open.is_empty(),
        "a sealed stream has {} open segments",
        open.len()
    );

    // A sealed stream is still read, to its end.
    let group = world.create_group("sealed", &stream).await;
    let mut reader = group.create_reader("reader".into()).await;
    let (mut seen, mut last) = (0, 0);
    while seen < ledger.total() || last < 1 {
        let Some(mut slice) = reader.acquire_segment().await? else {
            continue;
        };
        for event in slice.by_ref() {
            if event.value == [7; 10] {
                last += 1;
            } else {
                ledger.accept(&event.value)?;
                seen += 1;
            }
        }
        reader.release_segment(slice).await?;
    }
    events::ensure_nothing_follows(&mut reader).await?;
    events::leave(reader).await?;

    ensure!(
        controller.delete_stream(&stream).await?,
        "the delete found no stream"
    );
    ensure!(
        !controller.check_stream_exists(&stream).await?,
        "the deleted stream exists"
    );
    ensure!(
        !controller.delete_stream(&stream).await?,
        "the stream was deleted twice"
    );

    ensure!(
        controller
            .create_stream(&configuration(stream.clone(), 4))
            .await?,
        "the name was still taken"
    );
    let after = world.head(&stream).await?;
    ensure!(
        after.len() == 4 && after.values().all(|offset| *offset == 0),
        "reborn at {after:?}"
    );
    ensure!(
        after.keys().all(|segment| !before.contains_key(segment)),
        "segments {before:?} of the deleted stream came back as {after:?}"
    );
    let ledger = Ledger::new(!world.nonce, KEYS, EVENTS_PER_KEY);
    events::write(&world.client, &stream, &ledger).await?;
    let group = world.create_group("reborn-group", &stream).await;
    let reader = group.create_reader("reader".into()).await;
    events::read_all(reader, &ledger).await?;
    Ok(())
}

pub(crate) async fn truncate_at_a_cut(world: &World) -> Result<()> {
    let controller = world.controller();
    let stream = world.create_stream("truncated", 4).await?;
    let dropped = Ledger::new(world.nonce, KEYS, EVENTS_PER_KEY);
    events::write(&world.client, &stream, &dropped).await?;
    let late = world.create_group("created-before", &stream).await;

    // A group that starts at the tail knows the cut between the two halves.
    let mut at_tail = ReaderGroupConfigBuilder::default();
    at_tail.read_from_tail_of_stream(stream.clone());
    let cut = world
        .create_group_with("at-tail", at_tail.build())
        .await
        .get_streamcut()
        .await;
    let cut_offsets: BTreeMap<i64, i64> = cut.segment_offset_map.clone().into_iter().collect();
    ensure!(
        cut_offsets.len() == 4,
        "the cut has {} segments",
        cut_offsets.len()
    );
    ensure!(
        cut_offsets.values().all(|offset| *offset > 0),
        "an empty segment: {cut_offsets:?}"
    );
    let kept = Ledger::new(!world.nonce, KEYS, EVENTS_PER_KEY);
    events::write(&world.client, &stream, &kept).await?;

    // Reading from a cut does not need the truncation.
    let positions = cut_offsets.iter().map(|(segment, offset)| {
        let segment = Segment::from(*segment);
        (
            ScopedSegment::new(stream.scope.clone(), stream.stream.clone(), segment),
            *offset,
        )
    });
    let from_cut = StreamCutVersioned::V1(StreamCutV1::new(stream.clone(), positions.collect()));
    let mut at_cut = ReaderGroupConfigBuilder::default();
    at_cut.read_from_stream(stream.clone(), from_cut);
    let group = world.create_group_with("at-cut", at_cut.build()).await;
    let again = Ledger::new(!world.nonce, KEYS, EVENTS_PER_KEY);
    events::read_all(group.create_reader("reader".into()).await, &again).await?;

    ensure!(
        controller.truncate_stream(&cut).await?,
        "the truncation was refused"
    );
    let head = world.head(&stream).await?;
    ensure!(
        head == cut_offsets,
        "the head is {head:?}, the cut {cut_offsets:?}"
    );
    let group = world.create_group("after", &stream).await;
    events::read_all(group.create_reader("reader".into()).await, &kept).await?;

    // A reader that still stands at the old head gets no byte of what was dropped: the client takes
    // the segments for done.
    let mut reader = late.create_reader("reader".into()).await;
    for _ in 0..head.len() {
        events::ensure_nothing_follows(&mut reader).await?;
    }
    events::leave(reader).await
}
