//! Which waiting party a reply belongs to.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use sarit_proto::wire::Reply;
use tokio::sync::{mpsc, oneshot};

use super::Tagged;
use crate::Error;

/// Everything that waits on one connection, by request id. Ordered, so that a lost connection fails its
/// parties in the order in which they came.
#[derive(Debug)]
pub(super) struct Routes(Mutex<State>);

#[derive(Debug)]
struct State {
    next_id: i64,
    closed: Option<Error>,
    waiting: BTreeMap<i64, Route>,
}

#[derive(Debug)]
enum Route {
    Call(oneshot::Sender<Result<Reply, Error>>),
    Writer {
        tag: u64,
        replies: mpsc::UnboundedSender<Tagged>,
    },
}

impl Default for Routes {
    fn default() -> Self {
        Self(Mutex::new(State {
            next_id: 1,
            closed: None,
            waiting: BTreeMap::new(),
        }))
    }
}

impl Routes {
    pub(super) fn add_call(
        &self,
        sender: oneshot::Sender<Result<Reply, Error>>,
    ) -> Result<i64, Error> {
        self.add(Route::Call(sender))
    }

    pub(super) fn add_writer(
        &self,
        tag: u64,
        replies: mpsc::UnboundedSender<Tagged>,
    ) -> Result<i64, Error> {
        self.add(Route::Writer { tag, replies })
    }

    fn add(&self, route: Route) -> Result<i64, Error> {
        let mut state = self.0.lock();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.insert(id, route);
        Ok(id)
    }

    pub(super) fn remove(&self, request_id: i64) {
        self.0.lock().waiting.remove(&request_id);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().waiting.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed.is_some()
    }

    /// Hands a reply over. One that nobody waits for any more is dropped.
    pub(super) fn deliver(&self, reply: Reply) {
        let Some(request_id) = request_id(&reply) else {
            return;
        };
        let mut state = self.0.lock();
        match state.waiting.get(&request_id) {
            Some(Route::Writer { tag, replies }) => {
                let _ = replies.send(Tagged {
                    tag: *tag,
                    reply: Ok(reply),
                });
            }
            Some(Route::Call(_)) => {
                if let Some(Route::Call(sender)) = state.waiting.remove(&request_id) {
                    let _ = sender.send(Ok(reply));
                }
            }
            None => tracing::debug!(request_id, reply = reply.name(), "reply nobody waits for"),
        }
    }

    /// Fails everything that waits, and all that comes later.
    pub(super) fn close(&self, error: &Error) {
        let waiting = {
            let mut state = self.0.lock();
            state.closed = Some(error.clone());
            std::mem::take(&mut state.waiting)
        };
        for route in waiting.into_values() {
            match route {
                Route::Call(sender) => {
                    let _ = sender.send(Err(error.clone()));
                }
                Route::Writer { tag, replies } => {
                    let _ = replies.send(Tagged {
                        tag,
                        reply: Err(error.clone()),
                    });
                }
            }
        }
    }
}

macro_rules! ids {
    ($reply:expr; $($name:ident)*) => {
        match $reply {
            Reply::Hello(_) | Reply::KeepAlive(_) => None,
            $(Reply::$name(reply) => Some(reply.request_id),)*
        }
    };
}

/// The id of the request that a reply answers; a session frame has none.
fn request_id(reply: &Reply) -> Option<i64> {
    ids!(reply;
        AppendSetup DataAppended ConditionalCheckFailed SegmentRead StreamSegmentInfo SegmentAttribute
        SegmentAttributeUpdated OffsetLocated SegmentCreated SegmentSealed SegmentTruncated
        SegmentDeleted SegmentPolicyUpdated SegmentsMerged SegmentsBatchMerged TableSegmentInfo
        TableEntriesUpdated TableKeysRemoved TableRead TableKeysRead TableEntriesRead
        TableEntriesDeltaRead StorageFlushed StorageChunksListed WrongHost SegmentIsSealed
        SegmentAlreadyExists NoSuchSegment InvalidEventNumber SegmentIsTruncated OperationUnsupported
        AuthTokenCheckFailed ErrorMessage TableSegmentNotEmpty TableKeyDoesNotExist TableKeyBadVersion)
}
