//! The client's side of recorded sessions, sent again; our answers beside the official server's.
//!
//! A recording says what each connection sent and got, in the order of arrival. What the controller did
//! to segments meanwhile is not in it and is inferred: a segment that is used but never created existed,
//! and one that is reported sealed or gone was sealed or deleted just then.
//!
//! Answers must be equal field by field, but for what may differ: times, the text of messages, how
//! acknowledgements are gathered, where a read's data ends, and the replies where the official server is
//! not to be imitated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use sarit_proto::ids::WriterId;
use sarit_proto::names;
use sarit_proto::wire::command::DeleteSegment;
use sarit_proto::wire::reply::{DataAppended, ErrorMessage, SegmentRead, StreamSegmentInfo};
use sarit_proto::wire::{Command, Encoder, FrameDecoder, Reply};
use tokio::time::timeout;

use crate::world::{PATIENCE, Peer, World};

/// One line of a recording.
pub(crate) enum Line {
    Sent {
        connection: u32,
        frame: Bytes,
        command: Option<Command>,
    },
    /// A long frame sent, of which only the beginning was kept, and its length.
    Cut {
        connection: u32,
        beginning: Bytes,
        length: usize,
    },
    Got {
        connection: u32,
        reply: Reply,
    },
    Closed {
        connection: u32,
    },
    Silence {
        connection: u32,
    },
    /// Names the exchange above it.
    Label(String),
}

pub(crate) fn recording(name: &str) -> Vec<Line> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../../proto/tests/golden/captures").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines: Vec<_> = text.lines().filter_map(parse_line).collect();
    for at in 0..lines.len() {
        if let Some(whole) = mend(&lines, at) {
            lines[at] = whole;
        }
    }
    lines
}

/// Puts a cut append block together again: its events were read later, the rest of it is padding.
fn mend(lines: &[Line], at: usize) -> Option<Line> {
    let Line::Cut {
        connection,
        beginning,
        length,
    } = &lines[at]
    else {
        return None;
    };
    let writer = WriterId(u128::from_be_bytes(beginning[8..24].try_into().unwrap()));
    let segment = lines[..at].iter().rev().find_map(|line| match line {
        Line::Sent {
            command: Some(Command::SetupAppend(setup)),
            ..
        } if setup.writer_id == writer => Some(&setup.segment),
        _ => None,
    })?;
    let (events, number) = lines[at..].iter().find_map(|line| match line {
        Line::Sent {
            command: Some(Command::AppendBlockEnd(end)),
            ..
        } if end.writer_id == writer && end.data.is_empty() => {
            Some((end.size_of_whole_events as usize, end.last_event_number))
        }
        _ => None,
    })?;
    let behind = lines[at..].iter().find_map(|line| match line {
        Line::Got {
            reply: Reply::DataAppended(ack),
            ..
        } if ack.writer_id == writer && ack.event_number == number => {
            Some(ack.current_segment_write_offset as usize)
        }
        _ => None,
    })?;
    let data = lines[at..].iter().find_map(|line| match line {
        Line::Got {
            reply: Reply::SegmentRead(read),
            ..
        } if read.segment == *segment && read.offset == 0 && read.data.len() >= behind => {
            Some(read.data.slice(behind - events..behind))
        }
        _ => None,
    })?;
    let mut frame = BytesMut::from(&beginning[..24]);
    frame.extend_from_slice(&data);
    let padding = length - frame.len() - 8;
    frame.extend_from_slice(&(-1_i32).to_be_bytes());
    frame.extend_from_slice(&(padding as i32).to_be_bytes());
    frame.resize(*length, 0);
    assert!(
        frame.starts_with(beginning),
        "{number} of {segment} was something else"
    );
    let (connection, frame) = (*connection, frame.freeze());
    Some(Line::Sent {
        connection,
        frame,
        command: None,
    })
}

fn parse_line(line: &str) -> Option<Line> {
    if let Some(label) = line.strip_prefix("#   ^ ") {
        return Some(Line::Label(label.to_owned()));
    }
    if line.starts_with('#') || line.is_empty() {
        return None;
    }
    let mut words = line.splitn(4, ' ');
    let connection = words.next()?.parse().unwrap();
    let direction = words.next()?;
    if line.contains("(connection closed") {
        return Some(Line::Closed { connection });
    }
    if line.contains("(no reply") {
        return Some(Line::Silence { connection });
    }
    let hex = words.nth(1)?.trim_end_matches(" *");
    if let Some((beginning, rest)) = hex.split_once("...(") {
        let (beginning, length) = (unhex(beginning), rest.split(' ').next()?.parse().unwrap());
        return (direction == "C>S").then_some(Line::Cut {
            connection,
            beginning,
            length,
        });
    }
    let frame = unhex(hex);
    let raw = FrameDecoder::next(&mut BytesMut::from(&frame[..]));
    let raw = raw.ok().flatten();
    Some(match direction {
        "C>S" => {
            let command = raw.and_then(|raw| Command::decode(raw).ok());
            Line::Sent {
                connection,
                frame,
                command,
            }
        }
        _ => Line::Got {
            connection,
            reply: Reply::decode(raw.unwrap()).unwrap(),
        },
    })
}

fn unhex(text: &str) -> Bytes {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// The segments and tables a command names, and whether it creates them.
fn segments(command: &Command) -> (Vec<&str>, bool) {
    match command {
        Command::SetupAppend(c) => (vec![&c.segment], false),
        Command::ReadSegment(c) => (vec![&c.segment], false),
        Command::GetStreamSegmentInfo(c) => (vec![&c.segment], false),
        Command::GetSegmentAttribute(c) => (vec![&c.segment], false),
        Command::SealSegment(c) => (vec![&c.segment], false),
        Command::CreateSegment(c) => (vec![&c.segment], true),
        Command::CreateTableSegment(c) => (vec![&c.segment], true),
        _ => (Vec::new(), false),
    }
}

/// One recording being played against our store.
pub(crate) struct Play {
    pub(crate) world: World,
    admin: Peer,
    peers: BTreeMap<u32, Peer>,
    /// Per connection and writer, the last event number we acknowledged and the length then.
    acked: BTreeMap<(u32, WriterId), (i64, i64)>,
    /// Continuation tokens: the recorded one → ours.
    tokens: BTreeMap<Bytes, Bytes>,
    /// Transient segments: the recorded name → ours, of the same length.
    transients: BTreeMap<String, String>,
    pub(crate) compared: usize,
}

impl Play {
    pub(crate) async fn start(lines: &[Line]) -> Self {
        let world = World::start().await;
        let mut admin = world.peer().await;
        let (mut known, mut created) = (BTreeSet::new(), BTreeSet::new());
        for line in lines {
            let Line::Sent {
                command: Some(command),
                ..
            } = line
            else {
                continue;
            };
            let (names, creates) = segments(command);
            for name in names {
                if known.insert(name) && !creates && created.insert(name) {
                    admin.create(name).await;
                }
            }
        }
        Self {
            world,
            admin,
            peers: BTreeMap::new(),
            acked: BTreeMap::new(),
            tokens: BTreeMap::new(),
            transients: BTreeMap::new(),
            compared: 0,
        }
    }

    pub(crate) async fn peer(&mut self, connection: u32) -> &mut Peer {
        if !self.peers.contains_key(&connection) {
            let peer = self.world.peer().await;
            self.peers.insert(connection, peer);
        }
        self.peers.get_mut(&connection).unwrap()
    }

    /// Waits for the answer that belongs to a recorded one and compares the two.
    pub(crate) async fn expect(&mut self, connection: u32, recorded: &Reply) {
        let recorded = &self.with_our_names(recorded);
        self.prepare(recorded).await;
        self.compared += 1;
        if let Reply::DataAppended(recorded) = recorded {
            return self.expect_acknowledged(connection, recorded).await;
        }
        let peer = self.peer(connection).await;
        let mut looked_at = 0;
        let ours = loop {
            if let Some(at) = peer.pending[looked_at..]
                .iter()
                .position(|r| belongs(r, recorded))
            {
                break peer.pending.remove(looked_at + at);
            }
            looked_at = peer.pending.len();
            let next = timeout(PATIENCE, peer.receive()).await;
            let next = next.unwrap_or_else(|_| {
                panic!("no answer like {recorded:?}, but {:?}", peer.pending);
            });
            peer.pending
                .push(next.unwrap_or_else(|| panic!("closed instead of {recorded:?}")));
        };
        self.learn_token(&ours, recorded);
        if let (Reply::SegmentCreated(ours), Reply::SegmentCreated(recorded)) = (&ours, recorded)
            && names::is_transient(&ours.segment)
        {
            assert_eq!(ours.segment.len(), recorded.segment.len());
            let (ours, recorded) = (ours.segment.clone(), recorded.segment.clone());
            self.transients.insert(recorded, ours);
            return;
        }
        if let Reply::AppendSetup(setup) = recorded {
            self.acked.remove(&(connection, setup.writer_id));
        }
        let ours = self.catch_up(ours, recorded).await;
        compare(&ours, recorded);
    }

    /// Replaces recorded names of transient segments.
    fn translate(&self, frame: &[u8]) -> Bytes {
        let mut frame = frame.to_vec();
        for (recorded, ours) in &self.transients {
            let bytes = recorded.len();
            while let Some(at) = frame
                .windows(bytes)
                .position(|part| part == recorded.as_bytes())
            {
                frame[at..at + bytes].copy_from_slice(ours.as_bytes());
            }
        }
        frame.into()
    }

    fn with_our_names(&self, recorded: &Reply) -> Reply {
        if self.transients.is_empty() {
            return recorded.clone();
        }
        let mut out = Encoder::default();
        recorded.encode(&mut out);
        let mut frame = BytesMut::from(&self.translate(&out.take())[..]);
        Reply::decode(FrameDecoder::next(&mut frame).unwrap().unwrap()).unwrap()
    }

    pub(crate) async fn send(&mut self, connection: u32, frame: &Bytes, command: Option<&Command>) {
        let frame = &self.translate(frame);
        let mut command = command.cloned();
        let args = match &mut command {
            Some(Command::ReadTableKeys(read)) => Some(&mut read.args),
            Some(Command::ReadTableEntries(read)) => Some(&mut read.args),
            _ => None,
        };
        let ours = args.and_then(|args| {
            let token = self.tokens.get(&args.continuation_token)?.clone();
            args.continuation_token = token;
            Some(())
        });
        let peer = self.peer(connection).await;
        match command.filter(|_| ours.is_some()) {
            Some(command) => peer.send(command).await,
            None => peer.send_bytes(frame).await,
        }
    }

    fn learn_token(&mut self, ours: &Reply, recorded: &Reply) {
        let token = |reply: &Reply| match reply {
            Reply::TableKeysRead(read) => Some(read.continuation_token.clone()),
            Reply::TableEntriesRead(read) => Some(read.continuation_token.clone()),
            _ => None,
        };
        if let (Some(ours), Some(recorded)) = (token(ours), token(recorded)) {
            self.tokens.insert(recorded, ours);
        }
    }

    /// A segment's length was asked for while an append was under way, and the official server was
    /// quicker with the append: looks again until ours has got as far.
    async fn catch_up(&mut self, ours: Reply, recorded: &Reply) -> Reply {
        let (Reply::StreamSegmentInfo(mut ours), Reply::StreamSegmentInfo(recorded)) =
            (ours.clone(), recorded)
        else {
            return ours;
        };
        while ours.write_offset < recorded.write_offset {
            tokio::task::yield_now().await;
            let now = self.admin.info(&ours.segment).await;
            ours = StreamSegmentInfo {
                request_id: ours.request_id,
                ..now
            };
        }
        ours.into()
    }

    /// Does what the controller must have done for this answer to come.
    async fn prepare(&mut self, recorded: &Reply) {
        match recorded {
            Reply::SegmentIsSealed(reply) => {
                self.admin.seal(&reply.segment).await;
            }
            Reply::SegmentRead(read)
                if read.data.is_empty() && read.at_tail && !read.end_of_segment =>
            {
                let (request_id, token) = (1, String::new());
                let segment = read.segment.clone();
                self.admin
                    .ask(DeleteSegment {
                        request_id,
                        segment,
                        token,
                    })
                    .await;
            }
            _ => {}
        }
    }

    async fn expect_acknowledged(&mut self, connection: u32, recorded: &DataAppended) {
        let key = (connection, recorded.writer_id);
        loop {
            let (acked, length) = self.acked.get(&key).copied().unwrap_or((i64::MIN, -1));
            if acked >= recorded.event_number {
                if acked == recorded.event_number {
                    assert_eq!(
                        length, recorded.current_segment_write_offset,
                        "{recorded:?}"
                    );
                }
                return;
            }
            let peer = self.peer(connection).await;
            let of_writer = |reply: &Reply| matches!(reply, Reply::DataAppended(ack) if ack.writer_id == recorded.writer_id);
            let ours = match peer.pending.iter().position(of_writer) {
                Some(at) => peer.pending.remove(at),
                None => {
                    let next = timeout(PATIENCE, peer.receive()).await;
                    let next = next
                        .expect("the store answers")
                        .expect("the connection is open");
                    if !of_writer(&next) {
                        peer.pending.push(next);
                        continue;
                    }
                    next
                }
            };
            let Reply::DataAppended(ours) = ours else {
                unreachable!("it was looked for")
            };
            if acked == i64::MIN {
                // The set-up's number or none; a gathered one can't tell more.
                assert_eq!(
                    ours.previous_event_number, recorded.previous_event_number,
                    "{ours:?}"
                );
            } else {
                assert_eq!(ours.previous_event_number, acked, "{ours:?}");
            }
            let length = ours.current_segment_write_offset;
            self.acked.insert(key, (ours.event_number, length));
        }
    }
}

/// Whether one of our replies answers what a recorded one answered.
fn belongs(ours: &Reply, recorded: &Reply) -> bool {
    let read = |reply: &Reply| match reply {
        Reply::SegmentRead(r) => Some((r.request_id, r.offset)),
        Reply::SegmentIsSealed(r) => Some((r.request_id, r.offset)),
        Reply::SegmentIsTruncated(r) => Some((r.request_id, r.offset)),
        Reply::NoSuchSegment(r) => Some((r.request_id, r.offset)),
        _ => None,
    };
    match (read(ours), read(recorded)) {
        (Some(ours), Some(recorded)) => ours == recorded,
        _ => request_id(ours) == request_id(recorded) && kind(ours) == kind(recorded),
    }
}

/// Replies that mean the same to every client count as one kind.
fn kind(reply: &Reply) -> &'static str {
    match reply {
        // A segment sealed twice: some clients insist on the first.
        Reply::SegmentIsSealed(reply) if reply.offset == -1 => "SegmentSealed",
        reply => reply.name(),
    }
}

fn request_id(reply: &Reply) -> Option<i64> {
    Some(match reply {
        Reply::AppendSetup(r) => r.request_id,
        Reply::ConditionalCheckFailed(r) => r.request_id,
        Reply::StreamSegmentInfo(r) => r.request_id,
        Reply::SegmentAttribute(r) => r.request_id,
        Reply::SegmentAttributeUpdated(r) => r.request_id,
        Reply::SegmentCreated(r) => r.request_id,
        Reply::SegmentSealed(r) => r.request_id,
        Reply::SegmentTruncated(r) => r.request_id,
        Reply::SegmentDeleted(r) => r.request_id,
        Reply::SegmentPolicyUpdated(r) => r.request_id,
        Reply::TableSegmentInfo(r) => r.request_id,
        Reply::TableEntriesUpdated(r) => r.request_id,
        Reply::TableKeysRemoved(r) => r.request_id,
        Reply::TableRead(r) => r.request_id,
        Reply::TableKeysRead(r) => r.request_id,
        Reply::TableEntriesRead(r) => r.request_id,
        Reply::TableEntriesDeltaRead(r) => r.request_id,
        Reply::SegmentIsSealed(r) => r.request_id,
        Reply::SegmentAlreadyExists(r) => r.request_id,
        Reply::NoSuchSegment(r) => r.request_id,
        Reply::SegmentIsTruncated(r) => r.request_id,
        Reply::OperationUnsupported(r) => r.request_id,
        Reply::ErrorMessage(r) => r.request_id,
        Reply::TableSegmentNotEmpty(r) => r.request_id,
        Reply::TableKeyDoesNotExist(r) => r.request_id,
        Reply::TableKeyBadVersion(r) => r.request_id,
        Reply::SegmentsMerged(r) => r.request_id,
        Reply::SegmentsBatchMerged(r) => r.request_id,
        _ => return None,
    })
}

/// Asserts that ours tells the client the same.
pub(crate) fn compare(ours: &Reply, recorded: &Reply) {
    match (ours, recorded) {
        // The recorded server speaks 16.
        (Reply::Hello(ours), Reply::Hello(_)) => {
            assert_eq!((ours.high_version, ours.low_version), (17, 5));
        }
        (Reply::SegmentRead(ours), Reply::SegmentRead(recorded)) => compare_read(ours, recorded),
        // The end of a segment, told in the two ways clients take for the same.
        (Reply::SegmentRead(read), Reply::SegmentIsSealed(_))
        | (Reply::SegmentIsSealed(_), Reply::SegmentRead(read)) => {
            assert!(
                read.data.is_empty() && read.end_of_segment,
                "{ours:?} for {recorded:?}"
            );
        }
        (Reply::StreamSegmentInfo(ours), Reply::StreamSegmentInfo(recorded)) => {
            let last_modified = recorded.last_modified;
            assert_eq!(
                StreamSegmentInfo {
                    last_modified,
                    ..ours.clone()
                },
                *recorded
            );
            let age = (recorded.last_modified - ours.last_modified).abs();
            assert!(
                age < 10 * 365 * 86_400_000,
                "not a time of these years: {ours:?}"
            );
        }
        (Reply::ErrorMessage(ours), Reply::ErrorMessage(recorded)) => {
            let message = recorded.message.clone();
            assert_eq!(
                ErrorMessage {
                    message,
                    ..ours.clone()
                },
                *recorded
            );
        }
        // In no particular order, and the token is the server's own business.
        (Reply::TableKeysRead(ours), Reply::TableKeysRead(recorded)) => {
            assert_eq!(
                ours.keys.len(),
                recorded.keys.len(),
                "{ours:?} for {recorded:?}"
            );
        }
        (Reply::TableEntriesRead(ours), Reply::TableEntriesRead(recorded)) => {
            assert_eq!(
                ours.entries.len(),
                recorded.entries.len(),
                "{ours:?} for {recorded:?}"
            );
        }
        (Reply::TableEntriesDeltaRead(ours), Reply::TableEntriesDeltaRead(recorded)) => {
            let sorted = |entries: &[_]| {
                let mut entries = entries.to_vec();
                entries.sort_by(|a: &sarit_proto::wire::field::TableEntry, b| {
                    a.key.key.cmp(&b.key.key)
                });
                entries
            };
            assert_eq!(sorted(&ours.entries), sorted(&recorded.entries));
            let rest = |r: &sarit_proto::wire::reply::TableEntriesDeltaRead| {
                // Meaningless when nothing was scanned.
                let position = if r.entries.is_empty() {
                    0
                } else {
                    r.last_position
                };
                (r.should_clear, r.reached_end, position)
            };
            assert_eq!(rest(ours), rest(recorded), "{ours:?} for {recorded:?}");
        }
        (Reply::SegmentSealed(_), Reply::SegmentIsSealed(_)) => {}
        _ => assert_eq!(ours, recorded),
    }
}

fn compare_read(ours: &SegmentRead, recorded: &SegmentRead) {
    assert_eq!(ours.offset, recorded.offset);
    let common = ours.data.len().min(recorded.data.len());
    assert_eq!(ours.data[..common], recorded.data[..common]);
    if !recorded.data.is_empty() {
        assert!(common > 0, "no data, though there is some: {recorded:?}");
    }
    if ours.data.len() == recorded.data.len() {
        assert_eq!(ours.end_of_segment, recorded.end_of_segment);
    }
}

/// Plays a recording and returns how many answers were compared.
async fn replay(name: &str) -> usize {
    let lines = recording(name);
    let mut play = Play::start(&lines).await;
    for line in &lines {
        match line {
            Line::Sent {
                connection,
                frame,
                command,
            } => {
                play.send(*connection, frame, command.as_ref()).await;
            }
            Line::Got { connection, reply } => play.expect(*connection, reply).await,
            Line::Closed { connection } => play.peer(*connection).await.assert_closed().await,
            Line::Cut { .. } => panic!("a long frame of {name} can't be put together"),
            Line::Silence { .. } | Line::Label(_) => {}
        }
    }
    let compared = play.compared;
    drop(play.peers);
    play.world.stop().await.unwrap();
    compared
}

macro_rules! recordings {
    ($($test:ident: $file:literal, $replies:literal;)*) => {$(
        #[tokio::test]
        async fn $test() {
            assert_eq!(replay($file).await, $replies);
        }
    )*};
}

recordings! {
    a_java_session_of_writing_and_group_reading_gets_the_recorded_answers: "java-write-read.txt", 96;
    a_java_synchronizer_session_gets_the_recorded_answers: "java-synchronizer.txt", 63;
    a_java_session_on_a_sealed_stream_gets_the_recorded_answers: "java-seal.txt", 47;
    a_java_byte_stream_session_gets_the_recorded_answers: "java-byte-stream.txt", 89;
    a_rust_session_of_writing_and_group_reading_gets_the_recorded_answers: "rust-write-read.txt", 35;
    a_rust_table_session_gets_the_recorded_answers: "rust-table.txt", 25;
    a_rust_synchronizer_session_gets_the_recorded_answers: "rust-synchronizer.txt", 13;
    a_python_session_of_writing_and_reading_gets_the_recorded_answers: "python-write-read.txt", 54;
}
