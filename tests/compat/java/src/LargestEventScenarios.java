import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.Serializer;
import io.pravega.client.stream.StreamCut;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** Events of the largest size a client writes in one append, 8 MiB, and larger ones. */
final class LargestEventScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("event-of-8-mib", 60, LargestEventScenarios::one),
        new Compat.Scenario("events-of-8-mib-by-32-writers", 240, LargestEventScenarios::byManyWriters),
        new Compat.Scenario("events-of-9-mib", 120, LargestEventScenarios::large),
        new Compat.Scenario("event-over-the-limit", 60, LargestEventScenarios::overTheLimit));

    private static final int SIZE = 8_388_608;
    private static final int LARGE = 9 << 20;

    private static void one(Scene scene) throws Exception {
        Check.equal(SIZE, Serializer.MAX_EVENT_SIZE, "the client's limit");
        written(scene, 1, 1, SIZE, EventWriterConfig.builder().build());
    }

    /** 32 events of 8 MiB in flight at once, twice: 512 MiB. */
    private static void byManyWriters(Scene scene) throws Exception {
        written(scene, 32, 2, SIZE, EventWriterConfig.builder().build());
    }

    /** The client writes the pieces of such an event to a transient segment and merges that. */
    private static void large(Scene scene) throws Exception {
        written(scene, 2, 3, LARGE, EventWriterConfig.builder().enableLargeEvents(true).build());
    }

    private static void written(Scene scene, int writers, int eventsEach, int size, EventWriterConfig config) throws Exception {
        scene.stream("events", writers == 1 ? 1 : 4);
        Ledger ledger = new Ledger(writers, 1);
        new Writing(scene, "events", ledger, writers, 1).with(config).inFlight(1).write(eventsEach, size);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        new Reading(List.of(scene.reader("reader-1", "group"), scene.reader("reader-2", "group")), 60, event -> {
            Item item = Item.of(event);
            Check.that(item != null && Arrays.equals(item.bytes(size), event), "an event read back equals the one written");
            ledger.read(event);
        }).bytes(EventScenarios.stored(scene));
        ledger.settled((long) writers * eventsEach);
    }

    /** One byte more is refused by the client, which goes on with the next event. */
    private static void overTheLimit(Scene scene) throws Exception {
        scene.stream("events", 1);
        EventStreamWriter<byte[]> writer = scene.writer("events");
        Check.fails(IllegalArgumentException.class, "an event of 8 MiB and a byte", () -> writer.writeEvent("key", new byte[SIZE + 1]));
        writer.writeEvent("key", new byte[92]).get(30, TimeUnit.SECONDS);
        Check.equal(100L, EventScenarios.stored(scene), "bytes in the stream");
    }

    private LargestEventScenarios() { }
}
