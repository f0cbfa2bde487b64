//! Checks that the records fit together, and moves them from store to store as text.
//!
//! A dump is one row a line, `key`, a tab, the value in hex. A key with a tab or line end, which tags and
//! writers may have in their names, is in hex too, behind a tab of its own. Revisions are not kept: they
//! belong to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::catalog::{Catalog, PAGE, parse_next};
use super::keys::{self, StreamId};
use super::records::{self, decode};
use super::{Error, Expect, MetaStore, OPERATIONS_MAX, Outcome, Transaction};
use crate::placement::record::Placement;
use crate::stream::epoch::Epochs;
use crate::stream::stream_cuts::{self, StreamCut};

/// Returns what is wrong with the records, nothing if they fit together. Reads all of them.
///
/// Rows of tasks that have not ended are no fault: the next start ends them.
///
/// # Errors
/// If the store does not answer.
pub async fn fsck(store: Arc<dyn MetaStore>) -> Result<Vec<String>, Error> {
    let rows = all(&*store).await?;
    let mut check = Check {
        rows: &rows,
        wrong: Vec::new(),
        ids: BTreeMap::new(),
        working: BTreeSet::new(),
    };
    check.owners();
    for (key, value) in &rows {
        check.row(key, value);
    }
    let ids: Vec<(StreamId, String)> = check.ids.clone().into_iter().collect();
    let mut wrong = check.wrong;
    let working = check.working;
    let catalog = Catalog::new(store);
    for (id, name) in ids {
        if let Err(reason) = stream(&catalog, id, &rows, working.contains(&id)).await {
            wrong.push(format!("{name}: {reason}"));
        }
    }
    Ok(wrong)
}

/// Returns all rows as text.
///
/// # Errors
/// If the store does not answer.
pub async fn export(store: &dyn MetaStore) -> Result<String, Error> {
    let rows = all(store).await?;
    let lines = rows
        .iter()
        .map(|(key, value)| match key.contains(['\t', '\n', '\r']) {
            true => format!("\t{}\t{}\n", hex(key.as_bytes()), hex(value)),
            false => format!("{key}\t{}\n", hex(value)),
        });
    Ok(lines.collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a dump was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is something in the store already. Nothing changed.
    #[error("the store is not empty")]
    NotEmpty,
    /// A line is not of the form. Nothing changed.
    #[error("line {0} is not a key, a tab, and hex digits")]
    Line(usize),
    /// The store failed; some rows may be in it.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Takes a dump into an empty store. Returns how many rows it has.
///
/// # Errors
/// Those of [`ImportError`].
pub async fn import(store: &dyn MetaStore, dump: &str) -> Result<usize, ImportError> {
    let lines = (1..).zip(dump.lines());
    let rows = lines.map(|(number, line)| parse(line).ok_or(ImportError::Line(number)));
    let rows: Vec<(String, Bytes)> = rows.collect::<Result<_, _>>()?;
    if !store.range("", None, 1).await?.entries.is_empty() {
        return Err(ImportError::NotEmpty);
    }
    for some in rows.chunks(OPERATIONS_MAX / 4) {
        for (key, value) in some {
            // One by one: values may be as large as a transaction.
            let put = Transaction::new()
                .expect(key, Expect::Absent)
                .put(key, value.clone());
            if store.commit(put).await? == Outcome::Conflict {
                return Err(ImportError::NotEmpty);
            }
        }
    }
    Ok(rows.len())
}

fn parse(line: &str) -> Option<(String, Bytes)> {
    // No key is empty.
    let (key, value) = match line.strip_prefix('\t') {
        Some(line) => {
            let (key, value) = line.split_once('\t')?;
            (String::from_utf8(bytes(key)?).ok()?, value)
        }
        // Earlier versions wrote keys as they are, also with a tab.
        None => {
            let (key, value) = line.rsplit_once('\t')?;
            (key.to_owned(), value)
        }
    };
    Some((key, bytes(value)?.into()))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| {
        let digits = std::str::from_utf8(pair).ok().filter(|d| d.len() == 2)?;
        u8::from_str_radix(digits, 16).ok()
    });
    bytes.collect()
}

async fn all(store: &dyn MetaStore) -> Result<BTreeMap<String, Bytes>, Error> {
    let mut rows = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.range("", after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.entries.last() else {
            return Ok(rows);
        };
        after = Some(last.clone());
        let entries = page.entries.into_iter();
        rows.extend(entries.map(|(key, row)| (key, row.value)));
    }
}

struct Check<'a> {
    rows: &'a BTreeMap<String, Bytes>,
    wrong: Vec<String>,
    /// Streams, and what they are called.
    ids: BTreeMap<StreamId, String>,
    /// Streams and tables with an unfinished task.
    working: BTreeSet<StreamId>,
}

impl Check<'_> {
    /// Finds out which streams there are, and which of them are being changed.
    fn owners(&mut self) {
        for (key, value) in self.rows {
            if let Some(name) = key.strip_prefix("n/") {
                if let Some(row) = self.read::<records::Name>(key, value)
                    && let Some(id) = self.id(key, &row.stream_id)
                    && let Some(other) = self.ids.insert(id, name.to_owned())
                {
                    self.fault(key, format!("has the id of {other}"));
                }
            } else if let Some(id) = key.strip_prefix(keys::WORK) {
                let id = self.id(key, id);
                self.working.extend(id);
                if let Some(work) = self.read::<records::Work>(key, value) {
                    let mark = match &work.job {
                        Some(records::Job::Create(job)) => &job.mark_id,
                        Some(records::Job::Delete(job)) => &job.mark_id,
                        _ => "",
                    };
                    self.working.extend(StreamId::parse(mark));
                }
            }
        }
    }

    fn row(&mut self, key: &str, value: &Bytes) {
        let (kind, rest) = key.split_once('/').unwrap_or((key, ""));
        let owner = rest.split('/').next().unwrap_or_default();
        match kind {
            "s" => {
                if let Some(row) = self.read::<records::Scope>(key, value)
                    && !row.deletion.is_empty()
                    && !self.rows.contains_key(&format!("w/{}", row.deletion))
                {
                    self.fault(key, "is being deleted, but nothing works on it");
                }
            }
            "n" => self.in_scope(key, owner),
            "d" => drop(self.read::<records::Deleted>(key, value)),
            "w" => self.work(key, value),
            "t" => self.owned(key, owner),
            "x" => {
                self.owned(key, owner);
                self.transaction(key, value);
            }
            "xd" => drop(self.read::<records::Ended>(key, value)),
            "cut" => {
                self.owned(key, owner);
                drop(self.read::<records::RecordedCut>(key, value));
            }
            "rg" => {
                self.in_scope(key, owner);
                drop(self.read::<records::ReaderGroup>(key, value));
                let group = &rest[owner.len() + 1..];
                if !self.rows.contains_key(&format!("n/{owner}/_RG{group}")) {
                    self.fault(key, "the stream of its state is missing");
                }
            }
            "kvt" => {
                self.in_scope(key, owner);
                if let Some(row) = self.read::<records::Table>(key, value)
                    && let Some(id) = self.id(key, &row.id)
                    && !row.visible
                    && !self.working.contains(&id)
                {
                    self.fault(key, "is invisible, but nothing works on it");
                }
            }
            "sub" => drop(self.read::<records::Subscriber>(key, value)),
            keys::PLACEMENT => drop(self.read::<Placement>(key, value)),
            // Hints, and what others keep and check.
            _ => {}
        }
    }

    fn work(&mut self, key: &str, value: &Bytes) {
        let Some(work) = self.read::<records::Work>(key, value) else {
            return;
        };
        if let Some(records::Job::DeleteScope(_)) = &work.job {
            return self.deletion(key, &work.scope);
        }
        let name = format!("n/{}/{}", work.scope, work.stream);
        let table = work.stream.strip_suffix("_kvtable").unwrap_or_default();
        let table = format!("kvt/{}/{table}", work.scope);
        if !self.rows.contains_key(&name) && !self.rows.contains_key(&table) {
            self.fault(key, format!("works on {name}, which is missing"));
        }
        let next = match &work.job {
            None => return self.fault(key, "names no known job"),
            Some(records::Job::Scale(job)) => job.next.as_ref(),
            _ => return,
        };
        if let Err(error) = parse_next(key, next) {
            self.fault(key, error);
        }
    }

    /// A scope that is being deleted must say so.
    fn deletion(&mut self, key: &str, scope: &str) {
        let name = format!("s/{scope}");
        let row = self.rows.get(&name);
        let row = row.and_then(|value| decode::<records::Scope>(&name, value).ok());
        if row.is_none_or(|row| key != format!("w/{}", row.deletion)) {
            self.fault(key, format!("deletes {name}, which does not say so"));
        }
    }

    /// An open transaction and its place among the commits must agree.
    fn transaction(&mut self, key: &str, value: &Bytes) {
        let mut parts = key.splitn(4, '/').skip(1);
        let (Some(id), Some(kind)) = (parts.next(), parts.next()) else {
            return self.fault(key, "is no transaction's key");
        };
        if kind == "o" {
            let Some(row) = self.read::<records::Transaction>(key, value) else {
                return;
            };
            let committing = row.state() == records::TransactionState::Committing;
            let queued = format!("x/{id}/c/{:016x}", row.order);
            if committing && !self.rows.contains_key(&queued) {
                self.fault(key, "is to be committed, but not queued");
            }
        } else if let Some(row) = self.read::<records::Queued>(key, value) {
            let open = format!("x/{id}/o/{:016x}{:016x}", row.high, row.low);
            if !self.rows.contains_key(&open) {
                self.fault(key, "is queued, but there is no such transaction");
            }
        }
    }

    fn in_scope(&mut self, key: &str, scope: &str) {
        if !self.rows.contains_key(&format!("s/{scope}")) {
            self.fault(key, format!("scope {scope} is missing"));
        }
    }

    fn owned(&mut self, key: &str, owner: &str) {
        if let Some(id) = self.id(key, owner)
            && !self.ids.contains_key(&id)
        {
            self.fault(key, "belongs to no stream");
        }
    }

    fn id(&mut self, key: &str, text: &str) -> Option<StreamId> {
        let id = StreamId::parse(text);
        if id.is_none() {
            self.fault(key, format!("{text:?} is no id"));
        }
        id
    }

    fn read<R: Message + Default>(&mut self, key: &str, value: &Bytes) -> Option<R> {
        match decode(key, value) {
            Ok(record) => Some(record),
            Err(error) => {
                self.wrong.push(error.to_string());
                None
            }
        }
    }

    fn fault(&mut self, key: &str, what: impl ToString) {
        self.wrong.push(format!("{key}: {}", what.to_string()));
    }
}

/// Checks one stream's records against each other.
async fn stream(
    catalog: &Catalog,
    id: StreamId,
    rows: &BTreeMap<String, Bytes>,
    working: bool,
) -> Result<(), String> {
    let text = |error: super::catalog::Error| error.to_string();
    let status = catalog.status(id).await.map_err(text)?;
    catalog.config(id).await.map_err(text)?;
    let epochs: Epochs = catalog.epochs(id).await.map_err(text)?;
    let active = catalog.active(id).await.map_err(text)?;
    // What is being changed may have its next epochs in the history already.
    let last = match working {
        true => epochs.at(active.number),
        false => epochs.at(epochs.len() - 1),
    };
    if last.as_ref() != Some(&active) {
        return Err(format!(
            "epoch {} is not what its history leads to",
            active.number
        ));
    }
    if (status.active_epoch, status.reference_epoch) != (active.number, active.reference) {
        return Err(format!("its state names epoch {}", status.active_epoch));
    }
    let lowest = epochs.next_number().unwrap_or(i32::MAX);
    if status.next_number != 0 && status.next_number < lowest && !working {
        return Err(format!(
            "segment numbers from {} on are used",
            status.next_number
        ));
    }
    if let Some(cut) = catalog.truncation(id).await.map_err(text)? {
        StreamCut::new(&cut.value, &epochs).map_err(|error| error.to_string())?;
    }
    for (key, value) in rows
        .range(keys::cuts(id)..)
        .take_while(|(key, _)| key.starts_with(&keys::cuts(id)))
    {
        let row: records::RecordedCut = decode(key, value).map_err(|error| error.to_string())?;
        let cut = stream_cuts::parse(&row.cut).and_then(|cut| StreamCut::new(&cut, &epochs));
        cut.map_err(|error| error.to_string())?;
    }
    let settled = status.state.is_open() || status.state.may_be_deleted().is_ok();
    if !settled && !working {
        return Err(format!("is {:?}, but nothing works on it", status.state));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn a_dump_becomes_the_same_store_again() {
        let store = MemoryStore::new();
        let put = Transaction::new()
            .put("s/a", &b"\x01\x08\x05"[..])
            .put("tag/a/x\0y", Bytes::new())
            .put("tag/a/x\ny\0z", Bytes::new())
            .put("wmw/1/w\tx\r", &b"\x01"[..]);
        assert!(matches!(store.commit(put).await, Ok(Outcome::Committed(_))));
        let dump = export(&store).await.unwrap();
        let copy = MemoryStore::new();
        assert_eq!(import(&copy, &dump).await.unwrap(), 4);
        assert_eq!(copy.snapshot(), store.snapshot());
        let earlier = MemoryStore::new();
        let dump_of_earlier = "s/a\t010805\nwmw/1/w\tx\t01\n";
        assert_eq!(import(&earlier, dump_of_earlier).await.unwrap(), 2);
        assert!(earlier.snapshot().contains_key("wmw/1/w\tx"));
        let again = import(&copy, &dump).await;
        assert!(matches!(again, Err(ImportError::NotEmpty)), "{again:?}");
        for line in [
            "s/a", "s/a\t0", "s/a\t0g", "s/a\tä", "\t61", "\t6\t00", "\tff\t00",
        ] {
            let refused = import(&MemoryStore::new(), line).await;
            assert!(matches!(refused, Err(ImportError::Line(1))), "{line}");
        }
    }

    #[tokio::test]
    async fn what_belongs_to_nothing_is_found() {
        let store = MemoryStore::new();
        let id = "00000000000000000000000000000001";
        let put = Transaction::new()
            .put(
                "n/a/b",
                records::encode(&records::Name {
                    stream_id: id.to_owned(),
                    visible: true,
                }),
            )
            .put(
                "s/c",
                records::encode(&records::Scope {
                    created_ms: 7,
                    deletion: id.to_owned(),
                }),
            )
            .put(
                format!("w/{}", id.replace('1', "2")),
                records::encode(&records::Work {
                    scope: "c".to_owned(),
                    stream: "__all".to_owned(),
                    job: Some(records::Job::DeleteScope(records::DeleteScopeJob {})),
                }),
            )
            .put(format!("x/{id}2/c/00"), &b"\x01"[..])
            .put("s/broken", &b"\x07"[..]);
        assert!(matches!(store.commit(put).await, Ok(Outcome::Committed(_))));
        let wrong = fsck(Arc::new(store)).await.unwrap().join("\n");
        for expected in [
            "scope a is missing",
            "is no id",
            "version 7",
            "is missing",
            "s/c: is being deleted, but nothing works on it",
            "deletes s/c, which does not say so",
        ] {
            assert!(wrong.contains(expected), "{wrong}");
        }
    }
}
