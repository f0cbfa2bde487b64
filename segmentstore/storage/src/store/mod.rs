//! The object store: one handle for a local directory, S3, and memory.
//!
//! Objects get their name once and are never written over: [`Store::put`] and [`Store::complete`]
//! create, and if the name is taken they look whether the object is the one they were to write, which
//! an earlier try of their own may have left behind. Every request is bounded in time and counted. No
//! request is repeated here beyond what the S3 client does within that time: who asks knows how long
//! it is worth trying.
//!
//! A place that settings name could be anybody's: until it is [claimed](Store::claim), nothing is written
//! or deleted there.

mod claim;
mod config;
mod counts;
mod direct;
mod exports;
mod local;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
mod probe;
mod read;

use std::io;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

pub use config::Config;
pub use counts::{Counts, Operation};
pub use exports::ExportName;

use self::direct::Directory;
use crate::names::PackName;
use crate::pack::{Blocks, FOOTER_BYTES, Footer, Index};

/// Time a request may take, besides [`SLOWEST`].
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Bytes per second below which a request is given up.
const SLOWEST: u64 = 1 << 20;
/// What is read of an object's end to find its table of checksums; mostly enough for the table itself.
const TAIL_BYTES: u64 = 16 << 10;
/// Most bytes of one ranged read for blocks.
pub const READ_BYTES_MAX: u64 = 1 << 20;

const UNCLAIMED: &str = "long-term storage has not answered since the start";

/// What went wrong with a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not do it, perhaps not yet; another try may succeed.
    #[error("{operation} {name}: {source}")]
    Unavailable {
        /// What was asked.
        operation: &'static str,
        /// Of which object.
        name: String,
        /// The answer.
        source: Arc<object_store::Error>,
    },
    /// No answer in time; it may have been done.
    #[error("{operation} {name}: no answer in {seconds} s")]
    TimedOut {
        /// What was asked.
        operation: &'static str,
        /// Of which object.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It is not known yet whether this place is ours to write to.
    #[error("{operation} {name}: {UNCLAIMED}")]
    Unclaimed {
        /// What was asked.
        operation: &'static str,
        /// Of which object.
        name: String,
    },
    /// There is no such object.
    #[error("{0} does not exist")]
    Missing(String),
    /// Another object has the name.
    #[error("{0} exists already, with other content")]
    Taken(String),
    /// The object is not what was written.
    #[error(transparent)]
    Pack(#[from] crate::Error),
    /// The store does not do what packs rely on; it must not be used.
    #[error("the object store cannot be used: {0}")]
    Unfit(String),
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
}

impl StoreError {
    /// Whether the same request may succeed if made again.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Unclaimed { .. }
        )
    }
}

/// An object store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    /// Where packs are written without it.
    directory: Option<Directory>,
    /// What the names of packs stand behind.
    prefix: Option<Path>,
    description: String,
    counts: Counts,
    /// Whether it may be written to.
    claimed: AtomicBool,
}

/// An object being uploaded in parts. Dropping it leaves parts that the store cleans up in its own time.
#[derive(Debug)]
pub struct Upload {
    path: Path,
    parts: Box<dyn MultipartUpload>,
}

impl Store {
    /// Opens the one that `config` names, by default the directory `dir`, which is created if needed.
    ///
    /// # Errors
    /// [`StoreError::Config`].
    pub fn open(config: &Config, dir: &FilePath) -> Result<Self, StoreError> {
        config.open(dir)
    }

    /// Uses a directory, which exists. Writes are synced; its blocking I/O is kept off the workers of
    /// the runtime.
    ///
    /// # Errors
    /// [`StoreError::Config`] if it is not there.
    pub fn local(dir: &FilePath) -> Result<Self, StoreError> {
        let objects = LocalFileSystem::new_with_prefix(dir)
            .map_err(|error| StoreError::Config(format!("storage {}: {error}", dir.display())))?;
        let objects = Arc::new(objects.with_fsync(true));
        let directory = Some(Directory::new(dir.to_path_buf()));
        let description = dir.display().to_string();
        Ok(Self::new(objects, directory, None, description))
    }

    /// Uses `objects`; packs are named below `prefix`.
    pub fn over(objects: Arc<dyn ObjectStore>, prefix: Option<Path>, description: String) -> Self {
        Self::new(objects, None, prefix, description)
    }

    fn new(
        objects: Arc<dyn ObjectStore>,
        directory: Option<Directory>,
        prefix: Option<Path>,
        description: String,
    ) -> Self {
        Self(Arc::new(Inner {
            objects,
            directory,
            prefix,
            description,
            counts: Counts::new(),
            claimed: AtomicBool::new(true),
        }))
    }

    /// Has nothing written or deleted until it is claimed.
    fn unclaimed(self) -> Self {
        self.0.claimed.store(false, Ordering::Release);
        self
    }

    /// Fails until it is known that this place is ours.
    fn check_claimed(&self, operation: Operation, path: &Path) -> Result<(), StoreError> {
        if self.0.claimed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(StoreError::Unclaimed {
            operation: operation.name(),
            name: path.to_string(),
        })
    }

    /// Returns the store itself, for those who keep other objects in it, and what their names have to
    /// stand behind.
    pub fn objects(&self) -> (Arc<dyn ObjectStore>, Option<Path>) {
        (self.0.objects.clone(), self.0.prefix.clone())
    }

    /// Returns what was counted.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Writes a pack in one request.
    ///
    /// # Errors
    /// [`StoreError::Taken`]; retryable ones, after which it may or may not exist.
    pub async fn put(&self, name: PackName, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let path = self.path(&name.to_string());
        self.check_claimed(Operation::Put, &path)?;
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let put = async {
            if let Some(directory) = &self.0.directory {
                return directory.put(&path, parts.clone()).await;
            }
            let payload: PutPayload = parts.iter().cloned().collect();
            let options = PutOptions::from(PutMode::Create);
            let put = self.0.objects.put_opts(&path, payload, options);
            put.await.map(drop)
        };
        match self.request(Operation::Put, &path, bytes, put).await {
            Ok(()) => {
                self.0.counts.written(bytes);
                Ok(())
            }
            Err(Refusal::Exists) => self.compare(name, bytes, &parts).await,
            Err(refusal) => Err(refusal.into_error(&path)),
        }
    }

    /// Begins a pack that is uploaded in parts, for those too large for one request.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn upload(&self, name: PackName) -> Result<Upload, StoreError> {
        let path = self.path(&name.to_string());
        self.begin(path, self.0.directory.as_ref()).await
    }

    /// Begins an object in parts: in `directory`, if there is one, else in the object store.
    async fn begin(&self, path: Path, directory: Option<&Directory>) -> Result<Upload, StoreError> {
        self.check_claimed(Operation::Begin, &path)?;
        let begin = async {
            match directory {
                Some(directory) => directory.begin(&path).await,
                None => self.0.objects.put_multipart(&path).await,
            }
        };
        let parts = self.request(Operation::Begin, &path, 0, begin).await;
        let parts = parts.map_err(|refusal| refusal.into_error(&path))?;
        Ok(Upload { path, parts })
    }

    /// Uploads the next part; all but the last have the same length, at least 5 MiB.
    ///
    /// # Errors
    /// Retryable ones; the upload has to begin anew.
    pub async fn part(&self, upload: &mut Upload, parts: Vec<Bytes>) -> Result<(), StoreError> {
        let path = upload.path.clone();
        let payload: PutPayload = parts.into_iter().collect();
        let bytes = payload.content_length() as u64;
        let part = upload.parts.put_part(payload);
        let put = self.request(Operation::Part, &path, bytes, part).await;
        put.map_err(|refusal| refusal.into_error(&path))?;
        self.0.counts.written(bytes);
        Ok(())
    }

    /// Ends an upload in parts: from then on the pack exists.
    ///
    /// A name is given out once and only to its owner, so nothing can be written over here.
    ///
    /// # Errors
    /// Retryable ones, after which it may or may not exist; then [abort](Self::abort) it, so that no
    /// parts are left behind.
    pub async fn complete(&self, upload: &mut Upload) -> Result<(), StoreError> {
        let path = upload.path.clone();
        let complete = upload.parts.complete();
        let done = self.request(Operation::Complete, &path, 0, complete).await;
        done.map(drop).map_err(|refusal| refusal.into_error(&path))
    }

    /// Ends an upload in parts without a pack, as far as the store can be reached.
    pub async fn abort(&self, mut upload: Upload) {
        let path = upload.path.clone();
        let abort = upload.parts.abort();
        if let Err(refusal) = self.request(Operation::Abort, &path, 0, abort).await {
            let error = refusal.into_error(&path);
            tracing::debug!(%error, "an upload was not aborted");
        }
    }

    /// Reads the end of a pack: its length, its footer and its last bytes, at most `bytes`.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Pack`], retryable ones.
    pub async fn tail(
        &self,
        name: PackName,
        bytes: u64,
    ) -> Result<(u64, Footer, Bytes), StoreError> {
        let path = self.path(&name.to_string());
        let options = GetOptions {
            range: Some(GetRange::Suffix(bytes.max(FOOTER_BYTES as u64))),
            ..GetOptions::default()
        };
        let (objects, from) = (self.0.objects.clone(), path.clone());
        let get = self.reading(async move {
            let got = objects.get_opts(&from, options).await?;
            let len = got.meta.size;
            Ok((len, got.bytes().await?))
        });
        let got = self.request(Operation::Get, &path, bytes, get).await;
        let (len, bytes) = got.map_err(|refusal| refusal.into_error(&path))?;
        self.0.counts.read(bytes.len() as u64);
        let footer = Footer::decode(name, len, &bytes)?;
        Ok((len, footer, bytes))
    }

    /// Reads the checksums of a pack's blocks.
    ///
    /// # Errors
    /// As [`Self::tail`].
    pub async fn blocks(&self, name: PackName) -> Result<Blocks, StoreError> {
        let (len, footer, tail) = self.tail(name, TAIL_BYTES).await?;
        let table = Blocks::table(&footer, &tail)?;
        let range = table.range();
        let from = len - tail.len() as u64;
        let bytes = if range.start >= from {
            let place = (range.start - from) as usize..(range.end - from) as usize;
            Bytes::copy_from_slice(&tail[place])
        } else {
            self.read(name, range).await?
        };
        Ok(Blocks::decode(&footer, &table, bytes)?)
    }

    /// Reads a pack's footer and index.
    ///
    /// # Errors
    /// As [`Self::tail`].
    pub async fn index(&self, name: PackName) -> Result<(u64, Footer, Index), StoreError> {
        let (len, footer, tail) = self.tail(name, TAIL_BYTES).await?;
        let range = footer.index_range();
        let from = len - tail.len() as u64;
        let bytes = if range.start >= from {
            tail.slice((range.start - from) as usize..(range.end - from) as usize)
        } else {
            self.read(name, range).await?
        };
        let index = Index::decode(&footer, &bytes)?;
        Ok((len, footer, index))
    }

    /// Reads a part of a pack, unverified.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Pack`] if it is cut off, retryable ones.
    pub async fn read(&self, name: PackName, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(&name.to_string());
        let asked = range.end - range.start;
        let (objects, from, part) = (self.0.objects.clone(), path.clone(), range.clone());
        let get = self.reading(async move { objects.get_range(&from, part).await });
        let got = self.request(Operation::Get, &path, asked, get).await;
        let bytes = got.map_err(|refusal| refusal.into_error(&path))?;
        let given = bytes.len() as u64;
        self.0.counts.read(given);
        if given == asked {
            return Ok(bytes);
        }
        let at = range.start;
        Err(crate::Error::WrongLength {
            pack: name,
            at,
            asked,
            given,
        }
        .into())
    }

    /// Deletes a pack; one that is not there is deleted already.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn delete(&self, name: PackName) -> Result<(), StoreError> {
        let path = self.path(&name.to_string());
        self.check_claimed(Operation::Delete, &path)?;
        let delete = self.0.objects.delete(&path);
        match self.request(Operation::Delete, &path, 0, delete).await {
            Ok(()) | Err(Refusal::Missing) => Ok(()),
            Err(refusal) => Err(refusal.into_error(&path)),
        }
    }

    /// Lists all packs of a container with the lengths of their objects, in no order; other objects
    /// are passed over.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn list(&self, container: u32) -> Result<Vec<(PackName, u64)>, StoreError> {
        let first = PackName::new(container, crate::PackNumber { epoch: 0, n: 0 })?;
        let path = self.path(first.container_prefix().trim_end_matches('/'));
        self.list_at(path).await
    }

    /// Lists the packs of all containers with the lengths of their objects, in no order.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn list_all(&self) -> Result<Vec<(PackName, u64)>, StoreError> {
        self.list_at(self.path("lts")).await
    }

    async fn list_at(&self, path: Path) -> Result<Vec<(PackName, u64)>, StoreError> {
        let named = |object: ObjectMeta| Some((self.name(&object.location)?, object.size));
        match self.objects_at(&path, named).await {
            Ok(found) => Ok(found),
            Err(Refusal::Missing) => Ok(Vec::new()),
            Err(refusal) => Err(refusal.into_error(&path)),
        }
    }

    /// Has a call that reads count among those of a directory, if this is one.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> object_store::Result<T> {
        match &self.0.directory {
            Some(directory) => directory.read(read).await,
            None => read.await,
        }
    }

    /// Removes what a crash left of uploads, if this is a directory: an object store cleans up in its own
    /// time. Returns how many there were. Only for the owner, before the first upload.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn remove_unfinished(&self) -> io::Result<usize> {
        let Some(directory) = &self.0.directory else {
            return Ok(0);
        };
        let root = directory.root().to_path_buf();
        #[allow(
            clippy::disallowed_methods,
            reason = "the object store in a directory is outside of simulated worlds as a whole"
        )]
        let removed = tokio::task::spawn_blocking(move || local::remove_unfinished(&root));
        removed.await.map_err(io::Error::other)?
    }

    /// Lists what `pick` makes of the objects below `path`. A listing may have hundreds of pages, so the
    /// store has the time of a request for each step, not for the whole.
    async fn objects_at<T>(
        &self,
        path: &Path,
        pick: impl Fn(ObjectMeta) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        let list = async {
            let mut found = Vec::new();
            let mut listing = self.0.objects.list(Some(path));
            loop {
                match timeout(REQUEST_TIME, listing.next()).await? {
                    Some(Ok(object)) => found.extend(pick(object)),
                    Some(Err(error)) => return Ok(Err(error)),
                    None => return Ok(Ok(found)),
                }
            }
        };
        let outcome = self.0.counts.request(Operation::List, list).await;
        answered(Operation::List, path, REQUEST_TIME, outcome)
    }

    fn path(&self, name: &str) -> Path {
        let below = self.0.prefix.iter().flat_map(|prefix| prefix.parts());
        let name = Path::from(name);
        below.chain(name.parts()).collect()
    }

    fn name(&self, path: &Path) -> Option<PackName> {
        self.below(path)?.parse().ok()
    }

    /// Returns what stands behind the prefix.
    fn below(&self, path: &Path) -> Option<String> {
        let name: Path = match &self.0.prefix {
            Some(prefix) => path.prefix_match(prefix)?.collect(),
            None => path.clone(),
        };
        Some(name.to_string())
    }

    /// Finds out whether the object that has the name is the one that was to be written: the footer
    /// covers index and runs with its checksums.
    async fn compare(&self, name: PackName, bytes: u64, parts: &[Bytes]) -> Result<(), StoreError> {
        let (len, _, tail) = match self.tail(name, FOOTER_BYTES as u64).await {
            Ok(found) => found,
            Err(StoreError::Pack(_)) => return Err(StoreError::Taken(name.to_string())),
            // A conflict with a try that came to nothing.
            Err(StoreError::Missing(_)) => {
                let (operation, name, seconds) = ("put", name.to_string(), 0);
                return Err(StoreError::TimedOut {
                    operation,
                    name,
                    seconds,
                });
            }
            Err(error) => return Err(error),
        };
        let end = parts.iter().rev().flat_map(|part| part.iter().rev());
        if len == bytes && end.take(tail.len()).eq(tail.iter().rev()) {
            return Ok(());
        }
        Err(StoreError::Taken(name.to_string()))
    }

    /// Makes one request, bounded in time.
    async fn request<T>(
        &self,
        operation: Operation,
        path: &Path,
        bytes: u64,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Refusal> {
        let time = REQUEST_TIME + Duration::from_secs(bytes / SLOWEST);
        let request = self.0.counts.request(operation, timeout(time, request));
        answered(operation, path, time, request.await)
    }
}

/// Says what the outcome of a request means.
fn answered<T>(
    operation: Operation,
    path: &Path,
    time: Duration,
    outcome: Result<object_store::Result<T>, Elapsed>,
) -> Result<T, Refusal> {
    match outcome {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(object_store::Error::NotFound { .. })) => Err(Refusal::Missing),
        Ok(Err(
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
        )) => Err(Refusal::Exists),
        Ok(Err(source)) => {
            let denied = matches!(
                source,
                object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
            );
            let error = StoreError::Unavailable {
                operation: operation.name(),
                name: path.to_string(),
                source: Arc::new(source),
            };
            Err(if denied {
                Refusal::Denied(error)
            } else {
                Refusal::Error(error)
            })
        }
        Err(_) => Err(Refusal::Error(StoreError::TimedOut {
            operation: operation.name(),
            name: path.to_string(),
            seconds: time.as_secs(),
        })),
    }
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.description)
    }
}

/// How a request ended without success.
enum Refusal {
    Missing,
    Exists,
    /// We may not. Once a store was used, that can pass: keys are exchanged, policies mended.
    Denied(StoreError),
    Error(StoreError),
}

impl Refusal {
    fn into_error(self, path: &Path) -> StoreError {
        match self {
            Self::Missing => StoreError::Missing(path.to_string()),
            Self::Exists => StoreError::Taken(path.to_string()),
            Self::Denied(error) | Self::Error(error) => error,
        }
    }

    /// What it means before a store was ever used: who may not now was not meant to, or made a mistake.
    fn into_first_error(self, path: &Path) -> StoreError {
        match self {
            Self::Denied(error) => StoreError::Unfit(format!(
                "{error}; check the credentials, the rights they have on the bucket, and this machine's clock"
            )),
            other => other.into_error(path),
        }
    }
}

#[cfg(test)]
mod tests;
