//! The system as real processes: kills, power cuts, bad input, the command line.

mod bad_input;
mod damage;
mod elastic_cli;
mod kill;
mod lifecycle;
mod power;
mod scaling;
