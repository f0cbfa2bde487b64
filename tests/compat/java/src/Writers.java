import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/**
 * A storm's writers: each on a thread of its own, its keys in turn, counted, at a rate if one is asked for. What they write, and when it
 * is acknowledged, is the subclass's. One that fails counts, so that no verify can be clean any more.
 */
abstract class Writers {
    final Ledger ledger;
    final int writers;
    final int keys;
    final int size;
    final AtomicLong sent = new AtomicLong();
    final AtomicLong acked = new AtomicLong();
    final AtomicLong failed = new AtomicLong();
    /** Events per second of each writer; 0: as many as the server takes. */
    private final int rate;
    private volatile String error;

    Writers(Ledger ledger, Map<String, Integer> options) {
        this.ledger = ledger;
        writers = options.get("writers");
        keys = options.get("keys");
        size = options.get("size");
        rate = options.getOrDefault("rate", 0);
    }

    /** What one writer does on its thread. */
    interface Work {
        void run() throws Exception;
    }

    /** Starts the writer of that number. */
    final Thread start(int writer, Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (Throwable e) {
                e.printStackTrace();
                error = e.toString();
                failed.incrementAndGet();
            }
        }, "writer-" + writer);
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    /** Waits until so many events after those that were due at {@code next} are due, and returns when that is. */
    final long pace(long next, int events) {
        if (rate == 0) {
            return next;
        }
        long due = Math.max(next + events * 1_000_000_000L / rate, System.nanoTime() - 1_000_000_000L);
        LockSupport.parkNanos(due - System.nanoTime());
        return due;
    }

    /** Returns once there were enough acknowledgements to say that writing goes well. */
    final void awaitFirstAcks() throws InterruptedException {
        while (acked.get() < enough()) {
            if (error != null) {
                throw new IllegalStateException(error);
            }
            Thread.sleep(10);
        }
    }

    /** How many acknowledgements that takes. */
    abstract long enough();

    /** Writes no new events; those in flight go on. */
    abstract void pause();

    /** After {@link #pause}: returns null once every event is acknowledged, or what went wrong. */
    abstract String awaitAcks();

    /** What went wrong, or null. */
    final String error() {
        return error;
    }

    final String status() {
        long handedOver = sent.get(); // first, so that what is in flight is not counted too high
        long failedNow = failed.get();
        long ackedNow = acked.get();
        return String.format("{\"sent\":%d,\"acked\":%d,\"inflight\":%d,\"failed\":%d}",
            handedOver, ackedNow, Math.max(0, handedOver - ackedNow - failedNow), failedNow);
    }
}
