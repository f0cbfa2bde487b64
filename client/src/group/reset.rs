//! Lets a reader group begin somewhere else, the way the Java client's `resetReaderGroup` does it.
//!
//! The group's log is told that a new configuration comes; the controller takes it, under a new
//! generation; then the log begins anew with it. Readers of before are turned away and have to be
//! created again. A reset that is interrupted in between is ended by the first reader that looks.

use sarit_proto::controller::{self as api, ReaderGroupConfiguration, StreamCut as CutMessage};
use sarit_proto::names::ScopeName;
use sarit_proto::stream_cut::{CutError, SegmentPosition, StreamCut};

use super::records::{self, beginning, updating};
use super::state::State;
use crate::Error;
use crate::client::Client;

/// How often something else may be written to the group's log first.
const TRIES_MAX: usize = 20;

/// Where a group begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest events kept.
    Head,
    /// With what is written from now on.
    Tail,
    /// Where the group was at its last complete checkpoint.
    Checkpoint,
    /// At these positions; streams without one stay where their configuration began.
    Cuts(Vec<StreamCut>),
}

/// What a reset came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// How often the group's configuration was changed since it was created.
    pub generation: i64,
    /// Where the group begins now, one cut for each of its streams.
    pub starts: Vec<StreamCut>,
}

impl Client {
    /// Lets a reader group begin somewhere else. Its readers are turned away.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`]; [`Error::NoCheckpoint`]; [`Error::NotInGroup`] for a cut of a stream that
    /// the group does not read; [`Error::NotAGroup`]; and those of [`Error`].
    pub async fn reset_group(
        &self,
        scope: &ScopeName,
        group: &str,
        start: &Start,
    ) -> Result<Reset, Error> {
        let name = || format!("{scope}/{group}");
        let mut config = self.controller().group_configuration(scope, group).await?;
        let (state, _) = self.group_log(scope, group).await?;
        let cuts = match start {
            Start::Head | Start::Tail => Vec::new(),
            Start::Cuts(cuts) => cuts.clone(),
            Start::Checkpoint => {
                let cuts = state
                    .checkpoint()
                    .map_err(|why| self.not_a_group(name(), why))?;
                cuts.ok_or_else(|| Error::NoCheckpoint(name()))?
            }
        };
        for message in &mut config.starting_stream_cuts {
            let stream = api::convert::stream_of(&message.stream_info);
            let stream = stream.map_err(|error| refused(error.to_string()))?;
            match start {
                Start::Head => message.cut.clear(),
                Start::Tail => *message = CutMessage::from(&self.tail(&stream).await?),
                Start::Checkpoint | Start::Cuts(_) => {
                    if let Some(cut) = cuts.iter().find(|cut| cut.stream == stream) {
                        *message = CutMessage::from(cut);
                    }
                }
            }
        }
        for cut in &cuts {
            let stream = cut.stream.to_string();
            let known = |message: &CutMessage| {
                let info = message.stream_info.clone().unwrap_or_default();
                format!("{}/{}", info.scope, info.stream) == stream
            };
            if !config.starting_stream_cuts.iter().any(known) {
                return Err(Error::NotInGroup {
                    group: name(),
                    stream,
                });
            }
        }
        let known = config.generation;
        // A log that is older than the controller's configuration is brought up to it all the same.
        self.note(scope, group, |state| {
            (state.generation() <= known).then(updating)
        })
        .await?;
        config.generation = self.controller().update_group(&config).await?;
        let (starts, ends) = self.bounds(&config).await?;
        let record = beginning(&config, &starts, &ends).map_err(bad_cut)?;
        let generation = config.generation;
        // A reader may have been faster: it does the same.
        self.note(scope, group, |state| {
            (state.generation() < generation).then(|| record.clone())
        })
        .await?;
        Ok(Reset { generation, starts })
    }

    /// Writes to a group's log what is to be written in the state it has at that moment, if anything.
    async fn note(
        &self,
        scope: &ScopeName,
        group: &str,
        decide: impl Fn(&State) -> Option<Vec<u8>>,
    ) -> Result<(), Error> {
        for _ in 0..TRIES_MAX {
            let (state, end) = self.group_log(scope, group).await?;
            let Some(record) = decide(&state) else {
                return Ok(());
            };
            let Some((&id, &SegmentPosition::At(end_at))) = end.positions.first_key_value() else {
                return Err(self.not_a_group(format!("{scope}/{group}"), "its log has no end"));
            };
            let segment = end.stream.segment(id).to_string();
            if self.segments().append_at(&segment, end_at, &record).await? {
                return Ok(());
            }
        }
        Err(Error::Unavailable {
            what: "resetting a reader group",
            message: "its readers write to its log all the time".to_owned(),
        })
    }

    /// Where the group's streams begin and end; what has no bound begins at its head and has no end.
    async fn bounds(
        &self,
        config: &ReaderGroupConfiguration,
    ) -> Result<(Vec<StreamCut>, Vec<StreamCut>), Error> {
        let mut starts = Vec::new();
        for message in &config.starting_stream_cuts {
            let start = match records::parse(message).map_err(bad_cut)? {
                Some(cut) => cut,
                None => {
                    let stream = api::convert::stream_of(&message.stream_info);
                    let stream = stream.map_err(|error| refused(error.to_string()))?;
                    self.controller().head(&stream).await?
                }
            };
            starts.push(start);
        }
        let ends = config.ending_stream_cuts.iter().map(records::parse);
        let ends: Result<Vec<_>, _> = ends.collect();
        Ok((
            starts,
            ends.map_err(bad_cut)?.into_iter().flatten().collect(),
        ))
    }

    fn not_a_group(&self, group: String, why: &'static str) -> Error {
        Error::NotAGroup { group, why }
    }
}

impl crate::Controller {
    /// Gives a group another configuration; returns its generation.
    pub(crate) async fn update_group(
        &self,
        config: &ReaderGroupConfiguration,
    ) -> Result<i64, Error> {
        use api::update_reader_group_response::Status;
        let what = "updateReaderGroup";
        let request = config.clone();
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.update_reader_group(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(reply.generation),
            Status::RgNotFound => Err(Error::NoSuchGroup(format!(
                "{}/{}",
                config.scope, config.reader_group_name
            ))),
            Status::InvalidConfig => self.updated_to(config).await?.ok_or(Error::Refused {
                what,
                message: "its configuration was changed meanwhile: try again".to_owned(),
            }),
            Status::Failure => Err(Error::Refused {
                what,
                message: "the controller answered FAILURE".to_owned(),
            }),
        }
    }

    /// Returns the generation if a group has the configuration it was to get: the answer to the first
    /// try was lost.
    async fn updated_to(&self, wanted: &ReaderGroupConfiguration) -> Result<Option<i64>, Error> {
        let scope = ScopeName::occurring(wanted.scope.clone());
        let scope = scope.map_err(|error| Error::InvalidName(error.to_string()))?;
        let group = &wanted.reader_group_name;
        let mut found = self.group_configuration(&scope, group).await?;
        let generation = found.generation;
        found.generation -= 1;
        Ok((found == *wanted).then_some(generation))
    }
}

fn refused(message: String) -> Error {
    Error::Refused {
        what: "resetting a reader group",
        message,
    }
}

fn bad_cut(error: CutError) -> Error {
    refused(error.to_string())
}
