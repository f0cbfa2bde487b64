//! Start, stop, and what a person meets at the command line.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use sarit_proto::wire::Reply;
use sarit_proto::wire::command::GetStreamSegmentInfo;
use sarit_tests::cluster::{Cluster, Layout, Role, binary, repository};
use sarit_tests::raw::Connection;
use sarit_tests::watch::{labelled_metric, metric, until};
use sarit_tests::workspace::workspace;

/// A directory as the first release wrote it. Later versions must open it.
const GOLDEN: &str = "tests/golden/data-1.tar.gz";
/// How long what happens soon may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn sarit(arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .output()
        .expect("the CLI runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn start(name: &str) -> Cluster {
    let folder = workspace(name).expect("a folder");
    let cluster = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]);
    cluster.expect("a server").holding(folder)
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
    let mut cluster = start("sigterm");
    ask(&cluster, &["stream", "create", "s/t", "--with-scope"]);
    let file = cluster.folder().join("lines");
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

/// A server that somebody has sent half a request over HTTP.
fn half_asked(name: &str) -> (Cluster, TcpStream) {
    let cluster = start(name);
    let mut half = TcpStream::connect(cluster.http_addr()).expect("a connection");
    let sent = half.write_all(b"GET /metrics HTTP/1.1\r\nHo");
    sent.expect("it is sent");
    // Connections are accepted in their order.
    let page = cluster.http(Role::Standalone, "/health/live");
    assert_eq!(page.expect("a page").0, 200);
    (cluster, half)
}

/// Sends SIGTERM to the only process.
fn signal(cluster: &Cluster) {
    let pid = cluster.pids()[0].to_string();
    let sent = Command::new("kill").arg(pid).status().expect("kill runs");
    assert!(sent.success(), "{sent}");
}

#[test]
fn half_a_request_does_not_keep_the_server_from_ending() {
    let (mut cluster, _half) = half_asked("half-request");
    signal(&cluster);
    let status = cluster.wait_exit(Role::Standalone, PATIENCE);
    assert!(status.expect("it ends").success());
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let (mut cluster, _half) = half_asked("second-signal");
    signal(&cluster);
    until("it drains", PATIENCE, || {
        Ok(cluster.log_tail().contains("stopping: draining"))
    })
    .expect("the log says so");
    signal(&cluster);
    let status = cluster.wait_exit(Role::Standalone, PATIENCE);
    assert_eq!(status.expect("it ends").code(), Some(1));
}

#[test]
fn what_was_written_before_a_bad_line_is_durable() {
    let cluster = start("bad-line");
    ask(&cluster, &["stream", "create", "s/t", "--with-scope"]);
    let file = cluster.folder().join("lines");
    let good = "{\"key\":\"a\"}\n".repeat(5_000);
    std::fs::write(&file, good.clone() + "{\"key\":\n").expect("it is written");
    let output = Command::new(binary())
        .args(["write", "s/t", "--json", "--key", "key"])
        .arg(&file)
        .args(["--controller", &cluster.uri()])
        .output()
        .expect("the CLI runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("5000 events are durable") && said.contains("line 5001"),
        "{said}"
    );
    assert!(ask(&cluster, &["read", "s/t"]) == good, "they are there");
}

/// Runs a verb that prints something and needs no server.
fn print_to(stdout: Stdio, verb: &[&str], data: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(verb);
    if verb[0] == "admin" {
        command.arg("--data").arg(data);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn();
    let output = child.expect("the CLI runs").wait_with_output();
    output.expect("it ends")
}

#[test]
fn output_that_nobody_reads_is_no_failure_and_a_full_disk_is_one() {
    let folder = workspace("output").expect("a folder");
    let data = folder.join("controller");
    for verb in [
        &["admin", "metadata", "import"][..],
        &["admin", "metadata", "export"],
        &["admin", "metadata", "fsck"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = print_to(writer.into(), verb, &data);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{verb:?}");
    }
    for verb in [&["admin", "metadata", "fsck"][..], &["completions", "bash"]] {
        let full = File::options().write(true).open("/dev/full");
        let output = print_to(full.expect("it").into(), verb, &data);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        assert!(said.contains("write to standard output"), "{said}");
    }
}

#[test]
fn fsck_prints_json_only_whatever_is_damaged() {
    let folder = workspace("fsck-json").expect("a folder");
    let data = folder.join("data");
    let settings = [
        "segmentstore.containers=1",
        "segmentstore.container.flush.period_ms=200",
    ];
    let mut cluster =
        Cluster::start(Layout::Standalone, &data, &folder, &settings).expect("a server");
    ask(&cluster, &["stream", "create", "s/t", "--with-scope"]);
    let file = folder.join("lines");
    std::fs::write(&file, "one\ntwo\n").expect("it is written");
    ask(&cluster, &["write", "s/t", file.to_str().expect("UTF-8")]);
    until("all is flushed", PATIENCE, || {
        let left = metric(&cluster, Role::Standalone, "segmentstore_unflushed_bytes");
        Ok(left? == 0.0)
    })
    .expect("it is flushed");
    let ended = cluster.terminate(Role::Standalone).expect("it ends");
    assert!(ended.success(), "{ended}");
    let admin = |arguments: &[&str]| {
        let data = data.to_str().expect("UTF-8");
        let all = [&["admin"], arguments, &["--data", data, "--json"]].concat();
        let output = sarit(&all);
        let lines = text(&output.stdout);
        let lines = lines.lines().map(|line| {
            let json = serde_json::from_str::<serde_json::Value>(line);
            json.unwrap_or_else(|_| panic!("{arguments:?} printed {line:?}"))
        });
        (output.status.code(), lines.collect::<Vec<_>>())
    };
    let (_, shown) = admin(&["container", "show", "0"]);
    let used = shown.iter().find_map(|line| line["pack"].as_str());
    let used = used.expect("a pack is in use");
    let place = |pack: &str| data.join("segmentstore").join(pack);
    std::fs::remove_file(place(used)).expect("it is there");
    let (folder, _) = used.rsplit_once('/').expect("a folder");
    let foreign = format!("{folder}/ffffffffffff-ffffffffffff.pk");
    std::fs::write(place(&foreign), "no pack").expect("it is written");
    let (code, found) = admin(&["fsck"]);
    assert_eq!(code, Some(1));
    let damaged = found.iter().find(|line| line["error"].is_string());
    assert_eq!(damaged.expect("the damaged one")["pack"], foreign);
    let lost = found.iter().find(|line| line["wrong"] == "missing");
    let lost = lost.expect("the missing one");
    assert_eq!(
        (&lost["pack"], &lost["container"]),
        (&used.into(), &0.into())
    );
    assert!(lost["segment"].is_u64(), "{lost}");
}

#[test]
fn flights_written_by_aeroplane_come_back_complete() {
    let cluster = start("flights");
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
    let cluster = start("health");
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
fn arguments_of_a_server_that_make_no_sense_are_wrong_usage() {
    let folder = workspace("usage").expect("a folder");
    let data = folder.join("data");
    let name = data.to_str().expect("UTF-8");
    let wildcard = ["--insecure", "--segmentstore-addr", "0.0.0.0:0"];
    for (verb, wrong) in [
        ("standalone", &["--set", "foo=1"][..]),
        ("standalone", &["--set", "segmentstore.no_such_thing=1"]),
        ("standalone", &["--config", "no-such-file"]),
        (
            "standalone",
            &["--set", "segmentstore.container_range=0..1"],
        ),
        ("standalone", &wildcard),
        ("segmentstore", &wildcard),
        (
            "segmentstore",
            &["--containers", "4", "--container-range", "3..2"],
        ),
        ("controller", &["--set", "controller.retention_period_ms=0"]),
    ] {
        let output = Command::new(binary())
            .args([verb, "--data", name, "--http-addr", "127.0.0.1:0"])
            .args(wrong)
            // A variable that no server minds.
            .env("SARIT_A__B", OsStr::from_bytes(b"\xff"))
            .output()
            .expect("the CLI runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{verb} {wrong:?}: {said}");
        assert!(verb == "controller" || !data.exists(), "{verb} {wrong:?}");
    }
}

#[test]
fn a_directory_that_is_something_else_is_refused() {
    let folder = workspace("other-directory").expect("a folder");
    let data = folder.join("data");
    std::fs::create_dir(&data).expect("it is made");
    std::fs::write(data.join("FORMAT"), "{}").expect("it is written");
    let name = data.to_str().expect("UTF-8");
    let alone = sarit(&["standalone", "--data", name]);
    let said = text(&alone.stderr);
    assert_eq!(alone.status.code(), Some(2), "{said}");
    assert!(said.contains("Move it into another directory"), "{said}");
    let again = sarit(&["demo", "--data", folder.to_str().expect("UTF-8")]);
    let said = text(&again.stderr);
    assert_eq!(again.status.code(), Some(4), "{said}");
    assert!(said.contains("holds a demo's data already"), "{said}");
    let inside = std::fs::read_dir(&data).expect("the folder").count();
    assert_eq!(inside, 1, "nothing is made");
}

#[test]
fn exit_codes_tell_what_happened() {
    let cluster = start("exit-codes");
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
        let mut cluster = start("newer");
        assert!(
            cluster
                .terminate(Role::Standalone)
                .expect("it ends")
                .success()
        );
        let format = cluster.folder().join("data").join(half).join("FORMAT");
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
        .arg(&*folder)
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
