//! Calls by which writers say how far event time has got.

use sarit_proto::controller::remove_writer_response::Status as Gone;
use sarit_proto::controller::timestamp_response::Status as Answer;
use sarit_proto::controller::{
    RemoveWriterRequest, RemoveWriterResponse, TimestampFromWriter, TimestampResponse,
};
use tonic::Status;

use super::Service;
use super::convert::{no_stream, stream_of};
use crate::watermarks::{Noted, Removed, Watermarks};

pub(super) async fn note(
    service: &Service,
    request: TimestampFromWriter,
) -> Result<TimestampResponse, Status> {
    let position = request.position.unwrap_or_default();
    let stream = stream_of(position.stream_info.as_ref())?;
    if Watermarks::is_too_large(&request.writer, &position.cut) {
        let reason = "a writer's name has 1 to 255 bytes, a position at most 10,000 segments";
        return Err(Status::invalid_argument(reason));
    }
    let noted = service
        .watermarks
        .note(&stream, &request.writer, request.timestamp, &position.cut);
    let result = match noted.await? {
        Noted::Taken => Answer::Success,
        Noted::TimeBack => Answer::InvalidTime,
        Noted::PositionBack => Answer::InvalidPosition,
        Noted::NoStream => return Err(no_stream(&stream)),
        Noted::TooManyWriters => {
            let reason = format!("too many writers note time on {stream}");
            return Err(Status::resource_exhausted(reason));
        }
        Noted::Busy => return Err(busy()),
    };
    let result = result as i32;
    Ok(TimestampResponse { result })
}

pub(super) async fn remove(
    service: &Service,
    request: RemoveWriterRequest,
) -> Result<RemoveWriterResponse, Status> {
    let stream = stream_of(request.stream.as_ref())?;
    let known = service.watermarks.remove(&stream, &request.writer).await?;
    let result = match known {
        Removed::Done => Gone::Success,
        Removed::Unknown => Gone::UnknownWriter,
        Removed::Busy => return Err(busy()),
    };
    let result = result as i32;
    Ok(RemoveWriterResponse { result })
}

fn busy() -> Status {
    Status::unavailable("others change the same all the time")
}
