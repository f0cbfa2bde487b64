//! Putting append blocks together.
//!
//! A client may send an append as a block and its end, the block holding whole events and then at most
//! one `Padding` or `PartialEvent` frame, or as the end alone.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::Error;
use super::codec::{Encoder, RawFrame};
use super::command::{AppendBlock, AppendBlockEnd};
use super::field::{Field, FieldError};

const PADDING: i32 = -1;
const PARTIAL_EVENT: i32 = -2;

/// The bytes of one append in pieces, stored one behind the other. Those of a client may be many, since large
/// events leave by reference; what arrives has at most three: whole events, the first part of a split
/// event, its second part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendData {
    /// Empty only if all are.
    first: Bytes,
    /// Mostly there is no more, and then nothing is allocated.
    rest: Vec<Bytes>,
}

impl AppendData {
    /// Returns the pieces; empty ones are left out.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        let first = (!self.first.is_empty()).then_some(&self.first);
        first.into_iter().chain(&self.rest)
    }

    /// Returns the bytes in all pieces.
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    /// Takes the first `count` bytes; without a copy if they lie in one piece.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, count: usize) -> Bytes {
        if count <= self.first.len() {
            let taken = self.first.split_to(count);
            if self.first.is_empty() && !self.rest.is_empty() {
                self.first = self.rest.remove(0);
            }
            return taken;
        }
        let mut taken = BytesMut::with_capacity(count);
        while taken.len() < count {
            let here = self.first.len().min(count - taken.len());
            assert!(here > 0, "an append has fewer bytes");
            taken.put_slice(&self.split_to(here));
        }
        taken.freeze()
    }

    /// Returns whether there is nothing to store; such an append is legal and acknowledged.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

impl FromIterator<Bytes> for AppendData {
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Self {
        let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        Self {
            first: pieces.next().unwrap_or_default(),
            rest: pieces.collect(),
        }
    }
}

impl From<Bytes> for AppendData {
    fn from(first: Bytes) -> Self {
        let rest = Vec::new();
        Self { first, rest }
    }
}

/// All of them behind one `i32` length.
impl Field for AppendData {
    fn get(bytes: &mut Bytes) -> Result<Self, FieldError> {
        Bytes::get(bytes).map(Self::from)
    }

    fn size(&self) -> usize {
        4 + self.len()
    }

    fn put(&self, out: &mut Encoder) {
        (self.len() as i32).put(out);
        self.pieces().for_each(|piece| out.put_payload(piece));
    }
}

/// Joins a block, if one was open, with its end.
///
/// # Errors
/// [`Error::Block`] if the two don't belong together or their sizes don't add up: close.
pub fn join(block: Option<AppendBlock>, end: AppendBlockEnd) -> Result<AppendData, Error> {
    if end.num_events <= 0 {
        return Err(Error::Block("no events"));
    }
    let Some(AppendBlock { writer_id, data }) = block else {
        return Ok(end.data);
    };
    if writer_id != end.writer_id {
        return Err(Error::Block("its end names another writer"));
    }
    let whole = usize::try_from(end.size_of_whole_events)
        .ok()
        .filter(|n| *n <= data.0.len());
    let whole = whole.ok_or(Error::Block("size of whole events is outside of the block"))?;
    let events = data.0.slice(..whole);
    match inner_frame(data.0.slice(whole..))? {
        Some(RawFrame {
            code: PARTIAL_EVENT,
            payload,
        }) => {
            let behind = end.data.pieces().cloned();
            Ok([events, payload].into_iter().chain(behind).collect())
        }
        _ if end.data.is_empty() => Ok([events].into_iter().collect()),
        _ => Err(Error::Block("bytes behind a padded block")),
    }
}

fn inner_frame(mut rest: Bytes) -> Result<Option<RawFrame>, Error> {
    if rest.is_empty() {
        return Ok(None);
    }
    if rest.len() < 8 {
        return Err(Error::Block("bytes behind the whole events are no frame"));
    }
    let (code, length) = (rest.get_i32(), rest.get_i32());
    if !matches!(code, PADDING | PARTIAL_EVENT) || usize::try_from(length) != Ok(rest.len()) {
        return Err(Error::Block(
            "bytes behind the whole events are no padding or partial event",
        ));
    }
    Ok(Some(RawFrame {
        code,
        payload: rest,
    }))
}
