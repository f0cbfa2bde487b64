import io.pravega.client.ByteStreamClientFactory;
import io.pravega.client.byteStream.ByteStreamReader;
import io.pravega.client.byteStream.ByteStreamWriter;
import io.pravega.client.stream.TruncatedDataException;
import java.io.IOException;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Byte streams: raw bytes in the one segment of a stream. */
final class ByteStreamScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("byte-stream", 90, ByteStreamScenarios::writeReadSeek),
        new Compat.Scenario("byte-stream-truncate", 60, ByteStreamScenarios::truncate),
        new Compat.Scenario("byte-stream-seal", 60, ByteStreamScenarios::closeAndSeal));

    /** Single bytes, small and large pieces (one of them above what fits one append), read in order and from other places. */
    private static void writeReadSeek(Scene scene) throws Exception {
        scene.stream("bytes", 1);
        ByteStreamClientFactory factory = scene.bytes();
        byte[] all = new byte[12_000_000];
        new Random(1).nextBytes(all);
        ByteStreamWriter writer = scene.keep(factory.createByteStreamWriter("bytes"));
        int at = 0;
        while (at < 5_000) {
            writer.write(all[at++]);
        }
        for (int size = 1; at + size <= 1_000_000; size = size * 3 % 65_537) {
            writer.write(all, at, size);
            at += size;
        }
        writer.write(all, at, all.length - at);
        writer.flush();
        Check.equal((long) all.length, writer.fetchTailOffset(), "the tail");
        Check.equal(0L, writer.fetchHeadOffset(), "the head");
        ByteStreamReader reader = scene.keep(factory.createByteStreamReader("bytes"));
        Check.that(Arrays.equals(all, read(reader, all.length)), "the bytes read equal those written");
        Check.equal((long) all.length, reader.getOffset(), "the reader's offset");
        for (int from : new int[] {7_654_321, 0, 11_999_999, 4_096}) {
            reader.seekToOffset(from);
            int length = Math.min(100_000, all.length - from);
            Check.that(Arrays.equals(Arrays.copyOfRange(all, from, from + length), read(reader, length)), "the bytes after a seek to " + from);
        }
        reader.seekToOffset(10);
        Check.equal(1_000L, reader.skip(1_000), "bytes skipped");
        Check.equal(all[1_010] & 0xff, reader.read(), "the byte after a skip");
        reader.seekToOffset(all.length);
        CompletableFuture<Integer> more = reader.onDataAvailable(); // asked before: for data that it has already, the client waits for more
        writer.write(new byte[] {1, 2, 3});
        writer.flush();
        Check.that(more.get(30, TimeUnit.SECONDS) > 0, "a reader at the tail learns of new data");
        Check.that(Arrays.equals(new byte[] {1, 2, 3}, read(reader, 3)), "the bytes appended to the tail");
    }

    private static void truncate(Scene scene) throws Exception {
        scene.stream("bytes", 1);
        ByteStreamClientFactory factory = scene.bytes();
        byte[] all = new byte[100_000];
        new Random(2).nextBytes(all);
        ByteStreamWriter writer = scene.keep(factory.createByteStreamWriter("bytes"));
        writer.write(all);
        writer.flush();
        writer.truncateDataBefore(60_000);
        Check.equal(60_000L, writer.fetchHeadOffset(), "the head after truncation");
        Check.equal(100_000L, writer.fetchTailOffset(), "the tail after truncation");
        ByteStreamReader reader = scene.keep(factory.createByteStreamReader("bytes"));
        Check.equal(60_000L, reader.getOffset(), "where a new reader starts");
        Check.that(Arrays.equals(Arrays.copyOfRange(all, 60_000, 100_000), read(reader, 40_000)), "the bytes that are left");
        reader.seekToOffset(59_999);
        Throwable refused = Check.fails(Exception.class, "reading a byte that was cut away", () -> reader.read(new byte[1]));
        Check.that(refused instanceof IOException || refused instanceof TruncatedDataException, "it is an error of reading: " + refused);
    }

    /** A sealed byte stream ends for its readers, also for one that waits at its tail, and takes no more bytes. */
    private static void closeAndSeal(Scene scene) throws Exception {
        scene.stream("bytes", 1);
        ByteStreamClientFactory factory = scene.bytes();
        ByteStreamWriter other = scene.keep(factory.createByteStreamWriter("bytes"));
        ByteStreamWriter writer = factory.createByteStreamWriter("bytes");
        writer.write(new byte[] {1, 2, 3});
        writer.flush();
        ByteStreamReader waits = scene.keep(factory.createByteStreamReader("bytes"));
        Check.that(Arrays.equals(new byte[] {1, 2, 3}, read(waits, 3)), "the first bytes");
        writer.write(new byte[] {4, 5});
        writer.closeAndSeal();
        Check.that(Arrays.equals(new byte[] {4, 5}, waits.readAllBytes()), "the bytes up to the end");
        Check.equal(-1, waits.read(), "what a read at the end returns");
        ByteStreamReader later = scene.keep(factory.createByteStreamReader("bytes"));
        Check.that(Arrays.equals(new byte[] {1, 2, 3, 4, 5}, later.readAllBytes()), "all bytes, by a reader that came later");
        Check.fails(Exception.class, "writing to the sealed stream", () -> {
            other.write(new byte[] {6});
            other.flush();
            return "written";
        });
        Check.equal(5L, later.fetchTailOffset(), "the tail");
    }

    /** The next bytes. Not {@code readNBytes(int)}: that ends with a read of 0 bytes, for which the client waits when it is at the tail. */
    private static byte[] read(ByteStreamReader reader, int length) throws IOException {
        byte[] bytes = new byte[length];
        Check.equal(length, reader.readNBytes(bytes, 0, length), "bytes read before the stream's end");
        return bytes;
    }

    private ByteStreamScenarios() { }
}
