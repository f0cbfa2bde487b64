//! HTTP over the listeners of [`sarit_env::Net`].
//!
//! Bounded: connections, the wait for a request's head, a connection's life. On stop nothing new is
//! accepted; requests under way get a moment to end.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use sarit_env::{Listener, NetStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Pause after a failed accept: the usual reason, no file handles, goes away by itself.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What peers may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at once; further ones wait in the operating system's queue.
    connections: usize,
    /// Until a request's head is there; between two requests too.
    head: Duration,
    /// A connection's life: so long a peer that does not take its answer keeps its place.
    life: Duration,
    /// Until running requests have ended, behind that life and after stop.
    drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(30),
            life: Duration::from_secs(300),
            drain: Duration::from_secs(3),
        }
    }
}

/// Serves until `stop`, then until every connection has ended.
pub(crate) async fn serve(
    listener: Box<dyn Listener>,
    pages: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < bounds.connections => match accepted {
                Ok(stream) => {
                    connections.spawn(connection(stream, pages.clone(), bounds, stop.clone()));
                }
                Err(error) => {
                    warn!(%error, "HTTP connections can't be accepted, trying again");
                    sleep(RETRY_DELAY).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one peer. Its errors are its own.
async fn connection(stream: NetStream, pages: Router, bounds: Bounds, stop: CancellationToken) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head);
    let service = TowerToHyperService::new(pages);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(bounds.life) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(bounds.drain, connection).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use sarit_env::Net as _;
    use sarit_env::net::TcpNet;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);
    const WIDE: Bounds = Bounds {
        connections: 8,
        head: LONG,
        life: LONG,
        drain: LONG,
    };

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        tasks: JoinSet<()>,
    }

    impl Server {
        async fn start(bounds: Bounds) -> Self {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = TcpNet.listen(any).await.expect("a port");
            let address = listener.local_addr().expect("its address");
            let pages = Router::new().route("/", get(async || "a page"));
            let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
            tasks.spawn(serve(listener, pages, bounds, stop.clone()));
            Self {
                address,
                stop,
                tasks,
            }
        }

        async fn connect(&self, request: &str) -> NetStream {
            let stream = TcpNet.connect("127.0.0.1", self.address.port()).await;
            let mut stream = stream.expect("a connection");
            let sent = stream.write_all(request.as_bytes()).await;
            sent.expect("it is sent");
            stream
        }

        async fn page(&self) -> String {
            answer(self.connect(REQUEST).await).await
        }
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: sarit\r\nConnection: close\r\n\r\n";

    async fn answer(mut stream: NetStream) -> String {
        let mut answer = String::new();
        let read = timeout(LONG / 2, stream.read_to_string(&mut answer)).await;
        read.expect("in time").expect("it is read");
        answer
    }

    #[tokio::test]
    async fn half_a_request_does_not_hold_up_the_end() {
        let drain = SHORT;
        let mut server = Server::start(Bounds { drain, ..WIDE }).await;
        let _half = server.connect("GET / HTTP/1.1\r\nHo").await;
        // Connections are accepted in their order, so the other one is being served by then.
        assert!(server.page().await.ends_with("a page"));
        server.stop.cancel();
        let ended = timeout(LONG / 2, server.tasks.join_next()).await;
        assert!(ended.is_ok_and(|ended| ended.is_some_and(|ended| ended.is_ok())));
    }

    #[tokio::test]
    async fn a_peer_that_asks_for_nothing_is_hung_up_on() {
        let server = Server::start(Bounds {
            head: SHORT,
            ..WIDE
        })
        .await;
        assert_eq!(answer(server.connect("GET / HT").await).await, "");
        assert_eq!(answer(server.connect("").await).await, "");
    }

    #[tokio::test]
    async fn a_connection_s_life_ends_when_nothing_is_under_way() {
        let (life, drain) = (SHORT, SHORT);
        let server = Server::start(Bounds {
            life,
            drain,
            ..WIDE
        })
        .await;
        assert_eq!(answer(server.connect("GET / HT").await).await, "");
    }

    #[tokio::test]
    async fn further_connections_wait_for_a_place() {
        let server = Server::start(Bounds {
            connections: 1,
            ..WIDE
        })
        .await;
        let first = server.connect("GET / HT").await;
        let mut second = pin!(server.page());
        assert!(timeout(SHORT, second.as_mut()).await.is_err());
        drop(first);
        assert!(second.await.ends_with("a page"));
    }
}
