//! Other people's clients: built once, run as processes, their words read.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cluster::{repository, target_dir};

/// An official client's suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Maven `io.pravega:pravega-client`.
    Java,
    /// Cargo `pravega-client`.
    Rust,
    /// PyPI `pravega`.
    Python,
}

impl Client {
    /// Builds the suite, if it is not there yet, and returns the command that runs it.
    pub fn suite(self) -> anyhow::Result<Command> {
        let out = target_dir().join("compat");
        std::fs::create_dir_all(&out)?;
        match self {
            Self::Java => java("Compat"),
            Self::Rust => {
                let manifest = repository().join("tests/compat/rust/Cargo.toml");
                let target = out.join("rust");
                let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
                build
                    .args(["build", "--quiet", "--manifest-path"])
                    .arg(manifest);
                build.arg("--target-dir").arg(&target);
                succeed(&mut build)?;
                Ok(Command::new(target.join("debug/compat")))
            }
            Self::Python => python("compat.py"),
        }
    }
}

/// Installs the Python client, if it is not there yet, and returns the command that runs a program.
fn python(program: &str) -> anyhow::Result<Command> {
    let out = target_dir().join("compat");
    std::fs::create_dir_all(&out)?;
    let folder = repository().join("tests/compat/python");
    let mut build = Command::new(folder.join("build"));
    succeed(build.arg(out.join("python")))?;
    let mut command = Command::new(out.join("python/bin/python"));
    command.arg(folder.join(program));
    Ok(command)
}

/// Builds the Java programs and returns the command that runs one.
pub fn java(program: &str) -> anyhow::Result<Command> {
    let out = target_dir().join("compat/java");
    let mut build = Command::new(repository().join("tests/compat/java/build"));
    succeed(build.arg(&out))?;
    let mut command = Command::new("java");
    let class_path = format!("{0}/classes:{0}/lib/*", out.display());
    // Each connection takes tens of megabytes, and a storm of minutes makes and breaks hundreds.
    command.args(["-Xmx6g", "-cp", &class_path, program]);
    Ok(command)
}

/// Installs schemathesis, which checks the REST API, if it is not there yet; returns its command.
pub fn schemathesis() -> anyhow::Result<PathBuf> {
    let out = target_dir().join("compat");
    std::fs::create_dir_all(&out)?;
    let out = out.join("rest");
    let mut build = Command::new(repository().join("tests/compat/rest/build"));
    succeed(build.arg(&out))?;
    Ok(out.join("bin/schemathesis"))
}

/// Installs moto, an S3 server, if it is not there yet; returns its command.
pub fn moto() -> anyhow::Result<PathBuf> {
    let out = target_dir().join("compat");
    std::fs::create_dir_all(&out)?;
    let out = out.join("s3");
    let mut build = Command::new(repository().join("tests/compat/s3/build"));
    succeed(build.arg(&out))?;
    Ok(out.join("bin/moto_server"))
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    // Standard output is the interpreter's path, or nothing: not for the test's own.
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(())
}

/// Runs a suite and shows what it prints; fails unless it passed.
///
/// `skip` names scenarios to leave out, each with the reason in `tests/compat/README.md`.
pub fn run_suite(client: Client, uri: &str, skip: &[&str], log: &Path) -> anyhow::Result<()> {
    let listed = client.suite()?.arg("--list").output()?;
    let listed = String::from_utf8(listed.stdout)?;
    let scenarios: Vec<_> = listed
        .split_whitespace()
        .filter(|name| !skip.contains(name))
        .collect();
    ensure!(!scenarios.is_empty(), "{client:?} lists no scenarios");
    let log = std::fs::File::create(log)?;
    let mut command = client.suite()?;
    let child = command
        .arg(uri)
        .args(&scenarios)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn();
    let mut child = child.with_context(|| format!("start {command:?}"))?;
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut passed = 0;
    for line in output.lines() {
        let line = line?;
        passed += usize::from(line.starts_with("ok "));
        println!("  {client:?}: {line}");
    }
    let status = child.wait()?;
    ensure!(status.success(), "the {client:?} suite ended with {status}");
    ensure!(
        passed == scenarios.len(),
        "{passed} of {} scenarios passed",
        scenarios.len()
    );
    Ok(())
}

/// An official client writing without end, see `tests/compat/java`'s Storm.
pub struct Storm {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Storm {
    /// Starts it and waits for its first acknowledgements.
    pub fn start(uri: &str, stream: &str, options: &[&str], log: &Path) -> anyhow::Result<Self> {
        Self::launch(java("Storm")?, uri, stream, options, log)
    }

    /// Starts the one that reads while it writes, `ScaleStorm`, which can be verified once.
    pub fn start_reading(
        uri: &str,
        stream: &str,
        options: &[&str],
        log: &Path,
    ) -> anyhow::Result<Self> {
        Self::launch(java("ScaleStorm")?, uri, stream, options, log)
    }

    /// Starts the official Rust client's counterpart of `ScaleStorm`.
    pub fn start_reading_rust(uri: &str, stream: &str, log: &Path) -> anyhow::Result<Self> {
        let mut command = Client::Rust.suite()?;
        command.arg("--storm");
        Self::launch(command, uri, stream, &[], log)
    }

    /// Starts the official Rust client as one that reads while it writes and the server is killed, which
    /// can be [checked](Self::check) any number of times, and verified once.
    pub fn start_soaking_rust(uri: &str, stream: &str, log: &Path) -> anyhow::Result<Self> {
        let mut command = Client::Rust.suite()?;
        command.arg("--soak");
        Self::launch(command, uri, stream, &[], log)
    }

    /// Starts the official Python client's counterpart of `ScaleStorm`.
    pub fn start_reading_python(uri: &str, stream: &str, log: &Path) -> anyhow::Result<Self> {
        Self::launch(python("storm.py")?, uri, stream, &[], log)
    }

    fn launch(
        mut command: Command,
        uri: &str,
        stream: &str,
        options: &[&str],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = std::fs::File::create(log)?;
        command.args([uri, "storm", stream]).args(options);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let child = command.spawn();
        let mut child = child.with_context(|| format!("start {command:?}"))?;
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut storm = Self {
            child,
            input,
            output,
        };
        let first = storm.line()?;
        ensure!(first == "ready", "{command:?} says {first:?}");
        Ok(storm)
    }

    /// Returns one of the figures of `status`: `sent`, `acked`, `inflight`, `failed`.
    pub fn status(&mut self, figure: &str) -> anyhow::Result<u64> {
        let status = self.ask("status")?;
        status[figure]
            .as_u64()
            .with_context(|| format!("{figure} in {status}"))
    }

    /// Stops writing, waits for all acknowledgements, reads everything back; fails unless every
    /// promise held. Returns Storm's figures.
    pub fn verify(&mut self) -> anyhow::Result<Value> {
        self.judge("verify")
    }

    /// The same for one that would end if it were verified, and goes on after this.
    pub fn check(&mut self) -> anyhow::Result<Value> {
        self.judge("check")
    }

    fn judge(&mut self, command: &str) -> anyhow::Result<Value> {
        let found = self.ask(command)?;
        let clean = ["lost", "duplicated", "reordered", "corrupt", "failed"];
        ensure!(
            clean.iter().all(|figure| found[*figure] == 0) && found["error"].is_null(),
            "broken promise: {found}"
        );
        ensure!(
            found["read"].as_u64() >= found["acked"].as_u64(),
            "read too little: {found}"
        );
        Ok(found)
    }

    /// Writes no new events; those in flight go on.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        writeln!(self.input, "pause")?;
        let answer = self.line()?;
        ensure!(answer == "paused", "Storm says {answer:?}");
        Ok(())
    }

    /// Goes on writing after [`Storm::verify`], [`Storm::check`] or [`Storm::pause`].
    pub fn resume(&mut self) -> anyhow::Result<()> {
        writeln!(self.input, "resume")?;
        let answer = self.line()?;
        ensure!(answer == "resumed", "Storm says {answer:?}");
        Ok(())
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<Value> {
        writeln!(self.input, "{command}")?;
        let answer = self.line()?;
        serde_json::from_str(&answer).with_context(|| format!("Storm says {answer:?}"))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "Storm has ended");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        // The test is over, one way or the other.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
