//! Official clients, unchanged, against our servers. The suites themselves are in the folders beside.

#![allow(
    clippy::disallowed_methods,
    reason = "runs real processes in real time"
)]

use std::process::Command;
use std::time::Instant;

use sarit_client::connection::Endpoint;
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;
use sarit_tests::clients::{self, run_suite, schemathesis};
use sarit_tests::cluster::{Cluster, Layout, Role};
use sarit_tests::workspace::workspace;

/// Memory a store may take: the budget's default and what the design allows beside it.
const RSS_MAX: u64 = (256 + 150) << 20;

/// What is done now and then is done often.
const SETTINGS: [&str; 1] = ["controller.retention_period_ms=500"];

fn run(client: clients::Client, layout: Layout) {
    let name = format!("compat-{client:?}-{layout:?}").to_lowercase();
    let start = Instant::now();
    let folder = workspace(&name).expect("a folder");
    let data = folder.join("data");
    let mut cluster = Cluster::start(layout, &data, &folder, &SETTINGS).expect("a server");
    let suite = run_suite(client, &cluster.uri(), &[], &folder.join("client.log"));
    let peak = cluster.rss_peak();
    if let Err(error) = suite {
        panic!("{error:#}\n{}", cluster.log_tail());
    }
    assert!(
        peak <= cluster.stores() * RSS_MAX,
        "the server took {} MiB",
        peak >> 20
    );
    cluster.kill_all().expect("it can be killed");
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    println!(
        "{name}: {minutes:.1} min, server's peak memory {} MiB",
        peak >> 20
    );
}

#[test]
fn java_client_on_standalone() {
    run(clients::Client::Java, Layout::Standalone);
}

#[test]
fn java_client_on_two_processes() {
    run(clients::Client::Java, Layout::Separate);
}

#[test]
fn java_client_on_two_stores() {
    run(clients::Client::Java, Layout::TwoStores);
}

#[test]
fn python_client_on_standalone() {
    run(clients::Client::Python, Layout::Standalone);
}

#[test]
fn rust_client_on_standalone() {
    run(clients::Client::Rust, Layout::Standalone);
}

#[test]
fn rust_client_on_two_processes() {
    run(clients::Client::Rust, Layout::Separate);
}

/// Requests that schemathesis makes per operation and round.
const REST_REQUESTS: &str = "40";

/// The REST API keeps to its own description: every answer as documented, bad input never a 500. One
/// round with names at random, one about a stream that exists.
#[test]
fn rest_api_is_as_described() {
    let folder = workspace("compat-rest").expect("a folder");
    let cluster = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]);
    let mut cluster = cluster.expect("a server");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(make_stream(&cluster));
    let checker = schemathesis().expect("schemathesis");
    let url = cluster.http_url(Role::Standalone);
    for fixed in [false, true] {
        let config = folder.join("schemathesis.toml");
        let mut text = include_str!("rest/schemathesis.toml").to_owned();
        if fixed {
            text += "\n[parameters]\nscopeName = \"known\"\nstreamName = \"stream\"\n";
        }
        std::fs::write(&config, text).expect("a file");
        let mut run = Command::new(&checker);
        run.current_dir(&*folder).arg("--config-file").arg(&config);
        run.args(["run", &format!("{url}/v1/openapi.json"), "--seed", "1"]);
        run.args([
            "--max-examples",
            REST_REQUESTS,
            "--phases",
            "coverage,fuzzing,stateful",
        ]);
        // Where the names of every path are fixed, what was created is not what is asked for next.
        let without = match fixed {
            false => "ignored_auth",
            true => "ignored_auth,ensure_resource_availability",
        };
        run.args(["--checks", "all", "--exclude-checks", without]);
        run.args(["--workers", "1"]);
        run.args(["--generation-database", "none", "--request-timeout", "30"]);
        let output = run.output().expect("schemathesis runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let summary = said.lines().rev().take(12).collect::<Vec<_>>();
        for line in summary.iter().rev() {
            println!("  rest: {line}");
        }
        assert!(output.status.success(), "{said}\n{}", cluster.log_tail());
    }
    cluster.kill_all().expect("it can be killed");
}

async fn make_stream(cluster: &Cluster) {
    let parts = sarit_client::Parts {
        net: std::sync::Arc::new(sarit_env::net::TcpNet),
        rng: sarit_env::Rng::from_os(),
    };
    let uri = cluster.uri();
    let endpoint = Endpoint::parse(uri.trim_start_matches("tcp://")).expect("an address");
    let client = sarit_client::Client::new(endpoint, sarit_client::Config::default(), parts)
        .expect("a client");
    let stream: ScopedStream = "known/stream".parse().expect("a name");
    let made = client.controller().create_scope(&stream.scope).await;
    assert!(made.expect("a scope"));
    let config = StreamConfig::fixed(1).expect("a configuration");
    let made = client.controller().create_stream(&stream, &config).await;
    assert!(made.expect("a stream"));
}
