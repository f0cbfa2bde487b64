//! How many containers there are, remembered: stores of another number would be asked for segments that
//! are elsewhere.

use prost::Message;

use crate::store::records::{decode, encode};
use crate::store::{Error, Expect, MetaStore, Outcome, Transaction, keys};

/// The value of the placement row.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Placement {
    #[prost(uint32, tag = "1")]
    pub(crate) containers: u32,
}

/// Returns how many containers the stores must have, or nothing as long as there is no scope: then any
/// number will do.
///
/// # Errors
/// A sentence: the store failed, or the row is damaged.
pub(crate) async fn agreed(store: &dyn MetaStore) -> Result<Option<u32>, String> {
    let text = |error: Error| error.to_string();
    let Some(row) = store.get(keys::PLACEMENT).await.map_err(text)? else {
        return Ok(None);
    };
    let scopes = store.range(keys::SCOPES, None, 1).await.map_err(text)?;
    if scopes.entries.is_empty() {
        return Ok(None);
    }
    let row: Placement = decode(keys::PLACEMENT, &row.value).map_err(|error| error.to_string())?;
    Ok(Some(row.containers))
}

/// Remembers the number that stores agree on.
///
/// # Errors
/// A sentence: the store failed.
pub(crate) async fn agree(store: &dyn MetaStore, containers: u32) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    let value = encode(&Placement { containers });
    let row = store.get(keys::PLACEMENT).await.map_err(text)?;
    let expect = match row {
        Some(row) if row.value == value => return Ok(()),
        Some(row) => Expect::At(row.revision),
        None => Expect::Absent,
    };
    let put = Transaction::new()
        .expect(keys::PLACEMENT, expect)
        .put(keys::PLACEMENT, value);
    match store.commit(put).await.map_err(text)? {
        Outcome::Committed(_) => Ok(()),
        // The next heartbeat finds out what is so now.
        Outcome::Conflict => Err("another store was just taken in".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn the_number_is_fixed_once_there_is_something_to_find() {
        let store = MemoryStore::new();
        assert_eq!(agreed(&store).await, Ok(None));
        agree(&store, 8).await.unwrap();
        assert_eq!(agreed(&store).await, Ok(None));
        agree(&store, 4).await.unwrap();
        let put = Transaction::new().put("s/scope", Bytes::from_static(b"\x01"));
        assert!(matches!(store.commit(put).await, Ok(Outcome::Committed(_))));
        assert_eq!(agreed(&store).await, Ok(Some(4)));
        agree(&store, 4).await.unwrap();
    }
}
