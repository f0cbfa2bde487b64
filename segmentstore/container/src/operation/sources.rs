//! What a merge moves, as it is stored: for each source its number, its length, and how its events
//! count.
//!
//! ```text
//! sid u64 | length u64 | one event u8 | zero [7]        all little-endian
//! ```

use bytes::BufMut;

use crate::state::Sid;

/// Bytes of one source.
pub(crate) const SOURCE: usize = 24;

/// One segment that becomes the end of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) sid: Sid,
    /// All of it moves; it was never truncated.
    pub(crate) length: u64,
    /// Whether its appends are pieces of one event.
    pub(crate) one_event: bool,
}

/// Sources in the order in which they are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources<'a>(&'a [u8]);

impl Source {
    /// Writes it the way [`Sources`] reads it.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.sid.0);
        out.put_u64_le(self.length);
        out.put_u8(u8::from(self.one_event));
        out.put_bytes(0, 7);
    }
}

impl<'a> Sources<'a> {
    /// Wraps what [`Source::encode`] wrote.
    pub(crate) fn new(encoded: &'a [u8]) -> Self {
        debug_assert!(encoded.len().is_multiple_of(SOURCE));
        Self(encoded)
    }

    pub(crate) fn len(self) -> usize {
        self.0.len() / SOURCE
    }

    pub(super) fn raw(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Source> + 'a {
        self.0.chunks_exact(SOURCE).map(|raw| {
            let word = |at: usize| {
                let word = raw[at..at + 8].try_into().expect("8 bytes");
                u64::from_le_bytes(word)
            };
            Source {
                sid: Sid(word(0)),
                length: word(8),
                one_event: raw[16] != 0,
            }
        })
    }
}
