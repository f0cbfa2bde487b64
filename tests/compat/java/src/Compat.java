import java.io.IOException;
import java.net.Socket;
import java.net.URI;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Drives a Pravega-compatible server with the official Java client, one scenario after the other, each in a scope of its own.
 * Prints one line per scenario, {@code ok NAME SECONDS} or {@code FAILED NAME: reason}, then {@code N passed, N failed}; stack traces
 * go to standard error. Ends with 0 if all passed, 1 if one failed, 2 if it was called wrongly or nobody listens. Leaves nothing behind
 * on the server unless a scenario failed. It does not start, stop or measure the server.
 */
final class Compat {
    private static final String USAGE = "usage: Compat CONTROLLER_URI [SCENARIO…] | Compat --list";

    /** What a scenario does with the scope it was given. */
    interface Body {
        void run(Scene scene) throws Exception;
    }

    /** A named scenario; it fails when it has not ended after {@code seconds}, its cleaning up included. */
    record Scenario(String name, int seconds, Body body) { }

    private static List<Scenario> all() {
        List<Scenario> all = new ArrayList<>();
        all.addAll(CheckerScenarios.ALL);
        all.addAll(AdminScenarios.ALL);
        all.addAll(EventScenarios.ALL);
        all.addAll(LargestEventScenarios.ALL);
        all.addAll(LifetimeScenarios.ALL);
        all.addAll(ReaderGroupScenarios.ALL);
        all.addAll(ByteStreamScenarios.ALL);
        all.addAll(SynchronizerScenarios.ALL);
        all.addAll(RevisionedScenarios.ALL);
        all.addAll(BatchScenarios.ALL);
        all.addAll(RetentionScenarios.ALL);
        all.addAll(WatermarkScenarios.ALL);
        all.addAll(TransactionScenarios.ALL);
        all.addAll(TableScenarios.ALL);
        return all;
    }

    public static void main(String[] args) {
        Map<String, Scenario> known = new LinkedHashMap<>();
        all().forEach(scenario -> known.put(scenario.name(), scenario));
        if (args.length == 1 && args[0].equals("--list")) {
            known.keySet().forEach(System.out::println);
            return;
        }
        if (args.length == 0 || args[0].startsWith("-")) {
            System.err.println(USAGE);
            System.exit(2);
        }
        List<String> names = args.length == 1 ? List.copyOf(known.keySet()) : Arrays.asList(args).subList(1, args.length);
        for (String name : names) {
            if (!known.containsKey(name)) {
                System.err.println("no scenario is called " + name + "; Compat --list names them");
                System.exit(2);
            }
        }
        URI controller = URI.create(args[0]);
        try (Socket reachable = new Socket(controller.getHost(), controller.getPort())) {
            reachable.getInetAddress();
        } catch (IOException | IllegalArgumentException e) {
            System.err.println("no server at " + controller + ": " + e.getMessage()); // the client would try for minutes, in each scenario
            System.exit(2);
        }
        int failed = 0;
        for (String name : names) {
            failed += passes(known.get(name), controller) ? 0 : 1;
        }
        System.out.println((names.size() - failed) + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1); // not by running out: a scenario that hangs still has its threads
    }

    private static boolean passes(Scenario scenario, URI controller) {
        long begin = System.nanoTime();
        FutureTask<Void> task = new FutureTask<>(() -> {
            try (Scene scene = new Scene(controller, scenario.name())) {
                scenario.body().run(scene);
                scene.cleanUp();
            }
            return null;
        });
        Thread thread = new Thread(task, scenario.name());
        thread.setDaemon(true);
        thread.start();
        try {
            task.get(scenario.seconds(), TimeUnit.SECONDS);
            System.out.printf("ok %s %.1f%n", scenario.name(), (System.nanoTime() - begin) / 1e9);
            return true;
        } catch (ExecutionException e) {
            report(scenario, e.getCause().toString(), e.getCause());
        } catch (TimeoutException e) {
            Throwable where = new Throwable("where " + scenario.name() + " was");
            where.setStackTrace(thread.getStackTrace());
            report(scenario, "not done after " + scenario.seconds() + " s", where);
            thread.interrupt();
        } catch (InterruptedException e) {
            throw new IllegalStateException("nobody interrupts the main thread", e);
        }
        return false;
    }

    private static void report(Scenario scenario, String reason, Throwable trace) {
        System.out.println("FAILED " + scenario.name() + ": " + reason.replaceAll("\\s+", " "));
        trace.printStackTrace();
    }

    private Compat() { }
}
