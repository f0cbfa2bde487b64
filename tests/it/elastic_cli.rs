//! The command line on a stream that changes: split, merge, scale, look at it, and read it all the same.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use sarit_tests::cluster::{Cluster, Layout, binary};
use sarit_tests::workspace::workspace;
use serde_json::Value;

fn start(name: &str) -> Cluster {
    let folder = workspace(name).expect("a folder");
    let cluster = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]);
    cluster.expect("a server").holding(folder)
}

fn run(cluster: &Cluster, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(binary())
        .env_remove("SARIT_BIN")
        .args(arguments)
        .args(["--controller", &cluster.uri()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the CLI runs");
    let stdin = child.stdin.take();
    let written = stdin.expect("it is piped").write_all(input.as_bytes());
    written.expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a verb, which must succeed, and returns what it printed.
fn ask(cluster: &Cluster, arguments: &[&str]) -> String {
    give(cluster, arguments, "")
}

fn give(cluster: &Cluster, arguments: &[&str], input: &str) -> String {
    let output = run(cluster, arguments, input);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    text(&output.stdout)
}

fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let said = ask(cluster, &[arguments, &["--json"]].concat());
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{arguments:?} printed {said:?}"))
}

/// Runs a verb that must fail with this exit code, and returns what it complained of.
fn refuse(cluster: &Cluster, arguments: &[&str], code: i32) -> String {
    let output = run(cluster, arguments, "");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

#[test]
fn a_stream_is_split_merged_and_scaled_from_the_command_line() {
    let cluster = start("elastic-cli");
    ask(&cluster, &["stream", "create", "s/t", "--with-scope"]);
    let write = |from: u32| {
        let lines: String = (from..from + 100).map(|n| format!("{n}\n")).collect();
        give(&cluster, &["write", "s/t"], &lines);
    };
    write(0);
    let split = json(&cluster, &["stream", "split", "s/t", "--parts", "3"]);
    assert_eq!(split["epoch"], 1);
    assert_eq!(split["sealed"][0], "0.#epoch.0");
    assert_eq!(split["created"].as_array().map(Vec::len), Some(3));
    write(100);
    let merge = json(&cluster, &["stream", "merge", "s/t", "2", "1.#epoch.1"]);
    assert_eq!(merge["created"][0], "4.#epoch.2");
    write(200);
    let scale = json(&cluster, &["stream", "scale", "s/t", "--segments", "4"]);
    assert_eq!(scale["created"].as_array().map(Vec::len), Some(4));
    write(300);
    let again = json(&cluster, &["stream", "scale", "s/t", "--segments", "4"]);
    assert_eq!(again["changed"], false);

    let epochs = ask(&cluster, &["stream", "epochs", "s/t", "--json"]);
    let counts: Vec<_> = epochs
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"))
        .map(|epoch| epoch["segments"].as_array().map(Vec::len))
        .collect();
    assert_eq!(counts, [Some(1), Some(3), Some(2), Some(4)]);

    let mut read: Vec<u32> = ask(&cluster, &["read", "s/t"])
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    read.sort_unstable();
    assert_eq!(read, (0..400).collect::<Vec<_>>());

    // 10 events of one digit, 90 of two, 300 of three, each with a header of 8 bytes.
    let cut = json(&cluster, &["stream", "cut", "s/t", "--since", "head"]);
    assert_eq!(cut["bytes"], 10 * 9 + 90 * 10 + 300 * 11);
    let tail = cut["cut"].as_str().expect("a cut");
    let behind = ask(&cluster, &["read", "s/t", "--from", tail]);
    assert_eq!(behind, "");

    ask(&cluster, &["stream", "seal", "s/t"]);
    let sealed = json(&cluster, &["stream", "cut", "s/t"]);
    assert_eq!(
        sealed["cut"], tail,
        "the tail of a sealed stream is its end"
    );
    let complaint = refuse(&cluster, &["stream", "split", "s/t"], 4);
    assert!(complaint.contains("sealed"), "{complaint}");
}

#[test]
fn bytes_before_the_head_are_not_counted() {
    let cluster = start("cut-before-head");
    ask(&cluster, &["stream", "create", "s/t", "--with-scope"]);
    let begin = json(&cluster, &["stream", "cut", "s/t", "--at", "head"]);
    let begin = begin["cut"].as_str().expect("a cut");
    let bytes = || json(&cluster, &["stream", "cut", "s/t", "--since", begin])["bytes"].clone();
    // Each with a header of 8 bytes.
    give(&cluster, &["write", "s/t"], "one\ntwo\n");
    ask(&cluster, &["stream", "truncate", "s/t", "--at", "tail"]);
    assert_eq!(bytes(), 0, "the segment has lost its beginning");
    give(&cluster, &["write", "s/t"], "three\n");
    assert_eq!(bytes(), 13);
    ask(&cluster, &["stream", "split", "s/t"]);
    ask(&cluster, &["stream", "truncate", "s/t", "--at", "tail"]);
    assert_eq!(bytes(), 0, "the segment is gone");
    give(&cluster, &["write", "s/t"], "four\n");
    assert_eq!(bytes(), 12);
}

#[test]
fn a_change_of_the_least_that_is_kept_leaves_the_most() {
    let cluster = start("retention-max");
    let keep = ["--retain-bytes", "1000"];
    let create = ["stream", "create", "s/t", "--with-scope"];
    ask(&cluster, &[&create[..], &keep].concat());
    let most = ["--min-bytes", "1000", "--max-bytes", "5000"];
    ask(
        &cluster,
        &[&["stream", "retention", "s/t"][..], &most].concat(),
    );
    let update = |keep: &[&str]| {
        ask(&cluster, &[&["stream", "update", "s/t"], keep].concat());
        let shown = json(&cluster, &["stream", "retention", "s/t"]);
        shown["retention"].clone()
    };
    let kept = update(&["--retain-bytes", "2000"]);
    let expected = serde_json::json!({"unit": "bytes", "min": 2_000, "max": 5_000});
    assert_eq!(kept, expected);
    let kept = update(&["--retain-ms", "2000"]);
    let expected = serde_json::json!({"unit": "ms", "min": 2_000, "max": null});
    assert_eq!(kept, expected, "of bytes, which are not counted any more");
}

#[test]
fn impossible_changes_are_refused_with_what_to_do() {
    let cluster = start("elastic-cli-refusals");
    ask(
        &cluster,
        &["stream", "create", "s/t", "--segments", "3", "--with-scope"],
    );
    let complaint = refuse(&cluster, &["stream", "split", "s/t"], 2);
    assert!(complaint.contains("1.#epoch.0"), "{complaint}");
    let complaint = refuse(&cluster, &["stream", "split", "s/t", "7"], 3);
    assert!(complaint.contains("there are: 0.#epoch.0"), "{complaint}");
    let complaint = refuse(&cluster, &["stream", "merge", "s/t", "0", "2"], 2);
    assert!(complaint.contains("side by side"), "{complaint}");
    refuse(
        &cluster,
        &["stream", "split", "s/t", "0", "--parts", "1"],
        2,
    );
    refuse(&cluster, &["stream", "scale", "s/t", "--segments", "0"], 2);
    let complaint = refuse(&cluster, &["stream", "split", "s/none"], 3);
    assert!(complaint.contains("create it first"), "{complaint}");
}

#[test]
fn transactions_that_have_not_ended_are_listed_and_can_be_aborted() {
    let cluster = start("txn-cli");
    ask(&cluster, &["stream", "create", "s/t", "--with-scope"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let said = ask(&cluster, arguments);
        let lines = said.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    runtime.block_on(async {
        let client = sarit_client::Client::connect(&cluster.uri()).expect("an address");
        let stream = "s/t".parse().expect("a name");
        let writer = client.transaction_writer(&stream, 30_000);
        let first = writer.begin().await.expect("it begins");
        let second = writer.begin().await.expect("it begins");
        let open = lines(&["txn", "list", "s/t", "--open", "--json"]);
        assert_eq!(open.len(), 2, "{open:?}");
        let ids: Vec<_> = open.iter().map(|one| one["transaction"].clone()).collect();
        assert!(
            ids.contains(&Value::from(first.id().to_string())),
            "{ids:?}"
        );
        for one in &open {
            let number = |name: &str| one[name].as_i64().expect("a number");
            assert_eq!(one["status"], "open");
            assert!(number("created_ms") <= number("lease_ends_ms"), "{one}");
            assert!(number("lease_ends_ms") <= number("life_ends_ms"), "{one}");
        }
        let id = second.id().to_string();
        ask(&cluster, &["txn", "abort", "s/t", &id]);
        first
            .commit()
            .await
            .expect("it commits")
            .wait()
            .await
            .expect("it is committed");
    });
    let left = lines(&["txn", "list", "s/t", "--json"]);
    let ended: Vec<_> = left
        .iter()
        .filter(|one| one["status"] == "committed")
        .collect();
    assert_eq!(ended.len(), 1, "{left:?}");
    let complaint = refuse(&cluster, &["txn", "list", "s/none"], 3);
    assert!(complaint.contains("create it first"), "{complaint}");
}

#[test]
fn a_scope_is_deleted_with_all_that_is_in_it() {
    let cluster = start("scope-cli");
    let create = |name: &str| {
        let stream = ["stream", "create", name, "--with-scope", "--segments", "3"];
        ask(&cluster, &stream);
    };
    for number in 0..20 {
        create(&format!("s/t{number}"));
    }
    create("kept/t");
    ask(&cluster, &["table", "create", "s/k"]);
    give(&cluster, &["write", "s/t0"], "event\n");
    assert_eq!(ask(&cluster, &["read", "s/t0"]), "event\n");
    let complaint = refuse(&cluster, &["scope", "delete", "s"], 4);
    assert!(complaint.contains("recursive"), "{complaint}");
    ask(&cluster, &["scope", "delete", "s", "--recursive"]);
    let scopes = json(&cluster, &["scope", "list"]);
    assert_eq!(scopes, serde_json::json!(["kept"]));
    refuse(&cluster, &["scope", "delete", "s", "--recursive"], 3);
    // Nothing of it is left to be found by what comes next.
    create("s/t0");
    assert_eq!(ask(&cluster, &["read", "s/t0"]), "");
    let streams = json(&cluster, &["stream", "list", "s"]);
    assert_eq!(streams, serde_json::json!(["t0"]));
}

#[test]
fn top_shows_rates_once_into_a_pipe() {
    let cluster = start("top");
    ask(
        &cluster,
        &["stream", "create", "s/t", "--segments", "2", "--with-scope"],
    );
    let http = cluster.http_addr();
    let arguments = [
        "top",
        "--http-addr",
        &http,
        "--every",
        "0.2",
        "--count",
        "1",
    ];
    let table = ask(&cluster, &arguments);
    assert!(table.contains("STREAM") && table.contains("s/t"), "{table}");
    assert!(!table.contains('\x1b'), "no colours for a pipe: {table:?}");
    let look = json(&cluster, &arguments);
    assert_eq!(look["streams"][0]["segments"], 2);
    refuse(
        &cluster,
        &["top", "--http-addr", "127.0.0.1:1", "--count", "1"],
        5,
    );
}

#[test]
fn a_stream_follows_its_load_when_told_so_on_the_command_line() {
    let cluster = start("elastic-cli-policy");
    let rate = ["--events-per-second", "1000"];
    let create = ["stream", "create", "s/t", "--with-scope", "--segments", "2"];
    ask(
        &cluster,
        &[&create[..], &rate, &["--scale-factor", "4"]].concat(),
    );
    let scaling = || json(&cluster, &["stream", "describe", "s/t"])["scaling"].clone();
    let by_rate =
        serde_json::json!({"by": "events", "per_second": 1000, "factor": 4, "segments_min": 2});
    assert_eq!(scaling(), by_rate);
    // What is not named stays as it is.
    ask(
        &cluster,
        &["stream", "update", "s/t", "--events-per-second", "2000"],
    );
    assert_eq!(
        (&scaling()["per_second"], &scaling()["factor"]),
        (&2000.into(), &4.into())
    );
    ask(
        &cluster,
        &["stream", "update", "s/t", "--scale-factor", "3"],
    );
    assert_eq!(
        (&scaling()["per_second"], &scaling()["factor"]),
        (&2000.into(), &3.into())
    );
    ask(&cluster, &["stream", "split", "s/t", "0"]);
    ask(&cluster, &["stream", "update", "s/t", "--fixed"]);
    assert_eq!(scaling(), serde_json::json!({"by": "hand", "segments": 3}));
    let complaint = refuse(
        &cluster,
        &["stream", "update", "s/t", "--scale-factor", "3"],
        2,
    );
    assert!(complaint.contains("--events-per-second"), "{complaint}");
    ask(
        &cluster,
        &["stream", "update", "s/t", "--kib-per-second", "64"],
    );
    assert_eq!(scaling()["by"], "KiB");
    assert_eq!(scaling()["segments_min"], 3);
    refuse(
        &cluster,
        &[
            "stream",
            "update",
            "s/t",
            "--fixed",
            "--kib-per-second",
            "1",
        ],
        2,
    );
    refuse(
        &cluster,
        &["stream", "create", "s/u", "--events-per-second", "0"],
        2,
    );
}

/// Whoever names the server's directory where the controller's is meant learns that nothing was looked at.
#[test]
fn metadata_is_only_looked_at_where_there_is_some() {
    let folder = workspace("metadata-cli").expect("a folder");
    let data = folder.join("data");
    std::fs::create_dir_all(&data).expect("a folder");
    let admin = |verb: &str, data: &std::path::Path| {
        let output = Command::new(binary())
            .args(["admin", "metadata", verb, "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .output();
        let output = output.expect("the CLI runs");
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let controller = data.join("controller");
    for made in [false, true] {
        for verb in ["fsck", "export"] {
            let (code, said) = admin(verb, &data);
            assert_eq!(code, Some(1), "{verb}: {said}");
            let expected = format!("{} is no controller's directory", data.display());
            assert!(said.contains(&expected), "{verb}: {said}");
            let hint = format!("{} is one", controller.display());
            assert_eq!(said.contains(&hint), made, "{verb}: {said}");
        }
        let inside = std::fs::read_dir(&data).expect("the folder").count();
        assert_eq!(inside, usize::from(made), "nothing is made by looking");
        let (code, said) = admin("import", &controller);
        assert_eq!((code, &*said), (Some(0), "0 rows\n"));
    }
    let (code, said) = admin("fsck", &controller);
    assert_eq!((code, &*said), (Some(0), "no faults\n"));
}
