//! Work that blocks: each piece gets a thread of its own, and in a single-threaded world a task.
//!
//! A worker is written as a future over [`crate::Disk`] and channels. On a multi-threaded runtime it
//! is driven by its own OS thread, where the disk's system calls may block; on a current-thread
//! runtime (simulation, unit tests) it is an ordinary task, so that a seed decides the order.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// A running worker; resolves to its result, or to `None` if it panicked or its runtime ended.
/// Dropping it lets the worker run on.
#[derive(Debug)]
pub struct Worker<T>(oneshot::Receiver<T>);

impl<T> Future for Worker<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

/// Starts `work` beside the runtime that calls.
///
/// # Panics
/// Outside a tokio runtime, or if the operating system refuses another thread.
#[allow(
    clippy::disallowed_methods,
    reason = "this is where threads and tasks are made"
)]
pub fn spawn_worker<T: Send + 'static>(
    name: &str,
    work: impl Future<Output = T> + Send + 'static,
) -> Worker<T> {
    let (done, result) = oneshot::channel();
    let run = async move {
        // The owner may have stopped waiting; the work was done all the same.
        let _ = done.send(work.await);
    };
    let runtime = Handle::current();
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        runtime.spawn(run);
    } else {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(run))
            .expect("the operating system can start a thread");
    }
    Worker(result)
}
