//! Which segment store serves what: `hosts` from what stores say of themselves; `record` remembers how
//! many containers they share. Ranges are static: nothing moves from one store to another.

pub(crate) mod hosts;
pub(crate) mod record;
