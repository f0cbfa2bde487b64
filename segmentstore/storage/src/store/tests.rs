use std::time::Duration;

use sarit_env::Rng;

use super::memory::{Faults, Memory};
use super::*;
use crate::pack::{Kind, PackWriter, WrittenPack};
use crate::{PackId, PackNumber};

fn name(n: u64) -> PackName {
    PackName::new(1, PackNumber { epoch: 2, n }).unwrap()
}

fn pack(n: u64, fill: u8) -> WrittenPack {
    let mut writer = PackWriter::new(name(n), Kind::Shared, 1..=1).unwrap();
    writer.add(5, 0, &[Bytes::from(vec![fill; 1000])]).unwrap();
    writer.finish_with_blocks().unwrap()
}

fn memory() -> (Memory, Store) {
    let memory = Memory::new(Rng::seeded(1));
    let store = memory.store();
    (memory, store)
}

/// What every kind of store has to do.
async fn conforms(store: &Store) {
    store.probe(7).await.unwrap();
    let first = pack(1, 1);
    store.put(first.name, first.parts.clone()).await.unwrap();
    // The same object again: an answer was lost. Another one: refused.
    store.put(first.name, first.parts.clone()).await.unwrap();
    let other = pack(1, 2);
    let taken = store.put(other.name, other.parts).await;
    assert!(matches!(taken, Err(StoreError::Taken(_))), "{taken:?}");
    let blocks = store.blocks(first.name).await.unwrap();
    let bytes = store.read(first.name, blocks.range(0)).await.unwrap();
    blocks.check(0, &bytes).unwrap();
    assert_eq!(bytes, vec![1; 1000]);
    let (len, _, index) = store.index(first.name).await.unwrap();
    assert_eq!((len, index.runs().len()), (first.len, 2));
    // In parts.
    let mut writer = PackWriter::new(name(2), Kind::Big, 1..=1).unwrap();
    let mut upload = store.upload(name(2)).await.unwrap();
    for part in 0..2 {
        let data = Bytes::from(vec![part; 5 << 20]);
        writer.add(5, u64::from(part) * (5 << 20), &[data]).unwrap();
        store.part(&mut upload, writer.take_parts()).await.unwrap();
    }
    let written = writer.finish_with_blocks().unwrap();
    store.part(&mut upload, written.parts).await.unwrap();
    store.complete(&mut upload).await.unwrap();
    let blocks = store.blocks(name(2)).await.unwrap();
    let bytes = store.read(name(2), blocks.range(39)).await.unwrap();
    blocks.check(39, &bytes).unwrap();
    // Straight into place, over the border of a block, and not behind the end.
    let at = blocks.range(20).start - 3;
    let pieces = vec![vec![9; 3], vec![9; 1000]];
    let look = |place: usize, bytes: &[u8]| (place, bytes.to_vec());
    let pieces = store.read_into(name(2), at, pieces, look).await.unwrap();
    let bytes = store.read(name(2), at..at + 1003).await.unwrap();
    let seen: Vec<_> = pieces.iter().map(|(_, (place, _))| *place).collect();
    assert_eq!(seen, [0, 1]);
    assert!(pieces.iter().all(|(piece, (_, seen))| piece == seen));
    let pieces: Vec<_> = pieces.into_iter().map(|(piece, _)| piece).collect();
    assert_eq!((pieces[0].len(), pieces.concat()), (3, bytes.to_vec()));
    let behind = store.read_into(name(2), written.len - 1, vec![vec![0; 2]], look);
    assert!(matches!(behind.await, Err(StoreError::Pack(_))));
    let missing = store.read_into(name(9), 0, vec![vec![0; 2]], look).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
    let mut listed = store.list(1).await.unwrap();
    listed.sort();
    assert_eq!(listed, [(name(1), first.len), (name(2), written.len)]);
    assert_eq!(store.list(2).await.unwrap(), []);
    for _ in 0..2 {
        store.delete(name(1)).await.unwrap();
    }
    let missing = store.blocks(name(1)).await;
    assert!(
        matches!(missing, Err(StoreError::Missing(_))),
        "{missing:?}"
    );
    assert_eq!(PackId::new(2, 1).unwrap().name(1).unwrap(), name(1));
}

#[tokio::test]
async fn a_store_in_memory_conforms() {
    let (_, store) = memory();
    conforms(&store).await;
    assert!(store.counts().done(Operation::Put) >= 2);
}

#[tokio::test]
#[allow(clippy::disallowed_methods)] // A test's own directory.
async fn a_directory_conforms() {
    let dir = std::env::temp_dir().join(format!("sarit-storage-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let store = Store::local(&dir).unwrap();
    conforms(&store).await;
    // What a crash in the middle of an upload leaves.
    let upload = store.upload(name(3)).await.unwrap();
    std::mem::forget(upload);
    // And in the middle of a copy of an index.
    let export = "lts/index/0001/000000000009-000000001234.ix";
    std::fs::create_dir_all(dir.join("lts/index/0001")).unwrap();
    std::fs::write(dir.join(format!("{export}#3")), "x").unwrap();
    std::fs::write(dir.join(export), "x").unwrap();
    let before = store.list(1).await.unwrap();
    assert_eq!(store.remove_unfinished().await.unwrap(), 2);
    assert_eq!(store.remove_unfinished().await.unwrap(), 0);
    assert_eq!(store.exports(1).await.unwrap().len(), 1);
    assert_eq!(store.list(1).await.unwrap(), before);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn an_upload_to_a_directory_is_there_when_it_is_complete_and_only_then() {
    let dir = std::env::temp_dir().join(format!("sarit-storage-upload-{}", std::process::id()));
    #[allow(clippy::disallowed_methods)] // A test's own directory.
    std::fs::create_dir_all(&dir).unwrap();
    let store = Store::local(&dir).unwrap();
    let half = pack(4, 7).parts[0].clone();
    let mut left = store.upload(name(4)).await.unwrap();
    store.part(&mut left, vec![half.clone()]).await.unwrap();
    assert_eq!(store.list(1).await.unwrap(), []);
    // An earlier life's; the same name begins from nothing.
    let pack = pack(4, 8);
    let mut upload = store.upload(name(4)).await.unwrap();
    store.part(&mut upload, pack.parts.clone()).await.unwrap();
    store.complete(&mut upload).await.unwrap();
    assert_eq!(store.list(1).await.unwrap(), [(name(4), pack.len)]);
    let (len, _, index) = store.index(name(4)).await.unwrap();
    assert_eq!((len, index.runs().len()), (pack.len, 2));
    let mut given_up = store.upload(name(5)).await.unwrap();
    store.part(&mut given_up, vec![half]).await.unwrap();
    store.abort(given_up).await;
    assert_eq!(store.remove_unfinished().await.unwrap(), 0);
    assert_eq!(store.list(1).await.unwrap(), [(name(4), pack.len)]);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_store_that_writes_over_objects_is_refused() {
    let (memory, store) = memory();
    memory.set_faults(Faults {
        overwrite: true,
        ..Faults::default()
    });
    let refused = store.probe(7).await;
    assert!(matches!(refused, Err(StoreError::Unfit(_))), "{refused:?}");
}

#[tokio::test]
async fn who_may_not_is_told_at_the_start_and_tries_again_later() {
    let (memory, store) = memory();
    memory.set_faults(Faults {
        deny: 1.0,
        ..Faults::default()
    });
    let refused = store.probe(7).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unfit(_)), "{refused}");
    assert!(
        refused.to_string().contains("check the credentials"),
        "{refused}"
    );
    let refused = store.claim(Bytes::from_static(b"note")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unfit(_)), "{refused}");
    let pack = pack(1, 1);
    let error = store.put(pack.name, pack.parts.clone()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    memory.set_faults(Faults::default());
    store.put(pack.name, pack.parts).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_is_found_out_by_the_next_try() {
    let (memory, store) = memory();
    memory.set_faults(Faults {
        lose_answer: 1.0,
        ..Faults::default()
    });
    let pack = pack(1, 1);
    let lost = store.put(pack.name, pack.parts.clone()).await.unwrap_err();
    assert!(lost.is_retryable(), "{lost}");
    memory.set_faults(Faults::default());
    store.put(pack.name, pack.parts).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_given_up() {
    let (memory, store) = memory();
    memory.set_faults(Faults {
        stall: 1.0,
        stall_time: Duration::from_secs(3600),
        ..Faults::default()
    });
    let error = store.read(name(1), 0..10).await.unwrap_err();
    assert!(
        matches!(error, StoreError::TimedOut { seconds: 30, .. }),
        "{error}"
    );
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for url in ["gs://bucket", "s3://", "bucket"] {
        let config = Config {
            url: Some(url.to_owned()),
            ..Config::default()
        };
        let refused = Store::open(&config, FilePath::new("."));
        assert!(matches!(refused, Err(StoreError::Config(_))), "{url}");
    }
    let config = Config {
        url: Some("s3://bucket/a/b".to_owned()),
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        secret_access_key: Some("hush".to_owned()),
        access_key_id: Some("id".to_owned()),
        ..Config::default()
    };
    let store = Store::open(&config, FilePath::new(".")).unwrap();
    assert_eq!(store.to_string(), "s3://bucket/a/b");
    assert_eq!(store.path("x/y").as_ref(), "a/b/x/y");
    assert_eq!(store.name(&store.path(&name(1).to_string())), Some(name(1)));
    assert!(!format!("{config:?}").contains("hush"));
    // Unencrypted to elsewhere: only if told so.
    let endpoint = |host: &str, allow_http| {
        let endpoint = Some(format!("http://{host}:9000"));
        let config = Config {
            endpoint,
            allow_http,
            ..config.clone()
        };
        Store::open(&config, FilePath::new("."))
    };
    for host in ["localhost", "127.0.0.2", "[::1]"] {
        endpoint(host, Some(false)).unwrap();
    }
    let refused = endpoint("storage.example", Some(false)).unwrap_err();
    assert!(refused.to_string().contains("allow_http"), "{refused}");
    endpoint("storage.example", Some(true)).unwrap();
}

#[tokio::test]
async fn nothing_is_written_to_a_place_that_was_not_claimed() {
    let (_, store) = memory();
    let store = store.unclaimed();
    let pack = pack(1, 1);
    let early = store.put(pack.name, pack.parts.clone()).await.unwrap_err();
    assert!(early.is_retryable(), "{early}");
    assert!(store.upload(pack.name).await.is_err());
    assert!(store.delete(pack.name).await.is_err());
    assert_eq!(store.list_all().await.unwrap(), []);
    assert_eq!(store.note().await.unwrap(), None);
    for note in ["first", "second"] {
        let found = store.claim(Bytes::from(note)).await.unwrap();
        assert_eq!(found, "first");
    }
    store.claimed();
    store.put(pack.name, pack.parts).await.unwrap();
    assert_eq!(store.list_all().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_probe_that_finds_its_own_object_is_made_again() {
    let (objects, store) = memory();
    // A try whose answer was lost has made it.
    objects.damage(&format!("probe/{:032x}", 7)).await;
    let error = store.probe(7).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    store.probe(8).await.unwrap();
}
