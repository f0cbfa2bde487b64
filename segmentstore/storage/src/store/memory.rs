//! An object store in memory, with faults on request. What it holds outlives its users, as objects
//! outlive hosts.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use sarit_env::Rng;

use super::Store;

/// What goes wrong, as probabilities of each request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Refused: "slow down".
    pub refuse: f64,
    /// Done, but the answer is lost.
    pub lose_answer: f64,
    /// Takes this long more.
    pub stall: f64,
    /// How long.
    pub stall_time: Duration,
    /// Refused: "access denied".
    pub deny: f64,
    /// Conditional puts write over what is there: a store that lies.
    pub overwrite: bool,
}

/// The store. Clones are the same one.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    objects: InMemory,
    rng: Rng,
    faults: Mutex<Faults>,
}

/// What becomes of one request.
enum Fate {
    Normal,
    Refused,
    Denied,
    AnswerLost,
}

impl Memory {
    /// Creates an empty one; `rng` decides about faults.
    pub fn new(rng: Rng) -> Self {
        Self(Arc::new(Inner {
            objects: InMemory::new(),
            rng,
            faults: Mutex::default(),
        }))
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.0.faults.lock() = faults;
    }

    /// Cuts an object short, whatever its name promises.
    pub async fn damage(&self, name: &str) {
        let (path, rest) = (Path::from(name), PutPayload::from_static(b"x"));
        let put = self.0.objects.put_opts(&path, rest, PutOptions::default());
        put.await.expect("memory takes it");
    }

    /// Returns a handle.
    pub fn store(&self) -> Store {
        Store::over(Arc::new(self.clone()), None, "memory".to_owned())
    }

    async fn fate(&self) -> Fate {
        let faults = *self.0.faults.lock();
        let rng = &self.0.rng;
        if faults == Faults::default() {
            return Fate::Normal;
        }
        if rng.chance(faults.stall) {
            tokio::time::sleep(faults.stall_time).await;
        }
        if rng.chance(faults.refuse) {
            Fate::Refused
        } else if rng.chance(faults.deny) {
            Fate::Denied
        } else if rng.chance(faults.lose_answer) {
            Fate::AnswerLost
        } else {
            Fate::Normal
        }
    }

    async fn request<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fate().await {
            Fate::Normal => request.await,
            Fate::Refused => Err(failure("slow down")),
            Fate::Denied => Err(object_store::Error::PermissionDenied {
                path: String::new(),
                source: "access denied".into(),
            }),
            Fate::AnswerLost => {
                request.await?;
                Err(failure("the connection broke"))
            }
        }
    }
}

fn failure(what: &'static str) -> object_store::Error {
    object_store::Error::Generic {
        store: "memory",
        source: what.into(),
    }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        if self.0.faults.lock().overwrite {
            options.mode = PutMode::Overwrite;
        }
        self.request(self.0.objects.put_opts(location, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.request(self.0.objects.put_multipart_opts(location, options))
            .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.request(self.0.objects.get_opts(location, options))
            .await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.request(self.0.objects.get_ranges(location, ranges))
            .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let fated = locations.then(move |location| {
            let this = this.clone();
            async move { this.request(async move { location }).await }
        });
        self.0.objects.delete_stream(fated.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, all) = (self.clone(), self.0.objects.list(prefix));
        let fate = async move { this.request(async { Ok(()) }).await };
        futures_util::stream::once(fate)
            .flat_map(move |fate| match fate {
                Ok(()) => futures_util::stream::empty().boxed(),
                Err(error) => futures_util::stream::iter([Err(error)]).boxed(),
            })
            .chain(all)
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.request(self.0.objects.list_with_delimiter(prefix))
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.request(self.0.objects.copy_opts(from, to, options))
            .await
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("memory")
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}
