//! Start, stop, and what a person meets at the command line.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::path::Path;
use std::process::{Command, Output};

use sarit_proto::wire::Reply;
use sarit_proto::wire::command::GetStreamSegmentInfo;
use sarit_tests::clients::workspace;
use sarit_tests::cluster::{Cluster, Layout, Role, binary, repository};
use sarit_tests::raw::Connection;
use sarit_tests::watch::labelled_metric;

/// A directory as the first release wrote it. Later versions must open it.
const GOLDEN: &str = "tests/golden/data-1.tar.gz";

fn sarit(arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .output()
        .expect("the CLI runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn start(name: &str) -> (Cluster, std::path::PathBuf) {
    let folder = workspace(name).expect("a folder");
    let cluster = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]);
    (cluster.expect("a server"), folder)
}

/// Runs a verb against a cluster and returns what it printed; it must succeed.
fn ask(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = Command::new(binary())
        .args(arguments)
        .args(["--controller", &cluster.uri()])
        .output()
        .expect("the CLI runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn sigterm_drains_and_exits_with_zero() {
    let (mut cluster, folder) = start("sigterm");
    ask(&cluster, &["stream", "create", "s/t", "--with-scope"]);
    let file = folder.join("lines");
    std::fs::write(&file, "one\ntwo\n").expect("it is written");
    ask(&cluster, &["write", "s/t", file.to_str().expect("UTF-8")]);
    assert!(
        cluster
            .terminate(Role::Standalone)
            .expect("it ends")
            .success()
    );
    cluster.restart_all().expect("it starts again");
    assert_eq!(ask(&cluster, &["read", "s/t"]), "one\ntwo\n");
}

#[test]
fn flights_written_by_aeroplane_come_back_complete() {
    let (cluster, _) = start("flights");
    let flights = repository().join("data/flights-2013-01.csv");
    ask(
        &cluster,
        &[
            "stream",
            "create",
            "demo/flights",
            "--segments",
            "4",
            "--with-scope",
        ],
    );
    let file = flights.to_str().expect("UTF-8");
    ask(
        &cluster,
        &["write", "demo/flights", file, "--csv", "--key", "tailnum"],
    );
    let read = ask(&cluster, &["read", "demo/flights"]);
    let written = std::fs::read_to_string(&flights).expect("the data is there");
    let (mut read, mut written): (Vec<_>, Vec<_>) =
        (read.lines().collect(), written.lines().skip(1).collect());
    read.sort_unstable();
    written.sort_unstable();
    assert_eq!(read.len(), 27_004);
    assert!(read == written, "the same flights");
}

#[test]
fn health_and_metrics_are_served() {
    let (cluster, _) = start("health");
    let page = |path| cluster.http(Role::Standalone, path).expect("a page");
    assert_eq!(page("/health/live").0, 200);
    assert_eq!(page("/health/ready").0, 200);
    let (status, metrics) = page("/metrics");
    assert_eq!(status, 200);
    for name in ["wal_syncs_total", "segmentstore_connections"] {
        assert!(metrics.contains(name), "{name} is missing in:\n{metrics}");
    }
}

#[test]
fn a_connection_at_its_limits_shows_in_the_metrics() {
    let folder = workspace("limits").expect("a folder");
    let settings = [
        "segmentstore.limits.requests=2",
        "segmentstore.limits.writers=1",
    ];
    let cluster = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &settings)
        .expect("a server");
    let reached = |limit| {
        let label = format!("limit=\"{limit}\"");
        let name = "segmentstore_limits_reached_total";
        labelled_metric(&cluster, Role::Standalone, name, &label).expect("the page")
    };
    assert_eq!((reached("requests"), reached("writers")), (0.0, 0.0));
    let mut connection = Connection::greet(&cluster.store_addr()).expect("a connection");
    connection.create("s/t/0.#epoch.0").expect("a segment");
    // Two at once are all it may have; then what comes waits in the socket.
    for _ in 0..50 {
        connection.queue(GetStreamSegmentInfo {
            request_id: 1,
            segment: "s/t/0.#epoch.0".to_owned(),
            token: String::new(),
        });
    }
    connection.flush().expect("it takes them");
    for _ in 0..50 {
        let reply = connection.reply().expect("an answer");
        assert!(matches!(reply, Reply::StreamSegmentInfo(_)), "{reply:?}");
    }
    assert!(reached("requests") > 0.0);
    assert_eq!(reached("parked_reads"), 0.0);
}

#[test]
fn an_address_that_others_can_reach_needs_a_word() {
    let folder = workspace("bind").expect("a folder");
    let data = folder.join("data");
    let data = data.to_str().expect("UTF-8");
    let output = sarit(&[
        "standalone",
        "--data",
        data,
        "--controller-addr",
        "0.0.0.0:0",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("--insecure"),
        "{}",
        text(&output.stderr)
    );
    assert!(!Path::new(data).exists(), "nothing was touched");
}

#[test]
fn exit_codes_tell_what_happened() {
    let (cluster, _) = start("exit-codes");
    let code = |arguments: &[&str], uri: &str| {
        let output = Command::new(binary())
            .args(arguments)
            .args(["--controller", uri])
            .output()
            .expect("the CLI runs");
        (output.status.code(), text(&output.stderr))
    };
    let uri = cluster.uri();
    ask(&cluster, &["scope", "create", "s"]);
    assert_eq!(code(&["scope", "create", "s"], &uri).0, Some(4));
    let (missing, error) = code(&["stream", "describe", "s/none"], &uri);
    assert_eq!(missing, Some(3), "{error}");
    assert_eq!(code(&["stream", "describe", "none"], &uri).0, Some(2));
    ask(&cluster, &["stream", "create", "s/t"]);
    assert_eq!(
        code(&["stream", "delete", "s/t"], &uri).0,
        Some(4),
        "it is not sealed"
    );
    assert_eq!(
        code(&["scope", "delete", "s"], &uri).0,
        Some(4),
        "it is not empty"
    );
    let (unreachable, error) = code(&["scope", "list"], "tcp://127.0.0.1:1");
    assert_eq!(unreachable, Some(5), "{error}");
    assert!(
        error.contains("sarit standalone"),
        "it says what to do: {error}"
    );
}

/// Every verb that does something.
const VERBS: [&str; 47] = [
    "standalone",
    "controller",
    "segmentstore",
    "write",
    "read",
    "top",
    "demo",
    "completions",
    "scope create",
    "scope list",
    "scope describe",
    "scope delete",
    "stream create",
    "stream list",
    "stream describe",
    "stream update",
    "stream truncate",
    "stream split",
    "stream merge",
    "stream scale",
    "stream epochs",
    "stream cut",
    "stream retention",
    "stream seal",
    "stream delete",
    "txn list",
    "txn describe",
    "txn abort",
    "group list",
    "group describe",
    "group reset",
    "group lag",
    "table create",
    "table list",
    "table put",
    "table get",
    "table scan",
    "table remove",
    "table delete",
    "admin packs show",
    "admin packs dump",
    "admin container show",
    "admin fsck",
    "admin recover-from-storage",
    "admin metadata export",
    "admin metadata import",
    "admin metadata fsck",
];

#[test]
fn every_verb_explains_itself() {
    for verb in [
        "standalone",
        "controller",
        "segmentstore",
        "write",
        "read",
        "demo",
    ] {
        let help = text(&sarit(&[verb, "--help"]).stdout);
        assert!(help.contains("Usage"), "{verb}: {help}");
    }
    for verbs in VERBS {
        let arguments: Vec<_> = verbs.split(' ').chain(["--help"]).collect();
        let help = text(&sarit(&arguments).stdout);
        assert!(help.contains("Example"), "{verbs}: {help}");
    }
    let completions = text(&sarit(&["completions", "bash"]).stdout);
    assert!(completions.contains("segmentstore"));
}

#[test]
fn a_directory_of_a_newer_version_is_refused_with_a_sentence() {
    for half in ["segmentstore", "controller"] {
        let (mut cluster, folder) = start("newer");
        assert!(
            cluster
                .terminate(Role::Standalone)
                .expect("it ends")
                .success()
        );
        let format = folder.join("data").join(half).join("FORMAT");
        let text = std::fs::read_to_string(&format).expect("FORMAT is text");
        let at = text.find("version").expect("FORMAT has a version");
        let digit = text[at..].find(|c: char| c.is_ascii_digit());
        let digit = at + digit.expect("the version is a number");
        let newer = format!("{}99{}", &text[..digit], &text[digit + 1..]);
        std::fs::write(&format, newer).expect("it is written");
        let error = format!(
            "{:#}",
            cluster.restart_all().expect_err("it must not start")
        );
        assert!(
            error.contains("99") && error.contains("newer"),
            "{half}: {error}"
        );
    }
}

#[test]
fn the_first_release_s_directory_still_opens() {
    let folder = workspace("golden").expect("a folder");
    let unpacked = Command::new("tar")
        .args(["-xzf", GOLDEN, "-C"])
        .arg(&folder)
        .current_dir(repository())
        .status()
        .expect("tar runs");
    assert!(unpacked.success());
    let cluster = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]);
    let cluster = cluster.expect("it opens");
    assert_eq!(
        ask(&cluster, &["read", "golden/stream"]).lines().count(),
        100
    );
    let described = ask(&cluster, &["stream", "describe", "golden/stream"]);
    assert!(
        described.contains("first-release"),
        "its tag is there: {described}"
    );
}
