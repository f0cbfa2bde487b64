//! Settings of long-term storage.

use std::path::Path as FilePath;

use serde::Deserialize;

use super::{Store, StoreError};

/// Settings of long-term storage.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where: `s3://bucket/prefix`, `file:///directory`, or nothing for the data directory.
    pub url: Option<String>,
    /// `http://host:port` of an S3-compatible store that is not Amazon's. Default: `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// Region of the bucket. Default: `AWS_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// Key id. Default: `AWS_ACCESS_KEY_ID`, or what the machine's role gives.
    pub access_key_id: Option<String>,
    /// Secret key. Default: `AWS_SECRET_ACCESS_KEY`, or what the machine's role gives.
    pub secret_access_key: Option<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field(
                "secret_access_key",
                &self.secret_access_key.as_ref().map(|_| "…"),
            )
            .finish()
    }
}

impl Config {
    pub(super) fn open(&self, dir: &FilePath) -> Result<Store, StoreError> {
        let Some(url) = &self.url else {
            return Store::local(dir);
        };
        if let Some(dir) = url.strip_prefix("file://") {
            return Store::local(FilePath::new(dir));
        }
        Err(StoreError::Config(format!(
            "storage.url is {url:?}, it must begin with file://; S3 is not there yet"
        )))
    }
}
