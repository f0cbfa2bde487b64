//! The Sarit client: writers, readers, controller calls.
//!
//! In order of flow: [`Client`] is where everything starts, [`controller`] knows streams and who serves
//! them, [`event`] writes and reads streams, [`transaction`] writes atomically, [`table`] keeps values under keys, [`segment`] is about one
//! segment, [`connection`] moves bytes.
//! Everything reaches the world through `sarit_env`, so that a simulated world can run it unchanged.
//!
//! What writers and readers do is counted by the `metrics` crate, for whatever recorder the program
//! installs: `client_events_written_total`, `client_events_acknowledged_total`, `client_bytes_in_flight`,
//! `client_appends_total`, `client_reconnects_total` and more, listed in `metrics.rs`.
//!
//! ```no_run
//! use sarit_client::event::{From, Until};
//! use sarit_client::{Client, Error};
//! use sarit_proto::names::{ScopeName, ScopedStream};
//! use sarit_proto::policy::StreamConfig;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("tcp://127.0.0.1:9090")?;
//! let stream: ScopedStream = "weather/stations".parse()?;
//! client.controller().create_scope(&stream.scope).await?;
//! client.controller().create_stream(&stream, &StreamConfig::fixed(4)?).await?;
//!
//! let writer = client.event_writer(&stream).await?;
//! let durable = writer.write("station 7", "21.5 °C").await?;
//! durable.await?;
//!
//! let mut reader = client.event_reader(&stream, From::Head, Until::Tail).await?;
//! while let Some(event) = reader.next().await? {
//!     println!("{}: {:?}", event.segment, event.payload);
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```

mod client;
pub mod config;
pub mod connection;
pub mod controller;
mod error;
pub mod event;
pub mod group;
mod metrics;
pub mod segment;
pub mod table;
pub mod transaction;

pub use client::{Client, Parts};
pub use config::Config;
pub use controller::Controller;
pub use error::Error;
pub use event::{EventReader, EventWriter};
pub use transaction::{Transaction, TransactionWriter};
