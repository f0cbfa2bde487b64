//! The real disk, in a temporary folder: what is written one way is read the other.

use super::*;
use crate::Rng;

const BLOCK: usize = 4096;

async fn file() -> (tempfile::TempDir, Arc<dyn DiskFile>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let file = RealDisk.open(&path, OpenMode::CreateNew).await.unwrap();
    (dir, file)
}

fn random(rng: &Rng, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes.into()
}

#[tokio::test]
async fn what_is_written_through_is_read_back_whatever_its_parts() {
    let (_dir, file) = file().await;
    let rng = Rng::seeded(1);
    let mut expected = vec![0; 16 << 20];
    // Whole blocks in odd parts, more than one piece, and lengths and places that are no blocks.
    for (at, lens) in [
        (0, vec![BLOCK]),
        (BLOCK, vec![40, 100, BLOCK - 140, 3 * BLOCK]),
        (8 * BLOCK, vec![1, (5 << 20) + 1, BLOCK - 2]),
        (3 * BLOCK, vec![10]),
        (5 * BLOCK + 7, vec![BLOCK, 0, 1]),
        (BLOCK, vec![]),
    ] {
        let parts: Vec<_> = lens.iter().map(|len| random(&rng, *len)).collect();
        file.write_through_at(at as u64, &parts).await.unwrap();
        let bytes = parts.concat();
        expected[at..at + bytes.len()].copy_from_slice(&bytes);
        // An ordinary write beside it, so that both ways take turns.
        let beside = random(&rng, 100);
        file.write_at(at as u64 + 12, std::slice::from_ref(&beside))
            .await
            .unwrap();
        expected[at + 12..at + 112].copy_from_slice(&beside);
        let len = file.size().await.unwrap() as usize;
        assert!(file.read_at(0, len).await.unwrap() == expected[..len]);
    }
    file.sync_data().await.unwrap();
}

/// A part that lies `into` bytes into a block of memory.
fn lying(rng: &Rng, into: usize, len: usize) -> Bytes {
    let whole = random(rng, len + 2 * BLOCK);
    let from = (into + BLOCK - whole.as_ptr() as usize % BLOCK) % BLOCK;
    whole.slice(from..from + len)
}

#[tokio::test]
async fn parts_that_lie_well_are_written_from_where_they_are() {
    let (_dir, file) = file().await;
    let rng = Rng::seeded(2);
    let mut expected = vec![0; 12 << 20];
    let small = |len| (0, len);
    for (at, parts) in [
        // As far into a block as in the file, with ends of all kinds.
        (0, vec![small(40), (40, 1 << 20), small(BLOCK - 40)]),
        (BLOCK, vec![(0, 100 << 10), (0, 100 << 10), small(7)]),
        (
            2 * BLOCK,
            vec![small(40), (40, 300_001), (1_234, 300_000), small(3)],
        ),
        // More than the buffer holds in between, and a part that lies well behind it.
        (
            BLOCK,
            vec![small(3 << 20), (0, 4 << 20), (5, (2 << 20) - 5)],
        ),
        // The file's place is no block.
        (BLOCK + 3, vec![(3, 200 << 10)]),
    ] {
        let parts: Vec<_> = parts
            .iter()
            .map(|(into, len)| lying(&rng, *into, *len))
            .collect();
        file.write_through_at(at as u64, &parts).await.unwrap();
        let bytes = parts.concat();
        expected[at..at + bytes.len()].copy_from_slice(&bytes);
        let len = file.size().await.unwrap() as usize;
        assert!(file.read_at(0, len).await.unwrap() == expected[..len]);
    }
}

#[tokio::test]
async fn a_file_written_through_may_have_been_renamed() {
    let (dir, file) = file().await;
    let (from, to) = (dir.path().join("file"), dir.path().join("other"));
    RealDisk.rename(&from, &to).await.unwrap();
    let block = Bytes::from(vec![7; BLOCK]);
    file.write_through_at(0, std::slice::from_ref(&block))
        .await
        .unwrap();
    assert_eq!(read_file(&RealDisk, &to, 1 << 20).await.unwrap(), block);
}

#[tokio::test]
async fn allocated_space_is_there_and_reads_as_zeros() {
    let (dir, file) = file().await;
    file.allocate(1 << 20).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 1 << 20);
    assert!(
        file.read_at(0, 1 << 20)
            .await
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    use std::os::unix::fs::MetadataExt as _;
    let blocks = std::fs::metadata(dir.path().join("file")).unwrap().blocks();
    assert!(blocks * 512 >= 1 << 20);
}
