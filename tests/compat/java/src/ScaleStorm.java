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
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
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

    /** What writes: events or transactions. */
    interface Source {
        void awaitFirstAcks() throws InterruptedException;

        /** Stops writing. */
        void pause();

        /** Then: null once everything is acknowledged, or what went wrong. */
        String awaitAcks();

        long acked();

        long failed();

        String status();
    }

    public static void main(String[] args) throws Exception {
        Map<String, Integer> options = options(args);
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
        Source source = options.get("transaction") == 0 ? new StormWriters(config, scope, stream, ledger, options)
            : new TransactionWriters(config, scope, stream, ledger, options);
        source.awaitFirstAcks();
        say("ready");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null && !line.equals("quit"); line = in.readLine()) {
            switch (line) {
                case "status" -> say(source.status());
                case "verify" -> say(verify(config, scope, stream, source, end, ledger));
                default -> say("{\"error\":\"unknown command, expected status, verify or quit\"}");
            }
        }
        System.exit(0);
    }

    private static String verify(ClientConfig config, String scope, String stream, Source source, CompletableFuture<Void> end, Ledger ledger) {
        long begin = System.nanoTime();
        source.pause();
        String error = source.awaitAcks();
        long acked = System.nanoTime();
        long behind = source.acked() - ledger.found().read();
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
        return String.format("{\"acked\":%d,\"read\":%d,\"lost\":%d,\"duplicated\":%d,\"reordered\":%d,\"corrupt\":%d,\"failed\":%d,"
            + "\"behind\":%d,\"ack_s\":%.1f,\"drain_s\":%.1f%s}", source.acked(), found.read(), found.lost(), found.duplicated(),
            found.reordered(), found.corrupt(), source.failed(), behind, (acked - begin) / 1e9, (System.nanoTime() - acked) / 1e9,
            error == null ? "" : ",\"error\":\"" + error.replaceAll("[\\\\\"\\p{Cntrl}]+", " ") + '"');
    }

    private static Map<String, Integer> options(String[] args) {
        Map<String, Integer> options = new HashMap<>(Map.of("writers", 8, "keys", 8, "size", 100, "readers", 4,
            "transaction", 0, "rate", 2000));
        boolean wrong = args.length < 3 || args.length % 2 == 0;
        for (int i = 3; i < args.length && !wrong; i += 2) {
            wrong = !args[i].startsWith("--") || !options.containsKey(args[i].substring(2)) || !args[i + 1].matches("[0-9]{1,7}");
            if (!wrong) {
                options.put(args[i].substring(2), Integer.parseInt(args[i + 1]));
            }
        }
        if (wrong || options.get("size") < Item.SMALLEST) {
            System.err.println(USAGE);
            System.exit(2);
        }
        return options;
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private ScaleStorm() { }
}
