//! The controller's data directory: one process at a time, and a format it understands.
//!
//! ```text
//! LOCK      locked while a process has the directory
//! FORMAT    three lines: what this is, "version 1", "uuid <32 hex digits>"
//! meta/     sled's files
//! ```
//! A newer format, or a directory of something else, is refused and not touched.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sarit_env::disk::{DiskLock, lock_patiently, read_file, write_file_atomically};
use sarit_env::{Disk, Rng};

/// The version this build writes, and the newest it can read.
const VERSION: u32 = 1;
const TITLE: &str = "sarit controller data";
const FORMAT_BYTES_MAX: u64 = 4096;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on it.
    #[error("{0} is in use by another process; stop that one first, or choose another --data")]
    InUse(PathBuf),
    /// Nothing of a controller is there.
    #[error("{} is no controller's directory, it has no FORMAT file{}", .dir.display(), hint(.inside.as_deref()))]
    Missing {
        /// The directory.
        dir: PathBuf,
        /// One in it that is a controller's.
        inside: Option<PathBuf>,
    },
    /// A newer release wrote it.
    #[error(
        "{dir} has format version {found}, this build reads up to {known}; use a newer release"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// What its FORMAT says.
        found: u32,
        /// The newest this build knows.
        known: u32,
    },
    /// Its FORMAT file is not one of ours.
    #[error("{path} is not the format file of a controller directory: {reason}")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database does not open, even without its snapshot files. Nothing was deleted.
    #[error("the metadata in {dir} cannot be opened: {reason}; restore it from a copy")]
    Corrupt {
        /// The directory.
        dir: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io {
            action,
            path,
            source,
        }
    }
}

fn hint(inside: Option<&Path>) -> String {
    inside.map_or_else(String::new, |inside| {
        format!("; {} is one", inside.display())
    })
}

/// Checks that `dir` is a controller's, of whatever version. Changes nothing.
pub(super) async fn find(dir: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
    if has_format(dir, disk).await? {
        return Ok(());
    }
    // Where a standalone server has its controller's.
    let inside = dir.join("controller");
    let found = has_format(&inside, disk).await?;
    Err(OpenError::Missing {
        dir: dir.to_owned(),
        inside: Some(inside).filter(|_| found),
    })
}

async fn has_format(dir: &Path, disk: &dyn Disk) -> Result<bool, OpenError> {
    let path = dir.join("FORMAT");
    match read_file(disk, &path, FORMAT_BYTES_MAX).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io("read", &path, error)),
    }
}

/// Locks `dir` and checks its FORMAT, writing both for a new directory. The lock lasts as long as the
/// returned value.
pub(super) async fn claim(dir: &Path, disk: &dyn Disk, rng: &Rng) -> Result<DiskLock, OpenError> {
    disk.create_dir_all(dir)
        .await
        .map_err(|error| OpenError::io("create", dir, error))?;
    let path = dir.join("LOCK");
    let lock = lock_patiently(disk, &path)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse(dir.to_owned()),
            _ => OpenError::io("lock", &path, error),
        })?;
    let path = dir.join("FORMAT");
    match read_file(disk, &path, FORMAT_BYTES_MAX).await {
        Ok(bytes) => check(dir, &path, &bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{TITLE}\nversion {VERSION}\nuuid {:032x}\n", rng.u128());
            write_file_atomically(disk, &path, Bytes::from(text))
                .await
                .map_err(|error| OpenError::io("write", &path, error))?;
        }
        Err(error) => return Err(OpenError::io("read", &path, error)),
    }
    Ok(lock)
}

fn check(dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let not_ours = |reason: &str| OpenError::NotOurs {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| not_ours("it is not text"))?;
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err(not_ours("its first line is another"));
    }
    let version = lines.next().and_then(|line| line.strip_prefix("version "));
    let found: u32 = version
        .and_then(|version| version.parse().ok())
        .ok_or_else(|| not_ours("it names no version"))?;
    if found > VERSION {
        return Err(OpenError::Newer {
            dir: dir.to_owned(),
            found,
            known: VERSION,
        });
    }
    if found == 0 {
        return Err(not_ours("version 0 never was"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sarit_env::disk::RealDisk;

    use super::*;

    #[tokio::test]
    async fn where_no_controller_was_nothing_is_found_nor_made() {
        let dir = tempfile::tempdir().unwrap();
        let found = async |dir: &Path| find(dir, &RealDisk).await;
        for missing in [dir.path().to_owned(), dir.path().join("none/at/all")] {
            let refused = found(&missing).await.unwrap_err().to_string();
            let expected = format!("{} is no controller's", missing.display());
            assert!(refused.starts_with(&expected), "{refused}");
            assert!(!refused.contains(" is one"), "{refused}");
        }
        assert!(RealDisk.list(dir.path()).await.unwrap().is_empty());
        let inside = dir.path().join("controller");
        drop(claimed(&inside).await.unwrap());
        found(&inside).await.unwrap();
        let refused = found(dir.path()).await.unwrap_err().to_string();
        let expected = format!("; {} is one", inside.display());
        assert!(refused.ends_with(&expected), "{refused}");
    }

    async fn claimed(dir: &Path) -> Result<DiskLock, OpenError> {
        claim(dir, &RealDisk, &Rng::seeded(1)).await
    }

    #[tokio::test]
    async fn a_second_holder_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = claimed(dir.path()).await.unwrap();
        let refused = claimed(dir.path()).await.unwrap_err();
        assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
        drop(first);
        claimed(dir.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_newer_format_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        drop(claimed(dir.path()).await.unwrap());
        let path = dir.path().join("FORMAT");
        let newer = std::fs::read_to_string(&path).unwrap();
        let newer = newer.replace("version 1", "version 2");
        write_file_atomically(&RealDisk, &path, Bytes::from(newer))
            .await
            .unwrap();
        let refused = claimed(dir.path()).await.unwrap_err().to_string();
        assert!(
            refused.contains("format version 2, this build reads up to 1"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_directory_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("FORMAT");
        write_file_atomically(&RealDisk, &path, Bytes::from("a diary\n"))
            .await
            .unwrap();
        let refused = claimed(dir.path()).await.unwrap_err();
        assert!(matches!(refused, OpenError::NotOurs { .. }), "{refused}");
    }
}
