import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/** Writes ledger items with several event writers at once, each with its own keys in turn, and waits until all are acknowledged. */
final class Writing {
    private static final int IN_FLIGHT = 1024;

    private final Scene scene;
    private final String stream;
    private final Ledger ledger;
    private final int writers;
    private final int keysPerWriter;
    private EventWriterConfig config = EventWriterConfig.builder().build();
    private int inFlight = IN_FLIGHT;

    Writing(Scene scene, String stream, Ledger ledger, int writers, int keysPerWriter) {
        this.scene = scene;
        this.stream = stream;
        this.ledger = ledger;
        this.writers = writers;
        this.keysPerWriter = keysPerWriter;
    }

    Writing with(EventWriterConfig writerConfig) {
        config = writerConfig;
        return this;
    }

    /** At most so many events of one writer are not acknowledged yet. */
    Writing inFlight(int events) {
        inFlight = events;
        return this;
    }

    /** Each writer writes {@code eventsEach} events of {@code size} bytes. */
    void write(int eventsEach, int size) throws Exception {
        List<EventStreamWriter<byte[]>> open = new ArrayList<>();
        for (int w = 0; w < writers; w++) {
            open.add(scene.writer(stream, config));
        }
        ExecutorService threads = Executors.newFixedThreadPool(writers, task -> {
            Thread thread = new Thread(task, "writer");
            thread.setDaemon(true);
            return thread;
        });
        try {
            List<Future<?>> running = new ArrayList<>();
            for (int w = 0; w < writers; w++) {
                int writer = w;
                running.add(threads.submit(() -> {
                    one(open.get(writer), writer, eventsEach, size);
                    return null;
                }));
            }
            for (Future<?> writer : running) {
                writer.get();
            }
        } finally {
            threads.shutdownNow();
        }
        open.forEach(EventStreamWriter::close);
    }

    private void one(EventStreamWriter<byte[]> out, int writer, int events, int size) throws Exception {
        Semaphore free = new Semaphore(inFlight);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        for (int n = 0; n < events && failure.get() == null; n++) {
            free.acquire();
            Item item = ledger.next(writer, n % keysPerWriter);
            CompletableFuture<Void> acked = out.writeEvent(Item.routingKey(item.key()), item.bytes(size));
            acked.whenComplete((done, error) -> {
                if (error != null) {
                    failure.compareAndSet(null, error);
                }
                free.release();
            });
        }
        Check.that(free.tryAcquire(inFlight, 60, TimeUnit.SECONDS), "all events of writer " + writer + " were acknowledged within 60 s");
        if (failure.get() != null) {
            throw new IllegalStateException("an event was not acknowledged", failure.get());
        }
    }
}
