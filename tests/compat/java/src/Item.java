import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.zip.CRC32C;

/**
 * An event of the suite and of the storm: who wrote it, its key, its place among the events of that key, a checksum over all of it, and
 * filling that follows from key and place. Big-endian: writer i32, key i32, sequence i64, CRC-32C i32 (of all other bytes), filling.
 */
record Item(int writer, int key, long sequence) {
    static final int SMALLEST = 20;
    private static final int CHECKSUM_AT = 16;

    /** The routing key of all events of a key. */
    static String routingKey(int key) {
        return "key-" + key;
    }

    /** The event's bytes, {@code size} of them; always the same for the same item and size. */
    byte[] bytes(int size) {
        ByteBuffer event = ByteBuffer.allocate(size);
        event.putInt(writer).putInt(key).putLong(sequence).putInt(0);
        long random = (((long) key << 40) ^ sequence) * 0x9e3779b97f4a7c15L + 1;
        while (event.remaining() >= Long.BYTES) {
            random ^= random << 13;
            random ^= random >>> 7;
            random ^= random << 17;
            event.putLong(random);
        }
        while (event.hasRemaining()) {
            event.put((byte) random);
        }
        return event.putInt(CHECKSUM_AT, checksum(event.array())).array();
    }

    /** The item in an event's bytes, or null if they are not what was written. */
    static Item of(byte[] event) {
        if (event.length < SMALLEST) {
            return null;
        }
        ByteBuffer in = ByteBuffer.wrap(event).order(ByteOrder.BIG_ENDIAN);
        if (in.getInt(CHECKSUM_AT) != checksum(event)) {
            return null;
        }
        return new Item(in.getInt(), in.getInt(), in.getLong());
    }

    private static int checksum(byte[] event) {
        CRC32C crc = new CRC32C();
        crc.update(event, 0, CHECKSUM_AT);
        crc.update(event, SMALLEST, event.length - SMALLEST);
        return (int) crc.getValue();
    }
}
