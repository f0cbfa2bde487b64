//! Accepts connections, up to the limit, and keeps them until they end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sarit_container::MemoryBudget;
use sarit_env::{Listener, NetStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::connection::{Connection, Shared};
use crate::reply::Close;

/// Pause after a failed accept: the usual reason, no file handles, goes away by itself.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Accepts until `stop`, then waits until every connection has answered what it accepted, or given up.
pub(crate) async fn run(
    listener: Box<dyn Listener>,
    shared: Arc<Shared>,
    memory: MemoryBudget,
    open: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                check(ended);
                open.store(connections.len(), Relaxed);
            }
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    failing = false;
                    if connections.len() >= shared.limits.connections {
                        shared.metrics.connections_refused.increment(1);
                        continue;
                    }
                    let connection = serve(stream, shared.clone(), &memory, stop.clone());
                    connections.spawn(connection);
                    open.store(connections.len(), Relaxed);
                }
                Err(error) => {
                    report(&error, &mut failing);
                    sleep(RETRY_DELAY).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        check(ended);
        open.store(connections.len(), Relaxed);
    }
}

/// A connection never panics, whatever its peer sends; if one does, the process has a defect and ends.
fn check(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

fn report(error: &io::Error, failing: &mut bool) {
    if !std::mem::replace(failing, true) {
        warn!(%error, "connections can't be accepted, trying again");
    }
}

fn serve(
    stream: NetStream,
    shared: Arc<Shared>,
    memory: &MemoryBudget,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let peer = stream.peer();
    let metrics = shared.metrics.clone();
    metrics.connections_accepted.increment(1);
    metrics.connections.increment(1.0);
    let connection = Connection::new(stream, shared, memory.connection(), stop);
    async move {
        let close = connection.run().await;
        metrics.closed(&close);
        match &close {
            Close::Malformed(_) | Close::Confused => {
                warn!(%peer, reason = %close, "connection closed");
            }
            _ => debug!(%peer, reason = %close, "connection closed"),
        }
    }
}
