import io.pravega.client.SynchronizerClientFactory;
import io.pravega.client.state.InitialUpdate;
import io.pravega.client.state.Revision;
import io.pravega.client.state.Revisioned;
import io.pravega.client.state.StateSynchronizer;
import io.pravega.client.state.SynchronizerConfig;
import io.pravega.client.state.Update;
import io.pravega.client.stream.impl.JavaSerializer;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** State synchronizers: instances on one stream that agree on a state by conditional appends. */
final class SynchronizerScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("state-synchronizer", 60, SynchronizerScenarios::agree),
        new Compat.Scenario("state-synchronizer-compaction", 60, SynchronizerScenarios::compact));

    /** The shared state: a number per name. */
    private static final class Counts implements Revisioned {
        private final String stream;
        private final Revision revision;
        final TreeMap<String, Long> numbers;

        Counts(String stream, Revision revision, TreeMap<String, Long> numbers) {
            this.stream = stream;
            this.revision = revision;
            this.numbers = numbers;
        }

        @Override
        public String getScopedStreamName() {
            return stream;
        }

        @Override
        public Revision getRevision() {
            return revision;
        }
    }

    private record Start(TreeMap<String, Long> numbers) implements InitialUpdate<Counts>, Serializable {
        @Override
        public Counts create(String stream, Revision revision) {
            return new Counts(stream, revision, numbers);
        }
    }

    private record Put(String name, long number) implements Update<Counts>, Serializable {
        @Override
        public Counts applyTo(Counts old, Revision revision) {
            TreeMap<String, Long> numbers = new TreeMap<>(old.numbers);
            numbers.put(name, number);
            return new Counts(old.stream, revision, numbers);
        }
    }

    /** Two instances count at the same time; no increment gets lost, and both end up with the same state. */
    private static void agree(Scene scene) throws Exception {
        scene.stream("state", 1);
        List<StateSynchronizer<Counts>> instances = List.of(open(scene), open(scene));
        instances.forEach(instance -> instance.initialize(new Start(new TreeMap<>())));
        List<CompletableFuture<Void>> running = new ArrayList<>();
        for (int n = 0; n < instances.size(); n++) {
            StateSynchronizer<Counts> instance = instances.get(n);
            String own = "instance-" + n;
            running.add(CompletableFuture.runAsync(() -> {
                for (int round = 0; round < 100; round++) {
                    increment(instance, "both");
                    increment(instance, own);
                }
            }, Background.EXECUTOR));
        }
        CompletableFuture.allOf(running.toArray(new CompletableFuture[0])).get(40, TimeUnit.SECONDS);
        instances.get(0).updateStateUnconditionally(new Put("last", 7));
        for (StateSynchronizer<Counts> instance : List.of(instances.get(0), instances.get(1), open(scene))) {
            instance.fetchUpdates();
            Check.equal("{both=200, instance-0=100, instance-1=100, last=7}", instance.getState().numbers.toString(), "the state");
        }
    }

    /** After two compactions the stream begins at the first of them; an instance that was behind and a new one see the state. */
    private static void compact(Scene scene) throws Exception {
        scene.stream("state", 1);
        StateSynchronizer<Counts> one = open(scene);
        StateSynchronizer<Counts> behind = open(scene);
        one.initialize(new Start(new TreeMap<>()));
        behind.fetchUpdates();
        for (int round = 1; round <= 2; round++) {
            for (int n = 0; n < 20; n++) {
                increment(one, "count");
            }
            one.fetchUpdates();
            long before = one.bytesWrittenSinceCompaction();
            one.compact(state -> new Start(new TreeMap<>(state.numbers)));
            one.fetchUpdates();
            Check.that(one.bytesWrittenSinceCompaction() < before, "fewer bytes since the last compaction than the " + before + " before it");
        }
        SynchronizerClientFactory factory = scene.synchronizers();
        Revision oldest = scene.keep(factory.createRevisionedStreamClient("state", new JavaSerializer<>(), SynchronizerConfig.builder().build()))
            .fetchOldestRevision();
        Check.that(RevisionedScenarios.offset(oldest) > 0, "the stream was truncated");
        increment(one, "count");
        for (StateSynchronizer<Counts> instance : List.of(one, behind, open(scene))) {
            instance.fetchUpdates();
            Check.equal("{count=41}", instance.getState().numbers.toString(), "the state");
        }
    }

    private static void increment(StateSynchronizer<Counts> instance, String name) {
        instance.updateState((state, updates) -> {
            updates.add(new Put(name, state.numbers.getOrDefault(name, 0L) + 1));
        });
    }

    private static StateSynchronizer<Counts> open(Scene scene) {
        return scene.keep(scene.synchronizers().createStateSynchronizer("state", new JavaSerializer<Put>(), new JavaSerializer<Start>(),
            SynchronizerConfig.builder().build()));
    }

    private SynchronizerScenarios() { }
}
