//! Tells a controller in another process that this store is there.
//!
//! Registers at start and again as often as the controller asks; that is also how a controller that was
//! restarted hears of us. A failed attempt is repeated after growing delays for as long as the store
//! runs; each has a time limit, and only a change between success and failure is logged. Nothing
//! waits for it: the log, not the controller, decides who may write.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sarit_env::{Net, Rng};
use sarit_proto::controller::internal::StoreRegistration;
use sarit_proto::controller::internal::membership_client::MembershipClient;
use sarit_proto::placement::ContainerRange;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use tracing::{info, warn};

use crate::config::split_host_port;

/// Version of the exchange with the controller.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// What one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Delay after the first failed attempt; doubles with each.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Bounds of what the controller may ask for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(500);
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);

/// Who we are and whom we tell.
pub(crate) struct Membership {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) rng: Rng,
    /// `host:port`.
    pub(crate) controller: String,
    pub(crate) store_id: String,
    pub(crate) advertised: (String, u16),
    /// How many containers there are, and which of them are here.
    pub(crate) placement: (u32, ContainerRange),
}

/// Registers again and again until `stop`.
pub(crate) async fn run(membership: Membership, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = membership.keep_registered() => {}
    }
}

impl Membership {
    async fn keep_registered(&self) {
        let controller = &*self.controller;
        let mut client = MembershipClient::new(channel(&self.net, &self.controller));
        let mut registered = None;
        let mut delay = RETRY_MIN;
        loop {
            let attempt = timeout(ATTEMPT_MAX, client.register(self.registration())).await;
            let refusal = match attempt {
                Ok(Ok(ack)) => {
                    if registered != Some(true) {
                        info!(controller, "registered with the controller");
                    }
                    (registered, delay) = (Some(true), RETRY_MIN);
                    let wanted = Duration::from_millis(ack.into_inner().heartbeat_ms.into());
                    sleep(wanted.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)).await;
                    continue;
                }
                Ok(Err(status)) => format!("{}: {}", status.code(), status.message()),
                Err(_) => format!("no answer within {ATTEMPT_MAX:?}"),
            };
            if registered != Some(false) {
                warn!(controller, reason = %refusal, "the controller does not know this store, trying on");
            }
            registered = Some(false);
            // Between half and all of it, so that many stores don't come at once.
            sleep(delay.mul_f64(0.5 + self.rng.f64() / 2.0)).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    fn registration(&self) -> StoreRegistration {
        let (total_containers, owned) = self.placement;
        StoreRegistration {
            store_id: self.store_id.clone(),
            advertised_host: self.advertised.0.clone(),
            advertised_port: self.advertised.1.into(),
            first_container: owned.start(),
            container_count: owned.count(),
            total_containers,
            protocol_version: PROTOCOL_VERSION,
        }
    }
}

/// Connects to a controller, `host:port`, when first used, and again after the connection broke.
pub(crate) fn channel(net: &Arc<dyn Net>, controller: &str) -> Channel {
    let (host, port) = split_host_port(controller).expect("the setting was validated");
    let (net, host) = (net.clone(), Arc::<str>::from(host));
    let connector = service_fn(move |_: Uri| {
        let (net, host) = (net.clone(), host.clone());
        async move { net.connect(&host, port).await.map(TokioIo::new) }
    });
    // Only a name for the HTTP/2 authority; the connector knows where to go.
    Endpoint::from_static("http://controller").connect_with_connector_lazy(connector)
}
