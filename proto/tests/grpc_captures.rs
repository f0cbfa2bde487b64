//! What official clients and the official controller said to each other: every message is understood
//! without rest. `golden/captures/grpc-*`, see the README there.

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use sarit_proto::controller::*;

fn decode_hex(text: &str) -> Vec<u8> {
    if text == "-" {
        return Vec::new();
    }
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex"))
        .collect()
}

/// Whether the message is read without rest and written back the same.
///
/// The official side writes zeros inside of maps (segment 0, offset 0), and maps in an order of its own.
/// Both mean nothing, so messages that differ are compared without zeros and in order of their fields.
fn written_back<M: Message + Default + PartialEq>(bytes: &[u8]) -> bool {
    let message = M::decode(bytes).expect("a message");
    let written = message.encode_to_vec();
    let again = M::decode(&written[..]).expect("our own message");
    again == message && (written == bytes || normal(&written) == normal(bytes))
}

/// The message's fields, sorted, without zeros; what can be read as a message is treated as one.
fn normal(bytes: &[u8]) -> Option<Vec<(u32, Vec<u8>)>> {
    let mut rest = bytes;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).ok()?;
        let before = rest;
        if wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            let (value, behind) = rest.split_at_checked(length)?;
            rest = behind;
            let value = match normal(value) {
                Some(fields) => format!("{fields:?}").into_bytes(),
                None => value.to_vec(),
            };
            fields.push((tag, value));
        } else {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
            let value = &before[..before.len() - rest.len()];
            if value != [0] {
                fields.push((tag, value.to_vec()));
            }
        }
    }
    fields.sort();
    Some(fields)
}

macro_rules! calls {
    ($($name:literal => $request:ty, $response:ty;)*) => {
        /// Whether request or response of the call is written back the same.
        fn check(call: &str, is_request: bool, bytes: &[u8]) -> bool {
            match (call, is_request) {
                $(($name, true) => written_back::<$request>(bytes),
                  ($name, false) => written_back::<$response>(bytes),)*
                _ => panic!("no call {call}"),
            }
        }
        const CALLS: &[&str] = &[$($name),*];
    };
}

calls! {
    "getControllerServerList" => ServerRequest, ServerResponse;
    "getControllerToBucketMapping" => ControllerToBucketMappingRequest, ControllerToBucketMappingResponse;
    "createScope" => ScopeInfo, CreateScopeStatus;
    "deleteScope" => ScopeInfo, DeleteScopeStatus;
    "deleteScopeRecursive" => ScopeInfo, DeleteScopeStatus;
    "listScopes" => ScopesRequest, ScopesResponse;
    "checkScopeExists" => ScopeInfo, ExistsResponse;
    "createStream" => StreamConfig, CreateStreamStatus;
    "updateStream" => StreamConfig, UpdateStreamStatus;
    "truncateStream" => StreamCut, UpdateStreamStatus;
    "sealStream" => StreamInfo, UpdateStreamStatus;
    "deleteStream" => StreamInfo, DeleteStreamStatus;
    "getStreamConfiguration" => StreamInfo, StreamConfig;
    "checkStreamExists" => StreamInfo, ExistsResponse;
    "listStreamsInScope" => StreamsInScopeRequest, StreamsInScopeResponse;
    "listStreamsInScopeForTag" => StreamsInScopeWithTagRequest, StreamsInScopeResponse;
    "getCurrentSegments" => StreamInfo, SegmentRanges;
    "getEpochSegments" => GetEpochSegmentsRequest, SegmentRanges;
    "getSegments" => GetSegmentsRequest, SegmentsAtTime;
    "getSegmentsImmediatlyFollowing" => SegmentId, SuccessorResponse;
    "getSegmentsImmediatelyFollowing" => SegmentId, SuccessorResponse;
    "getSegmentsBetween" => StreamCutRange, StreamCutRangeResponse;
    "getURI" => SegmentId, NodeUri;
    "isSegmentValid" => SegmentId, SegmentValidityResponse;
    "isStreamCutValid" => StreamCut, StreamCutValidityResponse;
    "getDelegationToken" => StreamInfo, DelegationToken;
    "scale" => ScaleRequest, ScaleResponse;
    "checkScale" => ScaleStatusRequest, ScaleStatusResponse;
    "createTransaction" => CreateTxnRequest, CreateTxnResponse;
    "commitTransaction" => TxnRequest, TxnStatus;
    "abortTransaction" => TxnRequest, TxnStatus;
    "pingTransaction" => PingTxnRequest, PingTxnStatus;
    "checkTransactionState" => TxnRequest, TxnState;
    "listCompletedTransactions" => ListCompletedTxnRequest, ListCompletedTxnResponse;
    "noteTimestampFromWriter" => TimestampFromWriter, TimestampResponse;
    "removeWriter" => RemoveWriterRequest, RemoveWriterResponse;
    "createKeyValueTable" => KeyValueTableConfig, CreateKeyValueTableStatus;
    "getCurrentSegmentsKeyValueTable" => KeyValueTableInfo, SegmentRanges;
    "listKeyValueTablesInScope" => KvTablesInScopeRequest, KvTablesInScopeResponse;
    "getKeyValueTableConfiguration" => KeyValueTableInfo, KeyValueTableConfigResponse;
    "deleteKeyValueTable" => KeyValueTableInfo, DeleteKvTableStatus;
    "createReaderGroup" => ReaderGroupConfiguration, CreateReaderGroupResponse;
    "updateReaderGroup" => ReaderGroupConfiguration, UpdateReaderGroupResponse;
    "getReaderGroupConfig" => ReaderGroupInfo, ReaderGroupConfigResponse;
    "deleteReaderGroup" => ReaderGroupInfo, DeleteReaderGroupStatus;
    "listSubscribers" => StreamInfo, SubscribersResponse;
    "updateSubscriberStreamCut" => SubscriberStreamCut, UpdateSubscriberStatus;
}

#[test]
fn every_recorded_message_is_read_without_rest_and_written_back() {
    let mut messages = 0;
    for file in ["errors", "java", "python", "rust"] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/captures");
        let text =
            std::fs::read_to_string(format!("{folder}/grpc-{file}.txt")).expect("a recording");
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            let [call, request, response, ..] = words[..] else {
                assert!(
                    line.is_empty() || line.starts_with('#'),
                    "grpc-{file}: {line}"
                );
                continue;
            };
            if call.starts_with('#') || request.contains("...") {
                continue;
            }
            let place = format!("grpc-{file}.txt, line {}, {call}", number + 1);
            assert!(
                check(call, true, &decode_hex(request)),
                "request of {place}"
            );
            messages += 1;
            if response != "ERR" {
                assert!(
                    check(call, false, &decode_hex(response)),
                    "response of {place}"
                );
                messages += 1;
            }
        }
    }
    assert_eq!(messages, 1425);
}

#[test]
fn a_field_that_we_do_not_know_would_be_noticed() {
    let mut bytes = ScopeInfo {
        scope: "s".to_owned(),
    }
    .encode_to_vec();
    assert!(check("createScope", true, &bytes));
    bytes.extend([9 << 3, 1]);
    assert!(!check("createScope", true, &bytes));
}

/// The service lives in generated code; what clients call is in the .proto file.
#[test]
fn every_call_of_the_api_has_its_messages_checked() {
    let api = include_str!("../grpc/controller.proto");
    let rpcs = api
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rpc "));
    let names: Vec<&str> = rpcs.filter_map(|rpc| rpc.split('(').next()).collect();
    assert_eq!(names, CALLS);
    assert_eq!(names.len(), 47);
}
