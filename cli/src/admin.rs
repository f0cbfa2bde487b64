//! `sarit scope` and `sarit stream`.

use std::collections::BTreeSet;

use anyhow::Context as _;
use sarit_client::Client;
use sarit_proto::names::{ScopeName, ScopedStream, StreamName};
use sarit_proto::policy::{RateUnit, RetentionPolicy, RetentionUnit, ScalingPolicy, StreamConfig};
use sarit_proto::stream_cut::{SegmentPosition, StreamCut};
use serde_json::{Value, json};

use crate::args::{ClientArgs, ScopeVerb, StreamOptions, StreamVerb};
use crate::connect;
use crate::elastic;
use crate::exit::{Exit, Failure};
use crate::output::print_line;

/// Reads `SCOPE/STREAM` as a user may name it.
pub(crate) fn stream_name(text: &str) -> anyhow::Result<ScopedStream> {
    let Some((scope, stream)) = text.split_once('/') else {
        let message =
            format!("{text:?} names no stream; write SCOPE/STREAM, for example demo/flights");
        return Err(Failure::error(Exit::Usage, message));
    };
    Ok(ScopedStream {
        scope: ScopeName::new(scope)?,
        stream: StreamName::new(stream)?,
    })
}

/// Reads a stream cut: `head`, `tail`, or its text.
pub(crate) async fn cut(
    client: &Client,
    stream: &ScopedStream,
    text: &str,
) -> anyhow::Result<StreamCut> {
    match text {
        "head" => Ok(client.controller().head(stream).await?),
        "tail" => Ok(client.tail(stream).await?),
        text => {
            let wrong = |why: String| {
                let hint = "take `head`, `tail`, or a cut printed by `sarit stream describe`";
                Failure::error(
                    Exit::Usage,
                    format!("{text:?} is no stream cut ({why}); {hint}"),
                )
            };
            let cut = StreamCut::from_text(text).map_err(|error| wrong(error.to_string()))?;
            let cut = cut.ok_or_else(|| wrong("it is unbounded".to_owned()))?;
            if cut.stream != *stream {
                return Err(wrong(format!("it is of {}", cut.stream)));
            }
            Ok(cut)
        }
    }
}

/// Prints what was done: a sentence for people, JSON for scripts.
pub(crate) fn say(client: &ClientArgs, sentence: &str, json: &Value) -> anyhow::Result<()> {
    if client.json {
        print_line(json)
    } else {
        print_line(sentence)
    }
}

/// Runs `sarit scope`.
pub(crate) async fn scope(verb: ScopeVerb) -> anyhow::Result<()> {
    match verb {
        ScopeVerb::Create {
            scope,
            client: args,
        } => {
            let scope = ScopeName::new(scope)?;
            if !connect(&args.controller)?
                .controller()
                .create_scope(&scope)
                .await?
            {
                return Err(Failure::error(
                    Exit::WrongState,
                    format!("scope {scope} exists already"),
                ));
            }
            say(
                &args,
                &format!("created scope {scope}"),
                &json!({ "scope": scope.as_str() }),
            )?;
        }
        ScopeVerb::List { client: args } => {
            let client = connect(&args.controller)?;
            let names = pages(async |from| client.controller().list_scopes(from).await).await?;
            list(&args, &names)?;
        }
        ScopeVerb::Describe {
            scope,
            client: args,
        } => {
            let scope = ScopeName::new(scope)?;
            let client = connect(&args.controller)?;
            let names = user_streams(&client, &scope, None).await?;
            let json = json!({ "scope": scope.as_str(), "streams": names.len() });
            say(
                &args,
                &format!("scope {scope}: {} streams", names.len()),
                &json,
            )?;
        }
        ScopeVerb::Delete {
            scope,
            recursive,
            client: args,
        } => {
            let scope = ScopeName::new(scope)?;
            let client = connect(&args.controller)?;
            let controller = client.controller();
            let was_there = if !recursive {
                controller.delete_scope(&scope).await?
            } else if controller.scope_exists(&scope).await? {
                controller.delete_scope_recursive(&scope).await?;
                true
            } else {
                false
            };
            if !was_there {
                return Err(Failure::error(
                    Exit::NotFound,
                    format!("scope {scope} does not exist"),
                ));
            }
            say(
                &args,
                &format!("deleted scope {scope}"),
                &json!({ "scope": scope.as_str() }),
            )?;
        }
    }
    Ok(())
}

/// Runs `sarit stream`.
pub(crate) async fn stream(verb: StreamVerb) -> anyhow::Result<()> {
    match verb {
        StreamVerb::Create {
            stream,
            segments,
            with_scope,
            options,
            client: args,
        } => {
            let stream = stream_name(&stream)?;
            let config = StreamConfig::fixed(segments);
            let mut config =
                config.map_err(|error| Failure::error(Exit::Usage, error.to_string()))?;
            configure(&mut config, options)?;
            let client = connect(&args.controller)?;
            if with_scope {
                client.controller().create_scope(&stream.scope).await?;
            }
            if !client.controller().create_stream(&stream, &config).await? {
                return Err(Failure::error(
                    Exit::WrongState,
                    format!("stream {stream} exists already"),
                ));
            }
            let json = json!({ "stream": stream.to_string(), "segments": segments });
            say(
                &args,
                &format!("created stream {stream} with {segments} segments"),
                &json,
            )?;
        }
        StreamVerb::List {
            scope,
            tag,
            client: args,
        } => {
            let scope = ScopeName::new(scope)?;
            let client = connect(&args.controller)?;
            list(&args, &user_streams(&client, &scope, tag.as_deref()).await?)?;
        }
        StreamVerb::Describe {
            stream,
            client: args,
        } => {
            describe(&stream_name(&stream)?, &args).await?;
        }
        StreamVerb::Update {
            stream,
            fixed,
            options,
            client: args,
        } => {
            let stream = stream_name(&stream)?;
            let client = connect(&args.controller)?;
            let mut config = client.controller().stream_config(&stream).await?;
            configure(&mut config, options)?;
            if fixed {
                let segments = client.controller().current_segments(&stream).await?.len();
                config.scaling = ScalingPolicy::fixed(u32::try_from(segments)?)?;
            }
            client.controller().update_stream(&stream, &config).await?;
            say(
                &args,
                &format!("updated stream {stream}"),
                &json!({ "stream": stream.to_string() }),
            )?;
        }
        StreamVerb::Truncate {
            stream,
            at,
            client: args,
        } => {
            let stream = stream_name(&stream)?;
            let client = connect(&args.controller)?;
            let cut = cut(&client, &stream, &at).await?;
            client.controller().truncate_stream(&cut).await?;
            let json = json!({ "stream": stream.to_string(), "head": cut.to_text() });
            say(&args, &format!("truncated stream {stream}"), &json)?;
        }
        StreamVerb::Split(args) => elastic::split(args).await?,
        StreamVerb::Merge(args) => elastic::merge(args).await?,
        StreamVerb::Scale(args) => elastic::scale(args).await?,
        StreamVerb::Epochs(args) => elastic::epochs(args).await?,
        StreamVerb::Cut(args) => elastic::show_cut(args).await?,
        StreamVerb::Retention(args) => elastic::retention(args).await?,
        StreamVerb::Seal {
            stream,
            client: args,
        } => {
            let stream = stream_name(&stream)?;
            connect(&args.controller)?
                .controller()
                .seal_stream(&stream)
                .await?;
            say(
                &args,
                &format!("sealed stream {stream}"),
                &json!({ "stream": stream.to_string() }),
            )?;
        }
        StreamVerb::Delete {
            stream,
            seal,
            client: args,
        } => {
            let stream = stream_name(&stream)?;
            let client = connect(&args.controller)?;
            if seal {
                client.controller().seal_stream(&stream).await?;
            }
            if !client.controller().delete_stream(&stream).await? {
                return Err(Failure::error(
                    Exit::NotFound,
                    format!("stream {stream} does not exist"),
                ));
            }
            say(
                &args,
                &format!("deleted stream {stream}"),
                &json!({ "stream": stream.to_string() }),
            )?;
        }
    }
    Ok(())
}

fn configure(config: &mut StreamConfig, options: StreamOptions) -> anyhow::Result<()> {
    let usage = |error: &dyn std::fmt::Display| Failure::error(Exit::Usage, error.to_string());
    if !options.tags.is_empty() {
        let tags: BTreeSet<String> = options.tags.into_iter().collect();
        StreamConfig::check_tags(&tags).map_err(|error| usage(&error))?;
        config.tags = tags;
    }
    let now = match config.scaling {
        ScalingPolicy::ByRate {
            unit,
            target,
            factor,
            ..
        } => Some((unit, target, factor)),
        ScalingPolicy::Fixed { .. } => None,
    };
    let rate = match (options.events_per_second, options.kib_per_second) {
        (Some(events), _) => Some((RateUnit::Events, events)),
        (_, Some(kib)) => Some((RateUnit::Kilobytes, kib)),
        (None, None) => None,
    };
    let (factor, rate_now) = (
        options.scale_factor,
        now.map(|(unit, target, _)| (unit, target)),
    );
    if rate.is_some() || factor.is_some() {
        let without = "--scale-factor needs --events-per-second or --kib-per-second";
        let (unit, target) = rate.or(rate_now).ok_or_else(|| usage(&without))?;
        let factor = factor.or(now.map(|(.., factor)| factor)).unwrap_or(2);
        let segments_min = config.scaling.segments_min();
        let policy = ScalingPolicy::by_rate(unit, target, factor, segments_min);
        config.scaling = policy.map_err(|error| usage(&error))?;
    }
    let retain = match (options.retain_ms, options.retain_bytes) {
        (Some(ms), _) => Some((RetentionUnit::Milliseconds, ms)),
        (_, Some(bytes)) => Some((RetentionUnit::Bytes, bytes)),
        (None, None) => None,
    };
    if let Some((unit, min)) = retain {
        let now = config.retention.filter(|now| now.unit() == unit);
        let max = now.and_then(RetentionPolicy::max);
        let policy = RetentionPolicy::new(unit, min, max).map_err(|error| usage(&error))?;
        config.retention = Some(policy);
    }
    Ok(())
}

async fn describe(stream: &ScopedStream, args: &ClientArgs) -> anyhow::Result<()> {
    let client = connect(&args.controller)?;
    let config = client.controller().stream_config(stream).await?;
    let owners = client.controller().current_segments(stream).await?;
    let head = client.controller().head(stream).await?;
    let tail = client.tail(stream).await?;
    let at = |cut: &StreamCut, segment| match cut.positions.get(&segment) {
        Some(SegmentPosition::At(offset)) => offset.0,
        _ => 0,
    };
    let mut segments = Vec::new();
    for owner in &owners {
        let (start, end) = (at(&head, owner.segment), at(&tail, owner.segment));
        segments.push(json!({
            "segment": owner.segment.to_string(),
            "keys": owner.keys.to_string(),
            "start": start,
            "end": end,
        }));
    }
    let tags: Vec<_> = config.tags.iter().collect();
    if args.json {
        let json = json!({
            "stream": stream.to_string(),
            "sealed": owners.is_empty(),
            "tags": tags,
            "scaling": scaling_json(config.scaling),
            "segments": segments,
            "head": head.to_text(),
            "tail": tail.to_text(),
        });
        return print_line(json);
    }
    print_line(format_args!(
        "stream  {stream}{}",
        if owners.is_empty() { ", sealed" } else { "" }
    ))?;
    for tag in tags {
        print_line(format_args!("tag     {tag}"))?;
    }
    if let ScalingPolicy::ByRate {
        unit,
        target,
        factor,
        segments_min,
    } = config.scaling
    {
        print_line(format_args!(
            "scaling {target} {} a second in each segment, split in {} at most, at least {segments_min} segments",
            unit_name(unit),
            factor.max(2)
        ))?;
    }
    if let Some(retention) = &config.retention {
        print_line(format_args!(
            "retain  at least {} {:?}",
            retention.min(),
            retention.unit()
        ))?;
    }
    for segment in &segments {
        let part = |name: &str| segment[name].as_str().unwrap_or_default().to_owned();
        print_line(format_args!(
            "segment {:<14} keys {:<20} bytes {}..{}",
            part("segment"),
            part("keys"),
            segment["start"],
            segment["end"]
        ))?;
    }
    print_line(format_args!("head    {}", head.to_text()))?;
    print_line(format_args!("tail    {}", tail.to_text()))
}

fn unit_name(unit: RateUnit) -> &'static str {
    match unit {
        RateUnit::Kilobytes => "KiB",
        RateUnit::Events => "events",
    }
}

fn scaling_json(policy: ScalingPolicy) -> serde_json::Value {
    match policy {
        ScalingPolicy::Fixed { segments } => json!({ "by": "hand", "segments": segments }),
        ScalingPolicy::ByRate {
            unit,
            target,
            factor,
            segments_min,
        } => json!({
            "by": unit_name(unit),
            "per_second": target,
            "factor": factor,
            "segments_min": segments_min,
        }),
    }
}

/// All of a scope's streams but the internal ones.
pub(crate) async fn user_streams(
    client: &Client,
    scope: &ScopeName,
    tag: Option<&str>,
) -> anyhow::Result<Vec<String>> {
    let controller = client.controller();
    let mut names = pages(async |from| match tag {
        Some(tag) => controller.list_streams_with_tag(scope, tag, from).await,
        None => controller.list_streams(scope, from).await,
    })
    .await?;
    names.retain(|name| !name.starts_with('_'));
    Ok(names)
}

pub(crate) async fn pages(
    mut page: impl AsyncFnMut(
        &str,
    )
        -> Result<sarit_client::controller::Listing<String>, sarit_client::Error>,
) -> anyhow::Result<Vec<String>> {
    let (mut names, mut from) = (Vec::new(), String::new());
    loop {
        let listing = page(&from).await.context("list")?;
        if listing.names.is_empty() {
            return Ok(names);
        }
        names.extend(listing.names);
        from = listing.next;
    }
}

pub(crate) fn list(args: &ClientArgs, names: &[String]) -> anyhow::Result<()> {
    if args.json {
        return print_line(json!(names));
    }
    names.iter().try_for_each(print_line)
}
