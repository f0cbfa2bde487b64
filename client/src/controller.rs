//! Calls to the controller: scopes, streams, their segments, who serves them.
//!
//! This is the retrying level of controller calls. All of them can be repeated: one whose aim is already
//! reached says so (a scope that exists, a stream that is gone) without being an error. So every call is
//! tried again, with backoff and jitter, while the controller can't be reached or is busy, until the
//! deadline of [`Retry`](crate::config::Retry). After a lost reply, "was there already" may mean this
//! very call.

mod scale;
mod scopes;
mod tables;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use sarit_env::{Net, Rng};
use sarit_proto::controller::internal::operations_client::OperationsClient;
use sarit_proto::controller::{
    self as api, ConvertError, create_stream_status, delete_stream_status,
    streams_in_scope_response, update_stream_status,
};
use sarit_proto::ids::SegmentId;
use sarit_proto::names::{ScopeName, ScopedStream, SegmentName, StreamSegment};
use sarit_proto::policy::StreamConfig;
use sarit_proto::stream_cut::StreamCut;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::Error;
use crate::config::{Backoff, Config};
use crate::connection::Endpoint;
use crate::event::{Owner, Successor};
use crate::segment::Locate;

pub use scale::Scaling;
pub use tables::TableConfig;
pub use transactions::{OpenTransaction, TransactionStatus};

type Api = api::ControllerServiceClient<Channel>;
/// Calls that only our own controller answers.
type Operations = OperationsClient<Channel>;

/// A handle to the controller; clones share its connection. Connects with the first call.
#[derive(Clone)]
pub struct Controller {
    api: Api,
    operations: Operations,
    endpoint: Endpoint,
    config: Arc<Config>,
    rng: Rng,
    addresses: Arc<Mutex<BTreeMap<String, Endpoint>>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controller({})", self.endpoint)
    }
}

/// A page of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// The names. None: the list is over.
    pub names: Vec<T>,
    /// What to ask for the next page with.
    pub next: String,
}

impl Controller {
    pub(crate) fn new(
        net: Arc<dyn Net>,
        endpoint: Endpoint,
        config: Arc<Config>,
        rng: Rng,
    ) -> Result<Self, Error> {
        let transport = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|_| Error::Address(endpoint.to_string()))?
            .http2_keep_alive_interval(config.connection.keep_alive())
            .keep_alive_timeout(config.connection.keep_alive() * 2);
        let limit = config.connection.connect_timeout();
        let to = endpoint.clone();
        let channel = transport.connect_with_connector_lazy(tower::service_fn(move |_| {
            let (net, to) = (Arc::clone(&net), to.clone());
            async move {
                let connect = net.connect(&to.host, to.port);
                let stream = tokio::time::timeout(limit, connect).await??;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        }));
        Ok(Self {
            api: Api::new(channel.clone()),
            operations: Operations::new(channel),
            endpoint,
            config,
            rng,
            addresses: Arc::default(),
        })
    }

    /// Creates a stream. Returns whether it is new; an existing one keeps its configuration.
    ///
    /// # Errors
    /// [`Error::NoSuchScope`], [`Error::InvalidName`], and those of [`Error`].
    pub async fn create_stream(
        &self,
        stream: &ScopedStream,
        config: &StreamConfig,
    ) -> Result<bool, Error> {
        use create_stream_status::Status;
        let what = "createStream";
        let request = api::StreamConfig::new(stream, config);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.create_stream(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(true),
            Status::StreamExists => Ok(false),
            Status::ScopeNotFound => Err(Error::NoSuchScope(stream.scope.to_string())),
            Status::InvalidStreamName => Err(Error::InvalidName(stream.stream.to_string())),
            Status::Failure => Err(failed(what)),
        }
    }

    /// Replaces a stream's configuration, tags included.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], [`Error::StreamSealed`], and those of [`Error`].
    pub async fn update_stream(
        &self,
        stream: &ScopedStream,
        config: &StreamConfig,
    ) -> Result<(), Error> {
        let what = "updateStream";
        let request = api::StreamConfig::new(stream, config);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.update_stream(request).await }
            })
            .await?;
        updated(what, stream, &reply)
    }

    /// Drops everything before `cut`.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], [`Error::StreamSealed`]; [`Error::Refused`] if the cut does not cover
    /// every key once, or lies before what is dropped already; and those of [`Error`].
    pub async fn truncate_stream(&self, cut: &StreamCut) -> Result<(), Error> {
        let what = "truncateStream";
        let request = api::StreamCut::from(cut);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.truncate_stream(request).await }
            })
            .await?;
        updated(what, &cut.stream, &reply)
    }

    /// Ends a stream: it takes no more events. A sealed one stays so.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn seal_stream(&self, stream: &ScopedStream) -> Result<(), Error> {
        let what = "sealStream";
        let request = api::StreamInfo::from(stream);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.seal_stream(request).await }
            })
            .await?;
        match updated(what, stream, &reply) {
            Err(Error::StreamSealed(_)) => Ok(()),
            done => done,
        }
    }

    /// Deletes a sealed stream. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::StreamNotSealed`], and those of [`Error`].
    pub async fn delete_stream(&self, stream: &ScopedStream) -> Result<bool, Error> {
        use delete_stream_status::Status;
        let what = "deleteStream";
        let request = api::StreamInfo::from(stream);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.delete_stream(request).await }
            })
            .await?;
        match reply.status() {
            Status::Success => Ok(true),
            Status::StreamNotFound => Ok(false),
            Status::StreamNotSealed => Err(Error::StreamNotSealed(stream.to_string())),
            Status::Failure => Err(failed(what)),
        }
    }

    /// Returns whether a stream is there.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn stream_exists(&self, stream: &ScopedStream) -> Result<bool, Error> {
        let request = api::StreamInfo::from(stream);
        let reply = self.ask("checkStreamExists", move |mut api| {
            let request = request.clone();
            async move { api.check_stream_exists(request).await }
        });
        Ok(reply.await?.exists)
    }

    /// Returns a stream's configuration.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn stream_config(&self, stream: &ScopedStream) -> Result<StreamConfig, Error> {
        let what = "getStreamConfiguration";
        let request = api::StreamInfo::from(stream);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_stream_configuration(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        StreamConfig::try_from(&reply).map_err(|error| self.broken(what, error))
    }

    /// Lists a scope's streams, a page at a time, from the page that `from` names; empty for the first.
    /// Internal streams, whose names start with an underscore, are among them.
    ///
    /// # Errors
    /// [`Error::NoSuchScope`], and those of [`Error`].
    pub async fn list_streams(
        &self,
        scope: &ScopeName,
        from: &str,
    ) -> Result<Listing<String>, Error> {
        let what = "listStreamsInScope";
        let request = api::StreamsInScopeRequest {
            scope: Some(scope.into()),
            continuation_token: Some(token(from)),
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.list_streams_in_scope(request).await }
            })
            .await?;
        listed(what, scope, reply)
    }

    /// Lists a scope's streams that have a tag, as [`Controller::list_streams`] does.
    ///
    /// # Errors
    /// [`Error::NoSuchScope`], and those of [`Error`].
    pub async fn list_streams_with_tag(
        &self,
        scope: &ScopeName,
        tag: &str,
        from: &str,
    ) -> Result<Listing<String>, Error> {
        let what = "listStreamsInScopeForTag";
        let request = api::StreamsInScopeWithTagRequest {
            scope: Some(scope.into()),
            tag: tag.to_owned(),
            continuation_token: Some(token(from)),
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.list_streams_in_scope_for_tag(request).await }
            })
            .await?;
        listed(what, scope, reply)
    }

    /// Returns the segments that take events now, lowest keys first; none if the stream is sealed.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn current_segments(&self, stream: &ScopedStream) -> Result<Vec<Owner>, Error> {
        let what = "getCurrentSegments";
        let request = api::StreamInfo {
            access_operation: api::stream_info::AccessOperation::None.into(),
            ..stream.into()
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_current_segments(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        self.owners(what, &reply)
    }

    /// Returns the segments that took events in an epoch, counted from 0, lowest keys first.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there was no such epoch, or no such stream, and those of [`Error`].
    pub async fn epoch_segments(
        &self,
        stream: &ScopedStream,
        epoch: i32,
    ) -> Result<Vec<Owner>, Error> {
        let what = "getEpochSegments";
        let request = api::GetEpochSegmentsRequest {
            stream_info: Some(stream.into()),
            epoch,
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_epoch_segments(request).await }
            })
            .await?;
        self.owners(what, &reply)
    }

    /// Returns where the oldest events kept are.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn head(&self, stream: &ScopedStream) -> Result<StreamCut, Error> {
        let what = "getSegments";
        let request = api::GetSegmentsRequest {
            stream_info: Some(api::StreamInfo {
                access_operation: api::stream_info::AccessOperation::None.into(),
                ..stream.into()
            }),
            timestamp: 0,
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_segments(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        let positions = reply.segments.iter().map(|location| {
            let segment = location.segment_id.as_ref().map_or(-1, |id| id.segment_id);
            (segment, location.offset)
        });
        StreamCut::from_raw(stream.clone(), positions)
            .map_err(|error| self.broken(what, error.into()))
    }

    /// Returns all segments that have bytes between two cuts; without `to`, up to the end.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn segments_between(
        &self,
        from: &StreamCut,
        to: Option<&StreamCut>,
    ) -> Result<BTreeSet<SegmentId>, Error> {
        let what = "getSegmentsBetween";
        let request = api::StreamCutRange {
            stream_info: Some((&from.stream).into()),
            from: api::convert::cut_map(from),
            to: to.map(api::convert::cut_map).unwrap_or_default(),
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_segments_between(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, &from.stream))?;
        let ids = reply.segments.iter();
        ids.map(|id| api::convert::segment_id(id.segment_id))
            .collect::<Result<_, _>>()
            .map_err(|error| self.broken(what, error))
    }

    /// Returns the segments that take over from one that has ended, with all their predecessors; none if
    /// it has not ended, or the stream is sealed.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn successors(&self, segment: &StreamSegment) -> Result<Vec<Successor>, Error> {
        let what = "getSegmentsImmediatelyFollowing";
        let request = api::SegmentId::from(segment);
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.get_segments_immediately_following(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, &segment.stream))?;
        let mut successors = Vec::with_capacity(reply.segments.len());
        for entry in &reply.segments {
            let range = api::convert::required(&entry.segment, "segment");
            let range = range.map_err(|error| self.broken(what, error))?;
            let predecessors = entry.value.iter().copied();
            successors.push(Successor {
                owner: self.owner(what, range)?,
                predecessors: predecessors
                    .map(api::convert::segment_id)
                    .collect::<Result<_, _>>()
                    .map_err(|error| self.broken(what, error))?,
            });
        }
        successors.sort_by_key(|successor| successor.owner.keys);
        Ok(successors)
    }

    /// Returns the address of the segment store that serves a segment, from memory if it is there.
    /// Does not retry: those who need it do.
    async fn address(&self, segment: &str) -> Result<Endpoint, Error> {
        if let Some(endpoint) = self.addresses.lock().get(segment) {
            return Ok(endpoint.clone());
        }
        let what = "getURI";
        let parent = match segment.parse() {
            Ok(SegmentName::Stream(parent)) => parent,
            Ok(SegmentName::Transaction { parent, .. } | SegmentName::Transient { parent, .. }) => {
                parent
            }
            Err(_) => return Err(Error::InvalidName(segment.to_owned())),
        };
        let request = api::SegmentId::from(&parent);
        let reply = self
            .ask_once(what, |mut api| async move { api.get_uri(request).await })
            .await?;
        let (host, port) = reply.address().map_err(|error| self.broken(what, error))?;
        let endpoint = Endpoint::new(host, port);
        let mut addresses = self.addresses.lock();
        if addresses.len() >= ADDRESSES_MAX {
            addresses.clear();
        }
        addresses.insert(segment.to_owned(), endpoint.clone());
        Ok(endpoint)
    }

    fn owners(&self, what: &'static str, reply: &api::SegmentRanges) -> Result<Vec<Owner>, Error> {
        let ranges = reply.segment_ranges.iter();
        let owners = ranges.map(|range| self.owner(what, range));
        let mut owners = owners.collect::<Result<Vec<_>, _>>()?;
        owners.sort_by_key(|owner| owner.keys);
        Ok(owners)
    }

    fn owner(&self, what: &'static str, range: &api::SegmentRange) -> Result<Owner, Error> {
        let (segment, keys) = range.parts().map_err(|error| self.broken(what, error))?;
        Ok(Owner {
            segment: segment.id,
            keys,
        })
    }

    fn broken(&self, what: &'static str, error: ConvertError) -> Error {
        Error::Protocol {
            endpoint: self.endpoint.clone(),
            what: format!("{what}: {error}"),
        }
    }

    /// Waiting for something to be done ends at the deadline of one call.
    pub(crate) fn within_deadline(&self, what: &'static str, begun: Instant) -> Result<(), Error> {
        let after_ms = self.config.retry.deadline_ms;
        match begun.elapsed() < Duration::from_millis(after_ms) {
            true => Ok(()),
            false => Err(Error::Timeout {
                endpoint: self.endpoint.clone(),
                what,
                after_ms,
            }),
        }
    }

    /// Calls until there is an answer.
    pub(crate) async fn ask<T, F>(
        &self,
        what: &'static str,
        call: impl Fn(Api) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(&self.config.retry, &self.rng);
        loop {
            match self.ask_once(what, &call).await {
                Ok(reply) => return Ok(reply),
                Err(error) => backoff.pause(error).await?,
            }
        }
    }

    async fn ask_once<T, F>(
        &self,
        what: &'static str,
        call: impl FnOnce(Api) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let limit: Duration = self.config.connection.request_timeout();
        match tokio::time::timeout(limit, call(self.api.clone())).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(explain(what, &status)),
            Err(_) => Err(Error::Timeout {
                endpoint: self.endpoint.clone(),
                what,
                after_ms: self.config.connection.request_timeout_ms,
            }),
        }
    }
}

impl Locate for Controller {
    fn locate<'a>(&'a self, segment: &'a str) -> BoxFuture<'a, Result<Endpoint, Error>> {
        Box::pin(self.address(segment))
    }

    fn forget(&self, segment: &str) {
        self.addresses.lock().remove(segment);
    }
}

fn token(text: &str) -> api::ContinuationToken {
    api::ContinuationToken {
        token: text.to_owned(),
    }
}

/// Codes that say "not now" are worth another attempt. A lost connection shows as UNKNOWN, INTERNAL or
/// CANCELLED, depending on where it is noticed.
fn explain(what: &'static str, status: &Status) -> Error {
    let message = match status.message() {
        "" => format!("{:?}", status.code()),
        text => format!("{:?}: {text}", status.code()),
    };
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::Aborted
        | Code::DeadlineExceeded
        | Code::ResourceExhausted => Error::Unavailable { what, message },
        Code::NotFound => Error::NotFound { what, message },
        Code::Unimplemented => Error::Unsupported(format!("{what} ({})", status.message())),
        Code::Unauthenticated | Code::PermissionDenied => Error::Unauthorized { what, message },
        Code::Ok
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::DataLoss => Error::Refused { what, message },
    }
}

/// The answer is a status that says only that it did not work.
fn failed(what: &'static str) -> Error {
    Error::Refused {
        what,
        message: "the controller answered FAILURE".to_owned(),
    }
}

fn missing(error: Error, stream: &ScopedStream) -> Error {
    match error {
        Error::NotFound { .. } => Error::NoSuchStream(stream.to_string()),
        other => other,
    }
}

fn updated(
    what: &'static str,
    stream: &ScopedStream,
    reply: &api::UpdateStreamStatus,
) -> Result<(), Error> {
    use update_stream_status::Status;
    match reply.status() {
        Status::Success => Ok(()),
        Status::StreamNotFound => Err(Error::NoSuchStream(stream.to_string())),
        Status::ScopeNotFound => Err(Error::NoSuchScope(stream.scope.to_string())),
        Status::StreamSealed => Err(Error::StreamSealed(stream.to_string())),
        Status::Failure => Err(failed(what)),
    }
}

fn listed(
    what: &'static str,
    scope: &ScopeName,
    reply: api::StreamsInScopeResponse,
) -> Result<Listing<String>, Error> {
    use streams_in_scope_response::Status;
    match reply.status() {
        Status::Success => Ok(Listing {
            names: reply.streams.into_iter().map(|info| info.stream).collect(),
            next: reply.continuation_token.unwrap_or_default().token,
        }),
        Status::ScopeNotFound => Err(Error::NoSuchScope(scope.to_string())),
        Status::Failure => Err(failed(what)),
    }
}

/// Addresses remembered at most; then they are all asked for again.
const ADDRESSES_MAX: usize = 65_536;

#[cfg(test)]
mod tests;
