//! A position across a whole stream: one offset for each of the segments that cover the key space.
//!
//! Besides the controller's API, which carries it as a map, two forms exist: text, that people pass
//! around, and bytes, that Java clients keep in their reader groups. Compare cuts, not their forms: the
//! text is compressed, and compressors differ.
//!
//! Source: `docs/formats/wire.md`, "Stream cuts".

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::ids::{Offset, SegmentId};
use crate::names::ScopedStream;

mod bytes;

/// Longest text inside the compression. A cut of 65,536 segments needs about half of it.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The text of no position at all.
pub const UNBOUNDED: &str = "UNBOUNDED";

/// How far into a segment a cut goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentPosition {
    /// Up to this byte, which is the first behind the cut.
    At(Offset),
    /// To its end, wherever that is: −1 outside.
    End,
}

impl SegmentPosition {
    /// Takes the number from outside: an offset, or −1.
    pub fn from_raw(raw: i64) -> Option<Self> {
        match u64::try_from(raw) {
            Ok(offset) => Some(Self::At(Offset(offset))),
            Err(_) => (raw == -1).then_some(Self::End),
        }
    }

    /// Returns the number for the outside.
    pub fn to_raw(self) -> i64 {
        match self {
            Self::At(offset) => offset.0 as i64,
            Self::End => -1,
        }
    }
}

/// A position across a stream. Nothing says that its segments exist or cover the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamCut {
    /// The stream.
    pub stream: ScopedStream,
    /// How far into each segment.
    pub positions: BTreeMap<SegmentId, SegmentPosition>,
}

/// Why a text or bytes are no stream cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// Not even its outer form.
    #[error("no stream cut: {0}")]
    Form(&'static str),
    /// The text inside the compression is too long.
    #[error("a stream cut of more than {TEXT_BYTES_MAX} bytes")]
    Long,
    /// A stream's name that cannot be.
    #[error("a stream cut: {0}")]
    Name(#[from] crate::names::NameError),
    /// A segment that cannot be.
    #[error("a stream cut with segment {0:#x}")]
    Segment(i64),
    /// An offset that cannot be.
    #[error("a stream cut with offset {0}")]
    Position(i64),
    /// The same segment twice.
    #[error("a stream cut with segment {0} twice")]
    Twice(SegmentId),
}

impl StreamCut {
    /// Takes positions as pairs of numbers from outside.
    ///
    /// # Errors
    /// [`CutError::Segment`], [`CutError::Position`], [`CutError::Twice`].
    pub fn from_raw(
        stream: ScopedStream,
        raw: impl IntoIterator<Item = (i64, i64)>,
    ) -> Result<Self, CutError> {
        let mut positions = BTreeMap::new();
        for (id, position) in raw {
            let id = SegmentId::parse(id).ok_or(CutError::Segment(id))?;
            let position =
                SegmentPosition::from_raw(position).ok_or(CutError::Position(position))?;
            if positions.insert(id, position).is_some() {
                return Err(CutError::Twice(id));
            }
        }
        Ok(Self { stream, positions })
    }

    /// Reads the text form; `None` is [`UNBOUNDED`].
    ///
    /// # Errors
    /// [`CutError`]. Never decompresses more than a fixed amount.
    pub fn from_text(text: &str) -> Result<Option<Self>, CutError> {
        if text == UNBOUNDED {
            return Ok(None);
        }
        let compressed = STANDARD.decode(text);
        let compressed = compressed.map_err(|_| CutError::Form("not base64"))?;
        let mut plain = String::new();
        GzDecoder::new(&compressed[..])
            .take(TEXT_BYTES_MAX as u64 + 1)
            .read_to_string(&mut plain)
            .map_err(|_| CutError::Form("not gzip of a text"))?;
        if plain.len() > TEXT_BYTES_MAX {
            return Err(CutError::Long);
        }
        Self::from_plain(&plain).map(Some)
    }

    /// Returns the text form.
    pub fn to_text(&self) -> String {
        let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
        let written = compressed.write_all(self.to_plain().as_bytes());
        written.expect("writing to memory does not fail");
        let compressed = compressed.finish();
        STANDARD.encode(compressed.expect("writing to memory does not fail"))
    }

    /// Reads the binary form; `None`, if there are no bytes, is unbounded.
    ///
    /// # Errors
    /// [`CutError`]. Needs memory in proportion to the bytes given.
    pub fn from_bytes(bytes: &[u8]) -> Result<Option<Self>, CutError> {
        bytes::read(bytes)
    }

    /// Returns the binary form.
    ///
    /// # Errors
    /// [`CutError::Segment`] from epoch 2³⁰ on, [`CutError::Position`] from offset 2⁶¹ on: the form has
    /// no room for them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CutError> {
        bytes::write(self)
    }

    /// `0:scope/stream:NUMBERS:EPOCHS:OFFSETS`, each a list with commas, of one length.
    fn to_plain(&self) -> String {
        let list = |number: fn((&SegmentId, &SegmentPosition)) -> i64| {
            let numbers = self.positions.iter().map(number);
            let texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
            texts.join(",")
        };
        format!(
            "0:{}:{}:{}:{}",
            self.stream,
            list(|(id, _)| id.number().into()),
            list(|(id, _)| id.epoch().into()),
            list(|(_, position)| position.to_raw()),
        )
    }

    fn from_plain(plain: &str) -> Result<Self, CutError> {
        let parts: Vec<&str> = plain.splitn(6, ':').collect();
        let [version, stream, numbers, epochs, offsets] = parts[..] else {
            return Err(CutError::Form("not five parts"));
        };
        if version != "0" {
            return Err(CutError::Form("unknown version"));
        }
        let numbers: Vec<i32> = list(numbers)?;
        let epochs: Vec<i32> = list(epochs)?;
        let offsets: Vec<i64> = list(offsets)?;
        if numbers.len() != epochs.len() || numbers.len() != offsets.len() {
            return Err(CutError::Form("lists of different lengths"));
        }
        let ids = numbers.into_iter().zip(epochs);
        let ids = ids.map(|(number, epoch)| i64::from(epoch) << 32 | i64::from(number as u32));
        Self::from_raw(stream.parse()?, ids.zip(offsets))
    }
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, CutError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = text.split(',').map(|number| number.parse());
    numbers
        .collect::<Result<_, _>>()
        .map_err(|_| CutError::Form("not a number"))
}

#[cfg(test)]
mod tests;
