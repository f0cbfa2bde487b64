//! `cargo xtask planted`: plants each bug in turn and runs the tests that must find it.

use std::process::Command;

use anyhow::ensure;

/// The simulated worlds: these tests expect the planted bug, and fail if they do not find it.
const WORLDS: [&str; 4] = ["--package", "sarit-tests", "--test", "sim"];
/// The controller's own histories: these tests fail if there is a bug.
const CONTROLLER: [&str; 4] = ["--package", "sarit-controller", "--lib", "tasks"];

/// The containers' own histories: these tests fail if there is a bug.
const CONTAINER: [&str; 4] = ["--package", "sarit-container", "--lib", "histories"];

/// The bugs that the code can carry, see the `cfg(planted = …)` in the sources, and who finds them.
const BUGS: [(&str, [&str; 4]); 6] = [
    ("ack_before_sync", WORLDS),
    ("skip_sync", WORLDS),
    ("skip_dedupe", WORLDS),
    ("speculative_reply", WORLDS),
    ("successors_before_seal", CONTROLLER),
    ("cut_one_frame_early", CONTAINER),
];

/// Runs the tests with each bug whose name contains one of `only`, or with all.
pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for (bug, tests) in BUGS {
        if !only.is_empty() && !only.iter().any(|name| bug.contains(name)) {
            continue;
        }
        println!("== {bug}");
        let command = || {
            let mut command = Command::new(env!("CARGO"));
            command.args(["test", "--quiet"]).args(tests);
            // A build of its own: the flag changes every crate.
            command.args(["--target-dir", "target/planted"]);
            let flags = format!("--cfg tokio_unstable --cfg planted=\"{bug}\"");
            command.env("RUSTFLAGS", flags);
            command
        };
        ensure!(
            command().arg("--no-run").status()?.success(),
            "{bug} does not compile"
        );
        let expected = tests == WORLDS;
        let mut run = command();
        run.args(["--", "--nocapture"]);
        if run.status()?.success() != expected {
            missed.push(bug);
        }
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}
