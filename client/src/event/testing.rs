//! A segment store of a few lines, and the controller's knowledge of one stream, with faults on request.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sarit_env::Rng;
use sarit_proto::ids::{SegmentId, WriterId};
use sarit_proto::key_range::KeyRange;
use sarit_proto::names::{ScopedStream, StreamSegment};
use sarit_proto::wire::{Command, Reply, reply};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{EventReader, EventWriter, Owner, Successor, Topology, reader, writer};
use crate::Error;
use crate::config::{Config, ConnectionConfig};
use crate::connection::testing::{Peer, Peers, PipeNet, endpoint};
use crate::connection::{Endpoint, Pool};
use crate::segment::Locate;

pub(crate) fn stream() -> ScopedStream {
    "scope/stream".parse().expect("a stream")
}

pub(crate) fn id(number: i32) -> SegmentId {
    SegmentId::new(0, number)
}

/// How often what goes wrong, as probabilities per append.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lose_append: f64,
    pub(crate) lose_ack: f64,
    pub(crate) split: f64,
    /// Of the segment with the one beside it.
    pub(crate) merge: f64,
    /// No split or merge beyond so many segments.
    pub(crate) segments_max: usize,
    /// Answers this segment's appends a second late.
    pub(crate) slow: Option<SegmentId>,
}

#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) data: Vec<u8>,
    pub(crate) start: usize,
    pub(crate) sealed: bool,
    writers: BTreeMap<WriterId, i64>,
}

/// One stream, served and known.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) segments: Mutex<BTreeMap<SegmentId, Segment>>,
    keys: Mutex<BTreeMap<SegmentId, KeyRange>>,
    successors: Mutex<BTreeMap<SegmentId, Vec<Successor>>>,
    pub(crate) faults: Mutex<Faults>,
    changed: Notify,
    cut: Notify,
    rng: Rng,
}

impl World {
    /// A stream of `segments` equal segments.
    pub(crate) fn new(segments: usize, seed: u64) -> Arc<Self> {
        let world = Self {
            segments: Mutex::default(),
            keys: Mutex::default(),
            successors: Mutex::default(),
            faults: Mutex::default(),
            changed: Notify::new(),
            cut: Notify::new(),
            rng: Rng::seeded(seed),
        };
        let ranges = KeyRange::FULL.split(segments).expect("not too many");
        for (number, keys) in (0..).zip(ranges) {
            world.create(id(number), keys);
        }
        Arc::new(world)
    }

    fn create(&self, segment: SegmentId, keys: KeyRange) {
        self.segments.lock().insert(segment, Segment::default());
        self.keys.lock().insert(segment, keys);
    }

    /// The segments that take events.
    pub(crate) fn owners(&self) -> Vec<Owner> {
        let segments = self.segments.lock();
        let keys = self.keys.lock();
        let open = segments.iter().filter(|(_, segment)| !segment.sealed);
        open.map(|(&segment, _)| Owner {
            segment,
            keys: keys[&segment],
        })
        .collect()
    }

    pub(crate) fn seal(&self, segment: SegmentId) {
        let mut segments = self.segments.lock();
        segments.get_mut(&segment).expect("it is there").sealed = true;
        self.changed.notify_waiters();
    }

    /// Ends the stream.
    pub(crate) fn seal_all(&self) {
        for owner in self.owners() {
            self.seal(owner.segment);
        }
    }

    /// Forgets a segment, as truncation does.
    pub(crate) fn delete(&self, segment: SegmentId) {
        self.segments.lock().remove(&segment);
        self.changed.notify_waiters();
    }

    /// Closes every connection, as a restart does.
    pub(crate) fn restart(&self) {
        self.cut.notify_waiters();
    }

    /// Gives a segment's keys to two new ones and seals it.
    pub(crate) fn split(&self, segment: SegmentId) {
        let keys = self.keys.lock()[&segment];
        let Some(halves) = keys.split(2) else { return };
        self.replace(&[segment], &halves);
    }

    /// Merges a segment with the open one above it, if there is one.
    fn merge_up(&self, segment: SegmentId) {
        let owners = self.owners();
        let Some(keys) = owners.iter().find(|owner| owner.segment == segment) else {
            return;
        };
        let above = owners
            .iter()
            .find(|owner| owner.keys.start() == keys.keys.end());
        if let Some(above) = above {
            self.merge(&[segment, above.segment]);
        }
    }

    /// Gives the keys of neighbours to one new segment, and seals them.
    pub(crate) fn merge(&self, segments: &[SegmentId]) {
        let keys = segments.iter().map(|segment| self.keys.lock()[segment]);
        let keys = keys.reduce(|a, b| a.join(b).expect("neighbours"));
        self.replace(segments, &[keys.expect("at least one")]);
    }

    fn replace(&self, ended: &[SegmentId], ranges: &[KeyRange]) {
        let mut new = Vec::new();
        for keys in ranges {
            let number = self.keys.lock().len();
            let segment = id(i32::try_from(number).expect("few"));
            self.create(segment, *keys);
            new.push(Successor {
                owner: Owner {
                    segment,
                    keys: *keys,
                },
                predecessors: ended.to_vec(),
            });
        }
        // As in a real one: those who take over are known before anybody sees the seal.
        for segment in ended {
            self.successors.lock().insert(*segment, new.clone());
        }
        for segment in ended {
            self.seal(*segment);
        }
    }

    /// Serves every connection, until dropped.
    pub(crate) async fn serve(self: Arc<Self>, mut peers: Peers) {
        let mut connections = JoinSet::new();
        loop {
            let peer = peers.accept().await;
            connections.spawn(Arc::clone(&self).connection(peer));
        }
    }

    async fn connection(self: Arc<Self>, mut peer: Peer) {
        let mut bound: BTreeMap<WriterId, SegmentId> = BTreeMap::new();
        loop {
            let command = tokio::select! {
                biased;
                () = self.cut.notified() => return,
                command = peer.recv() => command,
            };
            let Some(command) = command else { return };
            let answer = match command {
                Command::KeepAlive(_) => Some(reply::KeepAlive {}.into()),
                Command::SetupAppend(setup) => {
                    let segment = parse(&setup.segment);
                    bound.insert(setup.writer_id, segment);
                    let last = self.segments.lock().get(&segment).map(|found| {
                        let last = found.writers.get(&setup.writer_id);
                        last.copied().unwrap_or(i64::MIN)
                    });
                    Some(match last {
                        Some(last_event_number) => reply::AppendSetup {
                            request_id: setup.request_id,
                            segment: setup.segment,
                            writer_id: setup.writer_id,
                            last_event_number,
                        }
                        .into(),
                        None => missing(setup.request_id, setup.segment),
                    })
                }
                Command::AppendBlockEnd(end) => {
                    let segment = bound[&end.writer_id];
                    let faults = *self.faults.lock();
                    if self.rng.chance(faults.lose_append) {
                        return;
                    }
                    let open = self.owners().iter().any(|owner| owner.segment == segment);
                    if open && self.segments.lock().len() < faults.segments_max {
                        if self.rng.chance(faults.split) {
                            self.split(segment);
                        } else if self.rng.chance(faults.merge) {
                            self.merge_up(segment);
                        }
                    }
                    let answer = self.append(segment, end);
                    if faults.slow == Some(segment) {
                        tokio::select! {
                            biased;
                            () = self.cut.notified() => return,
                            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                        }
                    }
                    if self.rng.chance(faults.lose_ack) {
                        return;
                    }
                    Some(answer)
                }
                Command::ReadSegment(read) => self.read(read, &mut peer).await,
                other => panic!("unexpected {}", other.name()),
            };
            match answer {
                Some(answer) => peer.send(answer).await,
                None => return,
            }
        }
    }

    fn append(&self, id: SegmentId, end: sarit_proto::wire::command::AppendBlockEnd) -> Reply {
        let mut segments = self.segments.lock();
        let name = stream().segment(id).to_string();
        let Some(segment) = segments.get_mut(&id) else {
            return missing(end.request_id, name);
        };
        let last = segment.writers.get(&end.writer_id).copied();
        let last = last.unwrap_or(i64::MIN);
        if end.last_event_number > last {
            if segment.sealed {
                return reply::SegmentIsSealed {
                    request_id: end.request_id,
                    segment: name,
                    stack_trace: String::new(),
                    offset: end.last_event_number,
                }
                .into();
            }
            for piece in end.data.pieces() {
                segment.data.extend_from_slice(piece);
            }
            segment.writers.insert(end.writer_id, end.last_event_number);
            self.changed.notify_waiters();
        }
        reply::DataAppended {
            writer_id: end.writer_id,
            event_number: end.last_event_number,
            previous_event_number: last,
            request_id: end.request_id,
            current_segment_write_offset: segment.data.len() as i64,
        }
        .into()
    }

    /// Waits at the tail; `None` if the reader has gone.
    async fn read(
        &self,
        read: sarit_proto::wire::command::ReadSegment,
        peer: &mut Peer,
    ) -> Option<Reply> {
        let at = usize::try_from(read.offset).expect("not negative");
        loop {
            let changed = self.changed.notified();
            {
                let segments = self.segments.lock();
                let Some(segment) = segments.get(&parse(&read.segment)) else {
                    return Some(missing(read.request_id, read.segment));
                };
                if at < segment.start {
                    return Some(
                        reply::SegmentIsTruncated {
                            request_id: read.request_id,
                            segment: read.segment,
                            start_offset: segment.start as i64,
                            stack_trace: String::new(),
                            offset: read.offset,
                        }
                        .into(),
                    );
                }
                let most = usize::try_from(read.suggested_length).expect("positive");
                let data = &segment.data[at..segment.data.len().min(at + most)];
                if !data.is_empty() || segment.sealed {
                    return Some(
                        reply::SegmentRead {
                            segment: read.segment,
                            offset: read.offset,
                            at_tail: false,
                            end_of_segment: segment.sealed && at + most >= segment.data.len(),
                            data: Bytes::copy_from_slice(data),
                            request_id: read.request_id,
                        }
                        .into(),
                    );
                }
            }
            tokio::select! {
                biased;
                () = changed => {}
                // Readers under test send nothing else while they wait, but signs of life.
                command = peer.recv() => match command {
                    Some(Command::KeepAlive(_)) => peer.send(reply::KeepAlive {}).await,
                    _ => return None,
                }
            }
        }
    }
}

impl Locate for World {
    fn locate<'a>(&'a self, _segment: &'a str) -> BoxFuture<'a, Result<Endpoint, Error>> {
        Box::pin(std::future::ready(Ok(endpoint())))
    }

    fn forget(&self, _segment: &str) {}
}

impl Topology for World {
    fn successors(&self, segment: SegmentId) -> BoxFuture<'_, Result<Vec<Successor>, Error>> {
        let successors = self.successors.lock().get(&segment).cloned();
        Box::pin(std::future::ready(Ok(successors.unwrap_or_default())))
    }

    fn segment_name(&self, segment: SegmentId) -> String {
        stream().segment(segment).to_string()
    }
}

fn parse(name: &str) -> SegmentId {
    name.parse::<StreamSegment>().expect("a segment's name").id
}

fn missing(request_id: i64, segment: String) -> Reply {
    reply::NoSuchSegment {
        request_id,
        segment,
        stack_trace: String::new(),
        offset: -1,
    }
    .into()
}

/// Each read of the fake waits on its connection, so every segment needs one.
pub(crate) fn pool(net: &Arc<PipeNet>) -> Pool {
    net.pool(ConnectionConfig {
        per_store_max: 64,
        ..ConnectionConfig::default()
    })
}

pub(crate) fn writer(
    world: &Arc<World>,
    pool: &Pool,
    config: Config,
) -> (EventWriter, CancellationToken) {
    let stop = CancellationToken::new();
    let parts = writer::Parts {
        config,
        topology: Arc::clone(world) as Arc<dyn Topology>,
        pool: pool.clone(),
        rng: Rng::seeded(2),
        stop: stop.clone(),
    };
    let writer = EventWriter::open(&world.owners(), parts, &TaskTracker::new());
    (writer.expect("the segments cover all keys"), stop)
}

pub(crate) fn reader_parts(world: &Arc<World>, pool: &Pool) -> reader::Parts {
    reader::Parts {
        config: Config::default(),
        stream: stream(),
        topology: Arc::clone(world) as Arc<dyn Topology>,
        pool: pool.clone(),
        rng: Rng::seeded(3),
    }
}

/// Reads the whole of a sealed stream.
pub(crate) async fn read_all(reader: &mut EventReader) -> Vec<Bytes> {
    let mut events = Vec::new();
    while let Some(event) = reader.next().await.expect("it can be read") {
        events.push(event.payload);
    }
    events
}
