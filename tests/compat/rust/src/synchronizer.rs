//! A synchronizer: a map that two instances keep in step by conditional updates.

use anyhow::{Context, Result, ensure};
use pravega_client::sync::Synchronizer;
use pravega_client::sync::synchronizer::{SynchronizerError, Update, deserialize_from};

use crate::world::World;

const MAP: &str = "map";
const INCREMENTS: i64 = 25;

pub(crate) async fn two_instances(world: &World) -> Result<()> {
    let mut left = world.create_synchronizer(&world.client, "shared").await;
    let mut right = world
        .create_synchronizer(&world.another_client(), "shared")
        .await;
    ensure!(
        left.fetch_updates().await? == 0,
        "a new synchronizer has updates"
    );

    left.insert(|update| {
        put(update, "x", 1)?;
        put(update, "counter", 0)
    })
    .await?;
    ensure!(
        value(&left, "x")? == Some(1),
        "the writer does not see its own update"
    );
    ensure!(
        value(&right, "x")?.is_none(),
        "an update arrived without being fetched"
    );
    ensure!(
        right.fetch_updates().await? > 0,
        "nothing to fetch after an insert"
    );
    ensure!(
        value(&right, "x")? == Some(1),
        "the fetched value is another"
    );
    ensure!(
        right.fetch_updates().await? == 0,
        "the same updates were fetched twice"
    );

    // An update from a stale instance is refused by the server, and repeated by the client on the
    // new state.
    right.insert(|update| put(update, "x", 2)).await?;
    let seen = left
        .insert(|update| {
            let seen = read(update, "x");
            put(update, "x", seen * 10)?;
            Ok(seen)
        })
        .await?;
    ensure!(
        seen == 2,
        "the update was made on {seen}, not on the latest value"
    );
    right.fetch_updates().await?;
    ensure!(
        value(&right, "x")? == Some(20),
        "both updates are not there"
    );

    // Two instances count at once: not one increment is lost.
    tokio::try_join!(count(&mut left), count(&mut right))?;
    left.fetch_updates().await?;
    right.fetch_updates().await?;
    for instance in [&left, &right] {
        let counter = value(instance, "counter")?;
        ensure!(
            counter == Some(2 * INCREMENTS),
            "the counter stands at {counter:?}"
        );
    }

    // What is removed is gone for an instance that starts now. One that knew the key keeps it: a
    // limit of the client.
    left.remove(|update| update.insert_tombstone(MAP.into(), "x".into()))
        .await?;
    ensure!(value(&left, "x")?.is_none(), "the removed key is there");
    let mut late = world
        .create_synchronizer(&world.another_client(), "shared")
        .await;
    late.fetch_updates().await?;
    ensure!(
        value(&late, "x")?.is_none(),
        "the removed key reached a new instance"
    );
    ensure!(
        value(&late, "counter")? == Some(2 * INCREMENTS),
        "a new instance lacks the counter"
    );
    Ok(())
}

async fn count(synchronizer: &mut Synchronizer) -> Result<()> {
    for _ in 0..INCREMENTS {
        synchronizer
            .insert(|update| {
                let counter = read(update, "counter");
                put(update, "counter", counter + 1)
            })
            .await
            .context("increment")?;
    }
    Ok(())
}

fn put(update: &mut Update, key: &str, value: i64) -> Result<(), SynchronizerError> {
    update.insert(MAP.into(), key.into(), "i64".into(), Box::new(value));
    Ok(())
}

fn read(update: &Update, key: &str) -> i64 {
    let value = update.get(MAP, key).expect("inserted before");
    deserialize_from(&value.data).expect("an i64 was put there")
}

fn value(synchronizer: &Synchronizer, key: &str) -> Result<Option<i64>> {
    let value = synchronizer.get(MAP, key);
    value
        .map(|value| deserialize_from(&value.data).context("decode a value"))
        .transpose()
}
