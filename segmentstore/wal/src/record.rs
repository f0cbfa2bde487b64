//! The bytes of a frame and of a lane write. See docs/formats/wal.md.
//!
//! A frame's own checksums say that it is whole; the lane header's, seeded with the salt of its file,
//! says that it was written in this life of the file. Decoding never panics and allocates nothing.

use std::fmt;

use bytes::{Buf, BufMut, Bytes};
use crc_fast::{CrcAlgorithm, Digest};

/// Names one log; there is one per container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u32);

/// A frame's place in its log: dense from 1 on, never used twice, going on over epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNo(pub u64);

/// Counts the openings of a log; only the newest may append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalEpoch(pub u64);

impl FrameNo {
    /// Returns the number of the frame behind this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FrameNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WalEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of a frame's header.
pub(crate) const FRAME_HEADER: usize = 64;
/// Bytes of a lane write's header.
pub(crate) const LANE_HEADER: usize = 40;
/// Lane writes start at multiples of this many bytes.
pub(crate) const BLOCK: u64 = 4096;
/// Version of frames and lane files this release writes.
pub(crate) const VERSION: u16 = 1;

const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"SFRM");
const LANE_MAGIC: u32 = u32::from_le_bytes(*b"SLAN");

/// Returns the CRC32C of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// A CRC32C over several pieces.
pub(crate) struct Crc(Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Starts with a salt, so that equal bytes of another file have another checksum.
    pub(crate) fn salted(salt: u64) -> Self {
        let mut crc = Self::new();
        crc.add(&salt.to_le_bytes());
        crc
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u32 {
        u32::try_from(self.0.finalize()).expect("a CRC32C has 32 bits")
    }
}

/// What stands in front of a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) log: LogId,
    pub(crate) body_len: u32,
    pub(crate) epoch: WalEpoch,
    pub(crate) number: FrameNo,
    pub(crate) first_seq: u64,
    /// Highest frame of this log known durable when this one was built.
    pub(crate) durable: u64,
    pub(crate) ops: u32,
    pub(crate) body_crc: u32,
    /// `hdr_crc` of the frame before, 0 if that one is unknown: a frame names its predecessor.
    pub(crate) prev_crc: u32,
}

impl FrameHeader {
    /// Returns the encoded header and its checksum.
    pub(crate) fn encode(&self) -> ([u8; FRAME_HEADER], u32) {
        let mut bytes = [0; FRAME_HEADER];
        let mut out = &mut bytes[..];
        out.put_u32_le(FRAME_MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u32_le(self.log.0);
        out.put_u32_le(self.body_len);
        out.put_u64_le(self.epoch.0);
        out.put_u64_le(self.number.0);
        out.put_u64_le(self.first_seq);
        out.put_u64_le(self.durable);
        out.put_u32_le(self.ops);
        out.put_u32_le(self.body_crc);
        out.put_u32_le(self.prev_crc);
        let crc = crc32c(&bytes[..FRAME_HEADER - 4]);
        bytes[FRAME_HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Decodes a header with its checksum; `None` if these bytes are not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let (covered, mut crc) = bytes.get(..FRAME_HEADER)?.split_at(FRAME_HEADER - 4);
        let crc = crc.get_u32_le();
        let mut rest = covered;
        let (magic, version, _flags) = (rest.get_u32_le(), rest.get_u16_le(), rest.get_u16_le());
        if magic != FRAME_MAGIC || version != VERSION || crc32c(covered) != crc {
            return None;
        }
        let header = Self {
            log: LogId(rest.get_u32_le()),
            body_len: rest.get_u32_le(),
            epoch: WalEpoch(rest.get_u64_le()),
            number: FrameNo(rest.get_u64_le()),
            first_seq: rest.get_u64_le(),
            durable: rest.get_u64_le(),
            ops: rest.get_u32_le(),
            body_crc: rest.get_u32_le(),
            prev_crc: rest.get_u32_le(),
        };
        Some((header, crc))
    }

    /// Returns the length of header and body.
    pub(crate) fn frame_len(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.body_len)
    }
}

/// One finished frame: immutable, cheap to clone. Clones share one buffer, which goes back to its
/// pool when the last clone and the last slice of the body are gone.
#[derive(Clone, Debug)]
pub struct Frame {
    pub(crate) header: FrameHeader,
    /// Checksum of the header, as found in the header of the next frame.
    pub(crate) crc: u32,
    /// Header and body.
    pub(crate) whole: Bytes,
    body: Bytes,
    memory_bytes: u32,
}

impl Frame {
    /// Joins a header and the bytes it was written into.
    pub(crate) fn new(header: FrameHeader, crc: u32, whole: Bytes, memory_bytes: usize) -> Self {
        Self {
            header,
            crc,
            body: whole.slice(FRAME_HEADER..),
            whole,
            memory_bytes: u32::try_from(memory_bytes).unwrap_or(u32::MAX),
        }
    }

    /// Decodes header and body and checks both; `None` if a checksum or the length does not fit.
    pub(crate) fn decode(whole: Bytes) -> Option<Self> {
        let (header, crc) = FrameHeader::decode(&whole)?;
        let fits = header.frame_len() == whole.len() as u64
            && crc32c(&whole[FRAME_HEADER..]) == header.body_crc;
        let memory = whole.len();
        fits.then(|| Self::new(header, crc, whole, memory))
    }

    /// Returns the log it belongs to.
    pub fn log(&self) -> LogId {
        self.header.log
    }

    /// Returns its place in its log.
    pub fn number(&self) -> FrameNo {
        self.header.number
    }

    /// Returns the epoch of the owner that wrote it.
    pub fn epoch(&self) -> WalEpoch {
        self.header.epoch
    }

    /// Returns the number its owner gave to its first operation.
    pub fn first_seq(&self) -> u64 {
        self.header.first_seq
    }

    /// Returns how many operations its owner said it holds.
    pub fn ops(&self) -> u32 {
        self.header.ops
    }

    /// Returns what the owner wrote, without the header.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the bytes of memory it keeps busy, which may exceed header and body.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes as usize
    }
}

/// What stands in front of the frames of one lane write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneHeader {
    /// Header and frames, without padding.
    pub(crate) len: u32,
    /// Position of this write in the lane, counting the bytes of all its files.
    pub(crate) lsn: u64,
    /// Everything below this position was durable when the write was built.
    pub(crate) durable_lsn: u64,
    pub(crate) frames: u32,
    pub(crate) pad: u32,
    /// Salted checksum of the first 32 bytes of this header and of the frames' headers.
    pub(crate) crc: u32,
}

impl LaneHeader {
    /// Fills in the checksum over the headers of the frames.
    pub(crate) fn seal<'a>(mut self, salt: u64, headers: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut crc = self.start_checksum(salt);
        headers.for_each(|header| crc.add(header));
        self.crc = crc.finish();
        self
    }

    /// Starts the checksum that `crc` has to be; the headers of the frames follow.
    pub(crate) fn start_checksum(&self, salt: u64) -> Crc {
        let mut crc = Crc::salted(salt);
        crc.add(&self.encode(salt)[..LANE_HEADER - 8]);
        crc
    }

    pub(crate) fn encode(&self, salt: u64) -> [u8; LANE_HEADER] {
        let mut bytes = [0; LANE_HEADER];
        let mut out = &mut bytes[..];
        out.put_u32_le(LANE_MAGIC);
        out.put_u32_le(self.len);
        out.put_u64_le(self.lsn);
        out.put_u64_le(self.durable_lsn);
        out.put_u32_le(self.frames);
        out.put_u32_le(self.pad);
        out.put_u32_le(self.crc);
        let mut crc = Crc::salted(salt);
        crc.add(&bytes[..LANE_HEADER - 4]);
        bytes[LANE_HEADER - 4..].copy_from_slice(&crc.finish().to_le_bytes());
        bytes
    }

    /// Decodes a header written with `salt`; `None` if these bytes are not one.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let (covered, mut found) = bytes.get(..LANE_HEADER)?.split_at(LANE_HEADER - 4);
        let mut rest = covered;
        if rest.get_u32_le() != LANE_MAGIC {
            return None;
        }
        let mut crc = Crc::salted(salt);
        crc.add(covered);
        if crc.finish() != found.get_u32_le() {
            return None;
        }
        let header = Self {
            len: rest.get_u32_le(),
            lsn: rest.get_u64_le(),
            durable_lsn: rest.get_u64_le(),
            frames: rest.get_u32_le(),
            pad: rest.get_u32_le(),
            crc: rest.get_u32_le(),
        };
        let total = u64::from(header.len) + u64::from(header.pad);
        let sane = header.len as usize >= LANE_HEADER
            && total.is_multiple_of(BLOCK)
            && u64::from(header.pad) < BLOCK;
        sane.then_some(header)
    }

    /// Returns header, frames and padding together.
    pub(crate) fn total(&self) -> u64 {
        u64::from(self.len) + u64::from(self.pad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(body: &[u8]) -> FrameHeader {
        FrameHeader {
            log: LogId(3),
            body_len: u32::try_from(body.len()).unwrap(),
            epoch: WalEpoch(2),
            number: FrameNo(0x0102_0304_0506),
            first_seq: 77,
            durable: 5,
            ops: 9,
            body_crc: crc32c(body),
            prev_crc: 0xaabb_ccdd,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_checksum_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let mut salted = Crc::salted(1);
        salted.add(b"123456789");
        assert_eq!(salted.finish(), crc32c(b"\x01\0\0\0\0\0\0\x00123456789"));
    }

    #[test]
    fn a_frame_header_has_these_bytes_for_ever() {
        let (bytes, crc) = header(b"body").encode();
        let golden = "5346524d01000000030000000400000002000000000000000605040302010000\
                      4d0000000000000005000000000000000900000050c93f26ddccbbaa64359476";
        assert_eq!(hex(&bytes), golden);
        assert_eq!(FrameHeader::decode(&bytes), Some((header(b"body"), crc)));
    }

    #[test]
    fn a_lane_header_has_these_bytes_for_ever() {
        let (frame, _) = header(b"body").encode();
        let lane = LaneHeader {
            len: 108,
            lsn: 8192,
            durable_lsn: 4096,
            frames: 1,
            pad: 4096 - 108,
            crc: 0,
        };
        let lane = lane.seal(0x1122_3344, [&frame[..]].into_iter());
        let bytes = lane.encode(0x1122_3344);
        let golden = "534c414e6c0000000020000000000000001000000000000001000000940f0000\
                      9915a67d0c466a70";
        assert_eq!(hex(&bytes), golden);
        assert_eq!(LaneHeader::decode(&bytes, 0x1122_3344), Some(lane));
        assert_eq!(LaneHeader::decode(&bytes, 0x1122_3345), None);
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_frame_is_noticed() {
        let mut bytes = header(b"body").encode().0.to_vec();
        bytes.extend_from_slice(b"body");
        assert!(Frame::decode(bytes.clone().into()).is_some());
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(bytes.clone().into()).is_none(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Frame::decode(bytes[..67].to_vec().into()).is_none());
    }
}
