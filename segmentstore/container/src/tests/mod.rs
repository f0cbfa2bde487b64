//! Random histories against a serial model.

mod histories;
mod model;
