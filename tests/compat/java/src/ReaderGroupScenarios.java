import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.stream.Checkpoint;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.Position;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.ReaderGroupNotFoundException;
import io.pravega.client.stream.ReinitializationRequiredException;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** What a reader group does besides reading: checkpoints, reset, cuts, unread bytes, readers that go away, deletion. */
final class ReaderGroupScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("checkpoint-and-reset", 90, ReaderGroupScenarios::checkpointAndReset),
        new Compat.Scenario("stream-cuts-of-a-group", 90, ReaderGroupScenarios::streamCuts),
        new Compat.Scenario("unread-bytes", 60, ReaderGroupScenarios::unreadBytes),
        new Compat.Scenario("reader-offline", 90, ReaderGroupScenarios::readerOffline),
        new Compat.Scenario("reader-group-lifetime", 60, ReaderGroupScenarios::lifetime));

    private static final int EVENTS = 2_000;
    /** What each of them takes in the stream. */
    private static final long EVENT = 100 + Reading.HEADER;

    /** After a reset to a checkpoint, new readers read exactly what came after it; the readers of before are turned away. */
    private static void checkpointAndReset(Scene scene) throws Exception {
        Ledger ledger = written(scene, 2);
        Ledger readTwice = new Ledger(1, 20);
        manualGroup(scene, "group", StreamCut.UNBOUNDED);
        ReaderGroup group = scene.keep(scene.groups().getReaderGroup("group"));
        EventStreamReader<byte[]> first = scene.reader("reader-1", "group");
        read(first, EVENTS / 2, ledger);
        Checkpoint checkpoint = checkpoint("half", group, first, ledger, readTwice);
        read(first, EVENTS / 10, readTwice);
        group.resetReaderGroup(ReaderGroupConfig.builder().disableAutomaticCheckpoints().groupRefreshTimeMillis(100)
            .startFromCheckpoint(checkpoint).build());
        turnedAway(first);
        read(scene.reader("reader-2", "group"), (int) (EVENTS - ledger.found().read()), ledger);
        ledger.settled(EVENTS);
    }

    /** {@code generateStreamCuts} while reading: from the cuts on, another group reads the rest. */
    private static void streamCuts(Scene scene) throws Exception {
        Ledger ledger = written(scene, 2);
        manualGroup(scene, "group", StreamCut.UNBOUNDED);
        ReaderGroup group = scene.keep(scene.groups().getReaderGroup("group"));
        EventStreamReader<byte[]> reader = scene.reader("reader-1", "group");
        read(reader, EVENTS / 2, ledger);
        CompletableFuture<Map<Stream, StreamCut>> cuts = group.generateStreamCuts(Background.EXECUTOR);
        for (int attempt = 0; attempt < 1_000 && !cuts.isDone(); attempt++) { // a reader takes part only while it is asked for events
            reader.readNextEvent(10);
            Thread.sleep(10);
        }
        StreamCut cut = cuts.get(20, TimeUnit.SECONDS).get(Stream.of(scene.scope, "events"));
        long rest = Reading.bytesBetween(scene.batches(), Stream.of(scene.scope, "events"), cut, StreamCut.UNBOUNDED);
        Check.that(rest > 0 && rest <= EVENTS / 2 * EVENT, "the cut lies behind what was read before: " + rest + " bytes are left");
        manualGroup(scene, "second", cut);
        EventStreamReader<byte[]> second = scene.reader("reader-2", "second");
        Map<Integer, Long> last = new HashMap<>();
        for (long n = 0; n < rest / EVENT; n++) {
            Item item = Item.of(next(second).getEvent());
            Long before = last.put(item.key(), item.sequence());
            Check.that(before == null || before == item.sequence() - 1, "the rest of a key in order: " + item + " after " + before);
        }
        last.forEach((key, sequence) -> Check.equal(EVENTS / 20 - 1L, sequence, "the last event of key " + key));
        Check.equal(null, second.readNextEvent(500).getEvent(), "an event behind the last one");
    }

    /** Counted from the last checkpoint. */
    private static void unreadBytes(Scene scene) throws Exception {
        Ledger ledger = written(scene, 2);
        Ledger after = new Ledger(1, 20);
        manualGroup(scene, "group", StreamCut.UNBOUNDED);
        ReaderGroup group = scene.keep(scene.groups().getReaderGroup("group"));
        Check.equal(EVENTS * EVENT, group.getMetrics().unreadBytes(), "unread bytes of a group without readers");
        EventStreamReader<byte[]> reader = scene.reader("reader", "group");
        read(reader, EVENTS / 2, ledger);
        checkpoint("half", group, reader, ledger, after);
        Check.equal((EVENTS - ledger.found().read()) * EVENT, group.getMetrics().unreadBytes(), "unread bytes after a checkpoint");
        read(reader, (int) (EVENTS - ledger.found().read() - after.found().read()), after);
        checkpoint("all", group, reader, after, after);
        Check.equal(0L, group.getMetrics().unreadBytes(), "unread bytes after all of it and a checkpoint");
    }

    /** A reader that is declared offline at a position: the other takes over its segments there. */
    private static void readerOffline(Scene scene) throws Exception {
        Ledger ledger = written(scene, 4);
        scene.group("group", "events", StreamCut.UNBOUNDED);
        ReaderGroup group = scene.keep(scene.groups().getReaderGroup("group"));
        EventStreamReader<byte[]> dies = scene.reader("dies", "group");
        EventStreamReader<byte[]> stays = scene.reader("stays", "group");
        Check.equal(Set.of("dies", "stays"), group.getOnlineReaders(), "the readers online");
        Position position = read(dies, EVENTS / 10, ledger);
        group.readerOffline("dies", position);
        Check.equal(Set.of("stays"), group.getOnlineReaders(), "the readers online after one went");
        long left = EVENTS - EVENTS / 10;
        new Reading(List.of(stays), 30, ledger::read).bytes(left * EVENT);
        ledger.settled(EVENTS);
        turnedAway(dies);
    }

    private static void lifetime(Scene scene) throws Exception {
        written(scene, 1);
        ReaderGroupManager groups = scene.groups();
        for (int life = 1; life <= 2; life++) {
            Check.fails(ReaderGroupNotFoundException.class, "a group before life " + life, () -> groups.getReaderGroup("group"));
            scene.group("group", "events", StreamCut.UNBOUNDED);
            ReaderGroup group = scene.keep(groups.getReaderGroup("group"));
            Check.equal("group", group.getGroupName(), "the group's name");
            Check.equal(Set.of(scene.scope + "/events"), group.getStreamNames(), "its streams");
            Check.equal(Set.of(), group.getOnlineReaders(), "its readers");
            EventStreamReader<byte[]> reader = scene.reader("reader-" + life, "group");
            Check.equal(0L, Item.of(next(reader).getEvent()).sequence(), "the first event read in life " + life);
            reader.close();
            Check.equal(Set.of(), group.getOnlineReaders(), "its readers after the only one was closed");
            groups.deleteReaderGroup("group");
            scene.forget("group");
        }
        Check.fails(ReaderGroupNotFoundException.class, "a deleted group", () -> groups.getReaderGroup("group"));
    }

    /** The stream {@code events} with EVENTS events of 20 keys, all acknowledged. */
    private static Ledger written(Scene scene, int segments) throws Exception {
        scene.stream("events", segments);
        Ledger ledger = new Ledger(1, 20);
        new Writing(scene, "events", ledger, 1, 20).write(EVENTS, 100);
        return ledger;
    }

    /** A group without checkpoints of its own. */
    private static void manualGroup(Scene scene, String name, StreamCut from) throws Exception {
        scene.group(name, ReaderGroupConfig.builder().disableAutomaticCheckpoints().groupRefreshTimeMillis(100)
            .stream(Stream.of(scene.scope, "events"), from).build());
    }

    /** The reader is no longer in its group; it learns so when it next asks for the group's state, and has events until then. */
    private static void turnedAway(EventStreamReader<byte[]> reader) {
        Check.fails(ReinitializationRequiredException.class, "reading with a reader that is not in the group", () -> {
            for (int attempt = 0; attempt < 300; attempt++) {
                reader.readNextEvent(10);
                Thread.sleep(20);
            }
            return "events";
        });
    }

    private static Position read(EventStreamReader<byte[]> reader, int events, Ledger ledger) {
        Position last = null;
        for (int n = 0; n < events; n++) {
            EventRead<byte[]> read = next(reader);
            ledger.read(read.getEvent());
            last = read.getPosition();
        }
        return last;
    }

    private static EventRead<byte[]> next(EventStreamReader<byte[]> reader) {
        for (int attempt = 0; attempt < 100; attempt++) {
            EventRead<byte[]> read = reader.readNextEvent(200);
            if (read.getEvent() != null) {
                return read;
            }
        }
        throw new AssertionError("no event within 20 s");
    }

    /**
     * Has the group's only reader read slowly until it was given the checkpoint's event, and on until the group has the checkpoint: a
     * reader takes part only while it is asked for events. What comes before that event goes to one ledger, what comes after to the other.
     */
    private static Checkpoint checkpoint(String name, ReaderGroup group, EventStreamReader<byte[]> reader, Ledger before, Ledger after) throws Exception {
        CompletableFuture<Checkpoint> done = group.initiateCheckpoint(name, Background.EXECUTOR);
        Ledger ledger = before;
        for (int attempt = 0; attempt < 1_000 && !done.isDone(); attempt++) {
            EventRead<byte[]> read = reader.readNextEvent(10);
            if (read.isCheckpoint()) {
                Check.equal(name, read.getCheckpointName(), "the checkpoint's name");
                ledger = after;
            } else if (read.getEvent() != null) {
                ledger.read(read.getEvent());
            }
            Thread.sleep(10);
        }
        Check.that(ledger == after, "the reader was given the checkpoint's event");
        return done.get(10, TimeUnit.SECONDS);
    }

    private ReaderGroupScenarios() { }
}
