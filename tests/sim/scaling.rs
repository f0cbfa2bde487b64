//! Somebody who splits and merges the stream while hosts crash.

use std::time::Duration;

use sarit_client::event::Owner;
use sarit_client::{Client, Error};
use sarit_env::Rng;
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::ScopedStream;

use crate::world::{Phase, SharedRef, note};

/// Most segments at a time.
const SEGMENTS_MAX: usize = 6;
/// Longest pause between two changes, in milliseconds.
const PAUSE_MAX_MS: u64 = 800;

/// Changes the stream until the chaos is over. Any call may fail, and be carried out all the same.
pub(crate) async fn scale(shared: SharedRef, client: Client, stream: ScopedStream, rng: Rng) {
    while shared.lock().phase == Phase::Chaos {
        tokio::time::sleep(Duration::from_millis(1 + rng.below(PAUSE_MAX_MS))).await;
        match change(&client, &stream, &rng).await {
            Ok(text) => {
                shared.lock().report.scaled += 1;
                note(&shared, || text);
            }
            Err(error) => note(&shared, || format!("scale: {error}")),
        }
    }
}

async fn change(client: &Client, stream: &ScopedStream, rng: &Rng) -> Result<String, Error> {
    let owners = client.controller().current_segments(stream).await?;
    let (old, new) = choose(&owners, rng);
    let sealed: Vec<SegmentId> = old.iter().map(|owner| owner.segment).collect();
    let scaling = client.controller().scale(stream, &sealed, &new).await?;
    client
        .controller()
        .wait_scaled(stream, scaling.epoch)
        .await?;
    Ok(format!(
        "{sealed:?} replaced in epoch {}",
        scaling.epoch + 1
    ))
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
