//! The same promises with real threads: writers, followers and look-ups at the same time.

use std::time::Duration;

use bytes::Bytes;
use sarit_container::{Container, Error, Offset};
use tokio::task::JoinSet;

use crate::world::{World, append_bytes};

const SEGMENTS: u128 = 4;
const APPENDS: i64 = 600;

fn name(segment: u128) -> String {
    format!("segment-{segment}")
}

/// Reads a segment from its start until it is sealed, waiting at its tail, and returns its bytes.
async fn follow(container: Container, name: String) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let offset = Offset(bytes.len() as u64);
        let wait = Duration::from_secs(60);
        match container.read(&name, offset, 1 << 16, wait).await {
            Ok(read) => {
                bytes.extend_from_slice(&read.data);
                if read.end_of_segment {
                    return bytes;
                }
                assert!(
                    !read.data.is_empty(),
                    "{name} was woken for nothing at {offset:?}"
                );
            }
            Err(Error::SegmentSealed(_)) => return bytes,
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn followers_see_what_writers_wrote_in_order_and_miss_no_wake() {
    let world = World::new().await;
    let mut followers = JoinSet::new();
    let mut writers = JoinSet::new();
    for segment in 0..SEGMENTS {
        world.stream(&name(segment)).await;
        for _ in 0..3 {
            followers.spawn(follow(world.container.clone(), name(segment)));
        }
        let (container, mut connection) = (world.container.clone(), world.connect());
        writers.spawn(async move {
            let name = name(segment);
            let mut length = 0;
            for number in 1..=APPENDS {
                let line = format!("{number:04}\n");
                length += line.len() as u64;
                let operation = append_bytes(&name, segment, number, Bytes::from(line));
                connection.submit(vec![operation]).await;
                // Some alone, some many at once.
                if number % 7 != 0 {
                    continue;
                }
                while connection.outcome().await.token != number as u64 {}
                let info = container.info(&name).await.unwrap();
                assert!(info.length.0 >= length, "acknowledged, but not there");
            }
            while connection.outcome().await.token != APPENDS as u64 {}
            assert_eq!(container.seal(&name).await.unwrap(), Offset(length));
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let expected: String = (1..=APPENDS)
        .map(|number| format!("{number:04}\n"))
        .collect();
    while let Some(followed) = followers.join_next().await {
        assert!(followed.unwrap() == expected.as_bytes());
    }
    assert_eq!(world.container.stats().waiters, 0);
}
