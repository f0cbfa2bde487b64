//! Official clients, unchanged, against our servers. The suites themselves are in the folders beside.

#![allow(
    clippy::disallowed_methods,
    reason = "runs real processes in real time"
)]

use std::time::Instant;

use sarit_tests::clients::{Client, run_suite, workspace};
use sarit_tests::cluster::{Cluster, Layout};

/// Memory the server may take: the budget's default and what the design allows beside it.
const RSS_MAX: u64 = (256 + 150) << 20;

/// What a client does only with what comes later; see `tests/compat/README.md`.
const NOT_YET: [&str; 1] = ["event_9_mib"];

fn run(client: Client, layout: Layout) {
    let name = format!("compat-{client:?}-{layout:?}").to_lowercase();
    let start = Instant::now();
    let folder = workspace(&name).expect("a folder");
    let mut cluster = Cluster::start(layout, &folder.join("data"), &folder, &[]).expect("a server");
    let suite = run_suite(client, &cluster.uri(), &NOT_YET, &folder.join("client.log"));
    let peak = cluster.rss_peak();
    if let Err(error) = suite {
        panic!("{error:#}\n{}", cluster.log_tail());
    }
    assert!(peak <= RSS_MAX, "the server took {} MiB", peak >> 20);
    cluster.kill_all().expect("it can be killed");
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    println!(
        "{name}: {minutes:.1} min, server's peak memory {} MiB",
        peak >> 20
    );
}

#[test]
fn java_client_on_standalone() {
    run(Client::Java, Layout::Standalone);
}

#[test]
fn java_client_on_two_processes() {
    run(Client::Java, Layout::Separate);
}

#[test]
fn python_client_on_standalone() {
    run(Client::Python, Layout::Standalone);
}

#[test]
fn rust_client_on_standalone() {
    run(Client::Rust, Layout::Standalone);
}

#[test]
fn rust_client_on_two_processes() {
    run(Client::Rust, Layout::Separate);
}
