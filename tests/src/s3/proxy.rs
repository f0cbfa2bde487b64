//! What can go wrong on the way to an S3 server: refusals, stalls, and one that lies.
//!
//! It understands as much of HTTP as S3 clients use: requests with a length, one after the other
//! on connections that are closed after each.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{bail, ensure};
use sarit_env::Rng;

use super::{BUCKET, S3Server};
use crate::cluster::free_port;

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// No request has a longer head.
const HEAD_MAX: usize = 64 << 10;
const FAILED: &[u8] = b"HTTP/1.1 412";
const DONE: &[u8] =
    b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code><Message>later</Message></Error>";

/// What goes wrong from now on.
#[derive(Debug, Default)]
struct Faults {
    /// Requests of a thousand that are answered with 503.
    refused: AtomicU32,
    /// Requests are taken and not answered while this holds, and never after.
    stalled: AtomicBool,
    /// What does not hold (412) is answered as if it had been done.
    unconditional: AtomicBool,
    ended: AtomicBool,
    refusals: AtomicU64,
    stalls: AtomicU64,
    requests: AtomicU64,
}

/// A proxy in front of an [`S3Server`]. Dropped, it answers nobody any more.
pub struct Proxy {
    port: u16,
    faults: Arc<Faults>,
}

impl Proxy {
    /// Starts one without faults.
    pub fn start(server: &S3Server) -> anyhow::Result<Self> {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let faults = Arc::<Faults>::default();
        let (shared, upstream, rng) = (faults.clone(), server.port(), Arc::new(Rng::from_os()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (shared, rng) = (shared.clone(), rng.clone());
                std::thread::spawn(move || {
                    // A connection that breaks is the client's to notice.
                    let _ = serve(stream, upstream, &shared, &rng);
                });
            }
        });
        Ok(Self { port, faults })
    }

    /// Returns where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the settings of a server that keeps its history here, below `prefix`.
    pub fn settings(&self, prefix: &str) -> Vec<String> {
        let storage = "segmentstore.storage";
        vec![
            format!("{storage}.url=s3://{BUCKET}/{prefix}"),
            format!("{storage}.endpoint={}", self.endpoint()),
            format!("{storage}.access_key_id=test"),
            format!("{storage}.secret_access_key=test"),
        ]
    }

    /// Refuses so many of a thousand requests.
    pub fn refuse(&self, of_thousand: u32) {
        self.faults.refused.store(of_thousand, Relaxed);
    }

    /// Answers nobody while `stalled`; those who wait then are not answered later either.
    pub fn stall(&self, stalled: bool) {
        self.faults.stalled.store(stalled, Relaxed);
    }

    /// Makes a store of it that says to have written over what it was told to create.
    pub fn ignore_conditions(&self) {
        self.faults.unconditional.store(true, Relaxed);
    }

    /// Returns how many requests came, were refused, and were stalled.
    pub fn counts(&self) -> (u64, u64, u64) {
        let Faults {
            requests,
            refusals,
            stalls,
            ..
        } = &*self.faults;
        (
            requests.load(Relaxed),
            refusals.load(Relaxed),
            stalls.load(Relaxed),
        )
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.faults.ended.store(true, Relaxed);
        // Wakes it, so that it sees.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Serves one request and closes, as the server behind does.
fn serve(mut client: TcpStream, upstream: u16, faults: &Faults, rng: &Rng) -> anyhow::Result<()> {
    let (head, begun) = read_head(&mut client)?;
    faults.requests.fetch_add(1, Relaxed);
    let mut length = 0_usize;
    let mut passed_on = String::new();
    for (number, line) in head.split("\r\n").enumerate() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            length = value.trim().parse()?;
        }
        if number == 0 || name != "connection" {
            passed_on.push_str(line);
            passed_on.push_str("\r\n");
        }
    }
    passed_on.push_str("Connection: close\r\n\r\n");
    let mut rest = length.saturating_sub(begun.len());
    if faults.stalled.load(Relaxed) {
        faults.stalls.fetch_add(1, Relaxed);
        while faults.stalled.load(Relaxed) && !faults.ended.load(Relaxed) {
            std::thread::sleep(LOOK_EVERY);
        }
        return Ok(());
    }
    if rng.below(1000) < u64::from(faults.refused.load(Relaxed)) {
        faults.refusals.fetch_add(1, Relaxed);
        pump(&mut client, &mut io::sink(), &mut rest)?;
        let length = SLOW_DOWN.len();
        write!(
            client,
            "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{SLOW_DOWN}"
        )?;
        client.shutdown(Shutdown::Both)?;
        return Ok(());
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    server.write_all(passed_on.as_bytes())?;
    server.write_all(&begun)?;
    pump(&mut client, &mut server, &mut rest)?;
    let mut begin = [0; FAILED.len()];
    server.read_exact(&mut begin)?;
    if begin == *FAILED && faults.unconditional.load(Relaxed) {
        client.write_all(DONE)?;
    } else {
        client.write_all(&begin)?;
        io::copy(&mut server, &mut client)?;
    }
    client.shutdown(Shutdown::Both)?;
    Ok(())
}

/// Reads to the end of a request's head; returns it and what came of the body already.
fn read_head(client: &mut TcpStream) -> anyhow::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = client.read(&mut buffer)?;
        ensure!(count > 0, "it closed");
        read.extend_from_slice(&buffer[..count]);
        if let Some(at) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = read.split_off(at + 4);
            read.truncate(at);
            return Ok((String::from_utf8(read)?, body));
        }
        if read.len() > HEAD_MAX {
            bail!("a head without end");
        }
    }
}

fn pump(from: &mut TcpStream, to: &mut impl io::Write, rest: &mut usize) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while *rest > 0 {
        let most = buffer.len().min(*rest);
        let count = from.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&buffer[..count])?;
        *rest -= count;
    }
    Ok(())
}
