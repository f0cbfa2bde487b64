//! Random histories against a serial model, what takes more segments than those have, and bounds.

mod absent;
mod histories;
mod merges;
mod model;
mod turns;
