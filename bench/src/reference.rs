//! The official server, started and stopped by `reference/pravega`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};
use sarit_tests::cluster::free_port;

/// The script takes this many ports from the controller's on.
const PORTS: u16 = 6;
/// Its heap when it keeps its data there: ten times what a run of this bench writes, which is what it takes.
const HEAP: &str = "8g";

/// One official server, killed when dropped.
pub(crate) struct Reference {
    dir: PathBuf,
    controller: u16,
    store: u16,
}

/// How it keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A synced log.
    Durable,
    /// Nothing survives.
    Memory,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// In order.
    Down,
    /// With SIGKILL.
    Kill,
}

impl Reference {
    /// Prepares one that keeps its files in `dir`, which must be for it alone, and shares the jars in
    /// `jars`. Fetches them if they are not there.
    pub(crate) fn new(jars: &Path, dir: &Path) -> anyhow::Result<Self> {
        let lib = jars.join("lib");
        std::fs::create_dir_all(&lib).with_context(|| format!("create {}", lib.display()))?;
        let lib = lib.canonicalize()?;
        if !lib.join(".done").exists() {
            fetch(&lib).context("fetch the official server's jars with Maven")?;
        }
        std::fs::create_dir_all(dir)?;
        std::os::unix::fs::symlink(&lib, dir.join("lib"))?;
        Ok(Self {
            dir: dir.to_owned(),
            controller: free_ports(PORTS),
            store: free_port(),
        })
    }

    /// Returns the controller's address.
    pub(crate) fn uri(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.controller)
    }

    /// Returns the segment store's address.
    pub(crate) fn store_addr(&self) -> String {
        format!("127.0.0.1:{}", self.store)
    }

    /// Returns the class path of its jars.
    pub(crate) fn class_path(&self) -> String {
        format!("{}/lib/*", self.dir.display())
    }

    /// Returns the file with its process ids.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Returns the ids of its processes.
    pub(crate) fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let text = std::fs::read_to_string(self.pid_file()).context("it is not running")?;
        text.lines()
            .map(|line| line.parse().context("a process id"))
            .collect()
    }

    /// Returns the folder of its long-term storage.
    pub(crate) fn long_term_storage(&self) -> PathBuf {
        self.dir.join("lts")
    }

    /// Removes its data.
    pub(crate) fn wipe(&self) -> anyhow::Result<()> {
        for folder in ["zk", "bk", "lts"] {
            match std::fs::remove_dir_all(self.dir.join(folder)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins to start it; the child ends when its ports are open.
    pub(crate) fn launch(&self, mode: Mode) -> anyhow::Result<Child> {
        let mut command = script();
        command.arg("up");
        if mode == Mode::Durable {
            command.arg("--durable");
        } else {
            command.env("PRAVEGA_HEAP", HEAP);
        }
        command
            .arg(&self.dir)
            .args([self.controller, self.store].map(|port| port.to_string()));
        command
            .stdout(Stdio::null())
            .spawn()
            .context("start the official server")
    }

    /// Starts it and waits until its ports are open.
    pub(crate) fn up(&self, mode: Mode) -> anyhow::Result<()> {
        let status = self.launch(mode)?.wait()?;
        ensure!(
            status.success(),
            "the official server did not start: {status}"
        );
        Ok(())
    }

    /// Stops it.
    pub(crate) fn stop(&self, how: Stop) -> anyhow::Result<()> {
        let verb = match how {
            Stop::Down => "down",
            Stop::Kill => "kill",
        };
        let status = script().arg(verb).arg(&self.dir).status()?;
        ensure!(
            status.success(),
            "the official server did not stop: {status}"
        );
        Ok(())
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if self.pid_file().exists() {
            // Nobody left to tell.
            let _ = self.stop(Stop::Kill);
        }
    }
}

/// Returns the folder of what belongs to the official server.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference")
}

fn script() -> Command {
    Command::new(folder().join("pravega"))
}

fn fetch(lib: &Path) -> anyhow::Result<()> {
    let mut maven = Command::new("mvn");
    maven
        .arg("-q")
        .arg("-f")
        .arg(folder().join("pom.xml"))
        .arg("dependency:copy-dependencies");
    let status = maven
        .arg(format!("-DoutputDirectory={}", lib.display()))
        .status()?;
    ensure!(status.success(), "mvn: {status}");
    std::fs::write(lib.join(".done"), "")?;
    Ok(())
}

/// Returns the first of `count` neighbouring ports that nobody listens on.
fn free_ports(count: u16) -> u16 {
    loop {
        let first = free_port();
        if (1..count).all(|next| free_port() == first + next) {
            return first;
        }
    }
}
