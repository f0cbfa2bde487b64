//! A data directory while no server runs on it: what its indexes and logs say.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sarit_container::{Indexes, Inspector, MemoryBudget};
use sarit_env::disk::{RealDisk, read_file};
use sarit_env::{Clock, Disk, Rng};
use sarit_proto::ids::ContainerId;
use sarit_wal::{ChainRecord, LogId};

use crate::config::Index;
use crate::directory::{Directory, FORMAT_BYTES_MAX, Shape};
use crate::{Config, Error, indexes};

/// A data directory that is ours until dropped: no server starts on it meanwhile.
pub struct Offline {
    disk: Arc<dyn Disk>,
    data: PathBuf,
    directory: Directory,
    indexes: Indexes,
}

impl Offline {
    /// Opens the directory `data`, if there is one; nothing is created.
    ///
    /// # Errors
    /// [`Error::Locked`] if a server runs on it; a directory that makes no sense.
    pub async fn open(data: &Path) -> Result<Option<Self>, Error> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let file = data.join("FORMAT");
        match read_file(&*disk, &file, FORMAT_BYTES_MAX).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let what = format!("read {}", file.display());
                return Err(Error::Io { what, source });
            }
        }
        // What there is, whatever it is: nothing is asked for.
        let shape = Shape {
            asked: None,
            default: 1,
            range: None,
        };
        let directory = Directory::open(&*disk, data, shape, &Rng::from_os()).await?;
        let engine = indexes::found(&*disk, &data.join("index"))
            .await?
            .unwrap_or_default();
        let config = Index {
            engine,
            ..Index::default()
        };
        let cache = MemoryBudget::new(Config::default().memory.budget).index_cache_bytes();
        let indexes = indexes::open(disk.clone(), data, &config, cache, Clock::system()).await?;
        Ok(Some(Self {
            disk,
            data: data.to_owned(),
            directory,
            indexes,
        }))
    }

    /// Returns the numbers of its containers.
    pub fn containers(&self) -> std::ops::Range<u32> {
        let owned = self.directory.format.owned();
        owned.start()..owned.end()
    }

    /// Opens a container's index.
    ///
    /// # Errors
    /// The index's.
    pub async fn index(&self, container: u32) -> Result<Inspector, Error> {
        let id = ContainerId(container);
        let opened = Inspector::open(id, &self.indexes).await;
        opened.map_err(|source| Error::Container { id, source })
    }

    /// Returns what is known of a container's log besides its frames.
    ///
    /// # Errors
    /// The log's.
    pub async fn log(&self, container: u32) -> Result<ChainRecord, Error> {
        let record = sarit_wal::chain_record(self.disk.clone(), &self.data, LogId(container)).await;
        Ok(record?)
    }
}
