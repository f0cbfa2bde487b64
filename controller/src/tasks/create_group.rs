//! Create a reader group: the stream of its state, then its record and subscriptions.

use sarit_proto::controller::ReaderGroupConfiguration;
use sarit_proto::names::{ScopedStream, StreamName};

use super::create_stream::{add_records, single};
use super::hints::{Hint, subscribers};
use super::{Answer, Begun, Context, Error, Result, begun, work_row};
use crate::store::records::{CreateJob, Job, ReaderGroup};
use crate::store::{Expect, Transaction, keys};

/// `stream` is the stream of the group's state.
pub(super) async fn begin(
    context: &Context,
    stream: &ScopedStream,
    config: &ReaderGroupConfiguration,
) -> Result<Begun> {
    let Some(scope) = context.catalog.open_scope(&stream.scope).await? else {
        return Ok(Begun::Answered(Answer::NoScope));
    };
    let group = group_of(stream)?;
    if let Some(row) = context.catalog.group(&stream.scope, &group).await? {
        return Ok(Begun::Answered(Answer::Group(row.value)));
    }
    records(stream, config)?;
    if context.catalog.name(stream).await?.is_some() {
        let reason = format!("stream {stream} exists, but not as the state of a reader group");
        return Err(Error::Invalid(reason));
    }
    context.check_store()?;
    let id = context.new_id();
    let begin = Transaction::new()
        .expect(keys::scope(&stream.scope), Expect::At(scope))
        .expect(keys::group(&stream.scope, &group), Expect::Absent);
    let begin = add_records(
        context,
        &context.catalog,
        begin,
        stream,
        id,
        &single(stream),
    )
    .await?;
    let job = CreateJob {
        mark_id: String::new(),
        group: Some(ReaderGroup {
            config: Some(config.clone()),
        }),
    };
    let begin = begin.put(keys::work(id), work_row(stream, Job::Create(job)));
    let outcome = context.catalog.store.commit(begin).await?;
    let answer = Answer::Group(config.clone());
    Ok(begun(outcome, Begun::Working(id, answer)))
}

/// Returns the key of the group's record, and the rows of its subscriptions.
pub(super) fn records(
    stream: &ScopedStream,
    config: &ReaderGroupConfiguration,
) -> Result<(String, Vec<Hint>)> {
    let group = group_of(stream)?;
    let key = keys::group(&stream.scope, &group);
    let rows = subscribers(&subscriber(stream, &group), None, Some(config))?;
    Ok((key, rows))
}

/// Returns the group whose state `stream` keeps.
pub(super) fn group_of(stream: &ScopedStream) -> Result<StreamName> {
    let name = stream.stream.reader_group().unwrap_or_default();
    StreamName::occurring(name).map_err(|error| Error::Invalid(error.to_string()))
}

/// What a group is called among a stream's subscribers.
pub(super) fn subscriber(stream: &ScopedStream, group: &StreamName) -> String {
    format!("{}/{group}", stream.scope)
}
