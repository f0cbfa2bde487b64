import io.pravega.client.BatchClientFactory;
import io.pravega.client.ByteStreamClientFactory;
import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.SynchronizerClientFactory;
import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.admin.StreamInfo;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.ReaderConfig;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.net.URI;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * A new scope with a name nobody else uses, and the client's objects on it, made when first asked for. {@link #close} closes what the
 * client holds; {@link #cleanUp} deletes what the server holds, and fails if it cannot.
 */
final class Scene implements AutoCloseable {
    final String scope;
    final ClientConfig config;
    private final Deque<AutoCloseable> open = new ArrayDeque<>();
    private final List<String> groups = new ArrayList<>();
    private final StreamManager streams;
    private EventStreamClientFactory events;
    private ReaderGroupManager groupManager;

    Scene(URI controller, String name) {
        scope = String.format("compat-%s-%08x", name, ThreadLocalRandom.current().nextInt());
        config = ClientConfig.builder().controllerURI(controller).build();
        streams = keep(StreamManager.create(config));
        Check.that(streams.createScope(scope), "the scope " + scope + " was created");
    }

    /** Closes the object at the end of the scenario, the last one first. */
    <T extends AutoCloseable> T keep(T object) {
        synchronized (open) {
            open.push(object);
        }
        return object;
    }

    StreamManager streams() {
        return streams;
    }

    EventStreamClientFactory events() {
        if (events == null) {
            events = keep(EventStreamClientFactory.withScope(scope, config));
        }
        return events;
    }

    ReaderGroupManager groups() {
        if (groupManager == null) {
            groupManager = keep(ReaderGroupManager.withScope(scope, config));
        }
        return groupManager;
    }

    ByteStreamClientFactory bytes() {
        return keep(ByteStreamClientFactory.withScope(scope, config));
    }

    SynchronizerClientFactory synchronizers() {
        return keep(SynchronizerClientFactory.withScope(scope, config));
    }

    BatchClientFactory batches() {
        return keep(BatchClientFactory.withScope(scope, config));
    }

    /** Creates a stream with a fixed number of segments. */
    void stream(String name, int segments) {
        StreamConfiguration fixed = StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(segments)).build();
        Check.that(streams.createStream(scope, name, fixed), "the stream " + name + " was created");
    }

    StreamInfo info(String name) throws Exception {
        return streams.fetchStreamInfo(scope, name).get(30, TimeUnit.SECONDS);
    }

    EventStreamWriter<byte[]> writer(String stream) {
        return writer(stream, EventWriterConfig.builder().build());
    }

    EventStreamWriter<byte[]> writer(String stream, EventWriterConfig writerConfig) {
        return keep(events().createEventWriter(stream, new ByteArraySerializer(), writerConfig));
    }

    /** Creates a reader group with automatic checkpoints every second: without them no reader learns that its stream has ended. */
    void group(String name, String stream, StreamCut from) throws Exception {
        group(name, ReaderGroupConfig.builder().groupRefreshTimeMillis(1000).automaticCheckpointIntervalMillis(1000)
            .stream(Stream.of(scope, stream), from).build());
    }

    void group(String name, ReaderGroupConfig groupConfig) throws Exception {
        Check.that(groups().createReaderGroup(name, groupConfig), "the group " + name + " was created");
        groups.add(name);
    }

    /** The group is the scenario's to delete no longer. */
    void forget(String group) {
        groups.remove(group);
    }

    EventStreamReader<byte[]> reader(String id, String group) {
        return keep(events().createReader(id, group, new ByteArraySerializer(), ReaderConfig.builder().build()));
    }

    /** Deletes the groups, the streams and the scope. */
    void cleanUp() throws Exception {
        closeAll();
        try (ReaderGroupManager manager = ReaderGroupManager.withScope(scope, config); StreamManager admin = StreamManager.create(config)) {
            groups.forEach(manager::deleteReaderGroup);
            for (String name : userStreams(admin, scope)) {
                admin.sealStream(scope, name);
                Check.that(admin.deleteStream(scope, name), "the stream " + name + " was deleted");
            }
            Check.that(admin.deleteScope(scope), "the scope was deleted");
        }
    }

    /** The streams of a scope without those that the client and the server keep for themselves. */
    static List<String> userStreams(StreamManager admin, String scope) {
        List<String> names = new ArrayList<>();
        admin.listStreams(scope).forEachRemaining(stream -> {
            if (!stream.getStreamName().startsWith("_")) {
                names.add(stream.getStreamName());
            }
        });
        return names;
    }

    private void closeAll() {
        synchronized (open) {
            while (!open.isEmpty()) {
                AutoCloseable next = open.pop();
                try {
                    next.close();
                } catch (Exception e) {
                    System.err.println(scope + ": closing " + next.getClass().getSimpleName() + ": " + e);
                }
            }
        }
    }

    @Override
    public void close() {
        closeAll();
    }
}
