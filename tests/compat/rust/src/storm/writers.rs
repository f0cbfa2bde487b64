//! The storm's writers: a bounded number of events in flight, at a steady pace. Nothing here retries.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pravega_client::client_factory::ClientFactoryAsync;
use pravega_client::error::Error;
use pravega_client::event::writer::EventWriter;
use pravega_client_shared::ScopedStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::storm::ledger::Ledger;
use crate::world::World;

/// Of all writers together.
pub(crate) const KEYS: u32 = 64;
const WRITERS: u32 = 8;
const IN_FLIGHT: usize = 256;
/// Each writer writes a burst, one event of each of its keys, this often.
const BURST_EVERY: Duration = Duration::from_millis(16);
/// A writer is replaced by a fresh one, all its events acknowledged, after so long. Its map of segments
/// gains an entry with every border and loses none with a merge; beyond 64 entries lookups of it panic
/// (`lookup_next` in `im` 15.1.0), on any server.
const RENEW_AFTER: Duration = Duration::from_secs(10);
const FIRST_LIMIT: Duration = Duration::from_secs(60);
const ACK_LIMIT: Duration = Duration::from_secs(60);

type Receipt = oneshot::Receiver<Result<(), Error>>;

pub(crate) struct Writers {
    tasks: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    ledger: Arc<Ledger>,
}

impl Writers {
    pub(crate) fn start(world: &World, stream: &ScopedStream, ledger: &Arc<Ledger>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let writer = Writer {
                client: world.client.clone(),
                stream: stream.clone(),
                out: world.client.create_event_writer(stream.clone()),
                first_key: number * (KEYS / WRITERS),
                ledger: Arc::clone(ledger),
                receipts: VecDeque::with_capacity(IN_FLIGHT),
            };
            tasks.spawn(writer.run(stopped.clone()));
        }
        let ledger = Arc::clone(ledger);
        Self {
            tasks,
            stop,
            ledger,
        }
    }

    /// Waits until as many events are acknowledged as may be in flight.
    pub(crate) async fn await_first_acks(&mut self) -> Result<()> {
        let enough = u64::from(WRITERS) * IN_FLIGHT as u64;
        let first = async {
            let mut tick = interval(BURST_EVERY);
            while self.ledger.acknowledged() < enough {
                tokio::select! {
                    ended = self.tasks.join_next() => {
                        ended.context("there are no writers")???;
                        bail!("a writer ended");
                    }
                    _ = tick.tick() => {}
                }
            }
            Ok(())
        };
        timeout(FIRST_LIMIT, first).await.context("no first acks")?
    }

    /// Writes no more, and waits for all acknowledgements.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        let all = async {
            while let Some(writer) = self.tasks.join_next().await {
                writer??;
            }
            Ok(())
        };
        let acked = timeout(ACK_LIMIT, all).await;
        acked.with_context(|| format!("not all acknowledged within {ACK_LIMIT:?}"))?
    }
}

struct Writer {
    client: ClientFactoryAsync,
    stream: ScopedStream,
    out: EventWriter,
    first_key: u32,
    ledger: Arc<Ledger>,
    /// Of what is in flight, oldest first.
    receipts: VecDeque<Receipt>,
}

impl Writer {
    async fn run(mut self, stopped: watch::Receiver<bool>) -> Result<()> {
        let mut pace = interval(BURST_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        while !*stopped.borrow() {
            pace.tick().await;
            for key in self.first_key..self.first_key + KEYS / WRITERS {
                self.write(key).await?;
            }
            if renewed.elapsed() >= RENEW_AFTER {
                renewed = Instant::now();
                self.settle_all().await?;
                self.out = self.client.create_event_writer(self.stream.clone());
            }
        }
        self.settle_all().await
    }

    async fn settle_all(&mut self) -> Result<()> {
        while !self.receipts.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }

    async fn write(&mut self, key: u32) -> Result<()> {
        if self.receipts.len() == IN_FLIGHT {
            self.settle().await?;
        }
        let (event, key) = (self.ledger.next(key), format!("key-{key}"));
        let receipt = self.out.write_event_by_routing_key(key, event).await;
        self.receipts.push_back(receipt);
        Ok(())
    }

    /// Waits for the oldest acknowledgement.
    async fn settle(&mut self) -> Result<()> {
        let oldest = self.receipts.pop_front().context("nothing is in flight")?;
        let outcome = oldest.await.context("the client dropped an event")?;
        outcome.context("the client gave an event up")?;
        self.ledger.acknowledge();
        Ok(())
    }
}
