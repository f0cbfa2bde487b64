//! Standard output. Whoever reads it may go at any time, as `| head` does: the verb is done then.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;

/// Nobody reads the output any more: ends a verb, and is no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub(crate) struct Gone;

/// Prints bytes as they are.
pub(crate) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Gone.into()),
        result => result.context("write to standard output"),
    }
}

/// Prints a line.
pub(crate) fn print_line(text: impl Display) -> anyhow::Result<()> {
    print(format!("{text}\n").as_bytes())
}

/// Prints a line to standard error. If nobody reads that, there is nobody left to tell.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
