//! The controller's calls about key-value tables.

use sarit_proto::controller::{
    self as api, create_key_value_table_status, delete_kv_table_status,
    key_value_table_config_response, kv_tables_in_scope_response,
};
use sarit_proto::names::{ScopeName, ScopedStream};

use super::{Controller, Listing, failed, token};
use crate::Error;
use crate::event::Owner;

/// What a key-value table is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// Number of table segments it is spread over, by primary key.
    pub partitions: u32,
    /// Bytes of the part of a key that decides about the partition.
    pub primary_key_bytes: u32,
    /// Bytes of the rest of a key; 0 for none.
    pub secondary_key_bytes: u32,
}

impl TableConfig {
    /// Returns how many bytes a key has.
    pub fn key_bytes(self) -> usize {
        self.primary_key_bytes as usize + self.secondary_key_bytes as usize
    }
}

impl Controller {
    /// Creates a key-value table. Returns whether it is new; an existing one stays as it is.
    ///
    /// # Errors
    /// [`Error::NoSuchScope`], [`Error::InvalidName`], [`Error::Refused`] for numbers that are not
    /// possible, and those of [`Error`].
    pub async fn create_table(
        &self,
        table: &ScopedStream,
        config: TableConfig,
    ) -> Result<bool, Error> {
        use create_key_value_table_status::Status;
        let what = "createKeyValueTable";
        let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        let request = api::KeyValueTableConfig {
            scope: table.scope.to_string(),
            kvt_name: table.stream.to_string(),
            partition_count: number(config.partitions),
            primary_key_length: number(config.primary_key_bytes),
            secondary_key_length: number(config.secondary_key_bytes),
            rollover_size_bytes: 0,
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.create_key_value_table(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(true),
            Status::TableExists => Ok(false),
            Status::ScopeNotFound => Err(Error::NoSuchScope(table.scope.to_string())),
            Status::InvalidTableName => Err(Error::InvalidName(table.stream.to_string())),
            Status::Failure => Err(failed(what)),
        }
    }

    /// Deletes a key-value table with everything in it. Returns whether it was there.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn delete_table(&self, table: &ScopedStream) -> Result<bool, Error> {
        use delete_kv_table_status::Status;
        let what = "deleteKeyValueTable";
        let request = api::KeyValueTableInfo::from(table);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.delete_key_value_table(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(true),
            Status::TableNotFound => Ok(false),
            Status::Failure => Err(failed(what)),
        }
    }

    /// Returns what a key-value table is like.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`], and those of [`Error`].
    pub async fn table_config(&self, table: &ScopedStream) -> Result<TableConfig, Error> {
        use key_value_table_config_response::Status;
        let what = "getKeyValueTableConfiguration";
        let request = api::KeyValueTableInfo::from(table);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_key_value_table_configuration(request).await }
            })
            .await;
        let reply = reply.map_err(|error| no_table(error, table))?;
        let number = |number: i32| u32::try_from(number).unwrap_or_default();
        match (reply.status(), reply.config) {
            (Status::Success, Some(config)) => Ok(TableConfig {
                partitions: number(config.partition_count),
                primary_key_bytes: number(config.primary_key_length),
                secondary_key_bytes: number(config.secondary_key_length),
            }),
            (Status::TableNotFound, _) => Err(Error::NoSuchTable(table.to_string())),
            (Status::Success, None) | (Status::Failure, _) => Err(failed(what)),
        }
    }

    /// Returns a key-value table's partitions, lowest primary keys first. They are segments of a stream of
    /// the table's name and [`TABLE_SUFFIX`](sarit_proto::names::TABLE_SUFFIX).
    ///
    /// # Errors
    /// [`Error::NoSuchTable`], and those of [`Error`].
    pub async fn table_partitions(&self, table: &ScopedStream) -> Result<Vec<Owner>, Error> {
        let what = "getCurrentSegmentsKeyValueTable";
        let request = api::KeyValueTableInfo::from(table);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_current_segments_key_value_table(request).await }
            })
            .await;
        let reply = reply.map_err(|error| no_table(error, table))?;
        self.owners(what, &reply)
    }

    /// Lists a scope's key-value tables, a page at a time, from the page that `from` names; empty for the
    /// first.
    ///
    /// # Errors
    /// [`Error::NoSuchScope`], and those of [`Error`].
    pub async fn list_tables(
        &self,
        scope: &ScopeName,
        from: &str,
    ) -> Result<Listing<String>, Error> {
        use kv_tables_in_scope_response::Status;
        let what = "listKeyValueTablesInScope";
        let request = api::KvTablesInScopeRequest {
            scope: Some(scope.into()),
            continuation_token: Some(token(from)),
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.list_key_value_tables_in_scope(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(Listing {
                names: reply
                    .kvtables
                    .into_iter()
                    .map(|table| table.kvt_name)
                    .collect(),
                next: reply.continuation_token.unwrap_or_default().token,
            }),
            Status::ScopeNotFound => Err(Error::NoSuchScope(scope.to_string())),
            Status::Failure => Err(failed(what)),
        }
    }
}

fn no_table(error: Error, table: &ScopedStream) -> Error {
    match error {
        Error::NotFound { .. } => Error::NoSuchTable(table.to_string()),
        other => other,
    }
}
