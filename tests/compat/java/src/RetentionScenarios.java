import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.RetentionPolicy;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.StreamCut;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * What a stream keeps: by size, by time, and no less than subscribers have still to read. For a server that looks after its streams
 * every second or so; the official one does every half an hour.
 */
final class RetentionScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("retention-by-size", 90, RetentionScenarios::bySize),
        new Compat.Scenario("retention-by-time", 90, RetentionScenarios::byTime),
        new Compat.Scenario("retention-by-consumption", 90, RetentionScenarios::byConsumption));

    private static final int PAYLOAD = 92;
    /** What each event takes in the stream. */
    private static final long EVENT = PAYLOAD + Reading.HEADER;
    private static final long PATIENCE = TimeUnit.SECONDS.toNanos(60);

    /** The oldest events go, the newest stay: at least as many bytes as the policy says. */
    private static void bySize(Scene scene) throws Exception {
        long kept = 1_000 * EVENT;
        EventStreamWriter<byte[]> writer = stream(scene, RetentionPolicy.bySizeBytes(kept));
        int written = 0;
        for (long begin = System.nanoTime(); dropped(scene) == 0; written += 100) {
            Check.that(System.nanoTime() - begin < PATIENCE, "something is dropped within a minute");
            write(writer, written, 100);
            long stored = EventScenarios.stored(scene);
            Check.that(stored >= Math.min(kept, written * EVENT), "no less than the policy says is kept: " + stored + " bytes");
        }
        remaining(scene, written);
    }

    /** What is dropped is older than the policy says. */
    private static void byTime(Scene scene) throws Exception {
        long age = 3_000;
        EventStreamWriter<byte[]> writer = stream(scene, RetentionPolicy.byTime(Duration.ofMillis(age)));
        List<Long> acknowledged = new ArrayList<>();
        long begin = System.nanoTime();
        int dropped = 0;
        for (int looks = 0; looks < 3; looks += dropped > 0 ? 1 : 0) {
            Check.that(System.nanoTime() - begin < PATIENCE, "something is dropped within a minute");
            write(writer, acknowledged.size(), 1);
            acknowledged.add(System.nanoTime());
            dropped = dropped(scene);
            for (int n = 0; n < dropped; n++) {
                long was = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - acknowledged.get(n));
                Check.that(was >= age, "event " + n + " was dropped after " + was + " ms");
            }
            Thread.sleep(20);
        }
        Check.that(dropped < acknowledged.size(), "the newest event is kept");
    }

    /** A subscriber holds back what it has not released, whatever the size; then exactly that goes. */
    private static void byConsumption(Scene scene) throws Exception {
        EventStreamWriter<byte[]> writer = stream(scene, RetentionPolicy.bySizeBytes(10 * EVENT));
        StreamCut start = scene.info("events").getTailStreamCut();
        Stream stream = Stream.of(scene.scope, "events");
        scene.group("group", ReaderGroupConfig.builder().disableAutomaticCheckpoints().stream(stream)
            .retentionType(ReaderGroupConfig.StreamDataRetention.MANUAL_RELEASE_AT_USER_STREAMCUT).build());
        ReaderGroup group = scene.keep(scene.groups().getReaderGroup("group"));
        group.updateRetentionStreamCut(Map.of(stream, start));
        write(writer, 0, 500);
        StreamCut half = scene.info("events").getTailStreamCut();
        write(writer, 500, 500);
        Thread.sleep(5_000);
        Check.equal(0, dropped(scene), "events dropped before they were released");
        group.updateRetentionStreamCut(Map.of(stream, half));
        for (long begin = System.nanoTime(); dropped(scene) < 500; Thread.sleep(50)) {
            Check.that(System.nanoTime() - begin < PATIENCE, "what was released is dropped within a minute");
        }
        Thread.sleep(2_000);
        Check.equal(500, dropped(scene), "events dropped");
        remaining(scene, 1_000);
    }

    private static EventStreamWriter<byte[]> stream(Scene scene, RetentionPolicy policy) {
        StreamConfiguration config = StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(1)).retentionPolicy(policy).build();
        Check.that(scene.streams().createStream(scene.scope, "events", config), "the stream was created");
        return scene.writer("events");
    }

    /** Writes events that hold their number. */
    private static void write(EventStreamWriter<byte[]> writer, int from, int count) throws Exception {
        for (int n = from; n < from + count - 1; n++) {
            writer.writeEvent("key", event(n));
        }
        writer.writeEvent("key", event(from + count - 1)).get(30, TimeUnit.SECONDS);
    }

    private static byte[] event(int number) {
        return ByteBuffer.allocate(PAYLOAD).putInt(0, number).array();
    }

    /** Returns how many events the stream has lost at its head: whole ones. */
    private static int dropped(Scene scene) throws Exception {
        long offset = scene.info("events").getHeadStreamCut().asImpl().getPositions().values().iterator().next();
        Check.equal(0L, offset % EVENT, "bytes between the head and the event before");
        return (int) (offset / EVENT);
    }

    /** A new group reads what is left, all of it and in order. */
    private static void remaining(Scene scene, int written) throws Exception {
        Check.that(scene.streams().sealStream(scene.scope, "events"), "the stream was sealed");
        scene.group("rest", "events", StreamCut.UNBOUNDED);
        EventStreamReader<byte[]> reader = scene.reader("reader", "rest");
        int next = -1;
        for (long begin = System.nanoTime(); next < written; ) {
            Check.that(System.nanoTime() - begin < PATIENCE, "what is left is read within a minute");
            byte[] event = reader.readNextEvent(100).getEvent();
            if (event != null) {
                int number = ByteBuffer.wrap(event).getInt();
                Check.that(next == -1 ? number > 0 : number == next, "after event " + (next - 1) + " comes " + number);
                next = number + 1;
            }
        }
    }

    private RetentionScenarios() { }
}
