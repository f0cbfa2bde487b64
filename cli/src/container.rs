//! `sarit admin container` and `sarit admin recover-from-storage`: a segment store's data directory while
//! no server runs on it.

use std::path::Path;

use anyhow::Context as _;
use sarit_container::{CheckpointReport, Damaged, Kind, PackReport, SegmentReport};
use sarit_segmentstore::{Config, Offline};
use serde_json::{Value, json};

use crate::args::{ContainerVerb, StorageArgs};
use crate::exit::{Exit, Failure};
use crate::output::print_line;
use crate::packs::directory;

/// Runs `sarit admin container`.
pub(crate) async fn run(verb: ContainerVerb) -> anyhow::Result<()> {
    match verb {
        ContainerVerb::Show {
            container,
            data,
            json,
        } => show(&data, container, json).await,
    }
}

async fn show(data: &Path, container: u32, json: bool) -> anyhow::Result<()> {
    let dir = directory(data);
    let offline = Offline::open(&dir).await?;
    let offline = offline.ok_or_else(|| {
        let message = format!("{} is no segment store's data directory", dir.display());
        Failure::error(Exit::NotFound, message)
    })?;
    let all = offline.containers();
    if !all.contains(&container) {
        let message = format!("there is no container {container} here, they are {all:?}");
        return Err(Failure::error(Exit::NotFound, message));
    }
    let log = offline.log(container).await?;
    let index = offline.index(container).await?;
    let checkpoint = index.checkpoint().await?;
    let packs = index.packs().await?;
    let (epoch, from) = (log.epoch.0, log.truncated_at.0);
    if json {
        let pieces = log.loglets.iter();
        let pieces: Vec<_> = pieces
            .map(|piece| json!({ "first": piece.first.0, "last": piece.end.map(|end| end.0) }))
            .collect();
        let line = json!({
            "container": container,
            "checkpoint": checkpoint.map(checkpoint_json),
            "log": { "epoch": epoch, "from_frame": from, "pieces": pieces },
            "packs": packs.len(),
        });
        print_line(line)?;
    } else {
        match checkpoint {
            Some(checkpoint) => print_line(format_args!(
                "container {container}: checkpoint of frame {}, {} segments, next number {}, next operation {}",
                checkpoint.frame,
                checkpoint.segments,
                checkpoint.next_segment,
                checkpoint.next_operation
            ))?,
            None => print_line(format_args!("container {container}: no checkpoint yet"))?,
        }
        print_line(format_args!(
            "log: epoch {epoch}, from frame {from}, in {} pieces",
            log.loglets.len()
        ))?;
        for piece in &log.loglets {
            match piece.end {
                Some(end) => print_line(format_args!("  frames {} to {}", piece.first.0, end.0))?,
                None => print_line(format_args!(
                    "  frames from {}, not ended in order",
                    piece.first.0
                ))?,
            }
        }
        print_line(format_args!("{} packs", packs.len()))?;
    }
    for PackReport { pack, live, size } in packs {
        let name = pack.name(container)?;
        if json {
            print_line(json!({ "pack": name.to_string(), "in_use": live, "bytes": size }))?;
        } else {
            print_line(format_args!("  {name}  {live} of {size} bytes in use"))?;
        }
    }
    for number in index.segments().await? {
        let Some(segment) = index.segment(number).await? else {
            continue;
        };
        if json {
            print_line(segment_json(&segment))?;
        } else {
            print_line(segment_line(&segment))?;
        }
    }
    index.close().await;
    Ok(())
}

fn checkpoint_json(checkpoint: CheckpointReport) -> Value {
    json!({
        "frame": checkpoint.frame,
        "segments": checkpoint.segments,
        "next_segment": checkpoint.next_segment,
        "next_operation": checkpoint.next_operation,
    })
}

fn segment_json(segment: &SegmentReport) -> Value {
    json!({
        "segment": segment.number,
        "name": segment.name,
        "table": matches!(segment.kind, Kind::Table { .. }),
        "start": segment.start,
        "length": segment.length,
        "sealed": segment.sealed,
        "extents": segment.extents,
        "in_packs": segment.in_packs,
        "in_log": segment.in_log,
        "attributes": segment.attributes,
        "entries": segment.entries,
    })
}

fn segment_line(segment: &SegmentReport) -> String {
    let SegmentReport {
        number,
        name,
        kind,
        start,
        length,
        sealed,
        extents,
        in_packs,
        in_log,
        attributes,
        entries,
    } = segment;
    let sealed = if *sealed { ", sealed" } else { "" };
    if let Kind::Table { .. } = kind {
        return format!("segment {number} {name}: table, {entries} entries{sealed}");
    }
    format!(
        "segment {number} {name}: bytes {start}..{length}, {in_packs} in packs, {in_log} in the log, \
         {extents} extents, {attributes} attributes{sealed}"
    )
}

/// Runs `sarit admin recover-from-storage`.
pub(crate) async fn recover(args: &StorageArgs, damaged: Damaged) -> anyhow::Result<()> {
    let config = Config {
        data: directory(&args.data),
        storage: sarit_storage::Config {
            url: args.storage.clone(),
            ..sarit_storage::Config::default()
        },
        ..Config::default()
    };
    let found = sarit_segmentstore::recover_from_storage(&config, damaged).await;
    let found = found.with_context(|| format!("recover {}", config.data.display()))?;
    if !args.json {
        print_line(format_args!("made anew: {}", config.data.display()))?;
    }
    for (container, rebuilt) in &found {
        if args.json {
            let line = json!({
                "directory": config.data.display().to_string(),
                "container": container.0,
                "segments": rebuilt.segments,
                "bytes": rebuilt.bytes,
                "newer_bytes": rebuilt.newer_bytes,
                "shortened": rebuilt.shortened,
                "nameless": rebuilt.nameless,
                "nameless_bytes": rebuilt.nameless_bytes,
                "packs": rebuilt.packs,
                "epoch": rebuilt.epoch,
                "skipped": rebuilt.skipped,
            });
            print_line(line)?;
            continue;
        }
        print_line(format_args!(
            "container {container}: {} segments with {} bytes from {} packs, {} of these bytes newer than the \
             copy of the index",
            rebuilt.segments, rebuilt.bytes, rebuilt.packs, rebuilt.newer_bytes
        ))?;
        for skipped in &rebuilt.skipped {
            print_line(format_args!("  left out: {skipped}"))?;
        }
        if rebuilt.shortened > 0 {
            print_line(format_args!(
                "  {} segments are shorter than they were: the rest lay in the log only",
                rebuilt.shortened
            ))?;
        }
        if rebuilt.nameless > 0 {
            print_line(format_args!(
                "  {} segments with {} bytes are lost: they were created after that copy, nobody knows \
                 their names",
                rebuilt.nameless, rebuilt.nameless_bytes
            ))?;
        }
    }
    Ok(())
}
