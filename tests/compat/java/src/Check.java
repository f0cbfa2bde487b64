import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/** The assertions of the scenarios: each throws an {@link AssertionError} whose message says what was expected of what. */
final class Check {
    static void that(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError("not so: " + what);
        }
    }

    static void equal(Object expected, Object actual, String what) {
        if (!Objects.equals(expected, actual)) {
            throw new AssertionError(what + ": expected " + expected + ", got " + actual);
        }
    }

    /** Runs a call that has to fail with an exception of the given type, looked for behind the wrappers of futures; returns it. */
    static <E extends Throwable> E fails(Class<E> type, String what, Callable<?> call) {
        Object result;
        try {
            result = call.call();
        } catch (Throwable t) {
            Throwable cause = t;
            while ((cause instanceof CompletionException || cause instanceof ExecutionException) && cause.getCause() != null) {
                cause = cause.getCause();
            }
            if (type.isInstance(cause)) {
                return type.cast(cause);
            }
            throw new AssertionError(what + ": expected " + type.getSimpleName() + ", got " + cause, t);
        }
        throw new AssertionError(what + ": expected " + type.getSimpleName() + ", got the result " + result);
    }

    private Check() { }
}
