import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.ReaderConfig;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.net.URI;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Writes a stream and reads it at the same time, through one group with automatic checkpoints every second, while somebody else splits,
 * merges and perhaps kills. Steered by lines on standard input, answers by lines on standard output:
 *
 * <pre>
 * (start)    ready                                                    once the first events are acknowledged
 * status     {"sent":…,"acked":…,"inflight":…,"failed":…}             at once
 * verify     {"acked":…,"read":…,"lost":…,"duplicated":…,…}           stops writing, waits for all acknowledgements, seals the stream and
 *                                                                     waits until the readers were told that they have read all of it
 * quit       (also the end of input) ends the process
 * </pre>
 *
 * With {@code --transaction N} every N events are a transaction; every fifth is aborted, and its events written again by the next one.
 */
final class ScaleStorm {
    private static final String USAGE = "usage: ScaleStorm CONTROLLER_URI SCOPE STREAM [--writers W] [--keys K]"
        + " [--size BYTES] [--readers R] [--transaction EVENTS] [--rate EVENTS_PER_SECOND_AND_WRITER]\n"
        + "  defaults: 8 writers, 8 keys per writer, 100 bytes, 4 readers, no transactions, 2000 events/s";
    private static final int DRAIN_SECONDS = 60;
    private static final int IDLE_SECONDS = 120;

    private static final Map<String, Integer> DEFAULTS = Map.of("writers", 8, "keys", 8, "size", 100, "readers", 4, "transaction", 0,
        "rate", 2000);

    public static void main(String[] args) throws Exception {
        Map<String, Integer> options = Steering.options(args, DEFAULTS, USAGE);
        ClientConfig config = ClientConfig.builder().controllerURI(URI.create(args[0])).build();
        String scope = args[1];
        String stream = args[2];
        try (StreamManager admin = StreamManager.create(config)) {
            admin.createScope(scope);
            admin.createStream(scope, stream, StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(1)).build());
        }
        Ledger ledger = new Ledger(options.get("writers"), options.get("keys"));
        String group = "readers-of-" + stream;
        try (ReaderGroupManager groups = ReaderGroupManager.withScope(scope, config)) {
            groups.createReaderGroup(group, ReaderGroupConfig.builder().groupRefreshTimeMillis(1000)
                .automaticCheckpointIntervalMillis(1000).stream(Stream.of(scope, stream)).build());
        }
        EventStreamClientFactory factory = EventStreamClientFactory.withScope(scope, config);
        List<EventStreamReader<byte[]>> readers = new ArrayList<>();
        for (int n = 0; n < options.get("readers"); n++) {
            readers.add(factory.createReader("reader-" + n, group, new ByteArraySerializer(), ReaderConfig.builder().build()));
        }
        Reading reading = new Reading(readers, IDLE_SECONDS, ledger::read);
        CompletableFuture<Void> end = reading.toEndAsync();
        Writers writers = options.get("transaction") == 0 ? new StormWriters(config, scope, stream, ledger, options)
            : new TransactionWriters(config, scope, stream, ledger, options);
        writers.awaitFirstAcks();
        Steering.steer(Map.of("status", writers::status, "verify", () -> verify(config, scope, stream, writers, end, ledger)));
        System.exit(0);
    }

    private static String verify(ClientConfig config, String scope, String stream, Writers writers, CompletableFuture<Void> end, Ledger ledger) {
        long begin = System.nanoTime();
        writers.pause();
        String error = writers.awaitAcks();
        long acked = System.nanoTime();
        long behind = writers.acked.get() - ledger.found().read();
        try (StreamManager admin = StreamManager.create(config)) {
            admin.sealStream(scope, stream);
            end.get(DRAIN_SECONDS, TimeUnit.SECONDS);
        } catch (TimeoutException e) {
            error = error == null ? "the readers were not at the end after " + DRAIN_SECONDS + " s" : error;
        } catch (ExecutionException | InterruptedException e) {
            e.printStackTrace();
            error = error == null ? String.valueOf(e.getCause()) : error;
        }
        Ledger.Found found = ledger.found();
        String took = String.format("\"behind\":%d,\"ack_s\":%.1f,\"drain_s\":%.1f", behind, (acked - begin) / 1e9,
            (System.nanoTime() - acked) / 1e9);
        return Steering.found(writers, found, took, error);
    }

    private ScaleStorm() { }
}
