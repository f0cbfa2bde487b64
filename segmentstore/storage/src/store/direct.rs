//! Packs in a directory: written past the page cache, by one thread, large ones part by part; read by few
//! at a time.
//!
//! Written the ordinary way, a pack lies in the cache until it is complete, and then all of its 128 MiB
//! go to the device at once: until that is done, every sync of a log on the same disk waits. Here the
//! device gets a part when it comes, a piece at a time, so that the log's writes find their turn between
//! two of them; the bytes are not copied into a cache where nobody looks for them soon; and those of many
//! small segments, an event here and there, are not each a system call.
//!
//! As in the object store, whose place this takes, a pack is written under another name and gets its own
//! when it is durable. One thread for all: each thread that writes directly keeps a buffer.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use parking_lot::Mutex;
use sarit_env::disk::{Disk, DiskFile, OpenMode, RealDisk};
use sarit_env::spawn_worker;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// Behind the name of a pack that is not complete.
const UNFINISHED: &str = "#0";
/// Pieces of work that wait for the thread; whoever has more waits with them.
const WAITING: usize = 16;
/// Calls that read at the same time. A disk that hangs keeps the thread of each, also when nobody waits for it
/// any longer, and the index must find threads left: the process has 32.
const READS_MAX: usize = 16;

/// A directory that packs are written to.
pub(super) struct Directory {
    root: PathBuf,
    /// Starts with the first pack.
    thread: OnceLock<Thread>,
    reads: Arc<Semaphore>,
    /// Reads that nobody may wait for any longer.
    tasks: TaskTracker,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("root", &self.root)
            .finish()
    }
}

/// The thread that writes; it ends when nobody has work for it any more.
#[derive(Clone)]
struct Thread(mpsc::Sender<Work>);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Work that has not begun; dropping this drops it.
struct Waiting(Arc<Mutex<Option<Work>>>);

impl Waiting {
    fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(work)))))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.0.lock().take());
    }
}

impl Thread {
    fn start() -> Self {
        let (work, mut received) = mpsc::channel::<Work>(WAITING);
        spawn_worker("pack-writer", async move {
            while let Some(work) = received.recv().await {
                work.await;
            }
        });
        Self(work)
    }

    /// Has the thread do something. Begun is done, even if nobody waits for it any longer. What was given
    /// up before is not done, and the memory it holds is given back at once, however long the thread is
    /// busy with something else.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting::new(async move {
            // Whoever asked may have given up.
            let _ = done.send(work.await);
        });
        let begun = waiting.0.clone();
        let work = async move {
            let work = begun.lock().take();
            if let Some(work) = work {
                work.await;
            }
        };
        let stopped = || io::Error::other("the thread that writes packs has ended");
        let sent = self.0.send(Box::pin(work)).await;
        let outcome = match sent {
            Ok(()) => outcome.await.unwrap_or_else(|_| Err(stopped())),
            Err(_) => Err(stopped()),
        };
        outcome.map_err(failed)
    }
}

fn failed(error: io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "directory",
        source: Box::new(error),
    }
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            thread: OnceLock::new(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            tasks: TaskTracker::new(),
        }
    }

    /// Where packs lie, below `lts`.
    pub(super) fn root(&self) -> &FilePath {
        &self.root
    }

    /// Reads, when fewer than [`READS_MAX`] do. Goes on if it is dropped: the call counts until it ends.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let permit = self.reads.clone().acquire_owned().await;
        let reading = self.tasks.spawn(async move {
            let _permit = permit;
            read.await
        });
        let ended = |error| Err(failed(io::Error::other(error)));
        reading.await.unwrap_or_else(ended)
    }

    fn thread(&self) -> Thread {
        self.thread.get_or_init(Thread::start).clone()
    }

    /// Writes a whole pack; the thread does nothing else meanwhile.
    ///
    /// # Errors
    /// [`object_store::Error::AlreadyExists`]; others, after which it may or may not exist.
    pub(super) async fn put(&self, path: &Path, parts: Vec<Bytes>) -> Result<()> {
        let target = self.root.join(path.as_ref());
        let put = async move {
            match RealDisk.open(&target, OpenMode::Read).await {
                Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let unfinished = unfinished(&target);
            let written = async {
                let file = create(&unfinished).await?;
                file.write_through_at(0, &parts).await?;
                complete(&*file, &unfinished, &target).await
            };
            let written = written.await;
            if written.is_err() {
                // What fails here is found at the next start, see `remove_unfinished`.
                let _ = RealDisk.remove(&unfinished).await;
            }
            written
        };
        match self.thread().run(put).await {
            Err(object_store::Error::Generic { source, .. }) if exists(&*source) => {
                let path = path.to_string();
                Err(object_store::Error::AlreadyExists { path, source })
            }
            done => done,
        }
    }

    /// Begins a pack. Its name is new, so nothing is written over but what an earlier life left unfinished.
    pub(super) async fn begin(&self, path: &Path) -> Result<Box<dyn MultipartUpload>> {
        let thread = self.thread();
        let target = self.root.join(path.as_ref());
        let unfinished = unfinished(&target);
        let staging = unfinished.clone();
        let begin = async move { create(&staging).await };
        Ok(Box::new(DirectUpload {
            file: thread.run(begin).await?,
            thread,
            unfinished,
            target,
            at: 0,
        }))
    }
}

fn exists(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

/// Returns what a pack is called until it is complete.
fn unfinished(target: &FilePath) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

fn folder(path: &FilePath) -> &FilePath {
    path.parent().expect("a pack lies in a folder")
}

/// Creates a file in place of what an earlier life left of it.
async fn create(unfinished: &FilePath) -> io::Result<Arc<dyn DiskFile>> {
    RealDisk.create_dir_all(folder(unfinished)).await?;
    match RealDisk.remove(unfinished).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    RealDisk.open(unfinished, OpenMode::CreateNew).await
}

/// Makes what was written durable, and then the pack's.
async fn complete(file: &dyn DiskFile, unfinished: &FilePath, target: &FilePath) -> io::Result<()> {
    file.sync_data().await?;
    RealDisk.rename(unfinished, target).await?;
    RealDisk.sync_dir(folder(target)).await
}

/// A pack that is being written.
struct DirectUpload {
    thread: Thread,
    file: Arc<dyn DiskFile>,
    unfinished: PathBuf,
    target: PathBuf,
    /// Where the next part goes.
    at: u64,
}

impl fmt::Debug for DirectUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectUpload")
            .field("unfinished", &self.unfinished)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for DirectUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let at = self.at;
        self.at += data.content_length() as u64;
        let (thread, file) = (self.thread.clone(), self.file.clone());
        let parts: Vec<Bytes> = data.iter().cloned().collect();
        async move {
            let write = async move { file.write_through_at(at, &parts).await };
            thread.run(write).await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (unfinished, target) = (self.unfinished.clone(), self.target.clone());
        let file = self.file.clone();
        let complete = async move { complete(&*file, &unfinished, &target).await };
        self.thread.run(complete).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: object_store::Extensions::default(),
        })
    }

    async fn abort(&mut self) -> Result<()> {
        let unfinished = self.unfinished.clone();
        let abort = async move {
            match RealDisk.remove(&unfinished).await {
                // It was completed, and the answer lost.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        };
        self.thread.run(abort).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn reads_that_hang_count_until_they_end() {
        let directory = Directory::new(PathBuf::from("nowhere"));
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..READS_MAX + 4 {
            let begun = begun.clone();
            let read = directory.read(async move {
                begun.fetch_add(1, Ordering::Relaxed);
                pending::<Result<()>>().await
            });
            let given_up = tokio::time::timeout(std::time::Duration::from_millis(5), read).await;
            assert!(given_up.is_err());
        }
        assert_eq!(begun.load(Ordering::Relaxed), READS_MAX);
    }

    #[tokio::test]
    async fn work_that_is_given_up_before_it_began_holds_nothing() {
        let thread = Thread::start();
        let (free, blocked) = oneshot::channel::<()>();
        let first = thread.run(async move {
            let _ = blocked.await;
            Ok(())
        });
        let mut first = Box::pin(first);
        assert!((&mut first).now_or_never().is_none());
        let memory = Arc::new(());
        let held = memory.clone();
        let second = thread.run(async move {
            drop(held);
            Ok(())
        });
        let mut second = Box::pin(second);
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(Arc::strong_count(&memory), 2);
        drop(second);
        assert_eq!(Arc::strong_count(&memory), 1);
        free.send(()).unwrap();
        first.await.unwrap();
    }
}
