import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.Transaction;
import io.pravega.client.stream.TransactionalEventStreamWriter;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * The storm's writers when it writes transactions. One is committed, and the next begun at once: commits are carried out in the order in which they were asked for. Every fifth transaction is aborted and its events are
 * written again by the next one, so that an event of an aborted one that becomes visible is found as a duplicate. The client shares
 * connections: otherwise it opens one for each segment of each transaction, and runs out of memory after half a minute.
 */
final class TransactionWriters extends Writers {
    private static final int DRAIN_SECONDS = 60;
    private static final int ABORT_EVERY = 5;
    /** Committing ones of a writer, at most: beyond that it waits for the oldest. */
    private static final int COMMITTING = 4;

    private final int events;
    private final Thread[] threads;
    private volatile boolean paused;

    TransactionWriters(ClientConfig config, String scope, String stream, Ledger ledger, Map<String, Integer> options) {
        super(ledger, options);
        events = options.get("transaction");
        threads = new Thread[writers];
        EventStreamClientFactory factory = EventStreamClientFactory.withScope(scope, config);
        for (int w = 0; w < threads.length; w++) {
            int writer = w;
            TransactionalEventStreamWriter<byte[]> out = factory.createTransactionalEventWriter("writer-" + w, stream,
                new ByteArraySerializer(), EventWriterConfig.builder().transactionTimeoutTime(30_000).enableConnectionPooling(true).build());
            threads[w] = start(w, () -> write(writer, out));
        }
    }

    private void write(int writer, TransactionalEventStreamWriter<byte[]> out) throws Exception {
        List<Transaction<byte[]>> committing = new ArrayList<>();
        long next = System.nanoTime();
        for (int n = 0; !paused; n++) {
            next = pace(next, events);
            List<Item> items = new ArrayList<>();
            for (int k = 0; k < events; k++) {
                items.add(ledger.next(writer, (n * events + k) % keys));
            }
            if (n % ABORT_EVERY == ABORT_EVERY - 1) {
                fill(out.beginTxn(), items).abort();
            }
            Transaction<byte[]> transaction = fill(out.beginTxn(), items);
            transaction.commit();
            sent.addAndGet(items.size());
            committing.add(transaction);
            if (committing.size() >= COMMITTING) {
                settle(committing.remove(0));
            }
        }
        while (!committing.isEmpty()) {
            settle(committing.remove(0));
        }
    }

    private Transaction<byte[]> fill(Transaction<byte[]> transaction, List<Item> items) throws Exception {
        for (Item item : items) {
            transaction.writeEvent(Item.routingKey(item.key()), item.bytes(size));
        }
        return transaction;
    }

    private void settle(Transaction<byte[]> transaction) throws Exception {
        long end = System.nanoTime() + DRAIN_SECONDS * 1_000_000_000L;
        for (Transaction.Status status = transaction.checkStatus(); status != Transaction.Status.COMMITTED; status = transaction.checkStatus()) {
            Check.that(status == Transaction.Status.COMMITTING, "a transaction that was committed is " + status);
            Check.that(System.nanoTime() < end, "a transaction was committed within " + DRAIN_SECONDS + " s");
            Thread.sleep(10);
        }
        acked.addAndGet(events);
    }

    /** As many as there are events in one transaction of each. */
    @Override
    long enough() {
        return (long) writers * events;
    }

    @Override
    void pause() {
        paused = true;
    }

    @Override
    String awaitAcks() {
        try {
            for (Thread thread : threads) {
                thread.join(TimeUnit.SECONDS.toMillis(DRAIN_SECONDS));
                if (thread.isAlive()) {
                    return "a writer did not end within " + DRAIN_SECONDS + " s";
                }
            }
            return error();
        } catch (InterruptedException e) {
            throw new IllegalStateException("nobody interrupts the main thread", e);
        }
    }
}
