//! The Sarit client: writers, readers, controller calls.
//!
//! In order of flow: [`connection`] moves bytes, [`segment`] works on one segment.

#![allow(dead_code, reason = "writers come next")]

pub mod config;
pub mod connection;
mod error;
pub mod segment;

pub use config::Config;
pub use error::Error;
