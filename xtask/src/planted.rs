//! `cargo xtask planted`: plants each bug in turn and runs the simulated worlds, which must find it.

use std::process::Command;

use anyhow::ensure;

/// The bugs that the code can carry, see the `cfg(planted = …)` in the sources.
const BUGS: [&str; 4] = [
    "ack_before_sync",
    "skip_sync",
    "skip_dedupe",
    "speculative_reply",
];

/// Runs the worlds with each bug whose name contains one of `only`, or with all.
pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for bug in BUGS {
        if !only.is_empty() && !only.iter().any(|name| bug.contains(name)) {
            continue;
        }
        println!("== {bug}");
        let mut command = Command::new(env!("CARGO"));
        command.args([
            "test",
            "--quiet",
            "--package",
            "sarit-tests",
            "--test",
            "sim",
        ]);
        // A build of its own: the flag changes every crate.
        command.args(["--target-dir", "target/planted", "--", "--nocapture"]);
        command.env(
            "RUSTFLAGS",
            format!("--cfg tokio_unstable --cfg planted=\"{bug}\""),
        );
        if !command.status()?.success() {
            missed.push(bug);
        }
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}
