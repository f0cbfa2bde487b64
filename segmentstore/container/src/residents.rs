//! Which segments are in memory: loads from the index what is asked for, lets go what nobody uses.
//!
//! A segment that the index has as it is, all of whose bytes lie in long-term storage, need not be in
//! memory. Whoever is going to change one loads and pins it first, by name, until that is durable; so
//! the sequencer never meets a name it knows nothing about, and never waits for the index. Readers pin
//! only while they load: the index is read piece by piece, and what is read must not change meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Error;
use crate::index::entries;
use crate::shared::Shared;
use crate::state::{Seeded, Sid};

/// Segments let go with the state locked once.
const BIT: usize = 256;

/// The names that must stay known, and how many want it. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Pins(Arc<Mutex<HashMap<Arc<str>, u32, Seeded>>>);

/// Keeps what is known about a name in memory until dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    name: Arc<str>,
}

impl Pins {
    pub(crate) fn new(hasher: Seeded) -> Self {
        Self(Arc::new(Mutex::new(HashMap::with_hasher(hasher))))
    }

    fn pin(&self, name: &Arc<str>) -> Pin {
        *self.0.lock().entry(name.clone()).or_default() += 1;
        Pin {
            pins: self.clone(),
            name: name.clone(),
        }
    }

    fn is_pinned(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Entry::Occupied(mut pinned) = self.pins.0.lock().entry(self.name.clone()) {
            *pinned.get_mut() -= 1;
            if *pinned.get() == 0 {
                pinned.remove();
            }
        }
    }
}

/// Makes a name known to the state, and keeps it known as long as the pin lives: the segment is then in
/// memory, or the state knows that there is none. Cancel-safe.
///
/// # Errors
/// The index's.
pub(crate) async fn pin(shared: &Shared, name: &Arc<str>) -> Result<Pin, Error> {
    let pin = shared.pins.pin(name);
    if !shared.state.read().knows(name) && !load(shared, name).await? {
        let mut state = shared.state.write();
        if !state.knows(name) {
            let most = shared.config.resident_segments;
            state.note_absent(name.clone(), most, |name| !shared.pins.is_pinned(name));
            shared.metrics.state(&state);
        }
    }
    Ok(pin)
}

/// Loads a segment that the state knows nothing about; whether there is one. It may be let go again at
/// any time, unless it is pinned.
///
/// # Errors
/// The index's.
pub(crate) async fn load(shared: &Shared, name: &str) -> Result<bool, Error> {
    // Whoever changes the segment beside this loads it too. As long as it is pinned it then stays known,
    // so what was read of it before is not put in place below.
    let _pin = shared.pins.pin(&name.into());
    let permit = shared.loads.acquire().await;
    let _permit = permit.map_err(|_| Error::Stopping)?;
    // Someone else may have brought it meanwhile.
    if shared.state.read().knows(name) {
        return Ok(shared.state.read().sid(name).is_some());
    }
    let Some(sid) = entries::find(&*shared.index, name).await? else {
        return Ok(shared.state.read().sid(name).is_some());
    };
    let segment = entries::load(&*shared.index, sid).await?;
    let missing = || Error::DamagedIndex(format!("segment {name} has a name and no record").into());
    let mut state = shared.state.write();
    if !state.knows(name) {
        state.insert(sid, segment.ok_or_else(missing)?);
        shared.metrics.loads.add(1);
        shared.metrics.state(&state);
        shared.checkpoints.resident(state.len(), &shared.config);
    }
    Ok(state.sid(name).is_some())
}

/// As [`pin`], by a segment's number; `None` if it is gone. For records about segments by number.
///
/// # Errors
/// The index's.
pub(crate) async fn pin_number(shared: &Shared, sid: Sid) -> Result<Option<Pin>, Error> {
    let known = |sid| {
        let state = shared.state.read();
        state.segment(sid).map(|segment| segment.name.clone())
    };
    let name = match known(sid) {
        Some(name) => name,
        None => match entries::load(&*shared.index, sid).await? {
            Some(segment) => segment.name,
            None => return Ok(None),
        },
    };
    let pin = pin(shared, &name).await?;
    // It may have gone meanwhile, or be gone for the state and not yet for the index.
    Ok(known(sid).map(|_| pin))
}

/// Lets segments go that nobody uses, down to three quarters of the limit if there are more than that.
/// Goes on behind `hand`, the number of the last one looked at, and returns the new one.
pub(crate) async fn evict(shared: &Shared, hand: Sid) -> Sid {
    let limit = shared.config.resident_segments;
    let (mut surplus, candidates) = {
        let state = shared.state.read();
        let known = state.len() + state.absent_len();
        if known <= limit || !state.dirty.is_settled() {
            return hand;
        }
        let mut candidates: Vec<_> = state.clean().collect();
        candidates.sort_unstable();
        let behind = candidates.partition_point(|sid| *sid <= hand);
        candidates.rotate_left(behind);
        (known - limit * 3 / 4, candidates)
    };
    let mut hand = hand;
    let mut evicted = 0;
    for bit in candidates.chunks(BIT) {
        if surplus == 0 {
            break;
        }
        {
            let mut state = shared.state.write();
            for sid in bit {
                let unused = |name: &str| !shared.pins.is_pinned(name) && !shared.waiters.has(*sid);
                if surplus > 0 && state.let_go(*sid, unused) {
                    surplus -= 1;
                    evicted += 1;
                }
                hand = *sid;
            }
        }
        tokio::task::yield_now().await;
    }
    let mut state = shared.state.write();
    state.forget_absent(|name| !shared.pins.is_pinned(name));
    shared.metrics.evictions.add(evicted);
    shared.metrics.state(&state);
    hand
}
