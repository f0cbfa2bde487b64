//! What the readers of a group note, in the Java client's format, and what follows from it (pure).
//!
//! A record is the beginning of a state or a list of changes. Each is a container of revisions that add
//! to each other, so fields of later versions can be skipped. Only what says who reads, how far, and
//! under which configuration is looked at.

use std::collections::{BTreeMap, BTreeSet};

use sarit_proto::ids::SegmentId;
use sarit_proto::names::{ScopedStream, StreamSegment};
use sarit_proto::stream_cut::{SegmentPosition, StreamCut};

use super::checkpoints::{Checkpoints, Positions};
use crate::event::frontier::Frontier;

/// What the records of a group say together.
#[derive(Debug, Default)]
pub(crate) struct State {
    readers: BTreeSet<String>,
    streams: BTreeMap<ScopedStream, Frontier>,
    /// Who reads which segment.
    assigned: BTreeMap<String, String>,
    checkpoints: Checkpoints,
    /// Of the configuration.
    generation: i64,
    /// Whether readers are to look for another configuration.
    updating: bool,
}

impl State {
    /// The readers that are online.
    pub(crate) fn readers(&self) -> &BTreeSet<String> {
        &self.readers
    }

    /// Where the group is in each of its streams.
    pub(crate) fn positions(&self) -> BTreeMap<ScopedStream, StreamCut> {
        let streams = self.streams.iter().map(|(stream, frontier)| {
            let cut = StreamCut {
                stream: stream.clone(),
                positions: frontier.cut(),
            };
            (stream.clone(), cut)
        });
        streams.collect()
    }

    /// Returns how often the configuration was changed that the readers know.
    pub(crate) fn generation(&self) -> i64 {
        self.generation
    }

    /// Returns whether readers are to look for another configuration.
    #[cfg(test)]
    pub(crate) fn is_updating(&self) -> bool {
        self.updating
    }

    /// Where the group was at its last complete checkpoint, by stream, if there was one.
    ///
    /// # Errors
    /// Why the positions are none.
    pub(crate) fn checkpoint(&self) -> Result<Option<Vec<StreamCut>>, &'static str> {
        let Some(positions) = self.checkpoints.last() else {
            return Ok(None);
        };
        let mut cuts = BTreeMap::<ScopedStream, Vec<(i64, i64)>>::new();
        for (segment, offset) in positions {
            let segment = parse(segment)?;
            let cut = cuts.entry(segment.stream).or_default();
            cut.push((segment.id.0, *offset));
        }
        let cuts = cuts.into_iter();
        let cuts = cuts.map(|(stream, raw)| StreamCut::from_raw(stream, raw));
        let cuts: Result<_, _> = cuts.collect();
        cuts.map(Some).map_err(|_| "a negative offset")
    }

    /// Where the segments are that fulfil a condition.
    fn positions_where(&self, condition: impl Fn(&str) -> bool) -> Positions {
        let streams = self.streams.iter();
        let all = streams.flat_map(|(stream, frontier)| {
            let cut = frontier.cut().into_iter();
            cut.map(|(id, position)| (stream.segment(id).to_string(), position.to_raw()))
        });
        all.filter(|(segment, _)| condition(segment)).collect()
    }

    /// Works in a record of the group's log.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn apply(&mut self, record: &[u8]) -> Result<(), &'static str> {
        let mut input = Input(record);
        match input.i32()? {
            INITIAL => self.change(&mut input),
            CHANGES => {
                while !input.0.is_empty() {
                    let length = input.i32()?;
                    self.change(&mut input.part(length)?)?;
                }
                Ok(())
            }
            _ => Err("a record of an unknown kind"),
        }
    }

    /// Works in one change; what it does not know changes neither readers nor positions.
    fn change(&mut self, input: &mut Input<'_>) -> Result<(), &'static str> {
        let (kind, mut revisions) = input.object()?;
        let first = &mut revisions.remove(&0).ok_or("no first revision")?;
        let second = revisions.get_mut(&1);
        match kind {
            BEGIN => {
                let generation = generation(first.buffer()?)?;
                *self = Self::default();
                self.generation = generation;
                for (segment, position) in first.positions()? {
                    self.start(&segment, position)?;
                }
                self.updating = flag(revisions.get_mut(&2))?;
            }
            COMPACT => {
                *self = Self::default();
                self.compact(first, second)?;
                self.updating = flag(revisions.get_mut(&2))?;
            }
            ADD_READER => {
                self.readers.insert(first.text()?);
            }
            REMOVE_READER => {
                let reader = first.text()?;
                self.advance(first.positions()?)?;
                self.readers.remove(&reader);
                let left = self.positions_where(|segment| {
                    self.assigned.get(segment).is_some_and(|of| *of == reader)
                });
                self.assigned.retain(|_, of| *of != reader);
                self.checkpoints.left(&reader, &left);
            }
            RELEASE => {
                first.text()?;
                let segment = first.text()?;
                let position = first.i64()?;
                self.assigned.remove(&segment);
                self.advance([(segment, position)])?;
            }
            ACQUIRE => {
                let reader = first.text()?;
                self.assigned.insert(first.text()?, reader);
            }
            DISTANCE => {
                if let Some(second) = second {
                    let positions = second.map(|input| {
                        let segment = input.text()?;
                        input.range()?;
                        Ok((segment, input.i64()?))
                    })?;
                    self.advance(positions)?;
                }
            }
            COMPLETED => {
                first.text()?;
                let segment = first.text()?;
                self.assigned.remove(&segment);
                let segment = parse(&segment)?;
                let successors = first.map(|input| Ok((parse(&input.text()?)?, input.ids()?)))?;
                if let Some(frontier) = self.streams.get_mut(&segment.stream) {
                    let successors = successors.into_iter();
                    let pairs = successors.map(|(successor, before)| (successor.id, before));
                    frontier.end(segment.id, pairs);
                }
            }
            CHECKPOINT => {
                let (id, reader) = (first.text()?, first.text()?);
                let positions = first.positions()?;
                let at = positions.iter().cloned().collect();
                self.checkpoints.arrived(&id, &reader, &at);
                self.advance(positions)?;
            }
            CREATE_CHECKPOINT => {
                let free = self.positions_where(|segment| !self.assigned.contains_key(segment));
                let id = first.text()?;
                self.checkpoints.begin(id, self.readers.clone(), free);
            }
            CLEAR_BEFORE => self.checkpoints.clear_before(&first.text()?),
            UPDATING => self.updating = first.flag()?,
            CLEAR_OUTSTANDING => self.checkpoints.clear_outstanding(),
            _ => {}
        }
        Ok(())
    }

    fn compact(
        &mut self,
        first: &mut Input<'_>,
        second: Option<&mut Input<'_>>,
    ) -> Result<(), &'static str> {
        self.generation = generation(first.buffer()?)?;
        self.checkpoints = checkpoints(first.buffer()?)?;
        first.map(|input| Ok((input.text()?, input.i64()?)))?;
        let future = first.map(|input| Ok((parse(&input.text()?)?, input.ids()?)))?;
        let assigned = first.map(|input| Ok((input.text()?, input.positions()?)))?;
        let unassigned = first.positions()?;
        for (reader, positions) in assigned {
            for (segment, position) in positions {
                self.start(&segment, position)?;
                self.assigned.insert(segment, reader.clone());
            }
            self.readers.insert(reader);
        }
        for (segment, position) in unassigned {
            self.start(&segment, position)?;
        }
        for (segment, before) in future {
            let frontier = self.streams.entry(segment.stream).or_default();
            frontier.wait(segment.id, before);
        }
        match second {
            Some(second) => self.advance(second.positions()?),
            None => Ok(()),
        }
    }

    fn start(&mut self, segment: &str, position: i64) -> Result<(), &'static str> {
        let segment = parse(segment)?;
        let position = SegmentPosition::from_raw(position).ok_or("a negative offset")?;
        let frontier = self.streams.entry(segment.stream).or_default();
        frontier.start(segment.id, position);
        Ok(())
    }

    fn advance(
        &mut self,
        positions: impl IntoIterator<Item = (String, i64)>,
    ) -> Result<(), &'static str> {
        for (segment, position) in positions {
            let segment = parse(&segment)?;
            let position = SegmentPosition::from_raw(position).ok_or("a negative offset")?;
            if let Some(frontier) = self.streams.get_mut(&segment.stream) {
                frontier.advance(segment.id, position);
            }
        }
        Ok(())
    }
}

/// Finds out which generation a configuration is; those before 0.9 had none.
fn generation(mut config: Input<'_>) -> Result<i64, &'static str> {
    let [format, version] = config.take()?;
    if format != 0 || version != 0 {
        return Err("an unknown version");
    }
    match config.revisions()?.get_mut(&2) {
        Some(third) => {
            third.count()?;
            third.i64()
        }
        None => Ok(0),
    }
}

fn checkpoints(mut state: Input<'_>) -> Result<Checkpoints, &'static str> {
    let [format, version] = state.take()?;
    if format != 0 || version != 0 {
        return Err("an unknown version");
    }
    let mut revisions = state.revisions()?;
    let first = revisions.get_mut(&0).ok_or("no first revision")?;
    let ids = first.map(Input::text)?;
    let readers = first.map(|input| Ok((input.text()?, input.map(Input::text)?)))?;
    let readers = readers.into_iter();
    let readers = readers.map(|(id, readers)| (id, readers.into_iter().collect()));
    let positions = first.map(|input| Ok((input.text()?, input.positions()?)))?;
    let positions = positions.into_iter();
    let positions = positions.map(|(id, positions)| (id, positions.into_iter().collect()));
    let last = first.positions()?.into_iter().collect();
    Ok(Checkpoints::restored(
        ids,
        readers.collect(),
        positions.collect(),
        last,
    ))
}

/// The third revision of a beginning; the first ones had none.
fn flag(revision: Option<&mut Input<'_>>) -> Result<bool, &'static str> {
    revision.map_or(Ok(false), Input::flag)
}

fn parse(segment: &str) -> Result<StreamSegment, &'static str> {
    segment.parse().map_err(|_| "no segment's name")
}

/// Bytes to be read from the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (head, rest) = self.0.split_first_chunk().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(*head)
    }

    fn i32(&mut self) -> Result<i32, &'static str> {
        self.take().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, &'static str> {
        self.take().map(i64::from_be_bytes)
    }

    fn part(&mut self, length: i32) -> Result<Input<'a>, &'static str> {
        let length = usize::try_from(length).ok();
        let length = length.filter(|length| *length <= self.0.len());
        let (part, rest) = self.0.split_at(length.ok_or("a length beyond its end")?);
        self.0 = rest;
        Ok(Input(part))
    }

    fn text(&mut self) -> Result<String, &'static str> {
        let length = u16::from_be_bytes(self.take()?);
        let Input(bytes) = self.part(length.into())?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| "no text")
    }

    /// 1, 2 or 4 bytes: `0`, `10` or `11` in the top bits.
    fn count(&mut self) -> Result<i32, &'static str> {
        let [first] = self.take()?;
        let low = i32::from(first & 0x3F);
        Ok(match first >> 6 {
            0 | 1 => first.into(),
            2 => low << 8 | i32::from(u8::from_be_bytes(self.take()?)),
            _ => {
                let [a, b, c] = self.take()?;
                low << 24 | i32::from_be_bytes([0, a, b, c])
            }
        })
    }

    /// Bytes behind their count.
    fn buffer(&mut self) -> Result<Input<'a>, &'static str> {
        let length = self.count()?;
        self.part(length)
    }

    fn flag(&mut self) -> Result<bool, &'static str> {
        self.take().map(|[flag]: [u8; 1]| flag != 0)
    }

    fn range(&mut self) -> Result<(), &'static str> {
        self.take::<16>().map(|_| ())
    }

    fn map<T>(
        &mut self,
        pair: impl Fn(&mut Self) -> Result<T, &'static str>,
    ) -> Result<Vec<T>, &'static str> {
        // Every element takes bytes, so a claimed count ends with them and reserves nothing.
        (0..self.count()?).map(|_| pair(self)).collect()
    }

    fn positions(&mut self) -> Result<Vec<(String, i64)>, &'static str> {
        self.map(|input| Ok((input.text()?, input.i64()?)))
    }

    fn ids(&mut self) -> Result<Vec<SegmentId>, &'static str> {
        self.map(|input| SegmentId::parse(input.i64()?).ok_or("no segment's id"))
    }

    /// Format, type, version, and the revisions by number. What follows is padding.
    fn object(&mut self) -> Result<(u8, BTreeMap<u8, Input<'a>>), &'static str> {
        let [format, kind, version] = self.take()?;
        if format != 0 || version != 0 {
            return Err("an unknown version");
        }
        Ok((kind, self.revisions()?))
    }

    fn revisions(&mut self) -> Result<BTreeMap<u8, Input<'a>>, &'static str> {
        let [count] = self.take()?;
        let mut revisions = BTreeMap::new();
        for _ in 0..count {
            let [number] = self.take()?;
            let length = self.i32()?;
            revisions.insert(number, self.part(length)?);
        }
        Ok(revisions)
    }
}

/// Kinds of records.
const INITIAL: i32 = 1;
pub(super) const CHANGES: i32 = 2;

/// Types of changes; the others say nothing about readers or positions.
pub(super) const BEGIN: u8 = 0;
const COMPACT: u8 = 1;
const ADD_READER: u8 = 2;
const REMOVE_READER: u8 = 3;
const RELEASE: u8 = 4;
const ACQUIRE: u8 = 5;
const DISTANCE: u8 = 6;
const COMPLETED: u8 = 7;
const CHECKPOINT: u8 = 8;
const CREATE_CHECKPOINT: u8 = 9;
const CLEAR_BEFORE: u8 = 10;
pub(super) const UPDATING: u8 = 12;
const CLEAR_OUTSTANDING: u8 = 13;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    }

    fn positions(pairs: &[(&str, i64)]) -> Vec<u8> {
        let mut bytes = vec![pairs.len() as u8];
        for (segment, offset) in pairs {
            bytes.extend(text(segment));
            bytes.extend(offset.to_be_bytes());
        }
        bytes
    }

    fn object(kind: u8, first: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, kind, 0, 1, 0];
        bytes.extend((first.len() as i32).to_be_bytes());
        bytes.extend(first);
        bytes
    }

    fn begin(pairs: &[(&str, i64)]) -> Vec<u8> {
        // A configuration of the first version: no revision says more.
        let mut first = vec![3, 0, 0, 0];
        first.extend(positions(pairs));
        first.push(0);
        let mut record = INITIAL.to_be_bytes().to_vec();
        record.extend(object(BEGIN, &first));
        // The Java client pads this one.
        record.resize(record.len() + 100, 0);
        record
    }

    fn change(kind: u8, parts: &[Vec<u8>]) -> Vec<u8> {
        let object = object(kind, &parts.concat());
        let mut record = CHANGES.to_be_bytes().to_vec();
        record.extend((object.len() as i32).to_be_bytes());
        record.extend(object);
        record
    }

    fn cut(state: &State) -> Vec<(i32, i64)> {
        let positions = state.positions();
        let cuts = positions.values().flat_map(|cut| &cut.positions);
        cuts.map(|(segment, position)| (segment.number(), position.to_raw()))
            .collect()
    }

    const A: &str = "s/t/0.#epoch.0";
    const B: &str = "s/t/1.#epoch.0";
    const MERGED: &str = "s/t/2.#epoch.1";

    #[test]
    fn readers_come_and_go_and_positions_move_on() {
        let mut state = State::default();
        let mut apply = |record: Vec<u8>| state.apply(&record).expect("a record");
        apply(begin(&[(A, 0), (B, 7)]));
        apply(change(ADD_READER, &[text("x")]));
        apply(change(ADD_READER, &[text("y")]));
        apply(change(5, &[text("x"), text(A)]));
        apply(change(
            CHECKPOINT,
            &[text("c"), text("x"), positions(&[(A, 100)])],
        ));
        apply(change(REMOVE_READER, &[text("y"), positions(&[(B, 50)])]));
        assert_eq!(state.readers().iter().collect::<Vec<_>>(), ["x"]);
        assert_eq!(cut(&state), [(0, 100), (1, 50)]);
    }

    #[test]
    fn the_last_checkpoint_is_where_all_readers_were_and_what_nobody_read() {
        let mut state = State::default();
        let mut apply = |record: Vec<u8>| state.apply(&record).expect("a record");
        apply(begin(&[(A, 0), (B, 7)]));
        apply(change(ADD_READER, &[text("x")]));
        apply(change(ACQUIRE, &[text("x"), text(A)]));
        apply(change(CREATE_CHECKPOINT, &[text("c")]));
        apply(change(
            CHECKPOINT,
            &[text("c"), text("x"), positions(&[(A, 100)])],
        ));
        apply(change(CREATE_CHECKPOINT, &[text("d")]));
        let cuts = state
            .checkpoint()
            .expect("positions")
            .expect("a checkpoint");
        let at: Vec<_> = cuts[0].positions.values().map(|at| at.to_raw()).collect();
        assert_eq!((cuts.len(), at), (1, vec![100, 7]));
        let mut apply = |record: Vec<u8>| state.apply(&record).expect("a record");
        apply(change(REMOVE_READER, &[text("x"), positions(&[(A, 150)])]));
        let cuts = state
            .checkpoint()
            .expect("positions")
            .expect("a checkpoint");
        let at: Vec<_> = cuts[0].positions.values().map(|at| at.to_raw()).collect();
        assert_eq!(at, [150, 7]);
    }

    #[test]
    fn a_merged_segment_begins_when_all_before_it_are_read() {
        let merged = |completed: &str| {
            let ids = [SegmentId::new(0, 0), SegmentId::new(0, 1)];
            let mut successors = vec![1];
            successors.extend(text(MERGED));
            successors.push(2);
            ids.iter()
                .for_each(|id| successors.extend(id.0.to_be_bytes()));
            change(COMPLETED, &[text("x"), text(completed), successors])
        };
        let mut state = State::default();
        state.apply(&begin(&[(A, 10), (B, 20)])).expect("a record");
        state.apply(&merged(A)).expect("a record");
        assert_eq!(cut(&state), [(0, 10), (1, 20)]);
        state.apply(&merged(B)).expect("a record");
        assert_eq!(cut(&state), [(2, 0)]);
    }

    #[test]
    fn damaged_records_are_refused_and_reserve_nothing() {
        let mut state = State::default();
        let whole = begin(&[(A, 10), (B, 20)]);
        for end in 0..60 {
            assert!(state.apply(&whole[..end]).is_err(), "cut at {end}");
        }
        let claims = change(CHECKPOINT, &[text("c"), text("x"), vec![0xFF; 4]]);
        assert_eq!(state.apply(&claims), Err("it ends too early"));
        assert!(state.apply(&7_i32.to_be_bytes()).is_err());
    }
}
