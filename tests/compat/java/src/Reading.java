import io.pravega.client.BatchClientFactory;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.function.Consumer;

/**
 * Reads with several readers of one group at once, each on a thread of its own, and hands every event to a sink, which is called by all
 * of them. Ends when the stream has ended, or when as many bytes have been read as lie between two cuts; fails when nothing comes for
 * longer than the limit.
 */
final class Reading implements AutoCloseable {
    /** What an event takes in a segment besides its bytes. */
    static final int HEADER = 8;
    private static final int POLL_MILLIS = 200;

    private final List<EventStreamReader<byte[]>> readers;
    private final Consumer<byte[]> sink;
    private final long idleLimitNanos;
    private final AtomicLong bytes = new AtomicLong();
    private final AtomicLongArray events;
    private volatile long lastEvent;
    private volatile boolean stopped;

    Reading(List<EventStreamReader<byte[]>> readers, int idleLimitSeconds, Consumer<byte[]> sink) {
        this.readers = readers;
        this.sink = sink;
        this.idleLimitNanos = idleLimitSeconds * 1_000_000_000L;
        this.events = new AtomicLongArray(readers.size());
    }

    /** How many bytes of events, headers included, lie between two cuts of a stream ({@code UNBOUNDED}: its head, its tail). */
    static long bytesBetween(BatchClientFactory batches, Stream stream, StreamCut from, StreamCut to) {
        AtomicLong sum = new AtomicLong();
        batches.getSegments(stream, from, to).getIterator()
            .forEachRemaining(range -> sum.addAndGet(range.getEndOffset() - range.getStartOffset()));
        return sum.get();
    }

    /** Reads until every reader was told that the stream is sealed and read to its end. */
    void toEnd() throws Exception {
        run(Long.MAX_VALUE);
    }

    /** Reads until {@code target} bytes were read, headers included; {@link #bytesBetween} says how many to expect. */
    void bytes(long target) throws Exception {
        run(target);
    }

    /** Starts {@link #toEnd} and returns at once. */
    CompletableFuture<Void> toEndAsync() {
        return CompletableFuture.runAsync(() -> {
            try {
                toEnd();
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        }, task -> daemon("reading", task));
    }

    /** How many events the n-th reader has read. */
    long eventsOf(int reader) {
        return events.get(reader);
    }

    /** Closes the readers: they leave their group. */
    @Override
    public void close() {
        readers.forEach(EventStreamReader::close);
    }

    private void run(long target) throws Exception {
        lastEvent = System.nanoTime();
        List<CompletableFuture<Void>> running = new ArrayList<>();
        for (int n = 0; n < readers.size(); n++) {
            int reader = n;
            running.add(CompletableFuture.runAsync(() -> one(reader, target), task -> daemon("reader-" + reader, task)));
        }
        try {
            CompletableFuture.allOf(running.toArray(new CompletableFuture[0])).get();
        } catch (ExecutionException e) {
            throw e.getCause() instanceof Exception cause ? cause : new IllegalStateException(e.getCause());
        }
    }

    private void one(int n, long target) {
        try {
            while (!stopped && bytes.get() < target) {
                EventRead<byte[]> read = readers.get(n).readNextEvent(POLL_MILLIS);
                if (read.getEvent() != null) {
                    sink.accept(read.getEvent());
                    bytes.addAndGet(HEADER + read.getEvent().length);
                    events.incrementAndGet(n);
                    lastEvent = System.nanoTime();
                } else if (read.isReadCompleted()) {
                    return;
                } else if (System.nanoTime() - lastEvent > idleLimitNanos) {
                    throw new IllegalStateException("nothing to read for " + idleLimitNanos / 1_000_000_000L + " s, after " + bytes
                        + (target == Long.MAX_VALUE ? " bytes, and the end not reached" : " of " + target + " bytes"));
                }
            }
        } catch (RuntimeException e) {
            stopped = true; // the others would wait for what this one holds
            throw e;
        }
    }

    private static void daemon(String name, Runnable task) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        thread.start();
    }
}
