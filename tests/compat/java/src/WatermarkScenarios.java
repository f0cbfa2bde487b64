import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.TimeWindow;
import io.pravega.client.stream.Transaction;
import io.pravega.client.stream.TransactionalEventStreamWriter;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.util.List;

/** Writers note time, readers see how far it has got. */
final class WatermarkScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("time-window", 120, scene -> timeWindow(scene, 1)),
        new Compat.Scenario("time-window-of-two-writers", 120, scene -> timeWindow(scene, 2)),
        new Compat.Scenario("time-window-of-transactions", 120, WatermarkScenarios::transactions));

    private static final int EVENTS = 4_000;

    /**
     * Each writer notes time with every event, the second one 5 behind. What a reader is told as the lower bound comes, rises, and is
     * never later than what the slowest writer noted last.
     */
    private static void timeWindow(Scene scene, int writers) throws Exception {
        scene.stream("events", 1);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        EventStreamWriter<byte[]> first = scene.writer("events");
        EventStreamWriter<byte[]> second = writers == 2 ? scene.writer("events") : null;
        EventStreamReader<byte[]> reader = scene.reader("reader", "group");
        Stream stream = Stream.of(scene.scope, "events");
        Long lower = null;
        int rises = 0;
        long time = 1_000;
        for (int n = 0; n < EVENTS && rises < 3; n++, time += 10) {
            note(first, time);
            if (second != null) {
                note(second, time - 5);
            }
            for (int read = 0; read < writers; read++) {
                awaitEvent(reader);
            }
            TimeWindow window = reader.getCurrentTimeWindow(stream);
            Long now = window.getLowerTimeBound();
            if (now != null) {
                Check.that(lower == null || now >= lower, "the lower bound rises: " + now + " after " + lower);
                Check.that(now <= time, "the lower bound " + now + " is not after what was noted last, " + time);
                Check.that(window.getUpperTimeBound() == null || window.getUpperTimeBound() >= now, "the bounds are in order");
                rises += now.equals(lower) ? 0 : 1;
                lower = now;
            }
            Thread.sleep(20);
        }
        Check.that(rises == 3, "the lower bound rose " + rises + " times while time was noted " + (time - 1_000) / 10 + " times");
    }

    /** The time that comes with a commit is what a reader of its events is told, once it is behind them. */
    private static void transactions(Scene scene) throws Exception {
        scene.stream("events", 1);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        EventWriterConfig config = EventWriterConfig.builder().transactionTimeoutTime(60_000).build();
        TransactionalEventStreamWriter<byte[]> writer =
            scene.keep(scene.events().createTransactionalEventWriter("writer", "events", new ByteArraySerializer(), config));
        EventStreamReader<byte[]> reader = scene.reader("reader", "group");
        Stream stream = Stream.of(scene.scope, "events");
        Long lower = null;
        int rises = 0;
        long time = 1_000;
        for (int n = 0; n < EVENTS / 10 && rises < 3; n++, time += 10) {
            Transaction<byte[]> transaction = writer.beginTxn();
            transaction.writeEvent("key", new byte[] {1});
            transaction.commit(time);
            awaitEvent(reader);
            Long now = reader.getCurrentTimeWindow(stream).getLowerTimeBound();
            if (now != null) {
                Check.that(lower == null || now >= lower, "the lower bound rises: " + now + " after " + lower);
                Check.that(now <= time, "the lower bound " + now + " is not after the last commit's time, " + time);
                rises += now.equals(lower) ? 0 : 1;
                lower = now;
            }
            Thread.sleep(100);
        }
        Check.that(rises == 3, "the lower bound rose " + rises + " times in " + (time - 1_000) / 10 + " transactions");
    }

    /** Checkpoints come in between. */
    private static void awaitEvent(EventStreamReader<byte[]> reader) {
        for (int attempt = 0; attempt < 100; attempt++) {
            if (reader.readNextEvent(200).getEvent() != null) {
                return;
            }
        }
        Check.that(false, "an event was read");
    }

    private static void note(EventStreamWriter<byte[]> writer, long time) throws Exception {
        writer.writeEvent("key", new byte[] {1}).get();
        writer.noteTime(time);
    }

    private WatermarkScenarios() { }
}
