//! The receiving half of a connection: bytes → frames → commands, each with the memory it needs.
//!
//! Append blocks are joined with their ends here, so a command is always whole. Memory for what a
//! command carries is reserved before the command is handed on; while there is none, nothing more is
//! read and TCP slows the peer down. The buffer grows with what was received, never with what a frame
//! claims to hold, and shrinks again while little comes in, so that idle connections cost little. Of a
//! frame larger than the buffer of a busy connection the first part is read, then its memory is
//! reserved, then the rest is read: many large events at once wait in the network, not in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sarit_container::{ConnectionCredit, Permit};
use sarit_proto::wire;
use sarit_proto::wire::command::AppendBlock;
use sarit_proto::wire::{Command, FrameDecoder, append};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

use crate::append::Append;
use crate::metrics::Metrics;
use crate::reply::Close;

/// What a quiet connection's buffer holds.
const READ_BYTES_MIN: usize = 4 << 10;
/// What a busy one's does.
const READ_BYTES_MAX: usize = 256 << 10;
/// Commands handed on together.
const COMMANDS_MAX: usize = 1_024;
/// What an append costs beside its bytes: its operation, and its acknowledgement on the way back.
const APPEND_OVERHEAD: usize = 256;
/// Memory reserved at once for appends received together; saves a reservation each.
const STOCK_BYTES: usize = 256 << 10;
/// Other commands with less than this are carried without reserving memory: there are few at a time.
const UNRESERVED_BYTES: usize = 16 << 10;
/// Each time a frame has grown by this it is given more time.
const FRAME_PROGRESS_BYTES: usize = 64 << 10;
/// That time is shorter by this for a frame that holds memory of its own.
const LARGE_STEPS: u32 = 6;

/// One command, with the memory it was granted.
pub(crate) enum Arrived {
    Append(Append, Permit),
    Other(Command, Option<Permit>),
}

/// A command that still needs memory: so many bytes.
enum Pending {
    Append(Append, usize),
    Other(Command, usize),
}

/// Whether a large frame is being received, and whether it has its memory.
enum Large {
    No,
    Waiting(BoxFuture<'static, Permit>),
    Granted(Permit),
}

/// The receiving half of a connection.
pub(crate) struct Input<R> {
    read: R,
    buffer: BytesMut,
    read_bytes: usize,
    credit: ConnectionCredit,
    /// Reserved for what is being decoded, given back at the end of it.
    stock: Option<Permit>,
    metrics: Arc<Metrics>,
    open_block: Option<AppendBlock>,
    ready: VecDeque<Arrived>,
    waiting: Option<(Pending, BoxFuture<'static, Permit>)>,
    /// The memory of a large frame that is being received.
    large: Large,
    /// When a large frame that has its memory must be whole.
    large_until: Instant,
    broken: Option<Close>,
    frame_time: Duration,
    /// When the frame being received must have got further, and how far it was when that was set.
    deadline: Option<(Instant, usize)>,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(crate) fn new(
        read: R,
        credit: ConnectionCredit,
        metrics: Arc<Metrics>,
        frame_time: Duration,
    ) -> Self {
        Self {
            read,
            buffer: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            credit,
            stock: None,
            metrics,
            open_block: None,
            ready: VecDeque::new(),
            waiting: None,
            large: Large::No,
            large_until: Instant::now(),
            broken: None,
            frame_time,
            // Runs until the first frame is there: who never says anything is not kept.
            deadline: Some((Instant::now() + frame_time, 0)),
        }
    }

    /// Waits for commands and returns them in order, at least one. Cancel-safe.
    ///
    /// # Errors
    /// Why the connection can't go on, once everything before that was returned.
    pub(crate) async fn next(&mut self) -> Result<VecDeque<Arrived>, Close> {
        loop {
            if let Some((_, permit)) = &mut self.waiting {
                let permit = permit.await;
                let (pending, _) = self.waiting.take().expect("it was just awaited");
                self.ready.push_back(pending.with(permit));
            }
            self.decode();
            if !self.ready.is_empty() {
                return Ok(std::mem::take(&mut self.ready));
            }
            if self.waiting.is_some() {
                continue;
            }
            if let Some(close) = self.broken.take() {
                return Err(close);
            }
            self.receive().await?;
        }
    }

    /// Decodes whole frames until one needs memory that is not there, or no more are.
    fn decode(&mut self) {
        let mut frames = 0;
        while self.ready.len() < COMMANDS_MAX && self.waiting.is_none() && self.broken.is_none() {
            match self.decode_one() {
                Ok(true) => frames += 1,
                Ok(false) => break,
                Err(error) => self.broken = Some(error.into()),
            }
        }
        self.stock = None;
        if frames > 0 {
            self.metrics.frames_in.increment(frames);
            // An open block holds memory, so its end is waited for like the rest of a frame.
            if self.open_block.is_none() {
                self.deadline = None;
            }
        }
    }

    fn decode_one(&mut self) -> Result<bool, wire::Error> {
        let Some(frame) = FrameDecoder::next(&mut self.buffer)? else {
            return Ok(false);
        };
        let bytes = frame.payload.len();
        let pending = match Command::decode(frame)? {
            Command::AppendBlock(block) => {
                if self.open_block.replace(block).is_some() {
                    return Err(wire::Error::Block("begins inside another"));
                }
                return Ok(true);
            }
            Command::AppendBlockEnd(end) => {
                let block = self.open_block.take();
                let block_bytes = block.as_ref().map_or(0, |block| block.data.0.len());
                let append = Append {
                    writer: end.writer_id,
                    request_id: end.request_id,
                    event_number: end.last_event_number,
                    event_count: u32::try_from(end.num_events).unwrap_or(0),
                    expected_offset: None,
                    data: append::join(block, end)?,
                };
                Pending::Append(append, bytes + block_bytes + APPEND_OVERHEAD)
            }
            Command::ConditionalAppend(conditional) => {
                let append = Append {
                    writer: conditional.writer_id,
                    request_id: conditional.request_id,
                    event_number: conditional.event_number,
                    event_count: 1,
                    expected_offset: Some(conditional.expected_offset),
                    data: [conditional.event.0].into_iter().collect(),
                };
                Pending::Append(append, bytes + APPEND_OVERHEAD)
            }
            Command::ConditionalBlockEnd(conditional) => {
                let append = Append {
                    writer: conditional.writer_id,
                    request_id: conditional.request_id,
                    event_number: conditional.event_number,
                    event_count: 1,
                    expected_offset: Some(conditional.expected_offset),
                    data: [conditional.data].into_iter().collect(),
                };
                Pending::Append(append, bytes + APPEND_OVERHEAD)
            }
            other if bytes < UNRESERVED_BYTES => {
                self.ready.push_back(Arrived::Other(other, None));
                return Ok(true);
            }
            other => Pending::Other(other, bytes),
        };
        self.reserve(pending);
        Ok(true)
    }

    /// Takes memory for a small operation from what was reserved for all that was received together.
    fn split_stock(&mut self, bytes: usize) -> Option<Permit> {
        if bytes > STOCK_BYTES / 4 {
            return None;
        }
        if let Some(permit) = self.stock.as_mut().and_then(|stock| stock.split(bytes)) {
            return Some(permit);
        }
        // What is still to be decoded, with as much beside as small appends cost.
        let rest = (self.buffer.len() * 2).clamp(APPEND_OVERHEAD, STOCK_BYTES);
        self.stock = self.credit.try_reserve(bytes + rest);
        self.stock.as_mut()?.split(bytes)
    }

    /// Most of the time there is memory, and nothing has to be kept for later.
    fn reserve(&mut self, pending: Pending) {
        let bytes = pending.bytes();
        if let Large::Granted(permit) = std::mem::replace(&mut self.large, Large::No) {
            return self.ready.push_back(pending.with(permit));
        }
        if let Some(permit) = self.split_stock(bytes) {
            return self.ready.push_back(pending.with(permit));
        }
        // Unconstrained: the runtime's turn taking must not look like a lack of memory.
        if let Some(permit) = unconstrained(self.credit.reserve(bytes)).now_or_never() {
            return self.ready.push_back(pending.with(permit));
        }
        self.metrics.credit_waits.increment(1);
        let credit = self.credit.clone();
        let permit = async move { credit.reserve(bytes).await }.boxed();
        self.waiting = Some((pending, permit));
    }

    /// Waits for the memory of a large frame, once its first part is there. Cancel-safe.
    async fn admit_large(&mut self) {
        if let Large::No = self.large
            && let Some(frame) = large_frame(&self.buffer)
        {
            let credit = self.credit.clone();
            let permit = async move { credit.reserve(frame + APPEND_OVERHEAD).await };
            self.large = Large::Waiting(permit.boxed());
        }
        if let Large::Waiting(permit) = &mut self.large {
            self.large = Large::Granted(permit.await);
            if let Some(frame) = large_frame(&self.buffer) {
                self.buffer.reserve(frame - self.buffer.len());
            }
            // Others wait for this memory: it is not lent to who keeps silent, nor for long.
            let now = Instant::now();
            self.large_until = now + self.frame_time;
            self.deadline = Some((now + self.frame_time / LARGE_STEPS, self.buffer.len()));
        }
    }

    async fn receive(&mut self) -> Result<(), Close> {
        self.admit_large().await;
        if self.buffer.is_empty() && self.buffer.capacity() > self.read_bytes {
            self.buffer = BytesMut::new();
        }
        let begun = !self.buffer.is_empty() || self.open_block.is_some();
        if begun && self.deadline.is_none() {
            self.deadline = Some((Instant::now() + self.frame_time, self.buffer.len()));
        }
        // Doubling what is there keeps the copies of a growing frame few.
        let want = self.read_bytes.max(self.buffer.len().min(READ_BYTES_MAX));
        // A large frame has all the room it needs.
        let least = if matches!(self.large, Large::Granted(_)) {
            1
        } else {
            want / 2
        };
        if self.buffer.capacity() - self.buffer.len() < least {
            self.buffer.reserve(want);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let reading = self.read.read_buf(&mut self.buffer);
        let received = match self.deadline {
            None => reading.await,
            Some((deadline, _)) => match timeout_at(deadline, reading).await {
                Ok(received) => received,
                Err(_) => return Err(Close::FrameTimeout),
            },
        };
        let received = received.map_err(|_| Close::Peer)?;
        if received == 0 {
            return Err(Close::Peer);
        }
        self.metrics.bytes_in.increment(received as u64);
        if received == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if received < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        if let Some((deadline, from)) = &mut self.deadline
            && self.buffer.len() >= *from + FRAME_PROGRESS_BYTES
        {
            let now = Instant::now();
            *deadline = match self.large {
                Large::Granted(_) => self.large_until.min(now + self.frame_time / LARGE_STEPS),
                _ => now + self.frame_time,
            };
            *from = self.buffer.len();
        }
        Ok(())
    }

    /// Reads and forgets until the peer has closed its side, so that closing ours does not destroy
    /// replies that are still on their way.
    pub(crate) async fn linger(&mut self) {
        let mut scrap = [0; 1024];
        while matches!(self.read.read(&mut scrap).await, Ok(1..)) {}
    }
}

/// Returns the size of the frame at the front of `buffer`, header included, if it is larger than what is
/// read ahead and that much of it is there.
fn large_frame(buffer: &[u8]) -> Option<usize> {
    let header = buffer.first_chunk::<{ wire::HEADER }>()?;
    let length = i32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let frame = wire::HEADER + usize::try_from(length).ok()?;
    (buffer.len() >= READ_BYTES_MAX && frame > buffer.len()).then_some(frame)
}

impl Pending {
    fn bytes(&self) -> usize {
        match self {
            Self::Append(_, bytes) | Self::Other(_, bytes) => *bytes,
        }
    }

    fn with(self, permit: Permit) -> Arrived {
        match self {
            Self::Append(append, _) => Arrived::Append(append, permit),
            Self::Other(command, _) => Arrived::Other(command, Some(permit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sarit_container::MemoryBudget;
    use sarit_proto::ids::WriterId;
    use sarit_proto::wire::Encoder;
    use sarit_proto::wire::command::{AppendBlockEnd, KeepAlive};
    use sarit_proto::wire::field::Rest;
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn input(budget: &MemoryBudget) -> (DuplexStream, Input<DuplexStream>) {
        let (peer, ours) = duplex(64 << 20);
        let metrics = Arc::new(Metrics::new());
        let input = Input::new(ours, budget.connection(), metrics, Duration::from_secs(60));
        (peer, input)
    }

    fn append(bytes: usize) -> Command {
        let append = AppendBlockEnd {
            writer_id: WriterId(1),
            size_of_whole_events: 0,
            data: Bytes::from(vec![0; bytes]).into(),
            num_events: 1,
            last_event_number: 1,
            request_id: 1,
        };
        append.into()
    }

    async fn send(peer: &mut DuplexStream, commands: &[Command]) {
        let mut out = Encoder::default();
        for command in commands {
            command.encode(&mut out);
        }
        peer.write_all(&out.take()).await.unwrap();
    }

    #[tokio::test]
    async fn a_claimed_length_takes_no_memory() {
        let (mut peer, mut input) = input(&MemoryBudget::default());
        let mut frame = Encoder::default();
        append(8 << 20).encode(&mut frame);
        peer.write_all(&frame.take()[..100]).await.unwrap();
        assert!(input.next().now_or_never().is_none());
        assert!(input.buffer.capacity() <= 2 * READ_BYTES_MIN);
    }

    #[tokio::test]
    async fn a_growing_frame_takes_about_what_was_received() {
        let (mut peer, mut input) = input(&MemoryBudget::default());
        let mut frame = Encoder::default();
        append(8 << 20).encode(&mut frame);
        let frame = frame.take();
        let half = frame.len() / 2;
        peer.write_all(&frame[..half]).await.unwrap();
        assert!(unconstrained(input.next()).now_or_never().is_none());
        assert_eq!(input.buffer.len(), half);
        assert!(input.buffer.capacity() <= 2 * half + READ_BYTES_MAX);
        peer.write_all(&frame[half..]).await.unwrap();
        assert_eq!(input.next().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn after_a_burst_the_buffer_of_a_quiet_peer_is_small_again() {
        let (mut peer, mut input) = input(&MemoryBudget::default());
        send(&mut peer, &[append(1 << 20)]).await;
        input.next().await.unwrap();
        assert!(input.read_bytes > READ_BYTES_MIN);
        for _ in 0..20 {
            send(&mut peer, &[KeepAlive {}.into()]).await;
            input.next().await.unwrap();
        }
        assert!(input.next().now_or_never().is_none());
        assert!(input.buffer.capacity() <= READ_BYTES_MIN);
    }

    #[tokio::test]
    async fn what_needs_memory_waits_and_what_came_before_does_not() {
        let budget = MemoryBudget::new(16 << 20);
        let all = budget.connection().reserve(usize::MAX).await;
        let (mut peer, mut input) = input(&budget);
        send(
            &mut peer,
            &[KeepAlive {}.into(), append(10), KeepAlive {}.into()],
        )
        .await;
        let first = input.next().await.unwrap();
        assert!(matches!(
            first.iter().collect::<Vec<_>>()[..],
            [Arrived::Other(..)]
        ));
        assert!(input.next().now_or_never().is_none());
        drop(all);
        let rest = input.next().await.unwrap();
        let rest: Vec<_> = rest.iter().collect();
        assert!(matches!(
            rest[..],
            [Arrived::Append(..), Arrived::Other(..)]
        ));
    }

    #[tokio::test]
    async fn appends_received_together_hold_what_each_of_them_needs() {
        let budget = MemoryBudget::new(16 << 20);
        let (mut peer, mut input) = input(&budget);
        send(&mut peer, &[append(10), append(20), append(30)]).await;
        let mut arrived = VecDeque::new();
        while arrived.len() < 3 {
            arrived.extend(input.next().await.unwrap());
        }
        let used = budget.usage().operations as usize;
        assert!((60 + 3 * APPEND_OVERHEAD..1_000).contains(&used), "{used}");
        arrived.clear();
        assert_eq!(budget.usage().operations, 0);
    }

    #[tokio::test]
    async fn a_block_whose_end_does_not_come_is_not_waited_for_forever() {
        let (mut peer, ours) = duplex(1 << 20);
        let metrics = Arc::new(Metrics::new());
        let credit = MemoryBudget::default().connection();
        let mut input = Input::new(ours, credit, metrics, Duration::from_millis(50));
        let data = Rest(vec![0; 100].into());
        let block = AppendBlock {
            writer_id: WriterId(1),
            data,
        };
        send(&mut peer, &[block.into(), KeepAlive {}.into()]).await;
        assert_eq!(input.next().await.unwrap().len(), 1);
        assert_eq!(input.next().await.err(), Some(Close::FrameTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_of_a_large_frame_is_lent_to_who_sends_it() {
        let budget = MemoryBudget::default();
        let mut frame = Encoder::default();
        append(8 << 20).encode(&mut frame);
        let frame = frame.take();
        // Silent behind half of it; then with 64 KiB every nine seconds, which would take 13 minutes.
        for (steps, most) in [(0, 11), (128, 61)] {
            let (mut peer, mut input) = input(&budget);
            let start = Instant::now();
            let (first, rest) = frame.split_at(1 << 20);
            peer.write_all(first).await.unwrap();
            let sending = async {
                for step in rest.chunks(64 << 10).take(steps) {
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    peer.write_all(step).await.unwrap();
                }
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = input.next() => ended.err(),
                () = sending => unreachable!("it does not end"),
            };
            assert_eq!(ended, Some(Close::FrameTimeout));
            assert!(
                start.elapsed() <= Duration::from_secs(most),
                "{:?}",
                start.elapsed()
            );
            drop(input);
            assert_eq!(budget.usage().operations, 0);
        }
    }

    #[tokio::test]
    async fn what_came_before_a_malformed_frame_is_handed_on() {
        let (mut peer, mut input) = input(&MemoryBudget::default());
        send(&mut peer, &[KeepAlive {}.into()]).await;
        peer.write_all(&[0, 0, 0x30, 0x39, 0, 0, 0, 0])
            .await
            .unwrap();
        assert_eq!(input.next().await.unwrap().len(), 1);
        let broken = input.next().await.err();
        assert_eq!(broken, Some(Close::Malformed(wire::Error::Unknown(12_345))));
    }
}
