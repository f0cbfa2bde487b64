//! Truncate a stream at a cut. The record comes first: from then on readers start at the new head, and
//! the segments follow.

use std::collections::{BTreeMap, BTreeSet};

use sarit_proto::ids::{Offset, SegmentId};
use sarit_proto::names::ScopedStream;

use super::update_stream::refused;
use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::segments::Call;
use crate::store::catalog::truncation_record;
use crate::store::keys::{self, StreamId};
use crate::store::records::{Job, TruncateJob, encode};
use crate::store::{Expect, Transaction};
use crate::stream::stream_cuts::{self, Cut, StreamCut, WHOLE_SEGMENT};

pub(super) async fn begin(
    context: &Context,
    stream: &ScopedStream,
    cut: &BTreeMap<i64, i64>,
) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    let status = context.catalog.status(id).await?;
    if let Err(refusal) = status.state.may_change() {
        return Ok(Begun::Answered(refused(refusal)));
    }
    let invalid = |error: stream_cuts::CutError| Error::Invalid(error.to_string());
    let epochs = context.catalog.epochs(id).await?;
    let cut = stream_cuts::parse(cut).map_err(invalid)?;
    let wanted = StreamCut::new(&cut, &epochs).map_err(invalid)?;
    let before = context.catalog.truncation(id).await?;
    if let Some(before) = &before {
        let head = StreamCut::new(&before.value, &epochs);
        let head = head.map_err(|error| Error::Invalid(error.to_string()))?;
        if !wanted.is_at_or_after(&head) {
            let reason = "the stream cut lies before the point the stream is truncated at";
            return Err(Error::Invalid(reason.to_owned()));
        }
    }
    context.check_store()?;
    let cut = measured(context, stream, cut).await?;
    if before.as_ref().is_some_and(|before| before.value == cut) {
        return Ok(Begun::Answered(Answer::Done));
    }
    let job = TruncateJob {
        before: before
            .as_ref()
            .map_or_else(BTreeMap::new, |before| truncation_record(&before.value).cut),
    };
    let unchanged = before.map_or(Expect::Absent, |before| Expect::At(before.revision));
    let begin = Transaction::new()
        .expect(keys::work(id), Expect::Absent)
        .expect(keys::state(id), Expect::At(status.revision))
        .expect(keys::truncation(id), unchanged)
        .put(keys::truncation(id), encode(&truncation_record(&cut)))
        .put(keys::work(id), work_row(stream, Job::Truncate(job)));
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

/// Holds the offsets against the segments: none beyond a tail, lengths in place of "all of it".
async fn measured(context: &Context, stream: &ScopedStream, cut: Cut) -> Result<Cut> {
    let measure = cut.iter().filter(|(_, offset)| **offset != 0);
    let names = measure.map(|(id, _)| stream.segment(*id)).collect();
    let lengths = context.lengths(names).await?;
    let placed = cut.into_iter().map(|(id, offset)| {
        let length = lengths.get(&id).map_or(0, |length| length.0.cast_signed());
        match offset {
            WHOLE_SEGMENT => Ok((id, length)),
            offset if offset <= length => Ok((id, offset)),
            offset => Err(Error::Invalid(format!(
                "the stream cut has offset {offset} in segment {id}, which ends at {length}"
            ))),
        }
    });
    placed.collect()
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &TruncateJob,
    done: Transaction,
) -> Result<()> {
    let epochs = context.catalog.epochs(id).await?;
    let Some(record) = context.catalog.truncation(id).await? else {
        return context.finish(done).await;
    };
    let invalid = |error: stream_cuts::CutError| Error::Invalid(error.to_string());
    let placed = StreamCut::new(&record.value, &epochs).map_err(invalid)?;
    let mut before = placed.segments_before(&epochs);
    if !job.before.is_empty() {
        let gone = stream_cuts::parse(&job.before).map_err(invalid)?;
        let gone = StreamCut::new(&gone, &epochs).map_err(invalid)?;
        let gone: BTreeSet<SegmentId> = gone.segments_before(&epochs).into_iter().collect();
        before.retain(|id| !gone.contains(id));
    }
    let before = before.into_iter();
    let mut calls: Vec<_> = before
        .map(|id| (stream.segment(id), Call::Delete))
        .collect();
    let cut = record.value.iter().filter(|(_, offset)| **offset > 0);
    calls.extend(cut.map(|(id, offset)| {
        let truncate = Call::Truncate(Offset(offset.cast_unsigned()));
        (stream.segment(*id), truncate)
    }));
    context.call_all(calls).await?;
    context.finish(done).await
}
