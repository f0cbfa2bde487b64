//! Does the public API do what its documentation says?

mod append;
mod failure;
mod pressure;
mod read;
mod segments;
mod tables;
mod world;
