//! A controller on in-memory connections, with segments in memory, called with raw messages.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, BufMut as _, Bytes};
use hyper_util::rt::TokioIo;
use sarit_client::connection::Endpoint;
use sarit_env::{Clock, Listener, Net, NetStream, Rng};
use sarit_proto::controller::ControllerServiceClient;
use sarit_proto::controller::internal::membership_client::MembershipClient;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::placement::hosts::Hosts;
use crate::store::MemoryStore;
use crate::testing::MemorySegments;
use crate::{Config, Controller, Parts};

const PIPE_BYTES: usize = 1 << 16;

/// A running controller.
pub(super) struct Running {
    pub(super) segments: MemorySegments,
    pub(super) store: MemoryStore,
    pub(super) channel: Channel,
    stop: CancellationToken,
    ended: tokio::task::JoinSet<Result<(), crate::Error>>,
}

impl Running {
    /// Starts one whose only store clients reach at `store.test:12345`.
    pub(super) async fn new() -> Self {
        let endpoint = Endpoint::new("store.test", 12345);
        Self::with(Hosts::Static {
            advertised: endpoint.clone(),
            connect: endpoint,
        })
        .await
    }

    pub(super) async fn with(hosts: Hosts) -> Self {
        let (dial, calls) = mpsc::channel(16);
        let net = PipeNet {
            calls: Mutex::new(Some(calls)),
        };
        let (store, segments) = (MemoryStore::new(), MemorySegments::default());
        let parts = Parts {
            net: Arc::new(net),
            clock: Clock::from_fn(|| 7),
            rng: Rng::seeded(1),
            store: Arc::new(store.clone()),
        };
        let fake = Arc::new(segments.clone());
        let hosts = Arc::new(hosts);
        let config = Config::default();
        let controller = Controller::assemble(config, parts, hosts, fake, TaskTracker::new());
        let controller = controller.await.unwrap();
        let stop = CancellationToken::new();
        let mut ended = tokio::task::JoinSet::new();
        ended.spawn(controller.run(stop.clone()));
        let channel = tonic::transport::Endpoint::from_static("http://controller.test")
            .connect_with_connector(tower::service_fn(move |_| {
                let dial = dial.clone();
                async move {
                    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                    let sent = dial.send(theirs).await;
                    sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                    Ok::<_, io::Error>(TokioIo::new(ours))
                }
            }))
            .await
            .unwrap();
        Self {
            segments,
            store,
            channel,
            stop,
            ended,
        }
    }

    pub(super) fn client(&self) -> ControllerServiceClient<Channel> {
        ControllerServiceClient::new(self.channel.clone())
    }

    pub(super) fn membership(&self) -> MembershipClient<Channel> {
        MembershipClient::new(self.channel.clone())
    }

    /// Calls a method of the service with the bytes of a message.
    pub(super) async fn call(&self, method: &str, message: Bytes) -> Result<Bytes, Status> {
        let path = format!("/io.pravega.controller.stream.api.grpc.v1.ControllerService/{method}");
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let ready = client.ready().await;
        ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
        let request = tonic::Request::new(message);
        let reply = client.unary(request, path.parse().unwrap(), Raw).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Stops it and waits for its end.
    pub(super) async fn stop(mut self) -> Result<(), crate::Error> {
        self.stop.cancel();
        drop(self.channel);
        self.ended.join_next().await.unwrap().unwrap()
    }
}

/// One listener, which hands out the far ends of pipes.
struct PipeNet {
    calls: Mutex<Option<mpsc::Receiver<tokio::io::DuplexStream>>>,
}

struct PipeListener(Mutex<mpsc::Receiver<tokio::io::DuplexStream>>);

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

#[async_trait]
impl Net for PipeNet {
    async fn listen(&self, _address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let calls = self.calls.lock().await.take();
        Ok(Box::new(PipeListener(Mutex::new(calls.unwrap()))))
    }

    async fn connect(&self, _host: &str, _port: u16) -> io::Result<NetStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

#[async_trait]
impl Listener for PipeListener {
    async fn accept(&self) -> io::Result<NetStream> {
        match self.0.lock().await.recv().await {
            Some(pipe) => Ok(NetStream::new(pipe, ADDRESS)),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(ADDRESS)
    }
}

/// Messages as their bytes.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
