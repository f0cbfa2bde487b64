//! Calls about the segments of streams: which there are, where they live, how they follow each other.

use std::cmp::Ordering;

use sarit_proto::controller::scale_response::ScaleStreamStatus as Scale;
use sarit_proto::controller::scale_status_response::ScaleStatus;
use sarit_proto::controller::segments_at_time::SegmentLocation;
use sarit_proto::controller::successor_response::SegmentEntry;
use sarit_proto::controller::{
    DelegationToken, GetEpochSegmentsRequest, GetSegmentsRequest, NodeUri, ScaleRequest,
    ScaleResponse, ScaleStatusRequest, ScaleStatusResponse, SegmentId, SegmentRanges,
    SegmentValidityResponse, SegmentsAtTime, StreamCut as StreamCutMessage, StreamCutRange,
    StreamCutRangeResponse, StreamCutValidityResponse, StreamInfo, SuccessorResponse,
};
use sarit_proto::ids;
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::ScopedStream;
use tonic::Status;

use super::Service;
use super::convert::{no_stream, segment_id, segment_range, stream_of};
use super::streams::unexpected;
use crate::store::keys::StreamId;
use crate::stream::epoch::{Epoch, Epochs};
use crate::stream::scale::{Refusal, Scaling};
use crate::stream::stream_cuts::{self, CutError, StreamCut};
use crate::tasks::{Answer, Request, scale_stream};

pub(super) async fn current(
    service: &Service,
    request: StreamInfo,
) -> Result<SegmentRanges, Status> {
    let (stream, id) = found(service, Some(&request)).await?;
    let status = service.catalog.status(id).await?;
    if !status.state.is_open() {
        return Ok(SegmentRanges::default());
    }
    let epoch = service.catalog.active(id).await?;
    Ok(ranges(&stream, &epoch))
}

pub(super) async fn of_epoch(
    service: &Service,
    request: GetEpochSegmentsRequest,
) -> Result<SegmentRanges, Status> {
    let (stream, id) = found(service, request.stream_info.as_ref()).await?;
    let missing = || Status::not_found(format!("stream {stream} has no epoch {}", request.epoch));
    let active = service.catalog.active(id).await?;
    if active.number == request.epoch {
        return Ok(ranges(&stream, &active));
    }
    let epoch = service.catalog.epochs(id).await?.at(request.epoch);
    Ok(ranges(&stream, &epoch.ok_or_else(missing)?))
}

pub(super) async fn head(
    service: &Service,
    request: GetSegmentsRequest,
) -> Result<SegmentsAtTime, Status> {
    let (stream, id) = found(service, request.stream_info.as_ref()).await?;
    let location = |id, offset| SegmentLocation {
        segment_id: Some(segment_id(&stream, id)),
        offset,
    };
    let segments = match service.catalog.truncation(id).await? {
        Some(cut) => cut
            .value
            .into_iter()
            .map(|(id, offset)| location(id, offset))
            .collect(),
        None => {
            let first = service.catalog.transition(id, 0).await?;
            let first = first.ok_or_else(|| no_stream(&stream))?.added;
            first
                .iter()
                .map(|segment| location(segment.id, 0))
                .collect()
        }
    };
    Ok(SegmentsAtTime {
        segments,
        delegation_token: String::new(),
    })
}

pub(super) async fn successors(
    service: &Service,
    request: SegmentId,
) -> Result<SuccessorResponse, Status> {
    let (stream, id) = found(service, request.stream_info.as_ref()).await?;
    let successors = match ids::SegmentId::parse(request.segment_id) {
        Some(segment) => {
            let context = service.tasks.context();
            scale_stream::successors(context, &stream, id, segment).await?
        }
        None => Vec::new(),
    };
    let entries = successors.into_iter().map(|successor| SegmentEntry {
        segment: Some(segment_range(&stream, &successor.segment)),
        value: successor.predecessors.iter().map(|id| id.0).collect(),
    });
    Ok(SuccessorResponse {
        segments: entries.collect(),
        delegation_token: String::new(),
    })
}

/// A missing end means the stream's own: its head, its tail.
pub(super) async fn between(
    service: &Service,
    request: StreamCutRange,
) -> Result<StreamCutRangeResponse, Status> {
    let (stream, id) = found(service, request.stream_info.as_ref()).await?;
    let epochs = service.catalog.epochs_begun(id).await?;
    let from = match request.from.is_empty() {
        true => head_cut(service, id, &epochs).await?,
        false => placed(&request.from, &epochs)?,
    };
    let to = match request.to.is_empty() {
        true => None,
        false => Some(placed(&request.to, &epochs)?),
    };
    if to.as_ref().is_some_and(|to| !to.is_at_or_after(&from)) {
        let reason = "the first stream cut does not lie before the second";
        return Err(Status::invalid_argument(reason));
    }
    let ids = StreamCut::between(&from, to.as_ref(), &epochs);
    Ok(StreamCutRangeResponse {
        segments: ids.into_iter().map(|id| segment_id(&stream, id)).collect(),
        delegation_token: String::new(),
    })
}

/// Answers for whatever is asked: clients have segments of which the controller knows nothing.
pub(super) async fn uri(service: &Service, request: SegmentId) -> Result<NodeUri, Status> {
    let info = request.stream_info.unwrap_or_default();
    if info.scope.is_empty() || info.stream.is_empty() {
        return Err(Status::invalid_argument("no scope or no stream is named"));
    }
    let segment = format!(
        "{}/{}/{}",
        info.scope,
        info.stream,
        ids::SegmentId(request.segment_id)
    );
    let endpoint = service.hosts.advertised(&segment);
    let endpoint = endpoint.map_err(Status::unavailable)?;
    Ok(NodeUri {
        endpoint: endpoint.host.to_string(),
        port: i32::from(endpoint.port),
    })
}

pub(super) async fn is_valid(
    service: &Service,
    request: SegmentId,
) -> Result<SegmentValidityResponse, Status> {
    let (_, id) = found(service, request.stream_info.as_ref()).await?;
    let status = service.catalog.status(id).await?;
    let epoch = service.catalog.active(id).await?;
    let active = epoch.has(ids::SegmentId(request.segment_id));
    let response = active && status.state.is_open();
    Ok(SegmentValidityResponse { response })
}

pub(super) async fn is_cut_valid(
    service: &Service,
    request: StreamCutMessage,
) -> Result<StreamCutValidityResponse, Status> {
    let (_, id) = found(service, request.stream_info.as_ref()).await?;
    let epochs = service.catalog.epochs_begun(id).await?;
    let response = placed(&request.cut, &epochs).is_ok();
    Ok(StreamCutValidityResponse { response })
}

/// Without authentication the token is empty, for everything.
pub(super) async fn delegation_token(
    _service: &Service,
    _request: StreamInfo,
) -> Result<DelegationToken, Status> {
    Ok(DelegationToken::default())
}

/// Answers when the new epoch has begun. The same request again gets the same answer.
pub(super) async fn scale(
    service: &Service,
    request: ScaleRequest,
) -> Result<ScaleResponse, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    let wanted = scaling(&request)?;
    let refused = |status: Scale| ScaleResponse {
        status: status as i32,
        ..ScaleResponse::default()
    };
    match service.tasks.run(&stream, Request::Scale(wanted)).await? {
        Answer::Scaled(made) => Ok(ScaleResponse {
            status: Scale::Started as i32,
            segments: made
                .added
                .iter()
                .map(|segment| segment_range(&stream, segment))
                .collect(),
            epoch: made.number - 1,
        }),
        Answer::NotThere | Answer::Sealed => Ok(refused(Scale::Failure)),
        Answer::NotScaled(Refusal::NotActive(_) | Refusal::TooFew { .. }) => {
            Ok(refused(Scale::PreconditionFailed))
        }
        Answer::NotScaled(Refusal::NotTiling | Refusal::TooMany(_) | Refusal::UsedUp) => {
            Ok(refused(Scale::Failure))
        }
        other => Err(unexpected(&other)),
    }
}

fn scaling(request: &ScaleRequest) -> Result<Scaling, Status> {
    let sealed = request.sealed_segments.iter().map(|raw| {
        let malformed = || Status::invalid_argument(format!("{raw} is no segment id"));
        ids::SegmentId::parse(*raw).ok_or_else(malformed)
    });
    let ranges = request.new_key_ranges.iter().map(|range| {
        let range = KeyRange::from_f64(range.start, range.end);
        range.map_err(|error| Status::invalid_argument(error.to_string()))
    });
    Ok(Scaling {
        sealed: sealed.collect::<Result<_, _>>()?,
        ranges: ranges.collect::<Result<_, _>>()?,
    })
}

pub(super) async fn check_scale(
    service: &Service,
    request: ScaleStatusRequest,
) -> Result<ScaleStatusResponse, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    if request.epoch < 0 {
        let reason = format!("epoch {} is negative", request.epoch);
        return Err(Status::invalid_argument(reason));
    }
    let status = match service.catalog.visible(&stream).await? {
        None => ScaleStatus::InvalidInput,
        Some(id) => {
            let status = service.catalog.status(id).await?;
            match request.epoch.cmp(&status.active_epoch) {
                Ordering::Greater => ScaleStatus::InvalidInput,
                Ordering::Equal => ScaleStatus::InProgress,
                // A rolled epoch repeats the one that was to be replaced.
                Ordering::Less if request.epoch == status.reference_epoch => {
                    ScaleStatus::InProgress
                }
                Ordering::Less => ScaleStatus::Success,
            }
        }
    };
    let status = status as i32;
    Ok(ScaleStatusResponse { status })
}

async fn found(
    service: &Service,
    info: Option<&StreamInfo>,
) -> Result<(ScopedStream, StreamId), Status> {
    let stream = stream_of(info)?;
    match service.catalog.visible(&stream).await? {
        Some(id) => Ok((stream, id)),
        None => Err(no_stream(&stream)),
    }
}

async fn head_cut(service: &Service, id: StreamId, epochs: &Epochs) -> Result<StreamCut, Status> {
    match service.catalog.truncation(id).await? {
        Some(cut) => StreamCut::new(&cut.value, epochs).map_err(invalid_cut),
        None => Ok(StreamCut::head(epochs)),
    }
}

fn placed(
    cut: &std::collections::BTreeMap<i64, i64>,
    epochs: &Epochs,
) -> Result<StreamCut, Status> {
    let cut = stream_cuts::parse(cut).map_err(invalid_cut)?;
    StreamCut::new(&cut, epochs).map_err(invalid_cut)
}

fn invalid_cut(error: CutError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn ranges(stream: &ScopedStream, epoch: &Epoch) -> SegmentRanges {
    let segments = epoch.segments.iter();
    SegmentRanges {
        segment_ranges: segments
            .map(|segment| segment_range(stream, segment))
            .collect(),
        delegation_token: String::new(),
    }
}
