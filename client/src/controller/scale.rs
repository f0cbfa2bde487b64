//! Splitting and merging segments by request, and looking at what came of it.

use std::time::Duration;

use sarit_proto::controller::{
    self as api, scale_request, scale_response::ScaleStreamStatus,
    scale_status_response::ScaleStatus,
};
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::ScopedStream;
use tokio::time::Instant;

use super::{Controller, failed, missing};
use crate::Error;
use crate::event::Owner;

/// A scale that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// The epoch that is being replaced.
    pub epoch: i32,
    /// The segments that will take over, in the order in which their keys were asked for.
    pub segments: Vec<Owner>,
}

impl Controller {
    /// Begins to replace `sealed`, segments that take events now, by new segments that own `keys`: together
    /// exactly the keys of the old ones. [`Controller::wait_scaled`] says when it is done. Asking for the
    /// same again while it is under way changes nothing.
    ///
    /// # Errors
    /// [`Error::ScaleRefused`] if one of `sealed` takes no events now, another scale is under way, or the
    /// stream would have fewer segments than its policy wants; [`Error::Refused`] if `keys` are not those
    /// of `sealed`, or the stream is sealed; [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn scale(
        &self,
        stream: &ScopedStream,
        sealed: &[SegmentId],
        keys: &[KeyRange],
    ) -> Result<Scaling, Error> {
        let what = "scale";
        let ranges = keys.iter().map(|keys| scale_request::KeyRangeEntry {
            start: keys.start().to_f64(),
            end: keys.end().to_f64(),
        });
        let request = api::ScaleRequest {
            stream_info: Some(stream.into()),
            sealed_segments: sealed.iter().map(|segment| segment.0).collect(),
            new_key_ranges: ranges.collect(),
            scale_timestamp: 0,
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.scale(request).await }
            })
            .await;
        let reply = reply.map_err(|error| missing(error, stream))?;
        match reply.status() {
            ScaleStreamStatus::Started => {
                let owners = reply.segments.iter().map(|range| self.owner(what, range));
                Ok(Scaling {
                    epoch: reply.epoch,
                    segments: owners.collect::<Result<_, _>>()?,
                })
            }
            ScaleStreamStatus::PreconditionFailed => Err(Error::ScaleRefused(stream.to_string())),
            ScaleStreamStatus::Failure => Err(match self.stream_exists(stream).await? {
                true => failed(what),
                false => Error::NoSuchStream(stream.to_string()),
            }),
        }
    }

    /// Returns whether the scale that replaces `epoch` is done.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such epoch yet, and those of [`Error`].
    pub async fn is_scaled(&self, stream: &ScopedStream, epoch: i32) -> Result<bool, Error> {
        let what = "checkScale";
        let request = api::ScaleStatusRequest {
            stream_info: Some(stream.into()),
            epoch,
        };
        let reply = self
            .ask(what, move |mut api| {
                let request = request.clone();
                async move { api.check_scale(request).await }
            })
            .await?;
        match reply.status() {
            ScaleStatus::Success => Ok(true),
            ScaleStatus::InProgress => Ok(false),
            ScaleStatus::InvalidInput if !self.stream_exists(stream).await? => {
                Err(Error::NoSuchStream(stream.to_string()))
            }
            ScaleStatus::InvalidInput | ScaleStatus::InternalError => Err(failed(what)),
        }
    }

    /// Waits until the scale that replaces `epoch` is done.
    ///
    /// # Errors
    /// [`Error::Timeout`] after the deadline of [`Retry`](crate::config::Retry): it goes on all the same.
    /// And those of [`Controller::is_scaled`].
    pub async fn wait_scaled(&self, stream: &ScopedStream, epoch: i32) -> Result<(), Error> {
        let begun = Instant::now();
        while !self.is_scaled(stream, epoch).await? {
            self.within_deadline("scale", begun)?;
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(())
    }

    /// Returns a stream's last epoch, counted from 0. Every epoch has a segment made in it.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn last_epoch(&self, stream: &ScopedStream) -> Result<i32, Error> {
        let current = self.current_segments(stream).await?;
        let mut epochs: Vec<i32> = current.iter().map(|owner| owner.segment.epoch()).collect();
        if current.is_empty() {
            let head = self.head(stream).await?;
            let all = self.segments_between(&head, None).await?;
            epochs.extend(all.iter().map(|segment| segment.epoch()));
        }
        Ok(epochs.into_iter().max().unwrap_or_default())
    }
}

/// How long to wait before asking again whether a scale is done: a few syncs.
const ASK_AGAIN: Duration = Duration::from_millis(20);
