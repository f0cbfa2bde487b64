import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.stream.Checkpoint;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.ReaderConfig;
import io.pravega.client.stream.ReaderGroup;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.impl.UTF8StringSerializer;
import java.net.URI;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/**
 * Reads a group's events and prints them, one a line. What happens to the group between two runs is another's matter.
 * {@code GroupReads URI SCOPE GROUP create STREAM BEFORE ALL} makes the group, reads {@code BEFORE} events, asks for a checkpoint, prints
 * {@code checkpoint} where the reader meets it, perhaps some events later, and reads up to {@code ALL}.
 * {@code GroupReads URI SCOPE GROUP read} reads what there is, until nothing has come for a while.
 */
final class GroupReads {
    private static final int IDLE_MILLIS = 5_000;

    public static void main(String[] args) throws Exception {
        ClientConfig config = ClientConfig.builder().controllerURI(URI.create(args[0])).build();
        String scope = args[1];
        String group = args[2];
        try (ReaderGroupManager groups = ReaderGroupManager.withScope(scope, config);
             EventStreamClientFactory factory = EventStreamClientFactory.withScope(scope, config)) {
            if (args[3].equals("create")) {
                groups.createReaderGroup(group, ReaderGroupConfig.builder().disableAutomaticCheckpoints().groupRefreshTimeMillis(100)
                    .stream(Stream.of(scope, args[4])).build());
            }
            String id = "reader-" + ProcessHandle.current().pid();
            try (EventStreamReader<String> reader =
                     factory.createReader(id, group, new UTF8StringSerializer(), ReaderConfig.builder().build())) {
                if (args[3].equals("create")) {
                    int before = Integer.parseInt(args[5]);
                    read(reader, before);
                    checkpoint(groups, group, reader, Integer.parseInt(args[6]) - before);
                } else {
                    read(reader, Integer.MAX_VALUE);
                }
            }
        }
        System.exit(0); // the client leaves threads behind
    }

    private static int read(EventStreamReader<String> reader, int max) {
        int read = 0;
        long idle = System.nanoTime();
        while (read < max && System.nanoTime() - idle < TimeUnit.MILLISECONDS.toNanos(IDLE_MILLIS)) {
            EventRead<String> event = reader.readNextEvent(100);
            if (event.getEvent() != null) {
                System.out.println(event.getEvent());
                read++;
                idle = System.nanoTime();
            }
        }
        return read;
    }

    /** A reader takes part in a checkpoint only while it is asked for events. */
    private static void checkpoint(ReaderGroupManager groups, String name, EventStreamReader<String> reader, int rest) throws Exception {
        ScheduledExecutorService executor = Background.EXECUTOR;
        int read = 0;
        try (ReaderGroup group = groups.getReaderGroup(name)) {
            CompletableFuture<Checkpoint> checkpoint = group.initiateCheckpoint("here", executor);
            while (!checkpoint.isDone()) {
                EventRead<String> event = reader.readNextEvent(100);
                if (event.isCheckpoint()) {
                    System.out.println("checkpoint");
                } else if (event.getEvent() != null) {
                    System.out.println(event.getEvent());
                    read++;
                    Thread.sleep(50); // so that some are left behind it
                }
            }
            checkpoint.get(60, TimeUnit.SECONDS);
        }
        read(reader, rest - read);
    }

    private GroupReads() { }
}
