//! The place of all indexes, `index/` in the data directory, and what they are kept in.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sarit_container::{Indexes, SlateStore};
use sarit_env::{Clock, Disk};

use crate::Error;
use crate::config::{Engine, Index};

/// Opens the place of all indexes below `data`, with so much memory for a cache.
///
/// # Errors
/// [`Error::Config`] if something else is set than what the indexes there are kept in: they would seem to
/// be empty, and then everything in long-term storage would be garbage.
pub(crate) async fn open(
    disk: Arc<dyn Disk>,
    data: &Path,
    config: &Index,
    cache: u64,
    clock: Clock,
) -> Result<Indexes, Error> {
    let folder = data.join("index");
    let set = config.engine;
    if let Some(kept) = found(&*disk, &folder).await?
        && kept != set
    {
        return Err(Error::Config(format!(
            "index.engine is {set}, and the index in {} is kept by {kept}: set index.engine = {kept:?}",
            folder.display(),
            kept = kept.name(),
            set = set.name(),
        )));
    }
    Ok(match set {
        Engine::Snapshot => Indexes::files(disk, folder),
        Engine::Slatedb => {
            let store = SlateStore::local(&folder, cache, clock).map_err(Error::Index)?;
            Indexes::slate(store.polling(Duration::from_millis(config.poll_ms)))
        }
    })
}

/// Returns what the indexes in `folder` are kept in, if there are any.
pub(crate) async fn found(disk: &dyn Disk, folder: &Path) -> Result<Option<Engine>, Error> {
    let entries = match disk.list(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let what = format!("look into {}", folder.display());
            return Err(Error::Io { what, source });
        }
    };
    let is_dump = |path: &Path| path.extension().is_some_and(|kind| kind == "snapshot");
    if entries.iter().any(|entry| is_dump(&entry.path)) {
        return Ok(Some(Engine::Snapshot));
    }
    let database = entries.iter().any(|entry| entry.is_dir);
    Ok(database.then_some(Engine::Slatedb))
}

#[cfg(test)]
mod tests {
    use sarit_env::disk::RealDisk;

    use super::*;

    async fn opened(data: &Path, engine: Engine) -> Result<Indexes, Error> {
        let config = Index {
            engine,
            ..Index::default()
        };
        open(Arc::new(RealDisk), data, &config, 1 << 20, Clock::system()).await
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "a test's own directory")]
    async fn an_index_of_another_engine_is_not_taken_for_none() {
        for (kept, other, left) in [
            (Engine::Slatedb, Engine::Snapshot, "index/index/0/manifest"),
            (Engine::Snapshot, Engine::Slatedb, "index/0.snapshot"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let left = dir.path().join(left);
            std::fs::create_dir_all(left.parent().unwrap()).unwrap();
            std::fs::write(left, "x").unwrap();
            let refused = opened(dir.path(), other).await.err().unwrap().to_string();
            let wanted = format!("set index.engine = {:?}", kept.name());
            assert!(refused.contains(&wanted), "{refused}");
            opened(dir.path(), kept).await.unwrap();
        }
    }
}
