//! Writes past the operating system's cache (`O_DIRECT`).
//!
//! The device reads our memory itself, so it has to lie as the device wants it, in whole blocks. A long part
//! that lies as far into a block of memory as into one of the file goes out from where it is, but for its
//! ends; all else is gathered in a buffer of the writing thread's own. That is one copy, as into the
//! cache, but always into the same warm memory, and there is no page to find, to mark and to write back later.
//!
//! What can't be written so (what is no whole block, a file system without it) is written the ordinary
//! way: slower, never wrong. The kernel keeps its cache coherent with both.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsRawFd as _;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::real::{SLICES_MAX, write_slices};

/// What memory and positions are aligned to: no device known wants more.
const BLOCK: usize = 4096;
/// Of what is copied, one write has at most so many bytes, and so many each thread that writes keeps.
const PIECE: usize = 2 << 20;
/// Shorter parts are copied in any case: a copy costs less than another piece of memory for the device.
const AS_IT_LIES_MIN: usize = 64 << 10;

thread_local! {
    /// Bigger than a piece by what aligning it may cost. Grows with use.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A file opened once more, to be written directly.
#[derive(Debug)]
pub(super) struct Direct(File);

impl Direct {
    /// Opens the same file again, whatever it is called by now; `None` where direct writes can't be.
    pub(super) fn reopen(file: &File) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        Some(Self(opened.into()))
    }

    /// Writes all parts one behind the other; `file` is the same one, for what can't go directly.
    pub(super) fn write(&self, file: &File, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            let total: usize = parts.iter().map(Bytes::len).sum();
            let wanted = total.min(PIECE) + BLOCK;
            if buffer.len() < wanted {
                *buffer = vec![0; wanted.next_power_of_two().min(PIECE + BLOCK)];
            }
            let from = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
            let piece = (buffer.len() - from).min(PIECE) / BLOCK * BLOCK;
            let buffer = &mut buffer[from..from + piece];
            let mut batch = Batch::at(offset);
            for part in parts {
                let mut rest = &part[..];
                if let Some(blocks) = batch.blocks_as_they_lie(rest)
                    && blocks.start <= buffer.len() - batch.copied
                {
                    batch.copy(buffer, &rest[..blocks.start]);
                    batch.refer(&rest[blocks.clone()]);
                    rest = &rest[blocks.end..];
                }
                while !rest.is_empty() {
                    let count = rest.len().min(buffer.len() - batch.copied);
                    batch.copy(buffer, &rest[..count]);
                    rest = &rest[count..];
                    if batch.copied == buffer.len() {
                        self.write_batch(file, buffer, &batch)?;
                        batch = Batch::at(batch.end);
                    }
                }
            }
            self.write_batch(file, buffer, &batch)
        })
    }

    /// Writes whole blocks directly, and what is left at the end the ordinary way.
    fn write_batch(&self, file: &File, buffer: &[u8], batch: &Batch<'_>) -> io::Result<()> {
        let mut slices = Vec::with_capacity(batch.segments.len() + 1);
        let mut last: &[u8] = &[];
        for segment in &batch.segments {
            match segment {
                Segment::AsItLies(part) => slices.push(IoSlice::new(part)),
                Segment::Copied(range) => {
                    let blocks = range.start + range.len() / BLOCK * BLOCK;
                    slices.push(IoSlice::new(&buffer[range.start..blocks]));
                    last = &buffer[blocks..range.end];
                }
            }
        }
        let end = batch.end - last.len() as u64;
        let mut rest = &mut slices[..];
        let mut at = batch.offset;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            if !at.is_multiple_of(BLOCK as u64) {
                write_slices(file, at, rest)?;
                break;
            }
            let count = rest.len().min(SLICES_MAX);
            match rustix::io::pwritev(&self.0, &rest[..count], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    at += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(Errno::INTR) => {}
                // The file system let itself be asked, but can't.
                Err(Errno::INVAL) => {
                    write_slices(file, at, rest)?;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        write_slices(file, end, &mut [IoSlice::new(last)])
    }
}

/// What one write takes, as far as it is known.
struct Batch<'a> {
    offset: u64,
    /// Where what comes next goes.
    end: u64,
    segments: Vec<Segment<'a>>,
    /// Bytes of the buffer in use.
    copied: usize,
}

enum Segment<'a> {
    /// A part of the buffer; only the last one may end within a block.
    Copied(Range<usize>),
    /// Whole blocks.
    AsItLies(&'a [u8]),
}

impl<'a> Batch<'a> {
    fn at(offset: u64) -> Self {
        Self {
            offset,
            end: offset,
            segments: Vec::new(),
            copied: 0,
        }
    }

    /// Returns which bytes of the next part are whole blocks both in memory and in the file.
    fn blocks_as_they_lie(&self, part: &[u8]) -> Option<Range<usize>> {
        let start = self.end.next_multiple_of(BLOCK as u64) - self.end;
        let start = usize::try_from(start).expect("less than a block");
        let aligned = self.offset.is_multiple_of(BLOCK as u64)
            && (part.as_ptr() as usize + start).is_multiple_of(BLOCK);
        (aligned && part.len() >= AS_IT_LIES_MIN)
            .then(|| start..start + (part.len() - start) / BLOCK * BLOCK)
    }

    fn copy(&mut self, buffer: &mut [u8], bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let range = self.copied..self.copied + bytes.len();
        buffer[range.clone()].copy_from_slice(bytes);
        self.copied = range.end;
        self.end += bytes.len() as u64;
        match self.segments.last_mut() {
            Some(Segment::Copied(last)) => last.end = range.end,
            _ => self.segments.push(Segment::Copied(range)),
        }
    }

    fn refer(&mut self, blocks: &'a [u8]) {
        self.end += blocks.len() as u64;
        self.segments.push(Segment::AsItLies(blocks));
    }
}
