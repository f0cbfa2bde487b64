//! Appends by raw wire: one thread and one connection, several writers, a bounded number of appends
//! under way. Works with any server of the protocol.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use sarit_env::Rng;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{CreateSegment, GetStreamSegmentInfo, SetupAppend};
use sarit_tests::raw::Connection;

/// Random bytes to cut payloads from: they do not compress.
const POOL_BYTES: usize = 16 << 20;

/// Payloads of any size without copying.
#[derive(Clone)]
pub(crate) struct Payloads {
    pool: Bytes,
    next: usize,
}

impl Payloads {
    pub(crate) fn new(seed: u64) -> Self {
        let mut pool = vec![0; POOL_BYTES];
        Rng::seeded(seed).fill(&mut pool);
        Self {
            pool: pool.into(),
            next: 0,
        }
    }

    /// Returns the next `size` bytes, at most the pool.
    pub(crate) fn next(&mut self, size: usize) -> Bytes {
        if self.next + size > self.pool.len() {
            // Another start each time round.
            self.next = (self.next + 61) % 4096;
        }
        let payload = self.pool.slice(self.next..self.next + size);
        self.next += size;
        payload
    }
}

/// Who appends to one segment.
struct Writer {
    id: WriterId,
    sent: i64,
    acked: i64,
}

/// Appends to several segments in turn over one connection, one event per append.
pub(crate) struct Appender {
    connection: Connection,
    writers: Vec<Writer>,
    by_id: BTreeMap<WriterId, usize>,
    payloads: Payloads,
    next: usize,
    in_flight: usize,
}

impl Appender {
    /// Connects to a segment store and sets up a writer on each segment, which must exist. Writers
    /// that were here before go on behind their last event.
    pub(crate) fn new(
        address: &str,
        segments: &[String],
        first_writer: u128,
    ) -> anyhow::Result<Self> {
        let mut connection = Connection::greet(address)?;
        let mut writers = Vec::with_capacity(segments.len());
        let mut by_id = BTreeMap::new();
        for (segment, id) in segments.iter().zip(first_writer..) {
            let id = WriterId(id);
            connection.queue(SetupAppend {
                request_id: 1,
                writer_id: id,
                segment: segment.clone(),
                token: String::new(),
            });
            by_id.insert(id, writers.len());
            writers.push(Writer {
                id,
                sent: 0,
                acked: 0,
            });
        }
        connection.flush()?;
        for _ in segments {
            match connection.reply()? {
                Reply::AppendSetup(reply) => {
                    let at = by_id.get(&reply.writer_id).context("set up for nobody")?;
                    // A new writer's is negative.
                    let last = reply.last_event_number.max(0);
                    (writers[*at].sent, writers[*at].acked) = (last, last);
                }
                other => bail!("instead of a writer set up: {other:?}"),
            }
        }
        Ok(Self {
            connection,
            by_id,
            writers,
            payloads: Payloads::new(first_writer as u64),
            next: 0,
            in_flight: 0,
        })
    }

    /// Appends events of `size` bytes, at most `depth` under way, as long as `more` says so, and waits
    /// until all are acknowledged. Returns how many that were.
    pub(crate) fn run(
        &mut self,
        size: usize,
        depth: usize,
        mut more: impl FnMut() -> bool,
    ) -> anyhow::Result<u64> {
        let mut appended = 0;
        loop {
            let go_on = more();
            while go_on && self.in_flight < depth {
                let writer = &mut self.writers[self.next];
                writer.sent += 1;
                let data = self.payloads.next(size);
                self.connection
                    .queue_append(writer.id, writer.sent, 1, data);
                self.next = (self.next + 1) % self.writers.len();
                self.in_flight += 1;
                appended += 1;
            }
            self.connection.flush()?;
            // Half a window at once, so that neither side is woken for every single event.
            let rest = if go_on { depth / 2 } else { 0 };
            while self.in_flight > rest {
                self.take_reply()?;
            }
            if !go_on {
                return Ok(appended);
            }
        }
    }

    fn take_reply(&mut self) -> anyhow::Result<()> {
        let reply = match self.connection.reply()? {
            Reply::DataAppended(reply) => reply,
            Reply::KeepAlive(_) => return Ok(()),
            other => bail!("instead of an acknowledgement: {other:?}"),
        };
        let Some(at) = self.by_id.get(&reply.writer_id) else {
            bail!("an acknowledgement for nobody: {reply:?}");
        };
        let writer = &mut self.writers[*at];
        ensure!(
            (writer.acked + 1..=writer.sent).contains(&reply.event_number),
            "acknowledged {} after {}, sent {}",
            reply.event_number,
            writer.acked,
            writer.sent
        );
        self.in_flight -= (reply.event_number - writer.acked) as usize;
        writer.acked = reply.event_number;
        Ok(())
    }
}

/// Creates stream segments; fine if they exist.
pub(crate) fn create(address: &str, segments: &[String]) -> anyhow::Result<()> {
    let mut connection = Connection::greet(address)?;
    for segment in segments {
        connection.queue(CreateSegment {
            request_id: 1,
            segment: segment.clone(),
            target_rate: 0,
            scale_type: 0,
            token: String::new(),
            rollover_size: 0,
        });
    }
    connection.flush()?;
    for _ in segments {
        match connection.reply()? {
            Reply::SegmentCreated(_) | Reply::SegmentAlreadyExists(_) => {}
            other => bail!("instead of a segment created: {other:?}"),
        }
    }
    Ok(())
}

/// Returns where segments end, in bytes, added up.
pub(crate) fn tails(address: &str, segments: &[String]) -> anyhow::Result<u64> {
    let mut connection = Connection::greet(address)?;
    for segment in segments {
        connection.queue(GetStreamSegmentInfo {
            request_id: 1,
            segment: segment.clone(),
            token: String::new(),
        });
    }
    connection.flush()?;
    let mut sum = 0;
    for _ in segments {
        match connection.reply()? {
            Reply::StreamSegmentInfo(info) if info.exists => {
                sum += u64::try_from(info.write_offset)?
            }
            other => bail!("instead of a segment's length: {other:?}"),
        }
    }
    Ok(sum)
}

/// Returns the full names of a stream's first segments.
pub(crate) fn segment_names(scope: &str, stream: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{scope}/{stream}/{number}.#epoch.0"))
        .collect()
}
