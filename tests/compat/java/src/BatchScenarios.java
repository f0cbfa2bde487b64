import io.pravega.client.BatchClientFactory;
import io.pravega.client.batch.SegmentIterator;
import io.pravega.client.batch.SegmentRange;
import io.pravega.client.batch.StreamSegmentsIterator;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.util.ArrayList;
import java.util.List;

/** The batch client: the segments between two cuts, each read on its own. */
final class BatchScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("batch-read", 60, BatchScenarios::all),
        new Compat.Scenario("batch-read-between-cuts", 60, BatchScenarios::betweenCuts));

    private static void all(Scene scene) throws Exception {
        scene.stream("events", 4);
        Ledger ledger = new Ledger(2, 50);
        new Writing(scene, "events", ledger, 2, 50).write(5_000, 100);
        Check.equal(4, read(scene, StreamCut.UNBOUNDED, StreamCut.UNBOUNDED, ledger), "segments of the stream");
        ledger.settled(10_000);
        Check.that(scene.streams().sealStream(scene.scope, "events"), "the stream was sealed");
    }

    /** Of three thirds of a stream, exactly the middle one lies between the cuts taken at its borders. */
    private static void betweenCuts(Scene scene) throws Exception {
        scene.stream("events", 3);
        List<Ledger> thirds = List.of(new Ledger(2, 50), new Ledger(2, 50), new Ledger(2, 50));
        List<StreamCut> cuts = new ArrayList<>(List.of(scene.info("events").getHeadStreamCut()));
        for (Ledger third : thirds) {
            new Writing(scene, "events", third, 2, 50).write(1_000, 100);
            cuts.add(scene.info("events").getTailStreamCut());
        }
        for (int n = 0; n < thirds.size(); n++) {
            Check.equal(3, read(scene, cuts.get(n), cuts.get(n + 1), thirds.get(n)), "segments of third " + n);
            thirds.get(n).settled(2_000);
        }
        Check.equal(0L, Reading.bytesBetween(scene.batches(), Stream.of(scene.scope, "events"), cuts.get(3), StreamCut.UNBOUNDED),
            "bytes behind the last cut");
    }

    /** Reads all ranges between the cuts into the ledger; returns how many there were. */
    private static int read(Scene scene, StreamCut from, StreamCut to, Ledger ledger) {
        BatchClientFactory batches = scene.batches();
        StreamSegmentsIterator segments = batches.getSegments(Stream.of(scene.scope, "events"), from, to);
        List<SegmentRange> ranges = new ArrayList<>();
        segments.getIterator().forEachRemaining(ranges::add);
        for (SegmentRange range : ranges) {
            try (SegmentIterator<byte[]> events = batches.readSegment(range, new ByteArraySerializer())) {
                events.forEachRemaining(ledger::read);
                Check.equal(range.getEndOffset(), events.getOffset(), "where reading a range has ended");
            }
        }
        return ranges.size();
    }

    private BatchScenarios() { }
}
