//! `sarit table`: key-value tables.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sarit_client::controller::TableConfig;
use sarit_client::table::{Entry, If, KeyValueTable};
use sarit_proto::names::ScopeName;
use serde_json::{Value, json};

use crate::admin::{list, pages, say, stream_name};
use crate::args::ClientArgs;
use crate::args::elastic::TableVerb;
use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_line};

/// Runs `sarit table`.
pub(crate) async fn run(verb: TableVerb) -> anyhow::Result<()> {
    match verb {
        TableVerb::Create {
            table,
            partitions,
            key_bytes,
            secondary_bytes,
            with_scope,
            client: args,
        } => {
            let table = stream_name(&table)?;
            let client = connect(&args.controller)?;
            if with_scope {
                client.controller().create_scope(&table.scope).await?;
            }
            let config = TableConfig {
                partitions,
                primary_key_bytes: key_bytes,
                secondary_key_bytes: secondary_bytes,
            };
            if !client.controller().create_table(&table, config).await? {
                let message = format!("table {table} exists already");
                return Err(Failure::error(Exit::WrongState, message));
            }
            let sentence = format!("created table {table} with {partitions} partitions");
            say(
                &args,
                &sentence,
                &json!({ "table": table.to_string(), "partitions": partitions }),
            )?;
        }
        TableVerb::List {
            scope,
            client: args,
        } => {
            let scope = ScopeName::new(scope)?;
            let client = connect(&args.controller)?;
            let controller = client.controller();
            let names = pages(async |from| controller.list_tables(&scope, from).await).await?;
            list(&args, &names)?;
        }
        TableVerb::Put {
            table,
            key,
            value,
            if_absent,
            if_version,
            client: args,
        } => {
            let opened = open(&table, &args).await?;
            let condition = match (if_absent, if_version) {
                (true, _) => If::Absent,
                (_, Some(version)) => If::Version(version),
                _ => If::Always,
            };
            let key = padded(&opened, &key)?;
            let version = opened.put(key, value.into_bytes(), condition).await?;
            say(
                &args,
                &format!("version {version}"),
                &json!({ "version": version }),
            )?;
        }
        TableVerb::Get {
            table,
            key,
            client: args,
        } => {
            let opened = open(&table, &args).await?;
            let Some(entry) = opened.get(padded(&opened, &key)?).await? else {
                let message = format!("table {table} has no key {key:?}");
                return Err(Failure::error(Exit::NotFound, message));
            };
            show(&args, &entry, false)?;
        }
        TableVerb::Scan {
            table,
            prefix,
            limit,
            client: args,
        } => {
            let opened = open(&table, &args).await?;
            let mut scan = opened.scan(prefix.into_bytes());
            let mut left = limit.unwrap_or(u64::MAX);
            loop {
                let entries = scan.next().await?;
                if entries.is_empty() || left == 0 {
                    break;
                }
                for entry in entries
                    .iter()
                    .take(usize::try_from(left).unwrap_or(usize::MAX))
                {
                    show(&args, entry, true)?;
                    left -= 1;
                }
            }
        }
        TableVerb::Remove {
            table,
            key,
            if_version,
            client: args,
        } => {
            let opened = open(&table, &args).await?;
            let condition = if_version.map_or(If::Always, If::Version);
            opened.remove(padded(&opened, &key)?, condition).await?;
            say(&args, &format!("removed {key}"), &json!({ "removed": key }))?;
        }
        TableVerb::Delete {
            table,
            client: args,
        } => {
            let table = stream_name(&table)?;
            let client = connect(&args.controller)?;
            if !client.controller().delete_table(&table).await? {
                return Err(sarit_client::Error::NoSuchTable(table.to_string()).into());
            }
            say(
                &args,
                &format!("deleted table {table}"),
                &json!({ "table": table.to_string() }),
            )?;
        }
    }
    Ok(())
}

async fn open(table: &str, args: &ClientArgs) -> anyhow::Result<KeyValueTable> {
    let table = stream_name(table)?;
    Ok(connect(&args.controller)?.key_value_table(&table).await?)
}

/// A key as it is typed, `PRIMARY` or `PRIMARY/SECONDARY` if the table has two parts, each padded with
/// zero bytes to its length.
fn padded(table: &KeyValueTable, text: &str) -> anyhow::Result<Vec<u8>> {
    pad(table.config(), text).map_err(|message| Failure::error(Exit::Usage, message))
}

fn pad(config: TableConfig, text: &str) -> Result<Vec<u8>, String> {
    let (primary, secondary) = match config.secondary_key_bytes {
        0 => (text, ""),
        _ => text.split_once('/').ok_or_else(|| {
            format!("the table's keys have two parts; write PRIMARY/SECONDARY instead of {text:?}")
        })?,
    };
    let mut key = Vec::with_capacity(config.key_bytes());
    let parts = [
        (primary, config.primary_key_bytes),
        (secondary, config.secondary_key_bytes),
    ];
    for (part, bytes) in parts {
        let end = key.len() + bytes as usize;
        key.extend_from_slice(part.as_bytes());
        if key.len() > end {
            return Err(format!(
                "{part:?} is longer than the {bytes} bytes that keys have here"
            ));
        }
        key.resize(end, 0);
    }
    Ok(key)
}

fn show(args: &ClientArgs, entry: &Entry, with_key: bool) -> anyhow::Result<()> {
    if args.json {
        return print_line(json!({
            "key": text(&entry.key).trim_end_matches('\0'),
            "value": value(&entry.value),
            "version": entry.version,
        }));
    }
    let mut line = Vec::new();
    if with_key {
        line.extend_from_slice(text(&entry.key).replace('\0', "").as_bytes());
        line.push(b'\t');
    }
    line.extend_from_slice(&entry.value);
    line.push(b'\n');
    print(&line)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(primary: u32, secondary: u32) -> TableConfig {
        TableConfig {
            partitions: 1,
            primary_key_bytes: primary,
            secondary_key_bytes: secondary,
        }
    }

    #[test]
    fn keys_are_padded_part_by_part_and_never_cut() {
        assert_eq!(pad(config(4, 0), "ab").expect("it fits"), b"ab\0\0");
        assert_eq!(pad(config(4, 0), "a/bc").expect("one part"), b"a/bc");
        assert_eq!(pad(config(2, 3), "a/bc").expect("two parts"), b"a\0bc\0");
        assert!(pad(config(2, 3), "a").is_err());
        assert!(pad(config(2, 0), "abc").is_err());
        assert!(pad(config(2, 1), "ab/cd").is_err());
    }
}
