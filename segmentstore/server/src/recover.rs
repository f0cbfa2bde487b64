//! Long-term storage → a data directory, when the log is lost. What a server never does by itself.

use std::path::Path;
use std::sync::Arc;

use sarit_container::{Damaged, MemoryBudget, Rebuilt};
use sarit_env::disk::RealDisk;
use sarit_env::{Clock, Disk};
use sarit_proto::ids::ContainerId;
use sarit_wal::LogId;

use crate::config::Config;
use crate::directory::{Directory, Format};
use crate::{Error, indexes};

/// What is in the way of a new log and a new index.
const FOLDERS: [&str; 3] = ["chain", "wal", "index"];

/// Makes a data directory from what lies in long-term storage: `config.data`, which has neither log nor
/// index. Returns what was found of each container. A server that starts on it has the identity of the one
/// that is lost, whose long-term storage it goes on with; that one must not run any more.
///
/// # Errors
/// A directory that is in use, long-term storage without a store's note, whatever does not make sense
/// there. What was written until then has to be removed before another try.
pub async fn recover_from_storage(
    config: &Config,
    damaged: Damaged,
) -> Result<Vec<(ContainerId, Rebuilt)>, Error> {
    let store = sarit_storage::Store::open(&config.storage, &config.data)
        .map_err(|error| Error::Config(error.to_string()))?;
    let storage = store.to_string();
    let note = store.note().await.map_err(Error::Storage)?;
    let note = note.ok_or_else(|| Error::NothingToRecover {
        storage: storage.clone(),
    })?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let format = Format::parse(&config.data, Path::new("lts/FORMAT"), &note)?;
    let directory = Directory::recover(&*disk, &config.data, &format).await?;
    for folder in FOLDERS {
        let path = config.data.join(folder);
        if exists(&*disk, &path).await? {
            return Err(Error::Config(format!(
                "{} is there: a log is rebuilt only where there is none; move it away",
                path.display()
            )));
        }
    }
    let cache = MemoryBudget::new(config.memory.budget).index_cache_bytes();
    let clock = Clock::system();
    let indexes = indexes::open(disk.clone(), &config.data, &config.index, cache, clock).await?;
    let mut found = Vec::new();
    let owned = format.owned();
    for number in owned.start()..owned.end() {
        let id = ContainerId(number);
        let rebuilt = sarit_container::rebuild(id, &store, &indexes, damaged).await;
        let rebuilt = rebuilt.map_err(|source| Error::Container { id, source })?;
        // Whatever the lost owners named must not be named again.
        sarit_wal::begin_above(disk.clone(), &config.data, LogId(number), rebuilt.epoch).await?;
        found.push((id, rebuilt));
    }
    directory.complete(&*disk, &config.data).await?;
    Ok(found)
}

async fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, Error> {
    match disk.list(path).await {
        Ok(entries) => Ok(!entries.is_empty()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io {
            what: format!("look into {}", path.display()),
            source,
        }),
    }
}
