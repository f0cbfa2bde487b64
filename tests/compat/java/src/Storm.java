import io.pravega.client.ClientConfig;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.StreamConfiguration;
import java.net.URI;
import java.util.Map;

/**
 * Writes events without end through the official client while somebody else kills and restarts the server, and on request reads all of
 * them back. Steered by lines on standard input, answers by lines on standard output:
 *
 * <pre>
 * (start)    ready                                         once the first events are acknowledged
 * status     {"sent":…,"acked":…,"inflight":…,"failed":…}  at once; events handed to the client, acknowledged, given up by it
 * pause      paused                                        no new events; those in flight go on
 * resume     resumed
 * verify     {"acked":…,"read":…,"lost":…,"duplicated":…,"reordered":…,"corrupt":…,…}   pauses, waits for all acknowledgements, reads back
 * quit       (also the end of input) ends the process: 0 if there was a verify and every one was clean, otherwise 1
 * </pre>
 *
 * The figures are sums since the start. Several rounds of verify and resume may follow each other; each reads only what the one before
 * has not. A stream that exists already is written from its tail on. Nothing is deleted at the end.
 */
final class Storm {
    private static final String USAGE = "usage: Storm CONTROLLER_URI SCOPE STREAM [--segments N] [--writers W] [--keys K] [--size BYTES]\n"
        + "  defaults: 4 segments, 4 writers, 100 keys per writer, 100 bytes (at least " + Item.SMALLEST + ")";

    public static void main(String[] args) throws Exception {
        Map<String, Integer> options = Steering.options(args, Map.of("segments", 4, "writers", 4, "keys", 100, "size", 100), USAGE);
        URI controller = URI.create(args[0]);
        String scope = args[1];
        String stream = args[2];
        ClientConfig config = ClientConfig.builder().controllerURI(controller).build();
        try (StreamManager admin = StreamManager.create(config)) {
            admin.createScope(scope);
            admin.createStream(scope, stream, StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(options.get("segments"))).build());
        }
        Ledger ledger = new Ledger(options.get("writers"), options.get("keys"));
        StormReader reader = new StormReader(config, scope, stream, ledger);
        StormWriters writers = new StormWriters(config, scope, stream, ledger, options);
        writers.awaitFirstAcks();
        int[] verified = {0, 0};
        Steering.steer(Map.of("status", writers::status,
            "pause", () -> {
                writers.pause();
                return "paused";
            },
            "resume", () -> {
                writers.resume();
                return "resumed";
            },
            "verify", () -> {
                verified[0]++;
                return verify(writers, reader, ledger, () -> verified[1]++);
            }));
        System.exit(verified[0] > 0 && verified[1] == verified[0] ? 0 : 1);
    }

    private static String verify(StormWriters writers, StormReader reader, Ledger ledger, Runnable clean) {
        long begin = System.nanoTime();
        writers.pause();
        String error = writers.awaitAcks();
        long acked = System.nanoTime();
        if (error == null) {
            error = reader.readOn();
        }
        Ledger.Found found = ledger.found();
        if (error == null && found.clean() && writers.failed.get() == 0 && found.read() >= writers.acked.get()) {
            clean.run();
        }
        String took = String.format("\"drain_s\":%.1f,\"read_s\":%.1f", (acked - begin) / 1e9, (System.nanoTime() - acked) / 1e9);
        return Steering.found(writers, found, took, error);
    }

    private Storm() { }
}
