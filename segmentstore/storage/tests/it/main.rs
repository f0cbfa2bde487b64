//! The bytes of a pack that were written down once and have to be read, and written, for ever.

use bytes::Bytes;
use sarit_storage::{FOOTER_BYTES, Footer, Index, Kind, PackName, PackWriter};

const GOLDEN: &str = include_str!("../golden/pack-1.txt");
const NAME: &str = "lts/09/1234/00000000abcd-00000000ef01.pk";

const RUNS: [(u64, u64, &[u8]); 3] = [
    (1, 0, b"hello"),
    (1, 5, b" world"),
    (0x0102_0304_0506_0708, 0x1112_1314_1516_1718, b"123456789"),
];

/// Reads hex digits, without what stands behind a `#`.
fn golden() -> Vec<u8> {
    let digits: String = GOLDEN
        .lines()
        .map(|line| line.split('#').next().expect("a line has a beginning"))
        .flat_map(|line| line.split_whitespace())
        .collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn the_golden_pack_is_read() {
    let object = golden();
    let name: PackName = NAME.parse().expect("a name");
    assert_eq!(name.to_string(), NAME);
    let tail = &object[object.len() - FOOTER_BYTES..];
    let footer = Footer::decode(name, object.len() as u64, tail).expect("a footer");
    assert_eq!(footer.kind, Kind::Compacted);
    assert_eq!(
        (footer.first_seq, footer.last_seq),
        (0x2122_2324, 0x3132_3334_3536)
    );
    let place = |range: std::ops::Range<u64>| range.start as usize..range.end as usize;
    let index = Index::decode(&footer, &object[place(footer.index_range())]).expect("an index");
    assert_eq!(index.runs().len(), RUNS.len());
    for (run, (segment, offset, data)) in index.runs().iter().zip(RUNS) {
        assert_eq!((run.segment, run.offset), (segment, offset));
        assert_eq!(&object[place(run.range())], data);
        run.check(name, data).expect("the bytes that were written");
    }
    assert_eq!(index.runs()[2].crc, 0xe306_9283);
}

#[test]
fn the_golden_pack_is_written() {
    let name = NAME.parse().expect("a name");
    let mut writer = PackWriter::new(name, Kind::Compacted, 0x2122_2324..=0x3132_3334_3536)
        .expect("a range of operations");
    for (segment, offset, data) in RUNS {
        writer
            .add(segment, offset, &[Bytes::from_static(data)])
            .expect("a run in order");
    }
    let pack = writer.finish().expect("a pack");
    assert_eq!(pack.len, golden().len() as u64);
    assert_eq!(pack.parts.concat(), golden());
}
