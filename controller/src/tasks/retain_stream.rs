//! Keep a stream within its retention policy: record a cut at the tail, and truncate where the policy
//! and the subscribers allow it.

use std::collections::{BTreeMap, BTreeSet};

use sarit_proto::controller::{ReaderGroupConfiguration, StreamConfig};
use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::names::ScopedStream;

use super::hints::{stream_named, subscriptions};
use super::{Answer, Begun, Context, Result, truncate_stream};
use crate::store::catalog::PAGE;
use crate::store::keys::{self, StreamId};
use crate::store::records::{self, RecordedCut, Subscriber, encode};
use crate::store::{Expect, OPERATIONS_MAX, Outcome, Transaction};
use crate::stream::epoch::Epochs;
use crate::stream::retention::{Bound, Choice, Policy, Recorded, Tail, Unit};
use crate::stream::stream_cuts::{self, Cut, StreamCut, WHOLE_SEGMENT};

pub(super) async fn begin(context: &Context, stream: &ScopedStream) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    let status = context.catalog.status(id).await?;
    let config = context.catalog.config(id).await?.value;
    let (true, Some(policy)) = (status.state.is_open(), policy_of(&config)) else {
        return Ok(Begun::Answered(Answer::Done));
    };
    context.check_store()?;
    let epochs = context.catalog.epochs(id).await?;
    let mut recorded = read_cuts(context, id).await?;
    let (cut, tail) = measured(context, stream, id, &epochs, recorded.last()).await?;
    if policy.is_worth_recording(recorded.last(), tail) {
        let new = Recorded {
            at_ms: tail.now_ms,
            size: tail.size,
            cut,
        };
        record(context, id, &new).await?;
        recorded.push(new);
    }
    let head = context.catalog.truncation(id).await?.map(|row| row.value);
    let head = head.and_then(|cut| StreamCut::new(&cut, &epochs).ok());
    let mut placed = Vec::with_capacity(recorded.len());
    let mut over = Vec::new();
    for cut in recorded {
        // A cut that does not lie behind the head serves nothing any more.
        let place = StreamCut::new(&cut.cut, &epochs).ok();
        let ahead = |place: &StreamCut| {
            head.as_ref()
                .is_none_or(|head| place.is_at_or_after(head) && place != head)
        };
        match place.filter(ahead) {
            Some(place) => placed.push((cut, place)),
            None => over.push(cut.at_ms),
        }
    }
    // The newest is kept: sizes are counted on from it.
    forget(context, id, over, placed.is_empty()).await?;
    let first = head.clone().unwrap_or_else(|| StreamCut::head(&epochs));
    let bound = lower_bound(context, stream, (&epochs, &first)).await?;
    let bound = match &bound {
        Some((cut, place)) => {
            let retained = between(context, stream, &epochs, cut, None).await?;
            Some(Bound {
                placed: place,
                retained,
            })
        }
        None => None,
    };
    let wanted = match policy.decide(&placed, tail, bound.as_ref()) {
        Some(Choice::Recorded(index)) => &placed[index].1,
        Some(Choice::Bound) => match &bound {
            Some(bound) => bound.placed,
            None => return Ok(Begun::Answered(Answer::Done)),
        },
        None => return Ok(Begun::Answered(Answer::Done)),
    };
    let behind = |head: &StreamCut| !wanted.is_at_or_after(head) || wanted == head;
    if head.as_ref().is_some_and(behind) {
        return Ok(Begun::Answered(Answer::Done));
    }
    let wanted = wanted.offsets().map(|(id, offset)| (id.0, offset));
    truncate_stream::begin(context, stream, &wanted.collect()).await
}

/// Returns what a configuration asks for.
fn policy_of(config: &StreamConfig) -> Option<Policy> {
    let policy = config.retention_policy.as_ref()?;
    let unit = match policy.retention_type {
        1 => Unit::Milliseconds,
        2 => Unit::Bytes,
        _ => return None,
    };
    // No maximum is sent as 0 by some clients.
    let max = match policy.retention_max {
        max if max < policy.retention_param => i64::MAX,
        max => max,
    };
    Some(Policy {
        unit,
        min: policy.retention_param,
        max,
    })
}

async fn read_cuts(context: &Context, id: StreamId) -> Result<Vec<Recorded>> {
    let prefix = keys::cuts(id);
    let page = context.catalog.store.range(&prefix, None, PAGE).await?;
    let mut cuts = Vec::with_capacity(page.entries.len());
    for (key, row) in page.entries {
        let row: RecordedCut = records::decode(&key, &row.value)?;
        let cut = stream_cuts::parse(&row.cut);
        let cut = cut.map_err(|error| records::Damaged::new(&key, error))?;
        cuts.push(Recorded {
            at_ms: row.at_ms,
            size: row.size,
            cut,
        });
    }
    Ok(cuts)
}

async fn record(context: &Context, id: StreamId, new: &Recorded) -> Result<()> {
    let row = RecordedCut {
        at_ms: new.at_ms,
        size: new.size,
        cut: new.cut.iter().map(|(id, offset)| (id.0, *offset)).collect(),
    };
    let key = keys::cut(id, new.at_ms);
    let put = Transaction::new()
        .expect(&key, Expect::Absent)
        .put(&key, encode(&row));
    match context.catalog.store.commit(put).await? {
        // Twice in a millisecond: the first will do.
        Outcome::Committed(_) | Outcome::Conflict => Ok(()),
    }
}

async fn forget(
    context: &Context,
    id: StreamId,
    mut over: Vec<i64>,
    keep_newest: bool,
) -> Result<()> {
    if keep_newest {
        over.pop();
    }
    for some in over.chunks(OPERATIONS_MAX) {
        let forget = some.iter().fold(Transaction::new(), |forget, at_ms| {
            forget.delete(keys::cut(id, *at_ms))
        });
        let _unconditional = context.catalog.store.commit(forget).await?;
    }
    Ok(())
}

/// Measures the tail, counting on from the last recorded cut.
async fn measured(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    epochs: &Epochs,
    last: Option<&Recorded>,
) -> Result<(Cut, Tail)> {
    let active = context.catalog.active(id).await?;
    let names = active.segments.iter();
    let names = names.map(|segment| stream.segment(segment.id)).collect();
    let lengths = context.lengths(names).await?;
    let cut: Cut = lengths
        .iter()
        .map(|(id, length)| (*id, length.0.cast_signed()))
        .collect();
    let (from, before) = match last {
        Some(last) => (last.cut.clone(), last.size),
        None => (epochs.first().iter().map(|s| (s.id, 0)).collect::<Cut>(), 0),
    };
    let grown = between(context, stream, epochs, &from, Some(&lengths)).await?;
    let tail = Tail {
        now_ms: context.clock.now_ms(),
        size: before.saturating_add(grown),
    };
    Ok((cut, tail))
}

/// Counts the bytes from a cut to the tail. `known` are lengths measured already.
async fn between(
    context: &Context,
    stream: &ScopedStream,
    epochs: &Epochs,
    from: &Cut,
    known: Option<&BTreeMap<SegmentId, Offset>>,
) -> Result<i64> {
    let Ok(placed) = StreamCut::new(from, epochs) else {
        return Ok(0);
    };
    let segments = StreamCut::between(&placed, None, epochs);
    let unknown = segments.iter().copied();
    let unknown = unknown.filter(|id| !known.is_some_and(|known| known.contains_key(id)));
    let unknown: Vec<_> = unknown.map(|id| stream.segment(id)).collect();
    let measured = context.lengths(unknown).await?;
    let length = |id: &SegmentId| {
        let known = known.and_then(|known| known.get(id));
        let length = known.or_else(|| measured.get(id));
        length.map_or(0, |length| length.0.cast_signed())
    };
    let bytes = segments.iter().map(|id| match from.get(id) {
        Some(&WHOLE_SEGMENT) => 0,
        Some(offset) => (length(id) - offset).max(0),
        None => length(id),
    });
    Ok(bytes.sum())
}

/// Returns how far all subscribers have read: at each key, the earliest of what they published. Those
/// that have not published anything do not hold anything up. One that was reset since stands where it
/// was told to start.
async fn lower_bound(
    context: &Context,
    stream: &ScopedStream,
    (epochs, head): (&Epochs, &StreamCut),
) -> Result<Option<(Cut, StreamCut)>> {
    let prefix = keys::subscribers(stream);
    let known = epochs.segments();
    let of_this_stream = |cut: &Cut| StreamCut::among(cut, &known).is_ok();
    let mut cuts = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let store = &context.catalog.store;
        let page = store.range(&prefix, after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.entries.last() else {
            break;
        };
        after = Some(last.clone());
        for (key, row) in page.entries {
            let row: Subscriber = records::decode(&key, &row.value)?;
            let Ok(named) = key[prefix.len()..].parse::<ScopedStream>() else {
                continue;
            };
            let group = context.catalog.group(&named.scope, &named.stream).await?;
            let Some(group) = group.map(|row| row.value) else {
                continue;
            };
            let current = group.reader_group_id == row.reader_group_id
                && subscriptions(&group)?.contains(stream);
            let cut = stream_cuts::parse(&row.cut).ok().filter(of_this_stream);
            let Some(cut) = cut.filter(|_| current) else {
                continue;
            };
            cuts.push(match row.generation == group.generation {
                true => cut,
                false => start(&group, stream, head),
            });
        }
    }
    Ok(stream_cuts::earliest(&cuts, epochs))
}

/// Returns where a group begins to read: where its configuration says, or at the head.
fn start(group: &ReaderGroupConfiguration, stream: &ScopedStream, head: &StreamCut) -> Cut {
    let mut cuts = group.starting_stream_cuts.iter();
    let cut = cuts.find(|cut| stream_named(cut.stream_info.as_ref()).as_ref() == Ok(stream));
    let cut = cut.and_then(|cut| stream_cuts::parse(&cut.cut).ok());
    let cut = cut.filter(|cut| !cut.is_empty());
    cut.unwrap_or_else(|| head.offsets().collect())
}

/// The rows of a stream's recorded cuts, to be deleted with it.
pub(super) async fn recorded(context: &Context, id: StreamId) -> Result<BTreeSet<String>> {
    let page = context
        .catalog
        .store
        .range(&keys::cuts(id), None, PAGE)
        .await?;
    Ok(page.entries.into_iter().map(|(key, _)| key).collect())
}
