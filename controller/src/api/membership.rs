//! The internal call by which segment stores say that they are alive.

use sarit_proto::controller::internal::membership_server::Membership;
use sarit_proto::controller::internal::{RegistrationAck, StoreRegistration};
use tonic::{Request, Response, Status};
use tracing::warn;

use crate::placement::hosts::{HEARTBEAT, SharedHosts};

/// Answers registrations.
pub(super) struct Registrar(pub(super) SharedHosts);

#[tonic::async_trait]
impl Membership for Registrar {
    async fn register(
        &self,
        request: Request<StoreRegistration>,
    ) -> Result<Response<RegistrationAck>, Status> {
        let store = request.into_inner();
        self.0.register(&store).map_err(|reason| {
            warn!(store = store.store_id, reason, "registration refused");
            Status::failed_precondition(reason)
        })?;
        let heartbeat_ms = u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX);
        Ok(Response::new(RegistrationAck { heartbeat_ms }))
    }
}
