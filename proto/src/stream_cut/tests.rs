use proptest::prelude::*;

use super::*;

/// Made by the official Java client.
const TEXT: &str = "H4sIAAAAAAAA/zOwKk7OL0jVLy4pSk3MtTLQMQJiQytDAwMdXUMA+Y/JIR0AAAA=";
const BYTES: &[u8] =
    b"\0\x01\x01\0\0\0\0\x1b\0\x0cscope/stream\x02\0\x20\x64\xc0\0\0\x01\0\0\0\x02\x80";

fn example() -> StreamCut {
    let stream = "scope/stream".parse().expect("a stream");
    StreamCut::from_raw(stream, [(0, 100), (1 << 32 | 2, -1)]).expect("a cut")
}

fn compressed(plain: &str) -> String {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(plain.as_bytes()).expect("memory");
    STANDARD.encode(out.finish().expect("memory"))
}

#[test]
fn the_java_clients_forms_are_read() {
    assert_eq!(StreamCut::from_text(TEXT), Ok(Some(example())));
    assert_eq!(StreamCut::from_bytes(BYTES), Ok(Some(example())));
}

#[test]
fn the_java_clients_bytes_are_written() {
    assert_eq!(example().to_bytes().as_deref(), Ok(BYTES));
    assert_eq!(example().to_plain(), "0:scope/stream:0,2:0,1:100,-1");
}

#[test]
fn no_position_has_forms_of_its_own() {
    assert_eq!(StreamCut::from_text(UNBOUNDED), Ok(None));
    assert_eq!(StreamCut::from_bytes(&[]), Ok(None));
}

#[test]
fn the_first_version_of_the_bytes_is_read() {
    let bytes = b"\0\0\x01\0\0\0\0\x0b\0\x03a/b\x01\0\xc0\0\0\0\0\0\0\x05";
    let mut bytes = bytes.to_vec();
    bytes[7] = (bytes.len() - 8) as u8;
    let cut = StreamCut::from_bytes(&bytes)
        .expect("a cut")
        .expect("bounded");
    assert_eq!(
        cut.positions,
        [(SegmentId(0), SegmentPosition::At(Offset(5)))].into()
    );
}

#[test]
fn texts_that_are_no_cuts_are_refused() {
    let refused = [
        ("", "not gzip"),
        ("?", "not base64"),
        ("AAAA", "not gzip"),
        (&compressed("0:a/b:1:1"), "not five parts"),
        (&compressed("0:a/b:1:1:1:1"), "not five parts"),
        (&compressed("1:a/b:1:1:1"), "unknown version"),
        (&compressed("0:a:1:1:1"), "scope/stream"),
        (&compressed("0:a/b:1,2:1:1"), "different lengths"),
        (&compressed("0:a/b:x:1:1"), "not a number"),
        (&compressed("0:a/b:-1:1:1"), "segment"),
        (&compressed("0:a/b:1:-1:1"), "segment"),
        (&compressed("0:a/b:1:1:-2"), "offset -2"),
        (&compressed("0:a/b:1,1:1,1:1,2"), "twice"),
    ];
    for (text, why) in refused {
        let error = StreamCut::from_text(text).expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_small_text_that_unpacks_to_a_huge_one_is_refused() {
    let bomb = compressed(&"0".repeat(TEXT_BYTES_MAX + 1));
    assert!(bomb.len() < 10_000);
    assert_eq!(StreamCut::from_text(&bomb), Err(CutError::Long));
}

#[test]
fn a_claimed_count_reserves_nothing() {
    let bytes = b"\0\x01\x01\0\0\0\0\x09\0\x03a/b\xff\xff\xff\xff";
    let error = StreamCut::from_bytes(bytes).expect_err("nothing behind the count");
    assert_eq!(error, CutError::Form("a count beyond its end"));
}

#[test]
fn numbers_without_room_in_the_bytes_are_refused() {
    let with = |id, offset| {
        let stream = "s/t".parse().expect("a stream");
        StreamCut::from_raw(stream, [(id, offset)])
            .expect("a cut")
            .to_bytes()
    };
    assert!(with((1 << 62) - 1 - (1 << 31), (1 << 61) - 1).is_ok());
    assert_eq!(with(1 << 62, 0), Err(CutError::Segment(1 << 62)));
    assert_eq!(with(0, 1 << 61), Err(CutError::Position(1 << 61)));
}

#[test]
fn the_end_of_a_segment_is_behind_every_offset() {
    assert!(SegmentPosition::End > SegmentPosition::At(Offset(i64::MAX as u64)));
    assert_eq!(SegmentPosition::from_raw(-2), None);
}

fn cut() -> impl Strategy<Value = StreamCut> {
    let id = prop_oneof![0..5_i32, 60..70, 8190..8200, 0..=i32::MAX];
    let offset = prop_oneof![
        -1..40_i64,
        8000..20_000_i64,
        0x1FFF_FF00..0x4000_0100_i64,
        0..1_i64 << 61
    ];
    prop::collection::btree_map((id.clone(), id), offset, 0..200).prop_map(|positions| {
        let raw = positions
            .into_iter()
            .map(|((epoch, number), offset)| (SegmentId::new(epoch, number).0, offset));
        let raw: Vec<_> = raw.filter(|(id, _)| *id < 1 << 62).collect();
        StreamCut::from_raw("s/t".parse().expect("a stream"), raw).expect("a cut")
    })
}

proptest! {
    #[test]
    fn both_forms_give_the_cut_back(cut in cut()) {
        prop_assert_eq!(StreamCut::from_text(&cut.to_text()), Ok(Some(cut.clone())));
        prop_assert_eq!(StreamCut::from_bytes(&cut.to_bytes().expect("small numbers")), Ok(Some(cut)));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), start in 0..BYTES.len()) {
        let _ = StreamCut::from_bytes(&bytes);
        let _ = StreamCut::from_text(&STANDARD.encode(&bytes));
        let mut damaged = BYTES.to_vec();
        damaged.truncate(start);
        damaged.extend(bytes);
        let _ = StreamCut::from_bytes(&damaged);
    }
}
