"""Compatibility suite: the official Python client `pravega` 0.3.8, unchanged, against any server
that speaks Pravega's protocol.

`compat.py URI [SCENARIO…]` runs all scenarios, or the named ones, one after the other. Each prints
one line, `ok NAME SECONDS` or `FAILED NAME: reason`; the last line is `N passed, N failed`. Exit
status: 0 when all passed, 1 when one failed, 2 when nothing was run (bad arguments, nobody
listening). `--list` names the scenarios.

Each scenario runs in a process of its own, because the client holds the interpreter's lock while it
waits: a hang can only be ended from outside. It has a scope of its own, which it removes; one that
is killed at its time limit leaves it behind. What the client logs goes to stderr.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
import traceback

from scenarios import SCENARIOS
from world import Failed, World

CONNECT_LIMIT_S = 5
USAGE = (
    "usage: compat.py URI [SCENARIO…] | compat.py --list"
    "     (URI: tcp://127.0.0.1:9090, a controller)"
)


def run_here(uri: str, name: str, report: int) -> None:
    """The process of one scenario: writes the reason of a failure to the descriptor `report`."""
    failed = False

    def fail(error: BaseException) -> None:
        nonlocal failed
        if not failed:
            os.write(report, describe(error).encode())
        failed = True

    # The client's panics are BaseExceptions. A failure is told before the clean-up, which may hang.
    try:
        world = World(uri, name)
        try:
            asyncio.run(SCENARIOS[name][0](world))
        except BaseException as error:
            fail(error)
        world.clean_up()
    except BaseException as error:
        fail(error)
    # Not an ordinary exit: the client's threads may still wait for data.
    os._exit(1 if failed else 0)


def describe(error: BaseException) -> str:
    if not isinstance(error, Failed):
        traceback.print_exception(type(error), error, error.__traceback__)
    return " ".join(str(error).split()) or type(error).__name__


def run(uri: str, name: str) -> str:
    """Runs a scenario in a process of its own. Returns why it failed, or an empty string."""
    limit = SCENARIOS[name][1]
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, __file__, "--one", uri, name, str(writing)],
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    ) as process:
        os.close(writing)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
    with os.fdopen(reading, encoding="utf-8", errors="replace") as report:
        reason = report.read()
    if process.returncode == 0 or reason:
        return reason
    return (
        f"not done after {limit} s"
        if process.returncode == -9
        else f"ended with status {process.returncode}"
    )


def main(arguments: list) -> int:
    if arguments == ["--list"]:
        print(*SCENARIOS, sep="\n")
        return 0
    if arguments[:1] == ["--one"]:
        uri, name, report = arguments[1:]
        run_here(uri, name, int(report))
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    uri, *names = arguments
    for name in names:
        if name not in SCENARIOS:
            print(f"compat.py: no scenario is called {name}, see --list", file=sys.stderr)
            return 2
    host, _, port = uri.split("://")[-1].rpartition(":")
    try:
        # The client itself would retry in silence for a minute.
        socket.create_connection((host, int(port)), CONNECT_LIMIT_S).close()
    except (OSError, ValueError) as error:
        print(f"compat.py: connect to {uri}: {error}", file=sys.stderr)
        return 2

    failed = 0
    for name in names or SCENARIOS:
        start = time.monotonic()
        reason = run(uri, name)
        failed += bool(reason)
        seconds = time.monotonic() - start
        print(f"FAILED {name}: {reason}" if reason else f"ok {name} {seconds:.1f}", flush=True)
    print(f"{len(names or SCENARIOS) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
