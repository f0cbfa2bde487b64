//! Writes events to a new stream and reads them back.
//!
//! `cargo run -p sarit-client --example write_and_read -- tcp://127.0.0.1:9090`

use std::collections::BTreeMap;
use std::error::Error;

use sarit_client::Client;
use sarit_client::event::{From, Until};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::StreamConfig;

const STATIONS: u32 = 7;
const READINGS: u32 = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let client = Client::connect(address.as_deref().unwrap_or("tcp://127.0.0.1:9090"))?;
    let stream: ScopedStream = "weather/stations".parse()?;
    client.controller().create_scope(&stream.scope).await?;
    let config = StreamConfig::fixed(4)?;
    client.controller().create_stream(&stream, &config).await?;
    let before = client.tail(&stream).await?;

    let writer = client.event_writer(&stream).await?;
    for reading in 0..READINGS {
        for station in 0..STATIONS {
            let key = format!("station {station}");
            // The event has its place in the order of its key; many may be under way.
            drop(writer.write(&key, format!("{key}: {reading}")).await?);
        }
    }
    writer.flush().await?;

    let mut reader = client
        .event_reader(&stream, From::Cut(before), Until::Tail)
        .await?;
    let mut next = BTreeMap::new();
    while let Some(event) = reader.next().await? {
        let text = String::from_utf8(event.payload.to_vec())?;
        let (station, reading) = text.split_once(": ").ok_or("not one of our events")?;
        let expected = next.entry(station.to_owned()).or_insert(0);
        if reading.parse::<u32>()? != *expected {
            return Err(format!("{station}: {reading} instead of {expected}").into());
        }
        *expected += 1;
    }
    let complete = next.values().filter(|count| **count == READINGS).count();
    println!("{complete} of {STATIONS} stations read back completely and in order");
    client.close().await;
    Ok(())
}
