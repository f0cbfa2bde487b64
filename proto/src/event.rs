//! How events lie inside a segment: `0: i32 | length: i32 | payload`, big-endian, one behind the other.
//!
//! The store does not look into it; writers and readers do. Reads may cut events anywhere.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Bytes of type and length in front of every event.
pub const EVENT_HEADER: usize = 8;
/// Largest payload that is written in one append. Larger events exist: they go through a transient
/// segment.
pub const EVENT_MAX: usize = 8 * 1024 * 1024;

/// Why bytes are no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Neither the start of an event nor anything else we know. Reading cannot go on behind it.
    #[error("an event of type {0}")]
    Type(i32),
    /// Negative, or more than allowed.
    #[error("an event of {length} bytes, at most {max} are allowed")]
    Length {
        /// The claimed or given length.
        length: i64,
        /// The limit.
        max: usize,
    },
}

/// Writes an event's header and payload.
///
/// # Errors
/// [`EventError::Length`] if the payload is larger than [`EVENT_MAX`].
pub fn put_event(out: &mut BytesMut, payload: &[u8]) -> Result<(), EventError> {
    out.reserve(EVENT_HEADER + payload.len().min(EVENT_MAX));
    out.put_slice(&header(payload.len())?);
    out.put_slice(payload);
    Ok(())
}

/// Returns the header of an event, for a payload that goes out by reference.
///
/// # Errors
/// [`EventError::Length`] if the payload is larger than [`EVENT_MAX`].
pub fn header(payload_bytes: usize) -> Result<[u8; EVENT_HEADER], EventError> {
    if payload_bytes > EVENT_MAX {
        return Err(EventError::Length {
            length: payload_bytes as i64,
            max: EVENT_MAX,
        });
    }
    let mut header = [0; EVENT_HEADER];
    header[4..].copy_from_slice(&(payload_bytes as u32).to_be_bytes());
    Ok(header)
}

/// Cuts events out of the pieces in which a segment is read.
///
/// Holds what was pushed and not yet taken, nothing more: a claimed length reserves no space. An event
/// inside one piece is handed out without a copy.
#[derive(Debug)]
pub struct EventReader {
    pieces: VecDeque<Bytes>,
    len: usize,
    payload_max: usize,
}

impl EventReader {
    /// Starts at an event's first byte. `payload_max` is the largest event that is accepted, in bytes;
    /// at least that much must fit in memory.
    pub fn new(payload_max: usize) -> Self {
        Self {
            pieces: VecDeque::new(),
            len: 0,
            payload_max,
        }
    }

    /// Adds what comes next.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Bytes pushed and not yet taken.
    pub fn buffered(&self) -> usize {
        self.len
    }

    /// Takes the payload of the next whole event, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// As soon as the header is there; the reader then stays where it is.
    pub fn next_event(&mut self) -> Result<Option<Bytes>, EventError> {
        let Some((kind, length)) = self.header() else {
            return Ok(None);
        };
        if kind != 0 {
            return Err(EventError::Type(kind));
        }
        let payload = usize::try_from(length)
            .ok()
            .filter(|n| *n <= self.payload_max);
        let payload = payload.ok_or(EventError::Length {
            length: length.into(),
            max: self.payload_max,
        })?;
        if self.len - EVENT_HEADER < payload {
            return Ok(None);
        }
        self.take(EVENT_HEADER);
        Ok(Some(self.take(payload)))
    }

    fn header(&self) -> Option<(i32, i32)> {
        let mut header = [0; EVENT_HEADER];
        if self.len < EVENT_HEADER {
            return None;
        }
        let bytes = self.pieces.iter().flatten();
        for (to, from) in header.iter_mut().zip(bytes) {
            *to = *from;
        }
        let mut header = &header[..];
        Some((header.get_i32(), header.get_i32()))
    }

    /// There must be as many.
    fn take(&mut self, count: usize) -> Bytes {
        self.len -= count;
        let whole = match self.pieces.front_mut() {
            Some(piece) if piece.len() >= count => piece.split_to(count),
            _ => self.join(count),
        };
        while self.pieces.front().is_some_and(Bytes::is_empty) {
            self.pieces.pop_front();
        }
        whole
    }

    fn join(&mut self, count: usize) -> Bytes {
        let mut joined = BytesMut::with_capacity(count);
        while let Some(piece) = self.pieces.front_mut() {
            let part = piece.split_to(piece.len().min(count - joined.len()));
            joined.put_slice(&part);
            if joined.len() == count {
                break;
            }
            self.pieces.pop_front();
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_is_its_header_and_its_payload() {
        let mut out = BytesMut::new();
        put_event(&mut out, b"hello").expect("small");
        assert_eq!(&out[..], b"\0\0\0\0\0\0\0\x05hello");
    }

    #[test]
    fn the_largest_event_is_written_and_one_byte_more_refused() {
        assert_eq!(header(EVENT_MAX), Ok([0, 0, 0, 0, 0, 0x80, 0, 0]));
        let error = header(EVENT_MAX + 1).expect_err("too large");
        assert_eq!(
            error.to_string(),
            "an event of 8388609 bytes, at most 8388608 are allowed"
        );
    }

    #[test]
    fn what_is_no_event_is_refused_as_soon_as_its_header_is_there() {
        let read = |bytes: &'static [u8]| {
            let mut reader = EventReader::new(100);
            reader.push(Bytes::from_static(bytes));
            reader.next_event()
        };
        assert_eq!(read(&[0, 0, 0, 1, 0, 0, 0]), Ok(None));
        assert_eq!(read(&[0, 0, 0, 1, 0, 0, 0, 0]), Err(EventError::Type(1)));
        let long = EventError::Length {
            length: 101,
            max: 100,
        };
        assert_eq!(read(&[0, 0, 0, 0, 0, 0, 0, 101]), Err(long));
        let negative = EventError::Length {
            length: -1,
            max: 100,
        };
        assert_eq!(read(&[0, 0, 0, 0, 255, 255, 255, 255]), Err(negative));
        assert_eq!(read(&[0, 0, 0, 0, 0, 0, 0, 100]), Ok(None));
    }

    #[test]
    fn an_event_inside_one_piece_is_not_copied() {
        let piece = Bytes::from_static(b"\0\0\0\0\0\0\0\x05hello");
        let mut reader = EventReader::new(EVENT_MAX);
        reader.push(piece.clone());
        let event = reader.next_event().expect("an event").expect("whole");
        assert_eq!(event.as_ptr(), piece[8..].as_ptr());
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_events(
            events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            sizes in prop::collection::vec(0..30_usize, 1..20),
        ) {
            let mut all = BytesMut::new();
            for event in &events {
                put_event(&mut all, event).expect("small");
            }
            let mut rest = all.freeze();
            let mut reader = EventReader::new(40);
            let mut read = Vec::new();
            for size in sizes.iter().copied().chain(std::iter::repeat(7)) {
                reader.push(rest.split_to(size.min(rest.len())));
                while let Some(event) = reader.next_event().expect("events") {
                    read.push(event.to_vec());
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(read, events);
            prop_assert_eq!(reader.buffered(), 0);
        }

        #[test]
        fn any_bytes_are_read_without_panic(pieces in prop::collection::vec(prop::collection::vec(0..3_u8, 0..20), 0..10)) {
            let mut reader = EventReader::new(1000);
            for piece in pieces {
                reader.push(piece.into());
                while let Ok(Some(_)) = reader.next_event() {}
            }
        }
    }
}
