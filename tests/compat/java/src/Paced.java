import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.impl.ByteArraySerializer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/**
 * Writes to a stream that scales by load, at an even pace, so many events a second for so many seconds, and on request reads all of them
 * back. Prints {@code load MS} with its first event and {@code idle MS} behind its last acknowledgement (milliseconds since the Unix
 * epoch); then waits for a line on standard input and prints {@code clean N}, N events read once and in the order of their keys, or
 * {@code broken REASON}. Ends with 0 if clean.
 */
final class Paced {
    private static final int KEYS = 200;
    private static final int BYTES = 100;

    public static void main(String[] args) throws Exception {
        if (args.length != 6) {
            System.err.println("usage: Paced CONTROLLER_URI SCOPE STREAM TARGET_PER_SECOND EVENTS_PER_SECOND SECONDS");
            System.exit(2);
        }
        ClientConfig config = ClientConfig.builder().controllerURI(URI.create(args[0])).build();
        String scope = args[1];
        String stream = args[2];
        int rate = Integer.parseInt(args[4]);
        long events = (long) rate * Integer.parseInt(args[5]);
        try (StreamManager admin = StreamManager.create(config)) {
            admin.createScope(scope);
            admin.createStream(scope, stream,
                StreamConfiguration.builder().scalingPolicy(ScalingPolicy.byEventRate(Integer.parseInt(args[3]), 4, 1)).build());
        }
        Ledger ledger = new Ledger(1, KEYS);
        StormReader reader = new StormReader(config, scope, stream, ledger);
        try (EventStreamClientFactory factory = EventStreamClientFactory.withScope(scope, config);
             EventStreamWriter<byte[]> writer = factory.createEventWriter(stream, new ByteArraySerializer(),
                 EventWriterConfig.builder().build())) {
            write(writer, ledger, events, rate);
        }
        say("idle " + System.currentTimeMillis());
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).readLine();
        String error = reader.readOn();
        Ledger.Found found = ledger.found();
        boolean clean = error == null && found.clean() && found.read() == events;
        say(clean ? "clean " + events : "broken " + found + ' ' + error);
        System.exit(clean ? 0 : 1);
    }

    private static void write(EventStreamWriter<byte[]> writer, Ledger ledger, long events, int rate) throws Exception {
        List<CompletableFuture<Void>> acks = new ArrayList<>();
        long begin = System.nanoTime();
        for (long n = 0; n < events; n++) {
            long early = begin + n * 1_000_000_000L / rate - System.nanoTime();
            if (early > 0) {
                TimeUnit.NANOSECONDS.sleep(early);
            }
            int key = (int) (n % KEYS);
            acks.add(writer.writeEvent("key-" + key, ledger.next(0, key).bytes(BYTES)));
            if (n == 0) {
                say("load " + System.currentTimeMillis());
            }
        }
        for (CompletableFuture<Void> ack : acks) {
            ack.get(60, TimeUnit.SECONDS);
        }
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private Paced() { }
}
