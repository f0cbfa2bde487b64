//! Calls on transactions.

use sarit_proto::controller::ping_txn_status::Status as Pinged;
use sarit_proto::controller::txn_response::Status as Completed;
use sarit_proto::controller::txn_state::State as Told;
use sarit_proto::controller::txn_status::Status as Ended;
use sarit_proto::controller::{
    CreateTxnRequest, CreateTxnResponse, ListCompletedTxnRequest, ListCompletedTxnResponse,
    PingTxnRequest, PingTxnStatus, TxnId, TxnRequest, TxnResponse, TxnState, TxnStatus,
};
use sarit_proto::ids::TransactionId;
use tonic::Status;

use super::Service;
use super::convert::{no_stream, segment_range, stream_of};
use crate::stream::transaction::{End, LeaseRefusal, State};
use crate::tasks::transactions::{Accepted, Began, Kept, Time};

/// Longest id of a writer that notes a time with a commit, in bytes: it is kept until the commit is done.
/// Clients make theirs of a UUID or a host's name.
const WRITER_BYTES_MAX: usize = 1024;

pub(super) async fn begin(
    service: &Service,
    request: CreateTxnRequest,
) -> Result<CreateTxnResponse, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    match service
        .tasks
        .begin_transaction(&stream, request.lease)
        .await?
    {
        Began::NoStream => Err(no_stream(&stream)),
        Began::Sealed => {
            let reason = format!("stream {stream} is sealed and takes no transactions");
            Err(Status::invalid_argument(reason))
        }
        Began::Open(id, segments) => Ok(CreateTxnResponse {
            txn_id: Some(txn_id(id)),
            active_segments: segments
                .iter()
                .map(|segment| segment_range(&stream, segment))
                .collect(),
            delegation_token: String::new(),
        }),
    }
}

pub(super) async fn ping(
    service: &Service,
    request: PingTxnRequest,
) -> Result<PingTxnStatus, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    let id = id_of(request.txn_id.as_ref());
    let kept = service.tasks.keep_transaction(&stream, id, request.lease);
    let status = match kept.await? {
        Kept::Open | Kept::Not(Some(State::Open)) => Pinged::Ok,
        Kept::Refused(LeaseRefusal::TooLong) => Pinged::LeaseTooLarge,
        Kept::Refused(LeaseRefusal::TooOld) => Pinged::MaxExecutionTimeExceeded,
        Kept::Not(Some(State::Committing | State::Committed)) => Pinged::Committed,
        Kept::Not(Some(State::Aborting | State::Aborted)) => Pinged::Aborted,
        Kept::Not(None) => Pinged::Unknown,
    };
    let status = status as i32;
    Ok(PingTxnStatus { status })
}

pub(super) async fn commit(service: &Service, request: TxnRequest) -> Result<TxnStatus, Status> {
    end(service, &request, End::Commit).await
}

pub(super) async fn abort(service: &Service, request: TxnRequest) -> Result<TxnStatus, Status> {
    end(service, &request, End::Abort).await
}

async fn end(service: &Service, request: &TxnRequest, end: End) -> Result<TxnStatus, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    let id = id_of(request.txn_id.as_ref());
    // Writers that note no time say so with the lowest one.
    let noted = Some(request.timestamp).filter(|time| *time != i64::MIN && end == End::Commit);
    let bytes = request.writer_id.len();
    if noted.is_some() && bytes > WRITER_BYTES_MAX {
        let reason =
            format!("a writer id of {bytes} bytes, at most {WRITER_BYTES_MAX} are allowed");
        return Err(Status::invalid_argument(reason));
    }
    let time = noted.map(|noted| Time {
        writer: request.writer_id.clone(),
        noted,
    });
    let ended = service.tasks.end_transaction(&stream, id, end, time);
    let status = match ended.await? {
        Accepted::Yes => Ended::Success,
        Accepted::No => Ended::Failure,
        Accepted::NoStream => Ended::StreamNotFound,
        Accepted::Unknown => Ended::TransactionNotFound,
    };
    let status = status as i32;
    Ok(TxnStatus { status })
}

pub(super) async fn state(service: &Service, request: TxnRequest) -> Result<TxnState, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    let id = id_of(request.txn_id.as_ref());
    let state = match service.tasks.transaction_state(&stream, id).await? {
        None => Told::Unknown,
        Some(State::Open) => Told::Open,
        Some(State::Committing) => Told::Committing,
        Some(State::Committed) => Told::Committed,
        Some(State::Aborting) => Told::Aborting,
        Some(State::Aborted) => Told::Aborted,
    };
    let state = state as i32;
    Ok(TxnState { state })
}

pub(super) async fn list_completed(
    service: &Service,
    request: ListCompletedTxnRequest,
) -> Result<ListCompletedTxnResponse, Status> {
    let stream = stream_of(request.stream_info.as_ref())?;
    let ended = service.tasks.ended_transactions(&stream).await?.into_iter();
    let response = ended.map(|(id, state)| TxnResponse {
        txn_id: Some(txn_id(id)),
        status: match state {
            State::Committed => Completed::Committed as i32,
            _ => Completed::Aborted as i32,
        },
    });
    Ok(ListCompletedTxnResponse {
        response: response.collect(),
    })
}

fn id_of(id: Option<&TxnId>) -> TransactionId {
    let (high, low) = id.map_or((0, 0), |id| (id.high_bits, id.low_bits));
    TransactionId::from_parts(high, low)
}

fn txn_id(id: TransactionId) -> TxnId {
    TxnId {
        high_bits: id.high(),
        low_bits: id.low(),
    }
}
