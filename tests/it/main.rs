//! The system as real processes: kills, power cuts, bad input, the command line.

mod bad_input;
mod damage;
mod disk_errors;
mod elastic_cli;
mod full;
mod group_reset;
mod history;
mod kill;
mod lifecycle;
mod power;
mod recover;
mod s3;
mod scaling;
mod soak;
mod two_stores;
