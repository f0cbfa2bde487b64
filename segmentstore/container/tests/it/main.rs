//! Does the public API do what its documentation says?

mod append;
mod segments;
mod world;
