//! One multiplexed connection to a segment store.
//!
//! Any number of requests, reads and writers share it; replies find their way back by request id. A
//! request has a fresh id and one reply; a writer has one id for all its appends and gets every reply
//! to it. Commands that wait together leave in one vectored write. When the connection ends, everything
//! waiting on it fails with [`Error::Disconnected`] if the peer ended it, with [`Error::Timeout`] if it
//! was given up because the peer kept silent; nothing is sent again here.
//!
//! Bounded: requests by [`ConnectionConfig::calls_max`](crate::config::ConnectionConfig), appends by
//! their writers' windows, reads by one per reader.

mod pool;
mod route;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use sarit_env::{Net, NetStream};
use sarit_proto::wire::{
    self, Command, Encoder, FrameDecoder, HEADER, PAYLOAD_MAX, Reply, command,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::config::ConnectionConfig;
use crate::metrics;
use route::Routes;

pub use pool::Pool;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// A name or an IPv4 address.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Puts an endpoint together.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Reads `host:port`, with or without `tcp://` in front.
    ///
    /// # Errors
    /// [`Error::Address`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Address(text.to_owned());
        let plain = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = plain.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() || host.contains(['/', ':', '@', ' ']) {
            return Err(wrong());
        }
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A handle to one connection; clones share it. It closes when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    routes: Routes,
    calls: Semaphore,
    request_timeout: Duration,
    stop: CancellationToken,
}

impl Connection {
    /// Connects and exchanges versions. `tasks` owns the task that moves bytes.
    ///
    /// # Errors
    /// [`Error::Connect`]; [`Error::Timeout`]; [`Error::Protocol`] if the peer speaks another one.
    pub async fn open(
        net: &dyn Net,
        endpoint: &Endpoint,
        config: &ConnectionConfig,
        tasks: &TaskTracker,
    ) -> Result<Self, Error> {
        let limit = config.connect_timeout();
        let opening = handshake(net, endpoint);
        let (stream, buffer) =
            tokio::time::timeout(limit, opening)
                .await
                .map_err(|_| Error::Timeout {
                    endpoint: endpoint.clone(),
                    what: "connect",
                    after_ms: config.connect_timeout_ms,
                })??;
        metrics::connected();
        let (outgoing, commands) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            endpoint: endpoint.clone(),
            routes: Routes::default(),
            calls: Semaphore::new(config.calls_max),
            request_timeout: config.request_timeout(),
            stop: CancellationToken::new(),
        });
        let keep_alive = KeepAlive {
            interval: config.keep_alive(),
            outgoing: outgoing.downgrade(),
        };
        tasks.spawn(run(
            stream,
            buffer,
            Arc::clone(&shared),
            commands,
            keep_alive,
        ));
        Ok(Self { shared, outgoing })
    }

    /// Returns where it leads.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Returns whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.routes.is_closed()
    }

    /// Ends it: everything waiting fails with [`Error::Closed`].
    pub fn close(&self) {
        self.shared.stop.cancel();
    }

    /// Returns how many requests, reads and writers use it.
    pub(crate) fn load(&self) -> usize {
        self.shared.routes.len()
    }

    /// Sends the request that `build` makes of a fresh id, and waits for its reply.
    ///
    /// Cancel-safe in that a late reply is dropped; the request is done all the same.
    ///
    /// # Errors
    /// [`Error::Disconnected`] or [`Error::Timeout`]: it may have been done. [`Unsent`] as the first
    /// error of the two levels: it certainly was not.
    pub async fn call(
        &self,
        build: impl FnOnce(i64) -> Command,
    ) -> Result<Result<Reply, Error>, Unsent> {
        let permit = self.shared.calls.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        let (what, pending) = self.start(build)?;
        let limit = self.shared.request_timeout;
        Ok(match tokio::time::timeout(limit, pending).await {
            Ok(reply) => reply,
            Err(_) => Err(Error::Timeout {
                endpoint: self.shared.endpoint.clone(),
                what,
                after_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            }),
        })
    }

    /// Sends a request at once; its reply may be waited for without limit.
    pub(crate) fn start(
        &self,
        build: impl FnOnce(i64) -> Command,
    ) -> Result<(&'static str, PendingReply), Unsent> {
        let (sender, reply) = oneshot::channel();
        let request_id = self.shared.routes.add_call(sender).map_err(Unsent)?;
        let command = build(request_id);
        let what = command.name();
        let pending = PendingReply {
            reply,
            request_id,
            shared: Arc::clone(&self.shared),
        };
        // The peer would end the connection, for all who use it.
        let bytes = command.encoded_len();
        if bytes > HEADER + PAYLOAD_MAX {
            let message =
                format!("{bytes} bytes in one request, at most {PAYLOAD_MAX} are allowed");
            return Err(Unsent(Error::Refused { what, message }));
        }
        // A closed queue means that the task has failed every route, this one too.
        let _ = self.outgoing.send(command);
        Ok((what, pending))
    }

    /// Opens a way for a writer's appends and everything answered to them. Replies carry `tag`.
    pub(crate) fn attach(
        &self,
        tag: u64,
        replies: mpsc::UnboundedSender<Tagged>,
    ) -> Result<Link, Unsent> {
        let request_id = self
            .shared
            .routes
            .add_writer(tag, replies)
            .map_err(Unsent)?;
        Ok(Link {
            connection: self.clone(),
            request_id,
        })
    }
}

/// A request that was not sent, since the connection had ended or it is too large for any: nothing was done.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct Unsent(pub Error);

/// A reply on its way. Dropping it gives the reply up, not the request.
#[derive(Debug)]
pub(crate) struct PendingReply {
    reply: oneshot::Receiver<Result<Reply, Error>>,
    request_id: i64,
    shared: Arc<Shared>,
}

impl Future for PendingReply {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.reply).poll(cx));
        Poll::Ready(answer.unwrap_or(Err(Error::Closed)))
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        self.shared.routes.remove(self.request_id);
    }
}

/// A reply to a writer, or how its connection ended.
#[derive(Debug)]
pub(crate) struct Tagged {
    pub(crate) tag: u64,
    pub(crate) reply: Result<Reply, Error>,
}

/// A writer's way through a connection. Dropping it stops the replies.
#[derive(Debug)]
pub(crate) struct Link {
    connection: Connection,
    /// To be put into every command of this writer.
    pub(crate) request_id: i64,
}

impl Link {
    /// Queues a command. If the connection has ended, the writer is told by a reply.
    pub(crate) fn send(&self, command: Command) {
        let _ = self.connection.outgoing.send(command);
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.connection.endpoint()
    }

    /// Whether its connection has ended. If not, the end will be told by a reply.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.shared.routes.remove(self.request_id);
    }
}

/// A handshake is over when the peer's Hello has come: some servers answer nothing before it.
async fn handshake(net: &dyn Net, endpoint: &Endpoint) -> Result<(NetStream, BytesMut), Error> {
    let connect = |error: std::io::Error| Error::Connect {
        endpoint: endpoint.clone(),
        source: Arc::new(error),
    };
    let mut stream = net
        .connect(&endpoint.host, endpoint.port)
        .await
        .map_err(connect)?;
    let mut out = Encoder::default();
    Command::from(command::Hello {
        high_version: wire::VERSION,
        low_version: wire::OLDEST_VERSION,
    })
    .encode(&mut out);
    stream.write_all(&out.take()).await.map_err(connect)?;
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let frame = loop {
        match FrameDecoder::next(&mut buffer).map_err(|error| broken(endpoint, error))? {
            Some(frame) => break frame,
            None if stream.read_buf(&mut buffer).await.map_err(connect)? == 0 => {
                return Err(lost(endpoint, "closed during the handshake"));
            }
            None => {}
        }
    };
    match Reply::decode(frame).map_err(|error| broken(endpoint, error))? {
        Reply::Hello(hello)
            if hello.low_version <= wire::VERSION && hello.high_version >= wire::OLDEST_VERSION =>
        {
            Ok((stream, buffer))
        }
        Reply::Hello(hello) => Err(Error::Protocol {
            endpoint: endpoint.clone(),
            what: format!(
                "it speaks versions {} to {}, we speak {} to {}",
                hello.low_version,
                hello.high_version,
                wire::OLDEST_VERSION,
                wire::VERSION
            ),
        }),
        other => Err(Error::Protocol {
            endpoint: endpoint.clone(),
            what: format!("{} instead of a greeting", other.name()),
        }),
    }
}

fn lost(endpoint: &Endpoint, reason: impl ToString) -> Error {
    Error::Disconnected {
        endpoint: endpoint.clone(),
        reason: reason.to_string(),
    }
}

fn broken(endpoint: &Endpoint, error: wire::Error) -> Error {
    Error::Protocol {
        endpoint: endpoint.clone(),
        what: error.to_string(),
    }
}

/// Moves bytes both ways until either fails or the last handle is gone, then fails what waits.
async fn run(
    stream: NetStream,
    buffer: BytesMut,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    keep_alive: KeepAlive,
) {
    let (reading, writing) = tokio::io::split(stream);
    let (heard, silence) = tokio::sync::watch::channel(());
    let error = tokio::select! {
        biased;
        () = shared.stop.cancelled() => Error::Closed,
        error = receive(reading, buffer, &shared, &heard) => error,
        error = send(writing, commands, &shared.endpoint) => error,
        error = keep_alive.watch(silence, &shared.endpoint) => error,
    };
    tracing::debug!(endpoint = %shared.endpoint, %error, "connection ended");
    shared.routes.close(&error);
}

/// Hands every reply to whom it belongs. Returns why it could not go on.
async fn receive(
    mut stream: ReadHalf<NetStream>,
    mut buffer: BytesMut,
    shared: &Shared,
    heard: &tokio::sync::watch::Sender<()>,
) -> Error {
    loop {
        loop {
            match FrameDecoder::next(&mut buffer) {
                Ok(Some(frame)) => match Reply::decode(frame) {
                    Ok(reply) => shared.routes.deliver(reply),
                    Err(error) => return broken(&shared.endpoint, error),
                },
                Ok(None) => break,
                Err(error) => return broken(&shared.endpoint, error),
            }
        }
        buffer.reserve(READ_BYTES);
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return lost(&shared.endpoint, "closed by the peer"),
            Ok(_) => {
                heard.send_replace(());
            }
            Err(error) => return lost(&shared.endpoint, error),
        }
    }
}

/// Writes what is queued, as much as possible at a time. Returns why it could not go on.
async fn send(
    mut stream: WriteHalf<NetStream>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    endpoint: &Endpoint,
) -> Error {
    let mut queued = Vec::with_capacity(COMMANDS_PER_WRITE);
    let mut out = Encoder::default();
    while commands.recv_many(&mut queued, COMMANDS_PER_WRITE).await > 0 {
        for command in queued.drain(..) {
            command.encode(&mut out);
        }
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
            let filled = out.slices(&mut slices);
            match stream.write_vectored(&slices[..filled]).await {
                Ok(0) => return lost(endpoint, "nothing more could be written"),
                Ok(written) => out.advance(written),
                Err(error) => return lost(endpoint, error),
            }
        }
    }
    Error::Closed
}

struct KeepAlive {
    interval: Duration,
    outgoing: mpsc::WeakUnboundedSender<Command>,
}

impl KeepAlive {
    /// Asks for a sign of life after an interval of silence. Returns once the peer must be dead.
    async fn watch(
        self,
        mut silence: tokio::sync::watch::Receiver<()>,
        endpoint: &Endpoint,
    ) -> Error {
        let mut silent = 0;
        while silent < SILENT_INTERVALS_MAX {
            tokio::time::sleep(self.interval).await;
            if silence.has_changed().unwrap_or(false) {
                silence.mark_unchanged();
                silent = 0;
                continue;
            }
            silent += 1;
            match self.outgoing.upgrade() {
                Some(outgoing) => {
                    let _ = outgoing.send(command::KeepAlive {}.into());
                }
                // The last handle is gone: the sending side is about to end the connection.
                None => std::future::pending().await,
            }
        }
        Error::Timeout {
            endpoint: endpoint.clone(),
            what: "sign of life",
            after_ms: self.interval.as_millis() as u64 * u64::from(SILENT_INTERVALS_MAX),
        }
    }
}

/// Room for one read from the socket.
const READ_BYTES: usize = 128 << 10;
const COMMANDS_PER_WRITE: usize = 128;
const SLICES_PER_WRITE: usize = 64;
const SILENT_INTERVALS_MAX: u32 = 3;

#[cfg(test)]
mod tests;
