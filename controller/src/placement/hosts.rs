//! The segment stores we have heard of, and who serves what.
//!
//! Either one store is known from the start, or stores register and repeat it as a heartbeat, each with
//! a range of the containers; together they must have all of them, and none twice. What was heard is
//! not kept: after a restart of the controller the next heartbeats tell it again. The address of a
//! store that fell silent is still given out, because it is the only one that can have the data;
//! readiness says that it is silent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sarit_client::connection::Endpoint;
use sarit_client::segment::Locate;
use sarit_proto::controller::internal::StoreRegistration;
use sarit_proto::placement::{self, ContainerRange, SLOTS};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::metrics;

/// How often a store should register.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which a store counts as gone, and another may take its place.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// The version of the exchange that this build speaks.
pub(crate) const PROTOCOL_VERSION: u32 = 1;
/// Names tried for a segment that lives in a given range. A range of one container of 4,096 is met by
/// one name in 4,096 on average; not to meet it with so many has a chance of e⁻¹⁶.
const PROBE_NAMES_MAX: u32 = 1 << 16;

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
    /// The stores that registered.
    Registered(Mutex<Stores>),
}

/// Those that registered, by their id. Their ranges don't overlap and are of the same whole, so there are
/// never more of them than containers.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    containers: u32,
    heard: BTreeMap<String, Heard>,
}

/// A store and when it was heard last.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) endpoint: Endpoint,
    pub(crate) owned: ContainerRange,
    /// A segment that nobody makes and that it would have.
    probe: Option<String>,
    at: Instant,
}

/// A store, for people.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) store_id: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) owned: ContainerRange,
    /// Of how many.
    pub(crate) containers: u32,
    /// For how long it has said nothing.
    pub(crate) silence: Duration,
}

impl Stores {
    /// Returns the store that has a segment, or says why that is not known.
    fn owner(&self, segment: &str) -> Result<&Heard, String> {
        if self.containers > 0 {
            let id = placement::container(segment, self.containers);
            if let Some(owner) = self.heard.values().find(|heard| heard.owned.contains(id)) {
                return Ok(owner);
            }
        }
        Err(self.missing().unwrap_or_default())
    }

    /// Says which containers have no store, or nothing if all have one.
    fn missing(&self) -> Option<String> {
        if self.heard.is_empty() {
            return Some("no segment store has registered yet".to_owned());
        }
        let mut owned: Vec<_> = self.heard.values().map(|heard| heard.owned).collect();
        owned.sort_unstable();
        let ends = std::iter::once(0).chain(owned.iter().map(|owned| owned.end()));
        let starts = owned.iter().map(|owned| owned.start());
        let gaps = ends.zip(starts.chain([self.containers]));
        let gaps = gaps.filter_map(|(end, start)| ContainerRange::new(end, start));
        let gaps: Vec<_> = gaps.map(|gap| gap.to_string()).collect();
        (!gaps.is_empty()).then(|| {
            format!(
                "no segment store has registered for the containers {} of {}",
                gaps.join(", "),
                self.containers
            )
        })
    }

    /// Takes a store in, whose range is `owned` of `containers`.
    fn take(&mut self, store: &StoreRegistration, checked: Checked) -> Result<(), String> {
        let Checked { endpoint, owned } = checked;
        let containers = store.total_containers;
        let others = self.heard.iter().filter(|(id, _)| **id != store.store_id);
        let mut gone = Vec::new();
        let mut stays = false;
        for (id, other) in others {
            let clash = other.owned.overlaps(owned) || containers != self.containers;
            if !clash {
                stays = true;
            } else if other.at.elapsed() > SILENCE_MAX {
                gone.push(id.clone());
            } else if containers == self.containers {
                return Err(format!(
                    "segment store {id} at {} has the containers {}, this one says {owned}: \
                     no container can be in two stores",
                    other.endpoint, other.owned
                ));
            } else {
                return Err(format!(
                    "segment store {id} at {} has {} of {} containers, this one says of {containers}: \
                     all stores must agree",
                    other.endpoint, other.owned, self.containers
                ));
            }
        }
        debug_assert!(!stays || containers == self.containers);
        for id in gone {
            warn!(
                old = id,
                new = store.store_id,
                "another segment store takes over"
            );
            self.heard.remove(&id);
        }
        self.containers = containers;
        let known = self.heard.get(&store.store_id);
        let known = known.filter(|known| known.endpoint == endpoint && known.owned == owned);
        let probe = match known {
            Some(known) => known.probe.clone(),
            None => {
                info!(store = store.store_id, %endpoint, %owned, containers, "segment store registered");
                probe(owned, containers)
            }
        };
        let heard = Heard {
            endpoint,
            owned,
            probe,
            at: Instant::now(),
        };
        self.heard.insert(store.store_id.clone(), heard);
        metrics::segment_stores(self.heard.len());
        Ok(())
    }
}

/// Finds the name of a segment in a range; nobody makes it.
fn probe(owned: ContainerRange, containers: u32) -> Option<String> {
    let mut names = (0..PROBE_NAMES_MAX).map(|n| format!("_system/probe/{n}.#epoch.0"));
    names.find(|name| owned.contains(placement::container(name, containers)))
}

impl Hosts {
    /// Returns the address of the store that has a segment, for clients.
    ///
    /// # Errors
    /// A sentence that says why it is not known yet.
    pub(crate) fn advertised(&self, segment: &str) -> Result<Endpoint, String> {
        match self {
            Self::Static { advertised, .. } => Ok(advertised.clone()),
            Self::Registered(stores) => stores
                .lock()
                .owner(segment)
                .map(|owner| owner.endpoint.clone()),
        }
    }

    fn connect(&self, segment: &str) -> Result<Endpoint, String> {
        match self {
            Self::Static { connect, .. } => Ok(connect.clone()),
            Self::Registered(_) => self.advertised(segment),
        }
    }

    /// Returns the stores that registered, in the order of their containers.
    pub(crate) fn known(&self) -> Vec<Known> {
        let Self::Registered(stores) = self else {
            return Vec::new();
        };
        let stores = stores.lock();
        let known = stores.heard.iter().map(|(id, heard)| Known {
            store_id: id.clone(),
            endpoint: heard.endpoint.clone(),
            owned: heard.owned,
            containers: stores.containers,
            silence: heard.at.elapsed(),
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|store| store.owned);
        known
    }

    /// Returns, for each store, a segment that nobody makes and that it would have: a store that says so
    /// answers.
    pub(crate) fn probes(&self) -> Vec<String> {
        match self {
            Self::Static { .. } => vec!["_system/probe/0.#epoch.0".to_owned()],
            Self::Registered(stores) => {
                let stores = stores.lock();
                let probes = stores
                    .heard
                    .values()
                    .filter_map(|heard| heard.probe.clone());
                probes.collect()
            }
        }
    }

    /// Says which containers have no store, or nothing if all have one, be it silent.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            Self::Static { .. } => None,
            Self::Registered(stores) => stores.lock().missing(),
        }
    }

    /// Says why not every store can be expected to answer, or nothing.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.missing().or_else(|| {
            let known = self.known();
            let silent = known.iter().filter(|store| store.silence > SILENCE_MAX);
            let silent: Vec<_> = silent
                .map(|store| {
                    let Known {
                        store_id, owned, ..
                    } = store;
                    let seconds = store.silence.as_secs();
                    format!("segment store {store_id} (containers {owned}) has been silent for {seconds} s")
                })
                .collect();
            (!silent.is_empty()).then(|| silent.join("; "))
        })
    }

    /// Takes a store's word that it is alive.
    ///
    /// # Errors
    /// A sentence for the store's log; nothing changed.
    pub(crate) fn register(&self, store: &StoreRegistration) -> Result<(), String> {
        let Self::Registered(stores) = self else {
            return Err("this controller has its segment store in its own process".to_owned());
        };
        let checked = check(store)?;
        stores.lock().take(store, checked)
    }
}

/// What a registration says that makes sense.
struct Checked {
    endpoint: Endpoint,
    owned: ContainerRange,
}

fn check(store: &StoreRegistration) -> Result<Checked, String> {
    if store.protocol_version != PROTOCOL_VERSION {
        return Err(format!(
            "registration version {}, this controller speaks {PROTOCOL_VERSION}",
            store.protocol_version
        ));
    }
    if store.store_id.is_empty() || store.store_id.len() > 64 {
        return Err("a store id has 1 to 64 bytes".to_owned());
    }
    let StoreRegistration {
        first_container: first,
        container_count: count,
        total_containers: total,
        ..
    } = *store;
    let end = first.checked_add(count).filter(|end| *end <= total);
    let owned = end.and_then(|end| ContainerRange::new(first, end));
    let owned = owned.filter(|_| total <= SLOTS).ok_or_else(|| {
        format!(
            "{count} containers from container {first} on, of {total}, are no range of containers"
        )
    })?;
    let address = format!("{}:{}", store.advertised_host, store.advertised_port);
    let endpoint = Endpoint::parse(&address).map_err(|error| error.to_string())?;
    if endpoint.port == 0 {
        return Err(format!(
            "{address} has no port that a client could connect to"
        ));
    }
    Ok(Checked { endpoint, owned })
}

impl Locate for Hosts {
    fn locate<'a>(
        &'a self,
        segment: &'a str,
    ) -> BoxFuture<'a, Result<Endpoint, sarit_client::Error>> {
        let unavailable = |message| sarit_client::Error::Unavailable {
            what: "locating a segment",
            message,
        };
        let located = self.connect(segment).map_err(unavailable);
        Box::pin(std::future::ready(located))
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

    const SEGMENT: &str = "scope/stream/0.#epoch.0";

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

    fn part(id: &str, port: u32, owned: &str) -> StoreRegistration {
        let owned: ContainerRange = owned.parse().unwrap();
        StoreRegistration {
            first_container: owned.start(),
            container_count: owned.count(),
            ..registration(id, port)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_store_is_refused_while_the_first_is_heard() {
        let hosts = Hosts::default();
        let port = || hosts.advertised(SEGMENT).unwrap().port;
        assert!(
            hosts
                .advertised(SEGMENT)
                .unwrap_err()
                .contains("registered")
        );
        assert!(hosts.trouble().unwrap().contains("registered"));
        hosts.register(&registration("a", 12345)).unwrap();
        assert_eq!(hosts.trouble(), None);
        assert!(hosts.register(&registration("b", 12346)).is_err());
        hosts.register(&registration("a", 12347)).unwrap();
        assert_eq!(port(), 12347);
        tokio::time::advance(SILENCE_MAX + HEARTBEAT).await;
        assert!(hosts.trouble().unwrap().contains("silent"));
        assert_eq!(port(), 12347);
        hosts.register(&registration("b", 12346)).unwrap();
        assert_eq!(port(), 12346);
        assert_eq!(hosts.known().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn two_stores_serve_what_is_in_their_containers() {
        let hosts = Hosts::default();
        hosts.register(&part("b", 2, "2..4")).unwrap();
        let missing = hosts.missing().unwrap();
        assert!(missing.contains("0..2 of 4"), "{missing}");
        assert_eq!(hosts.trouble(), Some(missing));
        hosts.register(&part("a", 1, "0..2")).unwrap();
        assert_eq!(hosts.trouble(), None);
        let mut met = [0, 0];
        for n in 0..100 {
            let segment = format!("scope/stream/{n}.#epoch.0");
            let container = placement::container(&segment, 4).0;
            let port = hosts.advertised(&segment).unwrap().port;
            assert_eq!(u32::from(port), 1 + container / 2, "{segment}");
            met[usize::from(port) - 1] += 1;
        }
        assert!(met[0] > 10 && met[1] > 10, "{met:?}");
        let owners = |probes: Vec<String>| -> Vec<u16> {
            let ports = probes
                .iter()
                .map(|probe| hosts.advertised(probe).unwrap().port);
            ports.collect()
        };
        assert_eq!(owners(hosts.probes()), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_part_is_missing_the_other_is_found() {
        let hosts = Hosts::default();
        hosts.register(&part("a", 1, "1..2")).unwrap();
        let (mut found, mut missing) = (0, 0);
        for n in 0..100 {
            match hosts.advertised(&format!("scope/stream/{n}.#epoch.0")) {
                Ok(endpoint) => {
                    assert_eq!(endpoint.port, 1);
                    found += 1;
                }
                Err(reason) => {
                    assert!(reason.contains("0..1, 2..4 of 4"), "{reason}");
                    missing += 1;
                }
            }
        }
        assert!(found > 5 && missing > 30, "{found} found, {missing} not");
    }

    #[tokio::test(start_paused = true)]
    async fn stores_that_contradict_each_other_are_refused() {
        let hosts = Hosts::default();
        hosts.register(&part("a", 1, "0..2")).unwrap();
        hosts.register(&part("b", 2, "2..4")).unwrap();
        let overlap = hosts.register(&part("c", 3, "1..3")).unwrap_err();
        assert!(overlap.contains("0..2"), "{overlap}");
        let mut other = part("c", 3, "0..1");
        other.total_containers = 8;
        let total = hosts.register(&other).unwrap_err();
        assert!(total.contains("of 8"), "{total}");
        // One of two that are in the way has gone: that is not enough.
        tokio::time::advance(SILENCE_MAX + HEARTBEAT).await;
        hosts.register(&part("b", 2, "2..4")).unwrap();
        assert!(hosts.trouble().unwrap().contains("containers 0..2"));
        assert!(hosts.register(&part("c", 3, "0..4")).is_err());
        assert_eq!(hosts.known().len(), 2);
        hosts.register(&part("c", 3, "0..2")).unwrap();
        assert_eq!(hosts.trouble(), None);
        let ids: Vec<_> = hosts
            .known()
            .into_iter()
            .map(|known| known.store_id)
            .collect();
        assert_eq!(ids, ["c", "b"]);
    }

    #[tokio::test]
    async fn what_clients_could_not_use_is_refused() {
        let hosts = Hosts::default();
        assert!(hosts.register(&registration("", 1)).is_err());
        assert!(hosts.register(&registration("a", 0)).is_err());
        assert!(hosts.register(&registration("a", 65536)).is_err());
        for (first, count, total) in [
            (0, 0, 4),
            (0, 5, 4),
            (4, 1, 4),
            (u32::MAX, 2, 4),
            (0, 0, 0),
            (0, SLOTS + 1, SLOTS + 1),
        ] {
            let mut wrong = registration("a", 1);
            wrong.first_container = first;
            wrong.container_count = count;
            wrong.total_containers = total;
            assert!(hosts.register(&wrong).is_err(), "{wrong:?}");
        }
        let mut scheme = registration("a", 1);
        scheme.advertised_host = "http://h".to_owned();
        assert!(hosts.register(&scheme).is_err());
        let mut later = registration("a", 1);
        later.protocol_version = 2;
        assert!(hosts.register(&later).is_err());
    }
}
