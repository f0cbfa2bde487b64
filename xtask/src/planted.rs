//! `cargo xtask planted`: plants each bug in turn and runs the tests that must find it.

#![allow(
    clippy::disallowed_methods,
    reason = "a chore on the developer's own files, not product code"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The simulated worlds: these tests expect the planted bug, and fail if they do not find it.
const WORLDS: [&str; 4] = ["--package", "sarit-tests", "--test", "sim"];
/// The controller's own histories: these tests fail if there is a bug.
const CONTROLLER: [&str; 4] = ["--package", "sarit-controller", "--lib", "tasks"];

/// The containers' own histories: these tests fail if there is a bug.
const CONTAINER: [&str; 4] = ["--package", "sarit-container", "--lib", "histories"];
/// The rule of retention, and streams under it.
const RETENTION: [&str; 4] = ["--package", "sarit-controller", "--lib", "retention"];

/// The bugs that the code can carry, see the `cfg(planted = …)` in the sources, and who finds them.
const BUGS: [(&str, &[[&str; 4]]); 12] = [
    ("ack_before_sync", &[WORLDS]),
    ("skip_sync", &[WORLDS]),
    ("skip_dedupe", &[WORLDS]),
    ("speculative_reply", &[WORLDS]),
    ("successors_before_seal", &[CONTROLLER, WORLDS]),
    ("cut_one_frame_early", &[CONTAINER]),
    ("merge_twice", &[CONTAINER, WORLDS]),
    ("commit_out_of_order", &[CONTROLLER, WORLDS]),
    ("flush_before_commit", &[CONTAINER]),
    ("collect_referenced", &[CONTAINER]),
    ("stale_extent", &[CONTAINER]),
    ("truncate_past_subscriber", &[RETENTION, WORLDS]),
];

/// Runs the tests with each bug whose name contains one of `only`, or with all.
pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for (bug, tests) in BUGS {
        if !only.is_empty() && !only.iter().any(|name| bug.contains(name)) {
            continue;
        }
        println!("== {bug}");
        let compiler = compiler(bug)?;
        for tests in tests {
            let command = || {
                let mut command = Command::new(env!("CARGO"));
                command.args(["test", "--quiet"]).args(tests);
                // Cargo calls it for the crates of this workspace only, and keeps their builds apart by
                // its path.
                command.env("RUSTC_WORKSPACE_WRAPPER", &compiler);
                command
            };
            ensure!(
                command().arg("--no-run").status()?.success(),
                "{bug} does not compile"
            );
            let expected = *tests == WORLDS;
            let mut run = command();
            run.args(["--", "--nocapture"]);
            if run.status()?.success() != expected {
                missed.push(format!("{bug} by {}", tests[1..].join(" ")));
            }
        }
    }
    ensure!(missed.is_empty(), "not found: {}", missed.join(", "));
    Ok(())
}

/// Makes a compiler that plants the bug; what does not belong to this workspace is not compiled again.
fn compiler(bug: &str) -> anyhow::Result<PathBuf> {
    let build = std::env::current_exe().context("find the build directory")?;
    let folder = build.with_file_name("planted");
    fs::create_dir_all(&folder).context("make a folder for compilers")?;
    let path = folder.join(bug);
    let script = format!("#!/bin/sh\nexec \"$@\" --cfg planted --cfg 'planted=\"{bug}\"'\n");
    if !fs::read_to_string(&path).is_ok_and(|same| same == script) {
        fs::write(&path, script).with_context(|| written(&path))?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&path, executable).with_context(|| written(&path))?;
    }
    Ok(path)
}

fn written(path: &Path) -> String {
    format!("write {}", path.display())
}
