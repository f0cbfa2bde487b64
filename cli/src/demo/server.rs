//! The demo's server: this same binary as a child process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sarit_env::Net as _;
use sarit_env::net::TcpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const READY_MAX: Duration = Duration::from_secs(30);

/// A running child; killed when dropped.
pub(super) struct Server {
    child: Child,
    folder: PathBuf,
    ports: [u16; 3],
}

impl Server {
    /// Starts one on an empty directory below `folder`.
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut ports = [0; 3];
        let mut held = Vec::new();
        for port in &mut ports {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = TcpNet.listen(any).await.context("find a free port")?;
            *port = listener.local_addr()?.port();
            held.push(listener);
        }
        drop(held);
        let child = spawn(folder, ports)?;
        let mut server = Self {
            child,
            folder: folder.to_owned(),
            ports,
        };
        server.wait_ready().await?;
        Ok(server)
    }

    /// Returns the address for clients.
    pub(super) fn uri(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.ports[0])
    }

    /// Ends it with SIGKILL.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill the server")
    }

    /// Starts it again on the same directory and ports.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.folder, self.ports)?;
        self.wait_ready().await
    }

    /// Asks it to stop and waits until it has.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().context("the server has ended")?;
        let pid = rustix::process::Pid::from_raw(pid.cast_signed())
            .context("a process id is positive")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        while !self.is_ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the server ended with {status}; its log is {}/server.log",
                    self.folder.display()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "the server is not ready; its log is {}/server.log",
                    self.folder.display()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        let Ok(mut stream) = TcpNet.connect("127.0.0.1", self.ports[2]).await else {
            return false;
        };
        let request = "GET /health/ready HTTP/1.1\r\nHost: sarit\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        stream.write_all(request.as_bytes()).await.is_ok()
            && stream.read_to_end(&mut answer).await.is_ok()
            && answer.starts_with(b"HTTP/1.1 200")
    }
}

fn spawn(folder: &Path, [controller, store, http]: [u16; 3]) -> anyhow::Result<Child> {
    let local = |port: u16| format!("127.0.0.1:{port}");
    #[allow(
        clippy::disallowed_methods,
        reason = "the child's log, outside any world"
    )]
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("server.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["standalone", "--controller-addr", &local(controller)]);
    command.args([
        "--segmentstore-addr",
        &local(store),
        "--http-addr",
        &local(http),
        "--data",
    ]);
    command
        .arg(folder.join(super::DATA))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
        .kill_on_drop(true)
        .spawn()
        .context("start the server")
}
