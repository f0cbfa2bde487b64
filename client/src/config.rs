//! What a user of the client may want to change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use sarit_env::Rng;
use tokio::time::Instant;

use crate::Error;

/// Settings of a [`Client`](crate::Client). The defaults suit a service in the same data centre.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections and their liveness.
    pub connection: ConnectionConfig,
    /// How long and how often the one retrying level of each path tries.
    pub retry: Retry,
    /// Event writers.
    pub writer: WriterConfig,
    /// Event readers.
    pub reader: ReaderConfig,
}

impl Config {
    /// Checks that every limit leaves room to work.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting and what it needs.
    pub fn validate(&self) -> Result<(), Error> {
        let rules = [
            (
                self.connection.per_store_max >= 1,
                "connection.per_store_max must be at least 1",
            ),
            (
                self.connection.calls_max >= 1,
                "connection.calls_max must be at least 1",
            ),
            (
                self.retry.delay_min_ms >= 1 && self.retry.delay_max_ms >= self.retry.delay_min_ms,
                "retry.delay_min_ms must be at least 1 and at most retry.delay_max_ms",
            ),
            (
                self.writer.batch_events_max >= 1 && self.writer.batch_events_max <= 100_000,
                "writer.batch_events_max must be between 1 and 100000",
            ),
            (
                self.writer.batch_bytes_max <= sarit_proto::wire::PAYLOAD_MAX / 2,
                "writer.batch_bytes_max must be at most 8 MiB",
            ),
            (
                self.writer.memory_bytes_max >= 1 << 16
                    && self.writer.memory_bytes_max <= u32::MAX as usize >> 1,
                "writer.memory_bytes_max must be between 64 KiB and 2 GiB",
            ),
            (
                self.reader.read_bytes_max >= 1 << 12 && self.reader.read_bytes_max <= 1 << 23,
                "reader.read_bytes_max must be between 4 KiB and 8 MiB",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::Config(rule)),
            None => Ok(()),
        }
    }
}

/// Connections to segment stores and to the controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionConfig {
    /// Most connections to one segment store. More spread the work of decoding over more threads.
    pub per_store_max: usize,
    /// Most requests that wait for their reply on one connection; further callers queue.
    pub calls_max: usize,
    /// How long a connection attempt, with its handshake, may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a request may wait for its reply, in milliseconds. Reads at the tail are exempt.
    pub request_timeout_ms: u64,
    /// A silent peer is asked for a sign of life after this long, in milliseconds, and given up after
    /// three times as long.
    pub keep_alive_ms: u64,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            per_store_max: 4,
            calls_max: 1024,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 30_000,
            keep_alive_ms: 10_000,
        }
    }
}

impl ConnectionConfig {
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms.max(1))
    }
}

/// Writing events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriterConfig {
    /// Memory for events that are not acknowledged yet, over all segments, in bytes. Writers wait
    /// beyond it. One event is always admitted, whatever its size.
    pub memory_bytes_max: usize,
    /// Most bytes in one append, unless a single event is larger.
    pub batch_bytes_max: usize,
    /// Most events in one append.
    pub batch_events_max: usize,
    /// Most bytes on their way to one segment at once.
    pub window_bytes_max: usize,
    /// Most appends on their way to one segment that could still have been filled. Lower means larger
    /// appends, higher means less waiting behind a slow acknowledgement.
    pub small_appends_max: usize,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            batch_bytes_max: 1 << 20,
            batch_events_max: 500,
            window_bytes_max: 16 << 20,
            small_appends_max: 4,
        }
    }
}

/// Reading events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderConfig {
    /// Bytes asked for by one read of one segment.
    pub read_bytes_max: usize,
    /// Memory for what was read ahead, over all segments, in bytes. With many segments each read asks
    /// for less, down to 64 KiB; an event larger than that is held whole while it is put together.
    pub memory_bytes_max: usize,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            read_bytes_max: 1 << 20,
            memory_bytes_max: 64 << 20,
        }
    }
}

/// How a retrying level spaces its attempts: doubling delays with jitter, until a deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Delay before the second attempt, in milliseconds.
    pub delay_min_ms: u64,
    /// Largest delay, in milliseconds.
    pub delay_max_ms: u64,
    /// No further attempt starts this long after the first failure, in milliseconds.
    pub deadline_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            delay_min_ms: 20,
            delay_max_ms: 2_000,
            deadline_ms: 120_000,
        }
    }
}

/// One run of attempts at one thing.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    rng: Rng,
    deadline: Option<Instant>,
    attempt: u32,
}

impl Backoff {
    pub(crate) fn new(retry: &Retry, rng: &Rng) -> Self {
        Self {
            retry: retry.clone(),
            rng: rng.clone(),
            deadline: None,
            attempt: 0,
        }
    }

    /// Waits before the next attempt, or gives `error` back: because it is final, or the time is over.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_retryable() {
            return Err(error);
        }
        let now = Instant::now();
        let limit = Duration::from_millis(self.retry.deadline_ms);
        let deadline = *self.deadline.get_or_insert(now + limit);
        let delay = self.next_delay();
        if now + delay > deadline {
            return Err(error);
        }
        tracing::debug!(%error, attempt = self.attempt, ?delay, "trying again");
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Between half and all of the doubled delay, so that many clients do not come back at once.
    fn next_delay(&mut self) -> Duration {
        let doubled = self
            .retry
            .delay_min_ms
            .saturating_mul(1 << self.attempt.min(20));
        self.attempt += 1;
        let full = doubled.clamp(1, self.retry.delay_max_ms.max(1));
        Duration::from_millis(full / 2 + self.rng.below(full / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(
            Config::default().validate().map_err(|e| e.to_string()),
            Ok(())
        );
    }

    #[test]
    fn a_limit_of_nothing_is_refused_by_name() {
        let mut config = Config::default();
        config.connection.per_store_max = 0;
        let message = config
            .validate()
            .expect_err("nothing can connect")
            .to_string();
        assert!(message.contains("connection.per_store_max"), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_at_the_deadline_with_the_last_error() {
        let retry = Retry {
            deadline_ms: 10_000,
            ..Retry::default()
        };
        let mut backoff = Backoff::new(&retry, &Rng::seeded(1));
        let start = Instant::now();
        let mut attempts = 0;
        assert!(backoff.pause(Error::Closed).await.is_err(), "that is final");
        let lost = || Error::OutcomeUnknown { what: "seal" };
        while backoff.pause(lost()).await.is_ok() {
            attempts += 1;
        }
        assert!((8..40).contains(&attempts), "{attempts} attempts");
        assert!(start.elapsed() <= Duration::from_millis(10_000));
        assert!(start.elapsed() >= Duration::from_millis(7_000));
    }
}
