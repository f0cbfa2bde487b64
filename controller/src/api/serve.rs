//! gRPC over the listeners of [`sarit_env::Net`], so that a simulated world runs the same server.
//!
//! Bounded: connections, calls at once on each, bytes of a request. A connection whose peer is gone is
//! found by our own pings. On stop no new calls are taken; running ones get a moment to end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use sarit_env::{Listener, NetStream};
use sarit_proto::controller::ControllerServiceServer;
use sarit_proto::controller::internal::load_server::LoadServer;
use sarit_proto::controller::internal::membership_server::MembershipServer;
use sarit_proto::controller::internal::operations_server::OperationsServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::warn;

use super::grpc::Service;
use super::load::Reports;
use super::membership::Registrar;
use super::operations::Operator;
use crate::autoscale::AutoScaler;
use crate::placement::hosts::SharedHosts;
use crate::store::MetaStore;

/// Connections at once; further ones wait in the operating system's queue.
const CONNECTIONS_MAX: usize = 4096;
/// Calls at once on one connection.
const CALLS_PER_CONNECTION_MAX: u32 = 256;
/// Largest request. The largest real ones are reader groups over thousands of streams.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// A silent peer is pinged after this long, and given up when it does not answer.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long running calls may take to end after stop.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// Delay after an error of accept, which is mostly a lack of file descriptors.
const ACCEPT_DELAY: Duration = Duration::from_millis(50);

/// What stores tell, and who wants to know.
pub(crate) struct Internal {
    pub(crate) hosts: SharedHosts,
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) loads: AutoScaler,
}

/// Serves until `stop`.
///
/// # Errors
/// What the transport reports; the listener is unusable then.
pub(crate) async fn serve(
    listener: Box<dyn Listener>,
    service: Service,
    internal: Internal,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let operator = Operator(service.tasks.clone());
    let operations = OperationsServer::new(operator).max_decoding_message_size(REQUEST_BYTES_MAX);
    let controller =
        ControllerServiceServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
    let Internal {
        hosts,
        store,
        loads,
    } = internal;
    let registrar = Registrar { hosts, store };
    let membership = MembershipServer::new(registrar).max_decoding_message_size(REQUEST_BYTES_MAX);
    let load = LoadServer::new(Reports(loads)).max_decoding_message_size(REQUEST_BYTES_MAX);
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(controller)
        .add_service(membership)
        .add_service(load)
        .add_service(operations)
        .serve_with_incoming_shutdown(connections(listener), stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_MAX).await;
    };
    tokio::select! {
        biased;
        served = server => served,
        () = drained => Ok(()),
    }
}

/// Never ends; errors of single connections stay theirs.
fn connections(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<Incoming>> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    futures_util::stream::unfold((listener, places), async |(listener, places)| {
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let incoming = Incoming {
                        stream,
                        _place: place,
                    };
                    return Some((Ok(incoming), (listener, places)));
                }
                Err(error) => {
                    warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_DELAY).await;
                }
            }
        }
    })
}

/// A connection in the form the server takes.
struct Incoming {
    stream: NetStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Incoming {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
