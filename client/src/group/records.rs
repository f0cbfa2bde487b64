//! Records of a group's log that we write, in the Java client's format (pure).
//!
//! A record is a list of changes, each an object: format, type, version, and revisions that add to each
//! other. The configuration in it is one too, with no type.

use sarit_proto::controller::{ReaderGroupConfiguration, StreamCut as CutMessage};
use sarit_proto::names::ScopedStream;
use sarit_proto::stream_cut::{CutError, SegmentPosition, StreamCut};

use super::state::{BEGIN, CHANGES, UPDATING};

/// Most elements of a map: what its count has room for, without the bits that say how long it is.
const COUNT_MAX: usize = 0x3FFF_FFFF;

/// Says that the group gets another configuration; its readers then look at the controller's.
pub(super) fn updating() -> Vec<u8> {
    change(UPDATING, &[vec![1]])
}

/// Begins the group's state anew: with this configuration, every segment at its start, nobody reading it.
///
/// # Errors
/// A cut has a segment or offset that the format has no room for.
pub(super) fn beginning(
    config: &ReaderGroupConfiguration,
    starts: &[StreamCut],
    ends: &[StreamCut],
) -> Result<Vec<u8>, CutError> {
    let mut first = Vec::new();
    buffer(&mut first, &configuration(config)?);
    let starts: Vec<_> = starts.iter().flat_map(segments).collect();
    let ends: Vec<_> = ends.iter().flat_map(segments).collect();
    count(&mut first, starts.len());
    for (segment, position) in &starts {
        text(&mut first, segment);
        first.extend(position.to_raw().to_be_bytes());
    }
    count(&mut first, ends.len());
    for (segment, position) in &ends {
        text(&mut first, segment);
        let end = match position {
            SegmentPosition::At(offset) => offset.0 as i64,
            SegmentPosition::End => i64::MAX,
        };
        first.extend(end.to_be_bytes());
    }
    let mut second = Vec::new();
    count(&mut second, starts.len());
    for (segment, position) in &starts {
        text(&mut second, segment);
        // Its range of keys is not known.
        second.extend((-1.0_f64).to_be_bytes());
        second.extend((-1.0_f64).to_be_bytes());
        second.extend(position.to_raw().to_be_bytes());
    }
    // From now on nothing is being changed.
    Ok(change(BEGIN, &[first, second, vec![0]]))
}

fn segments(cut: &StreamCut) -> impl Iterator<Item = (String, SegmentPosition)> {
    let positions = cut.positions.iter();
    positions.map(|(id, position)| (cut.stream.segment(*id).to_string(), *position))
}

fn configuration(config: &ReaderGroupConfiguration) -> Result<Vec<u8>, CutError> {
    let mut first = Vec::new();
    first.extend(config.automatic_checkpoint_interval_millis.to_be_bytes());
    first.extend(config.group_refresh_time_millis.to_be_bytes());
    for cuts in [&config.starting_stream_cuts, &config.ending_stream_cuts] {
        count(&mut first, cuts.len());
        for cut in cuts {
            let info = cut.stream_info.clone().unwrap_or_default();
            text(&mut first, &format!("{}/{}", info.scope, info.stream));
            let bytes = match parse(cut)? {
                Some(cut) => cut.to_bytes()?,
                None => Vec::new(),
            };
            buffer(&mut first, &bytes);
        }
    }
    let mut second = first.clone();
    second.extend(config.max_outstanding_checkpoint_request.to_be_bytes());
    let mut third = Vec::new();
    count(
        &mut third,
        usize::try_from(config.retention_type).unwrap_or(0),
    );
    third.extend(config.generation.to_be_bytes());
    let id = config.reader_group_id.replace('-', "");
    let id = u128::from_str_radix(&id, 16).unwrap_or(0);
    third.extend(id.to_be_bytes());
    let mut bytes = vec![0, 0];
    revisions(&mut bytes, &[first, second, third]);
    Ok(bytes)
}

/// Reads a cut of a configuration: without segments it is unbounded.
pub(super) fn parse(cut: &CutMessage) -> Result<Option<StreamCut>, CutError> {
    let info = cut.stream_info.clone().unwrap_or_default();
    let stream: ScopedStream = format!("{}/{}", info.scope, info.stream).parse()?;
    let pairs = cut.cut.iter().map(|(id, offset)| (*id, *offset));
    match cut.cut.is_empty() {
        true => Ok(None),
        false => StreamCut::from_raw(stream, pairs).map(Some),
    }
}

fn change(kind: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut object = vec![0, kind, 0];
    revisions(&mut object, parts);
    let mut record = CHANGES.to_be_bytes().to_vec();
    record.extend((object.len() as i32).to_be_bytes());
    record.extend(object);
    record
}

fn revisions(out: &mut Vec<u8>, parts: &[Vec<u8>]) {
    out.push(parts.len() as u8);
    for (number, part) in (0u8..).zip(parts) {
        out.push(number);
        out.extend((part.len() as i32).to_be_bytes());
        out.extend(part);
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    // Names of streams and segments stay far below 65,536 bytes.
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn buffer(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend(bytes);
}

/// 1, 2 or 4 bytes: `0`, `10` or `11` in the top bits.
fn count(out: &mut Vec<u8>, count: usize) {
    assert!(
        count <= COUNT_MAX,
        "a frame has no room for {count} elements"
    );
    match count {
        0..0x80 => out.push(count as u8),
        0x80..0x4000 => out.extend((count as u16 | 0x8000).to_be_bytes()),
        _ => out.extend((count as u32 | 0xC000_0000).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use sarit_proto::controller::StreamInfo;

    use super::super::state::State;
    use super::*;

    fn info(stream: &str) -> Option<StreamInfo> {
        Some(StreamInfo {
            scope: "s".to_owned(),
            stream: stream.to_owned(),
            ..StreamInfo::default()
        })
    }

    #[test]
    fn what_is_written_begins_a_group_anew() {
        let start = StreamCut::from_raw("s/t".parse().unwrap(), [(0, 5), (1, 70_000)]).unwrap();
        let config = ReaderGroupConfiguration {
            generation: 3,
            reader_group_id: "00000000-0000-0001-0000-000000000002".to_owned(),
            starting_stream_cuts: vec![CutMessage::from(&start)],
            ending_stream_cuts: vec![CutMessage {
                stream_info: info("t"),
                ..CutMessage::default()
            }],
            ..ReaderGroupConfiguration::default()
        };
        let record = beginning(&config, std::slice::from_ref(&start), &[]).unwrap();
        let mut state = State::default();
        state.apply(&record).unwrap();
        assert_eq!(state.positions()[&start.stream], start);
        assert_eq!((state.generation(), state.is_updating()), (3, false));
        state.apply(&updating()).unwrap();
        assert!(state.is_updating());
    }

    #[test]
    fn counts_have_the_length_that_they_need() {
        let encoded = |number| {
            let mut out = Vec::new();
            count(&mut out, number);
            out
        };
        assert_eq!(encoded(0x7F), [0x7F]);
        assert_eq!(encoded(0x80), [0x80, 0x80]);
        assert_eq!(encoded(0x3FFF), [0xBF, 0xFF]);
        assert_eq!(encoded(0x4000), [0xC0, 0, 0x40, 0]);
    }
}
