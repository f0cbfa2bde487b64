import io.pravega.client.state.Revision;
import io.pravega.client.state.RevisionedStreamClient;
import io.pravega.client.state.SynchronizerConfig;
import io.pravega.client.stream.TruncatedDataException;
import io.pravega.client.stream.impl.UTF8StringSerializer;
import java.util.ArrayList;
import java.util.List;

/** Revisioned streams: values with a revision, written only if nothing came between; a mark; truncation. */
final class RevisionedScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("revisioned-stream", 60, RevisionedScenarios::writeAndRead),
        new Compat.Scenario("revisioned-stream-mark", 60, RevisionedScenarios::mark),
        new Compat.Scenario("revisioned-stream-truncate", 60, RevisionedScenarios::truncate));

    private static void writeAndRead(Scene scene) {
        scene.stream("values", 1);
        RevisionedStreamClient<String> one = open(scene);
        RevisionedStreamClient<String> other = open(scene);
        Revision start = one.fetchLatestRevision();
        Check.equal(start, one.fetchOldestRevision(), "the oldest revision of an empty stream");
        Revision first = one.writeConditionally(start, "first");
        Check.that(first != null && first.compareTo(start) > 0, "the first value was written");
        Check.equal(null, other.writeConditionally(start, "too late"), "the revision of a value written behind another's back");
        Revision second = other.writeConditionally(first, "second");
        Check.that(second != null, "the other client writes at the right revision");
        one.writeUnconditionally("third");
        other.writeUnconditionally("fourth");
        Check.equal(List.of("first", "second", "third", "fourth"), values(one, start), "all values");
        Check.equal(List.of("second", "third", "fourth"), values(other, first), "the values after the first");
        List<String> between = new ArrayList<>();
        one.readRange(first, second).forEachRemaining(entry -> between.add(entry.getValue()));
        Check.equal(List.of("second"), between, "the values between two revisions");
        Check.equal(List.of(), values(one, one.fetchLatestRevision()), "the values after the last");
        Check.equal(second, Revision.fromString(second.toString()), "a revision after a trip through its text");
    }

    private static void mark(Scene scene) {
        scene.stream("values", 1);
        RevisionedStreamClient<String> one = open(scene);
        RevisionedStreamClient<String> other = open(scene);
        Check.equal(null, one.getMark(), "the mark of a new stream");
        Revision first = one.writeConditionally(one.fetchLatestRevision(), "first");
        Revision second = one.writeConditionally(first, "second");
        Check.that(one.compareAndSetMark(null, first), "the mark was set");
        Check.equal(offset(first), offset(other.getMark()), "the mark that another client sees");
        Check.that(!other.compareAndSetMark(null, second), "setting it on the assumption of no mark is refused");
        Check.that(!other.compareAndSetMark(second, second), "and on the assumption of another mark");
        Check.that(other.compareAndSetMark(first, second), "the mark was moved");
        Check.equal(offset(second), offset(one.getMark()), "the mark that the first client sees");
        Check.that(one.compareAndSetMark(second, null), "the mark was taken away");
        Check.equal(null, other.getMark(), "the mark after that");
    }

    private static void truncate(Scene scene) {
        scene.stream("values", 1);
        RevisionedStreamClient<String> client = open(scene);
        Revision start = client.fetchOldestRevision();
        Revision at = start;
        Revision middle = null;
        for (int n = 0; n < 10; n++) {
            at = client.writeConditionally(at, "value-" + n);
            middle = n == 4 ? at : middle;
        }
        client.truncateToRevision(middle);
        Check.equal(offset(middle), offset(client.fetchOldestRevision()), "the oldest revision after truncation");
        Check.fails(TruncatedDataException.class, "reading from before it", () -> client.readFrom(start));
        Check.equal(List.of("value-5", "value-6", "value-7", "value-8", "value-9"), values(client, client.fetchOldestRevision()), "the values left");
        Check.that(client.writeConditionally(at, "value-10") != null, "writing goes on");
        Check.equal(List.of("value-10"), values(client, at), "the value written after truncation");
    }

    /** Where in the segment a revision lies; its text is {@code SEGMENT:OFFSET:NUMBER}, the number being different for the same place. */
    static long offset(Revision revision) {
        return Long.parseLong(revision.toString().split(":")[1]);
    }

    private static List<String> values(RevisionedStreamClient<String> client, Revision from) {
        List<String> values = new ArrayList<>();
        client.readFrom(from).forEachRemaining(entry -> values.add(entry.getValue()));
        return values;
    }

    private static RevisionedStreamClient<String> open(Scene scene) {
        return scene.keep(scene.synchronizers().createRevisionedStreamClient("values", new UTF8StringSerializer(), SynchronizerConfig.builder().build()));
    }

    private RevisionedScenarios() { }
}
