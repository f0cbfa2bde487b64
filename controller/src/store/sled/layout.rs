//! How rows lie in sled's tree. Pure but for sled's own reads and writes; errors are text because no
//! caller can do more than stop.

use bytes::{BufMut, Bytes, BytesMut};
use sled::{Batch, Db, IVec};

use super::recent::Recent;
use super::{Page, Revision, Rows, Versioned};

/// Largest piece of a value, in bytes.
const PIECE_BYTES: usize = 4096;
/// Revision and number of further pieces.
const HEADER_BYTES: usize = 10;
const LAST_REVISION: &[u8] = b"m";
const ROW: u8 = b'k';
const PIECE: u8 = b'c';

type Result<T> = std::result::Result<T, String>;

pub(super) fn last_revision(db: &Db) -> Result<u64> {
    match db.get(LAST_REVISION).map_err(text)? {
        None => Ok(0),
        Some(bytes) => {
            let bytes = <[u8; 8]>::try_from(&bytes[..]);
            let bytes = bytes.map_err(|_| "the last revision is not 8 bytes".to_owned())?;
            Ok(u64::from_be_bytes(bytes))
        }
    }
}

/// Those of `keys` that exist, in this order.
pub(super) fn some(db: &Db, keys: &[String]) -> Result<Page> {
    let mut page = Page::default();
    for key in keys {
        if let Some(stored) = db.get(row_key(key)).map_err(text)? {
            page.entries
                .push((key.to_owned(), assemble(db, key, &stored)?));
        }
    }
    Ok(page)
}

pub(super) fn range(db: &Db, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
    let mut page = Page::default();
    let start = row_key(after.filter(|after| *after >= prefix).unwrap_or(prefix));
    for entry in db.range(start..) {
        if page.entries.len() == limit {
            break;
        }
        let (stored_key, stored) = entry.map_err(text)?;
        let Some(key) = key_under(&stored_key, prefix)? else {
            break;
        };
        if Some(key) == after {
            continue;
        }
        page.entries
            .push((key.to_owned(), assemble(db, key, &stored)?));
    }
    Ok(page)
}

/// Whether no row starts with `prefix`, but for those `replaced` says something newer about.
pub(super) fn none_under(db: &Db, prefix: &str, replaced: impl Fn(&str) -> bool) -> Result<bool> {
    for entry in db.range(row_key(prefix)..) {
        let (stored_key, _) = entry.map_err(text)?;
        match key_under(&stored_key, prefix)? {
            None => return Ok(true),
            Some(key) if replaced(key) => {}
            Some(_) => return Ok(false),
        }
    }
    Ok(true)
}

pub(super) fn revision(db: &Db, key: &str) -> Result<Option<Revision>> {
    let stored = db.get(row_key(key)).map_err(text)?;
    stored.map(|stored| Ok(header(&stored)?.0)).transpose()
}

/// Writes all rows and the last revision in one atomic batch. What `recent` knows is not asked for.
pub(super) fn apply(db: &Db, rows: &Rows, last: u64, recent: &mut Recent) -> Result<()> {
    let mut batch = Batch::default();
    for (key, row) in rows {
        let before = match recent.get(key) {
            Some(known) => known.map_or(Ok(0), |row| further_pieces(&row.value))?,
            None => match db.get(row_key(key)).map_err(text)? {
                Some(stored) => header(&stored)?.1,
                None => 0,
            },
        };
        let after = match row {
            Some(row) => put(&mut batch, key, row)?,
            None => {
                batch.remove(row_key(key));
                0
            }
        };
        for number in after..before {
            batch.remove(piece_key(key, number));
        }
    }
    batch.insert(LAST_REVISION, &last.to_be_bytes());
    db.apply_batch(batch).map_err(text)
}

/// Adds a row to `batch` and returns the number of its further pieces.
fn put(batch: &mut Batch, key: &str, row: &Versioned) -> Result<u16> {
    let further = further_pieces(&row.value)?;
    let mut pieces = row.value.chunks(PIECE_BYTES);
    let first = pieces.next().unwrap_or_default();
    let mut stored = BytesMut::with_capacity(HEADER_BYTES + first.len());
    stored.put_u64(row.revision.0);
    stored.put_u16(further);
    stored.put_slice(first);
    batch.insert(row_key(key), &stored[..]);
    for (number, piece) in (0..further).zip(pieces) {
        batch.insert(piece_key(key, number), piece);
    }
    Ok(further)
}

fn further_pieces(value: &[u8]) -> Result<u16> {
    let further = value.len().div_ceil(PIECE_BYTES).saturating_sub(1);
    u16::try_from(further).map_err(|_| "value in too many pieces".to_owned())
}

fn assemble(db: &Db, key: &str, stored: &IVec) -> Result<Versioned> {
    let (revision, further) = header(stored)?;
    let first = &stored[HEADER_BYTES..];
    if further == 0 {
        let value = Bytes::copy_from_slice(first);
        return Ok(Versioned { value, revision });
    }
    let mut value = BytesMut::with_capacity(first.len() + usize::from(further) * PIECE_BYTES);
    value.put_slice(first);
    for number in 0..further {
        let piece = db.get(piece_key(key, number)).map_err(text)?;
        let piece = piece.ok_or_else(|| format!("piece {number} of row {key} is missing"))?;
        value.put_slice(&piece);
    }
    let value = value.freeze();
    Ok(Versioned { value, revision })
}

fn header(stored: &[u8]) -> Result<(Revision, u16)> {
    let (revision, rest) = stored
        .split_first_chunk::<8>()
        .ok_or("row without a header")?;
    let (further, _) = rest
        .split_first_chunk::<2>()
        .ok_or("row without a header")?;
    let revision = Revision(u64::from_be_bytes(*revision));
    Ok((revision, u16::from_be_bytes(*further)))
}

/// The row's key if it is a row and starts with `prefix`.
fn key_under<'a>(stored: &'a [u8], prefix: &str) -> Result<Option<&'a str>> {
    match stored.strip_prefix(&[ROW]) {
        Some(key) if key.starts_with(prefix.as_bytes()) => {
            let key = std::str::from_utf8(key);
            Ok(Some(key.map_err(|_| "a row's key is not text")?))
        }
        _ => Ok(None),
    }
}

fn row_key(key: &str) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(ROW);
    stored.extend_from_slice(key.as_bytes());
    stored
}

fn piece_key(key: &str, number: u16) -> Vec<u8> {
    let mut stored = Vec::with_capacity(4 + key.len());
    stored.push(PIECE);
    stored.extend_from_slice(key.as_bytes());
    stored.push(0);
    stored.extend_from_slice(&number.to_be_bytes());
    stored
}

fn text(error: sled::Error) -> String {
    error.to_string()
}
