//! How a stream is configured: its number of segments, what it keeps, its tags.
//!
//! Values here are valid by construction; the controller's API carries rawer ones.

use std::collections::BTreeSet;

/// Most segments a stream may be created with.
pub const SEGMENTS_MAX: u32 = 65_536;
/// Most tags a stream may have.
pub const TAGS_MAX: usize = 128;
/// Longest tag, in characters.
pub const TAG_CHARACTERS_MAX: usize = 256;

/// A stream's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// How many segments it has, and when they are split and joined.
    pub scaling: ScalingPolicy,
    /// How much is kept; `None` keeps everything.
    pub retention: Option<RetentionPolicy>,
    /// Labels to find streams by.
    pub tags: BTreeSet<String>,
    /// After how many milliseconds a silent writer no longer holds watermarks back; 0 is never.
    pub timestamp_aggregation_timeout_ms: u64,
    /// Chunk size asked for, in bytes; kept for the client, otherwise unused. 0 is the default.
    pub rollover_bytes: u64,
}

impl StreamConfig {
    /// Returns a configuration with a fixed number of segments and nothing else.
    ///
    /// # Errors
    /// [`PolicyError::Segments`].
    pub fn fixed(segments: u32) -> Result<Self, PolicyError> {
        Ok(Self {
            scaling: ScalingPolicy::fixed(segments)?,
            retention: None,
            tags: BTreeSet::new(),
            timestamp_aggregation_timeout_ms: 0,
            rollover_bytes: 0,
        })
    }

    /// Checks number and length of tags.
    ///
    /// # Errors
    /// [`PolicyError::Tags`] or [`PolicyError::Tag`].
    pub fn check_tags(tags: &BTreeSet<String>) -> Result<(), PolicyError> {
        if tags.len() > TAGS_MAX {
            return Err(PolicyError::Tags(tags.len()));
        }
        match tags.iter().map(|tag| tag.chars().count()).max() {
            Some(longest) if longest > TAG_CHARACTERS_MAX => Err(PolicyError::Tag(longest)),
            _ => Ok(()),
        }
    }
}

/// Why numbers are no policy. Refused: the caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too few or too many.
    #[error("a stream of {0} segments, from 1 to {SEGMENTS_MAX} are allowed")]
    Segments(i64),
    /// A policy by rate needs one.
    #[error("a target rate of {0} per second, it must be positive")]
    Rate(i64),
    /// Into how many a segment is split.
    #[error("a scale factor of {0}, it must not be negative")]
    Factor(i64),
    /// Negative.
    #[error("retention of at least {0}, it must not be negative")]
    RetentionMin(i64),
    /// Below the minimum.
    #[error("retention of at most {max}, but at least {min}")]
    RetentionMax {
        /// The minimum.
        min: u64,
        /// The maximum.
        max: i64,
    },
    /// Too many.
    #[error("{0} tags, at most {TAGS_MAX} are allowed")]
    Tags(usize),
    /// Too long.
    #[error("a tag of {0} characters, at most {TAG_CHARACTERS_MAX} are allowed")]
    Tag(usize),
    /// Negative.
    #[error("a timestamp aggregation timeout of {0} ms, it must not be negative")]
    Timeout(i64),
}

/// What a segment's load is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateUnit {
    /// 1,024 bytes per second.
    Kilobytes,
    /// Events per second.
    Events,
}

/// When segments are split and joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalingPolicy {
    /// Only when asked to.
    Fixed {
        /// How many there are, in `1..=SEGMENTS_MAX`.
        segments: u32,
    },
    /// By the load of each.
    ByRate {
        /// What is measured.
        unit: RateUnit,
        /// What one segment should carry, per second; at least 1.
        target: u32,
        /// Into how many a hot segment is split; below 2 counts as 2.
        factor: u32,
        /// How many there are at first, and at least; in `1..=SEGMENTS_MAX`.
        segments_min: u32,
    },
}

impl ScalingPolicy {
    /// Returns a policy of a fixed number of segments.
    ///
    /// # Errors
    /// [`PolicyError::Segments`].
    pub fn fixed(segments: u32) -> Result<Self, PolicyError> {
        check_segments(segments.into()).map(|segments| Self::Fixed { segments })
    }

    /// Returns a policy by load.
    ///
    /// # Errors
    /// [`PolicyError::Rate`], [`PolicyError::Segments`].
    pub fn by_rate(
        unit: RateUnit,
        target: u32,
        factor: u32,
        segments_min: u32,
    ) -> Result<Self, PolicyError> {
        if target == 0 {
            return Err(PolicyError::Rate(0));
        }
        let segments_min = check_segments(segments_min.into())?;
        Ok(Self::ByRate {
            unit,
            target,
            factor,
            segments_min,
        })
    }

    /// Returns how many segments a new stream has, and any stream has at least.
    pub fn segments_min(self) -> u32 {
        match self {
            Self::Fixed { segments } => segments,
            Self::ByRate { segments_min, .. } => segments_min,
        }
    }
}

pub(crate) fn check_segments(segments: i64) -> Result<u32, PolicyError> {
    u32::try_from(segments)
        .ok()
        .filter(|n| (1..=SEGMENTS_MAX).contains(n))
        .ok_or(PolicyError::Segments(segments))
}

/// What a stream's age or size is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionUnit {
    /// Milliseconds since it was written.
    Milliseconds,
    /// Bytes behind it.
    Bytes,
}

/// How much of a stream is kept. Invariant: `min <= max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    unit: RetentionUnit,
    min: u64,
    max: Option<u64>,
}

impl RetentionPolicy {
    /// Keeps at least `min`, and, where readers are slow, at most `max`.
    ///
    /// # Errors
    /// [`PolicyError::RetentionMax`] if `max` is below `min`.
    pub fn new(unit: RetentionUnit, min: u64, max: Option<u64>) -> Result<Self, PolicyError> {
        match max {
            Some(max) if max < min => Err(PolicyError::RetentionMax {
                min,
                max: max as i64,
            }),
            _ => Ok(Self { unit, min, max }),
        }
    }

    /// Returns what `min` and `max` count.
    pub fn unit(self) -> RetentionUnit {
        self.unit
    }

    /// Returns how much is kept whatever happens.
    pub fn min(self) -> u64 {
        self.min
    }

    /// Returns how much is kept at most, even if somebody still wants to read it.
    pub fn max(self) -> Option<u64> {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_has_at_least_one_segment_and_a_bounded_number() {
        assert_eq!(ScalingPolicy::fixed(0), Err(PolicyError::Segments(0)));
        assert!(ScalingPolicy::fixed(SEGMENTS_MAX).is_ok());
        assert!(ScalingPolicy::fixed(SEGMENTS_MAX + 1).is_err());
        assert!(ScalingPolicy::by_rate(RateUnit::Events, 1, 2, 0).is_err());
    }

    #[test]
    fn a_policy_by_rate_needs_a_rate() {
        let policy = ScalingPolicy::by_rate(RateUnit::Kilobytes, 0, 2, 1);
        assert_eq!(policy, Err(PolicyError::Rate(0)));
    }

    #[test]
    fn retention_keeps_no_more_at_most_than_at_least() {
        let error = RetentionPolicy::new(RetentionUnit::Bytes, 2, Some(1)).expect_err("max < min");
        assert_eq!(error.to_string(), "retention of at most 1, but at least 2");
        assert!(RetentionPolicy::new(RetentionUnit::Bytes, 2, Some(2)).is_ok());
        assert!(RetentionPolicy::new(RetentionUnit::Bytes, 2, None).is_ok());
    }

    #[test]
    fn tags_are_bounded_in_number_and_length() {
        let tags = |n| (0..n).map(|i| i.to_string()).collect();
        assert_eq!(StreamConfig::check_tags(&tags(TAGS_MAX)), Ok(()));
        assert_eq!(
            StreamConfig::check_tags(&tags(TAGS_MAX + 1)),
            Err(PolicyError::Tags(129))
        );
        let long = ["é".repeat(257)].into();
        assert_eq!(StreamConfig::check_tags(&long), Err(PolicyError::Tag(257)));
    }
}
