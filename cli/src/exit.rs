//! Exit codes, and errors that say what to do next.

use std::process::ExitCode;

use sarit_client::Error;
use sarit_proto::names::NameError;

use crate::output::complain;

/// Why a verb failed, as far as a script would act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything not below.
    Failed = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// The scope or stream is not there.
    NotFound = 3,
    /// It exists already, is sealed, is not sealed, or is not empty.
    WrongState = 4,
    /// No server answers.
    Unreachable = 5,
}

/// A failure with its exit code; travels inside an `anyhow::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn error(exit: Exit, message: impl Into<String>) -> anyhow::Error {
        Self {
            exit,
            message: message.into(),
        }
        .into()
    }
}

/// Gives wrong usage as the reason, whatever found it.
pub(crate) fn usage(error: anyhow::Error) -> anyhow::Error {
    Failure::error(Exit::Usage, sentence(&error))
}

/// Prints the error, and gives the code that goes with it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    complain(format_args!("sarit: {}", sentence(error)));
    let exit = exit(error);
    if exit == Exit::Unreachable {
        complain(
            "Is a server running? Start one with `sarit standalone --data ./data`, or name its address with \
             --controller or SARIT_CONTROLLER.",
        );
    }
    ExitCode::from(exit as u8)
}

/// The error and its causes, leaving out causes that the text before has told already.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn exit(error: &anyhow::Error) -> Exit {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.exit;
    }
    if error.is::<NameError>() || is_setting(error) {
        return Exit::Usage;
    }
    match error.downcast_ref::<Error>() {
        Some(
            Error::NoSuchScope(_)
            | Error::NoSuchStream(_)
            | Error::NoSuchSegment(_)
            | Error::NoSuchTransaction { .. }
            | Error::NoSuchTable(_)
            | Error::NoSuchGroup(_)
            | Error::NotInGroup { .. }
            | Error::KeyDoesNotExist(_)
            | Error::NotFound { .. },
        ) => Exit::NotFound,
        Some(
            Error::ScopeNotEmpty(_)
            | Error::StreamNotSealed(_)
            | Error::StreamSealed(_)
            | Error::SegmentSealed(_)
            | Error::ScaleRefused(_)
            | Error::NoCheckpoint(_)
            | Error::TransactionEnded { .. }
            | Error::KeyBadVersion(_)
            | Error::SegmentTruncated { .. }
            | Error::SegmentGone { .. },
        ) => Exit::WrongState,
        Some(
            Error::InvalidName(_) | Error::KeyLength { .. } | Error::Address(_) | Error::Config(_),
        ) => Exit::Usage,
        Some(error) if error.is_retryable() => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// Whether a server's part refuses its settings.
fn is_setting(error: &anyhow::Error) -> bool {
    let store = error.downcast_ref::<sarit_segmentstore::Error>();
    let controller = error.downcast_ref::<sarit_controller::Error>();
    matches!(store, Some(sarit_segmentstore::Error::Config(_)))
        || matches!(controller, Some(sarit_controller::Error::Config(_)))
}
