//! Somebody who splits and merges the stream while hosts crash, and looks at it meanwhile.

use std::convert::Infallible;
use std::time::Duration;

use sarit_client::event::Owner;
use sarit_client::{Client, Error};
use sarit_env::Rng;
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::ScopedStream;

use crate::world::{Phase, SharedRef, breach, note};

/// Most segments at a time.
const SEGMENTS_MAX: usize = 6;
/// Longest pause between two changes, in milliseconds.
const PAUSE_MAX_MS: u64 = 800;
/// Longest pause between two looks at a stream that changes, in milliseconds.
const LOOK_MAX_MS: u64 = 20;

/// Changes the stream until the chaos is over. Any call may fail, and be carried out all the same.
pub(crate) async fn scale(shared: SharedRef, client: Client, stream: ScopedStream, rng: Rng) {
    while shared.lock().phase == Phase::Chaos {
        tokio::time::sleep(Duration::from_millis(1 + rng.below(PAUSE_MAX_MS))).await;
        match change(&shared, &client, &stream, &rng).await {
            Ok(text) => {
                shared.lock().report.scaled += 1;
                note(&shared, || text);
            }
            Err(error) => note(&shared, || format!("scale: {error}")),
        }
    }
}

async fn change(
    shared: &SharedRef,
    client: &Client,
    stream: &ScopedStream,
    rng: &Rng,
) -> Result<String, Error> {
    let owners = client.controller().current_segments(stream).await?;
    let (old, new) = choose(&owners, rng);
    let sealed: Vec<SegmentId> = old.iter().map(|owner| owner.segment).collect();
    let scaling = async {
        let scaling = client.controller().scale(stream, &sealed, &new).await?;
        let done = client.controller().wait_scaled(stream, scaling.epoch);
        done.await.map(|()| scaling.epoch + 1)
    };
    let epoch = tokio::select! {
        biased;
        epoch = scaling => epoch?,
        never = watch(shared, client, stream, &sealed, rng) => match never {},
    };
    look(shared, client, stream, &sealed).await?;
    Ok(format!("{sealed:?} replaced in epoch {epoch}"))
}

/// Looks at the stream again and again.
async fn watch(
    shared: &SharedRef,
    client: &Client,
    stream: &ScopedStream,
    old: &[SegmentId],
    rng: &Rng,
) -> Infallible {
    loop {
        tokio::time::sleep(Duration::from_millis(1 + rng.below(LOOK_MAX_MS))).await;
        if let Err(error) = look(shared, client, stream, old).await {
            note(shared, || format!("look: {error}"));
        }
    }
}

/// Looks whether others are named in place of `old`: from then on these take no events, or one of an old
/// writer would come before one that a new writer has got acknowledged.
async fn look(
    shared: &SharedRef,
    client: &Client,
    stream: &ScopedStream,
    old: &[SegmentId],
) -> Result<(), Error> {
    let owners = client.controller().current_segments(stream).await?;
    for segment in old {
        if owners.iter().any(|owner| owner.segment == *segment) {
            continue;
        }
        let name = stream.segment(*segment).to_string();
        if !client.segments().info(&name).await?.sealed {
            breach(shared, format!("{name} was replaced, and takes events"));
        }
    }
    Ok(())
}

/// One segment into two or three, two neighbours into one, or two neighbours into three.
fn choose<'a>(owners: &'a [Owner], rng: &Rng) -> (&'a [Owner], Vec<KeyRange>) {
    let count = owners.len();
    let merge = count > 1 && (count >= SEGMENTS_MAX || rng.chance(0.5));
    let (old, parts) = match merge {
        true => {
            let at = rng.below(count as u64 - 1) as usize;
            (&owners[at..at + 2], if rng.chance(0.3) { 3 } else { 1 })
        }
        false => {
            let at = rng.below(count as u64) as usize;
            (&owners[at..=at], 2 + rng.below(2) as usize)
        }
    };
    let keys = old.iter().map(|owner| owner.keys);
    let keys = keys.reduce(|a, b| a.join(b).expect("neighbours"));
    let keys = keys.expect("a stream has segments until it is sealed");
    let parts = keys.split(parts).expect("far fewer parts than keys");
    (old, parts)
}
