//! `sarit admin packs` and `sarit admin fsck`: what long-term storage holds, read as it lies there. No
//! server is needed, and none is disturbed: objects never change.

use std::path::Path;

use anyhow::Context as _;
use sarit_storage::{BLOCK_BYTES, Blocks, Config, PackName, Run, Store, StoreError};
use serde_json::json;

use crate::args::{AdminVerb, PacksVerb, StorageArgs};
use crate::exit::{Exit, Failure};

/// Bytes read at once.
const READ_BYTES: u64 = 4 * BLOCK_BYTES;

/// Runs `sarit admin`.
pub(crate) async fn admin(verb: AdminVerb) -> anyhow::Result<()> {
    match verb {
        AdminVerb::Packs { verb } => match verb {
            PacksVerb::Show { storage, container } => show(&storage, container).await,
            PacksVerb::Dump { pack, storage } => dump(&storage, &pack).await,
        },
        AdminVerb::Metadata { verb } => crate::metadata::run(verb).await,
        AdminVerb::Fsck { storage, container } => fsck(&storage, container).await,
    }
}

fn open(args: &StorageArgs) -> anyhow::Result<Store> {
    let config = Config {
        url: args.storage.clone(),
        ..Config::default()
    };
    // Either the directory of a store, or that of a standalone server.
    let nested = args.data.join("segmentstore");
    let dir: &Path = if nested.is_dir() { &nested } else { &args.data };
    Store::open(&config, dir).context("open long-term storage")
}

async fn listed(store: &Store, container: Option<u32>) -> anyhow::Result<Vec<(PackName, u64)>> {
    let mut packs = match container {
        Some(container) => store.list(container).await?,
        None => store.list_all().await?,
    };
    packs.sort_unstable();
    Ok(packs)
}

async fn show(args: &StorageArgs, container: Option<u32>) -> anyhow::Result<()> {
    let store = open(args)?;
    let (mut count, mut bytes) = (0_u64, 0);
    for (name, len) in listed(&store, container).await? {
        let (_, footer, index) = store.index(name).await?;
        count += 1;
        bytes += len;
        // The last run is the table of checksums.
        let runs = index.runs().len() - 1;
        let kind = format!("{:?}", footer.kind).to_lowercase();
        if args.json {
            let line =
                json!({ "pack": name.to_string(), "bytes": len, "kind": kind, "runs": runs });
            println!("{line}");
        } else {
            println!("{name}  {len:>10} bytes  {kind:<9}  {runs} runs");
        }
    }
    if !args.json {
        println!("{count} packs, {bytes} bytes");
    }
    Ok(())
}

async fn dump(args: &StorageArgs, pack: &str) -> anyhow::Result<()> {
    let name: PackName = pack.parse().map_err(|_| {
        let message =
            format!("{pack:?} is no pack; take a name that `sarit admin packs show` prints");
        Failure::error(Exit::Usage, message)
    })?;
    let store = open(args)?;
    let found = store.index(name).await;
    let (len, footer, index) = match found {
        Err(error @ StoreError::Missing(_)) => {
            return Err(Failure::error(Exit::NotFound, error.to_string()));
        }
        found => found?,
    };
    if !args.json {
        println!(
            "{name}: {len} bytes, {:?}, operations {} to {}",
            footer.kind, footer.first_seq, footer.last_seq
        );
    }
    for run in index.runs() {
        let Run {
            segment,
            offset,
            pos,
            len,
            crc,
        } = *run;
        if args.json {
            let line = json!({ "segment": segment, "offset": offset, "position": pos, "bytes": len, "crc": crc });
            println!("{line}");
        } else if segment == u64::MAX {
            println!("checksums of blocks   at {pos:>10}  {len:>9} bytes");
        } else {
            println!(
                "segment {segment:>8} from {offset:>12} at {pos:>10}  {len:>9} bytes  crc {crc:08x}"
            );
        }
    }
    Ok(())
}

/// Reads every byte of every pack and checks it.
async fn fsck(args: &StorageArgs, container: Option<u32>) -> anyhow::Result<()> {
    let store = open(args)?;
    let (mut count, mut bytes, mut damaged) = (0_u64, 0, 0_u64);
    for (name, len) in listed(&store, container).await? {
        count += 1;
        bytes += len;
        match check(&store, name).await {
            Ok(()) => {}
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(error) => {
                damaged += 1;
                println!("{name}: {error}");
            }
        }
    }
    if args.json {
        println!(
            "{}",
            json!({ "packs": count, "bytes": bytes, "damaged": damaged })
        );
    } else {
        println!("{count} packs with {bytes} bytes read, {damaged} damaged");
    }
    if damaged > 0 {
        let message = format!("{damaged} of {count} packs are damaged");
        return Err(Failure::error(Exit::Failed, message));
    }
    Ok(())
}

async fn check(store: &Store, name: PackName) -> Result<(), StoreError> {
    let (_, _, index) = store.index(name).await?;
    let blocks: Blocks = store.blocks(name).await?;
    let (mut block, mut at) = (0, 0);
    let mut runs = index.runs().iter().peekable();
    let mut buffered: Vec<u8> = Vec::new();
    while block < blocks.len() {
        let start = blocks.range(block).start;
        let last = (block + (READ_BYTES / BLOCK_BYTES) as u32).min(blocks.len()) - 1;
        let bytes = store.read(name, start..blocks.range(last).end).await?;
        for number in block..=last {
            let range = blocks.range(number);
            let place = (range.start - start) as usize..(range.end - start) as usize;
            blocks.check(number, &bytes[place])?;
        }
        block = last + 1;
        buffered.extend_from_slice(&bytes);
        while let Some(run) = runs.peek()
            && run.segment != u64::MAX
            && run.range().end <= at + buffered.len() as u64
        {
            let len = run.len as usize;
            run.check(name, &buffered[..len])?;
            buffered.drain(..len);
            at += len as u64;
            runs.next();
        }
    }
    Ok(())
}
