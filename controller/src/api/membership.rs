//! The internal call by which segment stores say that they are alive.

use std::sync::Arc;

use sarit_proto::controller::internal::membership_server::Membership;
use sarit_proto::controller::internal::{RegistrationAck, StoreRegistration};
use tonic::{Request, Response, Status};
use tracing::warn;

use crate::placement::hosts::{HEARTBEAT, SharedHosts};
use crate::placement::record::{agree, agreed};
use crate::store::MetaStore;

/// Answers registrations.
pub(super) struct Registrar {
    pub(super) hosts: SharedHosts,
    pub(super) store: Arc<dyn MetaStore>,
}

impl Registrar {
    async fn take(&self, store: &StoreRegistration) -> Result<(), String> {
        let containers = store.total_containers;
        match agreed(&*self.store).await? {
            Some(agreed) if agreed != containers => Err(format!(
                "this store has its part of {containers} containers, but streams were placed in {agreed}"
            )),
            Some(_) => self.hosts.register(store),
            None => {
                self.hosts.register(store)?;
                agree(&*self.store, containers).await
            }
        }
    }
}

#[tonic::async_trait]
impl Membership for Registrar {
    async fn register(
        &self,
        request: Request<StoreRegistration>,
    ) -> Result<Response<RegistrationAck>, Status> {
        let store = request.into_inner();
        self.take(&store).await.map_err(|reason| {
            warn!(store = store.store_id, reason, "registration refused");
            Status::failed_precondition(reason)
        })?;
        let heartbeat_ms = u32::try_from(HEARTBEAT.as_millis()).unwrap_or(u32::MAX);
        Ok(Response::new(RegistrationAck { heartbeat_ms }))
    }
}
