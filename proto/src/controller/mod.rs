//! The controller's API over gRPC: messages, client and server.
//!
//! The code is made from `proto/grpc/*.proto` by `cargo xtask grpc`; names are the protocol's own.
//! A call that a server does not implement answers `UNIMPLEMENTED`.

#[allow(
    missing_docs,
    clippy::doc_markdown,
    clippy::enum_variant_names,
    reason = "generated"
)]
#[rustfmt::skip]
mod generated;
#[allow(missing_docs, clippy::doc_markdown, reason = "generated")]
#[rustfmt::skip]
pub mod internal;

pub mod convert;

pub use controller_service_client::ControllerServiceClient;
pub use controller_service_server::{ControllerService, ControllerServiceServer};
pub use convert::ConvertError;
pub use generated::*;
