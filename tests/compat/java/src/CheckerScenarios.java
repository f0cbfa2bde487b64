import java.util.List;

/** The checker is checked first, without a server's help: a judge that never finds anything would pass everything. */
final class CheckerScenarios {
    static final List<Compat.Scenario> ALL = List.of(new Compat.Scenario("checker", 30, scene -> findsFaults()));

    private static void findsFaults() {
        found("read once, in order", new Ledger.Found(5, 5, 0, 0, 0, 0), 0, 1, 2, 3, 4);
        found("the last is lost", new Ledger.Found(5, 4, 1, 0, 0, 0), 0, 1, 2, 3);
        found("two are lost in the middle", new Ledger.Found(5, 3, 2, 0, 0, 0), 0, 3, 4);
        found("one comes twice", new Ledger.Found(5, 6, 0, 1, 0, 0), 0, 1, 1, 2, 3, 4);
        found("one comes again later", new Ledger.Found(5, 6, 0, 1, 0, 0), 0, 1, 2, 3, 4, 0);
        found("two come late", new Ledger.Found(5, 5, 0, 0, 2, 0), 0, 3, 4, 2, 1);
        found("one comes late, and again", new Ledger.Found(5, 6, 0, 1, 1, 0), 0, 2, 1, 1, 3, 4);
        found("one was never written", new Ledger.Found(5, 6, 0, 0, 0, 1), 0, 1, 2, 3, 4, 5);
        for (int position = 0; position < 100; position += 11) {
            Ledger ledger = new Ledger(1, 1);
            byte[] event = ledger.next(0, 0).bytes(100);
            event[position] ^= 1;
            ledger.read(event);
            Check.equal(new Ledger.Found(1, 1, 1, 0, 0, 1), ledger.found(), "with a bit flipped at " + position);
        }
        Ledger cut = new Ledger(1, 1);
        cut.next(0, 0);
        cut.read(new byte[Item.SMALLEST - 1]);
        Check.equal(new Ledger.Found(1, 1, 1, 0, 0, 1), cut.found(), "with an event too short to be one");
    }

    /** Of five events written, those with the given numbers are read. */
    private static void found(String what, Ledger.Found expected, int... sequences) {
        Ledger ledger = new Ledger(2, 3);
        for (int n = 0; n < 5; n++) {
            ledger.next(1, 2);
        }
        for (int sequence : sequences) {
            ledger.read(new Item(1, 5, sequence).bytes(100));
        }
        Check.equal(expected, ledger.found(), what);
        Check.equal(what.equals("read once, in order"), ledger.found().clean(), what + ": clean");
    }

    private CheckerScenarios() { }
}
