//! What every [`MetaStore`] promises, as a suite each implementation runs.

use super::{Error, Expect, MetaStore, Outcome, Revision, Transaction};
use super::{OPERATIONS_MAX, TRANSACTION_BYTES_MAX};

/// Runs the whole suite on an empty store.
pub(crate) async fn run(store: &dyn MetaStore) {
    a_missing_key_is_none(store).await;
    what_is_put_is_read_with_its_revision(store).await;
    some_keys_are_read_together_in_their_order(store).await;
    a_failed_comparison_changes_nothing(store).await;
    a_deleted_key_never_gets_an_old_revision_again(store).await;
    ranges_are_ordered_and_paged(store).await;
    nothing_under_sees_every_row_below(store).await;
    large_values_survive_replacement_by_small_ones(store).await;
    of_racing_transactions_one_wins(store).await;
    too_large_is_refused(store).await;
}

fn committed(outcome: Outcome) -> Revision {
    match outcome {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("unexpected conflict"),
    }
}

async fn put(store: &dyn MetaStore, key: &str, value: &'static str) -> Revision {
    let transaction = Transaction::new().put(key, value);
    committed(store.commit(transaction).await.unwrap())
}

async fn keys(
    store: &dyn MetaStore,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<String> {
    let page = store.range(prefix, after, limit).await.unwrap();
    page.entries.into_iter().map(|(key, _)| key).collect()
}

async fn a_missing_key_is_none(store: &dyn MetaStore) {
    assert_eq!(store.get("none/such").await, Ok(None));
    assert!(keys(store, "none/", None, 10).await.is_empty());
}

async fn what_is_put_is_read_with_its_revision(store: &dyn MetaStore) {
    let revision = put(store, "a/1", "one").await;
    let row = store.get("a/1").await.unwrap().unwrap();
    assert_eq!((&row.value[..], row.revision), (&b"one"[..], revision));
    let later = put(store, "a/1", "").await;
    assert!(later > revision);
    let row = store.get("a/1").await.unwrap().unwrap();
    assert_eq!((&row.value[..], row.revision), (&b""[..], later));
}

async fn some_keys_are_read_together_in_their_order(store: &dyn MetaStore) {
    let (y, x) = (
        put(store, "some/y", "1").await,
        put(store, "some/x", "2").await,
    );
    let keys = ["some/y", "some/missing", "some/x", "some/y"].map(str::to_owned);
    let rows = store.get_many(&keys).await.unwrap();
    let revisions: Vec<_> = rows
        .iter()
        .map(|row| Some(row.as_ref()?.revision))
        .collect();
    assert_eq!(revisions, [Some(y), None, Some(x), Some(y)]);
    assert_eq!(store.get_many(&[]).await, Ok(Vec::new()));
}

async fn a_failed_comparison_changes_nothing(store: &dyn MetaStore) {
    let old = put(store, "cas/x", "1").await;
    let new = put(store, "cas/x", "2").await;
    let stale = Transaction::new()
        .expect("cas/x", Expect::At(old))
        .put("cas/x", "3")
        .put("cas/y", "3")
        .delete("a/1");
    assert_eq!(store.commit(stale).await, Ok(Outcome::Conflict));
    assert_eq!(store.get("cas/y").await, Ok(None));
    assert_eq!(store.get("cas/x").await.unwrap().unwrap().revision, new);
    let absent = Transaction::new()
        .expect("cas/x", Expect::Absent)
        .put("cas/x", "4");
    assert_eq!(store.commit(absent).await, Ok(Outcome::Conflict));
    let right = Transaction::new()
        .expect("cas/x", Expect::At(new))
        .expect("cas/y", Expect::Absent)
        .put("cas/y", "5")
        .delete("cas/x");
    committed(store.commit(right).await.unwrap());
    assert_eq!(keys(store, "cas/", None, 10).await, ["cas/y"]);
}

async fn a_deleted_key_never_gets_an_old_revision_again(store: &dyn MetaStore) {
    let first = put(store, "aba", "1").await;
    let gone = Transaction::new().delete("aba").delete("never-there");
    committed(store.commit(gone).await.unwrap());
    let second = put(store, "aba", "1").await;
    assert!(second > first);
    let stale = Transaction::new()
        .expect("aba", Expect::At(first))
        .delete("aba");
    assert_eq!(store.commit(stale).await, Ok(Outcome::Conflict));
}

async fn ranges_are_ordered_and_paged(store: &dyn MetaStore) {
    let mut transaction = Transaction::new().put("r0", "x").put("r.", "x");
    for number in (0..25).rev() {
        transaction = transaction.put(format!("r/{number:02}"), "x");
    }
    committed(store.commit(transaction).await.unwrap());
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = keys(store, "r/", after.as_deref(), 10).await;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page);
    }
    let expected: Vec<String> = (0..25).map(|number| format!("r/{number:02}")).collect();
    assert_eq!(seen, expected);
    assert_eq!(keys(store, "r/", Some("a"), 1).await, ["r/00"]);
    assert_eq!(keys(store, "r/", Some("r/09x"), 1).await, ["r/10"]);
    assert!(keys(store, "r/", Some("r0"), 1).await.is_empty());
    assert!(keys(store, "r/", None, 0).await.is_empty());
}

async fn nothing_under_sees_every_row_below(store: &dyn MetaStore) {
    put(store, "parent", "p").await;
    put(store, "children/1", "c").await;
    let guarded = || {
        Transaction::new()
            .expect("children/", Expect::NothingUnder)
            .delete("parent")
    };
    assert_eq!(store.commit(guarded()).await, Ok(Outcome::Conflict));
    let orphaned = Transaction::new().delete("children/1");
    committed(store.commit(orphaned).await.unwrap());
    put(store, "children0", "not below").await;
    committed(store.commit(guarded()).await.unwrap());
    assert_eq!(store.get("parent").await, Ok(None));
}

async fn large_values_survive_replacement_by_small_ones(store: &dyn MetaStore) {
    for len in [4096, 4097, 200_000, 10, 0, 8192] {
        let value: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let transaction = Transaction::new().put("large/1", value.clone());
        committed(store.commit(transaction).await.unwrap());
        let row = store.get("large/1").await.unwrap().unwrap();
        assert_eq!(row.value, value, "{len} bytes");
        assert_eq!(keys(store, "large/", None, 10).await, ["large/1"]);
    }
}

async fn of_racing_transactions_one_wins(store: &dyn MetaStore) {
    let base = put(store, "race", "0").await;
    let attempt = |value: &'static str| {
        let compared = Transaction::new().expect("race", Expect::At(base));
        store.commit(compared.put("race", value))
    };
    let outcomes = futures_util::future::join_all([attempt("1"), attempt("2"), attempt("3")]).await;
    let won = outcomes
        .iter()
        .filter(|outcome| **outcome != Ok(Outcome::Conflict));
    assert_eq!(won.count(), 1, "{outcomes:?}");
}

async fn too_large_is_refused(store: &dyn MetaStore) {
    let mut many = Transaction::new();
    for number in 0..=OPERATIONS_MAX {
        many = many.put(format!("many/{number}"), "x");
    }
    let refused = store.commit(many).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
    let heavy = Transaction::new().put("heavy", vec![0; TRANSACTION_BYTES_MAX]);
    let refused = store.commit(heavy).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
    assert!(keys(store, "many/", None, 10).await.is_empty());
}

#[tokio::test]
async fn memory_conforms() {
    run(&super::MemoryStore::new()).await;
}
