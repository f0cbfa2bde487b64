//! The machine's own limits, measured beside the product: what no server on it can beat.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::OFlags;

use crate::Bench;
use crate::figures::Quantiles;
use crate::report::Row;

/// Size of the file that is written over and over, so that no write allocates.
const FILE_BYTES: u64 = 64 << 20;
/// What a lane writes at least.
const BLOCK: usize = 4096;

/// Prints the limits.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let time = bench.choose(Duration::from_secs(2), Duration::from_millis(500));
    bench.report.section(
        "limits",
        "what this machine can do at best, without any server",
    );
    let mut file = ProbeFile::prepare(&bench.dir)?;
    for (name, size) in [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let latencies = file.run(size, time)?;
        let row = row(
            format!("write and fdatasync, {name}"),
            latencies,
            time,
            size,
        );
        bench.report.row(&row)?;
    }
    let latencies = Echo::start(None)?.run(time)?;
    bench.report.row(&row(
        "ping over loopback, 100 B".to_owned(),
        latencies,
        time,
        100,
    ))?;
    let latencies = Echo::start(Some(&bench.dir))?.run(time)?;
    bench.report.row(&row(
        "ping + write and sync of 4 KiB".to_owned(),
        latencies,
        time,
        100,
    ))
}

fn row(name: String, mut latencies: Quantiles, time: Duration, size: usize) -> Row {
    let per_second = latencies.count() as f64 / time.as_secs_f64();
    Row::new(name)
        .number("p10 µs", latencies.micros(0.1))
        .number("p50 µs", latencies.micros(0.5))
        .number("p99 µs", latencies.micros(0.99))
        .number("per second", per_second)
        .number("MB/s", per_second * size as f64 / 1e6)
}

/// A file written beforehand, to be written again in place.
pub(crate) struct ProbeFile {
    file: File,
    /// The same one, written past the cache; `None` where that can't be.
    direct: Option<File>,
    path: PathBuf,
    at: u64,
}

impl ProbeFile {
    /// Creates it in `dir` and writes it once.
    pub(crate) fn prepare(dir: &Path) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = dir.join(format!("probe-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("create {}", path.display()))?;
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        let direct = i32::try_from(OFlags::DIRECT.bits())?;
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(direct)
            .open(&path);
        Ok(Self {
            file,
            direct: direct.ok(),
            path,
            at: 0,
        })
    }

    /// Writes a block behind the one before, from the start again at the end, and syncs it.
    pub(crate) fn write(&mut self, block: &[u8]) -> io::Result<Duration> {
        let start = Instant::now();
        let size = block.len() as u64;
        if self.at + size > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(block, self.at)?;
        self.file.sync_data()?;
        self.at += size.next_multiple_of(BLOCK as u64);
        Ok(start.elapsed())
    }

    /// Writes blocks of `size` bytes one after the other for `time`; a latency each.
    pub(crate) fn run(&mut self, size: usize, time: Duration) -> anyhow::Result<Quantiles> {
        let block = vec![0x5A; size.min(FILE_BYTES as usize)];
        let mut latencies = Quantiles::default();
        let begin = Instant::now();
        while begin.elapsed() < time {
            latencies.add(self.write(&block)?);
        }
        Ok(latencies)
    }
}

impl ProbeFile {
    /// Does what [`Self::run`] does past the cache, in whole blocks; `None` where that can't be.
    pub(crate) fn run_direct(
        &mut self,
        size: usize,
        time: Duration,
    ) -> anyhow::Result<Option<Quantiles>> {
        let Some(file) = &self.direct else {
            return Ok(None);
        };
        let size = size.next_multiple_of(BLOCK).min(FILE_BYTES as usize);
        let memory = vec![0x5A_u8; size + BLOCK];
        let from = memory.as_ptr().align_offset(BLOCK);
        let block = &memory[from..from + size];
        let mut latencies = Quantiles::default();
        let (begin, mut at) = (Instant::now(), 0);
        while begin.elapsed() < time {
            let start = Instant::now();
            if at + size as u64 > FILE_BYTES {
                at = 0;
            }
            file.write_all_at(block, at)?;
            file.sync_data()?;
            at += size as u64;
            latencies.add(start.elapsed());
        }
        Ok(Some(latencies))
    }
}

impl Drop for ProbeFile {
    fn drop(&mut self) {
        // In a directory that is removed anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes 100 bytes over loopback and sends them back, perhaps with a write and sync of 4 KiB in
/// between: what a single durable append cannot be faster than.
pub(crate) struct Echo {
    stream: TcpStream,
    server: Option<JoinHandle<io::Result<()>>>,
}

impl Echo {
    /// Starts the other side in a thread of its own.
    pub(crate) fn start(sync_in: Option<&Path>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        stream.set_nodelay(true)?;
        let mut file = sync_in.map(ProbeFile::prepare).transpose()?;
        let server = std::thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let (mut message, block) = ([0; 100], [0x5A; BLOCK]);
            while stream.read_exact(&mut message).is_ok() {
                if let Some(file) = &mut file {
                    file.write(&block)?;
                }
                stream.write_all(&message)?;
            }
            Ok(())
        });
        Ok(Self {
            stream,
            server: Some(server),
        })
    }

    /// Sends and waits for the answer.
    pub(crate) fn ping(&mut self) -> io::Result<Duration> {
        let start = Instant::now();
        let mut message = [0; 100];
        self.stream.write_all(&message)?;
        self.stream.read_exact(&mut message)?;
        Ok(start.elapsed())
    }

    /// Sends one after the other for `time`; a latency each.
    pub(crate) fn run(mut self, time: Duration) -> anyhow::Result<Quantiles> {
        let mut latencies = Quantiles::default();
        let begin = Instant::now();
        while begin.elapsed() < time {
            latencies.add(self.ping()?);
        }
        Ok(latencies)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Ends the other side's read, and with it the thread.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_can_be_measured() {
        let dir = tempfile::tempdir().unwrap();
        let time = Duration::from_millis(20);
        let mut file = ProbeFile::prepare(dir.path()).unwrap();
        assert!(file.run(40 << 20, time).unwrap().count() > 0);
        assert!(file.run(4096, time).unwrap().micros(0.5) > 0.0);
        let direct = file.run_direct(10_000, time).unwrap();
        assert!(direct.is_none_or(|direct| direct.count() > 0));
        assert!(Echo::start(None).unwrap().run(time).unwrap().count() > 0);
        assert!(
            Echo::start(Some(dir.path()))
                .unwrap()
                .run(time)
                .unwrap()
                .count()
                > 0
        );
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
