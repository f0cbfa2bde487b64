//! Writes past the operating system's cache (`O_DIRECT`).
//!
//! The device reads our memory itself, so it has to lie as the device wants it: bytes are gathered in a
//! buffer of the writing thread's own, aligned to blocks, and go out in a few large writes. That is one
//! copy, as into the cache, but always into the same warm memory, and there is no page to find, to mark
//! and to write back later.
//!
//! What can't be written so (a length that is no multiple of a block, a file system without it) is
//! written the ordinary way: slower, never wrong. The kernel keeps its cache coherent with both.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};

/// What memory and positions are aligned to: no device known wants more.
const BLOCK: usize = 4096;
/// One write has at most so many bytes, and so many each thread that writes keeps.
const PIECE: usize = 2 << 20;

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
            let (mut at, mut filled) = (offset, 0);
            for part in parts {
                let mut rest = &part[..];
                while !rest.is_empty() {
                    let count = rest.len().min(buffer.len() - filled);
                    buffer[filled..filled + count].copy_from_slice(&rest[..count]);
                    (filled, rest) = (filled + count, &rest[count..]);
                    if filled == buffer.len() {
                        self.write_piece(file, at, buffer)?;
                        (at, filled) = (at + filled as u64, 0);
                    }
                }
            }
            self.write_piece(file, at, &buffer[..filled])
        })
    }

    fn write_piece(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let (at, rest) = (offset + written as u64, &bytes[written..]);
            if !at.is_multiple_of(BLOCK as u64) || !rest.len().is_multiple_of(BLOCK) {
                return file.write_all_at(rest, at);
            }
            match self.0.write_at(rest, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The file system let itself be asked, but can't.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return file.write_all_at(rest, at);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
