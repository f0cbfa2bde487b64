//! What can go wrong with a log, by what the caller does about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{FrameNo, LogId, WalEpoch};

/// A failure of the log. A failed append is ambiguous: its frame may be found when the log is opened again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Someone opened the log again, or is about to: this owner is out.
    #[error("epoch {epoch} of log {log} is fenced")]
    Fenced {
        /// The log.
        log: LogId,
        /// The epoch that may no longer append.
        epoch: WalEpoch,
    },
    /// Acknowledged bytes are damaged or gone. Nothing was changed; a human has to decide.
    #[error("{} is corrupt at byte {offset}: {what}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The log stopped, in order or because of an earlier failure; it stays stopped.
    #[error("the log has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
    /// The disk refused. After a failed write or sync the whole WAL stops.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, and on which file.
        what: Arc<str>,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// The bytes were written by a newer release; this one does not touch them.
    #[error("{} has format version {found}, this release reads up to {supported}; start the newer release", file.display())]
    FutureVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u16,
        /// The newest version this release knows.
        supported: u16,
    },
    /// The folder belongs to another store.
    #[error("{} belongs to another store", file.display())]
    ForeignFile {
        /// The file.
        file: PathBuf,
    },
    /// The frame was truncated, or never existed.
    #[error("log {log} has no frame {number}")]
    NoSuchFrame {
        /// The log.
        log: LogId,
        /// The frame asked for.
        number: FrameNo,
    },
    /// The frame is larger than the configuration allows, or its range lies outside its body.
    #[error("{bytes} bytes asked for, at most {max} possible")]
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// The owner appends without waiting for tickets; its log stops.
    #[error("log {log} has {count} frames in flight")]
    TooManyInFlight {
        /// The log.
        log: LogId,
        /// Frames that are not durable yet.
        count: u64,
    },
    /// A configuration value makes no sense.
    #[error("configuration: {0}")]
    Config(String),
}

impl Error {
    /// Describes a disk error met while doing `what` with the file or folder at `path`.
    pub(crate) fn io(what: &str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what: format!("{what} {}", path.display()).into(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn stopped(reason: impl Into<Arc<str>>) -> Self {
        Self::Stopped {
            reason: reason.into(),
        }
    }

    pub(crate) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            file: file.to_owned(),
            offset,
            what: what.into(),
        }
    }
}
