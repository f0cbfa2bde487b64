//! What system tests share: real processes, faults, what clients saw and its checker.

pub mod cluster;
pub mod history;
pub mod lossyfs;
