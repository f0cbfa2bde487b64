//! Bytes ⇄ frames, without copying payloads.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{Error, HEADER, PAYLOAD_MAX};

/// A payload from this size on is sent by reference; below, a copy costs less than another slice.
pub const BY_REFERENCE_MIN: usize = 4096;

/// One frame, its payload still unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// The frame's type.
    pub code: i32,
    /// Everything behind the header.
    pub payload: Bytes,
}

/// Cuts frames from a byte stream.
#[derive(Debug, Default)]
pub struct FrameDecoder;

impl FrameDecoder {
    /// Takes the next whole frame off the front of `buffer`, or `None` if more bytes are needed.
    ///
    /// Never reserves space: the buffer grows with what is received, not with what is claimed.
    ///
    /// # Errors
    /// [`Error::Length`] as soon as the header is there; close the connection.
    pub fn next(buffer: &mut BytesMut) -> Result<Option<RawFrame>, Error> {
        let Some(header) = buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [c0, c1, c2, c3, l0, l1, l2, l3] = *header;
        let code = i32::from_be_bytes([c0, c1, c2, c3]);
        let length = i32::from_be_bytes([l0, l1, l2, l3]);
        let payload = usize::try_from(length).ok().filter(|n| *n <= PAYLOAD_MAX);
        let payload = payload.ok_or(Error::Length { code, length })?;
        if buffer.len() < HEADER + payload {
            return Ok(None);
        }
        buffer.advance(HEADER);
        Ok(Some(RawFrame {
            code,
            payload: buffer.split_to(payload).freeze(),
        }))
    }
}

/// Frames on their way out: small fields copied together, large payloads by reference.
#[derive(Debug, Default)]
pub struct Encoder {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Encoder {
    /// Bytes not yet taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `slices` with what comes next, for a vectored write; returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self
            .chunks
            .iter()
            .map(|chunk| &chunk[..])
            .chain([&self.tail[..]]);
        let mut filled = 0;
        for (slot, part) in slices.iter_mut().zip(parts.filter(|part| !part.is_empty())) {
            *slot = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    /// Drops the first `count` bytes: they were written.
    ///
    /// # Panics
    /// If fewer bytes are waiting.
    pub fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                chunk.advance(count);
                return;
            }
            count -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail.advance(count);
    }

    /// Takes everything as one buffer.
    pub fn take(&mut self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.len);
        for chunk in self.chunks.drain(..) {
            all.put_slice(&chunk);
        }
        all.put_slice(&self.tail.split());
        self.len = 0;
        all.freeze()
    }

    pub(crate) fn put_u8(&mut self, value: u8) {
        self.tail.put_u8(value);
        self.len += 1;
    }

    pub(crate) fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn put_payload(&mut self, bytes: &Bytes) {
        if bytes.len() < BY_REFERENCE_MIN {
            return self.put_slice(bytes);
        }
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
        self.chunks.push_back(bytes.clone());
        self.len += bytes.len();
    }
}
