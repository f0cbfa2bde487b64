//! What ends a segment store, or keeps it from starting.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use sarit_proto::ids::ContainerId;

/// Why the segment store did not start, or stopped by itself. The process should exit with a failure:
/// after an error of the log nothing is known about what was under way, and only a start can tell.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses the data directory.
    #[error("{} is in use by another process: stop it, or choose another directory", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The data directory was written by a newer release.
    #[error(
        "{} has format version {found}, this release knows up to {supported}: start the newer release",
        dir.display()
    )]
    FutureFormat {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
        /// The newest one this release reads.
        supported: u32,
    },
    /// The file that says what the data directory is makes no sense.
    #[error("{} is damaged: {what}", file.display())]
    DamagedFormat {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The data directory has other containers than the settings ask for.
    #[error(
        "{} was created with {found}, the settings ask for {asked}: both are fixed when the directory is created",
        dir.display()
    )]
    OtherContainers {
        /// The directory.
        dir: PathBuf,
        /// The containers it has.
        found: String,
        /// Those of the settings.
        asked: String,
    },
    /// The address is taken or not ours.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the network said.
        source: io::Error,
    },
    /// The disk refused.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the disk said.
        source: io::Error,
    },
    /// The log could not be opened, or failed.
    #[error("log: {0}")]
    Wal(#[from] sarit_wal::Error),
    /// The place of the index cannot be used.
    #[error(transparent)]
    Index(sarit_container::Error),
    /// Long-term storage cannot be used.
    #[error("long-term storage: {0}")]
    Storage(sarit_storage::StoreError),
    /// Long-term storage is in use by another store.
    #[error(
        "{storage} is the long-term storage of another segment store, whose FORMAT is {owner}: give each \
         a prefix of its own"
    )]
    ForeignStorage {
        /// Which place.
        storage: String,
        /// What the other store left there.
        owner: String,
    },
    /// Nobody ever wrote there.
    #[error("{storage} is no store's long-term storage: there is no lts/FORMAT")]
    NothingToRecover {
        /// Which place.
        storage: String,
    },
    /// A container ended by itself.
    #[error("container {id}: {source}")]
    Container {
        /// Which.
        id: ContainerId,
        /// Why.
        source: sarit_container::Error,
    },
    /// A task ended that should not have; the log says which.
    #[error("the {0} task ended")]
    Task(&'static str),
    /// A setting makes no sense.
    #[error("configuration: {0}")]
    Config(String),
}
