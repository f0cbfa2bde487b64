//! Copies of containers' indexes beside the packs, for the day that a log is lost: packs say which bytes
//! of which numbers they hold, an index says whose numbers these are. What is in them, and which are kept,
//! is up to the container.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::{Operation, READ_BYTES_MAX, Refusal, Store, StoreError, Upload};

/// What a copy is called: `lts/index/{container}/{epoch}-{frame}.ix`, as many hexadecimal digits as in the
/// names of packs. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportName {
    /// The container's number.
    pub container: u32,
    /// Epoch of the log of whoever wrote it.
    pub epoch: u64,
    /// The last frame of the log whose effects are in.
    pub frame: u64,
}

impl fmt::Display for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            container,
            epoch,
            frame,
        } = self;
        write!(f, "lts/index/{container:04x}/{epoch:012x}-{frame:012x}.ix")
    }
}

impl FromStr for ExportName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (container, rest) = text
            .strip_prefix("lts/index/")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(())?;
        let numbers = rest
            .strip_suffix(".ix")
            .and_then(|rest| rest.split_once('-'));
        let (epoch, frame) = numbers.ok_or(())?;
        let number = |digits| u64::from_str_radix(digits, 16).map_err(drop);
        let name = Self {
            container: u32::from_str_radix(container, 16).map_err(drop)?,
            epoch: number(epoch)?,
            frame: number(frame)?,
        };
        // Any other spelling is no export.
        (name.to_string() == text).then_some(name).ok_or(())
    }
}

impl Store {
    /// Writes an export in one request. One that is there already is the same: a frame is written once.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn put_export(&self, name: ExportName, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(&name.to_string());
        self.check_claimed(Operation::Put, &path)?;
        let length = bytes.len() as u64;
        let options = PutOptions::from(PutMode::Create);
        let put = self
            .0
            .objects
            .put_opts(&path, PutPayload::from_bytes(bytes), options);
        match self.request(Operation::Put, &path, length, put).await {
            Ok(_) => {
                self.0.counts.written(length);
                Ok(())
            }
            Err(Refusal::Exists) => Ok(()),
            Err(refusal) => Err(refusal.into_error(&path)),
        }
    }

    /// Begins an export that is too large for one request.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn upload_export(&self, name: ExportName) -> Result<Upload, StoreError> {
        self.begin(self.path(&name.to_string()), None).await
    }

    /// Lists a container's exports with their lengths, oldest first.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn exports(&self, container: u32) -> Result<Vec<(ExportName, u64)>, StoreError> {
        let path = self.path(&format!("lts/index/{container:04x}"));
        let named = |object: ObjectMeta| {
            let name = self.below(&object.location)?.parse().ok()?;
            Some((name, object.size))
        };
        match self.objects_at(&path, named).await {
            Ok(mut found) => {
                found.sort_unstable();
                Ok(found)
            }
            Err(Refusal::Missing) => Ok(Vec::new()),
            Err(refusal) => Err(refusal.into_error(&path)),
        }
    }

    /// Reads an export of `length` bytes, all of it into memory.
    ///
    /// # Errors
    /// [`StoreError::Missing`], retryable ones.
    pub async fn export(&self, name: ExportName, length: u64) -> Result<Bytes, StoreError> {
        let path = self.path(&name.to_string());
        let mut all = BytesMut::new();
        while (all.len() as u64) < length {
            let from = all.len() as u64;
            let range: Range<u64> = from..length.min(from + READ_BYTES_MAX);
            let get = self.0.objects.get_range(&path, range);
            let got = self
                .request(Operation::Get, &path, READ_BYTES_MAX, get)
                .await;
            let bytes = got.map_err(|refusal| refusal.into_error(&path))?;
            if bytes.is_empty() {
                return Err(StoreError::Missing(format!("the end of {name}")));
            }
            self.0.counts.read(bytes.len() as u64);
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Deletes an export; one that is not there is deleted already.
    ///
    /// # Errors
    /// Retryable ones.
    pub async fn delete_export(&self, name: ExportName) -> Result<(), StoreError> {
        let path = self.path(&name.to_string());
        self.check_claimed(Operation::Delete, &path)?;
        let delete = self.0.objects.delete(&path);
        match self.request(Operation::Delete, &path, 0, delete).await {
            Ok(()) | Err(Refusal::Missing) => Ok(()),
            Err(refusal) => Err(refusal.into_error(&path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ExportName;

    #[test]
    fn a_name_is_read_as_it_was_written_and_nothing_else_is_one() {
        let name = ExportName {
            container: 3,
            epoch: 9,
            frame: 0x1234,
        };
        let text = "lts/index/0003/000000000009-000000001234.ix";
        assert_eq!(name.to_string(), text);
        assert_eq!(text.parse(), Ok(name));
        for other in [
            "lts/index/3/9-1234.ix",
            "lts/00/0003/000000000009-000000001234.pk",
            "lts/index/0003/000000000009-000000001234.ix#1",
        ] {
            assert_eq!(other.parse::<ExportName>(), Err(()), "{other}");
        }
    }
}
