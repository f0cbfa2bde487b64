//! What system tests share: real processes, faults, what clients saw and its checker.

pub mod appender;
pub mod autoscale;
pub mod clients;
pub mod cluster;
pub mod history;
pub mod lossyfs;
pub mod raw;
pub mod s3;
pub mod scaling;
pub mod tmpfs;
pub mod watch;
pub mod workspace;
