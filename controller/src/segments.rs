//! The calls we make to segment stores.
//!
//! [`SegmentStore`] stands between the tasks and the network. All calls may be repeated: what is
//! already so stays so. The real implementation speaks the wire protocol and retries for about a
//! second; that a task goes on for longer is the task's matter.

use std::sync::Arc;

use async_trait::async_trait;
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

/// A segment nobody makes: a store that says so answers.
const PROBE: &str = "_system/probe/0.#epoch.0";

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

/// A segment store, as the controller uses it.
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
    /// Finds out whether it answers at all.
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
            Self::SetPolicy(policy) => store.set_policy(segment, policy).await,
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

/// The segment store at the other end of the wire protocol.
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
        match self.hosts.advertised() {
            Some(_) => None,
            None => self.hosts.trouble(),
        }
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
        match self.segments.info(PROBE).await.map_err(translate) {
            Ok(_) | Err(Error::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
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
