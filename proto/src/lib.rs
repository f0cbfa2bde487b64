//! What crosses a process boundary: names, ids, the TCP wire protocol, the controller's API.
//!
//! No I/O here. In order of flow:
//! - [`names`], [`ids`], [`hash`], [`placement`], [`key_range`]: what things are called, where they live, which keys
//!   they own;
//! - [`policy`], [`stream_cut`], [`event`]: a stream's configuration, a position in it, its bytes;
//! - [`load`]: how much is written to a segment; [`watermark`]: how far event time has got;
//! - [`wire`]: the segment store's TCP protocol;
//! - `controller` (feature `grpc`): the controller's gRPC API, generated, and its conversions.

#[cfg(feature = "grpc")]
pub mod controller;
pub mod event;
pub mod hash;
pub mod ids;
pub mod key_range;
pub mod load;
pub mod names;
pub mod placement;
pub mod policy;
pub mod stream_cut;
pub mod watermark;
pub mod wire;
