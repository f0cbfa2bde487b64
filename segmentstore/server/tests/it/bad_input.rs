//! Bytes no client would send: a peer may end its own connection with them, and nothing else.
//!
//! `SARIT_BAD_FRAMES` sets how many frames are damaged and sent. Every input is determined by its
//! number, so a failure is repeated by running the test again.

use bytes::{Bytes, BytesMut};
use sarit_env::Rng;
use sarit_proto::wire::FrameDecoder;

use crate::replay::{Line, recording};
use crate::world::{Peer, World, append};

const FRAMES: u64 = 2_000;
const SEGMENT: &str = "alive/stream/0.#epoch.0";
/// Connections over which the frames are spread.
const PEERS: usize = 8;

fn frames_wanted() -> u64 {
    std::env::var("SARIT_BAD_FRAMES").map_or(FRAMES, |text| text.parse().expect("a number"))
}

/// Frames that clients sent, to be damaged.
fn corpus() -> Vec<Bytes> {
    let recordings = [
        "errors.txt",
        "java-synchronizer.txt",
        "rust-table.txt",
        "java-kvt.txt",
    ];
    let lines = recordings.into_iter().flat_map(recording);
    let sent = lines.filter_map(|line| match line {
        Line::Sent { frame, .. } if frame.len() < 10_000 => Some(frame),
        _ => None,
    });
    sent.collect()
}

fn damaged(corpus: &[Bytes], rng: &Rng) -> Bytes {
    let pick = |bound: usize| rng.below(bound as u64) as usize;
    let mut frame = BytesMut::from(&corpus[pick(corpus.len())][..]);
    match rng.below(6) {
        // Bits flip, in the header as well.
        0 => {
            for _ in 0..=pick(8) {
                let at = pick(frame.len());
                frame[at] ^= 1 << rng.below(8);
            }
        }
        // Bits flip behind the header only, so that the frame reaches its decoder.
        1 if frame.len() > 8 => {
            for _ in 0..=pick(8) {
                let at = 8 + pick(frame.len() - 8);
                frame[at] ^= 1 << rng.below(8);
            }
        }
        // The payload ends early, and the header says so.
        2 if frame.len() > 8 => {
            let payload = pick(frame.len() - 8);
            frame.truncate(8 + payload);
            frame[4..8].copy_from_slice(&(payload as i32).to_be_bytes());
        }
        // A length or count is something else.
        3 if frame.len() >= 12 => {
            let at = 8 + pick(frame.len() - 11);
            let odd = [0, 1, -1, i32::MAX, i32::MIN, 0x00FF_FFFF, 1 << 20][pick(7)];
            frame[at..at + 4].copy_from_slice(&i32::to_be_bytes(odd));
        }
        // Another type.
        4 => {
            let code = rng.below(256) as i32 - 128;
            frame[..4].copy_from_slice(&code.to_be_bytes());
        }
        // Nothing of it is left.
        _ => rng.fill(&mut frame),
    }
    frame.freeze()
}

/// Whether the store must wait for more bytes before it can judge.
fn is_incomplete(frame: &Bytes) -> bool {
    matches!(
        FrameDecoder::next(&mut BytesMut::from(&frame[..])),
        Ok(None)
    )
}

async fn alive(peer: &mut Peer, number: i64) {
    peer.send(append(7, number, b"alive")).await;
    assert_eq!(peer.reply().await.name(), "DataAppended");
}

#[tokio::test]
async fn damaged_frames_end_at_most_their_own_connection() {
    let world = World::start().await;
    let mut good = world.peer().await;
    good.create(SEGMENT).await;
    good.set_up(SEGMENT, 7).await;
    let corpus = corpus();
    let mut peers: Vec<Option<Peer>> = (0..PEERS).map(|_| None).collect();
    for number in 0..frames_wanted() {
        let rng = Rng::seeded(number);
        let place = rng.below(PEERS as u64) as usize;
        let mut peer = match peers[place].take() {
            Some(peer) => peer,
            None => world.peer().await,
        };
        // Half of them behind a whole frame, so that writers and open blocks are met too.
        if rng.chance(0.5) {
            let whole = &corpus[rng.below(corpus.len() as u64) as usize];
            peer.try_send_bytes(whole).await;
        }
        let frame = damaged(&corpus, &rng);
        let sent = peer.try_send_bytes(&frame).await;
        if sent && !is_incomplete(&frame) && rng.chance(0.9) {
            peers[place] = Some(peer);
        }
        if number % 100 == 0 {
            alive(&mut good, 1 + number as i64).await;
        }
    }
    drop(peers);
    alive(&mut good, 1 << 40).await;
    let health = world.inspect().health();
    assert!(health.ready, "{health:?}");
    drop(good);
    world.stop().await.unwrap();
}

#[tokio::test]
async fn random_bytes_end_their_connection() {
    let world = World::start().await;
    for number in 0..frames_wanted() / 20 {
        let rng = Rng::seeded(number);
        let mut bytes = vec![0; 1 + rng.below(200) as usize];
        rng.fill(&mut bytes);
        world.peer().await.try_send_bytes(&bytes).await;
    }
    let mut good = world.peer().await;
    good.create(SEGMENT).await;
    drop(good);
    world.stop().await.unwrap();
}
