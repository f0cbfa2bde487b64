//! Object names of packs, and their order.
//!
//! ```text
//! lts/{spread:02x}/{container:04x}/{epoch:012x}-{n:012x}.pk
//! ```
//!
//! Every number has a fixed width, so different packs have different names, and the names of one
//! container's packs sort as the packs do: by epoch, then by number. The spread byte depends on the
//! container alone: the containers of a store lie under many prefixes, which object stores divide
//! their load by, and one listing finds all packs of a container.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Highest container number that has room in a name.
const CONTAINER_MAX: u32 = 0xffff;
/// Highest epoch or number that has room in a name.
const NUMBER_MAX: u64 = 0xffff_ffff_ffff;

/// A pack's place among those of its container; unique, since an epoch of the log has one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNumber {
    /// Epoch of the log under which the pack was written, below 2⁴⁸.
    pub epoch: u64,
    /// Counts the packs of that epoch, below 2⁴⁸.
    pub n: u64,
}

/// A pack's number in its container, in 63 bits: 31 for the epoch, 32 for the count.
///
/// What a container keeps with every extent. Ordered as the packs are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(u64);

impl PackId {
    /// Highest epoch that has room.
    const EPOCH_MAX: u64 = (1 << 31) - 1;

    /// Names the pack `n` of `epoch`.
    ///
    /// # Errors
    /// [`Error::NoRoomInName`] if the epoch does not fit into 31 bits, or `n` into 32.
    pub fn new(epoch: u64, n: u64) -> Result<Self, Error> {
        let fits = |what, given, max| {
            if given <= max {
                Ok(given)
            } else {
                Err(Error::NoRoomInName { what, given, max })
            }
        };
        let epoch = fits("epoch", epoch, Self::EPOCH_MAX)?;
        let n = fits("number", n, u32::MAX.into())?;
        Ok(Self(epoch << 32 | n))
    }

    /// Takes what [`Self::get`] returned; `None` if that cannot have been it.
    pub fn from_number(number: u64) -> Option<Self> {
        (number >> 63 == 0).then_some(Self(number))
    }

    /// Returns it as a number below 2⁶³.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the epoch under which the pack was written, and its count.
    pub fn number(self) -> PackNumber {
        PackNumber {
            epoch: self.0 >> 32,
            n: self.0 & u64::from(u32::MAX),
        }
    }

    /// Returns the name of the object that holds this pack of `container`.
    ///
    /// # Errors
    /// [`Error::NoRoomInName`] if the container's number is too high.
    pub fn name(self, container: u32) -> Result<PackName, Error> {
        PackName::new(container, self.number())
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PackNumber { epoch, n } = self.number();
        write!(f, "{epoch}-{n}")
    }
}

/// The name of one pack; ordered by container, epoch, number.
///
/// Its text form, by `Display` and `FromStr`, is the name of the object: 40 ASCII characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    container: u32,
    number: PackNumber,
}

impl PackName {
    /// Names a pack of `container`, 0 to 65,535.
    ///
    /// # Errors
    /// [`Error::NoRoomInName`] if a number is too high for its digits.
    pub fn new(container: u32, number: PackNumber) -> Result<Self, Error> {
        let fits = |what, given, max| {
            if given <= max {
                Ok(())
            } else {
                Err(Error::NoRoomInName { what, given, max })
            }
        };
        fits("container", u64::from(container), u64::from(CONTAINER_MAX))?;
        fits("epoch", number.epoch, NUMBER_MAX)?;
        fits("number", number.n, NUMBER_MAX)?;
        Ok(Self { container, number })
    }

    /// Returns the pack's number in its container, `None` if it is higher than this release writes.
    pub fn id(self) -> Option<PackId> {
        PackId::new(self.number.epoch, self.number.n).ok()
    }

    /// Returns the container that the pack belongs to.
    pub fn container(self) -> u32 {
        self.container
    }

    /// Returns the pack's place among those of its container.
    pub fn number(self) -> PackNumber {
        self.number
    }

    /// Returns what the names of all packs of this one's container begin with, and no others.
    pub fn container_prefix(self) -> String {
        format!("lts/{:02x}/{:04x}/", spread(self.container), self.container)
    }
}

/// Returns the spread byte: the upper 8 of the lower 32 bits of `container` · 2654435769.
///
/// The factor is 2³² divided by the golden ratio: consecutive containers fall far apart and evenly.
/// It is part of the format; other numbers would hide every pack there is.
///
/// Source: Knuth, The Art of Computer Programming, volume 3, 6.4, multiplicative hashing.
fn spread(container: u32) -> u32 {
    container.wrapping_mul(2_654_435_769) >> 24
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PackNumber { epoch, n } = self.number;
        write!(f, "{}{epoch:012x}-{n:012x}.pk", self.container_prefix())
    }
}

impl FromStr for PackName {
    type Err = Error;

    /// Parses exactly what `Display` prints, nothing looser.
    fn from_str(text: &str) -> Result<Self, Error> {
        // Loosely parsed, then printed again: only the one right spelling survives the comparison.
        parse(text)
            .filter(|name| name.to_string() == text)
            .ok_or_else(|| Error::NotAPackName(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PackName> {
    let (_spread, rest) = text
        .strip_prefix("lts/")?
        .strip_suffix(".pk")?
        .split_once('/')?;
    let (container, number) = rest.split_once('/')?;
    let (epoch, n) = number.split_once('-')?;
    let container = u32::from_str_radix(container, 16).ok()?;
    let epoch = u64::from_str_radix(epoch, 16).ok()?;
    let n = u64::from_str_radix(n, 16).ok()?;
    PackName::new(container, PackNumber { epoch, n }).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn name(container: u32, epoch: u64, n: u64) -> PackName {
        PackName::new(container, PackNumber { epoch, n }).unwrap()
    }

    fn names() -> impl Strategy<Value = PackName> {
        // Small numbers too, so that two of a test often share a part.
        let container = prop_oneof![0..3u32, 0..=CONTAINER_MAX];
        let number = || prop_oneof![0..3u64, 0..=NUMBER_MAX];
        (container, number(), number()).prop_map(|(container, epoch, n)| name(container, epoch, n))
    }

    #[test]
    fn a_name_is_spelt_as_the_format_says() {
        let spelt = [
            (name(0, 1, 0), "lts/00/0000/000000000001-000000000000.pk"),
            (name(1, 2, 3), "lts/9e/0001/000000000002-000000000003.pk"),
            (
                name(CONTAINER_MAX, NUMBER_MAX, NUMBER_MAX),
                "lts/db/ffff/ffffffffffff-ffffffffffff.pk",
            ),
        ];
        for (name, text) in spelt {
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse(), Ok(name));
        }
    }

    #[test]
    fn numbers_without_room_are_refused() {
        let too_high = [
            (CONTAINER_MAX + 1, 0, 0, "container"),
            (0, NUMBER_MAX + 1, 0, "epoch"),
            (0, 0, u64::MAX, "number"),
        ];
        for (container, epoch, n, wanted) in too_high {
            let refused = PackName::new(container, PackNumber { epoch, n });
            assert!(
                matches!(refused, Err(Error::NoRoomInName { what, .. }) if what == wanted),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn an_id_has_63_bits_and_sorts_as_packs_do() {
        let ids = [
            (0, 0),
            (0, u32::MAX.into()),
            (1, 0),
            ((1 << 31) - 1, u32::MAX.into()),
        ];
        let ids = ids.map(|(epoch, n)| PackId::new(epoch, n).unwrap());
        assert!(ids.is_sorted());
        for id in ids {
            assert_eq!(PackId::from_number(id.get()), Some(id));
            assert_eq!(id.name(3).unwrap().id(), Some(id));
        }
        assert_eq!(PackId::from_number(1 << 63), None);
        assert!(PackId::new(1 << 31, 0).is_err());
        assert!(PackId::new(0, 1 << 32).is_err());
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "lts/9e/0001/000000000002-000000000003",
            "lts/9e/0001/000000000002-000000000003.tmp",
            "/lts/9e/0001/000000000002-000000000003.pk",
            "wal/9e/0001/000000000002-000000000003.pk",
            "lts/9f/0001/000000000002-000000000003.pk",
            "lts/9E/0001/000000000002-000000000003.pk",
            "lts/9e/1/000000000002-000000000003.pk",
            "lts/9e/+001/000000000002-000000000003.pk",
            "lts/9e/00001/000000000002-000000000003.pk",
            "lts/9e/0001/00000000000A-000000000003.pk",
            "lts/9e/0001/2-3.pk",
            "lts/9e/0001/x/000000000002-000000000003.pk",
            "lts/9e/0001/000000000002-000000000003-000000000003.pk",
            "lts/ÿ/0001/000000000002-000000000003.pk",
        ] {
            assert_eq!(
                text.parse::<PackName>(),
                Err(Error::NotAPackName(text.to_owned()))
            );
        }
    }

    #[test]
    fn the_containers_of_a_store_are_spread_evenly() {
        let mut found = BTreeMap::<u32, usize>::new();
        for container in 0..1024 {
            *found.entry(spread(container)).or_default() += 1;
        }
        assert_eq!(found.len(), 256);
        assert!(
            found.values().all(|&count| (2..=6).contains(&count)),
            "{found:?}"
        );
    }

    proptest! {
        #[test]
        fn a_printed_name_parses_to_itself(name in names()) {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn names_are_equal_only_for_one_pack_and_sort_as_packs_do(a in names(), b in names()) {
            let (text_a, text_b) = (a.to_string(), b.to_string());
            prop_assert_eq!(a == b, text_a == text_b);
            let listed = text_b.starts_with(&a.container_prefix());
            prop_assert_eq!(a.container() == b.container(), listed);
            if a.container() == b.container() {
                prop_assert_eq!(a.cmp(&b), text_a.cmp(&text_b));
            }
        }

        #[test]
        fn any_text_parses_to_what_prints_the_same_or_not_at_all(
            text in "(lts/)?[0-9a-f+/-]{0,4}/[0-9a-f]{3,5}/[0-9a-f]{11,13}-[0-9a-f]{12}(\\.pk)?"
        ) {
            if let Ok(name) = text.parse::<PackName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
