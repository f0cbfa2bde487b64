//! Reads back by raw wire what was appended, and compares: complete, and in order for every key.

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, BytesMut};
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::ReadSegment;
use sarit_tests::raw::Connection;

use crate::load::tails;

/// Asked for at once.
const READ_BYTES: i32 = 1 << 20;

/// Reads all `segments` from their start and returns how many events there are: each begins with its
/// key and its number within the key, which count from 0 to `written[key]`.
///
/// # Errors
/// If one is missing, or comes twice, or too early.
pub(crate) fn read_back(
    address: &str,
    segments: &[String],
    written: &[u64],
) -> anyhow::Result<u64> {
    let mut connection = Connection::greet(address)?;
    let mut seen = vec![0_u64; written.len()];
    for segment in segments {
        let end = tails(address, std::slice::from_ref(segment))?;
        read_segment(&mut connection, segment, end, &mut seen)?;
    }
    for (key, (seen, written)) in seen.iter().zip(written).enumerate() {
        ensure!(
            seen == written,
            "{written} events of key {key} acknowledged, {seen} there"
        );
    }
    Ok(seen.iter().sum())
}

fn read_segment(
    connection: &mut Connection,
    segment: &str,
    end: u64,
    seen: &mut [u64],
) -> anyhow::Result<()> {
    let (mut offset, mut rest) = (0, BytesMut::new());
    while offset < end {
        let read = ReadSegment {
            segment: segment.to_owned(),
            offset: i64::try_from(offset)?,
            suggested_length: READ_BYTES,
            token: String::new(),
            request_id: 1,
        };
        match connection.ask(read)? {
            Reply::SegmentRead(reply) if !reply.data.is_empty() => {
                offset += reply.data.len() as u64;
                rest.extend_from_slice(&reply.data);
            }
            other => bail!("read {segment} at {offset} of {end}: {}", other.name()),
        }
        take_events(&mut rest, seen).with_context(|| format!("{segment} before {offset}"))?;
    }
    ensure!(rest.is_empty(), "{segment} ends within an event");
    Ok(())
}

/// Takes all whole events.
fn take_events(bytes: &mut BytesMut, seen: &mut [u64]) -> anyhow::Result<()> {
    while let Some(header) = bytes.first_chunk::<8>() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if bytes.len() < 8 + length {
            return Ok(());
        }
        let mut event = bytes.split_to(8 + length);
        ensure!(event.get_i32() == 0 && length >= 12, "not an event of ours");
        event.advance(4);
        let (key, number) = (event.get_u32() as usize, event.get_u64());
        let next = seen
            .get_mut(key)
            .with_context(|| format!("there is no key {key}"))?;
        ensure!(
            number == *next,
            "event {number} of key {key} instead of {next}"
        );
        *next += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    fn event(key: u32, number: u64) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_i32(0);
        bytes.put_i32(13);
        bytes.put_u32(key);
        bytes.put_u64(number);
        bytes.put_u8(9);
        bytes
    }

    #[test]
    fn events_are_counted_across_reads() {
        let (mut bytes, mut seen) = (event(1, 0), vec![0; 2]);
        bytes.unsplit(event(1, 1));
        let second = bytes.split_off(15);
        take_events(&mut bytes, &mut seen).unwrap();
        assert_eq!((seen[1], bytes.len()), (0, 15));
        bytes.unsplit(second);
        take_events(&mut bytes, &mut seen).unwrap();
        assert_eq!((seen[1], bytes.len()), (2, 0));
    }

    #[test]
    fn a_hole_and_a_repetition_are_refused() {
        assert!(take_events(&mut event(0, 1), &mut [0]).is_err());
        assert!(take_events(&mut event(0, 0), &mut [1]).is_err());
        assert!(take_events(&mut event(1, 0), &mut [0]).is_err());
    }
}
