import io.pravega.client.control.impl.Controller;
import io.pravega.client.control.impl.ControllerImpl;
import io.pravega.client.control.impl.ControllerImplConfig;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.Transaction;
import io.pravega.client.stream.TransactionInfo;
import io.pravega.client.stream.TransactionalEventStreamWriter;
import io.pravega.client.stream.TxnFailedException;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/** Transactions, and streams that are scaled by hand while events are written, also by transactions begun before. */
final class TransactionScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("transactions-commit", 120, TransactionScenarios::commits),
        new Compat.Scenario("transactions-abort", 90, TransactionScenarios::aborts),
        new Compat.Scenario("transactions-listed", 90, TransactionScenarios::listed),
        new Compat.Scenario("transactions-over-a-scaling", 120, TransactionScenarios::rolling),
        new Compat.Scenario("scale-while-writing", 120, TransactionScenarios::scaled));

    private static final int KEYS = 10;

    /** Events of committed transactions come once, in the order of the commits; those of an open one do not come. */
    private static void commits(Scene scene) throws Exception {
        scene.stream("events", 2);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        Ledger ledger = new Ledger(1, KEYS);
        CompletableFuture<Void> read = reading(scene, ledger).toEndAsync();
        TransactionalEventStreamWriter<byte[]> writer = writer(scene);
        Transaction<byte[]> open = writer.beginTxn();
        open.writeEvent("key-0", new byte[] {1});
        open.flush();
        for (int round = 0; round < 20; round++) {
            Transaction<byte[]> transaction = writer.beginTxn();
            write(transaction, ledger, 50);
            transaction.commit();
        }
        Check.equal(Transaction.Status.OPEN, open.checkStatus(), "the state of the open transaction");
        Check.that(scene.streams().sealStream(scene.scope, "events"), "the stream was sealed");
        read.get(60, TimeUnit.SECONDS);
        ledger.settled(1000);
        Check.equal(Transaction.Status.ABORTED, settled(open), "what sealing does to an open transaction");
    }

    /** Nothing comes of what was aborted, and nothing can be written to it or committed. */
    private static void aborts(Scene scene) throws Exception {
        scene.stream("events", 2);
        TransactionalEventStreamWriter<byte[]> writer = writer(scene);
        Transaction<byte[]> transaction = writer.beginTxn();
        transaction.writeEvent("key", new byte[] {1, 2, 3});
        transaction.abort();
        Check.equal(Transaction.Status.ABORTED, settled(transaction), "the state after abort");
        Check.fails(TxnFailedException.class, "a commit after abort", () -> {
            transaction.commit();
            return null;
        });
        try (EventStreamWriter<byte[]> events = scene.writer("events")) {
            events.writeEvent("key", new byte[] {4}).get(30, TimeUnit.SECONDS);
        }
        scene.group("group", "events", StreamCut.UNBOUNDED);
        EventStreamReader<byte[]> reader = scene.reader("reader", "group");
        byte[] first = null;
        for (int attempt = 0; first == null && attempt < 60; attempt++) {
            first = reader.readNextEvent(500).getEvent();
        }
        Check.that(first != null && first.length == 1 && first[0] == 4, "the first event read is the one behind the aborted");
    }

    /** Another handle on a transaction, and the list of those that have ended. */
    private static void listed(Scene scene) throws Exception {
        scene.stream("events", 1);
        TransactionalEventStreamWriter<byte[]> writer = writer(scene);
        Transaction<byte[]> committed = writer.beginTxn();
        Transaction<byte[]> other = writer.getTxn(committed.getTxnId());
        other.writeEvent("key", new byte[] {1});
        other.flush();
        committed.commit();
        Check.equal(Transaction.Status.COMMITTED, settled(committed), "the state after commit");
        Transaction<byte[]> aborted = writer.beginTxn();
        aborted.abort();
        Check.equal(Transaction.Status.ABORTED, settled(aborted), "the state after abort");
        ScheduledExecutorService threads = new ScheduledThreadPoolExecutor(1);
        try (Controller controller = controller(scene, threads)) {
            Map<UUID, Transaction.Status> expected = Map.of(
                committed.getTxnId(), Transaction.Status.COMMITTED, aborted.getTxnId(), Transaction.Status.ABORTED);
            List<TransactionInfo> list = controller.listCompletedTransactions(Stream.of(scene.scope, "events")).get(30, TimeUnit.SECONDS);
            Check.equal(2, list.size(), "transactions listed");
            list.forEach(info -> Check.equal(expected.get(info.getTransactionId()), info.getTransactionStatus(), "a listed state"));
        } finally {
            threads.shutdownNow();
        }
    }

    /** Transactions begun before a scaling are committed after it; per key, order holds across old and new segments. */
    private static void rolling(Scene scene) throws Exception {
        scene.stream("events", 1);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        Ledger ledger = new Ledger(1, KEYS);
        CompletableFuture<Void> read = reading(scene, ledger).toEndAsync();
        TransactionalEventStreamWriter<byte[]> writer = writer(scene);
        for (int round = 0; round < 3; round++) {
            Transaction<byte[]> transaction = writer.beginTxn();
            write(transaction, ledger, 30);
            scale(scene, round);
            transaction.commit();
            Check.equal(Transaction.Status.COMMITTED, settled(transaction), "the state after a rolling commit");
            Transaction<byte[]> next = writer.beginTxn();
            write(next, ledger, 30);
            next.commit();
            Check.equal(Transaction.Status.COMMITTED, settled(next), "the state after the next commit");
        }
        Check.that(scene.streams().sealStream(scene.scope, "events"), "the stream was sealed");
        read.get(60, TimeUnit.SECONDS);
        ledger.settled(180);
    }

    /** A stream is split and merged six times under four writers and two readers. */
    private static void scaled(Scene scene) throws Exception {
        scene.stream("events", 1);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        Ledger ledger = new Ledger(4, 50);
        CompletableFuture<Void> read = reading(scene, ledger).toEndAsync();
        CompletableFuture<Void> written = CompletableFuture.runAsync(() -> {
            try {
                new Writing(scene, "events", ledger, 4, 50).write(5_000, 100);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        for (int round = 0; round < 6; round++) {
            scale(scene, round);
        }
        written.get(60, TimeUnit.SECONDS);
        Check.that(scene.streams().sealStream(scene.scope, "events"), "the stream was sealed");
        read.get(60, TimeUnit.SECONDS);
        ledger.settled(20_000);
    }

    /** Splits the one segment in even rounds, merges the two in odd ones. */
    private static void scale(Scene scene, int round) throws Exception {
        ScheduledExecutorService threads = new ScheduledThreadPoolExecutor(1);
        Stream stream = Stream.of(scene.scope, "events");
        Map<Double, Double> ranges = round % 2 == 0 ? Map.of(0.0, 0.5, 0.5, 1.0) : Map.of(0.0, 1.0);
        try (Controller controller = controller(scene, threads)) {
            List<Long> active = controller.getCurrentSegments(scene.scope, "events").get(30, TimeUnit.SECONDS)
                .getSegments().stream().map(segment -> segment.getSegmentId()).toList();
            Check.that(controller.scaleStream(stream, active, ranges, threads).getFuture().get(30, TimeUnit.SECONDS), "the stream was scaled");
        } finally {
            threads.shutdownNow();
        }
    }

    private static Controller controller(Scene scene, ScheduledExecutorService threads) {
        return new ControllerImpl(ControllerImplConfig.builder().clientConfig(scene.config).build(), threads);
    }

    private static TransactionalEventStreamWriter<byte[]> writer(Scene scene) {
        EventWriterConfig config = EventWriterConfig.builder().transactionTimeoutTime(60_000).build();
        return scene.keep(scene.events().createTransactionalEventWriter("writer", "events", new ByteArraySerializer(), config));
    }

    private static void write(Transaction<byte[]> transaction, Ledger ledger, int count) throws TxnFailedException {
        for (int i = 0; i < count; i++) {
            Item item = ledger.next(0, i % KEYS);
            transaction.writeEvent(Item.routingKey(item.key()), item.bytes(100));
        }
        transaction.flush();
    }

    /** Waits until what was accepted has come about. */
    private static Transaction.Status settled(Transaction<byte[]> transaction) throws Exception {
        for (int attempt = 0; attempt < 300; attempt++) {
            Transaction.Status status = transaction.checkStatus();
            if (status == Transaction.Status.COMMITTED || status == Transaction.Status.ABORTED) {
                return status;
            }
            Thread.sleep(100);
        }
        return transaction.checkStatus();
    }

    private static Reading reading(Scene scene, Ledger ledger) {
        List<EventStreamReader<byte[]>> readers = List.of(scene.reader("reader-1", "group"), scene.reader("reader-2", "group"));
        return scene.keep(new Reading(readers, 60, ledger::read));
    }

    private TransactionScenarios() { }
}
