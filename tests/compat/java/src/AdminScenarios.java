import io.pravega.client.admin.StreamInfo;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.RetentionPolicy;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.StreamCut;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/** Scopes and streams: create, exists, list, update, tags, information. */
final class AdminScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("scopes", 60, AdminScenarios::scopes),
        new Compat.Scenario("streams", 90, AdminScenarios::streams),
        new Compat.Scenario("stream-configuration", 60, AdminScenarios::configuration),
        new Compat.Scenario("stream-tags", 90, AdminScenarios::tags),
        new Compat.Scenario("stream-info", 60, AdminScenarios::information));

    private static void scopes(Scene scene) throws Exception {
        StreamManager admin = scene.streams();
        String other = String.format("compat-other-%08x", ThreadLocalRandom.current().nextInt());
        Check.that(!admin.checkScopeExists(other), "a scope does not exist before it is created");
        Check.that(admin.createScope(other), "a scope was created");
        Check.that(!admin.createScope(other), "creating it again changes nothing");
        Check.that(admin.checkScopeExists(other), "it exists");
        Set<String> listed = new TreeSet<>();
        admin.listScopes().forEachRemaining(listed::add);
        Check.that(listed.contains(other) && listed.contains(scene.scope), "both scopes are listed");
        Check.that(admin.deleteScope(other), "it was deleted");
        Check.that(!admin.deleteScope(other), "deleting it again changes nothing");
        Check.that(!admin.checkScopeExists(other), "it is gone");
        Check.that(admin.createScope(other), "its name can be used again");
        Check.that(admin.deleteScope(other), "and deleted again");
    }

    private static void streams(Scene scene) {
        StreamManager admin = scene.streams();
        StreamConfiguration fixed = StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(2)).build();
        Set<String> names = new TreeSet<>();
        for (int n = 0; n < 12; n++) {
            names.add("stream-" + n);
        }
        for (String name : names) {
            Check.that(!admin.checkStreamExists(scene.scope, name), name + " does not exist before it is created");
            Check.that(admin.createStream(scene.scope, name, fixed), name + " was created");
            Check.that(!admin.createStream(scene.scope, name, fixed), "creating it again changes nothing");
            Check.that(admin.checkStreamExists(scene.scope, name), name + " exists");
        }
        Check.equal(names, new TreeSet<>(Scene.userStreams(admin, scene.scope)), "the streams listed");
        Check.equal(names.size(), Scene.userStreams(admin, scene.scope).size(), "each is listed once");
        Check.that(admin.sealStream(scene.scope, "stream-3"), "a stream was sealed");
        Check.that(admin.deleteStream(scene.scope, "stream-3"), "and deleted");
        Check.that(!admin.deleteStream(scene.scope, "stream-3"), "deleting it again changes nothing");
        names.remove("stream-3");
        Check.equal(names, new TreeSet<>(Scene.userStreams(admin, scene.scope)), "the streams listed after that");
    }

    private static void configuration(Scene scene) throws Exception {
        StreamConfiguration first = StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(3))
            .retentionPolicy(RetentionPolicy.bySizeBytes(1_000_000)).build();
        Check.that(scene.streams().createStream(scene.scope, "stream", first), "the stream was created");
        same(first, scene.info("stream").getStreamConfiguration());
        StreamConfiguration second = StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(3))
            .retentionPolicy(RetentionPolicy.byTime(Duration.ofDays(1))).build();
        Check.that(scene.streams().updateStream(scene.scope, "stream", second), "the stream was updated");
        same(second, scene.info("stream").getStreamConfiguration());
    }

    /** Compares what the reference keeps: its {@code getStreamConfiguration} loses the other two fields. */
    private static void same(StreamConfiguration expected, StreamConfiguration actual) {
        Check.equal(expected.getScalingPolicy(), actual.getScalingPolicy(), "the scaling policy");
        Check.equal(expected.getRetentionPolicy(), actual.getRetentionPolicy(), "the retention policy");
        Check.equal(new TreeSet<>(expected.getTags()), new TreeSet<>(actual.getTags()), "the tags");
    }

    private static void tags(Scene scene) throws Exception {
        StreamManager admin = scene.streams();
        tagged(scene, "a", Set.of("red", "round"), true);
        tagged(scene, "b", Set.of("red"), true);
        tagged(scene, "c", Set.of(), true);
        Check.equal(Set.of("red", "round"), Set.copyOf(admin.getStreamTags(scene.scope, "a")), "the tags of a");
        Check.equal(Set.of(), Set.copyOf(admin.getStreamTags(scene.scope, "c")), "the tags of c");
        Check.equal(Set.of("a", "b"), listed(scene, "red"), "the red streams");
        Check.equal(Set.of("a"), listed(scene, "round"), "the round streams");
        Check.equal(Set.of(), listed(scene, "square"), "the square streams");
        Check.equal(Set.of("a", "b", "c"), Set.copyOf(Scene.userStreams(admin, scene.scope)), "all streams");
        tagged(scene, "a", Set.of("round", "square"), false);
        Check.equal(Set.of("round", "square"), Set.copyOf(admin.getStreamTags(scene.scope, "a")), "the tags of a after an update");
        Check.equal(Set.of("b"), listed(scene, "red"), "the red streams after an update");
        Check.equal(Set.of("a"), listed(scene, "square"), "the square streams after an update");
        Check.that(admin.sealStream(scene.scope, "b") && admin.deleteStream(scene.scope, "b"), "b was deleted");
        Check.equal(Set.of(), listed(scene, "red"), "the red streams after a deletion");
    }

    private static void tagged(Scene scene, String name, Collection<String> tags, boolean create) {
        StreamConfiguration config = StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(1)).tags(tags).build();
        Check.that(create ? scene.streams().createStream(scene.scope, name, config) : scene.streams().updateStream(scene.scope, name, config),
            name + " was " + (create ? "created" : "updated"));
    }

    private static Set<String> listed(Scene scene, String tag) {
        List<String> names = new ArrayList<>();
        scene.streams().listStreams(scene.scope, tag).forEachRemaining(stream -> names.add(stream.getStreamName()));
        Check.equal(names.size(), Set.copyOf(names).size(), "each is listed once");
        return Set.copyOf(names);
    }

    private static void information(Scene scene) throws Exception {
        scene.stream("events", 4);
        StreamInfo empty = scene.info("events");
        Check.equal(scene.scope, empty.getScope(), "the scope");
        Check.equal("events", empty.getStreamName(), "the name");
        Check.equal(4, empty.getHeadStreamCut().asImpl().getPositions().size(), "segments at the head");
        Check.equal(empty.getHeadStreamCut(), empty.getTailStreamCut(), "head and tail of an empty stream");
        try (EventStreamWriter<byte[]> writer = scene.writer("events")) {
            for (int n = 0; n < 1_000; n++) {
                writer.writeEvent("key-" + n, new byte[92]);
            }
        }
        StreamInfo written = scene.info("events");
        Check.equal(empty.getHeadStreamCut(), written.getHeadStreamCut(), "the head after writing");
        Check.equal(100_000L, written.getTailStreamCut().asImpl().getPositions().values().stream().mapToLong(n -> n).sum(), "bytes up to the tail");
        Check.equal(written.getTailStreamCut(), StreamCut.from(written.getTailStreamCut().asText()), "the tail cut after a trip through its text");
        Check.that(!written.isSealed(), "the stream is not sealed");
        Check.that(scene.streams().sealStream(scene.scope, "events"), "the stream was sealed");
        Check.that(scene.info("events").isSealed(), "it is sealed");
        Check.fails(RuntimeException.class, "information on a missing stream",
            () -> scene.streams().fetchStreamInfo(scene.scope, "missing").get(30, TimeUnit.SECONDS));
        Check.equal(4, scene.info("events").getHeadStreamCut().asImpl().getPositions().size(), "segments at the head of " + Stream.of(scene.scope, "events"));
    }

    private AdminScenarios() { }
}
