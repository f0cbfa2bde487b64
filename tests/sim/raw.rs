//! A writer that speaks the wire protocol by hand, to look where a well-behaved client does not: it asks
//! for its last event number on other connections while appends are in flight.

use std::io;
use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use sarit_env::{Net, NetStream};
use sarit_proto::ids::WriterId;
use sarit_proto::wire::command::{
    AppendBlockEnd, ConditionalBlockEnd, CreateSegment, GetStreamSegmentInfo, Hello, SetupAppend,
};
use sarit_proto::wire::{Command, Encoder, FrameDecoder, Reply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One connection.
pub(crate) struct Wire {
    stream: NetStream,
    input: BytesMut,
}

impl Wire {
    /// Connects and exchanges greetings.
    pub(crate) async fn connect(net: &dyn Net, host: &str, port: u16) -> io::Result<Self> {
        let mut wire = Self {
            stream: net.connect(host, port).await?,
            input: BytesMut::new(),
        };
        match wire
            .ask(Hello {
                high_version: 16,
                low_version: 5,
            })
            .await?
        {
            Reply::Hello(_) => Ok(wire),
            other => Err(io::Error::other(format!("instead of Hello: {other:?}"))),
        }
    }

    /// Sends a command.
    pub(crate) async fn send(&mut self, command: impl Into<Command>) -> io::Result<()> {
        let mut out = Encoder::default();
        command.into().encode(&mut out);
        self.stream.write_all(&out.take()).await
    }

    /// Waits for the next reply.
    pub(crate) async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(frame) = FrameDecoder::next(&mut self.input).map_err(io::Error::other)? {
                return Reply::decode(frame).map_err(io::Error::other);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Sends a command and waits for the next reply.
    pub(crate) async fn ask(&mut self, command: impl Into<Command>) -> io::Result<Reply> {
        self.send(command).await?;
        self.reply().await
    }

    /// Creates a segment; fine if it exists.
    pub(crate) async fn create(&mut self, segment: &str) -> io::Result<()> {
        let create = CreateSegment {
            request_id: 1,
            segment: segment.to_owned(),
            target_rate: 0,
            scale_type: 0,
            token: String::new(),
            rollover_size: 0,
        };
        match self.ask(create).await? {
            Reply::SegmentCreated(_) | Reply::SegmentAlreadyExists(_) => Ok(()),
            other => Err(io::Error::other(format!(
                "instead of SegmentCreated: {other:?}"
            ))),
        }
    }

    /// Asks for a writer's last event number: whatever the answer says is an acknowledgement.
    pub(crate) async fn set_up(&mut self, segment: &str, writer: WriterId) -> io::Result<i64> {
        let set_up = SetupAppend {
            request_id: 1,
            writer_id: writer,
            segment: segment.to_owned(),
            token: String::new(),
        };
        match self.ask(set_up).await? {
            Reply::AppendSetup(reply) => Ok(reply.last_event_number.max(0)),
            other => Err(io::Error::other(format!(
                "instead of AppendSetup: {other:?}"
            ))),
        }
    }

    /// Asks for a segment's length.
    pub(crate) async fn length(&mut self, segment: &str) -> io::Result<i64> {
        let info = GetStreamSegmentInfo {
            request_id: 1,
            segment: segment.to_owned(),
            token: String::new(),
        };
        match self.ask(info).await? {
            Reply::StreamSegmentInfo(reply) => Ok(reply.write_offset),
            other => Err(io::Error::other(format!(
                "instead of StreamSegmentInfo: {other:?}"
            ))),
        }
    }

    /// Sends one event without waiting for its acknowledgement.
    pub(crate) async fn append(
        &mut self,
        writer: WriterId,
        number: i64,
        data: Bytes,
    ) -> io::Result<()> {
        self.send(event(writer, number, data)).await
    }
    /// Sets a writer up and sends events in one go, before the server's answer can say which it has.
    pub(crate) async fn resend(
        &mut self,
        segment: &str,
        writer: WriterId,
        numbers: RangeInclusive<i64>,
        data: Bytes,
    ) -> io::Result<()> {
        let mut out = Encoder::default();
        let set_up = SetupAppend {
            request_id: 1,
            writer_id: writer,
            segment: segment.to_owned(),
            token: String::new(),
        };
        Command::from(set_up).encode(&mut out);
        for number in numbers {
            Command::from(event(writer, number, data.clone())).encode(&mut out);
        }
        self.stream.write_all(&out.take()).await
    }

    /// Sends one event to be stored only if the segment has this length.
    pub(crate) async fn append_at(
        &mut self,
        writer: WriterId,
        number: i64,
        expected_offset: i64,
        data: Bytes,
    ) -> io::Result<()> {
        self.send(ConditionalBlockEnd {
            writer_id: writer,
            event_number: number,
            expected_offset,
            data,
            request_id: 3,
        })
        .await
    }
}

fn event(writer: WriterId, number: i64, data: Bytes) -> AppendBlockEnd {
    AppendBlockEnd {
        writer_id: writer,
        size_of_whole_events: data.len() as i32,
        data: data.into(),
        num_events: 1,
        last_event_number: number,
        request_id: 2,
    }
}
