//! A test's folder: for the server's data, logs, and whatever else a look back at a failure wants.

#![allow(
    clippy::disallowed_methods,
    reason = "a real folder for real processes"
)]

use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::cluster::target_dir;

/// A folder below the build directory, removed when it is dropped without a panic: all tests together write
/// more than ten gigabytes.
///
/// Whoever panics finds it there; a helper that returns an error instead keeps it. Make it before what uses it,
/// so that it goes last.
pub struct Workspace {
    path: PathBuf,
}

/// Makes a folder for one test's data and logs; what was there is removed.
///
/// # Errors
/// If the file system refuses.
pub fn workspace(name: &str) -> anyhow::Result<Workspace> {
    let path = target_dir().join("system-tests").join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    std::fs::create_dir_all(&path)?;
    Ok(Workspace { path })
}

impl Workspace {
    /// Leaves the folder where it is.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Deref for Workspace {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What is left is removed by the next run.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
