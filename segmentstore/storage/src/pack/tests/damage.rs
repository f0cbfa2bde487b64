//! Every way to damage a small pack, and forged ones whose checksums are right.

use super::*;
use crate::error::{Damage, Part};

/// Puts `bytes` at `at` of the footer and makes its checksum fit again.
fn forge_footer(object: &mut [u8], at: usize, bytes: &[u8]) {
    let footer = object.last_chunk_mut::<FOOTER_BYTES>().unwrap();
    footer[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&footer[..FOOTER_CRC_AT]);
    footer[FOOTER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// Makes an object of `data` and `runs`, sound or not, with right checksums of index and footer.
fn forged(data: &[u8], runs: &[Run]) -> Vec<u8> {
    let mut object = data.to_vec();
    runs.iter().for_each(|run| run.encode(&mut object));
    let footer = Footer {
        name: name(),
        kind: Kind::Shared,
        first_seq: 1,
        last_seq: 1,
        index_pos: data.len() as u64,
        index_len: (runs.len() * ENTRY_BYTES) as u32,
        index_crc: crc32c(&object[data.len()..]),
    };
    object.extend(footer.encode());
    object
}

fn damage(result: Result<(Footer, Vec<Piece>), Error>) -> (u64, Damage) {
    match result {
        Err(Error::Damaged { at, damage, .. }) => (at, damage),
        other => panic!("not found damaged: {other:?}"),
    }
}

#[test]
fn every_flipped_bit_is_noticed_and_its_place_begins_no_later() {
    let object = object(&small());
    for bit in 0..object.len() * 8 {
        let mut flipped = object.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (at, _) = damage(read(&flipped));
        assert!(at <= (bit / 8) as u64, "bit {bit} is said to be at {at}");
    }
}

#[test]
fn every_cut_and_every_added_byte_is_noticed() {
    let object = object(&small());
    for len in 0..object.len() {
        damage(read(&object[..len]));
        damage(read(&object[object.len() - len..]));
    }
    for byte in [0, b'S', 0xff] {
        damage(read(&[&object[..], &[byte]].concat()));
        damage(read(&[&[byte], &object[..]].concat()));
    }
}

#[test]
fn reads_of_another_length_are_refused() {
    let object = object(&small());
    let len = object.len() as u64;
    let short = |result: Result<(), Error>| matches!(result, Err(Error::WrongLength { .. }));
    for tail in [&object[..0], &object[1..FOOTER_BYTES], &[0; 1000]] {
        assert!(short(Footer::decode(name(), len, tail).map(drop)));
    }
    let footer = Footer::decode(name(), len, &object).unwrap();
    let bytes = part(&object, footer.index_range());
    assert!(short(Index::decode(&footer, &bytes[1..]).map(drop)));
    assert!(short(
        Index::decode(&footer, &object[footer.index_pos as usize..]).map(drop)
    ));
    let run = Index::decode(&footer, bytes).unwrap().runs()[0];
    assert!(short(run.check(name(), b"ab")));
    assert!(short(run.check(name(), b"abcd")));
}

#[test]
fn an_index_that_is_larger_than_the_object_is_refused_by_the_footer() {
    let object = object(&small());
    let max = (RUNS_MAX * ENTRY_BYTES) as u32;
    for len in [
        0,
        31,
        33,
        32,
        64,
        128,
        max,
        max + 32,
        u32::MAX - 31,
        u32::MAX,
    ] {
        let mut forged = object.clone();
        forge_footer(&mut forged, 56, &len.to_le_bytes());
        let (_, damage) = damage(read(&forged));
        let allowed = len % 32 == 0 && (32..=max).contains(&len);
        assert_eq!(
            matches!(damage, Damage::IndexLength(_)),
            !allowed,
            "{len}: {damage}"
        );
        assert_eq!(
            matches!(damage, Damage::IndexPlace { .. }),
            allowed,
            "{len}: {damage}"
        );
    }
    for pos in [0, 9, 11, object.len() as u64, u64::MAX - 95, u64::MAX] {
        let mut forged = object.clone();
        forge_footer(&mut forged, 48, &pos.to_le_bytes());
        assert_eq!(damage(read(&forged)).1, Damage::IndexPlace { pos, len: 96 });
    }
}

#[test]
fn objects_of_impossible_length_are_refused() {
    for len in [0, 63, OBJECT_BYTES_MAX + 1, u64::MAX] {
        let refused = Footer::decode(name(), len, &[0; FOOTER_BYTES]).unwrap_err();
        let damage = Damage::ObjectLength(len);
        assert_eq!(
            refused,
            Error::Damaged {
                pack: name(),
                at: 0,
                damage
            }
        );
    }
}

#[test]
fn footers_with_wrong_fields_are_refused_with_the_field() {
    let object = object(&small());
    let wrong: [(usize, &[u8]); 6] = [
        (6, b"X"),
        (7, &[1]),
        (8, &[8]),
        (16, &[4]),
        (24, &[6]),
        (32, &[21]),
    ];
    for (at, bytes) in wrong {
        let mut forged = object.clone();
        forge_footer(&mut forged, at, bytes);
        let (found, damage) = damage(read(&forged));
        let field = found - (object.len() - FOOTER_BYTES) as u64;
        let named = match damage {
            Damage::Kind(b'X') => 6,
            Damage::Reserved(1) => 7,
            Damage::OtherPack {
                container: 8,
                epoch: 3,
                n: 5,
            } => 8,
            Damage::OtherPack {
                container: 7,
                epoch: 4,
                n: 5,
            } => 16,
            Damage::OtherPack {
                container: 7,
                epoch: 3,
                n: 6,
            } => 24,
            Damage::Operations {
                first: 21,
                last: 20,
            } => 32,
            other => panic!("{other}"),
        };
        assert_eq!(named, at);
        assert_eq!(field, if (8..32).contains(&at) { 8 } else { at as u64 });
    }
}

#[test]
fn another_version_is_no_damage() {
    for version in [0, VERSION + 1, u16::MAX] {
        let mut object = object(&small());
        forge_footer(&mut object, 4, &version.to_le_bytes());
        let unknown = Error::UnknownVersion {
            pack: name(),
            version,
            known: VERSION,
        };
        assert_eq!(read(&object), Err(unknown));
    }
}

#[test]
fn forged_entries_are_refused_with_the_entry() {
    let data = b"abcdefghij";
    let run = |segment, offset, pos: u64, len: u32| {
        let crc = crc32c(&data[(pos as usize).min(10)..(pos as usize + len as usize).min(10)]);
        Run {
            segment,
            offset,
            pos,
            len,
            crc,
        }
    };
    let sound = [run(1, 0, 0, 4), run(1, 4, 4, 2), run(2, 0, 6, 4)];
    assert!(read(&forged(data, &sound)).is_ok());
    let order = |entry, segment, offset| Damage::RunOrder {
        entry,
        segment,
        offset,
    };
    let place = |entry, pos, end| Damage::RunPlace { entry, pos, end };
    let cases: [(&[Run], usize, Damage); 10] = [
        (&[run(1, 0, 0, 4), run(1, 3, 4, 6)], 1, order(1, 1, 3)),
        (&[run(1, 0, 0, 4), run(1, 0, 4, 6)], 1, order(1, 1, 0)),
        (&[run(2, 0, 0, 4), run(1, 9, 4, 6)], 1, order(1, 1, 9)),
        (&[run(1, u64::MAX - 3, 0, 10)], 0, order(0, 1, u64::MAX - 3)),
        (
            &[run(1, 0, 0, 4), run(1, 4, 4, 0), run(2, 0, 4, 6)],
            1,
            Damage::EmptyRun { entry: 1 },
        ),
        (&[run(1, 0, 1, 9)], 0, place(0, 1, 0)),
        (&[run(1, 0, 0, 4), run(2, 0, 3, 7)], 1, place(1, 3, 4)),
        (&[run(1, 0, 0, 4), run(2, 0, 5, 5)], 1, place(1, 5, 4)),
        (&[run(1, 0, 0, 9)], 0, place(1, 10, 9)),
        (
            &[run(1, 0, 0, u32::MAX)],
            0,
            place(1, 10, u64::from(u32::MAX)),
        ),
    ];
    for (runs, entry, wanted) in cases {
        let (at, damage) = damage(read(&forged(data, runs)));
        assert_eq!((at, damage), (10 + 32 * entry as u64, wanted));
    }
}

#[test]
fn damaged_data_is_said_to_be_in_its_run() {
    let mut object = object(&small());
    object[4] ^= 0x10;
    let (at, damage) = damage(read(&object));
    assert_eq!(at, 3);
    assert!(
        matches!(
            damage,
            Damage::Checksum {
                part: Part::Run,
                ..
            }
        ),
        "{damage}"
    );
}

proptest! {
    /// What a reader lets pass, a writer could have made: the same bytes come out again.
    #[test]
    fn forged_entries_are_refused_or_sound(
        data in prop::collection::vec(any::<u8>(), 0..12),
        entries in prop::collection::vec((0..3u64, 0..8u64, 0..8u64, 0..8u32), 0..4),
        packed in any::<bool>(),
    ) {
        // Packed: one run behind the other, with data of their length, so that only order is at
        // stake.
        let mut end = 0;
        let mut runs = Vec::new();
        for (segment, offset, pos, len) in entries {
            let pos = if packed { end } else { pos };
            end = pos + u64::from(len);
            runs.push(Run { segment, offset, pos, len, crc: 0 });
        }
        let data = if packed { (0..end as u8).collect() } else { data };
        for run in &mut runs {
            let bytes = data.get(run.pos as usize..run.range().end as usize);
            run.crc = crc32c(bytes.unwrap_or_default());
        }
        let object = forged(&data, &runs);
        if let Ok((_, pieces)) = read(&object) {
            prop_assert!(sound(&runs));
            let mut writer = PackWriter::new(name(), Kind::Shared, 1..=1).unwrap();
            for (segment, offset, data) in pieces {
                writer.add(segment, offset, &[Bytes::from(data)]).unwrap();
            }
            prop_assert_eq!(writer.finish().unwrap().parts.concat(), object);
        } else {
            prop_assert!(runs.is_empty() || !packed || !sound(&runs));
        }
    }

    #[test]
    fn garbage_gives_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
    }
}

/// Says in other words than the reader which packed runs are allowed.
fn sound(runs: &[Run]) -> bool {
    let covers = |run: &Run, other: &Run| {
        run.segment == other.segment
            && (run.offset..run.offset + u64::from(run.len)).contains(&other.offset)
    };
    runs.iter().all(|run| run.len > 0)
        && runs.is_sorted_by_key(|run| (run.segment, run.offset))
        && runs
            .iter()
            .enumerate()
            .all(|(i, run)| !runs[i + 1..].iter().any(|o| covers(run, o)))
}
