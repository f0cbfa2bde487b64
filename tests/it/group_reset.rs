//! A group of the official Java client's readers begins where `sarit group reset` says.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use sarit_tests::clients::java;
use sarit_tests::cluster::{Cluster, Layout, binary};
use sarit_tests::workspace::workspace;
use serde_json::Value;

struct World {
    uri: String,
    log: std::path::PathBuf,
}

impl World {
    fn ask(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut child = Command::new(binary())
            .env_remove("SARIT_BIN")
            .args(arguments)
            .args(["--controller", &self.uri])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("it is piped")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    fn write(&self, numbers: std::ops::Range<u32>) -> anyhow::Result<()> {
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        self.ask(&["write", "s/t"], &lines)?;
        Ok(())
    }

    /// What a Java reader of the group gets, sorted; events of different segments come in any order.
    fn java(&self, arguments: &[&str]) -> anyhow::Result<Vec<u32>> {
        let (mut before, behind) = self.around_checkpoint(arguments)?;
        before.extend(behind);
        before.sort_unstable();
        Ok(before)
    }

    /// What a Java reader of the group gets before and behind the checkpoint that it asks for.
    fn around_checkpoint(&self, arguments: &[&str]) -> anyhow::Result<(Vec<u32>, Vec<u32>)> {
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&self.log)?;
        let mut reader = java("GroupReads")?;
        let output = reader
            .args([&self.uri, "s", "group"])
            .args(arguments)
            .stderr(log)
            .output()?;
        ensure!(
            output.status.success(),
            "the Java reader ended with {}",
            output.status
        );
        let text = String::from_utf8(output.stdout)?;
        let mut lines = text.lines();
        let mut numbers = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "checkpoint") {
            numbers.push(line.parse()?);
        }
        let behind: Result<_, _> = lines.map(str::parse).collect();
        Ok((numbers, behind?))
    }

    fn reset(&self, to: &str) -> anyhow::Result<Value> {
        let said = self.ask(&["group", "reset", "s/group", "--to", to, "--json"], "")?;
        Ok(serde_json::from_str(&said)?)
    }
}

fn run(uri: String, folder: &Path) -> anyhow::Result<()> {
    let log = folder.join("client.log");
    let world = World { uri, log };
    let numbers = |numbers: std::ops::Range<u32>| numbers.collect::<Vec<_>>();
    world.ask(
        &["stream", "create", "s/t", "--segments", "2", "--with-scope"],
        "",
    )?;
    world.write(0..100)?;
    let (before, mut behind) = world.around_checkpoint(&["create", "t", "40", "100"])?;
    behind.sort_unstable();
    let mut read = [before.as_slice(), &behind].concat();
    read.sort_unstable();
    ensure!(read == numbers(0..100), "at first: {read:?}");
    ensure!(
        before.len() >= 40 && !behind.is_empty(),
        "no checkpoint among them: {before:?}, {behind:?}"
    );

    let reset = world.reset("checkpoint")?;
    ensure!(reset["generation"] == 1, "{reset}");
    let read = world.java(&["read"])?;
    ensure!(read == behind, "behind the checkpoint: {read:?}");

    world.reset("head")?;
    let read = world.java(&["read"])?;
    ensure!(read == numbers(0..100), "from the head: {read:?}");

    let cut = world.ask(&["stream", "cut", "s/t", "--json"], "")?;
    let cut: Value = serde_json::from_str(&cut)?;
    let cut = cut["cut"].as_str().context("a cut")?;
    world.reset("tail")?;
    world.write(100..150)?;
    let read = world.java(&["read"])?;
    ensure!(read == numbers(100..150), "from the tail: {read:?}");

    let reset = world.reset(cut)?;
    ensure!(
        reset["generation"] == 4 && reset["starts"]["s/t"] == cut,
        "{reset}"
    );
    let read = world.java(&["read"])?;
    ensure!(read == numbers(100..150), "from a cut: {read:?}");
    Ok(())
}

#[test]
fn java_readers_begin_where_their_group_was_reset_to() {
    let folder = workspace("group-reset").expect("a folder");
    let started = Cluster::start(Layout::Standalone, &folder.join("data"), &folder, &[]);
    let cluster = started.expect("a server");
    if let Err(error) = run(cluster.uri(), &folder) {
        panic!("{error:#}\n{}", cluster.log_tail());
    }
}
