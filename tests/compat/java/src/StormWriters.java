import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/**
 * The storm's writers: each on a thread of its own, its keys in turn, a bounded number of events in flight. While the server is away they
 * block in the client, which reconnects by itself; nothing here retries. An event that the client gives up counts as failed.
 */
final class StormWriters implements ScaleStorm.Source {
    private static final int IN_FLIGHT = 256;
    private static final int DRAIN_SECONDS = 120;

    /**
     * Client settings only: try to connect again after 20, 40, … up to 500 ms, and do not give up. The defaults (1 ms, ten times as long
     * each time, ten times) wait 10 s after the first second, and would measure that instead of the server. Where the controller is away
     * too, the client asks it for the segment's place at those times all the same (1.1 s, then 11 s); no setting changes that.
     */
    private static final EventWriterConfig PATIENT = EventWriterConfig.builder()
        .initialBackoffMillis(20).backoffMultiple(2).maxBackoffMillis(500).retryAttempts(1_000_000).build();

    private final Ledger ledger;
    private final int writers;
    private final int keys;
    private final int size;
    /** Events per second of each writer; 0: as many as there is room for. */
    private final int rate;
    private final Semaphore[] free;
    private final AtomicLong sent = new AtomicLong();
    private final AtomicLong acked = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private boolean paused;
    private int parked;

    StormWriters(ClientConfig config, String scope, String stream, Ledger ledger, Map<String, Integer> options) {
        this.ledger = ledger;
        writers = options.get("writers");
        keys = options.get("keys");
        size = options.get("size");
        rate = options.getOrDefault("rate", 0);
        free = new Semaphore[writers];
        EventStreamClientFactory factory = EventStreamClientFactory.withScope(scope, config);
        for (int w = 0; w < writers; w++) {
            free[w] = new Semaphore(IN_FLIGHT);
            int writer = w;
            EventStreamWriter<byte[]> out = factory.createEventWriter(stream, new ByteArraySerializer(), PATIENT);
            Thread thread = new Thread(() -> write(writer, out), "writer-" + writer);
            thread.setDaemon(true);
            thread.start();
        }
    }

    private void write(int writer, EventStreamWriter<byte[]> out) {
        try {
            long next = System.nanoTime();
            for (int n = 0; ; n = (n + 1) % keys) {
                waitWhilePaused();
                if (rate > 0) {
                    next = Math.max(next + 1_000_000_000L / rate, System.nanoTime() - 1_000_000_000L);
                    LockSupport.parkNanos(next - System.nanoTime());
                }
                free[writer].acquire();
                Item item = ledger.next(writer, n);
                out.writeEvent(Item.routingKey(item.key()), item.bytes(size)).whenComplete((done, error) -> {
                    (error == null ? acked : failed).incrementAndGet();
                    if (error != null) {
                        error.printStackTrace();
                    }
                    free[writer].release();
                });
                sent.incrementAndGet();
            }
        } catch (Throwable e) {
            e.printStackTrace();
            failed.incrementAndGet(); // this writer has ended, so no verify can be clean any more
        }
    }

    private synchronized void waitWhilePaused() throws InterruptedException {
        if (!paused) {
            return;
        }
        parked++;
        notifyAll();
        while (paused) {
            wait();
        }
        parked--;
    }

    @Override
    public synchronized void pause() {
        paused = true;
    }

    synchronized void resume() {
        paused = false;
        notifyAll();
    }

    /** Returns once there were as many acknowledgements as there may be events in flight. */
    @Override
    public void awaitFirstAcks() throws InterruptedException {
        while (acked.get() < (long) writers * IN_FLIGHT) {
            Thread.sleep(10);
        }
    }

    /** After {@link #pause}: returns null once every event is acknowledged, or what went wrong. */
    @Override
    public String awaitAcks() {
        try {
            long end = System.nanoTime() + DRAIN_SECONDS * 1_000_000_000L;
            synchronized (this) {
                while (parked < writers && failed.get() == 0 && System.nanoTime() < end) {
                    wait(100);
                }
            }
            for (Semaphore mine : free) {
                if (failed.get() > 0) {
                    return "the client gave up";
                }
                if (!mine.tryAcquire(IN_FLIGHT, Math.max(0, end - System.nanoTime()), TimeUnit.NANOSECONDS)) {
                    return "not all events acknowledged within " + DRAIN_SECONDS + " s: " + status();
                }
                mine.release(IN_FLIGHT);
            }
            return failed.get() == 0 ? null : "the client gave up";
        } catch (InterruptedException e) {
            throw new IllegalStateException("nobody interrupts the main thread", e);
        }
    }

    @Override
    public long acked() {
        return acked.get();
    }

    @Override
    public long failed() {
        return failed.get();
    }

    @Override
    public String status() {
        long handedOver = sent.get(); // first, so that what is in flight is not counted too high
        long failedNow = failed.get();
        long ackedNow = acked.get();
        return String.format("{\"sent\":%d,\"acked\":%d,\"inflight\":%d,\"failed\":%d}",
            handedOver, ackedNow, Math.max(0, handedOver - ackedNow - failedNow), failedNow);
    }
}
