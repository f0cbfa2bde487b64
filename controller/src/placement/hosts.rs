//! The segment stores we have heard of.
//!
//! Either one store is known from the start, or stores register and repeat it as a heartbeat. What was
//! heard is not kept: after a restart of the controller the next heartbeat tells it again. The address
//! of a store that fell silent is still given out, because it is the only one that can have the data;
//! readiness says that it is silent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sarit_client::connection::Endpoint;
use sarit_client::segment::Locate;
use sarit_proto::controller::internal::StoreRegistration;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::metrics;

/// How often a store should register.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which a store counts as gone, and another may take its place.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The version of the exchange that this build speaks.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Who serves segments. Shared by everything that asks.
#[derive(Debug)]
pub(crate) enum Hosts {
    /// One store, in this process.
    Static {
        /// For clients.
        advertised: Endpoint,
        /// For ourselves.
        connect: Endpoint,
    },
    /// The store that registered last.
    Registered(Mutex<Option<Heard>>),
}

/// A store and when it was heard last.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) store_id: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) containers: u32,
    at: Instant,
}

impl Hosts {
    /// Returns the address for clients, or `None` until a store has registered.
    pub(crate) fn advertised(&self) -> Option<Endpoint> {
        match self {
            Self::Static { advertised, .. } => Some(advertised.clone()),
            Self::Registered(heard) => heard.lock().as_ref().map(|heard| heard.endpoint.clone()),
        }
    }

    fn connect(&self) -> Option<Endpoint> {
        match self {
            Self::Static { connect, .. } => Some(connect.clone()),
            Self::Registered(_) => self.advertised(),
        }
    }

    /// Returns the store that registered last.
    pub(crate) fn heard(&self) -> Option<Heard> {
        match self {
            Self::Static { .. } => None,
            Self::Registered(heard) => heard.lock().clone(),
        }
    }

    /// Says why no store can be expected to answer, or nothing.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self {
            Self::Static { .. } => None,
            Self::Registered(heard) => match &*heard.lock() {
                None => Some("no segment store has registered yet".to_owned()),
                Some(heard) if heard.at.elapsed() > SILENCE_MAX => Some(format!(
                    "segment store {} has been silent for {} s",
                    heard.store_id,
                    heard.at.elapsed().as_secs()
                )),
                Some(_) => None,
            },
        }
    }

    /// Takes a store's word that it is alive.
    ///
    /// # Errors
    /// A sentence for the store's log; nothing changed.
    pub(crate) fn register(&self, store: &StoreRegistration) -> Result<(), String> {
        let Self::Registered(heard) = self else {
            return Err("this controller has its segment store in its own process".to_owned());
        };
        let endpoint = check(store)?;
        let mut heard = heard.lock();
        if let Some(other) = heard
            .as_ref()
            .filter(|other| other.store_id != store.store_id)
        {
            if other.at.elapsed() <= SILENCE_MAX {
                return Err(format!(
                    "segment store {} at {} serves everything; several stores are not built yet",
                    other.store_id, other.endpoint
                ));
            }
            warn!(
                old = other.store_id,
                new = store.store_id,
                "another segment store takes over"
            );
        }
        let known = heard
            .as_ref()
            .is_some_and(|heard| heard.store_id == store.store_id && heard.endpoint == endpoint);
        if !known {
            info!(store = store.store_id, %endpoint, "segment store registered");
        }
        *heard = Some(Heard {
            store_id: store.store_id.clone(),
            endpoint,
            containers: store.total_containers,
            at: Instant::now(),
        });
        metrics::segment_stores(1);
        Ok(())
    }
}

fn check(store: &StoreRegistration) -> Result<Endpoint, String> {
    if store.protocol_version != PROTOCOL_VERSION {
        return Err(format!(
            "registration version {}, this controller speaks {PROTOCOL_VERSION}",
            store.protocol_version
        ));
    }
    if store.store_id.is_empty() || store.store_id.len() > 64 {
        return Err("a store id has 1 to 64 bytes".to_owned());
    }
    let everything = store.first_container == 0 && store.container_count == store.total_containers;
    if !everything || store.total_containers == 0 {
        return Err(format!(
            "containers {} to {} of {}: one store serves all of them, several are not built yet",
            store.first_container,
            u64::from(store.first_container) + u64::from(store.container_count),
            store.total_containers
        ));
    }
    let address = format!("{}:{}", store.advertised_host, store.advertised_port);
    let endpoint = Endpoint::parse(&address).map_err(|error| error.to_string())?;
    if endpoint.port == 0 {
        return Err(format!(
            "{address} has no port that a client could connect to"
        ));
    }
    Ok(endpoint)
}

impl Locate for Hosts {
    fn locate<'a>(
        &'a self,
        _segment: &'a str,
    ) -> BoxFuture<'a, Result<Endpoint, sarit_client::Error>> {
        let unavailable = || sarit_client::Error::Unavailable {
            what: "locating a segment",
            message: "no segment store has registered yet".to_owned(),
        };
        Box::pin(std::future::ready(self.connect().ok_or_else(unavailable)))
    }

    fn forget(&self, _segment: &str) {}
}

/// Makes the variant that waits for registrations.
impl Default for Hosts {
    fn default() -> Self {
        Self::Registered(Mutex::default())
    }
}

/// Shared by the API, the tasks and the health checks.
pub(crate) type SharedHosts = Arc<Hosts>;

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(id: &str, port: u32) -> StoreRegistration {
        StoreRegistration {
            store_id: id.to_owned(),
            advertised_host: "127.0.0.1".to_owned(),
            advertised_port: port,
            first_container: 0,
            container_count: 4,
            total_containers: 4,
            protocol_version: PROTOCOL_VERSION,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_store_is_refused_while_the_first_is_heard() {
        let hosts = Hosts::default();
        assert_eq!(hosts.advertised(), None);
        assert!(hosts.trouble().unwrap().contains("registered"));
        hosts.register(&registration("a", 12345)).unwrap();
        assert_eq!(hosts.trouble(), None);
        assert!(hosts.register(&registration("b", 12346)).is_err());
        hosts.register(&registration("a", 12347)).unwrap();
        assert_eq!(hosts.advertised().unwrap().port, 12347);
        tokio::time::advance(SILENCE_MAX + HEARTBEAT).await;
        assert!(hosts.trouble().unwrap().contains("silent"));
        assert_eq!(hosts.advertised().unwrap().port, 12347);
        hosts.register(&registration("b", 12346)).unwrap();
        assert_eq!(hosts.advertised().unwrap().port, 12346);
    }

    #[tokio::test]
    async fn what_clients_could_not_use_is_refused() {
        let hosts = Hosts::default();
        assert!(hosts.register(&registration("", 1)).is_err());
        assert!(hosts.register(&registration("a", 0)).is_err());
        assert!(hosts.register(&registration("a", 65536)).is_err());
        let mut part = registration("a", 1);
        part.container_count = 2;
        assert!(hosts.register(&part).is_err());
        let mut scheme = registration("a", 1);
        scheme.advertised_host = "http://h".to_owned();
        assert!(hosts.register(&scheme).is_err());
        let mut later = registration("a", 1);
        later.protocol_version = 2;
        assert!(hosts.register(&later).is_err());
    }
}
