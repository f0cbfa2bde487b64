//! What every scenario starts from: the client, a scope of its own, and the clean-up.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use futures_util::TryStreamExt;
use pravega_client::client_factory::ClientFactoryAsync;
use pravega_client::event::reader_group::{
    ReaderGroup, ReaderGroupConfig, ReaderGroupConfigBuilder,
};
use pravega_client::sync::{Synchronizer, Table};
use pravega_client_config::{ClientConfig, ClientConfigBuilder};
use pravega_client_retry::retry_policy::RetryWithBackoff;
use pravega_client_shared::{Retention, Scaling, Scope, ScopedStream, Stream, StreamConfiguration};
use pravega_controller_client::{ControllerClient, paginator};
use tokio::runtime::Handle;

/// A client and a scope that no other scenario uses.
pub(crate) struct World {
    pub(crate) client: ClientFactoryAsync,
    pub(crate) scope: Scope,
    /// Sets this run's data apart from any other's.
    pub(crate) nonce: u64,
    config: ClientConfig,
    /// Names of table segments made by this scenario. The controller doesn't know of them.
    tables: Mutex<Vec<String>>,
}

impl World {
    /// Makes a client for the controller at `uri`. Nothing is created on the server yet.
    pub(crate) fn new(uri: &str, scenario: &str) -> Result<Self> {
        let nonce = RandomState::new().hash_one(scenario);
        let scope = format!("rust-{}-{nonce:016x}", scenario.replace('_', "-"));
        Self::within(uri, Scope::from(scope), nonce)
    }

    /// Makes a client that works in the given scope.
    pub(crate) fn within(uri: &str, scope: Scope, nonce: u64) -> Result<Self> {
        Self::with(ClientConfigBuilder::default(), uri, scope, nonce)
    }

    /// The same for a server that is killed: tries again after 20, 40, … up to 2,000 ms. The defaults (1 ms,
    /// ten times as long each time) wait 10 s after the first second, and would measure that instead of the
    /// server. The controller is asked eleven times only, whatever the settings; then the client's readers
    /// panic.
    pub(crate) fn patient(uri: &str, scope: Scope) -> Result<Self> {
        let retries = RetryWithBackoff::default_setting()
            .initial_delay(Duration::from_millis(20))
            .backoff_coefficient(2)
            .max_delay(Duration::from_secs(2));
        let mut config = ClientConfigBuilder::default();
        config.retry_policy(retries);
        Self::with(config, uri, scope, 0)
    }

    fn with(mut config: ClientConfigBuilder, uri: &str, scope: Scope, nonce: u64) -> Result<Self> {
        let config = config
            .controller_uri(uri)
            .build()
            .map_err(|reason| anyhow!("{uri}: {reason}"))?;
        Ok(Self {
            client: ClientFactoryAsync::new(config.clone(), Handle::current()),
            scope,
            nonce,
            config,
            tables: Mutex::default(),
        })
    }

    /// A second client that shares nothing with the first, as another process would have.
    pub(crate) fn another_client(&self) -> ClientFactoryAsync {
        ClientFactoryAsync::new(self.config.clone(), Handle::current())
    }

    pub(crate) fn controller(&self) -> &dyn ControllerClient {
        self.client.controller_client()
    }

    pub(crate) fn stream(&self, name: &str) -> ScopedStream {
        ScopedStream::new(self.scope.clone(), Stream::from(name.to_owned()))
    }

    /// Creates a stream with a fixed number of segments, and its scope if need be.
    pub(crate) async fn create_stream(&self, name: &str, segments: i32) -> Result<ScopedStream> {
        self.controller().create_scope(&self.scope).await?;
        let stream = self.stream(name);
        let config = configuration(stream.clone(), segments);
        ensure!(
            self.controller().create_stream(&config).await?,
            "{stream} exists already"
        );
        Ok(stream)
    }

    /// Creates a reader group that starts at the stream's head.
    pub(crate) async fn create_group(&self, name: &str, stream: &ScopedStream) -> ReaderGroup {
        let mut config = ReaderGroupConfigBuilder::default();
        config.read_from_head_of_stream(stream.clone());
        self.create_group_with(name, config.build()).await
    }

    pub(crate) async fn create_group_with(
        &self,
        name: &str,
        config: ReaderGroupConfig,
    ) -> ReaderGroup {
        self.remember_table(name);
        let scope = self.scope.clone();
        self.client
            .create_reader_group_with_config(scope, name.to_owned(), config)
            .await
    }

    pub(crate) async fn create_table(&self, name: &str) -> Table {
        self.remember_table(name);
        self.client
            .create_table(self.scope.clone(), name.to_owned())
            .await
    }

    pub(crate) async fn create_synchronizer(
        &self,
        client: &ClientFactoryAsync,
        name: &str,
    ) -> Synchronizer {
        self.remember_table(name);
        client
            .create_synchronizer(self.scope.clone(), name.to_owned())
            .await
    }

    /// Start offsets of the stream's segments at its head, by segment id.
    pub(crate) async fn head(&self, stream: &ScopedStream) -> Result<BTreeMap<i64, i64>> {
        let head = self.controller().get_head_segments(stream).await?;
        Ok(head
            .into_iter()
            .map(|(segment, offset)| (segment.number, offset))
            .collect())
    }

    /// Removes the scope and all that is in it. A scope that was never created is no error.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        let tables = std::mem::take(&mut *self.tables.lock().expect("no holder panics"));
        for table in tables {
            // Groups, synchronizers and tables are all one table segment; only this call deletes
            // one.
            self.client
                .delete_reader_group(self.scope.clone(), table)
                .await?;
        }
        if !self.controller().check_scope_exists(&self.scope).await? {
            return Ok(());
        }
        let streams: Vec<ScopedStream> =
            paginator::list_streams(self.scope.clone(), self.controller())
                .try_collect()
                .await?;
        for stream in streams
            .iter()
            .filter(|stream| !stream.stream.name.starts_with('_'))
        {
            self.controller().seal_stream(stream).await?;
            self.controller().delete_stream(stream).await?;
        }
        ensure!(
            self.controller().delete_scope(&self.scope).await?,
            "the scope had gone"
        );
        Ok(())
    }

    fn remember_table(&self, name: &str) {
        let mut tables = self.tables.lock().expect("no holder panics");
        if !tables.iter().any(|known| known == name) {
            tables.push(name.to_owned());
        }
    }
}

/// A stream with a fixed number of segments, kept for ever, without tags.
pub(crate) fn configuration(scoped_stream: ScopedStream, segments: i32) -> StreamConfiguration {
    StreamConfiguration {
        scoped_stream,
        scaling: Scaling {
            min_num_segments: segments,
            ..Scaling::default()
        },
        retention: Retention::default(),
        tags: None,
    }
}
