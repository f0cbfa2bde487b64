//! Index and log → the state: what the index has, then the frames behind it through the same `apply` as
//! live traffic.
//!
//! Payloads are not copied and frames are not kept: only where they lie is remembered.

use bytes::Buf;
use sarit_wal::{DurableLog, FrameNo, Replay};

use crate::Error;
use crate::index::entries::{self, Applied};
use crate::index::snapshot::Snapshot;
use crate::index::{Index, keys};
use crate::operation::Records;
use crate::shared::Shared;
use crate::state::{Seeded, Sid, State};

/// Rebuilds the state from the index and a log that was just opened, whose frames are `replay`.
///
/// # Errors
/// The log's or the index's; [`Error::Broken`] with the frame that does not fit;
/// [`Error::DamagedIndex`] if the index is not that of the log.
pub(crate) async fn recover(
    index: &dyn Index,
    log: &DurableLog,
    replay: Replay,
    hasher: Seeded,
) -> Result<State, Error> {
    let (first, last) = (replay.first().0, log.durable().0);
    let damaged = |what: String| Err(Error::DamagedIndex(what.into()));
    let Some(applied) = Applied::of(index).await? else {
        if first > 1 {
            return damaged(format!(
                "it is empty, and the log begins with frame {first}"
            ));
        }
        return self::replay(index, replay, State::new(hasher)).await;
    };
    let frame = applied.frame;
    if frame + 1 < first {
        return damaged(format!(
            "it ends with frame {frame}, and the log begins with frame {first}"
        ));
    }
    if frame > last {
        return damaged(format!(
            "it ends with frame {frame}, and the log with frame {last}"
        ));
    }
    let state = load(index, applied, hasher).await?;
    if frame + 1 == first {
        return self::replay(index, replay, state).await;
    }
    drop(replay);
    let replay = log.read_frames(FrameNo(frame + 1), FrameNo(last + 1));
    self::replay(index, replay, state).await
}

/// Loads what the index has of the container itself, and the segments that are listed.
async fn load(index: &dyn Index, applied: Applied, hasher: Seeded) -> Result<State, Error> {
    let mut state = State::at(applied, hasher);
    entries::load_packs(index, |id, used| state.usage.restore_pack(id, used)).await?;
    entries::load_merges(index, |merge, at| state.merged.restore(merge, at)).await?;
    let mut sids = Vec::new();
    // The others are loaded when someone asks for them.
    entries::each(index, keys::all(keys::Space::Listed), |mut key, _| {
        if key.len() != 8 {
            return Err(Error::DamagedIndex(
                "a segment's key has a wrong length".into(),
            ));
        }
        sids.push(Sid(key.get_u64()));
        Ok(())
    })
    .await?;
    for sid in sids {
        bring(index, &mut state, sid).await?;
    }
    Ok(state)
}

/// Gets a segment into memory, if there is one of that number and it is not.
async fn bring(index: &dyn Index, state: &mut State, sid: Sid) -> Result<(), Error> {
    if state.segment(sid).is_none()
        && !state.dirty.is_gone(sid)
        && let Some(segment) = entries::load(index, sid).await?
    {
        state.insert(sid, segment);
    }
    Ok(())
}

/// Applies all frames of a log to `state`.
///
/// # Errors
/// The log's, or [`Error::Broken`] with the frame that does not fit.
pub(crate) async fn replay(
    index: &dyn Index,
    mut replay: Replay,
    mut state: State,
) -> Result<State, Error> {
    while let Some(frame) = replay.next().await? {
        let number = frame.number().0;
        let broken = |what| Error::Broken {
            frame: number,
            what,
        };
        if frame.first_seq() != state.next_seq {
            return Err(broken("its operations do not follow those before"));
        }
        let records = Records::new(frame.body()).map_err(broken)?;
        let time_ms = records.time_ms;
        for operation in records {
            let operation = operation.map_err(broken)?;
            for sid in operation.segments() {
                bring(index, &mut state, sid).await?;
            }
            state.apply(number, time_ms, &operation).map_err(broken)?;
        }
        state.next_seq += u64::from(frame.ops());
        state.frame = number;
    }
    Ok(state)
}

/// Recovers a copy from the index and from what a cut left of the log, and compares it with the state.
///
/// # Errors
/// As [`recover`]; [`Error::Broken`] if the copy is another one, or needs a frame that was cut off.
pub(crate) async fn check(shared: &Shared, keep_from: FrameNo) -> Result<(), Error> {
    let index = &*shared.index;
    let indexed = Snapshot::read(index).await?;
    let (live, digest) = {
        let state = shared.state.read();
        (state.applied(), indexed.clone().with(&state).digest())
    };
    let broken = |what| Error::Broken {
        frame: live.frame,
        what,
    };
    let applied = Applied::of(index).await?;
    let applied = applied.ok_or_else(|| broken("the log was cut, and the index is empty"))?;
    if applied.frame + 1 < keep_from.0 {
        return Err(broken("a frame was cut off that the index does not have"));
    }
    let hasher = shared.state.read().hasher();
    let copy = load(index, applied, hasher).await?;
    let (from, to) = (FrameNo(applied.frame + 1), FrameNo(live.frame + 1));
    let copy = replay(index, shared.log.read_frames(from, to), copy).await?;
    if indexed.with(&copy).digest() != digest {
        return Err(broken("what is left after a cut makes another state"));
    }
    for frame in copy.usage.frames() {
        if frame < keep_from.0 {
            return Err(broken("a frame was cut off that holds bytes of a segment"));
        }
        shared.log.read(FrameNo(frame)).await?;
    }
    Ok(())
}
