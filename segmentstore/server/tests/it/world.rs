//! A running store, and peers that speak the wire protocol frame by frame.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sarit_env::disk::RealDisk;
use sarit_env::net::TcpNet;
use sarit_env::{Clock, Net as _, NetStream, Rng};
use sarit_proto::ids::WriterId;
use sarit_proto::wire::command::{
    AppendBlockEnd, CreateSegment, GetStreamSegmentInfo, Hello, KeepAlive, ReadSegment,
    SealSegment, SetupAppend,
};
use sarit_proto::wire::reply::{SegmentRead, StreamSegmentInfo};
use sarit_proto::wire::{Command, Encoder, FrameDecoder, Reply};
use sarit_segmentstore::{Config, Error, Inspect, Parts, Running, start, start_on};
use sarit_wal::Wal;
use sarit_wal::memory::Memory;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long an answer may take before the test fails. Far more than it needs, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A store on a log in memory.
pub(crate) struct World {
    pub(crate) running: Running,
    pub(crate) memory: Memory,
    pub(crate) stop: CancellationToken,
    _dir: TempDir,
}

pub(crate) fn parts() -> Parts {
    Parts {
        net: Arc::new(TcpNet),
        disk: Arc::new(RealDisk),
        clock: Clock::system(),
        rng: Rng::seeded(1),
        storage: None,
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        data: dir.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        containers: Some(4),
        wal: sarit_wal::Config::tiny(),
        ..Config::default()
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (memory, stop) = (Memory::default(), CancellationToken::new());
        let mut config = config(dir.path());
        change(&mut config);
        let wal = Wal::memory(&memory);
        let running = start_on(wal, config, parts(), stop.clone()).await.unwrap();
        Self {
            running,
            memory,
            stop,
            _dir: dir,
        }
    }

    pub(crate) async fn peer(&self) -> Peer {
        Peer::connect(&self.running).await
    }

    pub(crate) fn inspect(&self) -> Inspect {
        self.running.inspect()
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.running.join().await
    }
}

/// Starts a store on files.
pub(crate) async fn start_on_disk(dir: &Path) -> Result<(Running, CancellationToken), Error> {
    start_on_disk_with(dir, |_| {}).await
}

pub(crate) async fn start_on_disk_with(
    dir: &Path,
    change: impl FnOnce(&mut Config),
) -> Result<(Running, CancellationToken), Error> {
    let stop = CancellationToken::new();
    let mut config = config(dir);
    change(&mut config);
    Ok((start(config, parts(), stop.clone()).await?, stop))
}

/// One connection, and what was received on it but not asked for yet.
pub(crate) struct Peer {
    stream: NetStream,
    buffer: BytesMut,
    pub(crate) pending: Vec<Reply>,
}

impl Peer {
    pub(crate) async fn connect(store: &Running) -> Self {
        let port = store.local_address().port();
        let stream = TcpNet.connect("127.0.0.1", port).await.unwrap();
        Self {
            stream,
            buffer: BytesMut::new(),
            pending: Vec::new(),
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the store reads")
            .unwrap();
    }

    /// As [`Self::send_bytes`], but the store may have closed the connection meanwhile.
    pub(crate) async fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("the store reads").is_ok()
    }

    pub(crate) async fn send(&mut self, command: impl Into<Command>) {
        let mut out = Encoder::default();
        command.into().encode(&mut out);
        self.send_bytes(&out.take()).await;
    }

    /// Waits for the next reply; `None` when the store has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        if !self.pending.is_empty() {
            return Some(self.pending.remove(0));
        }
        timeout(PATIENCE, self.receive())
            .await
            .expect("the store answers")
    }

    /// Waits for the next reply that is not yet in `pending`.
    pub(crate) async fn receive(&mut self) -> Option<Reply> {
        loop {
            if let Some(frame) = FrameDecoder::next(&mut self.buffer).unwrap() {
                return Some(Reply::decode(frame).unwrap());
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        self.next().await.expect("the connection is open")
    }

    pub(crate) async fn ask(&mut self, command: impl Into<Command>) -> Reply {
        self.send(command).await;
        self.reply().await
    }

    /// Shows that everything sent before was dispatched and what it led to at once has been answered.
    pub(crate) async fn echo(&mut self) {
        assert_eq!(self.ask(KeepAlive {}).await.name(), "KeepAlive");
    }

    pub(crate) async fn assert_closed(&mut self) {
        assert_eq!(
            self.next().await,
            None,
            "the store should have closed the connection"
        );
    }

    pub(crate) async fn hello(&mut self) {
        let hello = Hello {
            high_version: 16,
            low_version: 5,
        };
        assert_eq!(self.ask(hello).await.name(), "Hello");
    }

    pub(crate) async fn create(&mut self, segment: &str) {
        let reply = self.ask(create(segment)).await;
        assert_eq!(reply.name(), "SegmentCreated", "{reply:?}");
    }

    pub(crate) async fn seal(&mut self, segment: &str) {
        let (request_id, token) = (3, String::new());
        let seal = SealSegment {
            request_id,
            segment: segment.to_owned(),
            token,
        };
        let reply = self.ask(seal).await;
        assert_eq!(reply.name(), "SegmentSealed", "{reply:?}");
    }

    /// Sets a writer up and returns its last event number.
    pub(crate) async fn set_up(&mut self, segment: &str, writer: u128) -> i64 {
        match self.ask(set_up(segment, writer)).await {
            Reply::AppendSetup(reply) => reply.last_event_number,
            reply => panic!("{reply:?}"),
        }
    }

    pub(crate) async fn info(&mut self, segment: &str) -> StreamSegmentInfo {
        let (request_id, token) = (4, String::new());
        let info = GetStreamSegmentInfo {
            request_id,
            segment: segment.to_owned(),
            token,
        };
        match self.ask(info).await {
            Reply::StreamSegmentInfo(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }

    pub(crate) async fn read(&mut self, segment: &str, offset: i64, length: i32) -> SegmentRead {
        match self.ask(read(segment, offset, length)).await {
            Reply::SegmentRead(reply) => reply,
            reply => panic!("{reply:?}"),
        }
    }
}

pub(crate) fn create(segment: &str) -> CreateSegment {
    CreateSegment {
        request_id: 2,
        segment: segment.to_owned(),
        target_rate: 0,
        scale_type: 0,
        token: String::new(),
        rollover_size: 0,
    }
}

pub(crate) fn set_up(segment: &str, writer: u128) -> SetupAppend {
    SetupAppend {
        request_id: 1,
        writer_id: WriterId(writer),
        segment: segment.to_owned(),
        token: String::new(),
    }
}

/// An append of one event, in the form the Rust client uses.
pub(crate) fn append(writer: u128, number: i64, data: &[u8]) -> AppendBlockEnd {
    AppendBlockEnd {
        writer_id: WriterId(writer),
        size_of_whole_events: data.len() as i32,
        data: Bytes::copy_from_slice(data).into(),
        num_events: 1,
        last_event_number: number,
        request_id: 1_000 + number,
    }
}

pub(crate) fn read(segment: &str, offset: i64, suggested_length: i32) -> ReadSegment {
    let (token, request_id) = (String::new(), 5);
    ReadSegment {
        segment: segment.to_owned(),
        offset,
        suggested_length,
        token,
        request_id,
    }
}
