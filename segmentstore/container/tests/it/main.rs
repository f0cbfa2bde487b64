//! Does the public API do what its documentation says?

#![allow(
    clippy::unwrap_used,
    reason = "these are tests, their helpers included"
)]

mod append;
mod failure;
mod flush;
mod full;
mod pressure;
mod read;
mod rebuild;
mod residents;
mod segments;
mod tables;
mod threads;
mod world;
