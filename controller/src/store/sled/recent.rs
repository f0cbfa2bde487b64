//! Rows that were read or written lately, so that most reads need neither sled nor a thread.
//!
//! Two generations: what is used is in the young one, and when that is full it becomes the old one, whose
//! rows are forgotten unless they are used again.

use std::collections::BTreeMap;

use super::Versioned;

/// Most bytes of keys and values in a generation, each row with [`ROW_BYTES`] on top.
const GENERATION_BYTES: usize = 1 << 20;
/// What a row takes beside its bytes.
const ROW_BYTES: usize = 128;

/// A row, or that there is none.
type Known = Option<Versioned>;

/// Whoever owns it sees to it that it never differs from the database.
#[derive(Debug, Default)]
pub(super) struct Recent {
    young: BTreeMap<String, Known>,
    old: BTreeMap<String, Known>,
    young_bytes: usize,
}

impl Recent {
    /// Returns what is known of `key`, if anything is.
    pub(super) fn get(&mut self, key: &str) -> Option<Known> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let (key, known) = self.old.remove_entry(key)?;
        self.put(key, known.clone());
        Some(known)
    }

    /// Takes note of a row that was read or written.
    pub(super) fn put(&mut self, key: String, known: Known) {
        let bytes = size(&key, &known);
        if bytes > GENERATION_BYTES / 8 {
            self.forget(&key);
            return;
        }
        if self.young_bytes + bytes > GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.forget(&key);
        self.young_bytes += bytes;
        self.young.insert(key, known);
    }

    fn forget(&mut self, key: &str) {
        self.old.remove(key);
        if let Some(known) = self.young.remove(key) {
            self.young_bytes -= size(key, &known);
        }
    }
}

fn size(key: &str, known: &Known) -> usize {
    let value = known.as_ref().map_or(0, |row| row.value.len());
    ROW_BYTES + key.len() + value
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::Revision;

    fn row(bytes: usize) -> Known {
        let value = Bytes::from(vec![7; bytes]);
        let revision = Revision(1);
        Some(Versioned { value, revision })
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut recent = Recent::default();
        recent.put("used".to_owned(), row(10));
        recent.put("unused".to_owned(), None);
        for number in 0..3_000 {
            recent.put(format!("{number}"), row(1_000));
            assert_eq!(recent.get("used"), Some(row(10)));
            let bytes: usize = recent.young.iter().map(|(key, row)| size(key, row)).sum();
            assert_eq!(bytes, recent.young_bytes);
            assert!(bytes <= GENERATION_BYTES);
        }
        assert_eq!(recent.get("unused"), None);
        assert_eq!(recent.get("0"), None);
    }

    #[test]
    fn a_row_that_is_not_kept_is_not_remembered_as_it_was() {
        let mut recent = Recent::default();
        recent.put("row".to_owned(), row(10));
        recent.put("row".to_owned(), None);
        assert_eq!(recent.get("row"), Some(None));
        recent.put("row".to_owned(), row(GENERATION_BYTES));
        assert_eq!(recent.get("row"), None);
        assert_eq!(recent.young_bytes, 0);
    }
}
