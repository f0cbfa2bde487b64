//! An S3 server: moto, which tests install by themselves and which forgets all when it ends, or SeaweedFS,
//! whose binary `SARIT_WEED` names and which keeps what it has.

#![allow(
    clippy::disallowed_methods,
    reason = "drives real processes in real time"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::BUCKET;
use crate::clients::moto;
use crate::cluster::free_port;

/// How long a server may take until it takes objects, on a busy machine.
const READY_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Requests without a signature may do what the tests do to get ready; signatures that come are checked.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "anonymous", "actions": ["Admin"]},
    {"name": "sarit", "actions": ["Admin"], "credentials": [{"accessKey": "test", "secretKey": "test"}]}
]}"#;

enum Program {
    Moto(PathBuf),
    SeaweedFs { binary: PathBuf, others: [u16; 7] },
}

/// A running S3 server, killed when dropped.
pub struct S3Server {
    program: Program,
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
    /// Objects tried so far: a name that is new is everybody's to create.
    tried: u64,
}

impl S3Server {
    /// Starts SeaweedFS if `SARIT_WEED` says where it is, else moto, which is installed if needed, and
    /// creates [`BUCKET`]; its log and its files are in `folder`.
    ///
    /// # Errors
    /// If it takes no objects within two minutes.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let program = match std::env::var_os("SARIT_WEED") {
            Some(binary) => Program::SeaweedFs {
                binary: binary.into(),
                others: std::array::from_fn(|_| free_port()),
            },
            None => Program::Moto(moto()?),
        };
        let mut server = Self {
            program,
            folder: folder.to_owned(),
            port: free_port(),
            child: None,
            tried: 0,
        };
        server.restart()?;
        server.wait_ready()?;
        Ok(server)
    }

    /// Returns what it calls itself.
    pub fn name(&self) -> &'static str {
        match self.program {
            Program::Moto(_) => "moto",
            Program::SeaweedFs { .. } => "SeaweedFS",
        }
    }

    /// Returns whether it still has what it had after [`S3Server::kill`] and [`S3Server::restart`].
    pub fn survives_kills(&self) -> bool {
        matches!(self.program, Program::SeaweedFs { .. })
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts it again at the same address, and does not wait.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        let mut log = File::options();
        let log = log.create(true).append(true);
        let log = log.open(self.folder.join("s3.log"))?;
        let files = self.folder.join("s3");
        std::fs::create_dir_all(&files)?;
        let mut command = match &self.program {
            Program::Moto(binary) => {
                let mut command = Command::new(binary);
                command
                    .args(["-H", "127.0.0.1", "-p", &self.port.to_string()])
                    // What is larger goes to files.
                    .env("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", "65536")
                    .env("TMPDIR", &files);
                command
            }
            Program::SeaweedFs { binary, others } => {
                std::fs::write(files.join("identities.json"), IDENTITIES)?;
                let mut command = Command::new(binary);
                command.args(seaweedfs(self.port, others));
                // What it names by itself lies there, and paths of sockets stay short.
                command.current_dir(&files);
                command
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until [`BUCKET`] is there and takes objects.
    ///
    /// # Errors
    /// If that takes two minutes, or the server has ended; with its last answer.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        let mut answer = String::new();
        loop {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?;
            ensure!(ended == Some(None), "{} has ended: {ended:?}", self.name());
            // The bucket may be there already; whether it is shows when an object comes.
            self.tried += 1;
            let object = format!("{BUCKET}/ready/{}", self.tried);
            for (path, body) in [(BUCKET, ""), (&object, "ready")] {
                let put = put(self.port, path, body);
                answer = put.unwrap_or_else(|error| error.to_string());
            }
            if answer.contains(" 200 ") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{}: {answer}", self.name());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // The test is over, one way or the other.
        let _ = self.kill();
    }
}

/// All of SeaweedFS in one process, on this machine's loopback only; nothing is reported anywhere.
fn seaweedfs(port: u16, others: &[u16; 7]) -> Vec<String> {
    let fixed = [
        "-logtostderr",
        "server",
        "-dir=.",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        // As many as fit on the disk.
        "-volume.max=0",
        "-master.volumeSizeLimitMB=1024",
        "-filer",
        "-filer.localSocket=filer.sock",
        "-s3",
        "-s3.config=identities.json",
        // Else a bucket that is not there comes to be.
        "-s3.autoCreateBucket=false",
        "-s3.localSocket=s3.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ];
    const OTHERS: [&str; 7] = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
    ];
    let ports = OTHERS.iter().zip(others);
    let ports = ports.map(|(name, port)| format!("-{name}={port}"));
    let fixed = fixed.map(str::to_owned).into_iter();
    fixed
        .chain(ports)
        .chain([format!("-s3.port={port}")])
        .collect()
}

/// Creates a bucket or an object, and returns the answer.
fn put(port: u16, path: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(READY_MAX))?;
    let length = body.len();
    write!(
        stream,
        "PUT /{path} HTTP/1.1\r\nHost: s3\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
