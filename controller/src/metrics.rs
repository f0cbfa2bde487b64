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
const STEPS: &str = "controller_transaction_steps";
const TRANSACTIONS_OPEN: &str = "controller_transactions_open";
const TRANSACTIONS: &str = "controller_transactions_total";
const COMMITS_AWAITED: &str = "controller_commits_awaited";
const METADATA_READS: &str = "controller_metadata_reads_total";
const ROLLED: &str = "controller_rolling_commits_total";
const RETENTION: &str = "controller_retention_checks_total";
const TASKS_POISONED: &str = "controller_tasks_poisoned_total";
const STORES: &str = "controller_segment_stores";
const LOAD_REPORTS: &str = "controller_load_reports_total";
const AUTOSCALE_STREAMS: &str = "controller_autoscale_streams";
const AUTOSCALE_DECISIONS: &str = "controller_autoscale_decisions_total";
const AUTOSCALE_DEFERRED: &str = "controller_autoscale_deferred_total";
const WATERMARKS: &str = "controller_watermarks_total";
const WATERMARK_FAILURES: &str = "controller_watermark_failures_total";
const WATERMARK_STREAMS: &str = "controller_watermark_streams_waiting";

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
        "Tasks running now; at most 1024, and as many again that are parts of these"
    );
    describe_counter!(TASK_RETRIES, "Attempts of task steps repeated, by kind");
    describe_gauge!(
        STEPS,
        "Calls that begin or end a transaction under way, by kind; at most 1024 of each"
    );
    describe_gauge!(TRANSACTIONS_OPEN, "Transactions that take events");
    describe_counter!(TRANSACTIONS, "Transactions ended, by how");
    describe_gauge!(
        COMMITS_AWAITED,
        "Questions after a transaction's state that wait for its commit; at most 1024"
    );
    describe_counter!(
        METADATA_READS,
        "Reads of metadata, by where it was found; in memory at most 2 MiB are kept"
    );
    describe_counter!(
        ROLLED,
        "Commits of transactions begun before the stream was scaled"
    );
    describe_counter!(RETENTION, "Streams held against their retention policy");
    describe_counter!(
        TASKS_POISONED,
        "Tasks given up because the segment store refused them, by kind"
    );
    describe_gauge!(STORES, "Segment stores heard of recently");
    describe_counter!(WATERMARKS, "Watermarks appended to mark streams");
    describe_counter!(
        WATERMARK_FAILURES,
        "Attempts to make a watermark that failed and are repeated"
    );
    describe_gauge!(
        WATERMARK_STREAMS,
        "Streams whose writers' marks were looked at in the last period"
    );
    describe_counter!(
        LOAD_REPORTS,
        "Load reports of segment stores, by whether there was room to take them in"
    );
    describe_gauge!(AUTOSCALE_STREAMS, "Streams that scale by load and had any");
    describe_counter!(
        AUTOSCALE_DECISIONS,
        "Decisions by load: splits, merges, hot keys that no split would help"
    );
    describe_counter!(
        AUTOSCALE_DEFERRED,
        "Scalings by load put off because too many were under way"
    );
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

pub(crate) fn step_started(kind: &'static str) {
    gauge!(STEPS, "kind" => kind).increment(1.0);
}

pub(crate) fn step_ended(kind: &'static str) {
    gauge!(STEPS, "kind" => kind).decrement(1.0);
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

pub(crate) fn commits_awaited(questions: usize) {
    gauge!(COMMITS_AWAITED).set(questions as f64);
}

pub(crate) fn metadata_read(from: &'static str) {
    counter!(METADATA_READS, "from" => from).increment(1);
}

pub(crate) fn rolling_commit() {
    counter!(ROLLED).increment(1);
}

pub(crate) fn load_report(taken: bool) {
    counter!(LOAD_REPORTS, "taken" => if taken { "yes" } else { "no" }).increment(1);
}

pub(crate) fn autoscale_streams(streams: usize) {
    gauge!(AUTOSCALE_STREAMS).set(streams as f64);
}

pub(crate) fn autoscale_decided(kind: &'static str) {
    counter!(AUTOSCALE_DECISIONS, "kind" => kind).increment(1);
}

pub(crate) fn autoscale_deferred() {
    counter!(AUTOSCALE_DEFERRED).increment(1);
}

pub(crate) fn watermark_made() {
    counter!(WATERMARKS).increment(1);
}

pub(crate) fn watermark_failed() {
    counter!(WATERMARK_FAILURES).increment(1);
}

pub(crate) fn watermark_streams(streams: usize) {
    gauge!(WATERMARK_STREAMS).set(streams as f64);
}

pub(crate) fn retention_looked() {
    counter!(RETENTION).increment(1);
}

pub(crate) fn task_poisoned(kind: &'static str) {
    counter!(TASKS_POISONED, "kind" => kind).increment(1);
}
