import io.pravega.client.ClientConfig;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.StreamConfiguration;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

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
        Map<String, Integer> options = options(args);
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
        say("ready");
        System.exit(steer(writers, reader, ledger) ? 0 : 1);
    }

    private static boolean steer(StormWriters writers, StormReader reader, Ledger ledger) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int verified = 0;
        boolean clean = true;
        for (String line = in.readLine(); line != null && !line.equals("quit"); line = in.readLine()) {
            switch (line) {
                case "status" -> say(writers.status());
                case "pause" -> {
                    writers.pause();
                    say("paused");
                }
                case "resume" -> {
                    writers.resume();
                    say("resumed");
                }
                case "verify" -> {
                    verified++;
                    clean &= verify(writers, reader, ledger);
                }
                default -> say("{\"error\":\"unknown command, expected status, pause, resume, verify or quit\"}");
            }
        }
        return clean && verified > 0;
    }

    private static boolean verify(StormWriters writers, StormReader reader, Ledger ledger) {
        long begin = System.nanoTime();
        writers.pause();
        String error = writers.awaitAcks();
        long acked = System.nanoTime();
        if (error == null) {
            error = reader.readOn();
        }
        Ledger.Found found = ledger.found();
        say(String.format("{\"acked\":%d,\"read\":%d,\"lost\":%d,\"duplicated\":%d,\"reordered\":%d,\"corrupt\":%d,\"failed\":%d,"
            + "\"drain_s\":%.1f,\"read_s\":%.1f%s}", writers.acked(), found.read(), found.lost(), found.duplicated(), found.reordered(),
            found.corrupt(), writers.failed(), (acked - begin) / 1e9, (System.nanoTime() - acked) / 1e9,
            error == null ? "" : ",\"error\":\"" + error.replaceAll("[\\\\\"\\p{Cntrl}]+", " ") + '"'));
        return error == null && found.clean() && writers.failed() == 0 && found.read() >= writers.acked();
    }

    private static Map<String, Integer> options(String[] args) {
        Map<String, Integer> options = new HashMap<>(Map.of("segments", 4, "writers", 4, "keys", 100, "size", 100));
        boolean wrong = args.length < 3 || args.length % 2 == 0;
        for (int i = 3; i < args.length && !wrong; i += 2) {
            wrong = !Set.of("--segments", "--writers", "--keys", "--size").contains(args[i]) || !args[i + 1].matches("[1-9][0-9]{0,6}");
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

    private Storm() { }
}
