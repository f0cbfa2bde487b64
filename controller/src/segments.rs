//! The calls we make to segment stores.
//!
//! [`SegmentStore`] stands between the tasks and the network. All calls may be repeated: what is
//! already so stays so. The real implementation speaks the wire protocol and retries for about a
//! second; that a task goes on for longer is the task's matter.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use sarit_client::config::{ConnectionConfig, Retry};
use sarit_client::connection::Pool;
use sarit_client::segment::admin::SegmentPolicy;
use sarit_client::segment::table::TableKeys;
use sarit_client::segment::{Numbered, Segments};
use sarit_env::{Net, Rng};
use sarit_proto::controller::StreamConfig;
use sarit_proto::ids::Offset;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::placement::hosts::SharedHosts;

/// Why a segment store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be reached or cannot answer now. It may still have been done.
    #[error("segment store unavailable: {0}")]
    Unavailable(String),
    /// There is no such segment.
    #[error("segment {0} does not exist on the segment store")]
    Missing(String),
    /// It takes no more bytes.
    #[error("segment {0} is sealed")]
    Sealed(String),
    /// It never will do this.
    #[error("segment store refused: {0}")]
    Refused(String),
}

/// How much of a segment there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The offset after its last byte.
    pub(crate) length: Offset,
    /// Whether that is the end.
    pub(crate) sealed: bool,
}

/// All segment stores together, as the controller uses them.
#[async_trait]
pub(crate) trait SegmentStore: Send + Sync {
    /// Says why a call would certainly fail now, or nothing.
    fn trouble(&self) -> Option<String>;
    /// Makes a segment; fine if it exists.
    async fn create(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error>;
    /// Changes how a segment's load is judged.
    async fn set_policy(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error>;
    /// Seals a segment; fine if it is.
    async fn seal(&self, segment: &str) -> Result<(), Error>;
    /// Drops what is below `offset`; fine if it is gone.
    async fn truncate(&self, segment: &str, offset: Offset) -> Result<(), Error>;
    /// Deletes a segment; fine if it does not exist.
    async fn delete(&self, segment: &str) -> Result<(), Error>;
    /// Makes a table segment with keys of `key_length` bytes; fine if it exists.
    async fn create_table(&self, segment: &str, key_length: u16) -> Result<(), Error>;
    /// Appends `sources` to `target` in this order and removes them; those that are gone are passed over.
    async fn merge(&self, target: &str, sources: &[String]) -> Result<(), Error>;
    /// Appends an event, unless it has it.
    async fn append_once(&self, segment: &str, event: &Numbered) -> Result<(), Error>;
    /// Finds out whether all of it answers at all.
    async fn probe(&self) -> Result<(), Error>;
    /// Measures a segment.
    async fn extent(&self, segment: &str) -> Result<Extent, Error>;
}

/// A change of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Create(SegmentPolicy),
    CreateTable(u16),
    SetPolicy(SegmentPolicy),
    Seal,
    Truncate(Offset),
    Merge(Vec<String>),
    Delete,
}

impl Call {
    /// Makes the call. A missing segment means that someone deleted it behind our back: what should be
    /// done to it is pointless, and must not hold up its stream for ever.
    pub(crate) async fn make(self, store: &dyn SegmentStore, segment: &str) -> Result<(), Error> {
        let outcome = match self {
            Self::Create(policy) => store.create(segment, policy).await,
            Self::CreateTable(key_length) => store.create_table(segment, key_length).await,
            // What takes no more bytes needs no policy.
            Self::SetPolicy(policy) => match store.set_policy(segment, policy).await {
                Err(Error::Sealed(_)) => Ok(()),
                other => other,
            },
            Self::Seal => store.seal(segment).await,
            Self::Truncate(offset) => store.truncate(segment, offset).await,
            Self::Merge(sources) => merge(store, segment, &sources).await,
            Self::Delete => store.delete(segment).await,
        };
        match outcome {
            Err(Error::Missing(segment)) => {
                warn!(segment, "segment is missing on the segment store");
                Ok(())
            }
            other => other,
        }
    }
}

/// A sealed target is right if all was merged before it was sealed.
async fn merge(store: &dyn SegmentStore, target: &str, sources: &[String]) -> Result<(), Error> {
    let sealed = match store.merge(target, sources).await {
        Err(error @ Error::Sealed(_)) => error,
        other => return other,
    };
    for source in sources {
        match store.extent(source).await {
            Err(Error::Missing(_)) => {}
            Ok(_) => return Err(sealed),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the policy that a stream's segments get.
pub(crate) fn policy(config: &StreamConfig) -> SegmentPolicy {
    let policy = config.scaling_policy.unwrap_or_default();
    SegmentPolicy {
        scale_type: u8::try_from(policy.scale_type).unwrap_or(0),
        target_rate: if policy.scale_type == 0 {
            0
        } else {
            policy.target_rate
        },
    }
}

/// The segment stores at the other end of the wire protocol; each segment's is asked.
pub(crate) struct WireStore {
    segments: Segments,
    hosts: SharedHosts,
}

impl WireStore {
    /// Connects when first needed; `tasks` owns the connections.
    pub(crate) fn new(net: Arc<dyn Net>, hosts: SharedHosts, rng: Rng, tasks: TaskTracker) -> Self {
        let connections = ConnectionConfig {
            per_store_max: 2,
            connect_timeout_ms: 1_000,
            request_timeout_ms: 10_000,
            ..ConnectionConfig::default()
        };
        let retry = Retry {
            delay_min_ms: 20,
            delay_max_ms: 200,
            deadline_ms: 1_000,
        };
        let pool = Pool::new(net, connections, tasks);
        let segments = Segments::new(pool, hosts.clone(), retry, rng);
        Self { segments, hosts }
    }
}

#[async_trait]
impl SegmentStore for WireStore {
    fn trouble(&self) -> Option<String> {
        self.hosts.missing()
    }

    async fn create(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error> {
        let created = self.segments.create(segment, policy).await;
        created.map(drop).map_err(translate)
    }

    async fn set_policy(&self, segment: &str, policy: SegmentPolicy) -> Result<(), Error> {
        let updated = self.segments.update_policy(segment, policy).await;
        updated.map_err(translate)
    }

    async fn seal(&self, segment: &str) -> Result<(), Error> {
        let sealed = self.segments.seal(segment).await;
        sealed.map_err(translate)
    }

    async fn truncate(&self, segment: &str, offset: Offset) -> Result<(), Error> {
        let truncated = self.segments.truncate(segment, offset).await;
        truncated.map_err(translate)
    }

    async fn delete(&self, segment: &str) -> Result<(), Error> {
        let deleted = self.segments.delete(segment).await;
        deleted.map(drop).map_err(translate)
    }

    async fn create_table(&self, segment: &str, key_length: u16) -> Result<(), Error> {
        let keys = TableKeys::Fixed(key_length);
        let created = self.segments.create_table(segment, keys).await;
        created.map(drop).map_err(translate)
    }

    async fn merge(&self, target: &str, sources: &[String]) -> Result<(), Error> {
        self.segments
            .merge(target, sources)
            .await
            .map_err(translate)
    }

    async fn append_once(&self, segment: &str, event: &Numbered) -> Result<(), Error> {
        let appended = self.segments.append_once(segment, event).await;
        appended.map_err(translate)
    }

    async fn probe(&self) -> Result<(), Error> {
        let probes = self.hosts.probes();
        let probes = probes.iter().map(|probe| self.segments.info(probe));
        let found = join_all(probes).await.into_iter();
        let failed = found.filter_map(|found| found.map_err(translate).err());
        let failed = failed.filter(|error| !matches!(error, Error::Missing(_)));
        failed.map(Err).next().unwrap_or(Ok(()))
    }

    async fn extent(&self, segment: &str) -> Result<Extent, Error> {
        let info = self.segments.info(segment).await;
        let info = info.map_err(translate)?;
        Ok(Extent {
            length: info.length,
            sealed: info.sealed,
        })
    }
}

fn translate(error: sarit_client::Error) -> Error {
    match error {
        sarit_client::Error::NoSuchSegment(segment) => Error::Missing(segment),
        sarit_client::Error::SegmentSealed(segment) => Error::Sealed(segment),
        error if error.is_retryable() => Error::Unavailable(error.to_string()),
        error => Error::Refused(error.to_string()),
    }
}
