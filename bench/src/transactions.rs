//! What transactions cost the segment store, by raw wire: their segments are created, written and merged
//! in pipelined batches, as a controller and a client would. No controller takes part.

use anyhow::{bail, ensure};
use sarit_proto::ids::WriterId;
use sarit_proto::wire::Reply;
use sarit_proto::wire::command::{CreateSegment, MergeSegmentsBatch, SetupAppend};
use sarit_tests::cluster::{Cluster, Layout, rss};
use sarit_tests::raw::Connection;

use crate::Bench;
use crate::load::{Payloads, create, segment_names, tails};
use crate::report::{Goal, Row};
use crate::server::{Spent, Usage};

const SCOPE: &str = "bench";
/// Transactions of one size.
const ROUNDS: usize = 100;
/// Bytes of the one event that a transaction writes to each of its segments.
const SIZE: usize = 100;
/// Transactions open at the same time on one segment.
const OPEN: usize = 10_000;
/// Requests under way on one connection.
const AT_ONCE: usize = 100;
/// What the open ones may take, in MB.
const OPEN_MB: f64 = 100.0;

/// Measures and prints.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    bench.report.section(
        "transactions",
        "segments created, written with one event of 100 bytes each, and merged; CPU is the server's",
    );
    let data = bench.dir.join("transactions");
    let server = Cluster::start(Layout::Standalone, &data, &bench.dir.join("logs"), &[])?;
    let one = cost(bench, &server, 1)?;
    let hundred = cost(bench, &server, 100)?;
    let report = &mut bench.report;
    for (what, ratio) in [
        ("CPU", hundred.cpu_seconds / one.cpu_seconds),
        ("syncs", hundred.syncs / one.syncs),
    ] {
        let name = format!("{what} per segment of a transaction on 100 segments / on 1");
        report.figure(&name, ratio, Goal::AtMost(3.0), false)?;
    }
    open(bench, &server)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// Returns what a transaction on so many segments costs, per segment.
fn cost(bench: &mut Bench, server: &Cluster, segments: usize) -> anyhow::Result<Spent> {
    let address = server.store_addr();
    let targets = segment_names(SCOPE, &format!("cost{segments}"), segments);
    create(&address, &targets)?;
    let rounds = bench.choose(ROUNDS, ROUNDS / 5);
    let mut peer = Peer::new(&address)?;
    let before = Usage::of(server)?;
    for round in 0..rounds {
        let sources: Vec<String> = targets.iter().map(|name| part(name, round)).collect();
        peer.write(&sources)?;
        let pairs = targets.iter().zip(&sources);
        peer.merge(pairs.map(|(target, source)| (target.as_str(), vec![source.clone()])))?;
    }
    let mut spent = Usage::of(server)?.since(&before);
    let stored = tails(&address, &targets)?;
    let written = (rounds * segments * SIZE) as u64;
    ensure!(
        stored == written,
        "{written} bytes committed, {stored} there"
    );
    let parts = (rounds * segments) as f64;
    let row = Row::new(format!("{segments} segments, {rounds} transactions"))
        .number("CPU µs/segment", spent.cpu_seconds / parts * 1e6)
        .number("syncs/transaction", spent.syncs / rounds as f64)
        .number("ms/transaction", spent.seconds / rounds as f64 * 1e3);
    bench.report.row(&row)?;
    spent.cpu_seconds /= parts;
    spent.syncs /= parts;
    Ok(spent)
}

/// Opens very many transactions on one segment, looks at the memory, and commits them.
fn open(bench: &mut Bench, server: &Cluster) -> anyhow::Result<()> {
    let address = server.store_addr();
    let targets = segment_names(SCOPE, "open", 1);
    create(&address, &targets)?;
    let memory = || -> f64 {
        let pids = server.pids();
        pids.iter().filter_map(|pid| rss(*pid)).sum::<u64>() as f64 / 1e6
    };
    let before = memory();
    let sources: Vec<String> = (0..OPEN).map(|number| part(&targets[0], number)).collect();
    for chunk in sources.chunks(AT_ONCE) {
        // A connection each, as of clients that come and go.
        Peer::new(&address)?.write(chunk)?;
    }
    let opened = memory();
    let batches = sources.chunks(AT_ONCE).map(<[String]>::to_vec);
    let batches: Vec<_> = batches.map(|batch| (targets[0].as_str(), batch)).collect();
    Peer::new(&address)?.merge(batches.into_iter())?;
    let stored = tails(&address, &targets)?;
    ensure!(
        stored == (OPEN * SIZE) as u64,
        "{stored} bytes are committed"
    );
    let row = Row::new(format!("{OPEN} open on one segment"))
        .number("RSS MB before", before)
        .number("open", opened)
        .number("committed", memory());
    bench.report.row(&row)?;
    let taken = opened - before;
    let name = "memory of 10,000 open transactions on one segment, MB";
    bench
        .report
        .figure(name, taken, Goal::AtMost(OPEN_MB), false)
}

fn part(target: &str, transaction: usize) -> String {
    format!("{target}#transaction.{transaction:032x}")
}

/// One connection, whose writers are numbered.
struct Peer {
    connection: Connection,
    payloads: Payloads,
    writer: u128,
}

impl Peer {
    fn new(address: &str) -> anyhow::Result<Self> {
        Ok(Self {
            connection: Connection::greet(address)?,
            payloads: Payloads::new(1),
            writer: 0,
        })
    }

    /// Creates segments and appends one event to each.
    fn write(&mut self, segments: &[String]) -> anyhow::Result<()> {
        for segment in segments {
            self.connection.queue(CreateSegment {
                request_id: 1,
                segment: segment.clone(),
                target_rate: 0,
                scale_type: 0,
                token: String::new(),
                rollover_size: 0,
            });
        }
        self.connection.flush()?;
        for _ in segments {
            match self.connection.reply()? {
                Reply::SegmentCreated(_) => {}
                other => bail!("instead of a segment created: {other:?}"),
            }
        }
        for segment in segments {
            self.writer += 1;
            let writer_id = WriterId(self.writer);
            self.connection.queue(SetupAppend {
                request_id: 1,
                writer_id,
                segment: segment.clone(),
                token: String::new(),
            });
            let data = self.payloads.next(SIZE);
            self.connection.queue_append(writer_id, 1, 1, data);
        }
        self.connection.flush()?;
        let mut left = segments.len();
        while left > 0 {
            match self.connection.reply()? {
                Reply::AppendSetup(_) => {}
                Reply::DataAppended(_) => left -= 1,
                other => bail!("instead of an acknowledgement: {other:?}"),
            }
        }
        Ok(())
    }

    fn merge<'a>(
        &mut self,
        merges: impl Iterator<Item = (&'a str, Vec<String>)>,
    ) -> anyhow::Result<()> {
        let mut left = 0;
        for (target, sources) in merges {
            left += 1;
            self.connection.queue(MergeSegmentsBatch {
                request_id: 1,
                target: target.to_owned(),
                sources,
                token: String::new(),
            });
        }
        self.connection.flush()?;
        for _ in 0..left {
            match self.connection.reply()? {
                Reply::SegmentsBatchMerged(_) => {}
                other => bail!("instead of a merge: {other:?}"),
            }
        }
        Ok(())
    }
}
