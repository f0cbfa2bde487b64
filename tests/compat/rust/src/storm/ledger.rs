//! What was written, and what was read of it: loss, duplicates, order and content.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

/// Bytes of an event: key, number, and a filler that differs in every event.
const EVENT_BYTES: usize = 100;

/// Every key must be written by one writer, in the order in which its numbers were taken.
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Vec<Key>,
    acknowledged: u64,
    read: u64,
    corrupt: u64,
}

#[derive(Clone, Default)]
struct Key {
    written: u32,
    /// Numbers, in the order in which they were read.
    read: Vec<u32>,
}

/// What was found so far; `lost` counts what was written and not read yet.
#[derive(Default)]
pub(crate) struct Found {
    written: u64,
    acknowledged: u64,
    read: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    corrupt: u64,
}

impl fmt::Display for Found {
    /// Members of a JSON object.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#""acked":{},"failed":{},"read":{},"lost":{},"duplicated":{},"reordered":{},"corrupt":{}"#,
            self.acknowledged,
            self.written - self.acknowledged,
            self.read,
            self.lost,
            self.duplicated,
            self.reordered,
            self.corrupt
        )
    }
}

impl Ledger {
    pub(crate) fn new(keys: u32) -> Self {
        let state = State {
            keys: vec![Key::default(); keys as usize],
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// The next event of a key, counted as written.
    pub(crate) fn next(&self, key: u32) -> Vec<u8> {
        let written = &mut self.state().keys[key as usize].written;
        *written += 1;
        event(key, *written - 1)
    }

    pub(crate) fn acknowledge(&self) {
        self.state().acknowledged += 1;
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.state().acknowledged
    }

    /// Takes note of an event that was read.
    pub(crate) fn read(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.read += 1;
        match parsed(bytes) {
            Some((key, number)) if state.has_written(key, number) => {
                state.keys[key as usize].read.push(number);
            }
            _ => state.corrupt += 1,
        }
    }

    /// How many events were read, and how many were written.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let state = self.state();
        (state.read, state.written())
    }

    pub(crate) fn found(&self) -> Found {
        let state = self.state();
        let mut found = Found {
            written: state.written(),
            acknowledged: state.acknowledged,
            read: state.read,
            corrupt: state.corrupt,
            ..Found::default()
        };
        for key in &state.keys {
            key.check(&mut found);
        }
        found
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn written(&self) -> u64 {
        self.keys.iter().map(|key| u64::from(key.written)).sum()
    }

    fn has_written(&self, key: u32, number: u32) -> bool {
        let key = self.keys.get(key as usize);
        key.is_some_and(|key| number < key.written)
    }
}

impl Key {
    fn check(&self, found: &mut Found) {
        let mut seen = HashSet::with_capacity(self.read.len());
        let mut due = 0;
        for number in &self.read {
            if !seen.insert(number) {
                found.duplicated += 1;
            } else if *number < due {
                found.reordered += 1;
            } else {
                due = number + 1;
            }
        }
        found.lost += u64::from(self.written) - seen.len() as u64;
    }
}

fn event(key: u32, number: u32) -> Vec<u8> {
    let mut event = Vec::with_capacity(EVENT_BYTES);
    event.extend_from_slice(&key.to_be_bytes());
    event.extend_from_slice(&number.to_be_bytes());
    let filler = key.wrapping_mul(31).wrapping_add(number) as u8;
    event.extend((event.len()..EVENT_BYTES).map(|at| filler.wrapping_add(at as u8)));
    event
}

/// Key and number of an event, unless its bytes are not those written.
fn parsed(bytes: &[u8]) -> Option<(u32, u32)> {
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (key, number) = (word(0)?, word(4)?);
    (bytes == event(key, number)).then_some((key, number))
}
