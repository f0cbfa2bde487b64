//! `sarit stream split|merge|scale|epochs|cut|retention`: streams whose segments change.

use std::collections::BTreeMap;

use anyhow::Context as _;
use sarit_client::event::Owner;
use sarit_client::{Client, Error};
use sarit_proto::ids::SegmentId;
use sarit_proto::key_range::{KeyRange, union};
use sarit_proto::names::ScopedStream;
use sarit_proto::policy::{RetentionPolicy, RetentionUnit};
use sarit_proto::stream_cut::{SegmentPosition, StreamCut};
use serde_json::{Value, json};

use crate::admin::{cut, say, stream_name};
use crate::args::{ClientArgs, elastic};
use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::print_line;

fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::error(Exit::Usage, message)
}

/// Runs `sarit stream split`.
pub(crate) async fn split(args: elastic::Split) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    let client = connect(&args.client.controller)?;
    let owners = open_segments(&client, &stream).await?;
    let owner = match (&args.segment, owners.as_slice()) {
        (Some(text), _) => find(&owners, text)?,
        (None, [only]) => *only,
        (None, several) => {
            let message = format!("{stream} has {} segments; name one: ", several.len());
            return Err(usage(message + &names(&owners)));
        }
    };
    let keys = match args.parts {
        0 | 1 => None,
        parts => owner.keys.split(parts as usize),
    };
    let keys = keys.ok_or_else(|| {
        let message = format!("cannot split {} into {} parts", owner.segment, args.parts);
        usage(format!(
            "{message}: take 2 or more, and not more than it has keys"
        ))
    })?;
    replace(&client, &stream, &[owner], &keys, &args.client).await
}

/// Runs `sarit stream merge`.
pub(crate) async fn merge(args: elastic::Merge) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    let client = connect(&args.client.controller)?;
    let owners = open_segments(&client, &stream).await?;
    let merged = args.segments.iter().map(|text| find(&owners, text));
    let merged = merged.collect::<anyhow::Result<Vec<_>>>()?;
    let keys: Vec<KeyRange> = merged.iter().map(|owner| owner.keys).collect();
    match union(&keys).as_deref() {
        Some([keys]) => replace(&client, &stream, &merged, &[*keys], &args.client).await,
        Some(_) => Err(usage(format!(
            "the keys of {} do not lie side by side; look at `sarit stream describe {stream}`",
            args.segments.join(", ")
        ))),
        None => Err(usage("a segment is named twice")),
    }
}

/// Runs `sarit stream scale`.
pub(crate) async fn scale(args: elastic::Scale) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    let client = connect(&args.client.controller)?;
    let owners = open_segments(&client, &stream).await?;
    let wanted = match args.segments {
        0 => None,
        segments => KeyRange::FULL.split(segments as usize),
    };
    let wanted = wanted.ok_or_else(|| {
        usage(format!(
            "a stream cannot have {} segments; take 1 or more",
            args.segments
        ))
    })?;
    let (old, new) = difference(&owners, &wanted);
    replace(&client, &stream, &old, &new, &args.client).await
}

/// Leaves out what is there and wanted. Both sides cover the same keys.
fn difference(owners: &[Owner], wanted: &[KeyRange]) -> (Vec<Owner>, Vec<KeyRange>) {
    let old = owners.iter().filter(|owner| !wanted.contains(&owner.keys));
    let new = wanted
        .iter()
        .filter(|keys| owners.iter().all(|owner| owner.keys != **keys));
    (old.copied().collect(), new.copied().collect())
}

async fn replace(
    client: &Client,
    stream: &ScopedStream,
    old: &[Owner],
    new: &[KeyRange],
    args: &ClientArgs,
) -> anyhow::Result<()> {
    if old.is_empty() {
        return say(
            args,
            &format!("{stream} is like that already"),
            &json!({ "stream": stream.to_string(), "changed": false }),
        );
    }
    let sealed: Vec<SegmentId> = old.iter().map(|owner| owner.segment).collect();
    let scaling = client.controller().scale(stream, &sealed, new).await?;
    client
        .controller()
        .wait_scaled(stream, scaling.epoch)
        .await?;
    let created = scaling.segments.iter();
    let created: Vec<_> = created.map(|owner| owner.segment.to_string()).collect();
    let sealed: Vec<_> = sealed.iter().map(ToString::to_string).collect();
    let json = json!({
        "stream": stream.to_string(),
        "changed": true,
        "epoch": scaling.epoch + 1,
        "sealed": sealed,
        "created": created,
    });
    let sentence = format!(
        "{stream}: {} replaced by {} in epoch {}",
        sealed.join(", "),
        created.join(", "),
        scaling.epoch + 1
    );
    say(args, &sentence, &json)
}

async fn open_segments(client: &Client, stream: &ScopedStream) -> anyhow::Result<Vec<Owner>> {
    let owners = client.controller().current_segments(stream).await?;
    if owners.is_empty() {
        return Err(Error::StreamSealed(stream.to_string()).into());
    }
    Ok(owners)
}

/// Finds a segment by its name's end, `4.#epoch.1`, or its number, `4`.
fn find(owners: &[Owner], text: &str) -> anyhow::Result<Owner> {
    let mut found = owners.iter().filter(|owner| {
        let id = owner.segment;
        id.to_string() == text || text.parse() == Ok(id.number())
    });
    match (found.next(), found.next()) {
        (Some(owner), None) => Ok(*owner),
        (None, _) => Err(Failure::error(
            Exit::NotFound,
            format!(
                "no segment {text} takes events now; there are: {}",
                names(owners)
            ),
        )),
        (Some(_), Some(_)) => Err(usage(format!(
            "{text} names two segments; there are: {}",
            names(owners)
        ))),
    }
}

fn names(owners: &[Owner]) -> String {
    let names = owners.iter().map(|owner| owner.segment.to_string());
    names.collect::<Vec<_>>().join(", ")
}

/// Runs `sarit stream epochs`.
pub(crate) async fn epochs(args: elastic::Epochs) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    let client = connect(&args.client.controller)?;
    let last = client.controller().last_epoch(&stream).await?;
    let count = i32::try_from(args.last.max(1)).unwrap_or(i32::MAX);
    for epoch in last.saturating_sub(count - 1).max(0)..=last {
        let owners = client.controller().epoch_segments(&stream, epoch).await?;
        let segments: Vec<Value> = owners
            .iter()
            .map(|owner| {
                json!({
                    "segment": owner.segment.to_string(),
                    "keys": owner.keys.to_string(),
                    "new": owner.segment.epoch() == epoch,
                })
            })
            .collect();
        if args.client.json {
            print_line(json!({ "epoch": epoch, "segments": segments }))?;
            continue;
        }
        print_line(format_args!("epoch {epoch}: {} segments", owners.len()))?;
        for owner in owners {
            let new = if owner.segment.epoch() == epoch {
                "+"
            } else {
                " "
            };
            print_line(format_args!(
                "  {new} {:<14} keys {}",
                owner.segment.to_string(),
                owner.keys
            ))?;
        }
    }
    Ok(())
}

/// Runs `sarit stream cut`.
pub(crate) async fn show_cut(args: elastic::Cut) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    let client = connect(&args.client.controller)?;
    let to = cut(&client, &stream, &args.at).await?;
    let bytes = match &args.since {
        Some(since) => {
            let since = cut(&client, &stream, since).await?;
            Some(bytes_between(&client, &since, &to).await?)
        }
        None => None,
    };
    let text = to.to_text();
    if args.client.json {
        return print_line(json!({ "cut": text, "bytes": bytes }));
    }
    print_line(text)?;
    if let Some(bytes) = bytes {
        print_line(format_args!("{bytes} bytes"))?;
    }
    Ok(())
}

/// Counts the bytes that lie between two cuts and are still there.
pub(crate) async fn bytes_between(
    client: &Client,
    from: &StreamCut,
    to: &StreamCut,
) -> anyhow::Result<u64> {
    let segments = client.controller().segments_between(from, Some(to)).await?;
    let mut bytes = 0;
    for segment in segments {
        let start = match from.positions.get(&segment) {
            Some(SegmentPosition::At(offset)) => offset.0,
            Some(SegmentPosition::End) => continue,
            None => 0,
        };
        let name = from.stream.segment(segment).to_string();
        let info = match client.segments().info(&name).await {
            // It lies before the head.
            Err(Error::NoSuchSegment(_)) => continue,
            info => info?,
        };
        let end = match to.positions.get(&segment) {
            Some(SegmentPosition::At(offset)) => offset.0,
            Some(SegmentPosition::End) | None => info.length.0,
        };
        bytes += end.saturating_sub(start.max(info.start.0));
    }
    Ok(bytes)
}

/// Runs `sarit stream retention`.
pub(crate) async fn retention(args: elastic::Retention) -> anyhow::Result<()> {
    let stream = stream_name(&args.stream)?;
    let client = connect(&args.client.controller)?;
    let mut config = client.controller().stream_config(&stream).await?;
    let wanted = match (args.min_ms, args.min_bytes) {
        (Some(min), _) => Some((RetentionUnit::Milliseconds, min, args.max_ms)),
        (_, Some(min)) => Some((RetentionUnit::Bytes, min, args.max_bytes)),
        (None, None) => None,
    };
    if let Some((unit, min, max)) = wanted {
        let policy = RetentionPolicy::new(unit, min, max);
        config.retention = Some(policy.map_err(|error| usage(error.to_string()))?);
    }
    if args.none {
        config.retention = None;
    }
    if wanted.is_some() || args.none {
        let updated = client.controller().update_stream(&stream, &config).await;
        updated.context("change how much is kept")?;
    }
    let unit = |unit| match unit {
        RetentionUnit::Milliseconds => "ms",
        RetentionUnit::Bytes => "bytes",
    };
    let json = match &config.retention {
        Some(policy) => {
            json!({ "unit": unit(policy.unit()), "min": policy.min(), "max": policy.max() })
        }
        None => Value::Null,
    };
    let sentence = match &config.retention {
        Some(policy) => {
            let most = policy.max().map(|max| format!(", at most {max}"));
            format!(
                "{stream} keeps at least {}{} {}",
                policy.min(),
                most.unwrap_or_default(),
                unit(policy.unit())
            )
        }
        None => format!("{stream} keeps everything"),
    };
    let json = BTreeMap::from([
        ("stream", Value::from(stream.to_string())),
        ("retention", json),
    ]);
    say(&args.client, &sentence, &json!(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: i32, start: f64, end: f64) -> Owner {
        Owner {
            segment: SegmentId::new(3, number),
            keys: KeyRange::from_f64(start, end).expect("a range"),
        }
    }

    #[test]
    fn what_is_right_already_stays() {
        let owners = [owner(1, 0.0, 0.5), owner(2, 0.5, 0.75), owner(3, 0.75, 1.0)];
        let wanted = KeyRange::FULL.split(2).expect("halves");
        let (old, new) = difference(&owners, &wanted);
        assert_eq!(old, owners[1..]);
        assert_eq!(new, wanted[1..]);
        let quarters = KeyRange::FULL.split(4).expect("quarters");
        let (old, new) = difference(&owners, &quarters);
        assert_eq!(old, owners[..1]);
        assert_eq!(new, quarters[..2]);
    }

    #[test]
    fn a_segment_is_found_by_number_or_name_and_never_guessed() {
        let owners = [owner(1, 0.0, 0.5), owner(12, 0.5, 1.0)];
        assert_eq!(find(&owners, "12").expect("it is there"), owners[1]);
        assert_eq!(find(&owners, "1.#epoch.3").expect("it is there"), owners[0]);
        let error = find(&owners, "1.#epoch.2").expect_err("another epoch");
        assert!(error.to_string().contains("12.#epoch.3"), "{error}");
        let duplicates = [owner(1, 0.0, 0.5), owner(1, 0.5, 1.0)];
        assert!(find(&duplicates, "1").is_err());
    }
}
