//! Every recorded call that this version answers gets the recorded answer, or one that is named here
//! with its reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use prost::Message as _;
use sarit_proto::controller::{
    CreateTxnResponse, ListCompletedTxnResponse, PingTxnRequest, TxnId, TxnRequest, TxnState,
};
use tonic::Code;

use super::wire::Running;

const ERRORS: &str = include_str!("../../../../../proto/tests/golden/captures/grpc-errors.txt");
const JAVA: &str = include_str!("../../../../../proto/tests/golden/captures/grpc-java.txt");
const RUST: &str = include_str!("../../../../../proto/tests/golden/captures/grpc-rust.txt");
const PYTHON: &str = include_str!("../../../../../proto/tests/golden/captures/grpc-python.txt");
/// How often it is asked whether something has come about, 5 ms apart.
const LISTED_POLLS: u32 = 2_000;

/// One line of a recording.
#[derive(Debug)]
struct Call<'a> {
    section: &'a str,
    method: &'a str,
    request: Bytes,
    answer: Result<Bytes, &'a str>,
    note: &'a str,
}

fn calls(recording: &str) -> Vec<Call<'_>> {
    let mut section = "";
    let mut calls = Vec::new();
    for line in recording.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        if line.starts_with('#') || line.contains("...(") {
            continue;
        }
        let (fields, note) = line.split_once('#').unwrap_or((line, ""));
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let (method, request, answer) = match fields[..] {
            [method, request, "ERR", status] => (method, request, Err(status)),
            [method, request, answer] => (method, request, Ok(hex(answer))),
            _ => panic!("no call: {line}"),
        };
        calls.push(Call {
            section,
            method,
            request: hex(request),
            answer,
            note: note.trim(),
        });
    }
    calls
}

fn hex(text: &str) -> Bytes {
    if text == "-" {
        return Bytes::new();
    }
    let digits = text.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16));
    bytes.collect::<Result<Vec<u8>, _>>().unwrap().into()
}

fn text(bytes: &Bytes) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Calls that came after the version that was recorded.
fn is_later(method: &str) -> bool {
    method == "getControllerToBucketMapping"
}

/// Calls whose answer depends on how much of a lease of 1 ms is left, and the list that the official
/// server forgets.
fn is_a_matter_of_time(call: &Call<'_>) -> bool {
    let forgotten = call.method == "listCompletedTransactions" && call.answer == Ok(Bytes::new());
    forgotten || call.note == "after lease-1 ping"
}

fn listed<E>(answer: &Result<Bytes, E>) -> usize {
    let list = answer.as_ref().ok().cloned().unwrap_or_default();
    let list = ListCompletedTxnResponse::decode(list).unwrap();
    list.response.len()
}

/// Says what is wrong with an answer, or nothing.
fn judge(call: &Call<'_>, answer: &Result<Bytes, tonic::Status>) -> Option<String> {
    let code = answer
        .as_ref()
        .map_or_else(tonic::Status::code, |_| Code::Ok);
    let sentence = answer.as_ref().err().map_or("", tonic::Status::message);
    if is_later(call.method) {
        return (code != Code::Ok).then(|| format!("{code:?} {sentence}, expected an answer"));
    }
    let expected = match (&call.answer, call.method) {
        // Clients repeat these for a minute; what cannot succeed gets a status they do not repeat.
        (Err("INTERNAL" | "UNKNOWN"), _) => Code::InvalidArgument,
        (Ok(status), "createStream" | "truncateStream") if status[..] == [8, 1] => {
            Code::InvalidArgument
        }
        (Err("NOT_FOUND"), _) => Code::NotFound,
        (Err(status), _) => return Some(format!("recorded status {status}")),
        (Ok(_), _) => Code::Ok,
    };
    if code != expected {
        return Some(format!("{code:?} {sentence}, expected {expected:?}"));
    }
    let (Ok(recorded), Ok(answer)) = (&call.answer, answer) else {
        return sentence
            .is_empty()
            .then(|| "an error without a sentence".to_owned());
    };
    let same = match call.method {
        // The address is ours, listings hide companions and have tokens of their own.
        "getURI" => *answer == hex("0a0a73746f72652e7465737410b960"),
        "listScopes"
        | "listStreamsInScope"
        | "listStreamsInScopeForTag"
        | "listKeyValueTablesInScope" => answer.is_empty() == recorded.is_empty(),
        "getDelegationToken" => answer.is_empty(),
        _ => fields(recorded) == fields(answer),
    };
    (!same).then(|| format!("{}, recorded {}", text(answer), text(recorded)))
}

/// The fields of a message in an order that does not depend on how it was written; a delegation token,
/// which is never the same, left out.
fn fields(message: &Bytes) -> Vec<Bytes> {
    let mut rest = message.clone();
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let before = rest.clone();
        let (tag, wire_type) = prost::encoding::decode_key(&mut rest).unwrap();
        let context = prost::encoding::DecodeContext::default();
        prost::encoding::skip_field(wire_type, tag, &mut rest, context).unwrap();
        let field = before.slice(..before.len() - rest.len());
        if !field.windows(4).any(|bytes| bytes == b"eyJh") {
            fields.push(field);
        }
    }
    fields.sort_unstable();
    fields
}

/// A recording, and what this version answers otherwise.
struct Recording<'a> {
    text: &'a str,
    /// Calls that make what an earlier section, not played, had made.
    before: &'a [(&'a str, &'a str)],
    /// Sections that need what is not built.
    skipped: &'a [&'a str],
    /// "section method note" of calls that get another answer, and why.
    excused: &'a [(&'a str, &'a str)],
}

/// The ids of the recorded transactions, and of those that stand for them here.
#[derive(Default)]
struct Transactions(BTreeMap<(i64, i64), (i64, i64)>);

impl Transactions {
    /// Puts our id in place of the recorded one.
    fn translated(&self, call: &Call<'_>) -> Bytes {
        let known = |id: &mut Option<TxnId>| {
            let ours = id.and_then(|id| self.0.get(&(id.high_bits, id.low_bits)));
            if let Some(&(high_bits, low_bits)) = ours {
                *id = Some(TxnId {
                    high_bits,
                    low_bits,
                });
            }
        };
        match call.method {
            "pingTransaction" => {
                let mut request = PingTxnRequest::decode(call.request.clone()).unwrap();
                known(&mut request.txn_id);
                request.encode_to_vec().into()
            }
            "commitTransaction" | "abortTransaction" | "checkTransactionState" => {
                let mut request = TxnRequest::decode(call.request.clone()).unwrap();
                known(&mut request.txn_id);
                request.encode_to_vec().into()
            }
            _ => call.request.clone(),
        }
    }

    /// Puts the recorded ids in place of ours, and notes new ones.
    fn recorded(&mut self, call: &Call<'_>, answer: Bytes) -> Bytes {
        let both = |id: Option<TxnId>| id.map_or((0, 0), |id| (id.high_bits, id.low_bits));
        match (call.method, &call.answer) {
            ("createTransaction", Ok(recorded)) => {
                let recorded = CreateTxnResponse::decode(recorded.clone()).unwrap();
                let mut reply = CreateTxnResponse::decode(answer).unwrap();
                self.0.insert(both(recorded.txn_id), both(reply.txn_id));
                let epoch = |id: Option<TxnId>| both(id).0 >> 32;
                assert_eq!(epoch(recorded.txn_id), epoch(reply.txn_id));
                reply.txn_id = recorded.txn_id;
                reply.encode_to_vec().into()
            }
            ("listCompletedTransactions", Ok(_)) => {
                let mut reply = ListCompletedTxnResponse::decode(answer).unwrap();
                for listed in &mut reply.response {
                    let ours = both(listed.txn_id);
                    let recorded = self.0.iter().find(|(_, known)| **known == ours);
                    let (&(high_bits, low_bits), _) = recorded.expect("it was begun here");
                    listed.txn_id = Some(TxnId {
                        high_bits,
                        low_bits,
                    });
                }
                reply.encode_to_vec().into()
            }
            // What is accepted is done soon: both answers are right.
            ("checkTransactionState", Ok(recorded)) => {
                let told = |message: &Bytes| TxnState::decode(message.clone()).unwrap().state;
                match (told(recorded), told(&answer)) {
                    (2, 3) | (3, 2) | (4, 5) | (5, 4) => recorded.clone(),
                    _ => answer,
                }
            }
            _ => answer,
        }
    }
}

/// Plays a recording and returns the answers that are wrong, and the excuses that were not needed.
async fn replay(recording: Recording<'_>) -> String {
    let controller = Running::new().await;
    for (method, request) in recording.before {
        controller.call(method, hex(request)).await.unwrap();
    }
    let mut unused: Vec<&str> = recording.excused.iter().map(|(call, _)| *call).collect();
    let mut wrong = String::new();
    let mut transactions = Transactions::default();
    for call in calls(recording.text) {
        if recording.skipped.contains(&call.section) || is_a_matter_of_time(&call) {
            continue;
        }
        let request = transactions.translated(&call);
        let mut answer = controller.call(call.method, request.clone()).await;
        if call.method == "createTransaction" && answer.is_ok() {
            // The recorded client wrote to all of its segments, which only the segment store saw.
            let all = controller.segments.all().into_keys();
            for segment in all.filter(|segment| segment.contains("#transaction.")) {
                controller.segments.grow(&segment, 1);
            }
        }
        // What was accepted is listed once it has come about.
        for _ in 0..LISTED_POLLS {
            if call.method != "listCompletedTransactions" || listed(&answer) >= listed(&call.answer)
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            answer = controller.call(call.method, request.clone()).await;
        }
        let answer = answer.map(|answer| transactions.recorded(&call, answer));
        let Some(reason) = judge(&call, &answer) else {
            continue;
        };
        let id = [call.section, call.method, call.note].join(" ");
        unused.retain(|excused| *excused != id.trim());
        if !recording
            .excused
            .iter()
            .any(|(excused, _)| *excused == id.trim())
        {
            writeln!(wrong, "{id} ({}): {reason}", text(&call.request)).unwrap();
        }
    }
    controller.stop().await.unwrap();
    for call in unused {
        writeln!(wrong, "{call}: an excuse that is not needed").unwrap();
    }
    wrong
}

#[tokio::test]
async fn hand_made_calls_get_the_official_statuses() {
    let recording = Recording {
        text: ERRORS,
        before: &[],
        skipped: &[],
        excused: &[
            ("getControllerServerList", "we know our own address"),
            (
                "isStreamCutValid bad",
                "an unknown segment makes it invalid, no error",
            ),
            ("getSegmentsBetween both empty", "means all of the stream"),
            ("createReaderGroup subscriber", "the rollover size is kept"),
            ("updateSubscriberStreamCut bad cut", "a definite status"),
            ("checkScale at once", "it is over sooner"),
            ("commitTransaction unknown txn", "has a status of its own"),
            (
                "commitTransaction missing stream",
                "has a status of its own",
            ),
            ("abortTransaction unknown txn", "has a status of its own"),
            ("abortTransaction missing stream", "has a status of its own"),
        ],
    };
    assert_eq!(replay(recording).await, "");
}

#[tokio::test]
async fn the_rust_client_gets_what_it_got() {
    let recording = Recording {
        text: RUST,
        before: &[
            ("createScope", "0a067273636f7065"),
            // Keeps the scope from being empty: rscope/keep.
            ("createStream", "0a0e0a067273636f706512046b65657012022001"),
        ],
        skipped: &[],
        excused: &[
            ("write-read createScope", "it was made before"),
            ("scale checkScale", "it is over sooner"),
            ("scale truncateStream", "the events were not written"),
            ("scale getSegments", "so it was not truncated"),
        ],
    };
    assert_eq!(replay(recording).await, "");
}

#[tokio::test]
async fn the_python_client_gets_what_it_got() {
    let recording = Recording {
        text: PYTHON,
        before: &[
            ("createScope", "0a067073636f7065"),
            (
                "createStream",
                "0a0c0a067073636f706512027731120220021a0a18ffffffffffffffff7f",
            ),
            (
                "createStream",
                "0a0c0a067073636f706512027831120220021a0a18ffffffffffffffff7f",
            ),
        ],
        skipped: &["auth"],
        excused: &[],
    };
    assert_eq!(replay(recording).await, "");
}

#[tokio::test]
async fn the_java_client_gets_what_it_got() {
    let recording = Recording {
        text: JAVA,
        before: &[("createScope", "0a066a73636f7065")],
        skipped: &["auth", "truncate"],
        excused: &[],
    };
    assert_eq!(replay(recording).await, "");
}
