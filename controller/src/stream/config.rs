//! What a stream's configuration may ask for, and its normal form.

use sarit_proto::controller::scaling_policy::ScalingPolicyType;
use sarit_proto::controller::{RetentionPolicy, ScalingPolicy, StreamConfig, Tags};

/// Most segments of one epoch: its record must fit into one transaction.
pub(crate) const SEGMENTS_MAX: i32 = 10_000;
/// Most tags of a stream, as the official client has it.
const TAGS_MAX: usize = 128;
/// Longest tag; part of a key.
const TAG_BYTES_MAX: usize = 256;

/// Checks a configuration and brings it into the form that is kept and shown: tags sorted and
/// present, no retention of unknown type, nothing negative where that means nothing.
///
/// # Errors
/// A sentence for the caller.
pub(crate) fn normalize(mut config: StreamConfig) -> Result<StreamConfig, String> {
    check_scaling(config.scaling_policy.as_ref())?;
    config.retention_policy = config.retention_policy.filter(is_policy);
    if let Some(policy) = &config.retention_policy {
        check_retention(policy)?;
    }
    let mut tags = config.tags.take().unwrap_or_default().tag;
    tags.sort_unstable();
    tags.dedup();
    check_tags(&tags)?;
    config.tags = Some(Tags { tag: tags });
    if config.timestamp_aggregation_timeout < 0 {
        let timeout = config.timestamp_aggregation_timeout;
        return Err(format!("timestamp aggregation timeout of {timeout} ms"));
    }
    config.rollover_size_bytes = config.rollover_size_bytes.max(0);
    Ok(config)
}

/// Returns how many segments a checked configuration starts with.
pub(crate) fn segments(config: &StreamConfig) -> usize {
    let policy = config.scaling_policy.as_ref();
    let count = policy.map_or(1, |policy| policy.min_num_segments);
    usize::try_from(count).unwrap_or(1)
}

/// Returns whether a stream with `active` segments satisfies the configuration as it is.
pub(crate) fn fits(config: &StreamConfig, active: usize) -> bool {
    let fixed = config
        .scaling_policy
        .is_none_or(|policy| policy.scale_type == ScalingPolicyType::FixedNumSegments as i32);
    let wanted = segments(config);
    if fixed {
        wanted == active
    } else {
        wanted <= active
    }
}

fn check_scaling(policy: Option<&ScalingPolicy>) -> Result<(), String> {
    let policy = policy.ok_or("a stream needs a scaling policy")?;
    let kind = ScalingPolicyType::try_from(policy.scale_type);
    let kind = kind.map_err(|_| format!("unknown scaling policy {}", policy.scale_type))?;
    let count = policy.min_num_segments;
    if !(1..=SEGMENTS_MAX).contains(&count) {
        return Err(format!(
            "a stream has 1 to {SEGMENTS_MAX} segments, {count} were asked for"
        ));
    }
    let by_rate = kind != ScalingPolicyType::FixedNumSegments;
    if by_rate && (policy.target_rate < 1 || policy.scale_factor < 1) {
        return Err(format!(
            "scaling by rate needs a target rate and a scale factor of at least 1, got {} and {}",
            policy.target_rate, policy.scale_factor
        ));
    }
    Ok(())
}

/// Clients that want no retention send the type 0, some with a maximum.
fn is_policy(policy: &RetentionPolicy) -> bool {
    policy.retention_type != 0
}

fn check_retention(policy: &RetentionPolicy) -> Result<(), String> {
    if !(1..=2).contains(&policy.retention_type) || policy.retention_param < 0 {
        return Err(format!(
            "retention of type {} with {}",
            policy.retention_type, policy.retention_param
        ));
    }
    Ok(())
}

fn check_tags(tags: &[String]) -> Result<(), String> {
    if tags.len() > TAGS_MAX {
        return Err(format!(
            "{} tags, at most {TAGS_MAX} are allowed",
            tags.len()
        ));
    }
    let wrong = |tag: &&String| tag.is_empty() || tag.len() > TAG_BYTES_MAX || tag.contains('\0');
    match tags.iter().find(wrong) {
        Some(tag) => Err(format!(
            "tag {tag:?}: a tag has 1 to {TAG_BYTES_MAX} bytes and no NUL"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(count: i32) -> StreamConfig {
        StreamConfig {
            scaling_policy: Some(ScalingPolicy {
                min_num_segments: count,
                ..ScalingPolicy::default()
            }),
            ..StreamConfig::default()
        }
    }

    #[test]
    fn fewer_than_one_segment_is_refused() {
        for count in [0, -1, i32::MIN, SEGMENTS_MAX + 1, i32::MAX] {
            assert!(normalize(fixed(count)).is_err(), "{count}");
        }
        assert!(normalize(StreamConfig::default()).is_err());
        assert!(normalize(fixed(1)).is_ok());
    }

    #[test]
    fn tags_come_back_sorted_and_single() {
        let mut config = fixed(1);
        let tag = ["b", "a", "b"].map(str::to_owned).to_vec();
        config.tags = Some(Tags { tag });
        assert_eq!(normalize(config).unwrap().tags.unwrap().tag, ["a", "b"]);
        assert!(normalize(fixed(1)).unwrap().tags.is_some());
    }

    #[test]
    fn a_retention_of_type_zero_is_none() {
        let mut config = fixed(1);
        config.retention_policy = Some(RetentionPolicy {
            retention_type: 0,
            retention_param: 0,
            retention_max: i64::MAX,
        });
        assert_eq!(normalize(config).unwrap().retention_policy, None);
    }

    #[test]
    fn a_fixed_stream_fits_only_its_own_count() {
        assert!(fits(&fixed(2), 2) && !fits(&fixed(2), 3) && !fits(&fixed(2), 1));
        let mut by_rate = fixed(2);
        let policy = by_rate.scaling_policy.as_mut().unwrap();
        policy.scale_type = ScalingPolicyType::ByRateInEventsPerSec as i32;
        assert!(fits(&by_rate, 3) && !fits(&by_rate, 1));
    }
}
