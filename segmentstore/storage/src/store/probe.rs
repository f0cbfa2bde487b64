//! Finds out whether a store does what packs rely on: a name is given once, and what was written is
//! read.

use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::{Operation, Refusal, Store, StoreError};

impl Store {
    /// Creates an object twice and reads it back; `nonce` names it, so that processes do not meet.
    ///
    /// # Errors
    /// [`StoreError::Unfit`]: do not use this store, or not with these credentials. Retryable ones: it
    /// cannot be told yet.
    pub async fn probe(&self, nonce: u128) -> Result<(), StoreError> {
        let path = self.path(&format!("probe/{nonce:032x}"));
        let outcome = self.probe_at(&path).await;
        let delete = self.0.objects.delete(&path);
        let deleted = self.request(Operation::Delete, &path, 0, delete).await;
        outcome?;
        match deleted {
            Ok(()) => Ok(()),
            Err(Refusal::Missing) => Err(StoreError::Unfit(format!("{path} was lost"))),
            Err(refusal) => Err(refusal.into_first_error(&path)),
        }
    }

    async fn probe_at(&self, path: &object_store::path::Path) -> Result<(), StoreError> {
        const CONTENT: [&str; 2] = ["first", "second"];
        for (turn, content) in CONTENT.into_iter().enumerate() {
            let options = PutOptions::from(PutMode::Create);
            let payload = PutPayload::from_static(content.as_bytes());
            let put = self.0.objects.put_opts(path, payload, options);
            match (turn, self.request(Operation::Put, path, 0, put).await) {
                (0, Ok(_)) | (1, Err(Refusal::Exists)) => {}
                (_, Ok(_)) => {
                    return Err(StoreError::Unfit(format!(
                        "it does not heed conditional puts: {path} was created twice"
                    )));
                }
                (_, Err(Refusal::Missing)) => return Err(self.no_bucket()),
                // An earlier try of this very request, whose answer was lost, made it: another name can tell.
                (0, Err(Refusal::Exists)) => {
                    return Err(StoreError::TimedOut {
                        operation: Operation::Put.name(),
                        name: path.to_string(),
                        seconds: 0,
                    });
                }
                (_, Err(refusal)) => return Err(refusal.into_first_error(path)),
            }
        }
        let get = async { self.0.objects.get(path).await?.bytes().await };
        let got = self.request(Operation::Get, path, 0, get).await;
        let got = got.map_err(|refusal| refusal.into_first_error(path))?;
        if got == CONTENT[0] {
            return Ok(());
        }
        Err(StoreError::Unfit(format!(
            "{path} was written with {:?} and is read as {got:?}",
            CONTENT[0]
        )))
    }
}
