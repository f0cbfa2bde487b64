//! A writer by hand that checks every answer, and does what a well-behaved client never does.
//!
//! Its event number n is the n-th 100 bytes of its segment, so numbers and lengths must always agree.
//! It asks on other connections how far it is while appends are in flight, makes conditional appends
//! that must fail, and resends what it was promised: no answer may ever be taken back, whatever crashes
//! in between, and nothing may be written twice.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use sarit_env::Rng;
use sarit_env::sim::TurmoilNet;
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;

use crate::raw::Wire;
use crate::world::{Phase, STORE, SharedRef, breach, note};

/// Its segment, which nobody else writes to.
const SEGMENT: &str = "raw/sim/0.#epoch.0";
/// Bytes of each event.
const EVENT: i64 = 100;
const BYTES: Bytes = Bytes::from_static(&[7; EVENT as usize]);
/// How often a connection starts with what was promised before.
const RESEND: f64 = 0.25;
/// How long to wait before the next connection.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes until the last power cut is over, then checks what is left.
pub(crate) async fn write(shared: SharedRef, rng: Rng) {
    let mut writer = ByHand {
        shared,
        rng: rng.split(),
        writer: WriterId(rng.u128()),
        number: 0,
        length: 0,
    };
    loop {
        let last = writer.shared.lock().phase == Phase::Read;
        let done = if last {
            writer.check().await
        } else {
            writer.round().await
        };
        match done {
            Ok(()) if last => return,
            Ok(()) => {}
            Err(error) => note(&writer.shared, || format!("by hand: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

struct ByHand {
    shared: SharedRef,
    rng: Rng,
    writer: WriterId,
    /// The highest event number that any answer said was durable.
    number: i64,
    /// The largest length that any answer gave.
    length: i64,
}

impl ByHand {
    /// Writes on a connection of its own, until it asks elsewhere or has sent enough.
    async fn round(&mut self) -> io::Result<()> {
        let mut wire = Wire::connect(&TurmoilNet, "store", STORE).await?;
        wire.create(SEGMENT).await?;
        if self.number > 0 && self.rng.chance(RESEND) {
            self.resend(&mut wire).await?;
            return self.check().await;
        }
        let last = wire.set_up(SEGMENT, self.writer).await?;
        self.is_at("SetupAppend", last);
        for number in last + 1..=last + 1 + self.rng.below(30) as i64 {
            if self.rng.chance(0.05) {
                // What follows would leave a gap where this one is refused.
                return self.append_if_longer(&mut wire, number).await;
            }
            wire.append(self.writer, number, BYTES).await?;
            if self.rng.chance(0.2) {
                // Whoever set up last owns the writer: what this connection sends now is another's.
                return self.check().await;
            }
            while self.rng.chance(0.3) && self.number < number {
                self.take(wire.reply().await?);
            }
        }
        Ok(())
    }

    /// Sends again what was promised, and one below, before the server can say that it knows them.
    async fn resend(&mut self, wire: &mut Wire) -> io::Result<()> {
        let number = self.number;
        let again = (number - 1).max(1)..=number;
        wire.resend(SEGMENT, self.writer, again, BYTES).await?;
        loop {
            match wire.reply().await? {
                Reply::AppendSetup(reply) => {
                    self.is_at("SetupAppend before a repetition", reply.last_event_number);
                }
                Reply::DataAppended(ack) => {
                    let told = ack.event_number;
                    if told > number || ack.previous_event_number >= told {
                        self.breach(format!("resent up to {number}, {ack:?}"));
                    }
                    self.take(Reply::DataAppended(ack));
                    if told >= number {
                        self.shared.lock().report.resent += 1;
                        return Ok(());
                    }
                }
                // The set-up was done before the append arrived: a client must know better by then.
                Reply::InvalidEventNumber(_) => return Ok(()),
                other => return Err(io::Error::other(format!("to a repetition: {other:?}"))),
            }
        }
    }

    /// Appends if the segment has the largest length known; a refusal says that it is longer by now.
    async fn append_if_longer(&mut self, wire: &mut Wire, number: i64) -> io::Result<()> {
        let expected = self.length;
        let writer = self.writer;
        wire.append_at(writer, number, expected, BYTES).await?;
        loop {
            match wire.reply().await? {
                Reply::ConditionalCheckFailed(failed) if failed.event_number == number => {
                    self.shared.lock().report.refused += 1;
                    // Acknowledgements taken in between may have said more.
                    self.length = self.length.max(expected + EVENT);
                    return Ok(());
                }
                Reply::DataAppended(ack) if ack.event_number == number => {
                    let length = ack.current_segment_write_offset;
                    if length != expected + EVENT {
                        self.breach(format!("appended at {expected}, the length is {length}"));
                    }
                    self.take(Reply::DataAppended(ack));
                    return Ok(());
                }
                other => self.take(other),
            }
        }
    }

    /// Asks on another connection how far the writer and the segment are.
    async fn check(&mut self) -> io::Result<()> {
        let mut wire = Wire::connect(&TurmoilNet, "store", STORE).await?;
        let before = wire.set_up(SEGMENT, self.writer).await?;
        self.is_at("SetupAppend elsewhere", before);
        let length = wire.length(SEGMENT).await?;
        self.is_long("GetStreamSegmentInfo", length);
        let after = wire.set_up(SEGMENT, self.writer).await?;
        self.is_at("SetupAppend again", after);
        if length < before * EVENT || length > after * EVENT {
            self.breach(format!(
                "a length of {length} between event numbers {before} and {after}"
            ));
        }
        Ok(())
    }

    /// Takes what an append's answer says.
    fn take(&mut self, reply: Reply) {
        let Reply::DataAppended(ack) = reply else {
            return;
        };
        note(&self.shared, || {
            format!("by hand: {} acknowledged", ack.event_number)
        });
        let length = ack.current_segment_write_offset;
        if length < ack.event_number * EVENT || length % EVENT != 0 {
            self.breach(format!("a length of {length} with {ack:?}"));
        }
        // Acknowledgements that were on their way may be older than other answers.
        self.number = self.number.max(ack.event_number);
        self.length = self.length.max(length);
    }

    fn is_at(&mut self, how: &str, number: i64) {
        note(&self.shared, || format!("by hand: {how} says {number}"));
        if number < self.number {
            self.breach(format!("{how} says {number}, {} was told", self.number));
        }
        self.number = self.number.max(number);
    }

    fn is_long(&mut self, how: &str, length: i64) {
        note(&self.shared, || {
            format!("by hand: {how} says {length} bytes")
        });
        if length < self.length {
            self.breach(format!(
                "{how} says a length of {length}, {} was told",
                self.length
            ));
        }
        self.length = self.length.max(length);
    }

    fn breach(&self, what: String) {
        breach(&self.shared, format!("by hand: {what}"));
    }
}
