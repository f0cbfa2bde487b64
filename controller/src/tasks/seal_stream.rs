//! Seal a stream: it takes no more events, and its readers come to an end. Transactions whose commit was
//! accepted are committed before, open ones are aborted.

use sarit_proto::names::ScopedStream;

use super::commit_transactions::all_ended;
use super::{Answer, Begun, Context, Result, begun, work_row};
use crate::segments::Call;
use crate::store::catalog::state_record;
use crate::store::keys::{self, StreamId};
use crate::store::records::{Job, SealJob, encode};
use crate::store::{Expect, Revision, Transaction};
use crate::stream::lifecycle::State;

pub(super) async fn begin(context: &Context, stream: &ScopedStream) -> Result<Begun> {
    let Some(id) = context.catalog.visible(stream).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    let status = context.catalog.status(id).await?;
    if !status.state.is_open() {
        return Ok(Begun::Answered(Answer::Done));
    }
    context.check_store()?;
    let begin = Transaction::new()
        .expect(keys::work(id), Expect::Absent)
        .expect(keys::state(id), Expect::At(status.revision))
        .put(
            keys::state(id),
            encode(&state_record(&status, State::Sealing)),
        )
        .put(keys::work(id), work_row(stream, Job::Seal(SealJob {})));
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    row: Revision,
    done: Transaction,
) -> Result<()> {
    if !all_ended(context, stream, id, row).await? {
        return Ok(());
    }
    let status = context.catalog.status(id).await?;
    let epoch = context.catalog.active(id).await?;
    let active = epoch.segments.iter();
    let seals = active.map(|segment| (stream.segment(segment.id), Call::Seal));
    context.call_all(seals.collect()).await?;
    let sealed = encode(&state_record(&status, State::Sealed));
    context.finish(done.put(keys::state(id), sealed)).await
}
