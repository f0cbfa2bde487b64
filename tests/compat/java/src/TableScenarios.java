import io.pravega.client.KeyValueTableFactory;
import io.pravega.client.admin.KeyValueTableManager;
import io.pravega.client.tables.BadKeyVersionException;
import io.pravega.client.tables.Insert;
import io.pravega.client.tables.IteratorItem;
import io.pravega.client.tables.KeyValueTable;
import io.pravega.client.tables.KeyValueTableClientConfiguration;
import io.pravega.client.tables.KeyValueTableConfiguration;
import io.pravega.client.tables.Put;
import io.pravega.client.tables.Remove;
import io.pravega.client.tables.TableEntry;
import io.pravega.client.tables.TableKey;
import io.pravega.client.tables.TableModification;
import io.pravega.client.tables.Version;
import io.pravega.common.util.AsyncIterator;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;

/** Key-value tables: their lives, and what is in them. */
final class TableScenarios {
    static final List<Compat.Scenario> ALL = List.of(
        new Compat.Scenario("tables", 60, TableScenarios::lives),
        new Compat.Scenario("table-entries", 90, TableScenarios::entries),
        new Compat.Scenario("table-iterators", 90, TableScenarios::iterators));

    private static void lives(Scene scene) throws Exception {
        try (KeyValueTableManager tables = KeyValueTableManager.create(scene.config)) {
            Check.that(tables.createKeyValueTable(scene.scope, "table", config(3)), "the table was created");
            Check.that(!tables.createKeyValueTable(scene.scope, "table", config(2)), "a second one of that name was not");
            List<String> names = new ArrayList<>();
            tables.listKeyValueTables(scene.scope).forEachRemaining(info -> names.add(info.getKeyValueTableName()));
            Check.equal(List.of("table"), names, "tables listed");
            Check.fails(Exception.class, "deleting a scope with a table in it", () -> scene.streams().deleteScope(scene.scope));
            Check.that(tables.deleteKeyValueTable(scene.scope, "table"), "the table was deleted");
            Check.that(!tables.deleteKeyValueTable(scene.scope, "table"), "but not twice");
            Check.that(tables.createKeyValueTable(scene.scope, "table", config(1)), "it was created again");
            Check.that(tables.deleteKeyValueTable(scene.scope, "table"), "and deleted again");
        }
    }

    private static void entries(Scene scene) throws Exception {
        try (KeyValueTableManager tables = KeyValueTableManager.create(scene.config)) {
            Check.that(tables.createKeyValueTable(scene.scope, "table", config(2)), "the table was created");
            try (KeyValueTableFactory factory = KeyValueTableFactory.withScope(scene.scope, scene.config);
                 KeyValueTable table = factory.forKeyValueTable("table", KeyValueTableClientConfiguration.builder().build())) {
                Version first = done(table.update(new Insert(key(1, 1), bytes(7))));
                Check.fails(BadKeyVersionException.class, "a second insert", () -> done(table.update(new Insert(key(1, 1), bytes(8)))));
                Check.equal(7, value(done(table.get(key(1, 1)))), "the value after insert");
                Version second = done(table.update(new Put(key(1, 1), bytes(9), first)));
                Check.fails(BadKeyVersionException.class, "a put with an old version", () -> done(table.update(new Put(key(1, 1), bytes(10), first))));
                Check.equal(9, value(done(table.get(key(1, 1)))), "the value after a conditional put");
                List<TableModification> batch = new ArrayList<>();
                for (int n = 2; n < 20; n++) {
                    batch.add(new Put(key(1, n), bytes(n)));
                }
                Check.equal(18, done(table.update(batch)).size(), "versions of a batch");
                List<TableKey> asked = new ArrayList<>();
                for (int n = 0; n < 40; n++) {
                    asked.add(key(1, n));
                }
                List<TableEntry> found = done(table.getAll(asked));
                Check.equal(40, found.size(), "answers to a question for 40 keys");
                Check.that(found.get(0) == null && found.get(30) == null, "keys that are not there");
                Check.equal(19, value(found.get(19)), "the last of the batch");
                Check.fails(BadKeyVersionException.class, "a removal of an old version", () -> done(table.update(new Remove(key(1, 1), first))));
                done(table.update(new Remove(key(1, 1), second)));
                Check.that(!done(table.exists(key(1, 1))), "a removed key is gone");
                done(table.update(new Insert(key(1, 1), bytes(11))));
                Check.equal(11, value(done(table.get(key(1, 1)))), "the value after another insert");
            }
            Check.that(tables.deleteKeyValueTable(scene.scope, "table"), "the table was deleted");
        }
    }

    /** Iterators give every entry once, within bounds if asked, in the order of the secondary keys of a primary one. */
    private static void iterators(Scene scene) throws Exception {
        try (KeyValueTableManager tables = KeyValueTableManager.create(scene.config)) {
            Check.that(tables.createKeyValueTable(scene.scope, "table", config(3)), "the table was created");
            try (KeyValueTableFactory factory = KeyValueTableFactory.withScope(scene.scope, scene.config);
                 KeyValueTable table = factory.forKeyValueTable("table", KeyValueTableClientConfiguration.builder().build())) {
                TreeMap<Integer, Integer> expected = new TreeMap<>();
                for (int primary = 0; primary < 8; primary++) {
                    List<TableModification> batch = new ArrayList<>();
                    for (int secondary = 0; secondary < 25; secondary++) {
                        batch.add(new Put(key(primary, secondary), bytes(100 * primary + secondary)));
                        expected.put(100 * primary + secondary, 1);
                    }
                    done(table.update(batch));
                }
                TreeMap<Integer, Integer> seen = new TreeMap<>();
                all(table.iterator().maxIterationSize(7).all().entries()).forEach(entry -> seen.merge(value(entry), 1, Integer::sum));
                Check.equal(expected, seen, "all entries");
                Check.equal(200, all(table.iterator().maxIterationSize(50).all().keys()).size(), "all keys");
                List<Integer> some = new ArrayList<>();
                ByteBuffer from = bytes(5);
                ByteBuffer to = bytes(9);
                all(table.iterator().maxIterationSize(2).forPrimaryKey(bytes(3), from, to).entries()).forEach(entry -> some.add(value(entry)));
                Check.equal(List.of(305, 306, 307, 308, 309), some, "entries between bounds");
            }
            Check.that(tables.deleteKeyValueTable(scene.scope, "table"), "the table was deleted");
        }
    }

    private static <T> List<T> all(AsyncIterator<IteratorItem<T>> iterator) throws Exception {
        List<T> all = new ArrayList<>();
        for (IteratorItem<T> page = done(iterator.getNext()); page != null; page = done(iterator.getNext())) {
            all.addAll(page.getItems());
        }
        return all;
    }

    private static KeyValueTableConfiguration config(int partitions) {
        return KeyValueTableConfiguration.builder().partitionCount(partitions).primaryKeyLength(4).secondaryKeyLength(4).build();
    }

    private static TableKey key(int primary, int secondary) {
        return new TableKey(bytes(primary), bytes(secondary));
    }

    private static ByteBuffer bytes(int number) {
        return ByteBuffer.allocate(4).putInt(0, number);
    }

    private static Integer value(TableEntry entry) {
        return entry == null ? null : entry.getValue().getInt(entry.getValue().position());
    }

    private static <T> T done(java.util.concurrent.CompletableFuture<T> future) throws Exception {
        return future.get(30, TimeUnit.SECONDS);
    }

    private TableScenarios() { }
}
