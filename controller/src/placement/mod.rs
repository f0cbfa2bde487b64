//! Which segment store serves what. One store serves everything so far.

pub(crate) mod hosts;
