//! Random histories against a serial model, and what takes more segments than those have.

mod histories;
mod merges;
mod model;
