//! A file system in memory with a size that tests change while a server uses it: a disk that is full.

#![allow(clippy::disallowed_methods, reason = "mounts a real file system")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// A mounted tmpfs, unmounted when dropped.
pub struct TmpFs {
    mount: PathBuf,
}

impl TmpFs {
    /// Mounts an empty file system of `bytes` at `mount`, which must be an empty folder.
    ///
    /// # Errors
    /// If mounting is not permitted here; the message says what is needed.
    pub fn mount(mount: &Path, bytes: u64) -> anyhow::Result<Self> {
        let size = format!("size={bytes},mode=700");
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(mount);
        run(&mut command).context("the full-disk tests need the right to mount: run as root")?;
        Ok(Self {
            mount: mount.to_owned(),
        })
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Changes how much it holds; not below what is in it.
    pub fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        let size = format!("remount,size={bytes}");
        run(Command::new("mount").args(["-o", &size]).arg(&self.mount))
    }

    /// Returns the bytes that are in it.
    pub fn used(&self) -> anyhow::Result<u64> {
        self.df("used")
    }

    /// Returns the bytes that it could take.
    pub fn free(&self) -> anyhow::Result<u64> {
        self.df("avail")
    }

    fn df(&self, column: &str) -> anyhow::Result<u64> {
        let mut command = Command::new("df");
        command.args([&format!("--output={column}"), "--block-size=1"]);
        let output = command.arg(&self.mount).output()?;
        let text = String::from_utf8(output.stdout)?;
        let used = text.lines().last().context("df says nothing")?;
        Ok(used.trim().parse()?)
    }

    /// Leaves not a byte free. Whoever writes meanwhile may take what there is first.
    pub fn fill(&self) -> anyhow::Result<()> {
        // What is written between the question and the answer makes the new size too small: ask again.
        for _ in 0..100 {
            if self.resize(self.used()?).is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!(
            "somebody writes faster than {} is filled",
            self.mount.display()
        )
    }
}

impl Drop for TmpFs {
    fn drop(&mut self) {
        // Lazily: a killed server's files may still be open for a moment.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.mount));
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_until_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let disk = TmpFs::mount(dir.path(), 1 << 20).unwrap();
        let path = disk.path().join("file");
        std::fs::write(&path, vec![1; 512 << 10]).unwrap();
        disk.fill().unwrap();
        assert_eq!(disk.free().unwrap(), 0);
        let error = std::fs::write(disk.path().join("more"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        disk.resize(1 << 20).unwrap();
        std::fs::write(disk.path().join("more"), "x").unwrap();
    }
}
