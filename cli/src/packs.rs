//! `sarit admin packs` and `sarit admin fsck`: what long-term storage holds, read as it lies there. No
//! server is needed, and none is disturbed: objects never change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sarit_container::{Damaged, Reference};
use sarit_segmentstore::Offline;
use sarit_storage::{BLOCK_BYTES, Blocks, Config, PackName, Run, Store, StoreError};
use serde_json::json;

use crate::args::{AdminVerb, PacksVerb, StorageArgs};
use crate::exit::{Exit, Failure};
use crate::output::{complain, print_line};

/// Bytes read at once.
const READ_BYTES: u64 = 4 * BLOCK_BYTES;
/// Wrong references of a container that are printed; all are counted.
const WRONG_MAX: usize = 20;

/// Runs `sarit admin`.
pub(crate) async fn admin(verb: AdminVerb) -> anyhow::Result<()> {
    match verb {
        AdminVerb::Packs { verb } => match verb {
            PacksVerb::Show { storage, container } => show(&storage, container).await,
            PacksVerb::Dump { pack, storage } => dump(&storage, &pack).await,
        },
        AdminVerb::Metadata { verb } => crate::metadata::run(verb).await,
        AdminVerb::Container { verb } => crate::container::run(verb).await,
        AdminVerb::RecoverFromStorage {
            storage,
            skip_damaged,
        } => {
            let damaged = if skip_damaged {
                Damaged::Skip
            } else {
                Damaged::Refuse
            };
            crate::container::recover(&storage, damaged).await
        }
        AdminVerb::Fsck { storage, container } => fsck(&storage, container).await,
    }
}

fn open(args: &StorageArgs) -> anyhow::Result<Store> {
    let config = Config {
        url: args.storage.clone(),
        ..Config::default()
    };
    Store::open(&config, &directory(&args.data)).context("open long-term storage")
}

/// Either the directory of a store, or that of a standalone server.
pub(crate) fn directory(data: &Path) -> PathBuf {
    let nested = data.join("segmentstore");
    if nested.is_dir() || data.join("controller").is_dir() {
        nested
    } else {
        data.to_owned()
    }
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
        let (_, footer, index) = match store.index(name).await {
            // A server has deleted it since it was listed.
            Err(StoreError::Missing(_)) => continue,
            found => found?,
        };
        count += 1;
        bytes += len;
        // The last run is the table of checksums.
        let runs = index.runs().len() - 1;
        let kind = format!("{:?}", footer.kind).to_lowercase();
        if args.json {
            let line =
                json!({ "pack": name.to_string(), "bytes": len, "kind": kind, "runs": runs });
            print_line(line)?;
        } else {
            print_line(format_args!(
                "{name}  {len:>10} bytes  {kind:<9}  {runs} runs"
            ))?;
        }
    }
    if !args.json {
        print_line(format_args!("{count} packs, {bytes} bytes"))?;
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
        print_line(format_args!(
            "{name}: {len} bytes, {:?}, operations {} to {}",
            footer.kind, footer.first_seq, footer.last_seq
        ))?;
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
            print_line(line)?;
        } else if segment == u64::MAX {
            print_line(format_args!(
                "checksums of blocks   at {pos:>10}  {len:>9} bytes"
            ))?;
        } else {
            print_line(format_args!(
                "segment {segment:>8} from {offset:>12} at {pos:>10}  {len:>9} bytes  crc {crc:08x}"
            ))?;
        }
    }
    Ok(())
}

/// Reads every byte of every pack and checks it, then what the index says of them.
async fn fsck(args: &StorageArgs, container: Option<u32>) -> anyhow::Result<()> {
    let store = open(args)?;
    let (mut count, mut bytes, mut damaged) = (0_u64, 0, 0_u64);
    let mut packs = BTreeMap::new();
    for (name, len) in listed(&store, container).await? {
        let checked = check(&store, name).await;
        // A server has deleted it since it was listed; if an index still refers to it, it is missed below.
        if let Err(StoreError::Missing(_)) = checked {
            continue;
        }
        count += 1;
        bytes += len;
        match checked {
            Ok(end) => {
                packs.insert(name, Some(end));
            }
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(error) => {
                damaged += 1;
                packs.insert(name, None);
                if args.json {
                    let error = error.to_string();
                    print_line(json!({ "pack": name.to_string(), "error": error }))?;
                } else {
                    print_line(format_args!("{name}: {error}"))?;
                }
            }
        }
    }
    let references = references(args, container, &packs).await?;
    if args.json {
        print_line(
            json!({ "packs": count, "bytes": bytes, "damaged": damaged, "references": references.as_ref().map(References::json) }),
        )?;
    } else {
        print_line(format_args!(
            "{count} packs with {bytes} bytes read, {damaged} damaged"
        ))?;
        match &references {
            Some(found) => print_line(found)?,
            None => print_line(format_args!(
                "what refers to packs was not compared: no index can be opened in {}",
                directory(&args.data).display()
            ))?,
        }
    }
    if damaged > 0 {
        let message = format!("{damaged} of {count} packs are damaged");
        return Err(Failure::error(Exit::Failed, message));
    }
    if let Some(found) = references
        && found.missing + found.beyond > 0
    {
        let message = "the index refers to what is not there";
        return Err(Failure::error(Exit::Failed, message));
    }
    Ok(())
}

/// What indexes refer to, held against the packs that are there.
#[derive(Debug, Default)]
struct References {
    extents: u64,
    /// Those of packs that are not there.
    missing: u64,
    /// Those that lie beyond a pack's last byte.
    beyond: u64,
    /// Packs that no index refers to.
    unreferenced: u64,
}

impl References {
    fn json(&self) -> serde_json::Value {
        let Self {
            extents,
            missing,
            beyond,
            unreferenced,
        } = self;
        json!({ "extents": extents, "missing": missing, "beyond": beyond, "unreferenced_packs": unreferenced })
    }
}

impl std::fmt::Display for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            extents,
            missing,
            beyond,
            unreferenced,
        } = self;
        write!(
            f,
            "{extents} extents in the index, {missing} of packs that are missing, {beyond} beyond the end of \
             theirs; {unreferenced} packs that it does not refer to: newer than its checkpoint, or to be deleted"
        )
    }
}

/// Compares the indexes with the packs; `None` if there is no data directory.
async fn references(
    args: &StorageArgs,
    container: Option<u32>,
    packs: &BTreeMap<PackName, Option<u64>>,
) -> anyhow::Result<Option<References>> {
    let dir = directory(&args.data);
    let opened = match Offline::open(&dir).await {
        Err(error @ sarit_segmentstore::Error::Locked { .. }) => {
            complain(format_args!(
                "{error}: what its index refers to was not compared"
            ));
            return Ok(None);
        }
        opened => opened?,
    };
    let Some(offline) = opened else {
        return Ok(None);
    };
    let mut found = References::default();
    let mut referenced = BTreeSet::new();
    let all = offline.containers();
    for number in all.filter(|number| container.is_none_or(|only| only == *number)) {
        let index = offline.index(number).await?;
        let mut wrong = Vec::new();
        index
            .references(|reference| {
                found.extents += 1;
                let end = u64::from(reference.position) + u64::from(reference.length);
                let name = reference.pack.name(number).ok();
                referenced.extend(name);
                match name.and_then(|name| packs.get(&name)) {
                    None => {
                        found.missing += 1;
                        wrong.push((reference, "missing"));
                    }
                    Some(Some(last)) if end > *last => {
                        found.beyond += 1;
                        wrong.push((reference, "too short"));
                    }
                    Some(_) => {}
                }
                wrong.truncate(WRONG_MAX);
            })
            .await?;
        for (reference, what) in wrong {
            print_wrong(args, number, reference, what)?;
        }
        index.close().await;
    }
    found.unreferenced = packs
        .keys()
        .filter(|name| !referenced.contains(*name))
        .count() as u64;
    Ok(Some(found))
}

/// Prints a reference to bytes that its pack does not have, because that is `what`.
fn print_wrong(
    args: &StorageArgs,
    container: u32,
    reference: Reference,
    what: &str,
) -> anyhow::Result<()> {
    let Reference {
        segment,
        offset,
        pack,
        position,
        length,
    } = reference;
    if args.json {
        return print_line(json!({
            "container": container,
            "segment": segment,
            "offset": offset,
            "pack": pack.name(container)?.to_string(),
            "position": position,
            "bytes": length,
            "wrong": what,
        }));
    }
    print_line(format_args!(
        "container {container}, segment {segment} from {offset}: {length} bytes at {position} of pack {pack}, \
         which is {what}"
    ))
}

/// Reads a pack and checks it; returns where the bytes of segments end in it.
async fn check(store: &Store, name: PackName) -> Result<u64, StoreError> {
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
    let data = index.runs().iter().filter(|run| run.segment != u64::MAX);
    Ok(data.map(|run| run.range().end).max().unwrap_or(0))
}
