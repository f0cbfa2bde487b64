//! Somebody who writes transactions while hosts crash and the stream splits and merges: some are
//! committed, some aborted, some abandoned, so that their leases end them.
//!
//! What is committed must be read, once and in order; nothing of the others ever.

use std::collections::VecDeque;
use std::time::Duration;

use sarit_client::transaction::Committing;
use sarit_client::{Client, Error, Transaction};
use sarit_env::Rng;
use sarit_proto::names::ScopedStream;
use sarit_tests::history::Event;

use crate::world::{Phase, SharedRef, breach, note};

/// Shorter than the outages, so that some leases are over before anybody can renew them.
pub(crate) const LEASE_MS: u64 = 400;
/// Numbers of authors from here on write transactions.
const AUTHORS: u32 = 1_000;
const KEYS: u64 = 4;
const EVENTS_MAX: u64 = 6;
/// Accepted commits that are not waited for, at most.
const COMMITTING: usize = 3;
/// Longest pause between two, in milliseconds.
const PAUSE_MAX_MS: u64 = 60;
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Writes transactions until the chaos is over, and waits for all commits that were accepted.
pub(crate) async fn write(shared: SharedRef, client: Client, stream: ScopedStream, rng: Rng) {
    let transactions = client.transaction_writer(&stream, LEASE_MS);
    let mut committing = VecDeque::new();
    let mut author = AUTHORS;
    while shared.lock().phase == Phase::Chaos {
        tokio::time::sleep(Duration::from_millis(1 + rng.below(PAUSE_MAX_MS))).await;
        let transaction = match transactions.begin().await {
            Ok(transaction) => transaction,
            Err(error) => {
                note(&shared, || format!("begin: {error}"));
                continue;
            }
        };
        let (events, written) = fill(&shared, &transaction, author, &rng).await;
        let name = transaction.id();
        match rng.below(10) {
            _ if written.is_err() => {
                note(&shared, || format!("{name}: {written:?}"));
                withdraw(&shared, &events);
            }
            0 => {
                note(&shared, || format!("{name}: abandoned"));
                withdraw(&shared, &events);
            }
            1 | 2 => {
                let aborted = transaction.abort().await;
                note(&shared, || format!("{name}: aborted: {aborted:?}"));
                withdraw(&shared, &events);
                shared.lock().report.aborted += u64::from(aborted.is_ok());
            }
            _ => match transaction.commit().await {
                Ok(accepted) => committing.push_back((events, accepted)),
                Err(error) => {
                    note(&shared, || format!("{name}: commit: {error}"));
                    if matches!(error, Error::TransactionEnded { .. }) {
                        withdraw(&shared, &events);
                    } else {
                        // The server may still do it, at any time: nothing may follow in this order.
                        author += 1;
                    }
                }
            },
        }
        if committing.len() > COMMITTING {
            settle(&shared, committing.pop_front()).await;
        }
    }
    while !committing.is_empty() {
        settle(&shared, committing.pop_front()).await;
    }
}

async fn fill(
    shared: &SharedRef,
    transaction: &Transaction,
    author: u32,
    rng: &Rng,
) -> (Vec<Event>, Result<(), Error>) {
    let mut events = Vec::new();
    for _ in 0..1 + rng.below(EVENTS_MAX) {
        let event = shared.lock().history.next(author, rng.below(KEYS) as u32);
        events.push(event);
        let bytes = event.to_bytes(100);
        if let Err(error) = transaction.write(&event.routing_key(), bytes).await {
            return (events, Err(error));
        }
    }
    (events, Ok(()))
}

fn withdraw(shared: &SharedRef, events: &[Event]) {
    let mut shared = shared.lock();
    events
        .iter()
        .for_each(|event| shared.history.withdraw(*event));
}

/// Waits for a commit that was accepted.
async fn settle(shared: &SharedRef, accepted: Option<(Vec<Event>, Committing)>) {
    let Some((events, committing)) = accepted else {
        return;
    };
    loop {
        match committing.wait().await {
            Ok(()) => break,
            Err(error @ (Error::TransactionEnded { .. } | Error::NoSuchTransaction { .. })) => {
                let id = committing.id();
                return breach(shared, format!("{id} was committed, and now: {error}"));
            }
            Err(error) => note(shared, || format!("{}: {error}", committing.id())),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    note(shared, || format!("{} is committed", committing.id()));
    let mut shared = shared.lock();
    shared.report.committed += 1;
    for event in events {
        shared.history.acknowledge(event);
    }
}
