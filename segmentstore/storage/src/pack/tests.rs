//! Packs written and read back, and what a writer refuses; `damage` has what a reader refuses.

mod damage;

use bytes::Bytes;
use proptest::prelude::*;

use super::writer::Limits;
use super::*;
use crate::names::PackNumber;

/// Segment, offset and data of a run.
type Piece = (u64, u64, Vec<u8>);

fn name() -> PackName {
    PackName::new(7, PackNumber { epoch: 3, n: 5 }).unwrap()
}

fn small() -> Vec<Piece> {
    vec![
        (1, 0, b"abc".to_vec()),
        (1, 3, b"de".to_vec()),
        (9, 1000, b"fghij".to_vec()),
    ]
}

fn written(pieces: &[Piece]) -> WrittenPack {
    let mut writer = PackWriter::new(name(), Kind::Shared, 10..=20).unwrap();
    for (segment, offset, data) in pieces {
        writer
            .add(*segment, *offset, &[Bytes::copy_from_slice(data)])
            .unwrap();
    }
    writer.finish().unwrap()
}

fn object(pieces: &[Piece]) -> Vec<u8> {
    written(pieces).parts.concat()
}

/// Reads a pack as a user would: footer, index, every run.
fn read(object: &[u8]) -> Result<(Footer, Vec<Piece>), Error> {
    let tail = &object[object.len().saturating_sub(FOOTER_BYTES)..];
    let footer = Footer::decode(name(), object.len() as u64, tail)?;
    let index = Index::decode(&footer, part(object, footer.index_range()))?;
    let mut pieces = Vec::new();
    for run in index.runs() {
        let data = part(object, run.range());
        run.check(name(), data)?;
        pieces.push((run.segment, run.offset, data.to_vec()));
    }
    Ok((footer, pieces))
}

fn part(object: &[u8], range: Range<u64>) -> &[u8] {
    &object[range.start as usize..range.end as usize]
}

#[test]
fn what_is_written_is_read_back() {
    let (footer, pieces) = read(&object(&small())).unwrap();
    assert_eq!(pieces, small());
    assert_eq!((footer.name, footer.kind), (name(), Kind::Shared));
    assert_eq!((footer.first_seq, footer.last_seq), (10, 20));
}

#[test]
fn the_writer_says_what_the_index_says() {
    let pack = written(&small());
    let object = pack.parts.concat();
    let footer = Footer::decode(name(), pack.len, &object).unwrap();
    let index = Index::decode(&footer, part(&object, footer.index_range())).unwrap();
    assert_eq!(index.runs(), pack.runs);
    assert_eq!(pack.len, object.len() as u64);
}

#[test]
fn every_kind_is_read_back() {
    for kind in Kind::ALL {
        let mut writer = PackWriter::new(name(), kind, 0..=0).unwrap();
        writer.add(1, 0, &[Bytes::from_static(b"x")]).unwrap();
        assert_eq!(
            read(&writer.finish().unwrap().parts.concat())
                .unwrap()
                .0
                .kind,
            kind
        );
    }
}

#[test]
fn a_run_of_many_pieces_is_one_run() {
    let mut writer = PackWriter::new(name(), Kind::Shared, 10..=20).unwrap();
    for (segment, offset, data) in small() {
        let pieces: Vec<_> = data.chunks(1).map(Bytes::copy_from_slice).collect();
        writer
            .add(segment, offset, &[vec![Bytes::new()], pieces].concat())
            .unwrap();
    }
    assert_eq!(writer.finish().unwrap().parts.concat(), object(&small()));
}

#[test]
fn runs_out_of_order_are_refused_and_the_writer_goes_on() {
    let mut writer = PackWriter::new(name(), Kind::Shared, 10..=20).unwrap();
    let mut add =
        |segment, offset, data: &[u8]| writer.add(segment, offset, &[Bytes::copy_from_slice(data)]);
    assert_eq!(
        add(1, 0, b""),
        Err(Error::EmptyRun {
            segment: 1,
            offset: 0
        })
    );
    add(1, 0, b"abc").unwrap();
    for (segment, offset) in [(1, 2), (1, 0), (0, 100)] {
        let refused = Error::OutOfOrder {
            segment,
            offset,
            last_segment: 1,
            last_end: 3,
        };
        assert_eq!(add(segment, offset, b"zz"), Err(refused));
    }
    add(1, 3, b"de").unwrap();
    let too_long = Error::RunTooLong {
        segment: 9,
        offset: u64::MAX - 1,
        len: 2,
    };
    assert_eq!(add(9, u64::MAX - 1, b"zz"), Err(too_long));
    add(9, 1000, b"fghij").unwrap();
    assert_eq!(writer.finish().unwrap().parts.concat(), object(&small()));
}

#[test]
fn runs_given_together_make_the_same_pack_and_are_refused_together() {
    let together = |writer: &mut PackWriter, pieces: &[Piece]| {
        let run = |(segment, offset, data): &Piece| (*segment, *offset, data.len() as u32);
        let runs: Vec<_> = pieces.iter().map(run).collect();
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.2.clone()).collect();
        writer.add_all(&runs, bytes.into())
    };
    let begin = || PackWriter::new(name(), Kind::Shared, 10..=20).unwrap();
    let mut writer = begin();
    together(&mut writer, &small()).unwrap();
    assert_eq!(writer.finish().unwrap().parts.concat(), object(&small()));

    let mut writer = begin();
    let more = [(9, 1005, vec![7; 3]), (10, 0, vec![8; 300 << 10])];
    let wrong = [more.clone(), [(9, 1008, vec![1]), (9, 1009, vec![2])]].concat();
    together(&mut writer, &small()).unwrap();
    let refused = together(&mut writer, &wrong);
    assert!(
        matches!(refused, Err(Error::OutOfOrder { .. })),
        "{refused:?}"
    );
    together(&mut writer, &more).unwrap();
    let mut expected = begin();
    for (segment, offset, data) in [&small()[..], &more].concat() {
        expected.add(segment, offset, &[data.into()]).unwrap();
    }
    let [given, expected] = [writer, expected].map(|writer| writer.finish_with_blocks().unwrap());
    assert_eq!(given.parts.concat(), expected.parts.concat());
    assert_eq!(given.runs, expected.runs);
}

#[test]
fn a_full_pack_says_so_and_can_be_finished() {
    let full = |limits| {
        let mut writer = PackWriter::with_limits(name(), Kind::Shared, 0..=9, limits).unwrap();
        let ten = [Bytes::from_static(b"0123456789")];
        writer.add(1, 0, &ten).unwrap();
        writer.add(2, 0, &ten).unwrap();
        let refused = Error::Full {
            pack: name(),
            runs: 2,
            len: 10,
        };
        assert_eq!(writer.add(3, 0, &ten), Err(refused));
        let pack = writer.finish().unwrap();
        assert_eq!(read(&pack.parts.concat()).unwrap().1.len(), 2);
        pack.len
    };
    assert_eq!(
        full(Limits {
            object_bytes: 1000,
            runs: 2
        }),
        148
    );
    assert_eq!(
        full(Limits {
            object_bytes: 148,
            runs: 9
        }),
        148
    );
    assert_eq!(
        full(Limits {
            object_bytes: 189,
            runs: 9
        }),
        148
    );
    let limits = Limits {
        object_bytes: 105,
        runs: 9,
    };
    let mut writer = PackWriter::with_limits(name(), Kind::Shared, 0..=9, limits).unwrap();
    let too_long = Error::RunTooLong {
        segment: 1,
        offset: 0,
        len: 10,
    };
    assert_eq!(
        writer.add(1, 0, &[Bytes::from_static(b"0123456789")]),
        Err(too_long)
    );
    writer
        .add(1, 0, &[Bytes::from_static(b"012345678")])
        .unwrap();
    assert_eq!(writer.object_len(), 105);
}

#[test]
fn a_pack_of_nothing_is_refused() {
    let writer = PackWriter::new(name(), Kind::Shared, 3..=3).unwrap();
    assert_eq!(writer.finish().unwrap_err(), Error::Empty(name()));
    let (first, last) = (3, 2);
    let refused = PackWriter::new(name(), Kind::Shared, first..=last).unwrap_err();
    assert_eq!(refused, Error::NoOperations { first, last });
}

/// Runs in order: gaps of 0 to 3 between those of a segment, segments 1 to 3 apart.
fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let data = prop::collection::vec(any::<u8>(), 1..40);
    let step = (0..3u64, 0..4u64, data);
    (any::<u32>(), prop::collection::vec(step, 1..20)).prop_map(|(start, steps)| {
        let (mut segment, mut end) = (0, u64::from(start));
        let mut pieces = Vec::new();
        for (next, gap, data) in steps {
            segment += next;
            let offset = if next == 0 { end + gap } else { gap };
            end = offset + data.len() as u64;
            pieces.push((segment, offset, data));
        }
        pieces
    })
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_back(pieces in pieces()) {
        prop_assert_eq!(read(&object(&pieces)).unwrap().1, pieces);
    }

    #[test]
    fn a_byte_is_found_in_its_run_and_nowhere_else(pieces in pieces()) {
        let object = object(&pieces);
        let footer = Footer::decode(name(), object.len() as u64, &object).unwrap();
        let index = Index::decode(&footer, part(&object, footer.index_range())).unwrap();
        for (segment, around, _) in &pieces {
            for offset in around.saturating_sub(5)..around + 45 {
                let wanted = pieces.iter().find_map(|(sid, start, data)| {
                    let at = offset.checked_sub(*start)?;
                    (sid == segment).then(|| data.get(at as usize)).flatten()
                });
                let found = index.find(*segment, offset);
                let found = found.map(|run| &object[(run.pos + offset - run.offset) as usize]);
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
