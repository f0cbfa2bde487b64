//! Settings of long-term storage.

use std::net::IpAddr;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};
use serde::Deserialize;

use super::{Store, StoreError};

/// How long connecting to S3 may take, and one attempt of a request, which may carry a large pack.
const CONNECT_TIME: &str = "5 seconds";
const ATTEMPT_TIME: &str = "60 seconds";

/// Settings of long-term storage.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where: `s3://bucket/prefix`, `file:///directory`, or nothing for the data directory.
    pub url: Option<String>,
    /// `http://host:port` of an S3-compatible store that is not Amazon's. Default: `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// Whether an endpoint on another machine may be without encryption. Default: `AWS_ALLOW_HTTP`, else no.
    pub allow_http: Option<bool>,
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
            .field("allow_http", &self.allow_http)
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
            return Ok(Store::local(dir)?.unclaimed());
        };
        if let Some(dir) = url.strip_prefix("file://") {
            return Ok(Store::local(FilePath::new(dir))?.unclaimed());
        }
        let Some(place) = url.strip_prefix("s3://") else {
            return Err(StoreError::Config(format!(
                "storage.url is {url:?}, it must begin with s3:// or file://"
            )));
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() {
            return Err(StoreError::Config(format!(
                "storage.url {url:?} has no bucket"
            )));
        }
        Ok(self.open_s3(bucket, prefix, url)?.unclaimed())
    }

    fn open_s3(&self, bucket: &str, prefix: &str, url: &str) -> Result<Store, StoreError> {
        // Whoever comes first decides; another one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 3,
            retry_timeout: Duration::from_secs(15),
        };
        let client = |key| AmazonS3ConfigKey::Client(key);
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_config(client(ClientConfigKey::ConnectTimeout), CONNECT_TIME)
            .with_config(client(ClientConfigKey::Timeout), ATTEMPT_TIME)
            .with_retry(retry);
        let given = [
            (AmazonS3ConfigKey::Endpoint, &self.endpoint),
            (AmazonS3ConfigKey::Region, &self.region),
            (AmazonS3ConfigKey::AccessKeyId, &self.access_key_id),
            (AmazonS3ConfigKey::SecretAccessKey, &self.secret_access_key),
        ];
        for (key, value) in given {
            if let Some(value) = value {
                builder = builder.with_config(key, value);
            }
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        if let Some(endpoint) = endpoint.filter(|endpoint| endpoint.starts_with("http://")) {
            let allowed = client(ClientConfigKey::AllowHttp);
            let allowed = builder.get_config_value(&allowed).as_deref() == Some("true");
            if !self.allow_http.unwrap_or(allowed) && !is_this_machine(&endpoint) {
                return Err(StoreError::Config(format!(
                    "storage.endpoint {endpoint} would send everything unencrypted: take https, or \
                     set storage.allow_http"
                )));
            }
            builder = builder.with_allow_http(true);
        }
        let objects = builder
            .build()
            .map_err(|error| StoreError::Config(format!("storage {url}: {error}")))?;
        let prefix = Path::parse(prefix.trim_matches('/'))
            .map_err(|error| StoreError::Config(format!("storage.url {url:?}: {error}")))?;
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        Ok(Store::over(Arc::new(objects), prefix, url.to_owned()))
    }
}

/// Whether an endpoint without encryption is on this machine.
fn is_this_machine(endpoint: &str) -> bool {
    let host = endpoint.trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
