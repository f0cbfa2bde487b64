//! The start-up probe: from the server's exec on, until one append is acknowledged. Only the wire
//! protocol, so that it is the same for every server.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use bytes::Bytes;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_tests::raw::Connection;

use crate::load::{Appender, tails};

/// The segment it writes to, one in the way streams have them.
const SEGMENT: &str = "bench/start/0.#epoch.0";
/// Who writes.
const WRITER: u128 = 0x5A;
/// Size of its event.
const EVENT_BYTES: usize = 100;
/// Bytes under way while what is there before a kill is written.
const FILL_WINDOW: usize = 16_000_000;
/// How often a port that is not open yet is tried.
const TRY_EVERY: Duration = Duration::from_millis(1);
/// How soon a server that is there but refuses is asked again.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// When to give up.
const WAIT_MAX: Duration = Duration::from_secs(240);

/// How long a server took, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstAck {
    /// Until its segment store accepted a connection.
    pub(crate) connected: f64,
    /// Until it acknowledged an append.
    pub(crate) acked: f64,
}

/// What a server must still know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Number of the last acknowledged event.
    pub(crate) last_event: i64,
    /// Bytes in the segment.
    pub(crate) bytes: u64,
}

/// Waits for the first acknowledged append since `begin`, and checks that what was acknowledged before
/// is there. `alive` fails if there is nothing more to wait for.
pub(crate) fn first_ack(
    address: &str,
    begin: Instant,
    expected: &mut Expected,
    mut alive: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<FirstAck> {
    while TcpStream::connect(address).is_err() {
        alive()?;
        ensure!(
            begin.elapsed() < WAIT_MAX,
            "nobody listens on {address} after {WAIT_MAX:?}"
        );
        std::thread::sleep(TRY_EVERY);
    }
    let connected = begin.elapsed().as_secs_f64();
    let mut sent = 0;
    loop {
        match try_append(address, &mut sent) {
            Ok(last) => {
                let acked = begin.elapsed().as_secs_f64();
                // An attempt that failed may have been stored all the same.
                let unknown = expected.last_event..expected.last_event + sent;
                ensure!(
                    unknown.contains(&last),
                    "the last event was one of {unknown:?}, the server says {last}"
                );
                let appended = last + 1 - expected.last_event;
                expected.last_event += appended;
                expected.bytes += appended as u64 * EVENT_BYTES as u64;
                let bytes = tails(address, &[SEGMENT.to_owned()])?;
                ensure!(
                    bytes == expected.bytes,
                    "{bytes} bytes, not {}",
                    expected.bytes
                );
                return Ok(FirstAck { connected, acked });
            }
            Err(error) if begin.elapsed() > WAIT_MAX => return Err(error),
            Err(_) => std::thread::sleep(ASK_EVERY),
        }
    }
}

/// Appends one event and returns the number of the one before.
fn try_append(address: &str, sent: &mut i64) -> anyhow::Result<i64> {
    let mut connection = Connection::greet(address)?;
    connection.create(SEGMENT)?;
    let last = connection.set_up(SEGMENT, WriterId(WRITER))?.max(0);
    let event = Bytes::from_static(&[0x5A; EVENT_BYTES]);
    connection.queue_append(WriterId(WRITER), last + 1, 1, event);
    *sent += 1;
    connection.flush()?;
    match connection.reply()? {
        Reply::DataAppended(reply) if reply.event_number == last + 1 => Ok(last),
        other => bail!("instead of an acknowledgement: {other:?}"),
    }
}

/// Appends `bytes` in pieces of `size`, all acknowledged.
pub(crate) fn fill(
    address: &str,
    bytes: u64,
    size: usize,
    expected: &mut Expected,
) -> anyhow::Result<()> {
    let mut left = bytes / size as u64;
    let mut appender = Appender::new(address, &[SEGMENT.to_owned()], WRITER)?;
    // `more` is asked once per window.
    while left > 0 {
        let depth = (FILL_WINDOW / size).min(left as usize);
        let mut go = true;
        let appended = appender.run(size, depth, || std::mem::take(&mut go))?;
        left -= appended;
        expected.last_event += appended as i64;
        expected.bytes += appended * size as u64;
    }
    Ok(())
}
