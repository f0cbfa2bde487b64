//! Writes a stream and reads it at the same time, through one reader group, while somebody else
//! splits and merges it (`--storm`), or kills the server (`--soak`). Steered by lines on standard
//! input, answers by lines on standard output:
//!
//! ```text
//! (start)    ready                                   once every writer has an acknowledgement
//! check      {"acked":…,"read":…,"lost":…,…}         pauses, waits for all acknowledgements and until
//!                                                    all was read
//! resume     resumed                                 goes on after a check
//! verify     {"acked":…,"read":…,"lost":…,…}         stops writing, waits for all acknowledgements,
//!                                                    seals the stream, waits until all was read
//! quit       (also the end of input) ends the process
//! ```

mod ledger;
mod readers;
mod writers;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use pravega_client_shared::{Scope, ScopedStream};
use tokio::runtime::Runtime;

use crate::storm::ledger::Ledger;
use crate::storm::readers::Readers;
use crate::storm::writers::Writers;
use crate::world::World;

const USAGE: &str = "usage: compat --storm|--soak URI SCOPE STREAM";

/// What somebody else does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// The stream begins with one segment, which is split, merged and so on.
    Scaling,
    /// The server dies. The stream has as many segments as there are readers, and keeps them, so that
    /// none changes hands: where the answer to such an update of the group's state is lost, the client
    /// forgets the segment or gives up, on any server.
    Kills,
}

/// Runs until the end of input.
pub(crate) fn run(weather: Weather, arguments: &[String]) -> ExitCode {
    let runtime = Runtime::new().expect("a runtime needs only threads and a poller");
    let result = steer(&runtime, weather, arguments);
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn steer(runtime: &Runtime, weather: Weather, arguments: &[String]) -> Result<()> {
    let mut storm = runtime.block_on(Storm::start(weather, arguments))?;
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "check" => say(&runtime.block_on(storm.check()))?,
            "resume" => {
                storm.writers.resume();
                say("resumed")?;
            }
            "verify" => say(&runtime.block_on(storm.verify()))?,
            "quit" => break,
            _ => say(r#"{"error":"unknown command, expected check, resume, verify or quit"}"#)?,
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

struct Storm {
    world: World,
    stream: ScopedStream,
    ledger: Arc<Ledger>,
    writers: Writers,
    readers: Readers,
}

impl Storm {
    async fn start(weather: Weather, arguments: &[String]) -> Result<Self> {
        let [uri, scope, stream] = arguments else {
            bail!(USAGE)
        };
        let scope = Scope::from(scope.clone());
        let (world, segments) = match weather {
            Weather::Scaling => (World::within(uri, scope, 0)?, 1),
            Weather::Kills => (World::patient(uri, scope)?, readers::READERS as i32),
        };
        let stream = world.create_stream(stream, segments).await?;
        let ledger = Arc::new(Ledger::new(writers::KEYS));
        let readers = Readers::start(&world, &stream, &ledger).await;
        let mut writers = Writers::start(&world, &stream, &ledger, weather);
        writers.await_first_acks().await?;
        Ok(Self {
            world,
            stream,
            ledger,
            writers,
            readers,
        })
    }

    /// What was found so far, as one line of JSON, and what prevented the writers from pausing or the readers
    /// from catching up. The writers wait to be resumed.
    async fn check(&mut self) -> String {
        let begin = Instant::now();
        let acked = self.writers.pause().await;
        let ack_s = begin.elapsed().as_secs_f64();
        let caught_up = match acked {
            Ok(()) => self.readers.catch_up(&self.ledger).await,
            Err(error) => Err(error),
        };
        let read_s = begin.elapsed().as_secs_f64() - ack_s;
        self.found(
            &format!(r#""ack_s":{ack_s:.1},"read_s":{read_s:.1}"#),
            caught_up,
        )
    }

    /// What was found, as one line of JSON, and what prevented the writers or readers from ending.
    async fn verify(&mut self) -> String {
        let begin = Instant::now();
        let acked = self.writers.stop().await;
        let ack_s = begin.elapsed().as_secs_f64();
        let (read, written) = self.ledger.progress();
        let drained = match acked {
            Ok(()) => self.drain().await,
            Err(error) => Err(error),
        };
        let drain_s = begin.elapsed().as_secs_f64() - ack_s;
        let behind = written.saturating_sub(read);
        self.found(
            &format!(r#""behind":{behind},"ack_s":{ack_s:.1},"drain_s":{drain_s:.1}"#),
            drained,
        )
    }

    fn found(&self, took: &str, outcome: Result<()>) -> String {
        let error = match outcome {
            Ok(()) => String::new(),
            Err(error) => format!(r#","error":{:?}"#, format!("{error:#}")),
        };
        format!("{{{},{took}{error}}}", self.ledger.found())
    }

    /// Seals the stream and waits until the readers have all of it.
    async fn drain(&mut self) -> Result<()> {
        let sealed = self.world.controller().seal_stream(&self.stream).await;
        ensure!(sealed.context("seal the stream")?, "it was not sealed");
        self.readers.drain().await
    }
}
