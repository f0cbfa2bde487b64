//! MurmurHash3 (x64, 128 bits) and what is derived from it: a routing key's point in the key space, and
//! the slot a segment lives in.
//!
//! Routing must agree with the official Java client to the last bit, or events of one key would end up
//! in two segments. Slots are our own business, but stored placements depend on them: never change them.
//!
//! Source: MurmurHash3_x64_128 by Austin Appleby (public domain); seeding and digest order as in Guava,
//! see `docs/formats/wire.md`, "Hashes".

use crate::key_range::KeyPosition;
use crate::names;

/// `"EventRouter".hashCode()` in Java.
const EVENT_ROUTER_SEED: i32 = 1_741_865_571;
/// `"KeyValueTableRouter".hashCode()` in Java.
const TABLE_ROUTER_SEED: i32 = -2_020_233_499;

/// Returns the point of an event's routing key in `[0, 1)`.
pub fn key_position(routing_key: &str) -> KeyPosition {
    let units: Vec<u8> = routing_key
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    fraction(&units, EVENT_ROUTER_SEED)
}

/// Returns the point of a key-value table's primary key in `[0, 1)`.
pub fn table_key_position(primary_key: &[u8]) -> KeyPosition {
    fraction(primary_key, TABLE_ROUTER_SEED)
}

/// Returns the slot, of 65,536, in which a segment lives: the top 16 bits of the hash of its
/// [`primary`](names::primary) name. Takes full names and primary names alike.
pub fn slot(segment: &str) -> u16 {
    let (first, _) = murmur3_128(names::primary(segment).as_bytes(), 0);
    (first >> 48) as u16
}

/// The upper 52 bits of the first half of the hash are the fraction.
fn fraction(bytes: &[u8], seed: i32) -> KeyPosition {
    let (first, _) = murmur3_128(bytes, seed);
    KeyPosition::from_fraction(first >> 12)
}

/// Returns both halves of the hash; in a digest of 16 bytes they stand little-endian, first half first.
/// The seed is sign-extended into both lanes.
pub fn murmur3_128(bytes: &[u8], seed: i32) -> (u64, u64) {
    let (mut h1, mut h2) = (i64::from(seed) as u64, i64::from(seed) as u64);
    let mut blocks = bytes.chunks_exact(16);
    for block in &mut blocks {
        let (k1, k2) = (lane(&block[..8]), lane(&block[8..]));
        h1 = (h1 ^ mix_first(k1)).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52DC_E729);
        h2 = (h2 ^ mix_second(k2)).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5AB5);
    }
    let rest = blocks.remainder();
    let (low, high) = rest.split_at(rest.len().min(8));
    h1 ^= mix_first(lane(low));
    h2 ^= mix_second(lane(high));

    h1 ^= bytes.len() as u64;
    h2 ^= bytes.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    (h1, h2)
}

const C1: u64 = 0x87C3_7B91_1142_53D5;
const C2: u64 = 0x4CF5_AD43_2745_937F;

fn mix_first(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_second(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut k: u64) -> u64 {
    k = (k ^ (k >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    k = (k ^ (k >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    k ^ (k >> 33)
}

/// Up to eight bytes, little-endian. None give 0, which mixes to 0.
fn lane(bytes: &[u8]) -> u64 {
    let mut raw = [0; 8];
    raw[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_keys_land_where_the_java_client_puts_them() {
        let expected = [
            ("", 0x3fce_deef_4a33_5178_u64),
            ("1", 0x3fd7_8686_c584_6814),
            ("a", 0x3fee_3042_e663_131a),
            ("key", 0x3feb_097f_5364_ffae),
            ("routing_key", 0x3f8d_ae47_1b4d_7800),
            ("café", 0x3fe7_b72e_9448_7b32),
            ("😀", 0x3fe8_cd02_77fa_e608),
        ];
        for (key, bits) in expected {
            assert_eq!(key_position(key).to_f64().to_bits(), bits, "{key:?}");
        }
    }

    #[test]
    fn table_keys_land_where_the_java_client_puts_them() {
        let expected = [
            ("", 0.423_527_020_200_222_15_f64.to_bits()),
            ("a", 0x3fe4_121a_4bd9_a8d4),
            ("key", 0x3fd7_de29_8b0b_2164),
            ("12345678", 0x3fed_2a60_e06b_14b6),
        ];
        for (key, bits) in expected {
            let position = table_key_position(key.as_bytes());
            assert_eq!(position.to_f64().to_bits(), bits, "{key:?}");
        }
    }

    #[test]
    fn hashes_of_every_tail_length_differ() {
        let bytes = [7; 40];
        let hashes: std::collections::BTreeSet<_> =
            (0..=40).map(|n| murmur3_128(&bytes[..n], 0)).collect();
        assert_eq!(hashes.len(), 41);
    }

    #[test]
    fn slots_ignore_epochs_and_transactions_and_never_change() {
        let id = "00112233445566778899aabbccddeeff";
        let slot_of_primary = slot("scope/stream/0");
        assert_eq!(slot("scope/stream/0.#epoch.3"), slot_of_primary);
        let transaction = format!("scope/stream/0.#epoch.4#transaction.{id}");
        assert_eq!(slot(&transaction), slot_of_primary);
        assert_ne!(slot("scope/stream/1"), slot_of_primary);
        assert_eq!(slot_of_primary, 25_260);
    }
}
