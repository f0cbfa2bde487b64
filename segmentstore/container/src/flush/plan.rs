//! What goes into which pack (pure).
//!
//! A segment with much data in the log gets packs of its own, so that it can be read in large pieces;
//! all others share. Shared packs take what lies in neighbouring frames, so that one pass over few
//! frames fills each.

use sarit_storage::{Kind, PackId};

use crate::state::{Extent, Medium, Sid, State};

/// Bounds of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes in the log from which on a segment gets packs of its own.
    pub(crate) big_bytes: u64,
    /// Most bytes of such a pack.
    pub(crate) big_pack_bytes: u64,
    /// Most bytes of a shared pack.
    pub(crate) shared_pack_bytes: u64,
    /// Most runs of a pack: they have to fit one record.
    pub(crate) runs: usize,
    /// Bytes of the log looked at, oldest first.
    pub(crate) window_bytes: u64,
}

/// Most extents looked at for one plan; what is left waits for the next.
const PIECES_MAX: usize = 1 << 18;

/// A pack to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// Sorted by segment and offset, without overlap.
    pub(crate) pieces: Vec<Piece>,
    pub(crate) bytes: u64,
}

/// Bytes of a segment and where they lie now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) sid: Sid,
    pub(crate) extent: Extent,
}

/// Plans packs for what lies in the log only.
pub(crate) fn flush(state: &State, limits: &Limits) -> Vec<Planned> {
    let usage = &state.usage;
    if usage.unflushed() == 0 {
        return Vec::new();
    }
    let behind = usage.frames_with(limits.window_bytes);
    let mut packs = Vec::new();
    let mut small = Vec::new();
    let mut looked = 0;
    for sid in usage.dirty() {
        let Some(segment) = state.segment(*sid) else {
            continue;
        };
        let from = small.len();
        let extents = segment.extents.iter();
        let in_log = extents.filter(|e| e.place.in_frame().is_some_and(|frame| frame < behind));
        small.extend(in_log.map(|extent| Piece {
            sid: *sid,
            extent: *extent,
        }));
        looked += small.len() - from;
        if bytes(&small[from..]) >= limits.big_bytes {
            let pieces = small.split_off(from);
            fill(&mut packs, Kind::Big, pieces, limits.big_pack_bytes, limits);
        }
        if looked >= PIECES_MAX {
            break;
        }
    }
    small.sort_unstable_by_key(|piece| {
        (
            piece.extent.place.in_frame(),
            piece.sid,
            piece.extent.offset,
        )
    });
    fill(
        &mut packs,
        Kind::Shared,
        small,
        limits.shared_pack_bytes,
        limits,
    );
    packs
}

/// Divides pieces into packs, in their order, cutting those that are too long.
fn fill(packs: &mut Vec<Planned>, kind: Kind, pieces: Vec<Piece>, most: u64, limits: &Limits) {
    let mut current = Vec::new();
    let mut sum = 0;
    let mut close = |pieces: &mut Vec<Piece>, sum: &mut u64| {
        if pieces.is_empty() {
            return;
        }
        let mut pieces = std::mem::take(pieces);
        pieces.sort_unstable_by_key(|piece| (piece.sid, piece.extent.offset));
        packs.push(Planned {
            kind,
            pieces,
            bytes: std::mem::take(sum),
        });
    };
    for piece in pieces {
        let mut rest = piece.extent;
        loop {
            let length = u64::from(rest.length);
            if sum + length <= most && current.len() < limits.runs {
                current.push(Piece {
                    extent: rest,
                    ..piece
                });
                sum += length;
                break;
            }
            if sum > 0 {
                close(&mut current, &mut sum);
                continue;
            }
            // Longer than a whole pack.
            let cut = rest.offset + most;
            let extent = rest.part(rest.offset..cut);
            current.push(Piece { extent, ..piece });
            sum = most;
            close(&mut current, &mut sum);
            rest = rest.part(cut..rest.end());
        }
    }
    close(&mut current, &mut sum);
}

/// Bounds of a plan for packs that are rewritten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    /// A pack with fewer bytes in use than this share of all, in percent, is rewritten.
    pub(crate) live_percent: u64,
    /// A segment with more extents in packs than this is rewritten.
    pub(crate) extents: usize,
}

/// Extents below these lengths are joined with neighbours below them, as soon as there are enough:
/// so every byte is rewritten at most once for each.
const CLASSES: [u32; 4] = [64 << 10, 512 << 10, 4 << 20, 32 << 20];

/// Plans packs for what lies in packs that are mostly dead, and for segments that are scattered; at
/// most `limits.window_bytes` of them.
pub(crate) fn compact(state: &State, thresholds: &Thresholds, limits: &Limits) -> Vec<Planned> {
    let thin = |id: PackId| {
        let used = state.usage.packs().get(&id);
        used.is_some_and(|used| used.live * 100 < used.size * thresholds.live_percent)
    };
    let any_thin = state.usage.packs().keys().any(|id| thin(*id));
    let (mut pieces, mut sum) = (Vec::new(), 0);
    for (sid, segment) in state.segments() {
        if sum >= limits.window_bytes || pieces.len() >= PIECES_MAX {
            break;
        }
        let extents = &segment.extents;
        let scattered = (extents.len() > thresholds.extents)
            .then(|| stretch(extents, thresholds.extents / 2, limits))
            .flatten();
        if !any_thin && scattered.is_none() {
            continue;
        }
        for (at, extent) in extents.iter().enumerate() {
            let Medium::Pack(id) = extent.place.medium() else {
                continue;
            };
            let scattered = scattered.as_ref().is_some_and(|range| range.contains(&at));
            if scattered || any_thin && thin(id) {
                sum += u64::from(extent.length);
                pieces.push(Piece {
                    sid,
                    extent: *extent,
                });
            }
        }
    }
    let mut packs = Vec::new();
    let most = limits.shared_pack_bytes;
    fill(&mut packs, Kind::Compacted, pieces, most, limits);
    packs
}

/// Finds at least `enough` neighbouring extents in packs, as short as possible, and so short that
/// joining them makes fewer, even if two packs share them.
fn stretch(extents: &[Extent], enough: usize, limits: &Limits) -> Option<std::ops::Range<usize>> {
    CLASSES.iter().find_map(|most| {
        let most = u64::from(*most).min(limits.shared_pack_bytes / 4);
        let mut from = 0;
        let mut best = 0..0;
        for (at, extent) in extents.iter().enumerate() {
            let fits = extent.place.in_frame().is_none() && u64::from(extent.length) < most;
            if !fits {
                from = at + 1;
            } else if at + 1 - from > best.len() {
                best = from..at + 1;
            }
        }
        (best.len() >= enough.max(3)).then_some(best)
    })
}

fn bytes(pieces: &[Piece]) -> u64 {
    pieces
        .iter()
        .map(|piece| u64::from(piece.extent.length))
        .sum()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::operation::{Attributes, Operation, Placed, PlacedRun, Run};
    use crate::state::Seeded;

    const LIMITS: Limits = Limits {
        big_bytes: 500,
        big_pack_bytes: 800,
        shared_pack_bytes: 300,
        runs: 4,
        window_bytes: 2000,
    };
    const THRESHOLDS: Thresholds = Thresholds {
        live_percent: 50,
        extents: 3,
    };
    const SEGMENTS: u64 = 5;

    fn state() -> State {
        let mut state = State::new(Seeded(1));
        for sid in 1..=SEGMENTS {
            let create = Operation::Create {
                sid: Sid(sid),
                kind: crate::Kind::Stream,
                name: &format!("s{sid}"),
                attributes: Attributes::default(),
            };
            state.apply(1, 0, &create).unwrap();
        }
        state
    }

    fn append(state: &mut State, frame: u64, sid: u64, length: u32) {
        let sid = Sid(sid);
        let run = Run {
            sid,
            offset: state.segment(sid).unwrap().length,
            events: 1,
            attributes: Attributes::default(),
            position: 16,
            length,
        };
        state.apply(frame, 0, &Operation::Append(run)).unwrap();
    }

    /// Checks a plan, and does what its commit would do.
    fn store(state: &mut State, n: u64, planned: &Planned) {
        let pieces = &planned.pieces;
        assert_eq!(planned.bytes, bytes(pieces));
        assert!(pieces.len() <= LIMITS.runs && !pieces.is_empty());
        let most = match planned.kind {
            Kind::Big => LIMITS.big_pack_bytes,
            _ => LIMITS.shared_pack_bytes,
        };
        assert!(planned.bytes <= most);
        for pair in pieces.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            assert!(a.sid < b.sid || a.sid == b.sid && a.extent.end() <= b.extent.offset);
            assert!(planned.kind != Kind::Big || a.sid == b.sid);
        }
        let (mut raw, mut position) = (BytesMut::new(), 0);
        for Piece { sid, extent } in pieces {
            let run = PlacedRun {
                sid: *sid,
                offset: extent.offset,
                position,
                length: extent.length,
            };
            run.encode(&mut raw);
            position += extent.length;
        }
        let placed = Placed::new(PackId::new(1, n).unwrap(), planned.bytes, &raw);
        let record = match planned.kind {
            Kind::Compacted => Operation::Compact(placed),
            _ => Operation::FlushCommit(placed),
        };
        state.apply(1000, 0, &record).unwrap();
    }

    #[test]
    fn much_data_gets_packs_of_its_own_and_the_rest_shares() {
        let mut state = state();
        for frame in 0..10 {
            append(&mut state, 2 + frame, 1, 120);
            append(&mut state, 2 + frame, 2 + frame % 4, 10);
        }
        let packs = flush(&state, &LIMITS);
        let kinds: Vec<_> = packs.iter().map(|pack| (pack.kind, pack.bytes)).collect();
        // Four runs at most: the packs of segment 1 are cut by that.
        let big = [(Kind::Big, 480), (Kind::Big, 480), (Kind::Big, 240)];
        let shared = [(Kind::Shared, 40), (Kind::Shared, 40), (Kind::Shared, 20)];
        assert_eq!(kinds, [big, shared].concat());
    }

    proptest! {
        #[test]
        fn everything_is_flushed_in_bounded_packs_and_rewriting_comes_to_an_end(
            appends in prop::collection::vec((1..=SEGMENTS, 1_u32..400, 0_u32..20), 1..80),
            truncations in prop::collection::vec(any::<prop::sample::Index>(), SEGMENTS as usize),
        ) {
            let mut state = state();
            let mut n = 0;
            let mut flushed = |state: &mut State| {
                for round in 0.. {
                    let packs = flush(state, &LIMITS);
                    if packs.is_empty() {
                        break;
                    }
                    for planned in &packs {
                        n += 1;
                        store(state, n, planned);
                    }
                    assert!(round < 100, "flushing does not end");
                }
                assert_eq!(state.usage.unflushed(), 0);
                n
            };
            let mut last = 0;
            for (frame, (sid, length, now)) in (2..).zip(appends) {
                append(&mut state, frame, sid, length);
                if now == 0 {
                    last = flushed(&mut state);
                }
            }
            last = last.max(flushed(&mut state));
            for (sid, at) in (1..).map(Sid).zip(truncations) {
                let length = state.segment(sid).unwrap().length;
                let start = at.index(length as usize + 1) as u64;
                state.apply(999, 0, &Operation::Truncate { sid, start }).unwrap();
            }
            for round in 0.. {
                let packs = compact(&state, &THRESHOLDS, &LIMITS);
                if packs.is_empty() {
                    break;
                }
                for planned in &packs {
                    last += 1;
                    store(&mut state, last, planned);
                }
                prop_assert!(round < 100, "rewriting does not end");
            }
            for used in state.usage.packs().values() {
                prop_assert!(used.live * 2 >= used.size);
            }
        }
    }
}
