//! Random histories, with frames that take their time and crashes at any moment.
//!
//! Every answer is compared with the serial model's at the same place in the order, and after a crash
//! whatever anyone was told, by an answer or by a read, must still be true.

mod answers;
mod end;
mod life;
mod store;

use std::time::Duration;

use sarit_env::Rng;
use sarit_proto::ids::ContainerId;
use sarit_proto::names::is_transient;
use sarit_storage::memory::Faults;
use sarit_wal::LogId;

use self::end::{look, visible};
use self::life::Life;
use self::store::{Store, in_memory, on_disk, on_slate};
use super::model::Model;
use crate::index::snapshot::Snapshot;
use crate::state::{Seeded, State};
use crate::{Container, recovery};

const CONNECTIONS: u64 = 3;
/// Histories of each kind, unless `SARIT_HISTORIES` says how many.
const HISTORIES: u64 = 334;
/// The first ones are long: what comes late is found there.
const LONG: u64 = 20;

fn actions(seed: u64) -> u64 {
    if seed < LONG { 250 } else { 40 }
}
/// Plain segments, tables in both layouts, a transient segment.
const NAMES: [&str; 7] = ["a", "b", "c", "d", "t", "u", TRANSIENT];
const TRANSIENT: &str =
    "a#transient.00000000000000000000000000000001.00000000000000000000000000000002";

/// Lives several lives over one log and returns a number that tells runs apart.
async fn history(seed: u64, store: fn(&Rng) -> Store, flushes: &mut Flushes) -> u64 {
    let rng = Rng::seeded(seed);
    let store = store(&rng);
    let mut model = Model::default();
    let mut digest = 0_u64;
    for _ in 0..3 {
        store.objects.set_faults(Faults::default());
        let mut life = Life::open(rng.split(), &store).await;
        model.0.retain(|name, _| !is_transient(name));
        for (name, segment) in &model.0 {
            let seen = look(&life.container, name).await.expect("can be read");
            assert_eq!(seen, Some(visible(segment)), "{name} after recovery");
        }
        let count = life.container.0.shared.state.read().total;
        assert_eq!(count, model.0.len() as u64, "segments after recovery");
        for _ in 0..actions(seed) {
            life.act(&store).await;
            if rng.chance(0.3) {
                tokio::task::yield_now().await;
            }
        }
        let crash = rng.chance(0.7);
        if crash {
            store.crash(&rng);
            life.collect();
            // Frames in flight fail now; an idle container would not notice.
            for _ in 0..rng.below(10) {
                tokio::task::yield_now().await;
            }
            life.running.take();
            tokio::task::yield_now().await;
        } else {
            life.container.stop().await;
            let ended = life.running.take().expect("runs").await;
            ended.expect("stops in order");
            life.wal.close().await.expect("the disk works");
        }
        life.collect();
        let state = life.container.0.shared.state.read().clone();
        let live = state.next_seq;
        tally(&life.container, flushes);
        // Whoever opens the log next is alone with it, as after a real crash.
        let ended = life.end();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (durable, recovered, last) = durable(&store, &rng, &state).await;
        if durable == live {
            // Nobody, not even the container itself, may have relied on what is not in the log.
            assert_eq!(recovered, last, "the state as of operation {live}");
        }
        digest = digest.rotate_left(7) ^ last ^ durable;
        model = ended.verify(model, durable, !crash);
    }
    digest
}

fn tally(container: &Container, flushes: &mut Flushes) {
    let metrics = &container.0.shared.metrics;
    flushes.flushed += u64::from(metrics.flushed_bytes.get() > 0);
    flushes.compacted += u64::from(metrics.compacted_bytes.get() > 0);
    flushes.deleted += u64::from(metrics.packs_deleted.get() > 0);
    flushes.failed += u64::from(metrics.flush_failures.get() > 0);
    flushes.served += u64::from(metrics.served_packs.get() > 0);
}

/// In how many lives something happened in long-term storage.
#[derive(Debug, Default)]
struct Flushes {
    flushed: u64,
    compacted: u64,
    deleted: u64,
    failed: u64,
    served: u64,
}

/// Returns the number of the operation behind the last one that the log holds, and the digests of the
/// state behind it and of the one that the container had, what was not in memory included.
async fn durable(store: &Store, rng: &Rng, live: &State) -> (u64, u64, u64) {
    let wal = store.wal(rng).await;
    let opened = wal.open_log(LogId(3)).await.expect("opens");
    let index = store.index.open(ContainerId(3)).await.expect("opens");
    let state = recovery::recover(&*index, &opened.log, opened.replay, Seeded(1)).await;
    let state = state.expect("the log is whole");
    let indexed = Snapshot::read(&*index).await.expect("is there");
    index.close().await;
    wal.close().await.expect("the disk works");
    let digest = |state| indexed.clone().with(state).digest();
    (state.next_seq, digest(&state), digest(live))
}

fn run(seed: u64, store: fn(&Rng) -> Store, flushes: &mut Flushes) -> u64 {
    println!("seed {seed}: replay with SARIT_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let history = history(seed, store, flushes);
    runtime.expect("a runtime").block_on(history)
}

fn seeds() -> Vec<u64> {
    match std::env::var("SARIT_SEED") {
        Ok(seed) => vec![seed.parse().expect("SARIT_SEED is a number")],
        Err(_) => {
            let count = std::env::var("SARIT_HISTORIES").ok();
            let count = count.map_or(HISTORIES, |n| {
                n.parse().expect("SARIT_HISTORIES is a number")
            });
            (0..count).collect()
        }
    }
}

#[test]
fn every_answer_is_that_of_a_serial_container_and_outlives_a_crash() {
    let mut flushes = Flushes::default();
    let seeds = seeds();
    for seed in &seeds {
        run(*seed, in_memory, &mut flushes);
    }
    println!("lives with: {flushes:?}");
    if seeds.len() > 10 {
        let Flushes {
            flushed,
            compacted,
            deleted,
            failed,
            served,
        } = flushes;
        let least = [flushed, compacted, deleted, failed, served]
            .into_iter()
            .min();
        assert!(least > Some(10), "{flushes:?}");
    }
}

#[test]
fn every_answer_outlives_a_crash_with_its_index_in_slatedb() {
    for seed in seeds() {
        run(seed, on_slate, &mut Flushes::default());
    }
}

#[test]
fn every_answer_outlives_a_power_cut() {
    for seed in seeds() {
        run(seed, on_disk, &mut Flushes::default());
    }
}

#[test]
fn one_seed_gives_one_history() {
    for store in [in_memory, on_disk] {
        let run = |seed| run(seed, store, &mut Flushes::default());
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
