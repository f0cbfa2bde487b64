import io.pravega.client.BatchClientFactory;
import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.ReaderConfig;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamCut;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.util.List;
import java.util.concurrent.TimeUnit;

/**
 * Reads back what the storm has written since the last time: from the cut where that ended to the tail of now, through a new reader group
 * of two readers each time. How much lies between is asked of the server, so reading ends as soon as all of it was read, and events that
 * the server has too many are read too.
 */
final class StormReader {
    private static final int IDLE_SECONDS = 60;

    private final ClientConfig config;
    private final String scope;
    private final Stream stream;
    private final Ledger ledger;
    private StreamCut from;
    private int round;

    /** What is in the stream already is not looked at. */
    StormReader(ClientConfig config, String scope, String stream, Ledger ledger) throws Exception {
        this.config = config;
        this.scope = scope;
        this.stream = Stream.of(scope, stream);
        this.ledger = ledger;
        from = tail();
    }

    /** Reads into the ledger; returns null, or what prevented it from reading to the tail. Nobody may write meanwhile. */
    String readOn() {
        String group = "storm-" + ProcessHandle.current().pid() + '-' + round++;
        try (BatchClientFactory batches = BatchClientFactory.withScope(scope, config);
             ReaderGroupManager groups = ReaderGroupManager.withScope(scope, config);
             EventStreamClientFactory factory = EventStreamClientFactory.withScope(scope, config)) {
            StreamCut to = tail();
            long bytes = Reading.bytesBetween(batches, stream, from, to);
            groups.createReaderGroup(group, ReaderGroupConfig.builder().groupRefreshTimeMillis(1000).automaticCheckpointIntervalMillis(1000)
                .stream(stream, from).build());
            try (Reading reading = new Reading(List.of(reader(factory, group, 1), reader(factory, group, 2)), IDLE_SECONDS, ledger::read)) {
                reading.bytes(bytes);
            }
            groups.deleteReaderGroup(group);
            from = to;
            return null;
        } catch (Exception e) {
            e.printStackTrace();
            return e.toString();
        }
    }

    private EventStreamReader<byte[]> reader(EventStreamClientFactory factory, String group, int n) {
        return factory.createReader("reader-" + n, group, new ByteArraySerializer(), ReaderConfig.builder().build());
    }

    private StreamCut tail() throws Exception {
        try (StreamManager admin = StreamManager.create(config)) {
            return admin.fetchStreamInfo(scope, stream.getStreamName()).get(60, TimeUnit.SECONDS).getTailStreamCut();
        }
    }
}
