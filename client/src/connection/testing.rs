//! A network of in-process pipes, and the far end of one, spoken frame by frame by a test.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::Mutex;
use sarit_env::{Listener, Net, NetStream};
use sarit_proto::wire::{Command, Encoder, FrameDecoder, Reply, reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{Endpoint, Pool};
use crate::config::ConnectionConfig;

/// A network on which every connect reaches the test. While `refusing`, it reaches nobody.
#[derive(Debug)]
pub(crate) struct PipeNet {
    accepted: mpsc::UnboundedSender<DuplexStream>,
    refusals: Mutex<u32>,
}

impl PipeNet {
    pub(crate) fn new() -> (Arc<Self>, Peers) {
        let (accepted, incoming) = mpsc::unbounded_channel();
        let net = Arc::new(Self {
            accepted,
            refusals: Mutex::new(0),
        });
        (net, Peers(incoming))
    }

    /// Refuses the next `count` connects.
    pub(crate) fn refuse(&self, count: u32) {
        *self.refusals.lock() = count;
    }

    pub(crate) fn pool(self: &Arc<Self>, config: ConnectionConfig) -> Pool {
        Pool::new(Arc::clone(self) as Arc<dyn Net>, config, TaskTracker::new())
    }
}

#[async_trait]
impl Net for PipeNet {
    async fn listen(&self, _address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _host: &str, port: u16) -> io::Result<NetStream> {
        {
            let mut refusals = self.refusals.lock();
            if *refusals > 0 {
                *refusals -= 1;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
        }
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        self.accepted.send(far).map_err(refused)?;
        Ok(NetStream::new(
            near,
            SocketAddr::from(([127, 0, 0, 1], port)),
        ))
    }
}

/// The far ends, as they are connected.
#[derive(Debug)]
pub(crate) struct Peers(mpsc::UnboundedReceiver<DuplexStream>);

impl Peers {
    /// Waits for the next connection, whatever is spoken on it.
    pub(crate) async fn raw(&mut self) -> DuplexStream {
        self.0.recv().await.expect("the network lives")
    }

    /// Waits for the next connection without greeting it.
    pub(crate) async fn silent(&mut self) -> Peer {
        Peer {
            stream: self.raw().await,
            buffer: BytesMut::new(),
        }
    }

    /// Waits for the next connection and exchanges greetings.
    pub(crate) async fn accept(&mut self) -> Peer {
        let mut peer = self.silent().await;
        let hello = peer.recv().await;
        assert!(matches!(hello, Some(Command::Hello(_))), "{hello:?}");
        let hello = reply::Hello {
            high_version: 16,
            low_version: 5,
        };
        peer.send(hello).await;
        peer
    }
}

/// The far end of one connection. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: DuplexStream,
    buffer: BytesMut,
}

impl Peer {
    /// Waits for the next command; `None` once the near end is gone.
    pub(crate) async fn recv(&mut self) -> Option<Command> {
        loop {
            if let Some(frame) = FrameDecoder::next(&mut self.buffer).expect("a frame") {
                return Some(Command::decode(frame).expect("a command"));
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn send(&mut self, reply: impl Into<Reply>) {
        let mut out = Encoder::default();
        reply.into().encode(&mut out);
        self.stream
            .write_all(&out.take())
            .await
            .expect("the near end reads");
    }
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::new("store", 12345)
}

const PIPE_BYTES: usize = 64 << 20;
