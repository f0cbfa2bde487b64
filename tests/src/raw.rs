//! The wire protocol by hand: a blocking connection that sends commands and reads replies.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use sarit_proto::ids::WriterId;
use sarit_proto::wire::command::{AppendBlockEnd, CreateSegment, Hello, KeepAlive, SetupAppend};
use sarit_proto::wire::{Command, Encoder, FrameDecoder, Reply};

/// How long a reply may take on a busy machine.
const REPLY_MAX: Duration = Duration::from_secs(30);

/// One connection to a segment store.
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: Encoder,
}

impl Connection {
    /// Connects without a word.
    pub fn open(address: &str) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_MAX))?;
        Ok(Self {
            stream,
            input: BytesMut::new(),
            output: Encoder::default(),
        })
    }

    /// Connects and exchanges greetings.
    pub fn greet(address: &str) -> anyhow::Result<Self> {
        let mut connection = Self::open(address)?;
        match connection.ask(Hello {
            high_version: 16,
            low_version: 5,
        })? {
            Reply::Hello(_) => Ok(connection),
            other => bail!("instead of Hello: {other:?}"),
        }
    }

    /// Queues a command.
    pub fn queue(&mut self, command: impl Into<Command>) {
        command.into().encode(&mut self.output);
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> io::Result<()> {
        let bytes = self.output.take();
        self.stream.write_all(&bytes)
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a command and returns the next reply.
    pub fn ask(&mut self, command: impl Into<Command>) -> anyhow::Result<Reply> {
        self.queue(command);
        self.flush()?;
        self.reply()
    }

    /// Returns the next reply if it is there already.
    pub fn reply_now(&mut self) -> anyhow::Result<Option<Reply>> {
        loop {
            if let Some(frame) = FrameDecoder::next(&mut self.input)? {
                return Ok(Some(Reply::decode(frame)?));
            }
            let mut bytes = [0; 64 << 10];
            self.stream.set_nonblocking(true)?;
            let read = self.stream.read(&mut bytes);
            self.stream.set_nonblocking(false)?;
            match read {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the next reply.
    pub fn reply(&mut self) -> anyhow::Result<Reply> {
        loop {
            if let Some(frame) = FrameDecoder::next(&mut self.input)? {
                return Ok(Reply::decode(frame)?);
            }
            let mut bytes = [0; 64 << 10];
            match self.stream.read(&mut bytes)? {
                0 => bail!("the server closed the connection"),
                count => self.input.extend_from_slice(&bytes[..count]),
            }
        }
    }

    /// Returns the socket, for readers of their own.
    ///
    /// # Errors
    /// If part of a reply was read already.
    pub fn into_stream(self) -> anyhow::Result<TcpStream> {
        ensure!(self.input.is_empty(), "part of a reply was read");
        Ok(self.stream)
    }

    /// Says that nothing more will come, and waits until the server has closed too.
    pub fn finish(mut self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)?;
        let mut bytes = [0; 64 << 10];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // A server that closes with unread input makes the kernel reset the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Creates a stream segment; fine if it exists.
    pub fn create(&mut self, segment: &str) -> anyhow::Result<()> {
        let create = CreateSegment {
            request_id: 1,
            segment: segment.to_owned(),
            target_rate: 0,
            scale_type: 0,
            token: String::new(),
            rollover_size: 0,
        };
        match self.ask(create)? {
            Reply::SegmentCreated(_) | Reply::SegmentAlreadyExists(_) => Ok(()),
            other => bail!("create {segment}: {other:?}"),
        }
    }

    /// Sets up a writer and returns its last event number.
    pub fn set_up(&mut self, segment: &str, writer: WriterId) -> anyhow::Result<i64> {
        let set_up = SetupAppend {
            request_id: 2,
            writer_id: writer,
            segment: segment.to_owned(),
            token: String::new(),
        };
        match self.ask(set_up)? {
            Reply::AppendSetup(reply) => Ok(reply.last_event_number),
            other => bail!("set up a writer on {segment}: {other:?}"),
        }
    }

    /// Queues an append of `events` events that are `data` together.
    pub fn queue_append(&mut self, writer: WriterId, last: i64, events: i32, data: Bytes) {
        self.queue(AppendBlockEnd {
            writer_id: writer,
            size_of_whole_events: data.len() as i32,
            data: data.into(),
            num_events: events,
            last_event_number: last,
            request_id: 3,
        });
    }

    /// Asks for a sign of life.
    pub fn keep_alive(&mut self) -> anyhow::Result<()> {
        match self.ask(KeepAlive {})? {
            Reply::KeepAlive(_) => Ok(()),
            other => bail!("instead of KeepAlive: {other:?}"),
        }
    }
}
