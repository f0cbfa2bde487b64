//! `sarit group`: reader groups of the official Java client from outside.

use sarit_client::Client;
use sarit_client::group::Start;
use sarit_proto::names::{READER_GROUP_PREFIX, ScopeName};
use sarit_proto::stream_cut::StreamCut;
use serde_json::json;

use crate::admin::{list, pages, say};
use crate::args::elastic::GroupVerb;
use crate::connect;
use crate::elastic::bytes_between;
use crate::exit::{Exit, Failure};
use crate::output::print_line;

/// Runs `sarit group`.
pub(crate) async fn run(verb: GroupVerb) -> anyhow::Result<()> {
    match verb {
        GroupVerb::List {
            scope,
            client: args,
        } => {
            let scope = ScopeName::new(scope)?;
            let client = connect(&args.controller)?;
            let controller = client.controller();
            let names = pages(async |from| controller.list_streams(&scope, from).await).await?;
            let groups = names
                .iter()
                .filter_map(|name| name.strip_prefix(READER_GROUP_PREFIX));
            let groups: Vec<String> = groups.map(str::to_owned).collect();
            list(&args, &groups)?;
        }
        GroupVerb::Describe {
            group,
            client: args,
        } => {
            let (scope, name) = group_name(&group)?;
            let client = connect(&args.controller)?;
            let found = client.group(&scope, &name).await?;
            let config = &found.config;
            if args.json {
                let positions = found.positions.iter();
                let positions =
                    positions.map(|(stream, cut)| (stream.to_string(), json!(cut.to_text())));
                let json = json!({
                    "group": group,
                    "streams": config.streams,
                    "readers": found.readers,
                    "generation": config.generation,
                    "checkpoint_interval_ms": config.checkpoint_interval_ms,
                    "refresh_ms": config.refresh_ms,
                    "retention": config.retention,
                    "positions": positions.collect::<serde_json::Map<_, _>>(),
                });
                return print_line(json);
            }
            print_line(format_args!(
                "group      {group}, generation {}",
                config.generation
            ))?;
            for stream in &config.streams {
                print_line(format_args!("stream     {stream}"))?;
            }
            for reader in &found.readers {
                print_line(format_args!("reader     {reader}"))?;
            }
            print_line(format_args!(
                "checkpoint every {} ms",
                config.checkpoint_interval_ms
            ))?;
            print_line(format_args!("retention  {}", config.retention))?;
            for cut in found.positions.values() {
                print_line(format_args!("position   {}", cut.to_text()))?;
            }
        }
        GroupVerb::Reset {
            group,
            to,
            client: args,
        } => {
            let (scope, name) = group_name(&group)?;
            let start = start(&to)?;
            let client = connect(&args.controller)?;
            let reset = client.reset_group(&scope, &name, &start).await?;
            let starts = reset.starts.iter();
            let starts = starts.map(|cut| (cut.stream.to_string(), json!(cut.to_text())));
            let json = json!({
                "group": group,
                "generation": reset.generation,
                "starts": starts.collect::<serde_json::Map<_, _>>(),
            });
            let sentence = format!(
                "reset reader group {group}, generation {}",
                reset.generation
            );
            say(&args, &sentence, &json)?;
        }
        GroupVerb::Lag {
            group,
            client: args,
        } => {
            let (scope, name) = group_name(&group)?;
            let client = connect(&args.controller)?;
            lag(&client, &scope, &name, &args).await?;
        }
    }
    Ok(())
}

async fn lag(
    client: &Client,
    scope: &ScopeName,
    name: &str,
    args: &crate::args::ClientArgs,
) -> anyhow::Result<()> {
    let found = client.group(scope, name).await?;
    for (stream, cut) in &found.positions {
        let tail = client.tail(stream).await?;
        let bytes = bytes_between(client, cut, &tail).await?;
        let json = json!({
            "stream": stream.to_string(),
            "bytes": bytes,
            "readers": found.readers.len(),
        });
        let readers = found.readers.len();
        say(
            args,
            &format!("{stream}: {bytes} bytes behind, {readers} readers"),
            &json,
        )?;
    }
    Ok(())
}

/// Reads where a group is to begin: one word, or cuts.
fn start(to: &[String]) -> anyhow::Result<Start> {
    match to {
        [word] if word == "head" => return Ok(Start::Head),
        [word] if word == "tail" => return Ok(Start::Tail),
        [word] if word == "checkpoint" => return Ok(Start::Checkpoint),
        _ => {}
    }
    let wrong = |text: &str, why: &str| {
        let hint = "take `head`, `tail`, `checkpoint`, or cuts printed by `sarit stream cut`";
        Failure::error(
            Exit::Usage,
            format!("{text:?} is no place to begin ({why}); {hint}"),
        )
    };
    let cuts = to.iter().map(|text| {
        let cut = StreamCut::from_text(text).map_err(|error| wrong(text, &error.to_string()))?;
        cut.ok_or_else(|| wrong(text, "it is unbounded"))
    });
    Ok(Start::Cuts(cuts.collect::<anyhow::Result<_>>()?))
}

/// Reads `SCOPE/GROUP`.
fn group_name(text: &str) -> anyhow::Result<(ScopeName, String)> {
    match text.split_once('/') {
        Some((scope, group)) if !group.is_empty() => Ok((ScopeName::new(scope)?, group.to_owned())),
        _ => Err(Failure::error(
            Exit::Usage,
            format!(
                "{text:?} names no reader group; write SCOPE/GROUP, for example demo/dashboard"
            ),
        )),
    }
}
