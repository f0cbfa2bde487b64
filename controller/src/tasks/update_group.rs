//! Replace a reader group's configuration: one transaction that compares id and generation.

use sarit_proto::controller::ReaderGroupConfiguration;
use sarit_proto::names::ScopedStream;

use super::create_group::{group_of, subscriber};
use super::hints::{subscribers, with_hints};
use super::{Answer, Begun, Context, Result, begun};
use crate::store::records::{ReaderGroup, encode};
use crate::store::{Expect, Transaction, keys};

pub(super) async fn begin(
    context: &Context,
    stream: &ScopedStream,
    config: &ReaderGroupConfiguration,
) -> Result<Begun> {
    let group = group_of(stream)?;
    let Some(row) = context.catalog.group(&stream.scope, &group).await? else {
        return Ok(Begun::Answered(Answer::NotThere));
    };
    let known = &row.value;
    let same_group = known.reader_group_id == config.reader_group_id;
    if !same_group || known.generation != config.generation {
        return Ok(Begun::Answered(Answer::StaleGroup));
    }
    let generation = known.generation.saturating_add(1);
    let new = ReaderGroupConfiguration {
        generation,
        ..config.clone()
    };
    let hints = subscribers(&subscriber(stream, &group), Some(known), Some(&new))?;
    let key = keys::group(&stream.scope, &group);
    let change = Transaction::new()
        .expect(&key, Expect::At(row.revision))
        .put(&key, encode(&ReaderGroup { config: Some(new) }));
    let change = with_hints(context, change, hints).await?;
    let outcome = context.catalog.store.commit(change).await?;
    let answer = Answer::Generation(generation);
    Ok(begun(outcome, Begun::Answered(answer)))
}
