//! What becomes of a task that the segment store refuses for good: it ends, says why, and leaves its
//! stream usable where that is possible.
//!
//! What was being made is removed again; a truncation or a new policy is dropped; a scaling is dropped as
//! long as nothing is sealed. Anything else keeps its work row: every later change of the stream tries
//! it once more, and is told the reason.

use sarit_proto::names::ScopedStream;
use tracing::error;

use super::{Context, Error, Result, kind, work_row};
use crate::metrics;
use crate::segments::{self, Call};
use crate::store::catalog::{Row, parse_next};
use crate::store::keys::{self, StreamId};
use crate::store::records::{DeleteJob, Job, ScaleJob, TableJob, Work};
use crate::store::{Expect, Transaction};

/// Returns whether the row was replaced or removed, so that the stream can go on.
pub(super) async fn give_up(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    work: &Row<Work>,
    reason: &str,
) -> Result<bool> {
    error!(%stream, task = kind(&work.value), reason, "task cannot be finished");
    metrics::task_poisoned(kind(&work.value));
    let key = keys::work(id);
    let instead = match &work.value.job {
        Some(Job::Create(job)) => Some(Job::Delete(DeleteJob {
            mark_id: job.mark_id.clone(),
        })),
        Some(Job::CreateTable(_)) => Some(Job::DeleteTable(TableJob {})),
        Some(Job::Truncate(_)) => None,
        Some(Job::Update(job)) => match &job.scale {
            Some(scale) if !undone(context, stream, id, scale).await? => return Ok(false),
            _ => None,
        },
        Some(Job::Scale(job)) => match undone(context, stream, id, job).await? {
            true => None,
            false => return Ok(false),
        },
        Some(
            Job::Seal(_)
            | Job::Delete(_)
            | Job::DeleteTable(_)
            | Job::DeleteScope(_)
            | Job::Roll(_),
        )
        | None => {
            return Ok(false);
        }
    };
    let end = Transaction::new().expect(&key, Expect::At(work.revision));
    let end = match instead {
        Some(job) => end.put(&key, work_row(stream, job)),
        None => end.delete(&key),
    };
    context.finish(end).await?;
    Ok(true)
}

/// Removes the new segments of a scaling, if no old one is sealed yet. Returns whether it is undone.
async fn undone(
    context: &Context,
    stream: &ScopedStream,
    id: StreamId,
    job: &ScaleJob,
) -> Result<bool> {
    let next = parse_next(&keys::work(id), job.next.as_ref())?;
    for old in &next.sealed {
        let name = stream.segment(old.id).to_string();
        match context.segments.extent(&name).await {
            Ok(extent) if !extent.sealed => {}
            Ok(_) | Err(segments::Error::Missing(_)) => return Ok(false),
            Err(error) => return Err(Error::Unavailable(error.to_string())),
        }
    }
    let added = next.added.iter();
    let deletions = added.map(|new| (stream.segment(new.id), Call::Delete));
    context.call_all(deletions.collect()).await?;
    Ok(true)
}
