//! The binary form: a versioned container of one revision, holding the stream's name and a map from
//! segment id to offset with integers of variable length.
//!
//! Version 1 is written; version 0, which had no negative offsets, is read as well.

use super::{CutError, StreamCut};

const FORMAT: u8 = 0;
const VERSION: u8 = 1;

pub(super) fn read(mut bytes: &[u8]) -> Result<Option<StreamCut>, CutError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let input = &mut bytes;
    let [format, version, revisions] = take(input)?;
    if format != FORMAT || version > VERSION {
        return Err(CutError::Form("unknown version"));
    }
    // Later revisions would add to the first; they can be skipped, the first cannot.
    let [revision] = take(input)?;
    if revisions == 0 || revision != 0 {
        return Err(CutError::Form("no first revision"));
    }
    let length = usize::try_from(i32::from_be_bytes(take(input)?));
    let length = length.ok().filter(|n| *n <= input.len());
    let mut body = &input[..length.ok_or(CutError::Form("a length beyond its end"))?];
    let cut = read_body(&mut body, version)?;
    Ok(Some(cut))
}

fn read_body(input: &mut &[u8], version: u8) -> Result<StreamCut, CutError> {
    let length = usize::from(u16::from_be_bytes(take(input)?));
    if length > input.len() {
        return Err(CutError::Form("a length beyond its end"));
    }
    let (name, rest) = input.split_at(length);
    *input = rest;
    let name = std::str::from_utf8(name).map_err(|_| CutError::Form("a name that is no text"))?;
    let stream = name.parse()?;
    let count = read_count(input)?;
    // Every pair takes two bytes at least, so a claimed count never reserves more than was given.
    if count > input.len() / 2 {
        return Err(CutError::Form("a count beyond its end"));
    }
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let id = read_unsigned(input)?;
        let offset = match version {
            0 => read_unsigned(input)?,
            _ => read_signed(input)?,
        };
        pairs.push((id, offset));
    }
    StreamCut::from_raw(stream, pairs)
}

pub(super) fn write(cut: &StreamCut) -> Result<Vec<u8>, CutError> {
    let name = cut.stream.to_string();
    let mut body = Vec::new();
    // Two parts of a name stay far below 65,536 bytes.
    body.extend((name.len() as u16).to_be_bytes());
    body.extend(name.as_bytes());
    write_count(&mut body, cut.positions.len());
    for (id, position) in &cut.positions {
        if id.0 >> 62 != 0 {
            return Err(CutError::Segment(id.0));
        }
        write_unsigned(&mut body, id.0);
        let raw = position.to_raw();
        if raw >> 61 > 0 {
            return Err(CutError::Position(raw));
        }
        write_signed(&mut body, raw);
    }
    let mut out = vec![FORMAT, VERSION, 1, 0];
    out.extend((body.len() as i32).to_be_bytes());
    out.extend(body);
    Ok(out)
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], CutError> {
    let (head, rest) = input
        .split_first_chunk()
        .ok_or(CutError::Form("it ends too early"))?;
    *input = rest;
    Ok(*head)
}

/// 1, 2 or 4 bytes: `0`, `10` or `11` in the top bits.
fn read_count(input: &mut &[u8]) -> Result<usize, CutError> {
    let [first] = take(input)?;
    let more = match first >> 6 {
        0 | 1 => return Ok(first.into()),
        2 => 1,
        _ => 3,
    };
    read_more(input, u64::from(first & 0x3F), more).map(|count| count as usize)
}

fn write_count(out: &mut Vec<u8>, count: usize) {
    match count as u32 {
        count @ 0..0x80 => out.push(count as u8),
        count @ 0x80..0x4000 => out.extend((count as u16 | 0x8000).to_be_bytes()),
        count => out.extend((count | 0xC000_0000).to_be_bytes()),
    }
}

/// 1, 2, 4 or 8 bytes: 0 to 3 in the top two bits.
fn read_unsigned(input: &mut &[u8]) -> Result<i64, CutError> {
    let [first] = take(input)?;
    let more = (1 << (first >> 6)) - 1;
    read_more(input, u64::from(first & 0x3F), more).map(|number| number as i64)
}

fn write_unsigned(out: &mut Vec<u8>, number: i64) {
    match number as u64 {
        number @ 0..=0x3F => out.push(number as u8),
        number @ 0x40..=0x3FFF => out.extend((number as u16 | 1 << 14).to_be_bytes()),
        number @ 0x4000..=0x3FFF_FFFF => out.extend((number as u32 | 2 << 30).to_be_bytes()),
        number => out.extend((number | 3 << 62).to_be_bytes()),
    }
}

/// As before behind a sign bit; a negative number `v` is kept as `-v - 1`.
fn read_signed(input: &mut &[u8]) -> Result<i64, CutError> {
    let [first] = take(input)?;
    let more = (1 << (first >> 5 & 3)) - 1;
    let number = read_more(input, u64::from(first & 0x1F), more)? as i64;
    Ok(if first & 0x80 == 0 {
        number
    } else {
        -number - 1
    })
}

fn write_signed(out: &mut Vec<u8>, raw: i64) {
    let (sign, number) = if raw < 0 {
        (1, (-raw - 1) as u64)
    } else {
        (0, raw as u64)
    };
    match number {
        0..=0x1F => out.push((sign << 7 | number) as u8),
        0x20..=0x1FFF => out.extend(((sign << 15 | 1 << 13 | number) as u16).to_be_bytes()),
        0x2000..=0x1FFF_FFFF => out.extend(((sign << 31 | 2 << 29 | number) as u32).to_be_bytes()),
        _ => out.extend((sign << 63 | 3 << 61 | number).to_be_bytes()),
    }
}

fn read_more(input: &mut &[u8], first: u64, more: usize) -> Result<u64, CutError> {
    let mut number = first;
    for _ in 0..more {
        let [byte] = take(input)?;
        number = number << 8 | u64::from(byte);
    }
    Ok(number)
}
