//! What a stream's configuration says about scaling by load.

use sarit_proto::controller::StreamConfig;
use sarit_proto::controller::scaling_policy::ScalingPolicyType;

/// A policy by load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// What is measured, as the protocol numbers it: 1 units of 1,024 bytes, 2 events.
    pub(crate) unit: i32,
    /// What one segment should get, per second; at least 1.
    pub(crate) target: u32,
    /// Into how many a segment is split at most; below 2 counts as 2.
    pub(crate) factor: u32,
    /// How many segments there are at least.
    pub(crate) segments_min: u32,
}

impl Policy {
    /// Returns a stream's policy, `None` if it scales only when told to.
    pub(crate) fn of(config: &StreamConfig) -> Option<Self> {
        let policy = config.scaling_policy?;
        if policy.scale_type == ScalingPolicyType::FixedNumSegments as i32 {
            return None;
        }
        let positive = |number: i32| u32::try_from(number).unwrap_or(0).max(1);
        Some(Self {
            unit: policy.scale_type,
            target: positive(policy.target_rate),
            factor: positive(policy.scale_factor),
            segments_min: positive(policy.min_num_segments),
        })
    }
}
