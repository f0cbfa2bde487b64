//! Tables (hash layout): single keys and batches, conditional and not, and the iterators.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use pravega_client::sync::table::{TableError, Version};

use crate::world::World;

/// Condition of an update: the key must not exist.
const NOT_EXISTS: Version = -1;
/// The table may have any length when an update arrives.
const ANY_OFFSET: i64 = -1;

pub(crate) async fn operations(world: &World) -> Result<()> {
    let table = world.create_table("operations").await;
    let key = |name: &str| name.to_owned();
    let (a, b, c) = (key("a"), key("b"), key("c"));
    ensure!(
        table.get::<String, String>(&a).await?.is_none(),
        "a new table has a key"
    );

    let first = table.insert(&a, &key("one"), ANY_OFFSET).await?;
    ensure!(
        table.get(&a).await? == Some((key("one"), first)),
        "the inserted value is not there"
    );
    let second = table.insert(&a, &key("two"), ANY_OFFSET).await?;
    ensure!(second > first, "version {second} came after {first}");
    ensure!(
        table.get(&a).await? == Some((key("two"), second)),
        "the update is not there"
    );

    // Conditions: the version must match, or the key must be absent.
    let third = table
        .insert_conditionally(&a, &key("three"), second, ANY_OFFSET)
        .await?;
    wrong_version(
        table
            .insert_conditionally(&a, &key("no"), second, ANY_OFFSET)
            .await,
    )?;
    wrong_version(
        table
            .insert_conditionally(&a, &key("no"), NOT_EXISTS, ANY_OFFSET)
            .await,
    )?;
    ensure!(
        table
            .insert_conditionally(&b, &key("no"), third, ANY_OFFSET)
            .await
            .is_err(),
        "a version matched a missing key"
    );
    ensure!(
        table.get(&a).await? == Some((key("three"), third)),
        "a refused update is there"
    );
    let b_first = table
        .insert_conditionally(&b, &key("bee"), NOT_EXISTS, ANY_OFFSET)
        .await?;

    let found = table.get_all::<String, String>(vec![&b, &c, &a]).await?;
    let due = vec![
        Some((key("bee"), b_first)),
        None,
        Some((key("three"), third)),
    ];
    ensure!(found == due, "three keys at once: {found:?}");

    // Removal, conditional and not.
    wrong_version(table.remove_conditionally(&a, second, ANY_OFFSET).await)?;
    table.remove_conditionally(&a, third, ANY_OFFSET).await?;
    ensure!(
        table.get::<String, String>(&a).await?.is_none(),
        "the removed key is there"
    );
    table.remove(&b, ANY_OFFSET).await?;
    table.remove(&c, ANY_OFFSET).await?;
    let again = table
        .insert_conditionally(&a, &key("again"), NOT_EXISTS, ANY_OFFSET)
        .await?;
    ensure!(again > third, "version {again} came after {third}");

    batches(world).await
}

/// A batch is one step: all of its keys or none.
async fn batches(world: &World) -> Result<()> {
    let table = world.create_table("batches").await;
    let keys: Vec<String> = (0..5).map(|number| format!("key-{number}")).collect();
    let values: Vec<i64> = (0..5).collect();
    let pairs = || keys.iter().zip(&values);
    let versions = table.insert_all(pairs().collect(), ANY_OFFSET).await?;
    ensure!(
        versions.len() == 5,
        "5 keys got {} versions",
        versions.len()
    );
    let found = table.get_all::<String, i64>(keys.iter().collect()).await?;
    let due: Vec<_> = values
        .iter()
        .zip(&versions)
        .map(|(value, at)| Some((*value, *at)))
        .collect();
    ensure!(found == due, "a batch reads back as {found:?}");

    let mut conditions = versions.clone();
    conditions[3] = versions[2];
    let batch = |conditions: &[Version]| {
        pairs()
            .zip(conditions)
            .map(|((key, _), at)| (key, &-1_i64, *at))
            .collect::<Vec<_>>()
    };
    wrong_version(
        table
            .insert_conditionally_all(batch(&conditions), ANY_OFFSET)
            .await,
    )?;
    let found = table.get_all::<String, i64>(keys.iter().collect()).await?;
    ensure!(found == due, "a refused batch left {found:?}");
    let newer = table
        .insert_conditionally_all(batch(&versions), ANY_OFFSET)
        .await?;
    ensure!(
        newer.iter().zip(&versions).all(|(new, old)| new > old),
        "{newer:?} after {versions:?}"
    );

    let stale: Vec<(&String, Version)> = keys.iter().zip(versions.iter().copied()).collect();
    wrong_version(table.remove_conditionally_all(stale, ANY_OFFSET).await)?;
    table
        .remove_all(keys[..4].iter().collect(), ANY_OFFSET)
        .await?;
    let found = table.get_all::<String, i64>(keys.iter().collect()).await?;
    let left: Vec<bool> = found.iter().map(Option::is_some).collect();
    ensure!(
        left == [false, false, false, false, true],
        "after the removal: {left:?}"
    );
    Ok(())
}

pub(crate) async fn iterators(world: &World) -> Result<()> {
    const KEYS: i64 = 1_000;
    const BATCH: usize = 100;
    let table = world.create_table("iterators").await;
    let none: Vec<(String, Version)> = table.read_keys_stream(10).try_collect().await?;
    ensure!(none.is_empty(), "a new table has {} keys", none.len());

    let mut due: BTreeMap<String, i64> = (0..KEYS)
        .map(|number| (format!("key-{number:04}"), number * number))
        .collect();
    let all: Vec<(&String, &i64)> = due.iter().collect();
    for batch in all.chunks(BATCH) {
        table.insert_all(batch.to_vec(), ANY_OFFSET).await?;
    }
    let gone: Vec<String> = due.keys().step_by(10).cloned().collect();
    table.remove_all(gone.iter().collect(), ANY_OFFSET).await?;
    due.retain(|key, _| !gone.contains(key));

    for page in [7, 10_000] {
        let keys: Vec<(String, Version)> = table.read_keys_stream(page).try_collect().await?;
        let names: BTreeMap<&String, Version> = keys.iter().map(|(key, at)| (key, *at)).collect();
        ensure!(
            keys.len() == due.len(),
            "{} keys, {} are due",
            keys.len(),
            due.len()
        );
        ensure!(
            names.keys().copied().eq(due.keys()),
            "other keys than were inserted"
        );

        let entries: Vec<(String, i64, Version)> =
            table.read_entries_stream(page).try_collect().await?;
        ensure!(
            entries.len() == due.len(),
            "{} entries, {} are due",
            entries.len(),
            due.len()
        );
        for (key, value, at) in &entries {
            ensure!(due.get(key) == Some(value), "{key} has value {value}");
            ensure!(names.get(key) == Some(at), "{key} has two versions");
        }
    }

    // The change feed, from the beginning: at least every live entry, with its latest value last.
    let feed: Vec<(String, i64, Version, i64)> = table
        .read_entries_stream_from_position(10, 0)
        .try_collect()
        .await?;
    let position = feed.last().map_or(0, |(_, _, _, position)| *position);
    let replayed: BTreeMap<String, i64> = feed
        .into_iter()
        .map(|(key, value, _, _)| (key, value))
        .collect();
    for (key, value) in &due {
        ensure!(replayed.get(key) == Some(value), "the feed lacks {key}");
    }
    table.insert(&"new".to_owned(), &-5_i64, ANY_OFFSET).await?;
    let tail: Vec<(String, i64, Version, i64)> = table
        .read_entries_stream_from_position(10, position)
        .try_collect()
        .await?;
    let tail: Vec<(String, i64)> = tail
        .into_iter()
        .map(|(key, value, ..)| (key, value))
        .collect();
    ensure!(
        tail == [("new".to_owned(), -5)],
        "after the feed's end: {tail:?}"
    );
    Ok(())
}

/// Expects the refusal of a condition that does not hold.
fn wrong_version<T>(result: Result<T, TableError>) -> Result<()> {
    match result {
        Err(TableError::IncorrectKeyVersion { .. }) => Ok(()),
        Err(error) => Err(anyhow::anyhow!(error).context("a wrong version was refused otherwise")),
        Ok(_) => Err(anyhow::anyhow!("a wrong version was accepted")),
    }
}
