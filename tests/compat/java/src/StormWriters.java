import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;

/**
 * The storm's writers when it writes events, a bounded number of them in flight. While the server is away they block in the client, which
 * reconnects by itself; nothing here retries. An event that the client gives up counts as failed.
 */
final class StormWriters extends Writers {
    private static final int IN_FLIGHT = 256;
    private static final int DRAIN_SECONDS = 120;

    /**
     * Client settings only: try to connect again after 20, 40, … up to 500 ms, and do not give up. The defaults (1 ms, ten times as long
     * each time, ten times) wait 10 s after the first second, and would measure that instead of the server. Where the controller is away
     * too, the client asks it for the segment's place at those times all the same (1.1 s, then 11 s); no setting changes that.
     */
    private static final EventWriterConfig PATIENT = EventWriterConfig.builder()
        .initialBackoffMillis(20).backoffMultiple(2).maxBackoffMillis(500).retryAttempts(1_000_000).build();

    private final Semaphore[] free;
    private boolean paused;
    private int parked;

    StormWriters(ClientConfig config, String scope, String stream, Ledger ledger, Map<String, Integer> options) {
        super(ledger, options);
        free = new Semaphore[writers];
        EventStreamClientFactory factory = EventStreamClientFactory.withScope(scope, config);
        for (int w = 0; w < writers; w++) {
            free[w] = new Semaphore(IN_FLIGHT);
            int writer = w;
            EventStreamWriter<byte[]> out = factory.createEventWriter(stream, new ByteArraySerializer(), PATIENT);
            start(writer, () -> write(writer, out));
        }
    }

    private void write(int writer, EventStreamWriter<byte[]> out) throws Exception {
        long next = System.nanoTime();
        for (int n = 0; ; n = (n + 1) % keys) {
            waitWhilePaused();
            next = pace(next, 1);
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
    synchronized void pause() {
        paused = true;
    }

    synchronized void resume() {
        paused = false;
        notifyAll();
    }

    /** As many as there may be events in flight. */
    @Override
    long enough() {
        return (long) writers * IN_FLIGHT;
    }

    @Override
    String awaitAcks() {
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
}
