//! The storm's writers: a bounded number of events in flight, at a steady pace. Nothing here retries: an
//! event is in the stream once, since the client's writer has a number for each event and is told at every
//! connection which one was the last (`setup_connection` in its `segment/writer.rs`).

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

use crate::storm::Weather;
use crate::storm::ledger::Ledger;
use crate::world::World;

/// Of all writers together.
pub(crate) const KEYS: u32 = 64;
const WRITERS: u32 = 8;
const IN_FLIGHT: usize = 256;
/// Each writer writes a burst, one event of each of its keys, this often.
const BURST_EVERY: Duration = Duration::from_millis(16);
/// While the stream is scaled, a writer is replaced by a fresh one, all its events acknowledged, after so
/// long. Its map of segments gains an entry with every border and loses none with a merge; beyond 64
/// entries lookups of it panic (`lookup_next` in `im` 15.1.0), on any server.
const RENEW_AFTER: Duration = Duration::from_secs(10);
const FIRST_LIMIT: Duration = Duration::from_secs(60);
const ACK_LIMIT: Duration = Duration::from_secs(60);

type Receipt = oneshot::Receiver<Result<(), Error>>;

/// What writers are to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Write,
    Pause,
    Stop,
}

pub(crate) struct Writers {
    tasks: JoinSet<Result<()>>,
    order: watch::Sender<Order>,
    /// How many have begun to pause since that was ordered last, all their events acknowledged.
    paused: watch::Sender<u32>,
    ledger: Arc<Ledger>,
}

impl Writers {
    pub(crate) fn start(
        world: &World,
        stream: &ScopedStream,
        ledger: &Arc<Ledger>,
        weather: Weather,
    ) -> Self {
        let (order, orders) = watch::channel(Order::Write);
        let (paused, _) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let writer = Writer {
                client: world.client.clone(),
                stream: stream.clone(),
                out: world.client.create_event_writer(stream.clone()),
                renew_after: (weather == Weather::Scaling).then_some(RENEW_AFTER),
                first_key: number * (KEYS / WRITERS),
                ledger: Arc::clone(ledger),
                receipts: VecDeque::with_capacity(IN_FLIGHT),
            };
            tasks.spawn(writer.run(orders.clone(), paused.clone()));
        }
        let ledger = Arc::clone(ledger);
        Self {
            tasks,
            order,
            paused,
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

    /// Writes no more until resumed, and waits for all acknowledgements.
    pub(crate) async fn pause(&mut self) -> Result<()> {
        self.paused.send_replace(0);
        self.order.send_replace(Order::Pause);
        let mut paused = self.paused.subscribe();
        let all = async {
            tokio::select! {
                ended = self.tasks.join_next() => {
                    ended.context("there are no writers")???;
                    bail!("a writer ended");
                }
                all = paused.wait_for(|paused| *paused == WRITERS) => {
                    all.context("nobody counts")?;
                }
            }
            Ok(())
        };
        acknowledged(all).await
    }

    /// Goes on writing.
    pub(crate) fn resume(&mut self) {
        self.order.send_replace(Order::Write);
    }

    /// Writes no more, and waits for all acknowledgements.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.order.send_replace(Order::Stop);
        let all = async {
            while let Some(writer) = self.tasks.join_next().await {
                writer??;
            }
            Ok(())
        };
        acknowledged(all).await
    }
}

/// Waits, but not for ever.
async fn acknowledged(all: impl Future<Output = Result<()>>) -> Result<()> {
    let acked = timeout(ACK_LIMIT, all).await;
    acked.with_context(|| format!("not all acknowledged within {ACK_LIMIT:?}"))?
}

struct Writer {
    client: ClientFactoryAsync,
    stream: ScopedStream,
    out: EventWriter,
    renew_after: Option<Duration>,
    first_key: u32,
    ledger: Arc<Ledger>,
    /// Of what is in flight, oldest first.
    receipts: VecDeque<Receipt>,
}

impl Writer {
    async fn run(
        mut self,
        mut orders: watch::Receiver<Order>,
        paused: watch::Sender<u32>,
    ) -> Result<()> {
        let mut pace = interval(BURST_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            let order = *orders.borrow_and_update();
            match order {
                Order::Write => {
                    pace.tick().await;
                    for key in self.first_key..self.first_key + KEYS / WRITERS {
                        self.write(key).await?;
                    }
                }
                Order::Pause => {
                    self.settle_all().await?;
                    paused.send_modify(|paused| *paused += 1);
                    orders.changed().await.context("nobody gives orders")?;
                }
                Order::Stop => return self.settle_all().await,
            }
            if self
                .renew_after
                .is_some_and(|after| renewed.elapsed() >= after)
            {
                renewed = Instant::now();
                self.settle_all().await?;
                self.out = self.client.create_event_writer(self.stream.clone());
            }
        }
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
