//! The numbers kept with a segment: each writer's last event number, which makes appends idempotent,
//! and whatever else clients keep there.

use sarit_proto::ids::{AttributeId, NULL_ATTRIBUTE};

/// Attributes and their values. Sorted by id and compact, since most segments have very few; never
/// forgets one, since a writer may come back at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers(Vec<(AttributeId, i64)>);

impl Numbers {
    /// Returns the value, if it is set.
    pub(crate) fn get(&self, id: AttributeId) -> Option<i64> {
        self.find(id).ok().map(|at| self.0[at].1)
    }

    /// Sets the value; [`NULL_ATTRIBUTE`] unsets it.
    pub(crate) fn set(&mut self, id: AttributeId, value: i64) {
        match (self.find(id), value) {
            (Ok(at), NULL_ATTRIBUTE) => {
                self.0.remove(at);
            }
            (Err(_), NULL_ATTRIBUTE) => {}
            (Ok(at), value) => self.0[at].1 = value,
            (Err(at), value) => self.0.insert(at, (id, value)),
        }
    }

    /// Returns all of them in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (AttributeId, i64)> + '_ {
        self.0.iter().copied()
    }

    fn find(&self, id: AttributeId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_number_is_none_and_unsetting_removes() {
        let (a, b) = (AttributeId(1), AttributeId(2));
        let mut numbers = Numbers::default();
        numbers.set(b, 7);
        numbers.set(a, 0);
        numbers.set(b, 8);
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [(a, 0), (b, 8)]);
        numbers.set(a, NULL_ATTRIBUTE);
        assert_eq!((numbers.get(a), numbers.get(b)), (None, Some(8)));
    }
}
