//! What can be set, and the defaults.

use std::net::{Ipv4Addr, SocketAddr};

use sarit_client::connection::Endpoint;
use serde::{Deserialize, Serialize};

use crate::stream::transaction::Bounds;
use crate::{autoscale, watermarks};

/// The controller's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where gRPC is served, to clients and to segment stores that register.
    pub listen: SocketAddr,
    /// What discovery answers as the controller's address, `host:port`; without it, `listen`.
    pub advertised: Option<String>,
    /// The one segment store there is, if it lives in the same process; without it stores register.
    pub store: Option<StaticStore>,
    /// How long transactions may stay open.
    pub transactions: TransactionConfig,
    /// How streams scale by their load.
    pub autoscale: autoscale::Config,
    /// How watermarks are made.
    pub watermarks: watermarks::Config,
    /// How often, in milliseconds, streams are held against their retention policies. Lower drops data
    /// sooner, and measures each such stream's active segments more often.
    pub retention_period_ms: u64,
}

/// Bounds of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransactionConfig {
    /// Shortest lease a transaction may begin with, in milliseconds. Lower frees abandoned ones sooner.
    pub lease_min_ms: u64,
    /// Longest lease, in milliseconds. Higher keeps abandoned ones longer.
    pub lease_max_ms: u64,
    /// Longest life, in milliseconds, however often the lease is renewed.
    pub life_max_ms: u64,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            lease_min_ms: 10_000,
            lease_max_ms: 600_000,
            life_max_ms: 86_400_000,
        }
    }
}

impl TransactionConfig {
    pub(crate) fn bounds(&self) -> Bounds {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        Bounds {
            lease_min_ms: signed(self.lease_min_ms),
            lease_max_ms: signed(self.lease_max_ms),
            life_max_ms: signed(self.life_max_ms),
        }
    }
}

/// A segment store known from the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticStore {
    /// The address given to clients, `host:port`; the host a name or an IPv4 address.
    pub advertised: String,
    /// The address the controller itself connects to, `host:port`.
    pub connect: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            advertised: None,
            store: None,
            transactions: TransactionConfig::default(),
            autoscale: autoscale::Config::default(),
            watermarks: watermarks::Config::default(),
            retention_period_ms: 10_000,
        }
    }
}

impl Config {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<(), String> {
        if self.retention_period_ms == 0 {
            return Err("setting retention_period_ms: a period is at least 1 ms".to_owned());
        }
        let TransactionConfig {
            lease_min_ms: min,
            lease_max_ms: max,
            life_max_ms: life,
        } = self.transactions;
        if min > max || max > life {
            return Err(format!(
                "setting transactions: lease_min_ms {min} <= lease_max_ms {max} <= life_max_ms {life}"
            ));
        }
        let store = self.store.iter();
        let store = store.flat_map(|store| {
            [
                ("store.advertised", &store.advertised),
                ("store.connect", &store.connect),
            ]
        });
        let advertised = self.advertised.iter().map(|text| ("advertised", text));
        for (setting, text) in store.chain(advertised) {
            Endpoint::parse(text).map_err(|error| format!("setting {setting}: {error}"))?;
        }
        self.autoscale.validate()?;
        self.watermarks.validate()
    }
}
