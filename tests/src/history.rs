//! What clients saw, and the checker that knows the promise.
//!
//! Every event says who wrote it and the how-many-eth of its key it is. Whatever was acknowledged must
//! be read exactly once, whatever was not at most once, and per key and writer in the order written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One event's identity; its bytes are a function of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Who wrote it.
    pub writer: u32,
    /// Its routing key.
    pub key: u32,
    /// The how-many-eth of this writer and key, from 0.
    pub sequence: u64,
}

/// Bytes of an event in front of its padding.
pub const EVENT_MIN: usize = 32;

impl Event {
    /// Returns the routing key's text.
    pub fn routing_key(self) -> String {
        format!("key-{}", self.key)
    }

    /// Returns the event's bytes, `len` of them.
    ///
    /// # Panics
    /// If `len` is below [`EVENT_MIN`].
    pub fn to_bytes(self, len: usize) -> Vec<u8> {
        assert!(len >= EVENT_MIN, "an event has at least {EVENT_MIN} bytes");
        let mut bytes = Vec::with_capacity(len);
        bytes.extend(self.writer.to_be_bytes());
        bytes.extend(self.key.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend((len as u64).to_be_bytes());
        bytes.extend(self.seed().to_be_bytes());
        let mut state = self.seed();
        while bytes.len() < len {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(0x1405_7B7E_F767_814F);
            let word = state.rotate_left(29).to_be_bytes();
            bytes.extend_from_slice(&word[..word.len().min(len - bytes.len())]);
        }
        bytes
    }

    /// Reads an event back; `None` if any byte of it is not as written.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize, len: usize| {
            let part = bytes.get(at..at + len)?;
            Some(
                part.iter()
                    .fold(0, |number, byte| number << 8 | u64::from(*byte)),
            )
        };
        let event = Self {
            writer: number(0, 4)? as u32,
            key: number(4, 4)? as u32,
            sequence: number(8, 8)?,
        };
        let whole = number(16, 8)? == bytes.len() as u64;
        (whole && event.to_bytes(bytes.len()) == bytes).then_some(event)
    }

    fn seed(self) -> u64 {
        let mixed = u64::from(self.writer) << 40 ^ u64::from(self.key) << 20 ^ self.sequence;
        mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// What was written and what of it was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct History {
    written: BTreeMap<(u32, u32), u64>,
    acknowledged: BTreeSet<Event>,
    withdrawn: BTreeSet<Event>,
}

impl History {
    /// Makes the next event of this writer and key.
    pub fn next(&mut self, writer: u32, key: u32) -> Event {
        let next = self.written.entry((writer, key)).or_default();
        let event = Event {
            writer,
            key,
            sequence: *next,
        };
        *next += 1;
        event
    }

    /// Notes that the event was acknowledged.
    pub fn acknowledge(&mut self, event: Event) {
        self.acknowledged.insert(event);
    }

    /// Notes that the event was part of a transaction that nobody committed: it must never be read.
    pub fn withdraw(&mut self, event: Event) {
        self.withdrawn.insert(event);
    }

    /// Number of acknowledged events.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Compares a full read, in the order read per key, with what was promised.
    pub fn check(&self, read: impl IntoIterator<Item = Option<Event>>) -> Verdict {
        let mut verdict = Verdict::default();
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for event in read {
            verdict.read += 1;
            let Some(event) = event else {
                verdict.corrupt += 1;
                continue;
            };
            let author = (event.writer, event.key);
            if self
                .written
                .get(&author)
                .is_none_or(|written| event.sequence >= *written)
            {
                verdict.corrupt += 1;
                continue;
            }
            verdict.withdrawn += usize::from(self.withdrawn.contains(&event));
            if !seen.insert(event) {
                verdict.duplicated += 1;
                continue;
            }
            if last
                .insert(author, event.sequence)
                .is_some_and(|before| before > event.sequence)
            {
                verdict.reordered += 1;
            }
        }
        verdict.lost = self.acknowledged.difference(&seen).count();
        verdict
    }
}

/// What a check found; all zeros but `read` is what was promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Events read.
    pub read: usize,
    /// Acknowledged and not read.
    pub lost: usize,
    /// Read more than once.
    pub duplicated: usize,
    /// Read behind a later one of the same writer and key.
    pub reordered: usize,
    /// Read but never written.
    pub corrupt: usize,
    /// Read although no one committed them.
    pub withdrawn: usize,
}

impl Verdict {
    /// Returns whether every promise held.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupt + self.withdrawn == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            read,
            lost,
            duplicated,
            reordered,
            corrupt,
            withdrawn,
        } = self;
        write!(
            f,
            "{read} read, {lost} lost, {duplicated} duplicated, {reordered} reordered, {corrupt} corrupt, {withdrawn} never committed"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> (History, Vec<Event>) {
        let mut history = History::default();
        let events: Vec<_> = (0..10).map(|n| history.next(1, n % 2)).collect();
        events[..8]
            .iter()
            .for_each(|event| history.acknowledge(*event));
        (history, events)
    }

    #[test]
    fn what_was_promised_passes() {
        let (history, events) = history();
        assert!(history.check(events.iter().copied().map(Some)).is_clean());
        assert!(
            history
                .check(events[..8].iter().copied().map(Some))
                .is_clean()
        );
    }

    #[test]
    fn every_breach_is_found() {
        let (history, events) = history();
        let check = |events: &[Event]| history.check(events.iter().copied().map(Some));
        assert_eq!(check(&events[1..]).lost, 1);
        assert_eq!(check(&[&events[..], &events[..1]].concat()).duplicated, 1);
        let mut swapped = events.clone();
        swapped.swap(0, 2);
        assert_eq!(check(&swapped).reordered, 1);
        let unknown = Event {
            sequence: 99,
            ..events[0]
        };
        assert_eq!(check(&[&events[..], &[unknown]].concat()).corrupt, 1);
        assert_eq!(history.check([None]).corrupt, 1);
        let mut withdrawn = history.clone();
        withdrawn.withdraw(events[9]);
        let read = events.iter().copied().map(Some);
        assert_eq!(withdrawn.check(read).withdrawn, 1);
    }

    #[test]
    fn an_event_with_one_flipped_bit_is_not_an_event() {
        let event = Event {
            writer: 3,
            key: 4,
            sequence: 5,
        };
        let mut bytes = event.to_bytes(100);
        assert_eq!(Event::from_bytes(&bytes), Some(event));
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_ne!(Event::from_bytes(&bytes), Some(event));
            bytes[at] ^= 1;
        }
    }
}
