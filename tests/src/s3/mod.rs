//! S3 servers under test, and a proxy in front of one that makes the weather.

mod proxy;
mod server;

pub use proxy::Proxy;
pub use server::S3Server;

/// The bucket that a server has.
pub const BUCKET: &str = "sarit-test";
