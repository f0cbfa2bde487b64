import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Events written by event writers and read back through a reader group of two readers. */
final class EventScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("events-1-segment", 120, scene -> hundredThousand(scene, 1)),
        new Compat.Scenario("events-4-segments", 120, scene -> hundredThousand(scene, 4)),
        new Compat.Scenario("pooled-connections", 90, scene -> connections(scene, true)),
        new Compat.Scenario("connections-of-their-own", 90, scene -> connections(scene, false)),
        new Compat.Scenario("empty-event-and-null-key", 60, EventScenarios::emptyAndKeyless),
        new Compat.Scenario("events-written-together", 60, EventScenarios::writtenTogether),
        new Compat.Scenario("flush", 60, EventScenarios::flush));

    private static final int WRITERS = 4;
    private static final int KEYS_PER_WRITER = 250;

    /** 100,000 events of 100 B with 1,000 keys, read while they are written and until the sealed stream's end. */
    private static void hundredThousand(Scene scene, int segments) throws Exception {
        scene.stream("events", segments);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        Ledger ledger = new Ledger(WRITERS, KEYS_PER_WRITER);
        Reading reading = twoReaders(scene, "group", ledger);
        CompletableFuture<Void> read = reading.toEndAsync();
        new Writing(scene, "events", ledger, WRITERS, KEYS_PER_WRITER).write(100_000 / WRITERS, 100);
        Check.that(scene.streams().sealStream(scene.scope, "events"), "the stream was sealed");
        read.get(60, TimeUnit.SECONDS);
        ledger.settled(100_000);
        if (segments > 1) {
            Check.that(reading.eventsOf(0) > 0 && reading.eventsOf(1) > 0, "the readers shared the segments");
        }
    }

    /** Eight writers on four segments, with one connection for each writer and segment, or all on the client's few pooled ones. */
    private static void connections(Scene scene, boolean pooled) throws Exception {
        scene.stream("events", 4);
        Ledger ledger = new Ledger(8, 50);
        new Writing(scene, "events", ledger, 8, 50).with(EventWriterConfig.builder().enableConnectionPooling(pooled).build()).write(5_000, 100);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        twoReaders(scene, "group", ledger).bytes(stored(scene));
        ledger.settled(40_000);
    }

    private static void emptyAndKeyless(Scene scene) throws Exception {
        scene.stream("events", 1);
        EventStreamWriter<byte[]> writer = scene.writer("events");
        writer.writeEvent("key", new byte[0]);
        writer.writeEvent(new byte[0]);
        for (int n = 0; n < 100; n++) {
            writer.writeEvent(new byte[] {(byte) n});
        }
        writer.flush();
        scene.group("group", "events", StreamCut.UNBOUNDED);
        List<ByteBuffer> read = Collections.synchronizedList(new ArrayList<>());
        new Reading(List.of(scene.reader("reader", "group")), 30, event -> read.add(ByteBuffer.wrap(event))).bytes(stored(scene));
        List<ByteBuffer> expected = new ArrayList<>(List.of(ByteBuffer.allocate(0), ByteBuffer.allocate(0)));
        for (int n = 0; n < 100; n++) {
            expected.add(ByteBuffer.wrap(new byte[] {(byte) n}));
        }
        Check.equal(expected, read, "the events of one segment, in the order of writing");
    }

    /** {@code writeEvents}: many events of one key in one append. */
    private static void writtenTogether(Scene scene) throws Exception {
        scene.stream("events", 4);
        Ledger ledger = new Ledger(1, 10);
        EventStreamWriter<byte[]> writer = scene.writer("events");
        List<CompletableFuture<Void>> acked = new ArrayList<>();
        for (int n = 0; n < 100; n++) {
            List<byte[]> together = new ArrayList<>();
            for (int m = 0; m < 50; m++) {
                together.add(ledger.next(0, n % 10).bytes(Item.SMALLEST + m));
            }
            acked.add(writer.writeEvents(Item.routingKey(n % 10), together));
        }
        CompletableFuture.allOf(acked.toArray(new CompletableFuture[0])).get(30, TimeUnit.SECONDS);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        twoReaders(scene, "group", ledger).bytes(stored(scene));
        ledger.settled(5_000);
    }

    /** After {@code flush} everything written before is in the segment, though nobody has waited for an acknowledgement. */
    private static void flush(Scene scene) throws Exception {
        scene.stream("events", 1);
        EventStreamWriter<byte[]> writer = scene.writer("events");
        writer.flush();
        List<CompletableFuture<Void>> acked = new ArrayList<>();
        for (int round = 1; round <= 5; round++) {
            for (int n = 0; n < 1_000; n++) {
                acked.add(writer.writeEvent("key", new byte[92]));
            }
            writer.flush();
            Check.equal(round * 1_000 * 100L, stored(scene), "bytes in the stream after flush " + round);
            CompletableFuture.allOf(acked.toArray(new CompletableFuture[0])).get(10, TimeUnit.SECONDS);
        }
    }

    /** Two readers of the group, whose events go to the ledger. */
    static Reading twoReaders(Scene scene, String group, Ledger ledger) {
        List<EventStreamReader<byte[]>> readers = List.of(scene.reader("reader-1", group), scene.reader("reader-2", group));
        return new Reading(readers, 30, ledger::read);
    }

    /** The bytes of all events that are in the stream {@code events}, headers included. */
    static long stored(Scene scene) {
        return Reading.bytesBetween(scene.batches(), Stream.of(scene.scope, "events"), StreamCut.UNBOUNDED, StreamCut.UNBOUNDED);
    }

    private EventScenarios() { }
}
