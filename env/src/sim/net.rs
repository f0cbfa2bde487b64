//! TCP inside a turmoil world.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use turmoil::net::{TcpListener, TcpStream};

use crate::net::{Listener, Net, NetStream};

/// The network of the turmoil world the caller runs in. Hosts are reached by their turmoil names.
#[derive(Clone, Copy, Debug, Default)]
pub struct TurmoilNet;

#[async_trait]
impl Net for TurmoilNet {
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<NetStream> {
        let stream = TcpStream::connect((host, port)).await?;
        let peer = stream.peer_addr()?;
        Ok(NetStream::new(stream, peer))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<NetStream> {
        let (stream, peer) = TcpListener::accept(self).await?;
        Ok(NetStream::new(stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
