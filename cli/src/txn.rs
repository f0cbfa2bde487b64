//! `sarit txn`: transactions from outside.

use sarit_env::Clock;
use sarit_proto::ids::TransactionId;
use serde_json::json;

use crate::admin::{say, stream_name};
use crate::args::elastic::TxnVerb;
use crate::connect;
use crate::exit::{Exit, Failure};

/// Runs `sarit txn`.
pub(crate) async fn run(verb: TxnVerb) -> anyhow::Result<()> {
    match verb {
        TxnVerb::List {
            stream,
            open,
            client: args,
        } => {
            let stream = stream_name(&stream)?;
            let client = connect(&args.controller)?;
            let controller = client.controller();
            let now_ms = Clock::system().now_ms();
            for one in controller.open_transactions(&stream).await? {
                let json = json!({
                    "transaction": one.id.to_string(),
                    "status": one.status.to_string(),
                    "created_ms": one.created_ms,
                    "lease_ends_ms": one.lease_ends_ms,
                    "life_ends_ms": one.life_ends_ms,
                });
                let age = (now_ms - one.created_ms) / 1_000;
                let lease = one.lease_ends_ms.map(|ends| (ends - now_ms) / 1_000);
                let lease = lease.map(|left| format!(", its lease ends in {left} s"));
                let (id, status, lease) = (one.id, one.status, lease.unwrap_or_default());
                say(
                    &args,
                    &format!("{id} {status}, begun {age} s ago{lease}"),
                    &json,
                )?;
            }
            if open {
                return Ok(());
            }
            for (id, status) in controller.completed_transactions(&stream).await? {
                let json = json!({ "transaction": id.to_string(), "status": status.to_string() });
                say(&args, &format!("{id} {status}"), &json)?;
            }
        }
        TxnVerb::Describe {
            stream,
            transaction,
            client: args,
        } => {
            let (stream, id) = (stream_name(&stream)?, parse(&transaction)?);
            let client = connect(&args.controller)?;
            let status = client.controller().transaction_status(&stream, id).await?;
            let json = json!({
                "stream": stream.to_string(),
                "transaction": id.to_string(),
                "status": status.to_string(),
            });
            say(&args, &format!("transaction {id} is {status}"), &json)?;
        }
        TxnVerb::Abort {
            stream,
            transaction,
            client: args,
        } => {
            let (stream, id) = (stream_name(&stream)?, parse(&transaction)?);
            let client = connect(&args.controller)?;
            client.controller().abort_transaction(&stream, id).await?;
            let json = json!({ "stream": stream.to_string(), "transaction": id.to_string() });
            say(&args, &format!("aborted transaction {id}"), &json)?;
        }
    }
    Ok(())
}

/// Reads an id as it is printed: 32 hex digits, with or without dashes.
fn parse(text: &str) -> anyhow::Result<TransactionId> {
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    let hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let id = u128::from_str_radix(&digits, 16);
    match id {
        Ok(id) if hex => Ok(TransactionId(id)),
        _ => Err(Failure::error(
            Exit::Usage,
            format!(
                "{text:?} is no transaction's id; it has 32 hex digits, as its writer printed it"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_printed_and_nothing_else_is() {
        let id = TransactionId(0x0000_0001_0000_0002_0000_0003_dead_beef);
        assert_eq!(parse(&id.to_string()).expect("as printed"), id);
        assert_eq!(parse(&format!("{:032x}", id.0)).expect("as digits"), id);
        for wrong in [
            "",
            "7",
            "+0000000000000000000000000000001",
            "g0000000-0000-0000-0000-000000000000",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
