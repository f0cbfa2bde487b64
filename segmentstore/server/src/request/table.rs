//! The commands on table segments.

use bytes::Bytes;
use sarit_container::{Container, Error, Kind, Page};
use sarit_proto::ids::AttributeId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{
    CreateTableSegment, ReadTableEntriesDelta, RemoveTableKeys, UpdateTableEntries,
};
use sarit_proto::wire::field::{IteratorArgs, TableEntry, TableKey};
use sarit_proto::wire::reply::{
    TableEntriesDeltaRead, TableEntriesRead, TableEntriesUpdated, TableKeysRead, TableKeysRemoved,
    TableRead, TableSegmentInfo,
};

use super::What;

/// Longest key of a table whose keys all have the same length. Source: the protocol.
const FIXED_KEY_BYTES_MAX: i32 = 256;
/// Most entries one page of a table holds, whatever was asked for.
const PAGE_ENTRIES_MAX: usize = 10_000;

impl What {
    pub(super) async fn create_table(
        &self,
        container: &Container,
        create: &CreateTableSegment,
    ) -> Result<Reply, Error> {
        if !(0..=FIXED_KEY_BYTES_MAX).contains(&create.key_length) {
            return Ok(self.illegal(format!(
                "key length is {}, it must be in [0, {FIXED_KEY_BYTES_MAX}]",
                create.key_length
            )));
        }
        let kind = Kind::Table {
            key_length: create.key_length as u16,
        };
        let attributes = vec![(AttributeId::ROLLOVER_SIZE, create.rollover_size.max(0))];
        container.create(&self.segment, kind, attributes).await?;
        Ok(self.created())
    }

    pub(super) async fn table_info(&self, container: &Container) -> Result<Reply, Error> {
        let info = container.table_info(&self.segment).await?;
        let reply = TableSegmentInfo {
            request_id: self.request_id,
            segment: self.segment.clone(),
            start_offset: info.start.0 as i64,
            length: info.length.0 as i64,
            entry_count: i64::try_from(info.entries).unwrap_or(i64::MAX),
            key_length: i32::from(info.key_length),
        };
        Ok(reply.into())
    }

    pub(super) async fn update_table(
        &self,
        container: &Container,
        update: UpdateTableEntries,
    ) -> Result<Reply, Error> {
        let expected = expected_length(update.expected_length);
        let updated = container.table_update(&self.segment, update.entries, expected);
        let versions = updated.await.map_err(at_length)?;
        let request_id = self.request_id;
        Ok(TableEntriesUpdated {
            request_id,
            versions,
        }
        .into())
    }

    pub(super) async fn remove_keys(
        &self,
        container: &Container,
        remove: RemoveTableKeys,
    ) -> Result<Reply, Error> {
        let expected = expected_length(remove.expected_length);
        let removed = container.table_remove(&self.segment, remove.keys, expected);
        removed.await.map_err(at_length)?;
        let (request_id, segment) = (self.request_id, self.segment.clone());
        Ok(TableKeysRemoved {
            request_id,
            segment,
        }
        .into())
    }

    pub(super) async fn read_table(
        &self,
        container: &Container,
        keys: &[TableKey],
    ) -> Result<Reply, Error> {
        if keys.len() > PAGE_ENTRIES_MAX {
            let count = keys.len();
            let message = format!("{count} keys at once, at most {PAGE_ENTRIES_MAX} are possible");
            return Ok(self.illegal(message));
        }
        let keys: Vec<Bytes> = keys.iter().map(|key| key.key.clone()).collect();
        let entries = container.table_get(&self.segment, &keys).await?;
        let (request_id, segment) = (self.request_id, self.segment.clone());
        Ok(TableRead {
            request_id,
            segment,
            entries,
        }
        .into())
    }

    /// Returns a page without the values.
    pub(super) async fn table_keys(
        &self,
        container: &Container,
        count: i32,
        args: IteratorArgs,
    ) -> Result<Reply, Error> {
        let (entries, continuation_token) = self.page(container, count, args).await?;
        let keys = entries.into_iter().map(|entry| entry.key).collect();
        let (request_id, segment) = (self.request_id, self.segment.clone());
        Ok(TableKeysRead {
            request_id,
            segment,
            keys,
            continuation_token,
        }
        .into())
    }

    pub(super) async fn table_entries(
        &self,
        container: &Container,
        count: i32,
        args: IteratorArgs,
    ) -> Result<Reply, Error> {
        let (entries, continuation_token) = self.page(container, count, args).await?;
        let (request_id, segment) = (self.request_id, self.segment.clone());
        Ok(TableEntriesRead {
            request_id,
            segment,
            entries,
            continuation_token,
        }
        .into())
    }

    async fn page(
        &self,
        container: &Container,
        count: i32,
        args: IteratorArgs,
    ) -> Result<(Vec<TableEntry>, Bytes), Error> {
        let page = Page {
            token: args.continuation_token,
            from_key: args.from_key,
            to_key: args.to_key,
            count: page_entries(count),
        };
        container.table_entries(&self.segment, page).await
    }

    pub(super) async fn delta(
        &self,
        container: &Container,
        request: &ReadTableEntriesDelta,
    ) -> Result<Reply, Error> {
        let count = page_entries(request.suggested_count);
        let delta = container.table_delta(&self.segment, request.from_position, count);
        let delta = delta.await?;
        let reply = TableEntriesDeltaRead {
            request_id: self.request_id,
            segment: self.segment.clone(),
            entries: delta.entries,
            should_clear: delta.should_clear,
            reached_end: delta.reached_end,
            last_position: delta.last_position,
        };
        Ok(reply.into())
    }
}

/// −1 is no condition.
fn expected_length(expected: i64) -> Option<i64> {
    (expected != -1).then_some(expected)
}

/// A conditional table operation answers with the table's length where a truncation answers with its
/// start.
fn at_length(error: Error) -> Error {
    match error {
        Error::BadOffset {
            segment,
            length,
            given,
            ..
        } => Error::BadOffset {
            segment,
            start: length,
            length,
            given,
        },
        other => other,
    }
}

fn page_entries(count: i32) -> usize {
    usize::try_from(count).unwrap_or(0).min(PAGE_ENTRIES_MAX)
}
