//! A stream's states and the changes each allows.
//!
//! ```text
//! Creating ─▶ Active ─▶ Sealing ─▶ Sealed ─▶ Deleting ─▶ (gone)
//! ```
//! While Creating and Deleting a stream does not exist for clients: creation is not acknowledged yet,
//! and deletion cannot be taken back.

/// Where a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its segments are being made.
    Creating,
    /// It takes events.
    Active,
    /// Its segments are being sealed.
    Sealing,
    /// It takes no more events, and can be read.
    Sealed,
    /// Its segments are being deleted.
    Deleting,
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The stream does not exist, or no longer.
    NotThere,
    /// It takes no more changes.
    Sealed,
    /// It must be sealed first.
    NotSealed,
}

impl State {
    /// Whether it takes events.
    pub(crate) fn is_open(self) -> bool {
        self == Self::Active
    }

    /// Whether its configuration may change or its head be cut off.
    pub(crate) fn may_change(self) -> Result<(), Refusal> {
        match self {
            Self::Active => Ok(()),
            Self::Sealing | Self::Sealed => Err(Refusal::Sealed),
            Self::Creating | Self::Deleting => Err(Refusal::NotThere),
        }
    }

    /// Whether it may be deleted.
    pub(crate) fn may_be_deleted(self) -> Result<(), Refusal> {
        match self {
            Self::Sealed => Ok(()),
            Self::Active | Self::Sealing => Err(Refusal::NotSealed),
            Self::Creating | Self::Deleting => Err(Refusal::NotThere),
        }
    }
}
