//! Every number this crate reports. Labels have few values: RPC names, statuses, task kinds.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const RPCS: &str = "controller_rpcs_total";
const RPC_SECONDS: &str = "controller_rpc_seconds";
const GROUPS: &str = "controller_metadata_groups_total";
const GROUP_SIZE: &str = "controller_metadata_group_transactions";
const SYNC_SECONDS: &str = "controller_metadata_sync_seconds";
const TASKS: &str = "controller_tasks_total";
const TASKS_RUNNING: &str = "controller_tasks_running";
const TASK_RETRIES: &str = "controller_task_retries_total";
const TRANSACTIONS_OPEN: &str = "controller_transactions_open";
const TRANSACTIONS: &str = "controller_transactions_total";
const ROLLED: &str = "controller_rolling_commits_total";
const STORES: &str = "controller_segment_stores";

/// Registers help and units with the process's recorder. Once, at start.
pub(crate) fn describe() {
    describe_counter!(RPCS, "Calls answered, by method and gRPC status");
    describe_histogram!(
        RPC_SECONDS,
        Unit::Seconds,
        "Time to answer a call, by method"
    );
    describe_counter!(GROUPS, "Groups of metadata transactions decided");
    describe_histogram!(GROUP_SIZE, "Metadata transactions per group");
    describe_histogram!(SYNC_SECONDS, Unit::Seconds, "Time to make a group durable");
    describe_counter!(TASKS, "Tasks finished, by kind");
    describe_gauge!(
        TASKS_RUNNING,
        "Tasks running now; as many again may wait for a place"
    );
    describe_counter!(TASK_RETRIES, "Attempts of task steps repeated, by kind");
    describe_gauge!(TRANSACTIONS_OPEN, "Transactions that take events");
    describe_counter!(TRANSACTIONS, "Transactions ended, by how");
    describe_counter!(
        ROLLED,
        "Commits of transactions begun before the stream was scaled"
    );
    describe_gauge!(STORES, "Segment stores heard of recently");
}

pub(crate) fn rpc(method: &'static str, code: tonic::Code, took: Duration) {
    counter!(RPCS, "method" => method, "status" => format!("{code:?}")).increment(1);
    histogram!(RPC_SECONDS, "method" => method).record(took);
}

pub(crate) fn metadata_group(transactions: usize) {
    counter!(GROUPS).increment(1);
    histogram!(GROUP_SIZE).record(transactions as f64);
}

pub(crate) fn metadata_sync(took: Duration) {
    histogram!(SYNC_SECONDS).record(took);
}

pub(crate) fn task_started() {
    gauge!(TASKS_RUNNING).increment(1.0);
}

pub(crate) fn task_ended(kind: &'static str) {
    gauge!(TASKS_RUNNING).decrement(1.0);
    counter!(TASKS, "kind" => kind).increment(1);
}

pub(crate) fn task_retried(kind: &'static str) {
    counter!(TASK_RETRIES, "kind" => kind).increment(1);
}

pub(crate) fn segment_stores(live: usize) {
    gauge!(STORES).set(live as f64);
}

pub(crate) fn open_transactions(count: usize) {
    gauge!(TRANSACTIONS_OPEN).set(count as f64);
}

pub(crate) fn transactions_ended(how: &'static str, count: usize) {
    counter!(TRANSACTIONS, "how" => how).increment(count as u64);
}

pub(crate) fn rolling_commit() {
    counter!(ROLLED).increment(1);
}
