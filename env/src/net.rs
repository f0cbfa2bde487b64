//! TCP: listen, accept, connect. TLS, when it comes, wraps a [`NetStream`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// What a byte stream must be able to do.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// One TCP connection of either world.
pub struct NetStream {
    io: Box<dyn Io>,
    peer: SocketAddr,
}

impl NetStream {
    /// Wraps a byte stream whose other end is at `peer`.
    pub fn new(io: impl Io, peer: SocketAddr) -> Self {
        Self {
            io: Box::new(io),
            peer,
        }
    }

    /// Returns the address of the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl std::fmt::Debug for NetStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetStream({})", self.peer)
    }
}

impl AsyncRead for NetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A listening socket.
#[async_trait]
pub trait Listener: Send + Sync {
    /// Waits for the next connection. Cancel-safe.
    async fn accept(&self) -> io::Result<NetStream>;
    /// Returns the address it listens on; with port 0 asked for, the one given.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A way to reach other processes.
#[async_trait]
pub trait Net: Send + Sync {
    /// Listens on `address`.
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;
    /// Connects to `host:port`; a host is a name or an IP address.
    async fn connect(&self, host: &str, port: u16) -> io::Result<NetStream>;
}

/// The network of the operating system. Nagle's delay is off on every connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "this is where sockets enter")]
impl Net for TcpNet {
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<NetStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(NetStream::new(stream, peer))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<NetStream> {
        let (stream, peer) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(NetStream::new(stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
