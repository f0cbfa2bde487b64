//! Watermarks, as readers find them in a stream's mark stream: how far event time has got, and the cut
//! behind which all writers were when it had.
//!
//! ```text
//! 0 0 1 0 | i32 bytes | i64 lower | i64 upper | count | count × { 0 0 1 0 | i32 24 | i64 segment | f64 low | f64 high | i64 offset }
//! ```
//! Big-endian; the count takes 1, 2 or 4 bytes (`0`, `10`, `11` in the top bits).
//!
//! Source: the official client's `Watermark` and `SegmentWithRange` serializers, version 0 revision 0.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::ids::{Offset, SegmentId};
use crate::key_range::KeyRange;

/// What is in front of a versioned object: format, version 0, one revision, revision 0.
const HEADER: [u8; 4] = [0, 0, 1, 0];
/// Bytes of a segment and its range.
const SEGMENT_BYTES: i32 = 24;

/// Event time and the cut it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Watermark {
    /// No event behind the cut is older, as the writers promised.
    pub lower: i64,
    /// The highest time any writer had noted.
    pub upper: i64,
    /// One position per segment, covering all keys.
    pub cut: Vec<(SegmentId, KeyRange, Offset)>,
}

impl Watermark {
    /// Returns its bytes, to be stored as one event.
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(20 + self.cut.len() * 40);
        body.put_i64(self.lower);
        body.put_i64(self.upper);
        match self.cut.len() as u32 {
            count @ 0..0x80 => body.put_u8(count as u8),
            count @ 0x80..0x4000 => body.put_u16(count as u16 | 0x8000),
            count => body.put_u32(count | 0xC000_0000),
        }
        for (id, range, offset) in &self.cut {
            body.put_slice(&HEADER);
            body.put_i32(SEGMENT_BYTES);
            body.put_i64(id.0);
            body.put_f64(range.start().to_f64());
            body.put_f64(range.end().to_f64());
            body.put_i64(offset.0 as i64);
        }
        let mut out = BytesMut::with_capacity(8 + body.len());
        out.put_slice(&HEADER);
        out.put_i32(body.len() as i32);
        out.put_slice(&body);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = (0..text.len()).step_by(2);
        digits
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn bytes_are_those_of_the_official_serializer() {
        let watermark = Watermark {
            lower: 1000,
            upper: 2000,
            cut: vec![(SegmentId(0), KeyRange::FULL, Offset(100))],
        };
        let official = "000001000000003900000000000003e800000000000007d0010000010000000018000000000000000000000000000000003ff00000000000000000000000000064";
        assert_eq!(watermark.encode(), hex(official));
    }

    #[test]
    fn long_cuts_have_longer_counts() {
        let of = |count| {
            let entry = (SegmentId(0), KeyRange::FULL, Offset(0));
            let watermark = Watermark {
                lower: 0,
                upper: 0,
                cut: vec![entry; count],
            };
            watermark.encode()[24..28].to_vec()
        };
        assert_eq!(of(0x7F)[..2], [0x7F, 0]);
        assert_eq!(of(0x80)[..2], [0x80, 0x80]);
        assert_eq!(of(0x4000), [0xC0, 0, 0x40, 0]);
    }
}
