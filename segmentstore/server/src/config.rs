//! Settings of the segment store.

use std::net::SocketAddr;
use std::path::PathBuf;

use sarit_proto::placement::ContainerRange;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::Error;
use crate::directory::Shape;

/// Most containers one data directory can have: each owns at least one of the 65,536 slots.
const CONTAINERS_MAX: u32 = 1 << 12;
/// Below this a single largest event would be most of the budget.
const BUDGET_BYTES_MIN: u64 = 32 << 20;

/// Settings of the segment store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of everything that must survive: log, format, lock.
    pub data: PathBuf,
    /// Address the wire protocol is served on. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` that clients are told to connect to: a name or an IPv4 address. Default: the listen
    /// address, which then must not be a wildcard.
    pub advertised: Option<String>,
    /// Containers of all stores together, fixed when the data directory is created; another number is
    /// refused later. More use more cores, each costs memory and a share of every group commit.
    /// Default: what the directory has; for a new one 4 on up to two cores, else 8.
    pub containers: Option<u32>,
    /// Those of them that this store has, `"0..2"`, the others being other stores'; fixed as well.
    /// Default: what the directory has; for a new one all.
    #[serde(deserialize_with = "range")]
    pub container_range: Option<ContainerRange>,
    /// `host:port` of the controller's internal API to register with; none when membership is static.
    pub controller: Option<String>,
    /// `host:port` of the controller's internal API to report loads to, by which streams scale; default:
    /// `controller`. With neither, nothing scales by load.
    pub reports_to: Option<String>,
    /// Memory.
    pub memory: Memory,
    /// The log.
    pub wal: sarit_wal::Config,
    /// The containers.
    pub container: sarit_container::Config,
    /// Long-term storage.
    pub storage: sarit_storage::Config,
    /// The containers' index.
    pub index: Index,
    /// What one peer, and all of them, may take.
    pub limits: Limits,
}

/// Memory of the process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Bytes for queued operations, frames and caches together. More keeps more data readable from
    /// memory and absorbs longer stalls of the disk. Also as text: `512MiB`, `1GiB`.
    #[serde(deserialize_with = "bytes")]
    pub budget: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { budget: 256 << 20 }
    }
}

/// The index: what containers were at their last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Index {
    /// What it is kept in; fixed once the data directory has one.
    pub engine: Engine,
    /// Milliseconds between two looks of SlateDB for checkpoints to compact. Less: the files of very many
    /// checkpoints are joined sooner, at the price of requests, a few per container and look.
    pub poll_ms: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            poll_ms: 10_000,
        }
    }
}

/// What an index is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// SlateDB.
    #[default]
    Slatedb,
    /// One file per container, all of it in memory and written as a whole by every checkpoint.
    Snapshot,
}

impl Engine {
    /// Returns its name in settings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Slatedb => "slatedb",
            Self::Snapshot => "snapshot",
        }
    }
}

/// What peers may take. Raising a limit lets one peer, or all together, hold more memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once; further ones are closed when they arrive.
    pub connections: usize,
    /// Writers set up on one connection; those idle longest make room for further ones, which are refused if all are
    /// at work.
    pub writers: usize,
    /// Reads of one connection that wait for data; further ones wait one second only.
    pub parked_reads: usize,
    /// Requests of one connection under way, reads not counted; at the limit its socket is not read.
    pub requests: usize,
    /// Seconds a read at the tail waits for data. Clients give up at 30.
    pub read_wait_seconds: u64,
    /// Seconds until the first whole frame of a connection, and for each further 64 KiB of a begun one.
    pub frame_seconds: u64,
    /// Seconds without progress after which a peer that does not take its replies is cut off.
    pub write_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            writers: 10_000,
            parked_reads: 1_024,
            requests: 256,
            read_wait_seconds: 29,
            frame_seconds: 60,
            write_seconds: 120,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data/segmentstore"),
            listen: SocketAddr::from(([127, 0, 0, 1], 12_345)),
            advertised: None,
            containers: None,
            container_range: None,
            controller: None,
            reports_to: None,
            memory: Memory::default(),
            wal: sarit_wal::Config::default(),
            container: sarit_container::Config::default(),
            storage: sarit_storage::Config::default(),
            index: Index::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Config(what));
        match &self.advertised {
            None if self.listen.ip().is_unspecified() => {
                return refuse(format!(
                    "listen is the wildcard {}, which clients cannot connect to: set advertised",
                    self.listen
                ));
            }
            None if self.listen.is_ipv6() => {
                return refuse(format!(
                    "listen is {}, and clients take no IPv6 addresses: set advertised to a name",
                    self.listen
                ));
            }
            Some(advertised) if split_host_port(advertised).is_none() => {
                return refuse(format!(
                    "advertised is {advertised:?}, it must be host:port with a name or an IPv4 address"
                ));
            }
            _ => {}
        }
        let controllers = [
            ("controller", &self.controller),
            ("reports_to", &self.reports_to),
        ];
        for (setting, controller) in controllers {
            if let Some(controller) = controller
                && split_host_port(controller).is_none()
            {
                return refuse(format!("{setting} is {controller:?}, it must be host:port"));
            }
        }
        if let Some(containers) = self.containers
            && !(1..=CONTAINERS_MAX).contains(&containers)
        {
            return refuse(format!(
                "containers is {containers}, it must be in [1, {CONTAINERS_MAX}]"
            ));
        }
        if let Some(range) = self.container_range {
            let Some(containers) = self.containers else {
                return refuse(format!(
                    "container_range is {range}, but containers does not say of how many"
                ));
            };
            if range.end() > containers {
                return refuse(format!(
                    "container_range is {range}, but there are only {containers} containers"
                ));
            }
        }
        if self.memory.budget < BUDGET_BYTES_MIN {
            return refuse(format!(
                "memory.budget is {}, it must be at least {BUDGET_BYTES_MIN}",
                self.memory.budget
            ));
        }
        let limits = &self.limits;
        let zero = [
            ("connections", limits.connections),
            ("writers", limits.writers),
            ("requests", limits.requests),
            ("frame_seconds", limits.frame_seconds as usize),
            ("write_seconds", limits.write_seconds as usize),
        ];
        if let Some((name, _)) = zero.iter().find(|(_, value)| *value == 0) {
            return refuse(format!("limits.{name} is 0"));
        }
        Ok(())
    }

    /// Returns what clients are told to connect to, `host:port`, as long as the port is not 0.
    pub fn advertised_addr(&self) -> String {
        let (host, port) = self.advertised(self.listen);
        format!("{host}:{port}")
    }

    /// Returns which containers the data directory has, or gets if it is new.
    pub(crate) fn shape(&self) -> Shape {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Shape {
            asked: self.containers,
            default: if cores <= 2 { 4 } else { 8 },
            range: self.container_range,
        }
    }

    /// Returns where clients find a store that listens on `local`.
    pub(crate) fn advertised(&self, local: SocketAddr) -> (String, u16) {
        let advertised = self.advertised.as_deref().and_then(split_host_port);
        let (host, port) =
            advertised.map_or_else(|| (local.ip().to_string(), 0), |(h, p)| (h.to_owned(), p));
        // Port 0 means: the one that was given to the listener.
        (host, if port == 0 { local.port() } else { port })
    }
}

/// Reads a range of containers, `0..2`.
fn range<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ContainerRange>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

/// Reads a number of bytes, plain or with a unit.
fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Bytes {
        Plain(u64),
        Text(String),
    }
    let text = match Bytes::deserialize(from)? {
        Bytes::Plain(bytes) => return Ok(bytes),
        Bytes::Text(text) => text,
    };
    parse_bytes(&text).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is no number of bytes: write 1048576, 1024KiB, 1MiB or 1GiB"
        ))
    })
}

fn parse_bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let unit = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    number.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Clients split at the colon and take exactly two parts, so no IPv6 addresses.
pub(crate) fn split_host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.split_once(':')?;
    let plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    Some((host, port.parse().ok()?)).filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_needs_an_advertised_address() {
        let mut config = Config {
            listen: SocketAddr::from(([0, 0, 0, 0], 9_000)),
            ..Config::default()
        };
        assert!(matches!(config.validate(), Err(Error::Config(_))));
        config.advertised = Some("store.example:0".into());
        config.validate().unwrap();
        assert_eq!(
            config.advertised(config.listen),
            ("store.example".into(), 9_000)
        );
    }

    #[test]
    fn a_part_of_the_containers_must_be_a_part_of_something() {
        let config = |text: &str| serde_json::from_str::<Config>(text).unwrap().validate();
        config(r#"{"containers": 4, "container_range": "2..4"}"#).unwrap();
        config(r#"{"container_range": "2..4"}"#).unwrap_err();
        config(r#"{"containers": 3, "container_range": "2..4"}"#).unwrap_err();
        assert!(serde_json::from_str::<Config>(r#"{"container_range": "4..2"}"#).is_err());
    }

    #[test]
    fn an_ipv6_address_needs_an_advertised_name() {
        let mut config = Config {
            listen: "[::1]:9000".parse().unwrap(),
            ..Config::default()
        };
        assert!(matches!(config.validate(), Err(Error::Config(_))));
        config.advertised = Some("localhost:9000".into());
        config.validate().unwrap();
    }

    #[test]
    fn sizes_may_have_units() {
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("1 GiB"), Some(1 << 30));
        assert_eq!(parse_bytes("33554432"), Some(32 << 20));
        for text in ["", "MiB", "-1MiB", "1MB", "99999999999GiB"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
        let config: Config = serde_json::from_str(r#"{"memory": {"budget": "64MiB"}}"#).unwrap();
        assert_eq!(config.memory.budget, 64 << 20);
        assert!(serde_json::from_str::<Config>(r#"{"memory": {"budjet": 1}}"#).is_err());
    }

    #[test]
    fn an_advertised_address_has_exactly_two_parts() {
        for text in [
            "host",
            "host:",
            "[::1]:80",
            "a:b:80",
            "tcp://host:80",
            ":80",
        ] {
            assert_eq!(split_host_port(text), None, "{text}");
        }
        assert_eq!(split_host_port("10.0.0.1:80"), Some(("10.0.0.1", 80)));
    }
}
