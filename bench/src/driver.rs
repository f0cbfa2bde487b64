//! The official Java client's driver (`reference/Bench.java`), and the servers it drives.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sarit_tests::cluster::{Cluster, Layout};
use serde_json::Value;

use crate::Bench;
use crate::reference::{Reference, folder};

pub(crate) const SCOPE: &str = "bench";
/// Every connection of the official client takes tens of megabytes, and a transaction opens one per segment:
/// with a gigabyte it runs out of memory, silently, and waits twelve seconds between two attempts.
const HEAP: [&str; 3] = ["-Xmx4g", "-Xmn2g", "-XX:+UseParallelGC"];

/// Streams of which, most likely, one lies in each of the official server's four containers.
const PLACES: usize = 8;
/// Tries that it may take until each of them serves.
const TRIES: u32 = 5;

/// A server as the Java client sees it.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) uri: String,
    pub(crate) store: String,
    pid_file: PathBuf,
}

impl Target {
    /// Returns ours, as it runs now.
    pub(crate) fn ours(bench: &Bench, server: &Cluster) -> anyhow::Result<Self> {
        let pid_file = bench.dir.join("sarit.pid");
        let pids: Vec<_> = server.pids().iter().map(u32::to_string).collect();
        std::fs::write(&pid_file, pids.join("\n"))?;
        Ok(Self {
            name: "sarit",
            uri: server.uri(),
            store: server.store_addr(),
            pid_file,
        })
    }

    /// Returns the official server.
    pub(crate) fn theirs(name: &'static str, reference: &Reference) -> Self {
        Self {
            name,
            uri: reference.uri(),
            store: reference.store_addr(),
            pid_file: reference.pid_file(),
        }
    }
}

/// Starts ours on the empty directory `data`.
pub(crate) fn ours(bench: &Bench, data: &Path) -> anyhow::Result<(Cluster, Target)> {
    let server = Cluster::start(Layout::Standalone, data, &bench.dir.join("logs"), &[])?;
    let target = Target::ours(bench, &server)?;
    Ok((server, target))
}

/// The compiled driver.
pub(crate) struct Driver {
    class_path: String,
    probe_dir: PathBuf,
}

impl Driver {
    /// Compiles it.
    pub(crate) fn compile(bench: &Bench, reference: &Reference) -> anyhow::Result<Self> {
        let classes = bench.dir.join("classes");
        let mut javac = Command::new("javac");
        javac
            .arg("-cp")
            .arg(reference.class_path())
            .arg("-d")
            .arg(&classes);
        let status = javac
            .arg(folder().join("Bench.java"))
            .status()
            .context("run javac")?;
        ensure!(status.success(), "javac: {status}");
        Ok(Self {
            class_path: format!("{}:{}", classes.display(), reference.class_path()),
            probe_dir: bench.dir.clone(),
        })
    }

    /// Runs it once and returns what it printed.
    pub(crate) fn run(
        &self,
        target: &Target,
        mode: &str,
        options: &[(&str, String)],
    ) -> anyhow::Result<Value> {
        let mut java = Command::new("java");
        java.args(HEAP)
            .args(["-cp", &self.class_path])
            .env("LEVEL", "ERROR");
        java.arg(format!(
            "-Dlogback.configurationFile={}",
            folder().join("logback.xml").display()
        ));
        java.args(["Bench", &target.uri, mode, "--scope", SCOPE]);
        java.arg("--server")
            .arg(&target.pid_file)
            .arg("--probe")
            .arg(&self.probe_dir);
        for (name, value) in options {
            java.arg(format!("--{name}")).arg(value);
        }
        let output = java.stderr(Stdio::inherit()).output().context("run java")?;
        ensure!(
            output.status.success(),
            "the Java driver: {}",
            output.status
        );
        let text = String::from_utf8(output.stdout)?;
        let last = text.lines().rev().find(|line| line.starts_with('{'));
        serde_json::from_str(last.context("the Java driver printed no JSON")?)
            .with_context(|| format!("read {text}"))
    }

    /// Waits until the official server creates streams and serves enough of them, which is later than its ports
    /// are open: each of its containers begins by itself.
    pub(crate) fn ready(&self, target: &Target) -> anyhow::Result<()> {
        for attempt in 1.. {
            let made = (0..PLACES).try_for_each(|_| {
                let stream = [("stream", new_stream()?)];
                self.run(target, "ready", &stream).map(drop)
            });
            match made {
                Err(error) if attempt == TRIES => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_secs(5)),
                Ok(()) => break,
            }
        }
        Ok(())
    }
}

/// Returns a number that the driver printed.
pub(crate) fn number(line: &Value, name: &str) -> anyhow::Result<f64> {
    let number = line[name].as_f64();
    number.with_context(|| format!("{name} in {line}"))
}

/// Returns the name of a stream that nobody else has.
pub(crate) fn new_stream() -> anyhow::Result<String> {
    let now = std::time::UNIX_EPOCH.elapsed()?;
    Ok(format!("java{}", now.as_millis()))
}
