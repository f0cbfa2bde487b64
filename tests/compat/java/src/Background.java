import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;

/** Threads for what the client wants run beside the scenario; they do not keep the process alive. */
final class Background {
    static final ScheduledExecutorService EXECUTOR = Executors.newScheduledThreadPool(4, task -> {
        Thread thread = new Thread(task, "background");
        thread.setDaemon(true);
        return thread;
    });

    private Background() { }
}
