//! Calls on key-value tables.

use sarit_proto::controller::create_key_value_table_status::Status as Created;
use sarit_proto::controller::delete_kv_table_status::Status as Deleted;
use sarit_proto::controller::key_value_table_config_response::Status as Found;
use sarit_proto::controller::kv_tables_in_scope_response::Status as Listed;
use sarit_proto::controller::{
    ContinuationToken, CreateKeyValueTableStatus, DeleteKvTableStatus, KeyValueTableConfig,
    KeyValueTableConfigResponse, KeyValueTableInfo, KvTablesInScopeRequest,
    KvTablesInScopeResponse, SegmentRanges,
};
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use tonic::Status;

use super::Service;
use super::convert::{invalid, scope_name, scope_of, segment_range};
use super::streams::{rows, unexpected};
use crate::store::keys;
use crate::store::records::{self, decode};
use crate::tasks::{Answer, Request};

/// Most partitions, each a segment.
const PARTITIONS_MAX: i32 = 10_000;
/// Longest key a table segment takes, primary and secondary together.
const KEY_BYTES_MAX: i32 = 256;

pub(super) async fn create(
    service: &Service,
    request: KeyValueTableConfig,
) -> Result<CreateKeyValueTableStatus, Status> {
    let status = |status: Created| {
        let status = status as i32;
        Ok(CreateKeyValueTableStatus { status })
    };
    let scope = scope_name(&request.scope)?;
    let Ok(table) = StreamName::new(&*request.kvt_name) else {
        return status(Created::InvalidTableName);
    };
    check(&request)?;
    let stream = segments_of(&scope, &table);
    let create = Request::CreateTable(request);
    match service.tasks.run(&stream, create).await? {
        Answer::Done => status(Created::Success),
        Answer::Exists => status(Created::TableExists),
        Answer::NoScope => status(Created::ScopeNotFound),
        other => Err(unexpected(&other)),
    }
}

/// What the segment store would refuse must not get that far.
fn check(config: &KeyValueTableConfig) -> Result<(), Status> {
    let (primary, secondary) = (config.primary_key_length, config.secondary_key_length);
    let refused = |reason: String| Err(Status::invalid_argument(reason));
    if !(1..=PARTITIONS_MAX).contains(&config.partition_count) {
        let count = config.partition_count;
        return refused(format!(
            "a table has 1 to {PARTITIONS_MAX} partitions, {count} were asked for"
        ));
    }
    let sum = primary.checked_add(secondary);
    if primary < 1 || secondary < 0 || sum.is_none_or(|sum| sum > KEY_BYTES_MAX) {
        return refused(format!(
            "keys of {primary} and {secondary} bytes: the primary has at least 1, both at most {KEY_BYTES_MAX}"
        ));
    }
    Ok(())
}

pub(super) async fn delete(
    service: &Service,
    request: KeyValueTableInfo,
) -> Result<DeleteKvTableStatus, Status> {
    let (scope, table) = named(&request)?;
    let stream = segments_of(&scope, &table);
    let status = match service.tasks.run(&stream, Request::DeleteTable).await? {
        Answer::Done => Deleted::Success,
        Answer::NotThere => Deleted::TableNotFound,
        other => return Err(unexpected(&other)),
    };
    let status = status as i32;
    Ok(DeleteKvTableStatus { status })
}

pub(super) async fn segments(
    service: &Service,
    request: KeyValueTableInfo,
) -> Result<SegmentRanges, Status> {
    let (scope, table) = named(&request)?;
    let row = service.catalog.table(&scope, &table).await?;
    let row = row.filter(|row| row.value.visible);
    let missing = || Status::not_found(format!("key-value table {scope}/{table} does not exist"));
    let segments = row.ok_or_else(missing)?.value.segments();
    // Clients add the suffix of the segments' names themselves.
    let named = ScopedStream {
        scope,
        stream: table,
    };
    let segments = segments.iter();
    let segments = segments.map(|segment| segment_range(&named, segment));
    Ok(SegmentRanges {
        segment_ranges: segments.collect(),
        delegation_token: String::new(),
    })
}

pub(super) async fn configuration(
    service: &Service,
    request: KeyValueTableInfo,
) -> Result<KeyValueTableConfigResponse, Status> {
    let (scope, table) = named(&request)?;
    let row = service.catalog.table(&scope, &table).await?;
    Ok(match row.filter(|row| row.value.visible) {
        Some(row) => KeyValueTableConfigResponse {
            config: Some(row.value.config),
            status: Found::Success as i32,
        },
        None => KeyValueTableConfigResponse {
            config: None,
            status: Found::TableNotFound as i32,
        },
    })
}

pub(super) async fn list(
    service: &Service,
    request: KvTablesInScopeRequest,
) -> Result<KvTablesInScopeResponse, Status> {
    let scope = scope_of(request.scope.as_ref())?;
    if service.catalog.scope(&scope).await?.is_none() {
        return Ok(KvTablesInScopeResponse {
            status: Listed::ScopeNotFound as i32,
            ..KvTablesInScopeResponse::default()
        });
    }
    let prefix = keys::tables_in(&scope);
    let mut asked = request.continuation_token.unwrap_or_default().token;
    loop {
        let (names, last, full) = rows(service, &prefix, &asked).await?;
        let mut shown = Vec::new();
        for (name, value) in names {
            let row: records::Table = decode(&name, &value).map_err(crate::tasks::Error::from)?;
            if row.visible {
                shown.push(KeyValueTableInfo {
                    scope: scope.to_string(),
                    kvt_name: name,
                });
            }
        }
        asked = last.unwrap_or(asked);
        if !shown.is_empty() || !full {
            return Ok(KvTablesInScopeResponse {
                kvtables: shown,
                continuation_token: Some(ContinuationToken { token: asked }),
                status: Listed::Success as i32,
            });
        }
    }
}

/// Names the segments of a table.
fn segments_of(scope: &ScopeName, table: &StreamName) -> ScopedStream {
    ScopedStream {
        scope: scope.clone(),
        stream: StreamName::of_table(table),
    }
}

fn named(info: &KeyValueTableInfo) -> Result<(ScopeName, StreamName), Status> {
    let table = StreamName::occurring(&*info.kvt_name).map_err(invalid)?;
    Ok((scope_name(&info.scope)?, table))
}
