//! Readers that leave a group, with a word and without.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use pravega_client_shared::Reader;

use crate::events::{self, Ledger};
use crate::world::World;

const KEYS: u32 = 200;
const EVENTS_PER_KEY: u32 = 50;

pub(crate) async fn reader_goes_offline(world: &World) -> Result<()> {
    let stream = world.create_stream("events", 4).await?;
    let ledger = Ledger::new(world.nonce, KEYS, EVENTS_PER_KEY);
    events::write(&world.client, &stream, &ledger).await?;
    let group = world.create_group("group", &stream).await;
    let (mut leaves, mut stays) = tokio::join!(
        group.create_reader("leaves".into()),
        group.create_reader("stays".into())
    );
    ensure!(
        online(group.list_readers().await) == ["leaves", "stays"],
        "both readers are online"
    );
    let read = events::read_until(&mut leaves, &ledger, ledger.total() / 4).await?;
    ensure!(read == ledger.total() / 4, "the first reader read {read}");
    leaves.reader_offline().await.context("go offline")?;
    ensure!(
        online(group.list_readers().await) == ["stays"],
        "one reader is online"
    );
    ensure!(
        leaves.acquire_segment().await.is_err(),
        "an offline reader was served"
    );
    // The other takes the released segments over at its next rebalancing, 10 s after its creation.
    events::read_until(&mut stays, &ledger, ledger.total()).await?;
    events::ensure_nothing_follows(&mut stays).await?;
    // The name may come back.
    let back = group.create_reader("leaves".into()).await;
    ensure!(
        online(group.list_readers().await) == ["leaves", "stays"],
        "the reader is back"
    );
    events::leave(back).await?;
    events::leave(stays).await
}

pub(crate) async fn vanished_reader_is_replaced(world: &World) -> Result<()> {
    let stream = world.create_stream("events", 4).await?;
    let ledger = Ledger::new(world.nonce, KEYS, EVENTS_PER_KEY);
    events::write(&world.client, &stream, &ledger).await?;
    let group = world.create_group("group", &stream).await;
    let mut vanishes = group.create_reader("vanishes".into()).await;
    let mut positions = HashMap::new();
    while ledger.accepted() < ledger.total() / 2 {
        let Some(mut slice) = vanishes.acquire_segment().await? else {
            continue;
        };
        for event in slice.by_ref().take(500) {
            ledger.accept(&event.value)?;
        }
        positions.insert(slice.meta.scoped_segment.clone(), slice.meta.read_offset);
        vanishes.release_segment(slice).await?;
    }
    // Dropping it would take it offline; a process that dies does not.
    std::mem::forget(vanishes);

    let elsewhere = world.another_client();
    let group = elsewhere
        .create_reader_group("group".into(), stream.clone())
        .await;
    ensure!(
        online(group.list_readers().await) == ["vanishes"],
        "the lost reader is still listed"
    );
    group
        .reader_offline("vanishes".into(), Some(positions))
        .await
        .context("declare the lost reader offline")?;
    let heir = group.create_reader("heir".into()).await;
    ensure!(
        online(group.list_readers().await) == ["heir"],
        "the heir is the only reader"
    );
    events::read_all(heir, &ledger).await?;
    Ok(())
}

fn online(readers: Vec<Reader>) -> Vec<String> {
    let mut names: Vec<String> = readers.into_iter().map(|reader| reader.name).collect();
    names.sort();
    names
}
