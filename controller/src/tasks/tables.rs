//! Create and delete key-value tables: a table segment per partition, and a record.
//!
//! A table's tasks run under the name that its segments have in place of a stream's.

use sarit_proto::controller::KeyValueTableConfig;
use sarit_proto::names::{ScopedStream, StreamName};

use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::segments::Call;
use crate::store::catalog::Table;
use crate::store::keys::{self, StreamId};
use crate::store::records::{Deleted, Job, TableJob, encode};
use crate::store::{Expect, Transaction};

pub(super) async fn create(
    context: &Context,
    stream: &ScopedStream,
    config: &KeyValueTableConfig,
) -> Result<Begun> {
    let Some(scope) = context.catalog.open_scope(&stream.scope).await? else {
        return Ok(Begun::Answered(Answer::NoScope));
    };
    let table = table_of(stream)?;
    if context
        .catalog
        .table(&stream.scope, &table)
        .await?
        .is_some()
    {
        return Ok(Begun::Answered(Answer::Exists));
    }
    context.check_store()?;
    let id = context.new_id();
    let key = keys::table(&stream.scope, &table);
    let deleted = context
        .catalog
        .row::<Deleted>(&keys::deleted(stream))
        .await?;
    let record = Table {
        id,
        visible: false,
        config: config.clone(),
        first_number: deleted.map_or(0, |row| row.value.next_number),
    };
    next_number(stream, &record)?;
    let begin = Transaction::new()
        .expect(keys::scope(&stream.scope), Expect::At(scope))
        .expect(keys::work(id), Expect::Absent)
        .expect(&key, Expect::Absent)
        .put(key, encode(&record.record(false)))
        .put(
            keys::work(id),
            work_row(stream, Job::CreateTable(TableJob {})),
        );
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

pub(super) async fn delete(context: &Context, stream: &ScopedStream) -> Result<Begun> {
    let table = table_of(stream)?;
    let Some(row) = context.catalog.table(&stream.scope, &table).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    context.check_store()?;
    let key = keys::table(&stream.scope, &table);
    let id = row.value.id;
    let begin = Transaction::new()
        .expect(&key, Expect::At(row.revision))
        .expect(keys::work(id), Expect::Absent)
        .put(key, encode(&row.value.record(false)))
        .put(
            keys::work(id),
            work_row(stream, Job::DeleteTable(TableJob {})),
        );
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, Begun::Working(id, Answer::Done)))
}

pub(super) async fn work(
    context: &Context,
    stream: &ScopedStream,
    create: bool,
    done: Transaction,
) -> Result<()> {
    let table = table_of(stream)?;
    let Some(row) = context.catalog.table(&stream.scope, &table).await? else {
        return context.finish(done).await;
    };
    let call = match create {
        true => Call::CreateTable(key_length(&row.value.config)),
        false => Call::Delete,
    };
    let segments = row.value.segments().into_iter();
    let calls = segments.map(|segment| (stream.segment(segment.id), call.clone()));
    context.call_all(calls.collect()).await?;
    let key = keys::table(&stream.scope, &table);
    let finish = match create {
        true => done.put(key, encode(&row.value.record(true))),
        false => {
            let next_number = next_number(stream, &row.value)?;
            done.put(keys::deleted(stream), encode(&Deleted { next_number }))
                .delete(key)
        }
    };
    context.finish(finish).await
}

/// Returns the id of the table that `stream` is the segments of, also of one that clients may not see.
pub(super) async fn id_of(context: &Context, stream: &ScopedStream) -> Result<Option<StreamId>> {
    let table = table_of(stream)?;
    let row = context.catalog.table(&stream.scope, &table).await?;
    Ok(row.map(|row| row.value.id))
}

/// The number that the next table of this name begins with.
fn next_number(stream: &ScopedStream, table: &Table) -> Result<i32> {
    let next = table.first_number.checked_add(table.config.partition_count);
    next.ok_or_else(|| Error::Invalid(format!("{stream} has used up its segment numbers")))
}

fn table_of(stream: &ScopedStream) -> Result<StreamName> {
    let name = stream.stream.table().unwrap_or_default();
    StreamName::occurring(name).map_err(|error| Error::Invalid(error.to_string()))
}

/// A key is a primary and a secondary one.
fn key_length(config: &KeyValueTableConfig) -> u16 {
    let length = config.primary_key_length + config.secondary_key_length;
    u16::try_from(length).unwrap_or(u16::MAX)
}
