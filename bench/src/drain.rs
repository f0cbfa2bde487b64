//! Readers that throw away what they read: of a segment store over its protocol, and of a loop that sends
//! files. Neither looks at more than it has to, so that the server's side is what is measured.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::Advice;
use sarit_proto::wire::command::ReadSegment;
use sarit_proto::wire::{Command, Encoder};
use sarit_tests::raw::Connection;

use crate::figures::own_cpu_seconds;

/// Taken from the socket at once, by both.
const BUFFER: usize = 64 << 10;
/// Code of `SegmentRead` on the wire.
const SEGMENT_READ: i32 = 10;

/// What was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Read {
    pub(crate) bytes: u64,
    /// Pieces it came in.
    pub(crate) pieces: u64,
    pub(crate) seconds: f64,
    /// Of the side that sends, where that is known.
    pub(crate) cpu_seconds: f64,
}

impl Read {
    pub(crate) fn per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    pub(crate) fn cpu_per_gigabyte(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / 1e9)
    }
}

/// Reads segments from their starts to the ends given over one connection, each with one request under
/// way, `length` bytes asked for.
pub(crate) fn segments(
    address: &str,
    segments: &[String],
    end: u64,
    length: usize,
) -> anyhow::Result<Read> {
    let mut sender = Connection::greet(address)?.into_stream()?;
    let mut reader = BufReader::with_capacity(BUFFER, sender.try_clone()?);
    let mut offsets = BTreeMap::new();
    let mut encoder = Encoder::default();
    let mut ask = |segment: &str, offset: u64| -> anyhow::Result<()> {
        let read = ReadSegment {
            segment: segment.to_owned(),
            offset: i64::try_from(offset)?,
            suggested_length: i32::try_from(length)?,
            token: String::new(),
            request_id: 1,
        };
        Command::from(read).encode(&mut encoder);
        Ok(sender.write_all(&encoder.take())?)
    };
    let begin = Instant::now();
    for segment in segments {
        ask(segment, 0)?;
        offsets.insert(segment.as_bytes().to_vec(), 0);
    }
    let (mut read, mut done) = (Read::default(), 0);
    let mut name = Vec::new();
    while done < segments.len() {
        let bytes = take_reply(&mut reader, &mut name)?;
        ensure!(bytes > 0, "an empty reply before the end");
        read.bytes += bytes;
        read.pieces += 1;
        let offset = offsets.get_mut(&name).context("a reply for nobody")?;
        *offset += bytes;
        if *offset < end {
            ask(std::str::from_utf8(&name)?, *offset)?;
        } else {
            done += 1;
        }
    }
    read.seconds = begin.elapsed().as_secs_f64();
    Ok(read)
}

/// Takes one `SegmentRead`, of which only the segment's name is kept. Returns how many bytes it brought.
fn take_reply(reader: &mut impl BufRead, name: &mut Vec<u8>) -> anyhow::Result<u64> {
    let (code, length) = (take_i32(reader)?, take_i32(reader)?);
    ensure!(code == SEGMENT_READ, "instead of a read: reply {code}");
    let mut size = [0; 2];
    reader.read_exact(&mut size)?;
    name.resize(usize::from(u16::from_be_bytes(size)), 0);
    reader.read_exact(name)?;
    // Offset, and whether the segment's tail or end was reached.
    skip(reader, 8 + 2)?;
    let data = u64::try_from(take_i32(reader)?)?;
    let before = 2 + name.len() as u64 + 8 + 2 + 4;
    let frame = u64::try_from(length)?;
    // The request's number stands behind the data.
    ensure!(frame == before + data + 8, "a reply of {frame} bytes");
    skip(reader, data + 8)?;
    Ok(data)
}

fn take_i32(reader: &mut impl BufRead) -> io::Result<i32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(i32::from_be_bytes(bytes))
}

fn skip(reader: &mut impl BufRead, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let there = reader.fill_buf()?.len();
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = bytes.min(there as u64);
        reader.consume(taken as usize);
        bytes -= taken;
    }
    Ok(())
}

/// Sends files over loopback, `length` bytes read and sent at a time, one thread on each side: no server
/// that reads files can beat it by much.
pub(crate) fn files(files: &[PathBuf], length: usize) -> anyhow::Result<Read> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    let begin = Instant::now();
    let read = std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> anyhow::Result<(u64, f64)> {
            let (mut socket, _) = listener.accept()?;
            let (mut buffer, mut pieces) = (vec![0; length], 0);
            for path in files {
                let (file, mut at) = (File::open(path)?, 0);
                loop {
                    let read = file.read_at(&mut buffer, at)?;
                    if read == 0 {
                        break;
                    }
                    socket.write_all(&buffer[..read])?;
                    at += read as u64;
                    pieces += 1;
                }
            }
            Ok((pieces, own_cpu_seconds()?))
        });
        let (mut buffer, mut bytes) = (vec![0; BUFFER], 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                read => bytes += read as u64,
            }
        }
        let Ok(sent) = sender.join() else {
            bail!("the sender panicked");
        };
        Ok((bytes, sent?))
    });
    let (bytes, (pieces, cpu_seconds)) = read?;
    Ok(Read {
        bytes,
        pieces,
        seconds: begin.elapsed().as_secs_f64(),
        cpu_seconds,
    })
}

/// Reads files one after the other and has every byte seen by a checksum: what a recovery has to do.
pub(crate) fn checked(files: &[PathBuf]) -> anyhow::Result<Read> {
    let (begin, mut read) = (Instant::now(), Read::default());
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let (file, mut at) = (File::open(path)?, 0);
        loop {
            let there = file.read_at(&mut buffer, at)?;
            if there == 0 {
                break;
            }
            std::hint::black_box(crc_fast::crc32_iscsi(&buffer[..there]));
            at += there as u64;
            read.pieces += 1;
        }
        read.bytes += at;
    }
    read.seconds = begin.elapsed().as_secs_f64();
    Ok(read)
}

/// Returns all files below a folder, in the order of their names.
pub(crate) fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Has the kernel forget what it keeps of files, so that reading them means reading the device.
pub(crate) fn forget(files: &[PathBuf]) -> anyhow::Result<()> {
    for path in files {
        let file = match OpenOptions::new().read(true).open(path) {
            Ok(file) => file,
            // Compacted meanwhile, and gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    // The kernel may be at it still.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sarit_proto::wire::Reply;
    use sarit_proto::wire::reply::SegmentRead;

    use super::*;

    #[test]
    fn of_a_reply_only_the_name_and_the_size_are_looked_at() {
        let mut encoder = Encoder::default();
        let reply = SegmentRead {
            segment: "a/b/0".to_owned(),
            offset: 7,
            at_tail: true,
            end_of_segment: false,
            data: Bytes::from(vec![1; 100_000]),
            request_id: 3,
        };
        Reply::from(reply).encode(&mut encoder);
        let frame = encoder.take();
        let mut reader = BufReader::with_capacity(1_000, &frame[..]);
        let mut name = Vec::new();
        assert_eq!(take_reply(&mut reader, &mut name).unwrap(), 100_000);
        assert_eq!(name, b"a/b/0");
        assert!(take_reply(&mut reader, &mut name).is_err());
    }

    #[test]
    fn files_are_sent_and_checked_whole() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 70_000]).unwrap();
        std::fs::write(dir.path().join("sub/b"), vec![2; 10]).unwrap();
        let paths = files_below(dir.path()).unwrap();
        forget(&paths).unwrap();
        let read = files(&paths, 64 << 10).unwrap();
        assert_eq!((read.bytes, read.pieces), (70_010, 3));
        assert_eq!(checked(&paths).unwrap().bytes, 70_010);
    }
}
