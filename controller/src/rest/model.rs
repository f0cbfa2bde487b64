//! What requests and answers look like as JSON, and what they mean.

use sarit_proto::controller::retention_policy::RetentionPolicyType;
use sarit_proto::controller::scaling_policy::ScalingPolicyType;
use sarit_proto::controller::{RetentionPolicy, ScalingPolicy, StreamConfig, StreamInfo, Tags};
use sarit_proto::names::ScopedStream;
use serde::{Deserialize, Serialize};

use super::Refusal;

const MIB: i64 = 1 << 20;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Most days that are a number of milliseconds, and most MB.
const VALUE_MAX: i64 = i64::MAX / DAY_MS;
/// Most hours or minutes beside days.
const PARTS_MAX: i64 = 1_000_000_000;

#[derive(Serialize)]
pub(super) struct ScopesList {
    pub(super) scopes: Vec<ScopeProperty>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScopeProperty {
    pub(super) scope_name: String,
}

#[derive(Serialize)]
pub(super) struct StreamsList {
    pub(super) streams: Vec<StreamProperty>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamProperty {
    scope_name: String,
    stream_name: String,
    scaling_policy: ScalingConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_policy: Option<RetentionConfig>,
    tags: Vec<String>,
    timestamp_aggregation_timeout: i64,
    rollover_size_bytes: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateStream {
    pub(super) stream_name: String,
    #[serde(flatten)]
    pub(super) config: Configured,
}

/// What a stream is configured to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Configured {
    scaling_policy: ScalingConfig,
    #[serde(default)]
    retention_policy: Option<RetentionConfig>,
    #[serde(default)]
    stream_tags: Option<Vec<String>>,
    #[serde(default)]
    timestamp_aggregation_timeout: Option<i64>,
    #[serde(default)]
    rollover_size_bytes: Option<i64>,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum ScaleType {
    FixedNumSegments,
    ByRateInKbytesPerSec,
    ByRateInEventsPerSec,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScalingConfig {
    #[serde(rename = "type")]
    kind: ScaleType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_rate: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scale_factor: Option<i32>,
    min_segments: i32,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum RetentionType {
    LimitedDays,
    LimitedSizeMb,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct RetentionConfig {
    #[serde(rename = "type")]
    kind: RetentionType,
    #[serde(default)]
    value: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time_based_retention: Option<TimeBased>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_value: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_time_based_retention: Option<TimeBased>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(default)]
struct TimeBased {
    days: i64,
    hours: i64,
    minutes: i64,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamState {
    pub(super) stream_state: SettableState,
}

/// The only state a stream can be put into.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum SettableState {
    Sealed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScalingEventList {
    pub(super) scaling_events: Vec<ScaleMetadata>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScaleMetadata {
    pub(super) timestamp: i64,
    pub(super) segment_list: Vec<Segment>,
    pub(super) splits: i64,
    pub(super) merges: i64,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Segment {
    pub(super) number: i32,
    pub(super) start_time: i64,
    pub(super) key_start: f64,
    pub(super) key_end: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReaderGroupsList {
    pub(super) reader_groups: Vec<ReaderGroupName>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReaderGroupName {
    pub(super) reader_group_name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReaderGroupProperty {
    pub(super) scope_name: String,
    pub(super) reader_group_name: String,
    pub(super) stream_list: Vec<String>,
    pub(super) online_reader_ids: Vec<String>,
}

impl Configured {
    /// Returns the configuration as the controller's API has it; the rules are checked there.
    pub(super) fn of(self, scope: String, stream: String) -> Result<StreamConfig, Refusal> {
        let retention_policy = self
            .retention_policy
            .map(RetentionConfig::policy)
            .transpose()?;
        let timeout = self.timestamp_aggregation_timeout.unwrap_or(0);
        let rollover = self.rollover_size_bytes.unwrap_or(0);
        if timeout < 0 || rollover < 0 {
            return Err(Refusal::bad(
                "timestampAggregationTimeout and rolloverSizeBytes are not negative",
            ));
        }
        Ok(StreamConfig {
            stream_info: Some(StreamInfo {
                scope,
                stream,
                access_operation: 0,
            }),
            scaling_policy: Some(self.scaling_policy.policy()),
            retention_policy,
            tags: Some(Tags {
                tag: self.stream_tags.unwrap_or_default(),
            }),
            timestamp_aggregation_timeout: timeout,
            rollover_size_bytes: rollover,
        })
    }
}

impl ScalingConfig {
    fn policy(&self) -> ScalingPolicy {
        let kind = match self.kind {
            ScaleType::FixedNumSegments => ScalingPolicyType::FixedNumSegments,
            ScaleType::ByRateInKbytesPerSec => ScalingPolicyType::ByRateInKbytesPerSec,
            ScaleType::ByRateInEventsPerSec => ScalingPolicyType::ByRateInEventsPerSec,
        };
        ScalingPolicy {
            scale_type: kind as i32,
            target_rate: self.target_rate.unwrap_or(0),
            scale_factor: self.scale_factor.unwrap_or(0),
            min_num_segments: self.min_segments,
        }
    }

    fn shown(policy: &ScalingPolicy) -> Self {
        let kind = match ScalingPolicyType::try_from(policy.scale_type) {
            Ok(ScalingPolicyType::ByRateInKbytesPerSec) => ScaleType::ByRateInKbytesPerSec,
            Ok(ScalingPolicyType::ByRateInEventsPerSec) => ScaleType::ByRateInEventsPerSec,
            Ok(ScalingPolicyType::FixedNumSegments) | Err(_) => ScaleType::FixedNumSegments,
        };
        let by_rate = !matches!(kind, ScaleType::FixedNumSegments);
        Self {
            kind,
            target_rate: by_rate.then_some(policy.target_rate),
            scale_factor: by_rate.then_some(policy.scale_factor),
            min_segments: policy.min_num_segments,
        }
    }
}

impl RetentionConfig {
    fn policy(self) -> Result<RetentionPolicy, Refusal> {
        let too_much = || Refusal::bad("retentionPolicy: out of range");
        if !self.is_in_range() {
            return Err(too_much());
        }
        let (kind, least, most) = match self.kind {
            RetentionType::LimitedSizeMb => {
                let bytes = |value: i64| value.checked_mul(MIB).filter(|bytes| *bytes >= 0);
                let most = self.max_value.map(|most| bytes(most).ok_or_else(too_much));
                let least = bytes(self.value).ok_or_else(too_much)?;
                (RetentionPolicyType::Size, least, most.transpose()?)
            }
            RetentionType::LimitedDays => {
                let least = span(self.value, self.time_based_retention).ok_or_else(too_much)?;
                let given = self.max_value.is_some() || self.max_time_based_retention.is_some();
                let most =
                    given.then(|| span(self.max_value.unwrap_or(0), self.max_time_based_retention));
                let most = most.map(|most| most.ok_or_else(too_much)).transpose()?;
                (RetentionPolicyType::Time, least, most)
            }
        };
        if most.is_some_and(|most| most < least) {
            return Err(Refusal::bad(
                "retentionPolicy: the most is less than the least",
            ));
        }
        Ok(RetentionPolicy {
            retention_type: kind as i32,
            retention_param: least,
            retention_max: most.unwrap_or(i64::MAX),
        })
    }

    /// Whether every number is one of those described, also those that do not count.
    fn is_in_range(&self) -> bool {
        let values = [Some(self.value), self.max_value];
        let parts = [self.time_based_retention, self.max_time_based_retention];
        let mut values = values.into_iter().flatten();
        let mut parts = parts.into_iter().flatten();
        values.all(|value| (0..=VALUE_MAX).contains(&value))
            && parts.all(|part| {
                (0..=VALUE_MAX).contains(&part.days)
                    && (0..=PARTS_MAX).contains(&part.hours)
                    && (0..=PARTS_MAX).contains(&part.minutes)
            })
    }

    fn shown(policy: &RetentionPolicy) -> Option<Self> {
        let most = Some(policy.retention_max).filter(|most| (1..i64::MAX).contains(most));
        let whole = |ms: i64| if ms % DAY_MS == 0 { ms / DAY_MS } else { 0 };
        match RetentionPolicyType::try_from(policy.retention_type) {
            Ok(RetentionPolicyType::Size) => Some(Self {
                kind: RetentionType::LimitedSizeMb,
                value: policy.retention_param / MIB,
                time_based_retention: None,
                max_value: most.map(|bytes| bytes / MIB),
                max_time_based_retention: None,
            }),
            Ok(RetentionPolicyType::Time) => Some(Self {
                kind: RetentionType::LimitedDays,
                // Days, if it is whole days; else 0 and the parts beside it.
                value: whole(policy.retention_param),
                time_based_retention: Some(TimeBased::of(policy.retention_param)),
                max_value: most.map(whole),
                max_time_based_retention: most.map(TimeBased::of),
            }),
            Ok(RetentionPolicyType::Unknown) | Err(_) => None,
        }
    }
}

/// Returns milliseconds: of days, or of the parts if there are no days.
fn span(days: i64, parts: Option<TimeBased>) -> Option<i64> {
    let parts = match parts {
        Some(parts) if days == 0 => parts,
        _ => TimeBased {
            days,
            ..TimeBased::default()
        },
    };
    let product = |value: i64, unit: i64| value.checked_mul(unit).filter(|ms| *ms >= 0);
    product(parts.days, DAY_MS)?
        .checked_add(product(parts.hours, HOUR_MS)?)?
        .checked_add(product(parts.minutes, MINUTE_MS)?)
}

impl TimeBased {
    fn of(ms: i64) -> Self {
        Self {
            days: ms / DAY_MS,
            hours: ms % DAY_MS / HOUR_MS,
            minutes: ms % HOUR_MS / MINUTE_MS,
        }
    }
}

impl StreamProperty {
    pub(super) fn of(stream: &ScopedStream, config: StreamConfig) -> Self {
        let retention = config.retention_policy.as_ref();
        Self {
            scope_name: stream.scope.to_string(),
            stream_name: stream.stream.to_string(),
            scaling_policy: ScalingConfig::shown(&config.scaling_policy.unwrap_or_default()),
            retention_policy: retention.and_then(RetentionConfig::shown),
            tags: config.tags.unwrap_or_default().tag,
            timestamp_aggregation_timeout: config.timestamp_aggregation_timeout,
            rollover_size_bytes: config.rollover_size_bytes,
        }
    }
}
