//! What the controller offers: gRPC to clients and stores, HTTP to people and probes.
//!
//! One function per call, which parses, calls a task or reads the catalog, and replies. No rules here.

pub(crate) mod admin;
pub(crate) mod grpc;
mod load;
mod membership;
mod operations;
pub(crate) mod serve;
