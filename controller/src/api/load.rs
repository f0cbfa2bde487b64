//! The internal call by which segment stores say how much is written to segments.

use sarit_proto::controller::internal::load_server::Load;
use sarit_proto::controller::internal::{LoadAck, LoadReport};
use tonic::{Request, Response, Status};

use crate::autoscale::AutoScaler;
use crate::placement::hosts::PROTOCOL_VERSION;

/// Takes reports.
pub(super) struct Reports(pub(super) AutoScaler);

#[tonic::async_trait]
impl Load for Reports {
    async fn report(&self, request: Request<LoadReport>) -> Result<Response<LoadAck>, Status> {
        let report = request.into_inner();
        if report.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "load report version {}, this controller speaks {PROTOCOL_VERSION}",
                report.protocol_version
            )));
        }
        self.0.report(report);
        Ok(Response::new(LoadAck {}))
    }
}
