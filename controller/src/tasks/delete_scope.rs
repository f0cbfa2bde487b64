//! Delete a scope with all that is in it: close it, so that nothing new begins there; then its groups,
//! tables and streams, each by the tasks that a client would ask for; then the scope.
//!
//! The order is all that is recorded. What is left to do is what is still in the scope, so a crash
//! costs nothing but looking again. What the segment store refuses to let go does not hold up the rest.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};

use super::create_group::group_of;
use super::{Answer, Begun, Context, Error, Request, Result, Tasks, begun, work_row};
use crate::store::catalog::{PAGE, parse_id};
use crate::store::keys::{self, StreamId};
use crate::store::records::{Damaged, DeleteScopeJob, Job, Scope, encode};
use crate::store::{Expect, Outcome, Transaction};

/// The name that the task runs under, in place of a stream's. None can be created with two underscores.
const ALL: &str = "__all";
/// Deletions at once, of one scope.
const PARTS_MAX: usize = 16;

/// Returns what the task of a whole scope runs under.
pub(crate) fn all_of(scope: &ScopeName) -> ScopedStream {
    ScopedStream {
        scope: scope.clone(),
        stream: StreamName::occurring(ALL).expect("it may occur"),
    }
}

pub(super) fn is_all(stream: &ScopedStream) -> bool {
    stream.stream.as_str() == ALL
}

pub(super) async fn begin(context: &Context, all: &ScopedStream) -> Result<Begun> {
    let Some(scope) = context.catalog.scope(&all.scope).await? else {
        return Ok(Begun::Answered(Answer::NoScope));
    };
    context.check_store()?;
    let id = context.new_id();
    let key = keys::scope(&all.scope);
    let closed = Scope {
        deletion: id.to_string(),
        ..scope.value
    };
    // Whatever is about to be created compares the scope's row, and now looks again.
    let begin = Transaction::new()
        .expect(&key, Expect::At(scope.revision))
        // Ids are random, but a simulated world may draw the same twice.
        .expect(keys::work(id), Expect::Absent)
        .expect(keys::state(id), Expect::Absent)
        .put(key, encode(&closed))
        .put(
            keys::work(id),
            work_row(all, Job::DeleteScope(DeleteScopeJob {})),
        );
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

/// Returns the id under which the scope is being deleted, if it is.
pub(super) async fn id_of(context: &Context, all: &ScopedStream) -> Result<Option<StreamId>> {
    let scope = context.catalog.scope(&all.scope).await?;
    let Some(scope) = scope.filter(|scope| !scope.value.deletion.is_empty()) else {
        return Ok(None);
    };
    let id = parse_id(&keys::scope(&all.scope), &scope.value.deletion)?;
    Ok(Some(id))
}

/// Boxed, since its parts are tasks as it is one.
pub(super) fn work<'a>(
    tasks: Tasks,
    scope: &'a ScopeName,
    done: Transaction,
) -> BoxFuture<'a, Result<()>> {
    let finish = done
        .expect(keys::names_in(scope), Expect::NothingUnder)
        .expect(keys::groups_in(scope), Expect::NothingUnder)
        .expect(keys::tables_in(scope), Expect::NothingUnder)
        .delete(keys::scope(scope));
    Box::pin(async move {
        loop {
            let deleted = delete_contents(&tasks, scope).await?;
            match tasks.0.catalog.store.commit(finish.clone()).await? {
                Outcome::Committed(_) => return Ok(()),
                Outcome::Conflict if deleted == 0 => {
                    let reason = format!("something in scope {scope} cannot be deleted");
                    return Err(Error::Invalid(reason));
                }
                Outcome::Conflict => {}
            }
        }
    })
}

/// Deletes groups, tables, users' streams, then what is left of internal ones. Returns how much it was.
///
/// # Errors
/// The first refusal, once everything else is gone.
async fn delete_contents(tasks: &Tasks, scope: &ScopeName) -> Result<usize> {
    type Choose = fn(StreamName) -> Option<StreamName>;
    let passes: [(String, Choose); 4] = [
        (keys::groups_in(scope), |group| {
            Some(StreamName::of_reader_group(&group))
        }),
        (keys::tables_in(scope), |table| {
            Some(StreamName::of_table(&table))
        }),
        (keys::names_in(scope), |stream| {
            Some(stream).filter(|stream| !stream.is_internal())
        }),
        (keys::names_in(scope), |stream| {
            Some(stream).filter(StreamName::is_internal)
        }),
    ];
    let (mut deleted, mut refused) = (0, None);
    for (prefix, choose) in passes {
        let mut after: Option<String> = None;
        loop {
            let store = &tasks.0.catalog.store;
            let page = store.range(&prefix, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.entries.last() else {
                break;
            };
            after = Some(last.clone());
            let mut parts = Vec::with_capacity(page.entries.len());
            for (key, _) in page.entries {
                let name = StreamName::occurring(&key[prefix.len()..]);
                let name = name.map_err(|error| Damaged::new(&key, error))?;
                let (tasks, scope) = (tasks.clone(), scope.clone());
                parts.extend(choose(name).map(|stream| async move {
                    delete(&tasks, &ScopedStream { scope, stream }).await
                }));
            }
            let mut parts = stream::iter(parts).buffer_unordered(PARTS_MAX);
            while let Some(outcome) = parts.next().await {
                match outcome {
                    Ok(Answer::Done) => deleted += 1,
                    Ok(_) => {}
                    Err(Error::Invalid(reason)) => refused = refused.or(Some(reason)),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    refused.map_or(Ok(deleted), |reason| Err(Error::Invalid(reason)))
}

/// Deletes what has this name in place of a stream's, or is a stream.
async fn delete(tasks: &Tasks, stream: &ScopedStream) -> Result<Answer> {
    if stream.stream.table().is_some() {
        return tasks.run_part(stream, Request::DeleteTable).await;
    }
    if let Ok(group) = group_of(stream) {
        // One that is being created has a record only then.
        tasks.run_part(stream, Request::Resume).await?;
        if let Some(row) = tasks.0.catalog.group(&stream.scope, &group).await? {
            let delete = Request::DeleteGroup(row.value.reader_group_id);
            return tasks.run_part(stream, delete).await;
        }
    }
    tasks.run_part(stream, Request::Seal).await?;
    tasks.run_part(stream, Request::Delete).await
}
