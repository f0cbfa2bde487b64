use proptest::prelude::*;

use super::*;

#[test]
fn names_that_may_be_created_are_taken() {
    for text in ["a", "A-1.b", "_RGgroup", "_MARKs", "...", "a..b", "-"] {
        assert_eq!(
            StreamName::new(text).map(|name| name.to_string()),
            Ok(text.to_owned())
        );
    }
    assert!(ScopeName::new("x".repeat(255)).is_ok());
}

#[test]
fn names_that_may_not_be_created_are_refused_and_the_error_says_why() {
    let refused = [
        ("", "stream name is empty"),
        (".", "stream name must not be \".\""),
        ("..", "stream name must not be \"..\""),
        ("_", "\"_\" is not of the form _NAME"),
        ("a/b", "contains '/'"),
        ("a b", "contains ' '"),
        ("a\0", "contains '\\0'"),
        ("a_b", "contains '_'"),
        ("__a", "contains '_'"),
        ("é", "contains 'é'"),
        ("a#epoch", "contains '#'"),
    ];
    for (text, why) in refused {
        let error = StreamName::new(text).expect_err(text).to_string();
        assert!(error.contains(why), "{error}");
    }
    let error = ScopeName::new("x".repeat(256)).expect_err("too long");
    assert_eq!(
        error.to_string(),
        "scope name has 256 bytes, at most 255 are allowed"
    );
}

#[test]
fn names_that_occur_may_have_underscores_but_no_way_out() {
    assert!(StreamName::occurring("t_kvtable").is_ok());
    let longest = StreamName::new("x".repeat(255)).expect("a name");
    assert!(StreamName::occurring(longest.mark().as_str()).is_ok());
    assert!(StreamName::occurring(StreamName::of_table(&longest).as_str()).is_ok());
    for text in ["", ".", "..", "a/b", "a b", "a\0b", "a#b", "a\n"] {
        assert!(StreamName::occurring(text).is_err(), "{text:?}");
    }
}

#[test]
fn reserved_names_are_recognised() {
    let name = StreamName::new("x").expect("a name");
    assert_eq!(name.mark().marked(), Some("x"));
    assert_eq!(StreamName::of_reader_group(&name).reader_group(), Some("x"));
    assert_eq!(StreamName::of_table(&name).table(), Some("x"));
    assert!(name.mark().is_internal() && !name.is_internal());
    assert_eq!(name.marked().or(name.reader_group()).or(name.table()), None);
}

#[test]
fn segment_names_have_the_protocols_text_form() {
    let segment: StreamSegment = "scope/stream/3.#epoch.4".parse().expect("a segment");
    assert_eq!((segment.id.number(), segment.id.epoch()), (3, 4));
    let transaction = TransactionId::from_parts(0x4_0000_0001, -2);
    assert_eq!(transaction.epoch(), 4);
    assert_eq!(
        segment.transaction(transaction).to_string(),
        "scope/stream/3.#epoch.4#transaction.0000000400000001fffffffffffffffe"
    );
    assert_eq!(
        "scope/stream/3"
            .parse::<StreamSegment>()
            .expect("no epoch")
            .id,
        SegmentId::new(0, 3)
    );
}

#[test]
fn texts_that_are_no_segment_names_are_refused() {
    for text in [
        "",
        "/",
        "a",
        "a/b",
        "a/b/",
        "a/b/x",
        "a/b/01",
        "a/b/+1",
        "a/b/-1",
        "a/b/1.#epoch.",
        "a/b/1.#epoch.x",
        "a/b/2147483648",
        "a/b/1.#epoch.2147483648",
        "a/b/c/1",
        "/b/1",
        "a//1",
        "../b/1",
        "a/b/1.#epoch.0#transaction.0",
        "a/b/1.#epoch.0#transaction.0000000400000001FFFFFFFFFFFFFFFE",
        "a/b/1.#epoch.0#transaction.0000000400000001fffffffffffffffe0",
    ] {
        assert!(text.parse::<SegmentName>().is_err(), "{text:?}");
    }
}

#[test]
fn a_segment_its_transactions_and_its_namesakes_of_other_epochs_have_one_primary_name() {
    let id = "00112233445566778899aabbccddeeff";
    for text in [
        "s/t/7".to_owned(),
        "s/t/7.#epoch.0".to_owned(),
        "s/t/7.#epoch.12".to_owned(),
        format!("s/t/7.#epoch.4#transaction.{id}"),
        format!("s/t/7.#epoch.4#transient.{id}.{id}"),
    ] {
        assert_eq!(primary(&text), "s/t/7", "{text}");
    }
    assert_eq!(primary("s/t_kvtable/0.#epoch.0"), "s/t_kvtable/0");
    assert_eq!(primary("_system/a/0.#epoch.0"), "_system/a/0.#epoch.0");
    assert_eq!(primary("_systematic/a/0.#epoch.0"), "_systematic/a/0");
    assert_eq!(primary("s/t/7#transaction.1"), "s/t/7#transaction.1");
    assert_eq!(primary("any text"), "any text");
}

fn part() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}"
}

fn segment() -> impl Strategy<Value = StreamSegment> {
    (part(), part(), 0..=i32::MAX, 0..=i32::MAX).prop_map(|(scope, stream, epoch, number)| {
        let scope = ScopeName::occurring(scope).expect("a name");
        let stream = StreamName::occurring(stream).expect("a name");
        ScopedStream { scope, stream }.segment(SegmentId::new(epoch, number))
    })
}

fn any_segment() -> impl Strategy<Value = SegmentName> {
    (segment(), any::<u128>(), any::<u128>(), 0..3).prop_map(|(parent, a, b, kind)| match kind {
        0 => SegmentName::Stream(parent),
        1 => parent.transaction(TransactionId(a)),
        _ => SegmentName::Transient {
            parent,
            writer: WriterId(a),
            nonce: b,
        },
    })
}

proptest! {
    #[test]
    fn a_printed_segment_name_parses_to_itself(name in any_segment()) {
        let text = name.to_string();
        prop_assert_eq!(text.parse::<SegmentName>(), Ok(name.clone()));
        prop_assert_eq!(is_transaction(&text), matches!(name, SegmentName::Transaction { .. }));
        prop_assert_eq!(is_transient(&text), matches!(name, SegmentName::Transient { .. }));
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "\\PC{0,80}") {
        let _ = text.parse::<SegmentName>();
        let _ = text.parse::<ScopedStream>();
        prop_assert!(text.starts_with(primary(&text)));
    }

    #[test]
    fn segment_like_text_is_parsed_without_panic(text in "(a|/|1|\\.#epoch\\.|#transaction\\.|#transient\\.|0{16}|é){0,12}") {
        if let Ok(name) = text.parse::<SegmentName>() {
            prop_assert_eq!(name.to_string().parse::<SegmentName>(), Ok(name));
        }
        let _ = primary(&text);
    }
}
