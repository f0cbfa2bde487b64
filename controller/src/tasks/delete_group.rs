//! Delete a reader group: its record and subscriptions at once, then the stream of its state, which
//! need not be sealed first.

use sarit_proto::names::ScopedStream;

use super::create_group::{group_of, subscriber};
use super::delete_stream::hide;
use super::hints::{subscribers, with_hints};
use super::{Answer, Begun, Context, Result, begun};
use crate::store::{Expect, Transaction, keys};

pub(super) async fn begin(
    context: &Context,
    stream: &ScopedStream,
    reader_group_id: &str,
) -> Result<Begun> {
    if context.catalog.scope(&stream.scope).await?.is_none() {
        return Ok(Begun::Answered(Answer::NoScope));
    }
    let group = group_of(stream)?;
    let Some(row) = context.catalog.group(&stream.scope, &group).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    if row.value.reader_group_id != reader_group_id {
        return Ok(Begun::Answered(Answer::NotThere));
    }
    let hints = subscribers(&subscriber(stream, &group), Some(&row.value), None)?;
    let key = keys::group(&stream.scope, &group);
    let begin = Transaction::new()
        .expect(&key, Expect::At(row.revision))
        .delete(&key);
    let begin = with_hints(context, begin, hints).await?;
    let found = context.catalog.name(stream).await?;
    let state = found.filter(|found| found.visible).map(|found| found.id);
    let (begin, then) = match state {
        None => (begin, Begun::Answered(Answer::Done)),
        Some(id) => {
            context.check_store()?;
            let Some(begin) = hide(context, begin, stream, id).await? else {
                return Ok(Begun::Conflict);
            };
            (begin, Begun::Working(id, Answer::Done))
        }
    };
    let outcome = context.catalog.store.commit(begin).await?;
    Ok(begun(outcome, then))
}
