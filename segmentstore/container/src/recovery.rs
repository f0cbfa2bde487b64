//! The log → the state, through the same `apply` as live traffic.
//!
//! Payloads are not copied and frames are not kept: only where they lie is remembered.

use sarit_wal::Replay;

use crate::Error;
use crate::operation::Records;
use crate::state::State;

/// Applies all frames of a log to `state`.
///
/// # Errors
/// The log's, or [`Error::Broken`] with the frame that does not fit.
pub(crate) async fn replay(mut replay: Replay, mut state: State) -> Result<State, Error> {
    while let Some(frame) = replay.next().await? {
        let number = frame.number().0;
        let broken = |what| Error::Broken {
            frame: number,
            what,
        };
        if frame.first_seq() != state.next_seq {
            return Err(broken("its operations do not follow those before"));
        }
        let records = Records::new(frame.body()).map_err(broken)?;
        let time_ms = records.time_ms;
        for operation in records {
            state
                .apply(number, time_ms, &operation.map_err(broken)?)
                .map_err(broken)?;
        }
        state.next_seq += u64::from(frame.ops());
    }
    Ok(state)
}
