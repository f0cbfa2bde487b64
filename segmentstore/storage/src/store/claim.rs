//! Whose place it is. Two stores that write packs to one place would take each other's names, so the
//! first one leaves a note there, once, and all others find it.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::{Operation, Refusal, Store, StoreError};

/// Beside the packs; no pack's name.
const NOTE: &str = "lts/FORMAT";
/// Far more than a note has.
const NOTE_BYTES_MAX: u64 = 64 << 10;

impl Store {
    /// Leaves `note` if nobody has left one, and returns the one that is there now. Whether that is the
    /// caller's is for the caller to say; if so, [`Self::claimed`].
    ///
    /// # Errors
    /// Retryable ones; [`StoreError::Unfit`] if there is no such bucket, or we may not write to it.
    pub async fn claim(&self, note: Bytes) -> Result<Bytes, StoreError> {
        let path = self.path(NOTE);
        let options = PutOptions::from(PutMode::Create);
        let payload = PutPayload::from_bytes(note.clone());
        let put = self.0.objects.put_opts(&path, payload, options);
        match self.request(Operation::Put, &path, 0, put).await {
            Ok(_) => Ok(note),
            // What an earlier try of ours may have left, too.
            Err(Refusal::Exists) => match self.note().await? {
                Some(found) => Ok(found),
                None => Err(StoreError::TimedOut {
                    operation: Operation::Put.name(),
                    name: path.to_string(),
                    seconds: 0,
                }),
            },
            Err(Refusal::Missing) => Err(self.no_bucket()),
            Err(refusal) => Err(refusal.into_first_error(&path)),
        }
    }

    /// From now on packs may be written and deleted.
    pub fn claimed(&self) {
        self.0
            .claimed
            .store(true, std::sync::atomic::Ordering::Release);
    }

    /// Returns the note that its owner left, if it has one.
    ///
    /// # Errors
    /// Retryable ones; [`StoreError::Unfit`] for what cannot be a note.
    pub async fn note(&self) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(NOTE);
        match self
            .request(Operation::Get, &path, 0, self.small(&path))
            .await
        {
            Ok(Some(note)) => Ok(Some(note)),
            Ok(None) => Err(StoreError::Unfit(format!("{path} is no note of ours"))),
            Err(Refusal::Missing) => Ok(None),
            Err(refusal) => Err(refusal.into_error(&path)),
        }
    }

    async fn small(&self, path: &Path) -> object_store::Result<Option<Bytes>> {
        let got = self.0.objects.get(path).await?;
        if got.meta.size > NOTE_BYTES_MAX {
            return Ok(None);
        }
        got.bytes().await.map(Some)
    }

    /// What it means that an object cannot be created because something is missing.
    pub(super) fn no_bucket(&self) -> StoreError {
        StoreError::Unfit(format!("{self}: there is no such bucket"))
    }
}
