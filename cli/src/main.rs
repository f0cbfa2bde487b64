//! `sarit`: the server processes and every verb a person or a script uses on them.
//!
//! [`args`] says what can be asked, [`serve`] runs servers, [`admin`], [`write`] and [`read`] are
//! clients as are [`elastic`], [`txn`], [`group`], [`table`] and [`top`], [`metadata`], [`container`] and [`packs`]
//! work on a server's files, [`demo`] is both. Exit codes are in [`exit`], whatever is printed goes through
//! [`output`].

mod admin;
mod args;
mod container;
mod demo;
mod elastic;
mod exit;
mod group;
mod http;
mod metadata;
mod output;
mod packs;
mod pages;
mod read;
mod records;
mod serve;
mod settings;
mod table;
mod telemetry;
mod top;
mod txn;
mod write;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use sarit_client::Client;
use tokio::runtime::{Builder, Runtime};

use crate::args::{Cli, Command};

/// Warm buffers are reused, and memory goes back to the system when a burst is over.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for calls that block: files of long-term storage and of the index. Each costs its stack and the
/// allocator's pages for what it made; more calls at a time would only wait for the disk.
const BLOCKING_THREADS: usize = 32;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::Gone>() => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Standalone(args) => server()?.block_on(serve::standalone(args)),
        Command::Controller(args) => server()?.block_on(serve::controller(args)),
        Command::Segmentstore(args) => server()?.block_on(serve::segment_store(args)),
        Command::Scope { verb } => client()?.block_on(admin::scope(verb)),
        Command::Stream { verb } => client()?.block_on(admin::stream(verb)),
        Command::Txn { verb } => client()?.block_on(txn::run(verb)),
        Command::Group { verb } => client()?.block_on(group::run(verb)),
        Command::Table { verb } => client()?.block_on(table::run(verb)),
        Command::Top(args) => client()?.block_on(top::run(args)),
        Command::Write(args) => client()?.block_on(write::run(args)),
        Command::Read(args) => client()?.block_on(read::run(args)),
        Command::Admin { verb } => client()?.block_on(packs::admin(verb)),
        Command::Demo(args) => client()?.block_on(demo::run(args)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sarit", &mut script);
            output::print(&script)
        }
    }
}

fn server() -> std::io::Result<Runtime> {
    // A page of 2 MiB for every thread's few kilobytes of heap would double what an idle server takes.
    rustix::thread::disable_transparent_huge_pages(true)?;
    Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
}

/// A client's work is one command's: one thread beside the main one is plenty.
fn client() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

/// Connects to a controller.
fn connect(controller: &str) -> anyhow::Result<Client> {
    let mut config = sarit_client::Config::default();
    // A person waits: say soon that nobody answers.
    config.retry.deadline_ms = 10_000;
    let endpoint = sarit_client::connection::Endpoint::parse(controller)?;
    Ok(Client::new(
        endpoint,
        config,
        sarit_client::Parts::system(),
    )?)
}
