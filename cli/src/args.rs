//! The command line: every verb, its options and examples.

pub(crate) mod elastic;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not found · 4 exists already, or in the wrong state \
· 5 server unreachable";

/// Sarit, an elastic stream store. Speaks Pravega's protocol, so its clients run on it unchanged.
#[derive(Debug, Parser)]
#[command(name = "sarit", version, styles = STYLES, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run controller and segment store in one process, durable on this machine
    #[command(after_help = "\
Examples:
  sarit standalone --data ./data
  sarit standalone --data ./data --set segmentstore.memory.budget=1GiB --config sarit.toml")]
    Standalone(Standalone),
    /// Run the controller alone
    #[command(after_help = "\
Example, with `sarit segmentstore` beside it:
  sarit controller --data data/controller --controller-addr 127.0.0.1:9090")]
    Controller(ControllerArgs),
    /// Run the segment store alone
    #[command(after_help = "\
Examples:
  sarit segmentstore --data data/segmentstore --controller http://127.0.0.1:9090 --http-addr 127.0.0.1:9092

Two stores, each with half of the containers:
  sarit segmentstore --data data/store-1 --containers 4 --container-range 0..2 --http-addr 127.0.0.1:9092
  sarit segmentstore --data data/store-2 --containers 4 --container-range 2..4 \\
      --segmentstore-addr 127.0.0.1:12346 --http-addr 127.0.0.1:9093")]
    Segmentstore(SegmentStoreArgs),
    /// Create, list and delete scopes
    Scope {
        #[command(subcommand)]
        verb: ScopeVerb,
    },
    /// Create, list, describe, update, split, merge, truncate, seal and delete streams
    Stream {
        #[command(subcommand)]
        verb: StreamVerb,
    },
    /// List, describe and abort transactions
    Txn {
        #[command(subcommand)]
        verb: elastic::TxnVerb,
    },
    /// Write events from a file or standard input to a stream
    #[command(after_help = "\
Examples:
  echo hello | sarit write demo/greetings
  sarit write demo/flights data/flights-2013-01.csv --csv --key tailnum
  tail -f app.json | sarit write demo/app --json --key user")]
    Write(WriteArgs),
    /// Read a stream's events
    #[command(after_help = "\
Examples:
  sarit read demo/flights
  sarit read demo/app --from tail --follow
  sarit read demo/app --json | jq .event")]
    Read(ReadArgs),
    /// List, describe and reset reader groups, and see how far behind they are
    Group {
        #[command(subcommand)]
        verb: elastic::GroupVerb,
    },
    /// Keep values under keys: create, list, put, get, scan, remove, delete
    Table {
        #[command(subcommand)]
        verb: elastic::TableVerb,
    },
    /// Show live rates, segments, splits and merges
    #[command(after_help = "\
Examples:
  sarit top
  sarit top --scope demo --count 1 --json | jq '.streams[]'")]
    Top(elastic::TopArgs),
    /// Look into what servers store
    Admin {
        #[command(subcommand)]
        verb: AdminVerb,
    },
    /// See it work: real data in, the server killed with SIGKILL, everything read back
    #[command(after_help = "Example:\n  sarit demo")]
    Demo(DemoArgs),
    /// Print a shell's completion script
    #[command(after_help = "\
Example:
  sarit completions bash > ~/.local/share/bash-completion/completions/sarit")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// What every server process takes.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Address of health, metrics and introspection over HTTP; each process on a machine needs its own
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9091")]
    pub(crate) http_addr: SocketAddr,
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One setting, e.g. segmentstore.memory.budget=1GiB; may be repeated, wins over file and environment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// Allow addresses that other machines can reach, although there is no TLS and no authentication
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Log as JSON lines
    #[arg(long)]
    pub(crate) log_json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Standalone {
    /// Directory for all data; created if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address of the controller's gRPC API, which clients are given [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub(crate) controller_addr: Option<SocketAddr>,
    /// Address of the segment store [default: 127.0.0.1:12345]
    #[arg(long, value_name = "ADDR")]
    pub(crate) segmentstore_addr: Option<SocketAddr>,
    /// Address of the segment store as clients reach it, if it is another one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) segmentstore_advertised_addr: Option<String>,
    /// Long-term storage: s3://bucket/prefix, file:///dir; by default in the data directory
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ControllerArgs {
    /// Directory for the controller's data; created if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address of the gRPC API [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub(crate) controller_addr: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SegmentStoreArgs {
    /// Directory for the store's data; created if missing
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address to listen on [default: 127.0.0.1:12345]
    #[arg(long, value_name = "ADDR")]
    pub(crate) segmentstore_addr: Option<SocketAddr>,
    /// Address as clients reach it, if it is another one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) segmentstore_advertised_addr: Option<String>,
    /// Long-term storage: s3://bucket/prefix, file:///dir; by default in the data directory
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<String>,
    /// Containers of all stores together; fixed when the directory is created
    #[arg(long, value_name = "N")]
    pub(crate) containers: Option<u32>,
    /// Those of them that this store has, first to behind the last, as 0..2; fixed as well
    #[arg(long, value_name = "RANGE", requires = "containers")]
    pub(crate) container_range: Option<String>,
    /// The controller to register with [default: http://127.0.0.1:9090]
    #[arg(long, value_name = "URL")]
    pub(crate) controller: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// What every verb takes that talks to a server.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The controller's address
    #[arg(
        long,
        value_name = "URL",
        env = "SARIT_CONTROLLER",
        default_value = "tcp://127.0.0.1:9090"
    )]
    pub(crate) controller: String,
    /// Print JSON, for scripts
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a store keeps its packs.
#[derive(Debug, Args)]
pub(crate) struct StorageArgs {
    /// Data directory of a segment store or of a standalone server
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Long-term storage, if it is not in the data directory
    #[arg(long, value_name = "URL")]
    pub(crate) storage: Option<String>,
    /// One JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminVerb {
    /// A controller's records: dump, load, check
    Metadata {
        #[command(subcommand)]
        verb: MetadataVerb,
    },
    /// Show what long-term storage holds
    Packs {
        #[command(subcommand)]
        verb: PacksVerb,
    },
    /// Show what a container's index and log say, while no server runs
    Container {
        #[command(subcommand)]
        verb: ContainerVerb,
    },
    /// Make a data directory anew from long-term storage, when the log is lost
    #[command(
        after_help = "Restored is what was flushed, as far as the last copy of the index tells its names; see\n\
                      docs/operations.md for what is not. The server that is lost must not run any more.\n\n\
                      Example, for the store of `sarit standalone --data ./data`:\n  \
                      sarit admin recover-from-storage --data ./data/segmentstore --storage s3://bucket/prefix"
    )]
    RecoverFromStorage {
        #[command(flatten)]
        storage: StorageArgs,
        /// Leave out packs and copies of the index that are damaged: segments end before what is missing,
        /// and what lies behind is given up for ever
        #[arg(long)]
        skip_damaged: bool,
    },
    /// Read every byte in long-term storage and check it, and what the index says of it
    #[command(after_help = "Example:\n  sarit admin fsck --data ./data")]
    Fsck {
        #[command(flatten)]
        storage: StorageArgs,
        /// Only packs of this container
        #[arg(long, value_name = "N")]
        container: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerVerb {
    /// Its checkpoint, its log, its packs, its segments
    #[command(after_help = "Example:\n  sarit admin container show 0 --data ./data")]
    Show {
        /// Its number
        #[arg(value_name = "N")]
        container: u32,
        /// Data directory of a segment store or of a standalone server; no server may run on it
        #[arg(long, value_name = "DIR", default_value = "data")]
        data: PathBuf,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PacksVerb {
    /// List packs
    #[command(after_help = "Example:\n  sarit admin packs show --data ./data")]
    Show {
        #[command(flatten)]
        storage: StorageArgs,
        /// Only packs of this container
        #[arg(long, value_name = "N")]
        container: Option<u32>,
    },
    /// Show what a pack holds
    #[command(after_help = "\
Example:
  sarit admin packs dump \"$(sarit admin packs show --json | head -1 | jq -r .pack)\"")]
    Dump {
        /// Its name, as `show` prints it
        pack: String,
        #[command(flatten)]
        storage: StorageArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MetadataVerb {
    /// Print all records as text, one a line
    #[command(
        after_help = "Example:\n  sarit admin metadata export --data data/controller > dump.txt"
    )]
    Export {
        /// The controller's directory; no controller may run on it
        #[arg(long)]
        data: PathBuf,
    },
    /// Read a dump from standard input into an empty directory
    #[command(
        after_help = "Example:\n  sarit admin metadata import --data new/controller < dump.txt"
    )]
    Import {
        /// The controller's directory; no controller may run on it
        #[arg(long)]
        data: PathBuf,
    },
    /// Check that the records fit together
    #[command(after_help = "Example:\n  sarit admin metadata fsck --data data/controller")]
    Fsck {
        /// The controller's directory; no controller may run on it
        #[arg(long)]
        data: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScopeVerb {
    /// Create a scope
    #[command(after_help = "Example:\n  sarit scope create demo")]
    Create {
        /// Letters, digits, `.` and `-`
        scope: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List scopes
    #[command(after_help = "Example:\n  sarit scope list --json | jq -r '.[]'")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a scope's streams in numbers
    #[command(after_help = "Example:\n  sarit scope describe demo")]
    Describe {
        /// The scope
        scope: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a scope
    #[command(
        after_help = "Examples:\n  sarit scope delete demo\n  sarit scope delete demo --recursive"
    )]
    Delete {
        /// The scope
        scope: String,
        /// With all that is in it: streams and their events, reader groups, key-value tables
        #[arg(long)]
        recursive: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// A stream's configuration, as far as it can be chosen.
#[derive(Debug, Args)]
pub(crate) struct StreamOptions {
    /// A tag to find the stream by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Have each segment take about so many events a second: split and merge them by the load
    #[arg(long, value_name = "N", conflicts_with = "kib_per_second")]
    pub(crate) events_per_second: Option<u32>,
    /// The same in KiB a second
    #[arg(long, value_name = "N")]
    pub(crate) kib_per_second: Option<u32>,
    /// Into how many parts a hot segment is split at once, at most [default: 2, or as it was]
    #[arg(long, value_name = "N")]
    pub(crate) scale_factor: Option<u32>,
    /// Keep at least this many milliseconds of events; more in `sarit stream retention`
    #[arg(long, value_name = "MS", conflicts_with = "retain_bytes")]
    pub(crate) retain_ms: Option<u64>,
    /// Keep at least this many bytes
    #[arg(long, value_name = "BYTES")]
    pub(crate) retain_bytes: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StreamVerb {
    /// Create a stream
    #[command(after_help = "\
Examples:
  sarit stream create demo/flights --segments 4
  sarit stream create demo/clicks --segments 2 --events-per-second 1000 --retain-ms 86400000")]
    Create {
        /// SCOPE/STREAM
        stream: String,
        /// Number of segments: how many writers and readers can work side by side. With a rate: at first, and
        /// at least
        #[arg(long, value_name = "N", default_value_t = 1)]
        segments: u32,
        /// Create the scope too if it is missing
        #[arg(long)]
        with_scope: bool,
        #[command(flatten)]
        options: StreamOptions,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List a scope's streams
    #[command(after_help = "Example:\n  sarit stream list demo --tag air")]
    List {
        /// The scope
        scope: String,
        /// Only streams with this tag
        #[arg(long)]
        tag: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a stream's configuration, segments, head and tail
    #[command(after_help = "Example:\n  sarit stream describe demo/flights --json | jq .segments")]
    Describe {
        /// SCOPE/STREAM
        stream: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Change tags, retention, and how segments follow the load
    #[command(after_help = "\
Examples:
  sarit stream update demo/flights --tag air --retain-ms 86400000
  sarit stream update demo/flights --events-per-second 1000 --scale-factor 4
  sarit stream update demo/flights --fixed")]
    Update {
        /// SCOPE/STREAM
        stream: String,
        /// Split and merge only when told to
        #[arg(long, conflicts_with_all = ["events_per_second", "kib_per_second", "scale_factor"])]
        fixed: bool,
        #[command(flatten)]
        options: StreamOptions,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Drop everything before a stream cut
    #[command(after_help = "\
Example, everything written so far:
  sarit stream truncate demo/flights --at tail")]
    Truncate {
        /// SCOPE/STREAM
        stream: String,
        /// `head`, `tail`, or a cut as `sarit stream cut` prints it
        #[arg(long, value_name = "CUT")]
        at: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Replace a segment by several that share its keys; readers and writers follow
    #[command(after_help = "\
Examples:
  sarit stream split demo/flights 0
  sarit stream split demo/flights 2.#epoch.1 --parts 4")]
    Split(elastic::Split),
    /// Replace neighbouring segments by one; readers and writers follow
    #[command(after_help = "Example:\n  sarit stream merge demo/flights 2 3")]
    Merge(elastic::Merge),
    /// Split and merge until there are so many segments, equal in keys
    #[command(after_help = "Example:\n  sarit stream scale demo/flights --segments 8")]
    Scale(elastic::Scale),
    /// Show which segments there were when: each split and merge begins an epoch
    #[command(after_help = "Example:\n  sarit stream epochs demo/flights --last 5")]
    Epochs(elastic::Epochs),
    /// Print a stream cut, for `read --from` and `truncate --at`
    #[command(after_help = "\
Examples:
  sarit stream cut demo/flights
  sarit stream cut demo/flights --since head")]
    Cut(elastic::Cut),
    /// Show or change how much is kept
    #[command(after_help = "\
Examples:
  sarit stream retention demo/flights
  sarit stream retention demo/flights --min-bytes 1000000 --max-bytes 5000000
  sarit stream retention demo/flights --none")]
    Retention(elastic::Retention),
    /// End a stream: no more events
    #[command(after_help = "Example:\n  sarit stream seal demo/flights")]
    Seal {
        /// SCOPE/STREAM
        stream: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a sealed stream with everything in it
    #[command(after_help = "Example:\n  sarit stream delete demo/flights --seal")]
    Delete {
        /// SCOPE/STREAM
        stream: String,
        /// Seal it first
        #[arg(long)]
        seal: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Lines,
    Csv,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// What to write; `-` is standard input
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// An event a line (the default)
    #[arg(long, conflicts_with_all = ["csv", "json_events"])]
    pub(crate) lines: bool,
    /// An event a CSV record; the first line names the columns
    #[arg(long, conflicts_with = "json_events")]
    pub(crate) csv: bool,
    /// An event a line of JSON
    #[arg(long = "json")]
    pub(crate) json_events: bool,
    /// Column or field whose value is the routing key: events of one key stay in order
    #[arg(long, value_name = "NAME")]
    pub(crate) key: Option<String>,
    /// The controller's address
    #[arg(
        long,
        value_name = "URL",
        env = "SARIT_CONTROLLER",
        default_value = "tcp://127.0.0.1:9090"
    )]
    pub(crate) controller: String,
}

impl WriteArgs {
    pub(crate) fn format(&self) -> Format {
        match (self.csv, self.json_events) {
            (true, _) => Format::Csv,
            (_, true) => Format::Json,
            _ => Format::Lines,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// Where to start: `head`, `tail`, or a stream cut
    #[arg(long, value_name = "CUT", default_value = "head")]
    pub(crate) from: String,
    /// Go on when the end is reached, waiting for new events
    #[arg(long)]
    pub(crate) follow: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Directory to work in; a temporary one, removed at the end, if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn after_help(verbs: &[&str]) -> String {
        let mut command = &Cli::command();
        for verb in verbs {
            command = command.find_subcommand(verb).expect("there is such a verb");
        }
        command.get_after_help().expect("examples").to_string()
    }

    #[test]
    fn a_store_s_examples_leave_the_controller_its_addresses() {
        let help = after_help(&["segmentstore"]).replace("\\\n", "");
        let examples: Vec<_> = help
            .lines()
            .filter(|line| line.contains("sarit "))
            .collect();
        assert_eq!(examples.len(), 3, "{help}");
        for example in examples {
            let arguments = Cli::try_parse_from(example.split_whitespace());
            let Command::Segmentstore(store) = arguments.expect("it can be typed").command else {
                panic!("{example}");
            };
            assert_ne!(store.server.http_addr.port(), 9091, "{example}");
        }
    }

    #[test]
    fn what_restores_a_store_names_the_store_s_directory() {
        let help = after_help(&["admin", "recover-from-storage"]);
        assert!(help.contains("--data ./data/segmentstore "), "{help}");
    }
}
