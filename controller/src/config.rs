//! What can be set, and the defaults.

use std::net::{Ipv4Addr, SocketAddr};

use sarit_client::connection::Endpoint;
use serde::{Deserialize, Serialize};

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
        }
    }
}

impl Config {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<(), String> {
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
        Ok(())
    }
}
