use std::io::IoSlice;

use bytes::{BufMut as _, Bytes, BytesMut};
use proptest::prelude::*;

use super::append::{AppendData, join};
use super::command::{AppendBlock, AppendBlockEnd, DeleteSegment};
use super::field::*;
use super::reply::NoSuchSegment;
use super::*;
use crate::ids::{AttributeId, WriterId};

/// A random value of a field, as it may stand in a frame.
pub(super) trait Sample: Sized {
    fn sample() -> BoxedStrategy<Self>;
}

macro_rules! sample {
    ($($type:ty => $strategy:expr;)*) => {$(
        impl Sample for $type {
            fn sample() -> BoxedStrategy<Self> {
                $strategy.boxed()
            }
        }
    )*};
}

sample! {
    u8 => any::<u8>();
    i32 => any::<i32>();
    i64 => any::<i64>();
    bool => any::<bool>();
    WriterId => any::<u128>().prop_map(WriterId);
    AttributeId => any::<u128>().prop_map(AttributeId);
    String => prop_oneof![
        4 => "[a-z0-9/._#-]{0,40}",
        1 => prop::collection::vec(any::<char>(), 0..20).prop_map(|chars| chars.into_iter().collect()),
    ];
    Bytes => prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from),
        1 => (any::<u8>(), 4000..9000_usize).prop_map(|(byte, n)| Bytes::from(vec![byte; n])),
    ];
    Rest => Bytes::sample().prop_map(Rest);
    AppendData => Bytes::sample().prop_map(AppendData::from);
    EventFrame => Bytes::sample().prop_map(|payload| {
        let mut frame = BytesMut::new();
        crate::event::put_event(&mut frame, &payload).expect("small");
        EventFrame(frame.freeze())
    });
    TableKey => (Bytes::sample(), any::<i64>()).prop_map(|(key, version)| TableKey {
        // An empty key has no version on the wire.
        version: if key.is_empty() { TableKey::NO_VERSION } else { version },
        key,
    });
    TableValue => Bytes::sample().prop_map(TableValue);
    TableEntry => (TableKey::sample(), TableValue::sample())
        .prop_map(|(key, value)| TableEntry { key, value });
    AttributeUpdate => (AttributeId::sample(), any::<u8>(), any::<i64>(), any::<i64>()).prop_map(
        |(attribute_id, update_type, new_value, old_value)| AttributeUpdate {
            attribute_id,
            update_type,
            new_value,
            old_value,
        },
    );
    MergedSource => (String::sample(), any::<i64>())
        .prop_map(|(source, target_length)| MergedSource { source, target_length });
    StorageChunk => (any::<i64>(), any::<i64>(), any::<i64>(), String::sample(), any::<bool>()).prop_map(
        |(length_in_metadata, length_in_storage, start_offset, name, exists)| StorageChunk {
            length_in_metadata,
            length_in_storage,
            start_offset,
            name,
            exists,
        },
    );
    IteratorArgs => (Bytes::sample(), Bytes::sample(), Bytes::sample(), Bytes::sample()).prop_map(
        |(continuation_token, prefix, from_key, to_key)| IteratorArgs {
            continuation_token,
            prefix,
            from_key,
            to_key,
        },
    );
}

impl<T: Sample + std::fmt::Debug + 'static> Sample for Vec<T> {
    fn sample() -> BoxedStrategy<Self> {
        prop::collection::vec(T::sample(), 0..4).boxed()
    }
}

fn one_frame(bytes: Bytes) -> Result<RawFrame, Error> {
    let mut buffer = BytesMut::from(&bytes[..]);
    let frame = FrameDecoder::next(&mut buffer)?.expect("a whole frame");
    assert!(buffer.is_empty(), "one frame only");
    Ok(frame)
}

fn command_bytes(command: &Command) -> Bytes {
    let mut out = Encoder::default();
    command.encode(&mut out);
    out.take()
}

fn reply_bytes(reply: &Reply) -> Bytes {
    let mut out = Encoder::default();
    reply.encode(&mut out);
    out.take()
}

/// Everything an encoder holds, fetched like a socket would: a few slices, `step` bytes at a time.
fn written(mut out: Encoder, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 3];
        let filled = out.slices(&mut slices);
        let bytes: Vec<u8> = slices[..filled]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        let count = bytes.len().min(step);
        all.extend(&bytes[..count]);
        out.advance(count);
    }
    all
}

fn many_cases() -> ProptestConfig {
    // Some sixty types of frames share the cases.
    ProptestConfig::with_cases(1000)
}

proptest! {
    #![proptest_config(many_cases())]

    #[test]
    fn a_command_decodes_to_itself(command in Command::any()) {
        let bytes = command_bytes(&command);
        prop_assert_eq!(bytes.len(), command.encoded_len());
        prop_assert_eq!(Command::decode(one_frame(bytes)?), Ok(command));
    }

    #[test]
    fn a_reply_decodes_to_itself(reply in Reply::any()) {
        let bytes = reply_bytes(&reply);
        prop_assert_eq!(bytes.len(), reply.encoded_len());
        prop_assert_eq!(Reply::decode(one_frame(bytes)?), Ok(reply));
    }

    #[test]
    fn surplus_bytes_behind_the_known_fields_are_ignored(reply in Reply::any(), surplus in prop::collection::vec(any::<u8>(), 1..20)) {
        let mut frame = one_frame(reply_bytes(&reply))?;
        frame.payload = [&frame.payload[..], &surplus].concat().into();
        prop_assert_eq!(Reply::decode(frame), Ok(reply));
    }

    #[test]
    fn any_payload_is_decoded_without_panic(
        index in any::<prop::sample::Index>(),
        payload in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..80),
    ) {
        let frame = |codes: &[i32]| RawFrame { code: *index.get(codes), payload: payload.clone().into() };
        let _ = Command::decode(frame(Command::CODES));
        let _ = Reply::decode(frame(Reply::CODES));
    }

    #[test]
    fn a_damaged_frame_is_decoded_without_panic(
        command in Command::any(),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let frame = one_frame(command_bytes(&command))?;
        let mut payload = frame.payload.to_vec();
        if !payload.is_empty() {
            payload[at.index(frame.payload.len())] ^= flip;
        }
        payload.truncate(cut.index(frame.payload.len() + 1));
        let _ = Command::decode(RawFrame { payload: payload.into(), ..frame });
    }
}

proptest! {
    #[test]
    fn split_invariance(
        replies in prop::collection::vec(Reply::any(), 0..8),
        sizes in prop::collection::vec(1..60_usize, 1..30),
        step in 1..10_000_usize,
    ) {
        let mut out = Encoder::default();
        for reply in &replies {
            reply.encode(&mut out);
        }
        let bytes = written(out, step);
        let mut rest = &bytes[..];
        let (mut buffer, mut decoded) = (BytesMut::new(), Vec::new());
        for size in sizes.iter().cycle() {
            let (now, later) = rest.split_at((*size).min(rest.len()));
            rest = later;
            buffer.put_slice(now);
            while let Some(frame) = FrameDecoder::next(&mut buffer)? {
                decoded.push(Reply::decode(frame)?);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(decoded, replies);
    }

    #[test]
    fn any_bytes_are_cut_without_panic(bytes in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..200)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = FrameDecoder::next(&mut buffer) {
            let _ = Command::decode(frame.clone());
            let _ = Reply::decode(frame);
        }
    }

    #[test]
    fn any_append_block_is_joined_without_panic(
        data in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..60),
        tail in prop::collection::vec(any::<u8>(), 0..4),
        whole in -1..70,
        num_events in 0..2,
    ) {
        let end = end(whole, tail.into(), num_events);
        let block = AppendBlock { writer_id: WriterId(1), data: Rest(data.into()) };
        if let Ok(append) = join(Some(block.clone()), end.clone()) {
            prop_assert!(append.len() <= block.data.0.len() + end.data.len());
            prop_assert!(append.len() >= usize::try_from(whole).unwrap());
        }
    }

    #[test]
    fn strings_go_through_modified_utf8_unchanged(text in ".*") {
        let mut out = Encoder::default();
        text.put(&mut out);
        prop_assert_eq!(out.len(), text.size());
        let mut bytes = out.take();
        prop_assert!(!bytes[2..].contains(&0));
        prop_assert_eq!(String::get(&mut bytes), Ok(text));
        prop_assert!(bytes.is_empty());
    }
}

fn end(size_of_whole_events: i32, data: Bytes, num_events: i32) -> AppendBlockEnd {
    AppendBlockEnd {
        writer_id: WriterId(1),
        size_of_whole_events,
        data: data.into(),
        num_events,
        last_event_number: 1,
        request_id: 1,
    }
}

fn header(code: i32, length: i32) -> BytesMut {
    let mut buffer = BytesMut::new();
    buffer.put_i32(code);
    buffer.put_i32(length);
    buffer
}

#[test]
fn a_whole_frame_has_at_most_two_to_the_24_minus_one_bytes() {
    for length in [0x00FF_FFFF - 8 + 1, 0x00FF_FFFF, i32::MAX, -1, i32::MIN] {
        let refused = FrameDecoder::next(&mut header(9, length));
        assert_eq!(refused, Err(Error::Length { code: 9, length }));
    }
    let mut largest = header(-1, 0x00FF_FFFF - 8);
    assert_eq!(FrameDecoder::next(&mut largest), Ok(None));
    largest.put_bytes(7, 0x00FF_FFFF - 8);
    let frame = FrameDecoder::next(&mut largest)
        .expect("in bounds")
        .expect("whole");
    assert_eq!(frame.payload.len(), PAYLOAD_MAX);
    assert!(largest.is_empty());
}

#[test]
fn a_frame_that_claims_much_and_sends_little_reserves_nothing() {
    let mut buffer = header(4, PAYLOAD_MAX as i32);
    buffer.put_bytes(0, 100);
    assert_eq!(FrameDecoder::next(&mut buffer), Ok(None));
    assert!(buffer.capacity() <= 64 * 1024, "{}", buffer.capacity());
}

#[test]
fn a_list_that_claims_much_and_holds_little_is_refused_unread() {
    fn claim<T: Field + std::fmt::Debug + PartialEq>(what: &str) {
        let mut bytes = header(i32::MAX, 0).freeze();
        assert_eq!(Vec::<T>::get(&mut bytes), Err(FieldError::Short), "{what}");
        let mut bytes = header(-1, 0).freeze();
        assert_eq!(
            Vec::<T>::get(&mut bytes),
            Err(FieldError::Invalid("count")),
            "{what}"
        );
    }
    claim::<String>("names");
    claim::<i64>("numbers");
    claim::<TableKey>("keys");
    claim::<TableEntry>("entries");
    claim::<AttributeUpdate>("updates");
}

#[test]
fn a_list_of_very_many_tiny_elements_is_refused_before_they_are_made() {
    let list = |count: usize| {
        let mut bytes = BytesMut::new();
        bytes.put_i32(count as i32);
        bytes.put_bytes(0, 2 * count);
        Vec::<String>::get(&mut bytes.freeze())
    };
    assert_eq!(list(ELEMENTS_MAX).map(|list| list.len()), Ok(ELEMENTS_MAX));
    let refused = Err(FieldError::Invalid("count"));
    assert_eq!(list(ELEMENTS_MAX + 1), refused);
}

#[test]
fn a_type_that_the_side_may_not_receive_is_unknown() {
    let frame = |code| RawFrame {
        code,
        payload: Bytes::from_static(&[0; 64]),
    };
    for code in [0, -2, 2, 10, 41 + 1, 72, 73, 99, i32::MAX] {
        assert_eq!(Command::decode(frame(code)), Err(Error::Unknown(code)));
    }
    for code in [0, -2, 1, 3, 4, 9, 41, 99] {
        assert_eq!(Reply::decode(frame(code)), Err(Error::Unknown(code)));
    }
}

#[test]
fn a_string_has_javas_form() {
    let mut out = Encoder::default();
    "\0é😀".to_owned().put(&mut out);
    assert_eq!(
        &out.take()[..],
        b"\0\x0a\xc0\x80\xc3\xa9\xed\xa0\xbd\xed\xb8\x80"
    );
}

#[test]
fn a_string_of_four_byte_characters_is_read_and_a_half_one_refused() {
    let read = |raw: &[u8]| {
        let bytes = [&(raw.len() as u16).to_be_bytes(), raw].concat();
        String::get(&mut bytes.into())
    };
    assert_eq!(read("a😀".as_bytes()), Ok("a😀".to_owned()));
    for raw in [
        &b"\xc3"[..],
        b"\xed\xa0\xbd",
        b"\xff",
        b"\x80",
        b"\xe0\x80",
        b"\xc3a",
    ] {
        assert_eq!(read(raw), Err(FieldError::Invalid("string")), "{raw:x?}");
    }
}

#[test]
fn a_string_longer_than_its_length_field_is_cut_behind_a_whole_character() {
    // A client may send this name; in our form it does not fit.
    let name = "😀".repeat(16_383);
    let reply = Reply::from(NoSuchSegment {
        request_id: 1,
        segment: name.clone(),
        stack_trace: String::new(),
        offset: -1,
    });
    let bytes = reply_bytes(&reply);
    assert_eq!(bytes.len(), reply.encoded_len());
    let decoded = Reply::decode(one_frame(bytes).expect("a frame"));
    let Ok(Reply::NoSuchSegment(decoded)) = decoded else {
        panic!("{decoded:?}");
    };
    assert_eq!(decoded.segment.chars().count(), 65_535 / 6);
    assert!(name.starts_with(&decoded.segment));
    assert_eq!("a".repeat(70_000).size(), 2 + 65_535);
}

#[test]
fn an_empty_table_key_has_no_version_on_the_wire() {
    let key = TableKey {
        key: Bytes::new(),
        version: TableKey::NO_VERSION,
    };
    let mut out = Encoder::default();
    key.put(&mut out);
    let mut bytes = out.take();
    assert_eq!(&bytes[..], [0, 0, 0, 12, 0, 0, 0, 0]);
    assert_eq!(TableKey::get(&mut bytes), Ok(key));
}

#[test]
fn a_table_key_or_value_whose_sizes_disagree_is_refused() {
    let mut key = Bytes::from_static(b"\0\0\0\x0e\0\0\0\x01kvvvvvvvv");
    assert_eq!(
        TableKey::get(&mut key),
        Err(FieldError::Invalid("key size"))
    );
    let mut value = Bytes::from_static(b"\0\0\0\x04\0\0\0\x01v");
    assert_eq!(
        TableValue::get(&mut value),
        Err(FieldError::Invalid("value size"))
    );
}

#[test]
fn iterator_arguments_may_end_after_any_of_them() {
    let all = IteratorArgs {
        continuation_token: Bytes::from_static(b"t"),
        prefix: Bytes::new(),
        from_key: Bytes::from_static(b"a"),
        to_key: Bytes::from_static(b"z"),
    };
    let mut out = Encoder::default();
    all.put(&mut out);
    let bytes = out.take();
    let read = |n: usize| IteratorArgs::get(&mut bytes.slice(..n)).expect("arguments");
    assert_eq!(read(0), IteratorArgs::default());
    assert_eq!(read(5).continuation_token, "t");
    assert_eq!(
        read(9),
        IteratorArgs {
            from_key: Bytes::new(),
            to_key: Bytes::new(),
            ..all.clone()
        }
    );
    assert_eq!(
        read(14),
        IteratorArgs {
            to_key: Bytes::new(),
            ..all.clone()
        }
    );
    assert_eq!(read(16), read(14));
    assert_eq!(read(bytes.len()), all);
}

#[test]
fn optional_fields_may_be_missing_but_not_half_there() {
    let command = Command::from(AppendBlockEnd {
        request_id: -1,
        ..end(0, Bytes::new(), 1)
    });
    let frame = one_frame(command_bytes(&command)).expect("a frame");
    let cut = |n: usize| {
        let payload = frame.payload.slice(..frame.payload.len() - n);
        Command::decode(RawFrame {
            payload,
            ..frame.clone()
        })
    };
    assert_eq!(cut(8), Ok(command.clone()));
    let short = Err(Error::Short {
        command: "AppendBlockEnd",
    });
    assert_eq!(cut(4), short);
    assert_eq!(cut(9), short);
}

#[test]
fn large_payloads_leave_by_reference() {
    let data = Bytes::from(vec![1; 100_000]);
    let mut out = Encoder::default();
    Command::from(end(0, data.clone(), 1)).encode(&mut out);
    Command::from(DeleteSegment {
        request_id: 1,
        segment: "s".into(),
        token: String::new(),
    })
    .encode(&mut out);
    let mut slices = [IoSlice::new(&[]); 4];
    assert_eq!(out.slices(&mut slices), 3);
    assert_eq!(slices[1].as_ptr(), data.as_ptr());
    let step = written(out, 33);
    let mut buffer = BytesMut::from(&step[..]);
    let mut count = 0;
    while FrameDecoder::next(&mut buffer).expect("frames").is_some() {
        count += 1;
    }
    assert_eq!(count, 2);
}

mod append_blocks {
    use super::*;

    fn block(data: &'static [u8]) -> Option<AppendBlock> {
        Some(AppendBlock {
            writer_id: WriterId(1),
            data: Rest(Bytes::from_static(data)),
        })
    }

    fn joined(block: Option<AppendBlock>, end: &AppendBlockEnd) -> Result<Vec<u8>, Error> {
        join(block, end.clone()).map(|append| append.pieces().flatten().copied().collect())
    }

    #[test]
    fn an_end_alone_is_an_append() {
        let end = end(999, Bytes::from_static(b"abc"), 1);
        assert_eq!(joined(None, &end), Ok(b"abc".to_vec()));
    }

    #[test]
    fn pieces_leave_as_one_field_and_are_taken_across_their_borders() {
        let pieces = [&b"ab"[..], b"", b"cde", b"f"].map(Bytes::from_static);
        let mut data: AppendData = pieces.into_iter().collect();
        let mut out = Encoder::default();
        data.put(&mut out);
        assert_eq!((out.len(), data.size()), (10, 10));
        assert_eq!(
            AppendData::get(&mut out.take()),
            Ok(Bytes::from("abcdef").into())
        );
        for taken in ["a", "bcd", "", "ef"] {
            assert_eq!(data.split_to(taken.len()), taken);
        }
        assert!(data.is_empty());
    }

    #[test]
    fn a_split_event_is_put_together() {
        let end = end(2, Bytes::from_static(b"ef"), 2);
        let bytes = joined(block(b"ab\xff\xff\xff\xfe\0\0\0\x02cd"), &end);
        assert_eq!(bytes, Ok(b"abcdef".to_vec()));
    }

    #[test]
    fn padding_is_left_out() {
        for padded in [
            &b"ab"[..],
            b"ab\xff\xff\xff\xff\0\0\0\0",
            b"ab\xff\xff\xff\xff\0\0\0\x03\0\0\0",
        ] {
            assert_eq!(
                joined(block(padded), &end(2, Bytes::new(), 1)),
                Ok(b"ab".to_vec())
            );
        }
    }

    #[test]
    fn an_empty_append_is_legal() {
        let append = join(block(b""), end(0, Bytes::new(), 1)).expect("legal");
        assert_eq!((append.is_empty(), append.len()), (true, 0));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let data = Bytes::from_static(b"x");
        let refused = [
            (block(b"ab"), end(2, Bytes::new(), 0), "no events"),
            (
                block(b"ab"),
                end(3, Bytes::new(), 1),
                "outside of the block",
            ),
            (
                block(b"ab"),
                end(-1, Bytes::new(), 1),
                "outside of the block",
            ),
            (block(b"abc"), end(2, Bytes::new(), 1), "no frame"),
            (
                block(b"ab"),
                end(2, data.clone(), 1),
                "behind a padded block",
            ),
            (
                block(b"ab\xff\xff\xff\xff\0\0\0\0"),
                end(2, data, 1),
                "behind a padded block",
            ),
            (
                block(b"ab\xff\xff\xff\xfe\0\0\0\x01"),
                end(2, Bytes::new(), 1),
                "no padding",
            ),
            (
                block(b"ab\0\0\0\0\0\0\0\0"),
                end(2, Bytes::new(), 1),
                "no padding",
            ),
            (
                block(b"ab"),
                AppendBlockEnd {
                    writer_id: WriterId(2),
                    ..end(2, Bytes::new(), 1)
                },
                "another writer",
            ),
        ];
        for (block, end, why) in refused {
            let error = joined(block, &end).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn pieces_are_not_copied() {
        let data = Bytes::from(vec![0; 64]);
        let block = AppendBlock {
            writer_id: WriterId(1),
            data: Rest(data.clone()),
        };
        let append = join(Some(block), end(64, Bytes::new(), 1)).expect("legal");
        assert_eq!(append.pieces().next().unwrap().as_ptr(), data.as_ptr());
        assert_eq!(append.len(), 64);
    }
}
