//! Appends by raw wire: one thread and one connection, several writers, a bounded number of appends
//! under way. Works with any server of the protocol.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use sarit_env::Rng;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{CreateSegment, GetStreamSegmentInfo, SetupAppend};
use sarit_tests::raw::Connection;

/// Random bytes to cut payloads from: they do not compress.
const POOL_BYTES: usize = 16 << 20;

/// How often a load at a given rate sends.
const TICK: Duration = Duration::from_millis(1);
/// Such a load waits while more than this many appends of a connection are under way.
const UNDER_WAY_MAX: usize = 4_096;

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
                self.queue(size);
                appended += 1;
            }
            self.connection.flush()?;
            // Half a window at once, so that neither side is woken for every single event.
            let rest = if go_on { depth / 2 } else { 0 };
            while self.in_flight > rest {
                let reply = self.connection.reply()?;
                self.replied(reply)?;
            }
            if !go_on {
                return Ok(appended);
            }
        }
    }

    /// Appends `per_second` events of `size` bytes for `time`, whatever the server does, and waits until
    /// all are acknowledged. Returns how many that were: fewer than wanted if we could not keep up, or if
    /// so many were under way that the server can't.
    pub(crate) fn run_at_rate(
        &mut self,
        size: usize,
        per_second: f64,
        time: Duration,
    ) -> anyhow::Result<u64> {
        let (begin, mut appended) = (Instant::now(), 0);
        while begin.elapsed() < time {
            let due = (begin.elapsed().as_secs_f64() * per_second) as u64;
            while appended < due && self.in_flight < UNDER_WAY_MAX {
                self.queue(size);
                appended += 1;
            }
            self.connection.flush()?;
            while let Some(reply) = self.connection.reply_now()? {
                self.replied(reply)?;
            }
            std::thread::sleep(TICK);
        }
        while self.in_flight > 0 {
            let reply = self.connection.reply()?;
            self.replied(reply)?;
        }
        Ok(appended)
    }

    fn queue(&mut self, size: usize) {
        let writer = &mut self.writers[self.next];
        writer.sent += 1;
        let data = self.payloads.next(size);
        self.connection
            .queue_append(writer.id, writer.sent, 1, data);
        self.next = (self.next + 1) % self.writers.len();
        self.in_flight += 1;
    }

    fn replied(&mut self, reply: Reply) -> anyhow::Result<()> {
        let reply = match reply {
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
