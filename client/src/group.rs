//! Reader groups of the official Java client, seen from outside: their configuration, who reads, how far
//! they are.
//!
//! The readers of a group share a log of what they did, in a stream of the group's. [`Client::group`]
//! reads it as they do and says what follows from it; it changes nothing. [`Client::reset_group`] lets
//! the group begin somewhere else, as the Java client's own reset does. Positions are those that the
//! readers noted last, so they lag behind by a checkpoint, or a few seconds.

mod checkpoints;
mod records;
mod reset;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use sarit_proto::controller::{
    self as api, ReaderGroupConfiguration, reader_group_config_response, reader_group_configuration,
};
use sarit_proto::ids::AttributeId;
use sarit_proto::names::{READER_GROUP_PREFIX, ScopeName, ScopedStream, StreamName};
use sarit_proto::stream_cut::{SegmentPosition, StreamCut};

use crate::client::Client;
use crate::event::{From, Until};
use crate::{Controller, Error};
use state::State;

pub use reset::{Reset, Start};

/// A reader group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its configuration, as it was given.
    pub config: GroupConfig,
    /// The readers that are online.
    pub readers: BTreeSet<String>,
    /// Where the group is in each of its streams.
    pub positions: BTreeMap<ScopedStream, StreamCut>,
}

/// How a reader group was set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// How often its configuration was changed.
    pub generation: i64,
    /// Between two checkpoints that nobody asked for, in milliseconds.
    pub checkpoint_interval_ms: i64,
    /// Between two looks at what others do, in milliseconds.
    pub refresh_ms: i64,
    /// Whether its position holds back truncation, and who says so: `none`, `manual`, `automatic`.
    pub retention: &'static str,
    /// The streams it reads.
    pub streams: Vec<String>,
}

impl Controller {
    /// Returns a reader group's configuration.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], and those of [`Error`].
    pub async fn group_config(&self, scope: &ScopeName, group: &str) -> Result<GroupConfig, Error> {
        use reader_group_configuration::RetentionType;
        let config = self.group_configuration(scope, group).await?;
        let retention = match RetentionType::try_from(config.retention_type) {
            Ok(RetentionType::None) => "none",
            Ok(RetentionType::Manual) => "manual",
            Ok(RetentionType::Automatic) => "automatic",
            Err(_) => "unknown",
        };
        let streams = config.starting_stream_cuts.iter().map(|cut| {
            let info = cut.stream_info.clone().unwrap_or_default();
            format!("{}/{}", info.scope, info.stream)
        });
        Ok(GroupConfig {
            generation: config.generation,
            checkpoint_interval_ms: config.automatic_checkpoint_interval_millis,
            refresh_ms: config.group_refresh_time_millis,
            retention,
            streams: streams.collect(),
        })
    }

    /// Returns a reader group's configuration as the controller has it.
    async fn group_configuration(
        &self,
        scope: &ScopeName,
        group: &str,
    ) -> Result<ReaderGroupConfiguration, Error> {
        use reader_group_config_response::Status;
        let what = "getReaderGroupConfig";
        let request = api::ReaderGroupInfo {
            scope: scope.to_string(),
            reader_group: group.to_owned(),
            ..api::ReaderGroupInfo::default()
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_reader_group_config(request).await }
            })
            .await;
        let missing = || Error::NoSuchGroup(format!("{scope}/{group}"));
        let reply = reply.map_err(|error| match error {
            Error::NotFound { .. } => missing(),
            other => other,
        })?;
        match (reply.status(), reply.config) {
            (Status::Success, Some(config)) => Ok(config),
            (Status::RgNotFound, _) => Err(missing()),
            (Status::Success, None) | (Status::Failure, _) => Err(Error::Refused {
                what,
                message: "the controller answered FAILURE".to_owned(),
            }),
        }
    }
}

impl Client {
    /// Looks at a reader group.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`]; [`Error::NotAGroup`] if its log cannot be understood; and those of [`Error`].
    pub async fn group(&self, scope: &ScopeName, group: &str) -> Result<Group, Error> {
        let config = self.controller().group_config(scope, group).await?;
        let (state, _) = self.group_log(scope, group).await?;
        Ok(Group {
            config,
            readers: state.readers().clone(),
            positions: state.positions(),
        })
    }

    /// Reads a group's log: what it says, and where it ends.
    async fn group_log(&self, scope: &ScopeName, group: &str) -> Result<(State, StreamCut), Error> {
        let name = StreamName::new(format!("{READER_GROUP_PREFIX}{group}"));
        let log = ScopedStream {
            scope: scope.clone(),
            stream: name.map_err(|error| Error::InvalidName(error.to_string()))?,
        };
        let mut head = self.controller().head(&log).await?;
        for (segment, position) in &mut head.positions {
            let segment = log.segment(*segment).to_string();
            let mark = self.segments().attribute(&segment, MARK).await?;
            // What lies before the mark is told again behind it.
            if let (SegmentPosition::At(start), Ok(mark)) = (position, u64::try_from(mark)) {
                start.0 = start.0.max(mark);
            }
        }
        let mut reader = self
            .event_reader(&log, From::Cut(head), Until::Tail)
            .await?;
        let mut state = State::default();
        while let Some(event) = reader.next().await? {
            let applied = state.apply(&event.payload);
            applied.map_err(|why| Error::NotAGroup {
                group: format!("{scope}/{group}"),
                why,
            })?;
        }
        Ok((state, reader.cut()))
    }
}

/// Where the latest record lies that tells everything again.
const MARK: AttributeId = AttributeId(0x7df9_a874_246c_c9d6_9397_cdd1_9ead_68c5);
