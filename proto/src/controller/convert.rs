//! Between the controller's messages and our own types.
//!
//! Messages come from anywhere: what our types cannot hold is an error that names the field. Ours go
//! out in the form in which the official controller sends them.

use std::collections::BTreeMap;

use super::{
    KeyValueTableInfo, NodeUri, RetentionPolicy, ScalingPolicy, ScopeInfo, SegmentId, SegmentRange,
    StreamConfig, StreamCut, StreamInfo, Tags, TxnId, retention_policy,
    scale_request::KeyRangeEntry, scaling_policy, stream_info::AccessOperation,
};
use crate::ids::{self, TransactionId};
use crate::key_range::{KeyRange, KeyRangeError};
use crate::names::{NameError, ScopeName, ScopedStream, StreamName, StreamSegment};
use crate::policy::{self, PolicyError, RateUnit, RetentionUnit};
use crate::stream_cut::{self, CutError};

/// Why a message means nothing. Refused: `INVALID_ARGUMENT`, or the call's own status for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number outside of its enumeration.
    #[error("{field} {number} is unknown")]
    Unknown {
        /// The field.
        field: &'static str,
        /// What it holds.
        number: i32,
    },
    /// A negative epoch or number.
    #[error("segment id {0:#x} has a negative part")]
    SegmentId(i64),
    /// No host and port.
    #[error("{endpoint:?}, port {port}, is no address")]
    Address {
        /// The host.
        endpoint: String,
        /// The port.
        port: i32,
    },
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A configuration that cannot be.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A range that cannot be.
    #[error(transparent)]
    KeyRange(#[from] KeyRangeError),
    /// A cut that cannot be.
    #[error(transparent)]
    Cut(#[from] CutError),
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// Returns a field that must be there.
///
/// # Errors
/// [`ConvertError::Missing`] with the field's name.
pub fn required<'a, T>(value: &'a Option<T>, field: &'static str) -> Result<&'a T, ConvertError> {
    value.as_ref().ok_or(ConvertError::Missing(field))
}

// Scopes and streams. Names that may occur are taken: whoever creates something checks more.

impl From<&ScopeName> for ScopeInfo {
    fn from(scope: &ScopeName) -> Self {
        Self {
            scope: scope.to_string(),
        }
    }
}

impl TryFrom<&ScopeInfo> for ScopeName {
    type Error = ConvertError;

    fn try_from(info: &ScopeInfo) -> Result<Self, ConvertError> {
        Ok(Self::occurring(info.scope.as_str())?)
    }
}

impl From<&ScopedStream> for StreamInfo {
    fn from(name: &ScopedStream) -> Self {
        Self {
            scope: name.scope.to_string(),
            stream: name.stream.to_string(),
            access_operation: AccessOperation::Unspecified.into(),
        }
    }
}

impl TryFrom<&StreamInfo> for ScopedStream {
    type Error = ConvertError;

    fn try_from(info: &StreamInfo) -> Result<Self, ConvertError> {
        Ok(Self {
            scope: ScopeName::occurring(info.scope.as_str())?,
            stream: StreamName::occurring(info.stream.as_str())?,
        })
    }
}

/// Returns the stream that a message is about.
///
/// # Errors
/// If the field is missing or its names cannot be.
pub fn stream_of(info: &Option<StreamInfo>) -> Result<ScopedStream, ConvertError> {
    required(info, "streamInfo")?.try_into()
}

impl From<&ScopedStream> for KeyValueTableInfo {
    fn from(name: &ScopedStream) -> Self {
        Self {
            scope: name.scope.to_string(),
            kvt_name: name.stream.to_string(),
        }
    }
}

impl TryFrom<&KeyValueTableInfo> for ScopedStream {
    type Error = ConvertError;

    fn try_from(info: &KeyValueTableInfo) -> Result<Self, ConvertError> {
        Ok(Self {
            scope: ScopeName::occurring(info.scope.as_str())?,
            stream: StreamName::occurring(info.kvt_name.as_str())?,
        })
    }
}

// Configuration.

impl StreamConfig {
    /// Puts the message of a stream's configuration together.
    pub fn new(stream: &ScopedStream, config: &policy::StreamConfig) -> Self {
        Self {
            stream_info: Some(stream.into()),
            scaling_policy: Some(config.scaling.into()),
            retention_policy: config.retention.map(Into::into),
            tags: Some(Tags {
                tag: config.tags.iter().cloned().collect(),
            }),
            timestamp_aggregation_timeout: clamp(config.timestamp_aggregation_timeout_ms),
            rollover_size_bytes: clamp(config.rollover_bytes),
        }
    }
}

/// Reads everything but the stream's name. A negative rollover size counts as none.
impl TryFrom<&StreamConfig> for policy::StreamConfig {
    type Error = ConvertError;

    fn try_from(config: &StreamConfig) -> Result<Self, ConvertError> {
        let retention = match &config.retention_policy {
            Some(retention) => retention_from(retention)?,
            None => None,
        };
        let timeout = config.timestamp_aggregation_timeout;
        let tags = config.tags.iter().flat_map(|tags| &tags.tag);
        let tags = tags.cloned().collect();
        Self::check_tags(&tags)?;
        Ok(Self {
            scaling: required(&config.scaling_policy, "scalingPolicy")?.try_into()?,
            retention,
            tags,
            timestamp_aggregation_timeout_ms: u64::try_from(timeout)
                .map_err(|_| PolicyError::Timeout(timeout))?,
            rollover_bytes: u64::try_from(config.rollover_size_bytes).unwrap_or(0),
        })
    }
}

impl From<policy::ScalingPolicy> for ScalingPolicy {
    fn from(policy: policy::ScalingPolicy) -> Self {
        use scaling_policy::ScalingPolicyType as Type;
        let (scale_type, target, factor, segments) = match policy {
            policy::ScalingPolicy::Fixed { segments } => (Type::FixedNumSegments, 0, 0, segments),
            policy::ScalingPolicy::ByRate {
                unit,
                target,
                factor,
                segments_min,
            } => {
                let scale_type = match unit {
                    RateUnit::Kilobytes => Type::ByRateInKbytesPerSec,
                    RateUnit::Events => Type::ByRateInEventsPerSec,
                };
                (scale_type, target, factor, segments_min)
            }
        };
        Self {
            scale_type: scale_type.into(),
            target_rate: i32::try_from(target).unwrap_or(i32::MAX),
            scale_factor: i32::try_from(factor).unwrap_or(i32::MAX),
            min_num_segments: i32::try_from(segments).unwrap_or(i32::MAX),
        }
    }
}

impl TryFrom<&ScalingPolicy> for policy::ScalingPolicy {
    type Error = ConvertError;

    fn try_from(message: &ScalingPolicy) -> Result<Self, ConvertError> {
        use scaling_policy::ScalingPolicyType as Type;
        let number = message.scale_type;
        let scale_type = Type::try_from(number).map_err(|_| ConvertError::Unknown {
            field: "scaleType",
            number,
        })?;
        let segments = policy::check_segments(message.min_num_segments.into())?;
        let unit = match scale_type {
            Type::FixedNumSegments => return Ok(Self::fixed(segments)?),
            Type::ByRateInKbytesPerSec => RateUnit::Kilobytes,
            Type::ByRateInEventsPerSec => RateUnit::Events,
        };
        let (target, factor) = (message.target_rate, message.scale_factor);
        let target = u32::try_from(target).map_err(|_| PolicyError::Rate(target.into()))?;
        let factor = u32::try_from(factor).map_err(|_| PolicyError::Factor(factor.into()))?;
        Ok(Self::by_rate(unit, target, factor, segments)?)
    }
}

impl From<policy::RetentionPolicy> for RetentionPolicy {
    fn from(policy: policy::RetentionPolicy) -> Self {
        use retention_policy::RetentionPolicyType as Type;
        let retention_type = match policy.unit() {
            RetentionUnit::Milliseconds => Type::Time,
            RetentionUnit::Bytes => Type::Size,
        };
        Self {
            retention_type: retention_type.into(),
            retention_param: clamp(policy.min()),
            retention_max: policy.max().map_or(i64::MAX, clamp),
        }
    }
}

/// Reads a retention policy; `None` if the message says that there is none. No maximum is `i64::MAX`,
/// or 0 from clients that know no maximum.
///
/// # Errors
/// An unknown type, or numbers that are negative or contradict each other.
pub fn retention_from(
    message: &RetentionPolicy,
) -> Result<Option<policy::RetentionPolicy>, ConvertError> {
    use retention_policy::RetentionPolicyType as Type;
    let number = message.retention_type;
    let retention_type = Type::try_from(number).map_err(|_| ConvertError::Unknown {
        field: "retentionType",
        number,
    })?;
    let unit = match retention_type {
        Type::Unknown => return Ok(None),
        Type::Time => RetentionUnit::Milliseconds,
        Type::Size => RetentionUnit::Bytes,
    };
    let (min, max) = (message.retention_param, message.retention_max);
    let min = u64::try_from(min).map_err(|_| PolicyError::RetentionMin(min))?;
    let max = match max {
        0 | i64::MAX => None,
        max => Some(u64::try_from(max).map_err(|_| PolicyError::RetentionMax { min, max })?),
    };
    Ok(Some(policy::RetentionPolicy::new(unit, min, max)?))
}

/// Our numbers of bytes and milliseconds come from signed ones; one that does not fit is as good as
/// unlimited.
fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

// Segments.

impl From<&StreamSegment> for SegmentId {
    fn from(segment: &StreamSegment) -> Self {
        Self {
            stream_info: Some((&segment.stream).into()),
            segment_id: segment.id.0,
        }
    }
}

impl TryFrom<&SegmentId> for StreamSegment {
    type Error = ConvertError;

    fn try_from(message: &SegmentId) -> Result<Self, ConvertError> {
        Ok(Self {
            stream: stream_of(&message.stream_info)?,
            id: segment_id(message.segment_id)?,
        })
    }
}

/// Returns a segment's id, as messages carry it without a stream.
///
/// # Errors
/// If its epoch or number is negative.
pub fn segment_id(raw: i64) -> Result<ids::SegmentId, ConvertError> {
    ids::SegmentId::parse(raw).ok_or(ConvertError::SegmentId(raw))
}

impl SegmentRange {
    /// Puts the message of a segment and its keys together.
    pub fn new(segment: &StreamSegment, range: KeyRange) -> Self {
        Self {
            segment_id: Some(segment.into()),
            min_key: range.start().to_f64(),
            max_key: range.end().to_f64(),
        }
    }

    /// Reads the segment and its keys. An end a rounding error above 1 counts as 1, as it does in the
    /// official client.
    ///
    /// # Errors
    /// If the segment is missing or cannot be, or the range is none.
    pub fn parts(&self) -> Result<(StreamSegment, KeyRange), ConvertError> {
        let segment = required(&self.segment_id, "segmentId")?.try_into()?;
        let end = match self.max_key {
            end if (1.0..1.000_01).contains(&end) => 1.0,
            end => end,
        };
        Ok((segment, KeyRange::from_f64(self.min_key, end)?))
    }
}

impl From<KeyRange> for KeyRangeEntry {
    fn from(range: KeyRange) -> Self {
        Self {
            start: range.start().to_f64(),
            end: range.end().to_f64(),
        }
    }
}

impl TryFrom<&KeyRangeEntry> for KeyRange {
    type Error = ConvertError;

    fn try_from(message: &KeyRangeEntry) -> Result<Self, ConvertError> {
        Ok(Self::from_f64(message.start, message.end)?)
    }
}

impl NodeUri {
    /// Reads host and port.
    ///
    /// # Errors
    /// If there is no host, or the port is none.
    pub fn address(&self) -> Result<(&str, u16), ConvertError> {
        let port = u16::try_from(self.port).ok().filter(|port| *port != 0);
        let host = Some(self.endpoint.as_str()).filter(|host| !host.is_empty());
        host.zip(port).ok_or_else(|| ConvertError::Address {
            endpoint: self.endpoint.clone(),
            port: self.port,
        })
    }
}

// Cuts.

impl From<&stream_cut::StreamCut> for StreamCut {
    fn from(cut: &stream_cut::StreamCut) -> Self {
        Self {
            stream_info: Some((&cut.stream).into()),
            cut: cut_map(cut),
        }
    }
}

/// An empty map is an empty cut; where it means "unbounded", the caller knows.
impl TryFrom<&StreamCut> for stream_cut::StreamCut {
    type Error = ConvertError;

    fn try_from(message: &StreamCut) -> Result<Self, ConvertError> {
        let stream = stream_of(&message.stream_info)?;
        cut_from(stream, &message.cut)
    }
}

/// Returns a cut as a bare map.
pub fn cut_map(cut: &stream_cut::StreamCut) -> BTreeMap<i64, i64> {
    let positions = cut.positions.iter();
    positions
        .map(|(id, position)| (id.0, position.to_raw()))
        .collect()
}

/// Reads a cut from a bare map.
///
/// # Errors
/// A segment or an offset that cannot be.
pub fn cut_from(
    stream: ScopedStream,
    map: &BTreeMap<i64, i64>,
) -> Result<stream_cut::StreamCut, ConvertError> {
    let pairs = map.iter().map(|(id, offset)| (*id, *offset));
    Ok(stream_cut::StreamCut::from_raw(stream, pairs)?)
}

// Transactions.

impl From<TransactionId> for TxnId {
    fn from(id: TransactionId) -> Self {
        Self {
            high_bits: id.high(),
            low_bits: id.low(),
        }
    }
}

impl From<&TxnId> for TransactionId {
    fn from(message: &TxnId) -> Self {
        Self::from_parts(message.high_bits, message.low_bits)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = (0..text.len()).step_by(2);
        digits
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
            .collect()
    }

    #[test]
    fn a_recorded_configuration_converts_there_and_back() {
        // The stream has a retention policy, tags, a timeout and a rollover size.
        let bytes = hex(
            "0a0f0a066773636f706512057372617465120808021064180320021a0f080210e80718ffffffffffffffff7f\
             22060a01610a01622805308008",
        );
        let message = StreamConfig::decode(&bytes[..]).expect("a message");
        let config = policy::StreamConfig::try_from(&message).expect("a configuration");
        let scaling = policy::ScalingPolicy::by_rate(RateUnit::Events, 100, 3, 2);
        assert_eq!(Ok(config.scaling), scaling);
        let retention = policy::RetentionPolicy::new(RetentionUnit::Bytes, 1000, None);
        assert_eq!(config.retention, retention.ok());
        assert_eq!(config.timestamp_aggregation_timeout_ms, 5);
        assert_eq!(config.rollover_bytes, 1024);
        let stream = stream_of(&message.stream_info).expect("a stream");
        assert_eq!(StreamConfig::new(&stream, &config).encode_to_vec(), bytes);
    }

    #[test]
    fn a_configuration_without_segments_is_refused() {
        let mut message = StreamConfig::default();
        let refused = |message: &StreamConfig| {
            let refused = policy::StreamConfig::try_from(message);
            refused.expect_err("no configuration").to_string()
        };
        assert_eq!(refused(&message), "scalingPolicy is missing");
        let mut scaling = ScalingPolicy::default();
        message.scaling_policy = Some(scaling);
        assert_eq!(
            refused(&message),
            "a stream of 0 segments, from 1 to 65536 are allowed"
        );
        scaling.min_num_segments = 1;
        scaling.scale_type = 7;
        message.scaling_policy = Some(scaling);
        assert_eq!(refused(&message), "scaleType 7 is unknown");
        scaling.scale_type = 1;
        message.scaling_policy = Some(scaling);
        assert_eq!(
            refused(&message),
            "a target rate of 0 per second, it must be positive"
        );
    }

    #[test]
    fn retention_of_an_unknown_type_is_none() {
        let none = RetentionPolicy {
            retention_type: 0,
            retention_param: 0,
            retention_max: i64::MAX,
        };
        assert_eq!(retention_from(&none), Ok(None));
        let negative = RetentionPolicy {
            retention_type: 1,
            retention_param: -1,
            retention_max: 0,
        };
        assert!(retention_from(&negative).is_err());
    }

    #[test]
    fn a_segment_and_its_keys_convert_there_and_back() {
        let segment: StreamSegment = "s/t/3.#epoch.1".parse().expect("a segment");
        let range = KeyRange::FULL.split(3).expect("thirds")[1];
        let message = SegmentRange::new(&segment, range);
        assert_eq!(message.parts(), Ok((segment, range)));
        let above = SegmentRange {
            max_key: 1.000_001,
            ..message.clone()
        };
        assert_eq!(
            above.parts().map(|(_, range)| range.end().to_f64()),
            Ok(1.0)
        );
        let far_above = SegmentRange {
            max_key: 1.1,
            ..message
        };
        assert!(far_above.parts().is_err());
    }

    #[test]
    fn a_cut_converts_there_and_back_and_a_bad_one_is_refused() {
        let stream: ScopedStream = "s/t".parse().expect("a stream");
        let map: BTreeMap<i64, i64> = [(0, 5), (1 << 32 | 1, -1)].into();
        let cut = cut_from(stream.clone(), &map).expect("a cut");
        assert_eq!(cut_map(&cut), map);
        assert_eq!(
            stream_cut::StreamCut::try_from(&StreamCut::from(&cut)),
            Ok(cut)
        );
        let error = cut_from(stream, &[(0, -2)].into()).expect_err("no offset");
        assert_eq!(error.to_string(), "a stream cut with offset -2");
    }

    #[test]
    fn a_missing_or_impossible_stream_is_an_invalid_argument() {
        let error = stream_of(&None).expect_err("nothing there");
        assert_eq!(error.to_string(), "streamInfo is missing");
        let info = StreamInfo {
            scope: "s/..".to_owned(),
            ..StreamInfo::default()
        };
        let status = tonic::Status::from(stream_of(&Some(info)).expect_err("no name"));
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("'/'"), "{}", status.message());
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let uri = |endpoint: &str, port| NodeUri {
            endpoint: endpoint.to_owned(),
            port,
        };
        assert_eq!(uri("localhost", 6000).address(), Ok(("localhost", 6000)));
        for bad in [uri("", 1), uri("a", 0), uri("a", -1), uri("a", 65_536)] {
            assert!(bad.address().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn transaction_ids_convert_there_and_back() {
        let id = TransactionId::from_parts(-1, 7);
        assert_eq!(TransactionId::from(&TxnId::from(id)), id);
    }
}
