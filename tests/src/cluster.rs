//! Real server processes: start, wait until ready, kill, restart, measure.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::workspace::Workspace;

/// How long a server may take to become ready, on a machine that is busy with other tests.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often to look whether something has happened that sends no signal.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Which processes make up the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `sarit standalone`.
    Standalone,
    /// `sarit controller` and `sarit segmentstore`.
    Separate,
    /// `sarit controller` and two `sarit segmentstore`, each with half of the containers.
    TwoStores,
}

/// What two stores have: all containers, and each its half.
const CONTAINERS: &str = "4";
const HALVES: [&str; 2] = ["0..2", "2..4"];

/// One of the server's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Both halves.
    Standalone,
    /// `sarit controller`.
    Controller,
    /// `sarit segmentstore`; of two the one with the lower half.
    SegmentStore,
    /// The `sarit segmentstore` with the upper half.
    SecondStore,
}

impl Role {
    /// Its place among the ports for HTTP.
    fn http(self) -> usize {
        match self {
            Self::Standalone | Self::Controller => 0,
            Self::SegmentStore => 1,
            Self::SecondStore => 2,
        }
    }

    fn is_store(self) -> bool {
        matches!(self, Self::SegmentStore | Self::SecondStore)
    }
}

/// A server of one to three processes on ports of its own; killed when dropped.
pub struct Cluster {
    layout: Layout,
    data: PathBuf,
    logs: PathBuf,
    ports: Ports,
    settings: Vec<String>,
    processes: Vec<Process>,
    folder: Option<Workspace>,
}

struct Ports {
    controller: u16,
    stores: [u16; 2],
    http: [u16; 3],
}

struct Process {
    role: Role,
    child: Option<Child>,
}

/// Returns the binary under test: `SARIT_BIN`, else the release build.
pub fn binary() -> PathBuf {
    std::env::var_os("SARIT_BIN").map_or_else(|| target_dir().join("release/sarit"), PathBuf::from)
}

/// Returns the build directory, which is also where tests may keep what is expensive to make.
pub fn target_dir() -> PathBuf {
    let default = repository().join("target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(default, PathBuf::from)
}

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_owned()
}

/// Returns a port that nobody listens on. Below the ephemeral range, so that no outgoing connection
/// sits on it by chance.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run side by side start at different places.
    let start = 11_000 + (std::process::id() % 170) as u16 * 50;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Cluster {
    /// Starts a server on `data`, its logs in `logs`, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready in a minute; the end of its log is in the message.
    pub fn start(
        layout: Layout,
        data: &Path,
        logs: &Path,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let mut cluster = Self::launch(layout, data, logs, settings)?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Starts a server on `data`, its logs in `logs`, and does not wait.
    pub fn launch(
        layout: Layout,
        data: &Path,
        logs: &Path,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let ports = Ports {
            controller: free_port(),
            stores: [free_port(), free_port()],
            http: [free_port(), free_port(), free_port()],
        };
        let roles: &[Role] = match layout {
            Layout::Standalone => &[Role::Standalone],
            Layout::Separate => &[Role::Controller, Role::SegmentStore],
            Layout::TwoStores => &[Role::Controller, Role::SegmentStore, Role::SecondStore],
        };
        let processes = roles
            .iter()
            .map(|role| Process {
                role: *role,
                child: None,
            })
            .collect();
        let settings = settings
            .iter()
            .map(|setting| (*setting).to_owned())
            .collect();
        let mut cluster = Self {
            layout,
            data: data.to_owned(),
            logs: logs.to_owned(),
            ports,
            settings,
            processes,
            folder: None,
        };
        for role in roles {
            cluster.spawn(*role)?;
        }
        Ok(cluster)
    }

    /// Keeps the test's folder as long as the server.
    #[must_use]
    pub fn holding(mut self, folder: Workspace) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Returns the folder with the server's logs.
    pub fn folder(&self) -> &Path {
        &self.logs
    }

    /// Returns the address that clients are given.
    pub fn uri(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.ports.controller)
    }

    /// Returns the segment store's address.
    pub fn store_addr(&self) -> String {
        format!("127.0.0.1:{}", self.ports.stores[0])
    }

    /// Returns where a segment store listens.
    pub fn store_port(&self, role: Role) -> u16 {
        self.ports.stores[usize::from(role == Role::SecondStore)]
    }

    /// Returns how many processes keep events.
    pub fn stores(&self) -> u64 {
        match self.layout {
            Layout::Standalone | Layout::Separate => 1,
            Layout::TwoStores => 2,
        }
    }

    /// Returns the address of the first process's HTTP pages.
    pub fn http_addr(&self) -> String {
        format!("127.0.0.1:{}", self.ports.http[0])
    }

    /// Returns the ids of the running processes.
    pub fn pids(&self) -> Vec<u32> {
        self.processes
            .iter()
            .filter_map(|process| process.child.as_ref().map(Child::id))
            .collect()
    }

    /// Starts one process again, on the same data and ports. Does not wait.
    pub fn spawn(&mut self, role: Role) -> anyhow::Result<()> {
        let (verb, folder) = match role {
            Role::Standalone => ("standalone", ""),
            Role::Controller => ("controller", "controller"),
            Role::SegmentStore => ("segmentstore", "segmentstore"),
            Role::SecondStore => ("segmentstore", "segmentstore-2"),
        };
        let (controller, http) = (self.ports.controller, self.ports.http[role.http()]);
        let store = self.store_port(role);
        let mut command = Command::new(binary());
        // The server takes every SARIT_ variable for a setting of its own, or refuses it.
        for (name, _) in std::env::vars_os() {
            if is_for_tests(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        command.arg(verb).arg("--data").arg(self.data.join(folder));
        command.args(["--http-addr", &format!("127.0.0.1:{http}")]);
        if !role.is_store() {
            command.args(["--controller-addr", &format!("127.0.0.1:{controller}")]);
        }
        if role != Role::Controller {
            command.args(["--segmentstore-addr", &format!("127.0.0.1:{store}")]);
        }
        if role.is_store() {
            command.args(["--controller", &format!("http://127.0.0.1:{controller}")]);
        }
        if role.is_store() && self.layout == Layout::TwoStores {
            let half = HALVES[usize::from(role == Role::SecondStore)];
            command.args(["--containers", CONTAINERS, "--container-range", half]);
        }
        for setting in &self.settings {
            let section = setting.split('.').next().unwrap_or_default();
            let other = match role {
                Role::Standalone => "",
                Role::Controller => "segmentstore",
                Role::SegmentStore | Role::SecondStore => "controller",
            };
            if section != other {
                command.args(["--set", setting]);
            }
        }
        std::fs::create_dir_all(&self.logs)?;
        let mut log = File::options();
        let log = log
            .create(true)
            .append(true)
            .open(self.logs.join(format!("{}.log", log_of(role))))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.with_context(|| format!("start {}", binary().display()))?;
        self.process(role)?.child = Some(child);
        Ok(())
    }

    /// Waits until every running process says that it is ready.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        for index in 0..self.processes.len() {
            let role = self.processes[index].role;
            let http = self.ports.http[role.http()];
            let Some(child) = &mut self.processes[index].child else {
                continue;
            };
            while http_get(http, "/health/ready").is_none_or(|(status, _)| status != 200) {
                if let Some(status) = child.try_wait()? {
                    bail!("{role:?} ended with {status}:\n{}", self.log_tail());
                }
                if Instant::now() > deadline {
                    bail!("not ready after {READY_MAX:?}:\n{}", self.log_tail());
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Ends a process with SIGKILL and waits until it is gone.
    pub fn kill(&mut self, role: Role) -> anyhow::Result<()> {
        let mut child = self
            .process(role)?
            .child
            .take()
            .context("it is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends all processes with SIGKILL.
    pub fn kill_all(&mut self) -> anyhow::Result<()> {
        for index in 0..self.processes.len() {
            if self.processes[index].child.is_some() {
                self.kill(self.processes[index].role)?;
            }
        }
        Ok(())
    }

    /// Starts every process that is not running, and waits until all are ready.
    pub fn restart_all(&mut self) -> anyhow::Result<()> {
        for index in 0..self.processes.len() {
            if self.processes[index].child.is_none() {
                self.spawn(self.processes[index].role)?;
            }
        }
        self.wait_ready()
    }

    /// Asks a process to stop with SIGTERM, and returns how it ended.
    pub fn terminate(&mut self, role: Role) -> anyhow::Result<ExitStatus> {
        let mut child = self
            .process(role)?
            .child
            .take()
            .context("it is not running")?;
        let sent = Command::new("kill").arg(child.id().to_string()).status()?;
        anyhow::ensure!(sent.success(), "kill {}: {sent}", child.id());
        Ok(child.wait()?)
    }

    /// Waits for a process to end by itself, at most `max`.
    pub fn wait_exit(&mut self, role: Role, max: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + max;
        loop {
            let child = self
                .process(role)?
                .child
                .as_mut()
                .context("it is not running")?;
            if let Some(status) = child.try_wait()? {
                self.process(role)?.child = None;
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "still running after {max:?}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Returns the resident memory of all processes, in bytes.
    pub fn rss(&self) -> u64 {
        self.pids()
            .into_iter()
            .map(|pid| rss(pid).unwrap_or(0))
            .sum()
    }

    /// Returns the largest resident memory that all running processes ever had, added up, in bytes.
    pub fn rss_peak(&self) -> u64 {
        self.pids()
            .into_iter()
            .map(|pid| memory(pid, "VmHWM:").unwrap_or(0))
            .sum()
    }

    /// Returns the body of an HTTP page of a process.
    pub fn http(&self, role: Role, path: &str) -> anyhow::Result<(u16, String)> {
        let port = self.http_port(role);
        http_get(port, path).with_context(|| format!("GET {path} from port {port}"))
    }

    /// Returns the port on which a process serves HTTP.
    pub(crate) fn http_port(&self, role: Role) -> u16 {
        self.ports.http[role.http()]
    }

    /// Returns where a process serves HTTP.
    pub fn http_url(&self, role: Role) -> String {
        let port = self.http_port(role);
        format!("http://127.0.0.1:{port}")
    }

    /// Returns the last lines of every log.
    pub fn log_tail(&self) -> String {
        let mut tail = String::new();
        for process in &self.processes {
            let verb = log_of(process.role);
            let Ok(text) = std::fs::read_to_string(self.logs.join(format!("{verb}.log"))) else {
                continue;
            };
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(20)..] {
                tail.push_str(&format!("{verb}: {line}\n"));
            }
        }
        tail
    }

    fn process(&mut self, role: Role) -> anyhow::Result<&mut Process> {
        let process = self
            .processes
            .iter_mut()
            .find(|process| process.role == role);
        process.with_context(|| format!("no {role:?} in this cluster"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing to report to: the test is over.
        let _ = self.kill_all();
    }
}

fn log_of(role: Role) -> &'static str {
    match role {
        Role::Standalone => "standalone",
        Role::Controller => "controller",
        Role::SegmentStore => "segmentstore",
        Role::SecondStore => "segmentstore-2",
    }
}

/// Whether a variable steers tests, as `SARIT_SEED` does, and is no setting like `SARIT_SECTION__KEY`.
fn is_for_tests(variable: &str) -> bool {
    let ours = variable.starts_with("SARIT_") && !variable.contains("__");
    ours && variable != "SARIT_LOG"
}

/// Returns a process' resident memory in bytes.
pub fn rss(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

pub(crate) fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: sarit\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::is_for_tests;

    #[test]
    fn variables_of_tests_do_not_reach_the_server() {
        assert!(is_for_tests("SARIT_BIN"));
        assert!(is_for_tests("SARIT_BAD_INPUTS"));
        assert!(!is_for_tests("SARIT_SEGMENTSTORE__CONTAINERS"));
        assert!(!is_for_tests("SARIT_LOG"));
        assert!(!is_for_tests("PATH"));
    }
}
