//! Verbs for streams whose segments change, transactions and reader groups.

use clap::{Args, Subcommand};

use super::ClientArgs;

/// One segment into several.
#[derive(Debug, Args)]
pub(crate) struct Split {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// The segment, as `sarit stream describe` prints it, or only its number; not needed if there is one
    pub(crate) segment: Option<String>,
    /// Into how many parts, equal in keys
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) parts: u32,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Neighbours into one segment.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// Segments whose keys lie side by side, as `sarit stream describe` prints them, or only their numbers
    #[arg(required = true, num_args = 2..)]
    pub(crate) segments: Vec<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// To so many equal segments.
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// Number of segments, equal in keys; those that are right already stay
    #[arg(long, value_name = "N")]
    pub(crate) segments: u32,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How the segments came about.
#[derive(Debug, Args)]
pub(crate) struct Epochs {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// Only so many, the latest
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) last: u32,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// A position of a whole stream.
#[derive(Debug, Args)]
pub(crate) struct Cut {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// `head` or `tail`
    #[arg(long, value_name = "WHERE", default_value = "tail")]
    pub(crate) at: String,
    /// Count the bytes between this cut (or `head`) and that one
    #[arg(long, value_name = "CUT")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How much is kept.
#[derive(Debug, Args)]
pub(crate) struct Retention {
    /// SCOPE/STREAM
    pub(crate) stream: String,
    /// Keep at least this many milliseconds of events
    #[arg(long, value_name = "MS", conflicts_with_all = ["min_bytes", "max_bytes", "none"])]
    pub(crate) min_ms: Option<u64>,
    /// Keep at most this many, whatever readers have not read
    #[arg(long, value_name = "MS", requires = "min_ms")]
    pub(crate) max_ms: Option<u64>,
    /// Keep at least this many bytes
    #[arg(long, value_name = "BYTES", conflicts_with = "none")]
    pub(crate) min_bytes: Option<u64>,
    /// Keep at most this many, whatever readers have not read
    #[arg(long, value_name = "BYTES", requires = "min_bytes")]
    pub(crate) max_bytes: Option<u64>,
    /// Keep everything
    #[arg(long)]
    pub(crate) none: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Transactions.
#[derive(Debug, Subcommand)]
pub(crate) enum TxnVerb {
    /// List the transactions of a stream: those that have not ended, then those that ended lately
    #[command(after_help = "\
Examples:
  sarit txn list demo/flights
  sarit txn list demo/flights --open --json | jq -r .transaction")]
    List {
        /// SCOPE/STREAM
        stream: String,
        /// Only those that have not ended
        #[arg(long)]
        open: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Say what has become of a transaction
    #[command(
        after_help = "Example:\n  sarit txn describe demo/flights 00000000-0000-0000-0000-000000000007"
    )]
    Describe {
        /// SCOPE/STREAM
        stream: String,
        /// The transaction's id
        transaction: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Abort an open transaction: its events are never part of the stream
    #[command(
        after_help = "Example:\n  sarit txn abort demo/flights 00000000-0000-0000-0000-000000000007"
    )]
    Abort {
        /// SCOPE/STREAM
        stream: String,
        /// The transaction's id
        transaction: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Live figures.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Address of a server's health, metrics and introspection
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9091")]
    pub(crate) http_addr: String,
    /// Look at this scope's streams; all scopes without it
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<String>,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) every: f64,
    /// Stop after so many looks; without a terminal: 1
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Key-value tables.
#[derive(Debug, Subcommand)]
pub(crate) enum TableVerb {
    /// Create a table
    #[command(after_help = "Example:\n  sarit table create demo/users --key-bytes 16")]
    Create {
        /// SCOPE/TABLE
        table: String,
        /// Number of parts that work side by side
        #[arg(long, value_name = "N", default_value_t = 1)]
        partitions: u32,
        /// Bytes of a key's first part, which decides about the partition; shorter ones are padded
        #[arg(long, value_name = "BYTES", default_value_t = 16)]
        key_bytes: u32,
        /// Bytes of a key's second part
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        secondary_bytes: u32,
        /// Create the scope too if it is missing
        #[arg(long)]
        with_scope: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List a scope's tables
    #[command(after_help = "Example:\n  sarit table list demo")]
    List {
        /// The scope
        scope: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Put a value under a key
    #[command(after_help = "\
Examples:
  sarit table put demo/users ada '{\"born\":1815}'
  sarit table put demo/users ada '{}' --if-absent")]
    Put {
        /// SCOPE/TABLE
        table: String,
        /// The key; PRIMARY/SECONDARY if keys have two parts
        key: String,
        /// The value
        value: String,
        /// Only if the key is not there
        #[arg(long, conflicts_with = "if_version")]
        if_absent: bool,
        /// Only if the key has this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print a key's value
    #[command(after_help = "Example:\n  sarit table get demo/users ada --json | jq .version")]
    Get {
        /// SCOPE/TABLE
        table: String,
        /// The key
        key: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Print keys and values, sorted within each partition
    #[command(after_help = "Example:\n  sarit table scan demo/users --prefix a")]
    Scan {
        /// SCOPE/TABLE
        table: String,
        /// Only keys that begin so
        #[arg(long, default_value = "")]
        prefix: String,
        /// Stop after this many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove a key
    #[command(after_help = "Example:\n  sarit table remove demo/users ada")]
    Remove {
        /// SCOPE/TABLE
        table: String,
        /// The key
        key: String,
        /// Only if the key has this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a table with everything in it
    #[command(after_help = "Example:\n  sarit table delete demo/users")]
    Delete {
        /// SCOPE/TABLE
        table: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Reader groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// List a scope's reader groups
    #[command(after_help = "Example:\n  sarit group list demo")]
    List {
        /// The scope
        scope: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a reader group's configuration, readers and positions
    #[command(after_help = "Example:\n  sarit group describe demo/dashboard")]
    Describe {
        /// SCOPE/GROUP
        group: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let a reader group begin somewhere else; its readers are turned away and must be created again
    #[command(after_help = "\
Examples:
  sarit group reset demo/dashboard --to head
  sarit group reset demo/dashboard --to checkpoint
  sarit group reset demo/dashboard --to \"$(sarit stream cut demo/flights)\" --json | jq .generation")]
    Reset {
        /// SCOPE/GROUP
        group: String,
        /// `head`, `tail`, `checkpoint` (the last complete one), or a stream cut; several for several streams
        #[arg(long, value_name = "WHERE", required = true)]
        to: Vec<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Count the bytes that a reader group has not read, as of its readers' last notes
    #[command(after_help = "Example:\n  sarit group lag demo/dashboard --json | jq .bytes")]
    Lag {
        /// SCOPE/GROUP
        group: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}
