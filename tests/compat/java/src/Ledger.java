import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Checks that every event written is read once, intact, and in the order of its key. A writer takes the next item of a key from here;
 * readers, of any number, hand in what they read. A key must be written by one writer, in the order in which its items were taken, and
 * hand-over of a segment between readers must keep the order (a reader group does).
 */
final class Ledger {
    /** What was found so far; {@code lost} counts what was written and not read yet. */
    record Found(long written, long read, long lost, long duplicated, long reordered, long corrupt) {
        boolean clean() {
            return read >= written && lost == 0 && duplicated == 0 && reordered == 0 && corrupt == 0;
        }
    }

    /** One key: the next sequence number to write, the next expected, and the ranges [from, to) that reading has jumped over. */
    private static final class Key {
        long written;
        long next;
        final TreeMap<Long, Long> missing = new TreeMap<>();
    }

    private final Key[] keys;
    private final int keysPerWriter;
    private final AtomicLong read = new AtomicLong();
    private final AtomicLong duplicated = new AtomicLong();
    private final AtomicLong reordered = new AtomicLong();
    private final AtomicLong corrupt = new AtomicLong();

    /** Keys are numbered from 0; those of writer n are {@code n * keysPerWriter} and the following ones. */
    Ledger(int writers, int keysPerWriter) {
        this.keysPerWriter = keysPerWriter;
        this.keys = new Key[writers * keysPerWriter];
        for (int k = 0; k < keys.length; k++) {
            keys[k] = new Key();
        }
    }

    /** The next item of the writer's {@code n}-th key, counted as written. */
    Item next(int writer, int n) {
        int key = writer * keysPerWriter + n;
        synchronized (keys[key]) {
            return new Item(writer, key, keys[key].written++);
        }
    }

    /** Takes note of an event read. */
    void read(byte[] event) {
        read.incrementAndGet();
        Item item = Item.of(event);
        if (item == null || item.key() < 0 || item.key() >= keys.length || item.writer() != item.key() / keysPerWriter) {
            corrupt.incrementAndGet();
            return;
        }
        Key key = keys[item.key()];
        synchronized (key) {
            long sequence = item.sequence();
            if (sequence < 0 || sequence >= key.written) {
                corrupt.incrementAndGet(); // well-formed, but never written
            } else if (sequence >= key.next) {
                if (sequence > key.next) {
                    key.missing.put(key.next, sequence);
                }
                key.next = sequence + 1;
            } else if (wasMissing(key, sequence)) {
                reordered.incrementAndGet();
            } else {
                duplicated.incrementAndGet();
            }
        }
    }

    private static boolean wasMissing(Key key, long sequence) {
        Map.Entry<Long, Long> range = key.missing.floorEntry(sequence);
        if (range == null || sequence >= range.getValue()) {
            return false;
        }
        key.missing.remove(range.getKey());
        if (range.getKey() < sequence) {
            key.missing.put(range.getKey(), sequence);
        }
        if (sequence + 1 < range.getValue()) {
            key.missing.put(sequence + 1, range.getValue());
        }
        return true;
    }

    Found found() {
        long written = 0;
        long lost = 0;
        for (Key key : keys) {
            synchronized (key) {
                written += key.written;
                lost += key.written - key.next;
                for (Map.Entry<Long, Long> range : key.missing.entrySet()) {
                    lost += range.getValue() - range.getKey();
                }
            }
        }
        return new Found(written, read.get(), lost, duplicated.get(), reordered.get(), corrupt.get());
    }

    /** Fails unless exactly {@code events} were written and all of them read once, in order. */
    void settled(long events) {
        Found found = found();
        Check.that(found.clean() && found.written() == events && found.read() == events, events + " events read once and in order: " + found);
    }
}
