//! Where everything starts: a client knows one controller, and through it every segment store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sarit_env::net::TcpNet;
use sarit_env::{Net, Rng};
use sarit_proto::ids::SegmentId;
use sarit_proto::names::{ScopedStream, StreamSegment};
use sarit_proto::stream_cut::{SegmentPosition, StreamCut};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::config::{Backoff, Config, Retry};
use crate::connection::{Endpoint, Pool};
use crate::controller::Controller;
use crate::event::reader::Bounds;
use crate::event::{
    EventReader, EventWriter, From, Owner, Successor, Topology, Until, reader, writer,
};
use crate::segment::{Locate, SegmentReader, Segments};
use crate::table::KeyValueTable;
use crate::transaction::TransactionWriter;

/// What the client reaches the world with.
#[derive(Clone)]
pub struct Parts {
    /// The network.
    pub net: Arc<dyn Net>,
    /// Randomness: writer ids, jitter, events without key.
    pub rng: Rng,
}

impl Parts {
    /// Returns the parts of the operating system.
    pub fn system() -> Self {
        Self {
            net: Arc::new(TcpNet),
            rng: Rng::from_os(),
        }
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// A client. Clones share everything. When the last one is gone, with all writers opened from it, its
/// tasks stop; [`Client::close`] waits for that.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    controller: Controller,
    segments: Segments,
    pool: Pool,
    rng: Rng,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Client {
    /// Creates a client of the controller at `controller`. Nothing is connected before it is needed.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Address`].
    pub fn new(controller: Endpoint, config: Config, parts: Parts) -> Result<Self, Error> {
        config.validate()?;
        let config = Arc::new(config);
        let tasks = TaskTracker::new();
        let pool = Pool::new(
            Arc::clone(&parts.net),
            config.connection.clone(),
            tasks.clone(),
        );
        let controller = Controller::new(
            parts.net,
            controller,
            Arc::clone(&config),
            parts.rng.split(),
        )?;
        let segments = Segments::new(
            pool.clone(),
            Arc::new(controller.clone()),
            config.retry.clone(),
            parts.rng.split(),
        );
        Ok(Self(Arc::new(Inner {
            config,
            controller,
            segments,
            pool,
            rng: parts.rng,
            tasks,
            stop: CancellationToken::new(),
        })))
    }

    /// Creates a client of the controller at an address like `tcp://127.0.0.1:9090`, with defaults, over
    /// the operating system's network. Nothing is connected before it is needed.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn connect(address: &str) -> Result<Self, Error> {
        Self::new(
            Endpoint::parse(address)?,
            Config::default(),
            Parts::system(),
        )
    }

    /// Returns the calls on scopes and streams.
    pub fn controller(&self) -> &Controller {
        &self.0.controller
    }

    /// Returns the calls on segments.
    pub fn segments(&self) -> &Segments {
        &self.0.segments
    }

    /// Opens a writer of events.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], [`Error::StreamSealed`], and those of [`Error`].
    pub async fn event_writer(&self, stream: &ScopedStream) -> Result<EventWriter, Error> {
        let owners = self.controller().current_segments(stream).await?;
        if owners.is_empty() {
            return Err(Error::StreamSealed(stream.to_string()));
        }
        self.open_writer(&owners, self.topology(stream))
    }

    /// Opens a writer of transactions, each of which is aborted when nobody keeps it open for `lease_ms`.
    /// Asks nothing of the server.
    pub fn transaction_writer(&self, stream: &ScopedStream, lease_ms: u64) -> TransactionWriter {
        let writer = format!("{:032x}", self.0.rng.u128());
        TransactionWriter::new(self.clone(), stream.clone(), writer, lease_ms)
    }

    /// Opens a key-value table.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`], and those of [`Error`].
    pub async fn key_value_table(&self, table: &ScopedStream) -> Result<KeyValueTable, Error> {
        KeyValueTable::open(self.clone(), table).await
    }

    /// Opens a writer to segments that somebody has given.
    pub(crate) fn open_writer(
        &self,
        owners: &[Owner],
        topology: Arc<dyn Topology>,
    ) -> Result<EventWriter, Error> {
        let parts = writer::Parts {
            config: (*self.0.config).clone(),
            topology,
            pool: self.0.pool.clone(),
            rng: self.0.rng.split(),
            stop: self.0.stop.clone(),
        };
        let writer = EventWriter::open(owners, parts, &self.0.tasks)?;
        Ok(writer.keeping(self.clone()))
    }

    /// Runs a task until it ends, `stop` says so, or the client stops.
    pub(crate) fn beside(
        &self,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let all = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = all.cancelled() => {}
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Opens a reader of all events of a stream.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn event_reader(
        &self,
        stream: &ScopedStream,
        from: From,
        until: Until,
    ) -> Result<EventReader, Error> {
        // The end is looked for first: what is written meanwhile is not part of it.
        let tail = match until {
            Until::Tail => self.tail(stream).await?.positions,
            Until::Sealed | Until::Cut(_) => BTreeMap::new(),
        };
        let from = match from {
            From::Head => self.controller().head(stream).await?,
            From::Tail => self.tail(stream).await?,
            From::Cut(cut) => cut,
        };
        let bounds = match until {
            Until::Sealed | Until::Tail => Bounds::of_epoch(tail),
            Until::Cut(cut) => {
                let before = self
                    .controller()
                    .segments_between(&from, Some(&cut))
                    .await?;
                Bounds::at_cut(cut.positions, before)
            }
        };
        let parts = reader::Parts {
            config: (*self.0.config).clone(),
            stream: stream.clone(),
            topology: self.topology(stream),
            pool: self.0.pool.clone(),
            rng: self.0.rng.split(),
        };
        Ok(EventReader::open(from.positions, bounds, parts))
    }

    /// Opens a reader of the bytes of one segment.
    pub fn segment_reader(&self, segment: &StreamSegment) -> SegmentReader {
        SegmentReader::new(
            self.0.pool.clone(),
            Arc::new(self.controller().clone()),
            self.0.config.retry.clone(),
            self.0.rng.split(),
            segment.to_string(),
        )
    }

    /// Returns where the next events will be written. Of a sealed stream: its end.
    ///
    /// # Errors
    /// [`Error::NoSuchStream`], and those of [`Error`].
    pub async fn tail(&self, stream: &ScopedStream) -> Result<StreamCut, Error> {
        let mut backoff = Backoff::new(&self.0.config.retry, &self.0.rng);
        loop {
            match self.tail_once(stream).await {
                // Others took over, and it was truncated away, since we asked who is there.
                Err(Error::NoSuchSegment(segment)) => {
                    let message = format!("segment {segment} has just gone");
                    let what = "getCurrentSegments";
                    backoff.pause(Error::Unavailable { what, message }).await?;
                }
                tail => return tail,
            }
        }
    }

    async fn tail_once(&self, stream: &ScopedStream) -> Result<StreamCut, Error> {
        let mut ends = self.controller().current_segments(stream).await?;
        if ends.is_empty() {
            let last = self.controller().last_epoch(stream).await?;
            ends = self.controller().epoch_segments(stream, last).await?;
        }
        let mut positions = BTreeMap::new();
        for Owner { segment, .. } in ends {
            let name = stream.segment(segment).to_string();
            let info = self.segments().info(&name).await?;
            positions.insert(segment, SegmentPosition::At(info.length));
        }
        Ok(StreamCut {
            stream: stream.clone(),
            positions,
        })
    }

    fn topology(&self, stream: &ScopedStream) -> Arc<dyn Topology> {
        Arc::new(StreamTopology {
            controller: self.controller().clone(),
            stream: stream.clone(),
            retry: self.0.config.retry.clone(),
            rng: self.0.rng.split(),
        })
    }

    /// Stops everything and waits until it has stopped. What writers have not got acknowledged is
    /// abandoned: flush them first.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.pool.close();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// What the controller knows about one stream.
#[derive(Debug)]
struct StreamTopology {
    controller: Controller,
    stream: ScopedStream,
    retry: Retry,
    rng: Rng,
}

impl Locate for StreamTopology {
    fn locate<'a>(&'a self, segment: &'a str) -> BoxFuture<'a, Result<Endpoint, Error>> {
        self.controller.locate(segment)
    }

    fn forget(&self, segment: &str) {
        self.controller.forget(segment);
    }
}

impl Topology for StreamTopology {
    fn successors(&self, segment: SegmentId) -> BoxFuture<'_, Result<Vec<Successor>, Error>> {
        let segment = self.stream.segment(segment);
        Box::pin(async move {
            let mut backoff = Backoff::new(&self.retry, &self.rng);
            loop {
                let successors = self.controller.successors(&segment).await?;
                // Giving up on a stream is for good. So nobody takes over only if nobody takes events
                // at all: the stream is sealed.
                if !successors.is_empty() {
                    return Ok(successors);
                }
                let current = self.controller.current_segments(&self.stream).await?;
                if current.is_empty() {
                    return Ok(successors);
                }
                let message = format!("segment {segment} has ended and nobody takes over yet");
                let what = "getSegmentsImmediatelyFollowing";
                backoff.pause(Error::Unavailable { what, message }).await?;
            }
        })
    }

    fn segment_name(&self, segment: SegmentId) -> String {
        self.stream.segment(segment).to_string()
    }
}
