//! Where appends enter, and what comes back: taking a place in the order and becoming durable are two
//! steps, so that a connection can have many appends on their way.

use std::sync::Arc;

use sarit_proto::ids::{ContainerId, Offset, WriterId};
use sarit_proto::wire::append::AppendData;
use tokio::sync::mpsc;

use crate::pipeline::Filler;
use crate::pipeline::reply::Destination;
use crate::shared::Shared;
use crate::{Error, Permit, residents};

/// One step of a writer.
#[derive(Debug)]
pub enum AppendOp {
    /// Asks for the writer's last event number, [`sarit_proto::ids::NULL_ATTRIBUTE`] for a new one.
    ///
    /// A barrier: answered when everything before it is durable. Works on sealed segments.
    Setup {
        /// The segment.
        segment: Arc<str>,
        /// The writer.
        writer: WriterId,
        /// Returned with the outcome. The segment stays in memory until the connection names another one
        /// with the same token, so give one to each writer, and to another only when all is answered.
        token: u64,
    },
    /// Appends events, unless the writer has appended `last_event_number` already.
    Append {
        /// The segment. Keep one copy per writer: the same one again is found faster.
        segment: Arc<str>,
        /// The writer.
        writer: WriterId,
        /// As that of a set-up.
        token: u64,
        /// Number of the last event in it; rises with every append of a writer.
        last_event_number: i64,
        /// Number of events in it.
        event_count: u32,
        /// Refuses the append unless the segment has this length.
        expected_offset: Option<Offset>,
        /// The bytes; there may be none.
        data: AppendData,
        /// Credit for them, given back when they are durable.
        permit: Permit,
    },
}

impl AppendOp {
    /// Returns the token, and the segment that is named with it.
    pub(crate) fn place(&self) -> (u64, &Arc<str>) {
        let (Self::Setup { segment, token, .. } | Self::Append { segment, token, .. }) = self;
        (*token, segment)
    }
}

/// Outcomes of one connection's appends, in the order they were submitted per writer.
#[derive(Debug)]
pub struct Outcomes {
    /// Who did it.
    pub container: ContainerId,
    /// The outcomes.
    pub list: Vec<Outcome>,
}

/// The outcome of one [`AppendOp`].
#[derive(Clone, Debug)]
pub struct Outcome {
    /// As submitted.
    pub token: u64,
    /// What became of it.
    pub result: Result<Done, Error>,
}

/// What an [`AppendOp`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The answer to a set-up.
    Setup {
        /// The last event number that is durable.
        last_event_number: i64,
    },
    /// The events are durable, by this append or one before it.
    Appended {
        /// The segment's length afterwards.
        length: Offset,
    },
}

/// Where one connection's appends enter.
#[derive(Clone, Debug)]
pub struct Appender {
    pub(crate) fillers: mpsc::Sender<Filler>,
    pub(crate) to: Arc<Destination>,
    pub(crate) shared: Arc<Shared>,
}

impl Appender {
    /// Gets the segments that these operations name into memory, and keeps them there.
    async fn pin(&self, operations: &[AppendOp]) -> Result<(), Error> {
        for operation in operations {
            if !self.to.is_pinned(operation) {
                let (token, segment) = operation.place();
                let pin = residents::pin(&self.shared, segment).await?;
                self.to.pins.lock().insert(token, (segment.clone(), pin));
            }
        }
        Ok(())
    }

    /// Takes places in the order for all operations, side by side.
    ///
    /// Waits while the inbox is full, never for durability. Outcomes come by the channel given to
    /// [`crate::Container::appender`]. Cancel-safe in that a dropped call has taken no places.
    ///
    /// # Errors
    /// [`Error::Stopping`], [`Error::Index`]; none of them was taken.
    pub async fn submit(&self, operations: Vec<AppendOp>) -> Result<(), Error> {
        self.pin(&operations).await?;
        let to = self.to.clone();
        let appends = Filler::Appends(to, operations.into_iter());
        let sent = self.fillers.send(appends).await;
        self.note_depth();
        sent.map_err(|_| Error::Stopping)
    }

    /// Does what [`Self::submit`] does, if that needs no waiting; otherwise hands the operations back.
    ///
    /// # Errors
    /// The operations, none of which was taken: the inbox is full, or the container is stopping.
    pub fn try_submit(&self, operations: Vec<AppendOp>) -> Result<(), Vec<AppendOp>> {
        // A segment that this connection names for the first time may have to be loaded.
        if !operations.iter().all(|one| self.to.is_pinned(one)) {
            return Err(operations);
        }
        let Ok(place) = self.fillers.try_reserve() else {
            return Err(operations);
        };
        place.send(Filler::Appends(self.to.clone(), operations.into_iter()));
        self.note_depth();
        Ok(())
    }

    fn note_depth(&self) {
        let depth = self.fillers.max_capacity() - self.fillers.capacity();
        self.shared.metrics.inbox.set(depth as u64);
    }
}
