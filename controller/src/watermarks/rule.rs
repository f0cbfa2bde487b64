//! When there is a new watermark, and what it says: pure.
//!
//! A writer that notes a time at a position promises that what it writes behind that position is no
//! older. So behind the positions of all writers nothing is older than the lowest of their times: that
//! is a watermark's lower bound, and its cut.
//!
//! Nobody is overtaken: as long as one writer has not noted anything above the last lower bound, there
//! is no new watermark. One that has been silent for the stream's timeout, or that said goodbye, still
//! counts once with what it noted and is then forgotten.

use std::collections::BTreeMap;

use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::key_range::KeyRange;
use sarit_proto::watermark::Watermark;

use crate::stream::epoch::Segment;

/// Offsets by segment; −1, from writers that never wrote there, counts as 0.
pub(crate) type Position = BTreeMap<SegmentId, i64>;

/// What one writer noted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) time: i64,
    pub(crate) position: Position,
    /// When, milliseconds since the Unix epoch.
    pub(crate) noted_ms: i64,
    /// Whether it said that nothing more will come.
    pub(crate) gone: bool,
}

/// Why a note is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backwards {
    Time,
    Position,
}

/// Adds a writer's note to what it noted before.
///
/// # Errors
/// What goes backwards.
pub(crate) fn note(before: Option<&Mark>, after: Mark) -> Result<Mark, Backwards> {
    let Some(before) = before else {
        return Ok(after);
    };
    if after.time < before.time {
        return Err(Backwards::Time);
    }
    let shared = |id: &SegmentId, offset: i64| {
        let known = before.position.get(id);
        known.is_some_and(|known| offset < *known)
    };
    if after
        .position
        .iter()
        .any(|(id, offset)| shared(id, *offset))
    {
        return Err(Backwards::Position);
    }
    // A writer that says nothing of where it is has not moved back.
    let position = match after.position.is_empty() {
        true => before.position.clone(),
        false => after.position,
    };
    Ok(Mark { position, ..after })
}

/// What comes of all marks of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// The new watermark, if there is one.
    pub(crate) watermark: Option<Watermark>,
    /// Writers to forget.
    pub(crate) forgotten: Vec<String>,
    /// Whether something may come of time alone, without another note.
    pub(crate) again: bool,
}

/// Judges the marks of a stream.
///
/// `before` is the last watermark; `timeout_ms` how long a silent writer holds others back, 0 for ever;
/// `epoch_of` returns all segments of the epoch with that number, which cover all keys.
pub(crate) fn judge(
    marks: &BTreeMap<String, Mark>,
    before: Option<&Watermark>,
    timeout_ms: i64,
    now_ms: i64,
    epoch_of: impl Fn(i32) -> Option<Vec<Segment>>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let fresh = |mark: &Mark, lower: Option<i64>| lower.is_none_or(|lower| mark.time > lower);
    let silent = |mark: &Mark| timeout_ms > 0 && now_ms.saturating_sub(mark.noted_ms) > timeout_ms;
    let mut lower = before.map(|before| before.lower);
    let mut counted = Vec::new();
    let mut held = false;
    for (writer, mark) in marks {
        match fresh(mark, lower) {
            true => counted.push(mark),
            false if mark.gone || silent(mark) => outcome.forgotten.push(writer.clone()),
            false => held = true,
        }
    }
    if !held && !counted.is_empty() {
        outcome.watermark = next(&counted, before, epoch_of);
        lower = outcome.watermark.as_ref().map(|new| new.lower).or(lower);
    }
    let emitted = outcome.watermark.is_some();
    outcome.again = (emitted && counted.iter().any(|mark| mark.gone))
        || (timeout_ms > 0 && counted.iter().any(|mark| fresh(mark, lower)));
    outcome
}

/// Returns the watermark behind all that was noted.
fn next(
    marks: &[&Mark],
    before: Option<&Watermark>,
    epoch_of: impl Fn(i32) -> Option<Vec<Segment>>,
) -> Option<Watermark> {
    let times = marks.iter().map(|mark| mark.time);
    let positions = marks.iter().map(|mark| &mark.position);
    Some(Watermark {
        lower: times.clone().min()?,
        upper: times.max()?,
        cut: behind(positions, before, epoch_of)?,
    })
}

/// Returns the cut behind all positions and the last cut: in the newest epoch that any of them has
/// reached, the highest offset of each segment. A segment nobody has reached yet is at its beginning:
/// what came before it has ended. `None` if the segments are not known.
fn behind<'a>(
    positions: impl Iterator<Item = &'a Position>,
    before: Option<&Watermark>,
    epoch_of: impl Fn(i32) -> Option<Vec<Segment>>,
) -> Option<Vec<(SegmentId, KeyRange, Offset)>> {
    let mut highest = Position::new();
    let old = before.map_or(&[][..], |before| &before.cut);
    let old = old.iter().map(|(id, _, offset)| (*id, offset.0 as i64));
    let noted = positions.flatten().map(|(id, offset)| (*id, *offset));
    for (id, offset) in old.chain(noted) {
        // A segment that never was is nobody's position.
        if SegmentId::parse(id.0).is_none() {
            continue;
        }
        let known = highest.entry(id).or_insert(0);
        *known = (*known).max(offset);
    }
    let newest = highest.keys().map(|id| id.epoch()).max().unwrap_or(0);
    let segments = epoch_of(newest)?;
    let at = |segment: &Segment| {
        let offset = highest.get(&segment.id).copied().unwrap_or(0);
        (segment.id, segment.range, Offset(offset.unsigned_abs()))
    };
    Some(segments.iter().map(at).collect())
}

#[cfg(test)]
mod tests;
