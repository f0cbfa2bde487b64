//! The API over real gRPC on in-memory connections: the recorded calls of the official clients, and
//! what the recordings do not show.

mod calls;
mod captures;
mod wire;
