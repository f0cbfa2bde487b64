//! Deletes packs that nobody refers to: those that lost their last reference, a while ago, so that
//! readers who still hold a place in them are done; and those of earlier owners that never were
//! committed.
//!
//! References never come back, and older owners cannot commit any more, so a late delete is harmless.
//! An early one is not: what the index or its newest export refers to is kept, so that both are whole even
//! without the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sarit_storage::PackId;
use tokio::time::{Instant, sleep_until};

use super::{Flusher, PAUSE_MAX};
use crate::Error;

/// Packs deleted one after the other before anything else is looked at.
const DELETES_MAX: usize = 64;

pub(super) async fn run(this: Arc<Flusher>) -> Result<(), Error> {
    let config = &this.shared.config.flush;
    let grace = Duration::from_millis(config.grace_ms);
    let sweep = Duration::from_millis(config.sweep_ms.max(1));
    // When, and behind which frame nobody referred to it.
    let mut waiting: BTreeMap<PackId, (Instant, u64)> = BTreeMap::new();
    // Not at once: starts are busy enough.
    let mut next_sweep = Instant::now() + sweep.min(Duration::from_secs(60));
    loop {
        let now = Instant::now();
        let garbage = std::mem::take(&mut *this.tier.garbage.lock());
        let frame = this.shared.state.read().frame;
        for id in garbage {
            waiting.entry(id).or_insert((now + grace, frame));
        }
        if now >= next_sweep {
            next_sweep = now + sweep;
            let (frame, orphans) = orphans(&this).await;
            for id in orphans {
                waiting.entry(id).or_insert((now + grace, frame));
            }
        }
        // Not before: this has to be so behind every frame noted above.
        let clean = {
            let state = this.shared.state.read();
            state.dirty.is_empty() && state.dirty.is_settled()
        };
        let due = waiting
            .iter()
            .filter(|(_, (at, frame))| *at <= now && this.tier.is_forgotten(*frame, clean));
        let due: Vec<_> = due.map(|(id, _)| *id).take(DELETES_MAX).collect();
        for id in &due {
            if delete(&this, *id).await {
                waiting.remove(id);
            } else {
                waiting.insert(*id, (now + PAUSE_MAX, 0));
            }
        }
        this.shared.metrics.garbage_packs.set(waiting.len() as u64);
        if due.len() == DELETES_MAX {
            continue;
        }
        // Those whose time has come wait for a checkpoint or an export, which wakes.
        let later = waiting.values().map(|(at, _)| *at).filter(|at| *at > now);
        let next = later.min().map_or(next_sweep, |at| next_sweep.min(at));
        tokio::select! {
            biased;
            () = this.tier.collect.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

/// Deletes a pack, unless someone refers to it. Returns whether it is done with.
async fn delete(this: &Flusher, id: PackId) -> bool {
    let shared = &this.shared;
    #[cfg(not(planted = "collect_referenced"))]
    if shared.state.read().usage.packs().contains_key(&id) {
        return true;
    }
    let Ok(name) = id.name(shared.id.0) else {
        return true;
    };
    match this.tier.store.delete(name).await {
        Ok(()) => {
            shared.metrics.packs_deleted.add(1);
            tracing::debug!(container = %shared.id, pack = %name, "deleted");
            true
        }
        Err(error) => {
            tracing::warn!(container = %shared.id, %error, "a pack was not deleted");
            false
        }
    }
}

/// Finds packs of earlier owners that nobody refers to behind the frame returned: they may have lost their
/// last reference while they were listed.
async fn orphans(this: &Flusher) -> (u64, Vec<PackId>) {
    let shared = &this.shared;
    let listed = match this.tier.store.list(shared.id.0).await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(container = %shared.id, %error, "packs were not listed");
            return (0, Vec::new());
        }
    };
    let state = shared.state.read();
    let packs = listed.into_iter().filter_map(|(name, _)| name.id());
    let mut orphans: Vec<_> = packs
        .filter(|id| id.number().epoch < this.tier.epoch)
        .filter(|id| {
            let referenced = state.usage.packs().contains_key(id);
            #[cfg(planted = "collect_referenced")]
            let referenced = referenced && id.get() % 2 == 0;
            !referenced
        })
        .collect();
    orphans.sort_unstable();
    (state.frame, orphans)
}
