//! Connections by address, shared and bounded.
//!
//! Each address has a fixed number of places. A caller gets the least loaded open connection, or opens
//! one where a place is free and every open one is in use. Callers that wait for the same attempt share
//! its failure: a dead host costs one timeout, not one per caller. Nothing is retried here; where no further
//! connection is to be had, an open one is shared.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sarit_env::Net;
use tokio_util::task::TaskTracker;

use super::{Connection, Endpoint};
use crate::Error;
use crate::config::ConnectionConfig;

/// A handle to the pool; clones share it.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    net: Arc<dyn Net>,
    config: ConnectionConfig,
    tasks: TaskTracker,
    places: Mutex<BTreeMap<Endpoint, Arc<Vec<Place>>>>,
}

/// Room for one connection.
#[derive(Default)]
struct Place {
    current: Mutex<Option<Connection>>,
    attempts: AtomicU64,
    opening: tokio::sync::Mutex<Option<Error>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} addresses)", self.0.places.lock().len())
    }
}

impl Pool {
    /// Creates an empty pool; its connections' tasks belong to `tasks`.
    pub fn new(net: Arc<dyn Net>, config: ConnectionConfig, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            net,
            config,
            tasks,
            places: Mutex::default(),
        }))
    }

    /// Returns a connection to `endpoint`. Cancel-safe.
    ///
    /// # Errors
    /// Those of [`Connection::open`], if none is open.
    pub async fn get(&self, endpoint: &Endpoint) -> Result<Connection, Error> {
        let places = Arc::clone(self.0.places.lock().entry(endpoint.clone()).or_insert_with(
            || {
                Arc::new(
                    (0..self.0.config.per_store_max)
                        .map(|_| Place::default())
                        .collect(),
                )
            },
        ));
        let opened = self.open(endpoint, choose(&places)).await;
        // No further one is to be had: those that are open serve all.
        opened.or_else(|error| least_loaded(&places).ok_or(error))
    }

    async fn open(&self, endpoint: &Endpoint, place: &Place) -> Result<Connection, Error> {
        let seen = place.attempts.load(Ordering::Acquire);
        let mut failure = place.opening.lock().await;
        if let Some(open) = place.open_connection() {
            return Ok(open);
        }
        if let Some(error) = failure.as_ref()
            && place.attempts.load(Ordering::Acquire) != seen
        {
            return Err(error.clone());
        }
        let opened = Connection::open(&*self.0.net, endpoint, &self.0.config, &self.0.tasks).await;
        place.attempts.fetch_add(1, Ordering::Release);
        *failure = opened.as_ref().err().cloned();
        *place.current.lock() = opened.as_ref().ok().cloned();
        opened
    }

    /// Closes every connection. A later call opens new ones.
    pub fn close(&self) {
        let places = std::mem::take(&mut *self.0.places.lock());
        for place in places.values().flat_map(|places| places.iter()) {
            if let Some(connection) = place.current.lock().take() {
                connection.close();
            }
        }
    }
}

impl Place {
    fn open_connection(&self) -> Option<Connection> {
        self.current
            .lock()
            .as_ref()
            .filter(|connection| !connection.is_closed())
            .cloned()
    }
}

fn least_loaded(places: &[Place]) -> Option<Connection> {
    let open = places.iter().filter_map(Place::open_connection);
    open.min_by_key(Connection::load)
}

/// An idle open connection, else a free place, else the least loaded connection.
fn choose(places: &[Place]) -> &Place {
    let load = |place: &Place| match place.open_connection() {
        Some(connection) if connection.load() == 0 => (0, 0),
        None => (1, 0),
        Some(connection) => (2, connection.load()),
    };
    let least = places.iter().min_by_key(|place| load(place));
    least.expect("a pool has at least one place per address")
}
