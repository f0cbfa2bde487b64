import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.function.Supplier;

/** What the storms have in common: options on the command line, commands on standard input, answers on standard output. */
final class Steering {
    /** Takes {@code --name NUMBER} for every name in {@code defaults} behind the three arguments that all storms have. */
    static Map<String, Integer> options(String[] args, Map<String, Integer> defaults, String usage) {
        Map<String, Integer> options = new HashMap<>(defaults);
        boolean wrong = args.length < 3 || args.length % 2 == 0;
        for (int i = 3; i < args.length && !wrong; i += 2) {
            wrong = !args[i].startsWith("--") || !options.containsKey(args[i].substring(2)) || !args[i + 1].matches("[0-9]{1,7}");
            if (!wrong) {
                options.put(args[i].substring(2), Integer.parseInt(args[i + 1]));
            }
        }
        if (wrong || options.get("size") < Item.SMALLEST) {
            System.err.println(usage);
            System.exit(2);
        }
        return options;
    }

    /** Answers each line with what the command of that name says, until {@code quit} or the end of input. */
    static void steer(Map<String, Supplier<String>> commands) throws IOException {
        say("ready");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null && !line.equals("quit"); line = in.readLine()) {
            Supplier<String> command = commands.get(line);
            say(command == null ? "{\"error\":\"unknown command, expected quit or one of " + commands.keySet() + "\"}" : command.get());
        }
    }

    /** What was found, as JSON; {@code more} are further members, {@code error} is null if there is none. */
    static String found(Writers writers, Ledger.Found found, String more, String error) {
        return String.format("{\"acked\":%d,\"read\":%d,\"lost\":%d,\"duplicated\":%d,\"reordered\":%d,\"corrupt\":%d,\"failed\":%d,%s%s}",
            writers.acked.get(), found.read(), found.lost(), found.duplicated(), found.reordered(), found.corrupt(), writers.failed.get(),
            more, error == null ? "" : ",\"error\":\"" + error.replaceAll("[\\\\\"\\p{Cntrl}]+", " ") + '"');
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private Steering() { }
}
