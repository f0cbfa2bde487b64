//! `cargo xtask test`: installs what is missing, builds once, runs every test binary, adds up.

#![allow(
    clippy::disallowed_methods,
    reason = "a chore, in real time, with threads of its own"
)]

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

/// Test binaries that start processes of their own, measure memory or simulate a world: one test at a
/// time, output shown.
const SYSTEM: [&str; 3] = ["sim", "it", "compat"];

/// A program that tests need, and the Debian package that has it.
const NEEDS: [(&str, &[&str], &str); 4] = [
    ("javac", &["-version"], "openjdk-17-jdk-headless"),
    ("mvn", &["--version"], "maven"),
    ("python3", &["-m", "venv", "--help"], "python3-venv"),
    ("cc", &["--version"], "gcc"),
];

/// Runs everything whose binary's name contains one of `only`, or all.
pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    install_missing()?;
    let release = ["build", "--release", "--package", "sarit", "--bin", "sarit"];
    cargo(&release)?;
    let (mut passed, mut failed, mut said) = (0, 0, Vec::new());
    for binary in build_tests()? {
        if !only.is_empty() && !only.iter().any(|name| binary.name.contains(name)) {
            continue;
        }
        let outcome = binary.run()?;
        passed += outcome.passed;
        failed += outcome.failed;
        if outcome.failed > 0 {
            said.push(format!("== {}\n{}", binary.name, outcome.said));
        }
    }
    ensure!(passed + failed > 0, "no test ran");
    // Again at the end, where it is found: what runs after a failure prints a lot.
    for said in said {
        println!("{said}");
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        // The line above is the last word.
        std::process::exit(1);
    }
    Ok(())
}

fn install_missing() -> anyhow::Result<()> {
    let works = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let quiet = command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    let missing: Vec<_> = NEEDS
        .iter()
        .filter(|(program, arguments, _)| !works(program, arguments))
        .map(|(_, _, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing what the tests need: {}", missing.join(" "));
    if !works("apt-get", &["--version"]) {
        bail!(
            "no apt-get here; install these by hand, then run again: {}",
            missing.join(" ")
        );
    }
    for arguments in [
        vec!["update", "-q"],
        [vec!["install", "-q", "-y"], missing].concat(),
    ] {
        let status = Command::new("apt-get")
            .args(&arguments)
            .stdout(Stdio::null())
            .status()?;
        ensure!(
            status.success(),
            "apt-get {}: {status}; are you root?",
            arguments.join(" ")
        );
    }
    Ok(())
}

pub(crate) fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(env!("CARGO")).args(arguments).status()?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}

struct TestBinary {
    name: String,
    executable: PathBuf,
    package: PathBuf,
    system: bool,
}

struct Outcome {
    passed: u64,
    failed: u64,
    /// What the panics said, if the binary failed.
    said: String,
}

/// Builds all test binaries in one go, so that every crate is compiled with one set of features.
fn build_tests() -> anyhow::Result<Vec<TestBinary>> {
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "test",
        "--workspace",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the tests don't build");
    let mut binaries = Vec::new();
    for line in output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let message: serde_json::Value = serde_json::from_slice(line)?;
        let Some(executable) = message["executable"].as_str() else {
            continue;
        };
        if message["profile"]["test"] != true {
            continue;
        }
        let manifest = Path::new(
            message["manifest_path"]
                .as_str()
                .context("a manifest path")?,
        );
        let package = manifest
            .parent()
            .context("a manifest is in a folder")?
            .to_owned();
        let target = message["target"]["name"]
            .as_str()
            .context("a target's name")?;
        let kind = message["target"]["kind"][0].as_str().unwrap_or_default();
        let system = kind == "test" && package.ends_with("tests") && SYSTEM.contains(&target);
        let folder = package.file_name().unwrap_or_default().to_string_lossy();
        let name = if kind == "test" {
            format!("{folder}/{target}")
        } else {
            target.to_owned()
        };
        binaries.push(TestBinary {
            name,
            executable: executable.into(),
            package,
            system,
        });
    }
    // What fails fast comes first.
    binaries.sort_by(|a, b| (a.system, &a.name).cmp(&(b.system, &b.name)));
    Ok(binaries)
}

impl TestBinary {
    fn run(&self) -> anyhow::Result<Outcome> {
        println!("== {}", self.name);
        let start = Instant::now();
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.package);
        if self.system {
            command.args(["--test-threads=1", "--nocapture"]);
        }
        // A test says what it found; a trace of its runtime drowns that.
        command.env("RUST_BACKTRACE", "0");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("piped")?);
        let said = std::thread::spawn(move || panics(stderr));
        let output = child.wait_with_output()?;
        let said = said.join().unwrap_or_default();
        let text = String::from_utf8_lossy(&output.stdout);
        let counts = text.lines().rev().find_map(counts);
        let Some((passed, failed)) = counts else {
            print!("{text}");
            println!(
                "== {} ended with {} before its tests did",
                self.name, output.status
            );
            return Ok(Outcome {
                passed: 0,
                failed: 1,
                said,
            });
        };
        if failed > 0 || self.system {
            print!("{text}");
        }
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        println!(
            "== {}: {passed} passed, {failed} failed, {minutes:.1} min\n",
            self.name
        );
        Ok(Outcome {
            passed,
            failed,
            said,
        })
    }
}

/// Lines of a panic that are worth repeating: the place, the message, the log's last lines.
const LINES_SAID_MAX: usize = 30;

/// Passes `stderr` on line by line, and returns the panics of the tests' own threads. Those of a runtime's
/// threads are left out: where they matter, a test repeats them.
fn panics(mut stderr: impl std::io::BufRead) -> String {
    let (mut said, mut line, mut left) = (String::new(), Vec::new(), 0);
    while stderr
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line);
        eprint!("{text}");
        if text.starts_with("thread '") && text.contains("panicked at") {
            left = if text.starts_with("thread 'tokio-") {
                0
            } else {
                LINES_SAID_MAX
            };
        }
        if left > 0 {
            said.push_str(&text);
            left -= 1;
        }
        drop(text);
        line.clear();
    }
    said
}

/// Reads `test result: ok. 5 passed; 0 failed; …`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let mut words = line
        .strip_prefix("test result: ")?
        .split_whitespace()
        .skip(1);
    let passed = words.next()?.parse().ok()?;
    let failed = words.nth(1)?.parse().ok()?;
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::{counts, panics};

    #[test]
    fn the_counts_are_read_off_the_last_line() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured";
        assert_eq!(counts(line), Some((12, 3)));
        assert_eq!(counts("running 3 tests"), None);
    }

    #[test]
    fn what_a_test_said_is_kept_and_noise_is_not() {
        let stderr = "a log line\n\
            thread 'tokio-rt-worker' (7) panicked at a.rs:1:1:\nnoise\n\
            thread 'main' (8) panicked at b.rs:2:2:\nthe reason\n";
        let said = panics(stderr.as_bytes());
        assert_eq!(
            said,
            "thread 'main' (8) panicked at b.rs:2:2:\nthe reason\n"
        );
    }
}
