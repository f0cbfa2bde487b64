//! The controller's API, one function per call.
//!
//! - [`scopes`], [`streams`], [`segments`], [`transactions`], [`reader_groups`], [`tables`],
//!   [`watermarks`]: the calls, by subject;
//! - [`convert`]: parsing names, errors to statuses, values to messages.
//!
//! Clients repeat calls that fail with most statuses for a minute or more. So what can never succeed
//! gets one they do not repeat: a status in the reply, NOT_FOUND, or INVALID_ARGUMENT with a sentence;
//! what may succeed later gets UNAVAILABLE.

mod convert;
mod reader_groups;
mod scopes;
mod segments;
mod streams;
mod tables;
#[cfg(test)]
mod tests;
mod transactions;
mod watermarks;

use sarit_client::connection::Endpoint;
use sarit_proto::controller::*;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::metrics;
use crate::placement::hosts::SharedHosts;
use crate::store::catalog::Catalog;
use crate::tasks::Tasks;
use crate::watermarks::Watermarks;

/// What the calls work with.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) catalog: Catalog,
    pub(crate) tasks: Tasks,
    pub(crate) hosts: SharedHosts,
    pub(crate) watermarks: Watermarks,
    /// Where clients find this controller.
    pub(crate) advertised: Endpoint,
}

impl Service {
    async fn measured<R>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<R, Status>>,
    ) -> Result<Response<R>, Status> {
        let started = Instant::now();
        let answer = call.await;
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        metrics::rpc(method, code, started.elapsed());
        answer.map(Response::new)
    }
}

/// Writes the service: each call as the function that answers it.
macro_rules! service {
    ($($call:ident($request:ty) -> $reply:ty = $function:path;)*) => {
        #[tonic::async_trait]
        impl ControllerService for Service {
            $(
                async fn $call(
                    &self,
                    request: Request<$request>,
                ) -> Result<Response<$reply>, Status> {
                    let answer = $function(self, request.into_inner());
                    self.measured(stringify!($call), answer).await
                }
            )*
        }
    };
}

service! {
    get_controller_server_list(ServerRequest) -> ServerResponse = scopes::controllers;
    create_scope(ScopeInfo) -> CreateScopeStatus = scopes::create;
    delete_scope(ScopeInfo) -> DeleteScopeStatus = scopes::delete;
    delete_scope_recursive(ScopeInfo) -> DeleteScopeStatus = scopes::delete_recursive;
    list_scopes(ScopesRequest) -> ScopesResponse = scopes::list;
    check_scope_exists(ScopeInfo) -> ExistsResponse = scopes::exists;
    create_stream(StreamConfig) -> CreateStreamStatus = streams::create;
    update_stream(StreamConfig) -> UpdateStreamStatus = streams::update;
    truncate_stream(StreamCut) -> UpdateStreamStatus = streams::truncate;
    seal_stream(StreamInfo) -> UpdateStreamStatus = streams::seal;
    delete_stream(StreamInfo) -> DeleteStreamStatus = streams::delete;
    get_stream_configuration(StreamInfo) -> StreamConfig = streams::configuration;
    check_stream_exists(StreamInfo) -> ExistsResponse = streams::exists;
    list_streams_in_scope(StreamsInScopeRequest) -> StreamsInScopeResponse = streams::list;
    list_streams_in_scope_for_tag(StreamsInScopeWithTagRequest) -> StreamsInScopeResponse
        = streams::list_tagged;
    get_current_segments(StreamInfo) -> SegmentRanges = segments::current;
    get_epoch_segments(GetEpochSegmentsRequest) -> SegmentRanges = segments::of_epoch;
    get_segments(GetSegmentsRequest) -> SegmentsAtTime = segments::head;
    get_segments_immediatly_following(SegmentId) -> SuccessorResponse = segments::successors;
    get_segments_immediately_following(SegmentId) -> SuccessorResponse = segments::successors;
    get_segments_between(StreamCutRange) -> StreamCutRangeResponse = segments::between;
    get_uri(SegmentId) -> NodeUri = segments::uri;
    is_segment_valid(SegmentId) -> SegmentValidityResponse = segments::is_valid;
    is_stream_cut_valid(StreamCut) -> StreamCutValidityResponse = segments::is_cut_valid;
    get_delegation_token(StreamInfo) -> DelegationToken = segments::delegation_token;
    scale(ScaleRequest) -> ScaleResponse = segments::scale;
    check_scale(ScaleStatusRequest) -> ScaleStatusResponse = segments::check_scale;
    create_transaction(CreateTxnRequest) -> CreateTxnResponse = transactions::begin;
    ping_transaction(PingTxnRequest) -> PingTxnStatus = transactions::ping;
    commit_transaction(TxnRequest) -> TxnStatus = transactions::commit;
    abort_transaction(TxnRequest) -> TxnStatus = transactions::abort;
    check_transaction_state(TxnRequest) -> TxnState = transactions::state;
    list_completed_transactions(ListCompletedTxnRequest) -> ListCompletedTxnResponse
        = transactions::list_completed;
    create_key_value_table(KeyValueTableConfig) -> CreateKeyValueTableStatus = tables::create;
    get_current_segments_key_value_table(KeyValueTableInfo) -> SegmentRanges
        = tables::segments;
    list_key_value_tables_in_scope(KvTablesInScopeRequest) -> KvTablesInScopeResponse
        = tables::list;
    get_key_value_table_configuration(KeyValueTableInfo) -> KeyValueTableConfigResponse
        = tables::configuration;
    delete_key_value_table(KeyValueTableInfo) -> DeleteKvTableStatus = tables::delete;
    list_subscribers(StreamInfo) -> SubscribersResponse = reader_groups::subscribers;
    update_subscriber_stream_cut(SubscriberStreamCut) -> UpdateSubscriberStatus
        = reader_groups::update_subscriber;
    create_reader_group(ReaderGroupConfiguration) -> CreateReaderGroupResponse
        = reader_groups::create;
    update_reader_group(ReaderGroupConfiguration) -> UpdateReaderGroupResponse
        = reader_groups::update;
    get_reader_group_config(ReaderGroupInfo) -> ReaderGroupConfigResponse
        = reader_groups::configuration;
    delete_reader_group(ReaderGroupInfo) -> DeleteReaderGroupStatus = reader_groups::delete;
    note_timestamp_from_writer(TimestampFromWriter) -> TimestampResponse = watermarks::note;
    remove_writer(RemoveWriterRequest) -> RemoveWriterResponse = watermarks::remove;
    get_controller_to_bucket_mapping(ControllerToBucketMappingRequest)
        -> ControllerToBucketMappingResponse = scopes::buckets;
}
