"""Writes a stream and reads it at the same time, through one reader group, while somebody else splits
and merges it. Steered by lines on standard input, answers by lines on standard output:

    (start)    ready                            once every writer has acknowledgements
    verify     {"acked":…,"read":…,"lost":…}    stops writing, waits for all acknowledgements, seals the
                                                stream, waits until all was read
    quit       (also the end of input) ends the process

Writers and readers have a process each, and there are two readers only. The client holds the
interpreter's lock while it waits, and a thread of its own that has something for the interpreter waits
for the lock: with others in the process, all threads that serve connections may come to wait so.
"""

import asyncio
import json
import os
import select
import sys
import time
import traceback

import pravega_client

from world import Failed, Ledger, ensure

USAGE = "usage: storm.py URI SCOPE STREAM"
WRITERS = 8
READERS = 2
# Of all writers together.
KEYS = 64
# Events that a writer may have on the way before a write waits for the first of them.
IN_FLIGHT = 256
# All writers write a burst, one event of each key, this often.
BURST_EVERY_S = 0.016
FIRST_BURSTS = 32
# Writers are replaced by fresh ones, all their events acknowledged, after so long. Beyond 64 borders
# between segments, which a writer never forgets, lookups panic (`lookup_next` in `im` 15.1.0, on which
# the client is built), on any server.
RENEW_AFTER_S = 10
START_LIMIT_S = 60
ACK_LIMIT_S = 60
# Longest time without an event while some are due and nothing is written. A reader looks only every
# 10 s for segments that it could take over.
STALL_LIMIT_S = 60
# How long to look out for events that are too many.
AFTERMATH_S = 1
DRAIN_LIMIT_S = 240

EVENTS = Ledger(bytes(8), KEYS)


def say(line: str) -> None:
    print(line, flush=True)


def write(uri: str, scope: str, stream: str) -> None:
    """The process of the writers: `stop` ends it with how many events of each key were written, all of
    them acknowledged and the stream sealed."""
    manager = pravega_client.StreamManager(uri)
    manager.create_scope(scope)
    ensure(manager.create_stream(scope, stream, 1), f"stream {stream} was there")
    say("created")

    def fresh() -> list:
        return [manager.create_writer(scope, stream, IN_FLIGHT) for _ in range(WRITERS)]

    writers, renewed = fresh(), time.monotonic()
    bursts, due = 0, time.monotonic()
    while not ordered(due):
        due = max(due + BURST_EVERY_S, time.monotonic())
        for key in range(KEYS):
            # A key has one writer at a time.
            writers[key % WRITERS].write_event_bytes(EVENTS.event(key, bursts), f"key-{key}")
        bursts += 1
        renew = time.monotonic() - renewed > RENEW_AFTER_S
        if renew or bursts == FIRST_BURSTS:
            flush(writers)
        if bursts == FIRST_BURSTS:
            say("ready")
        if renew:
            writers, renewed = fresh(), time.monotonic()
    flush(writers)
    ensure(manager.seal_stream(scope, stream), "the stream was not sealed")
    say(json.dumps({"written": bursts}))


def ordered(due: float) -> bool:
    """Waits until a time for the order to stop; the end of input ends the process."""
    given, _, _ = select.select([sys.stdin], [], [], max(0, due - time.monotonic()))
    if given and not sys.stdin.readline():
        os._exit(0)
    return bool(given)


def flush(writers: list) -> None:
    for writer in writers:
        writer.flush()


class History:
    """What was read of each key, in that order."""

    def __init__(self):
        self.numbers: list = [[] for _ in range(KEYS)]
        self.read = self.corrupt = 0
        # How many events of each key there are, once that is known.
        self.written = None

    def take(self, event: bytes) -> None:
        self.read += 1
        key, number = int.from_bytes(event[8:12], "big"), int.from_bytes(event[12:16], "big")
        if key < KEYS and event == EVENTS.event(key, number):
            self.numbers[key].append(number)
        else:
            self.corrupt += 1

    def behind(self) -> int:
        return KEYS * self.written - self.read

    def found(self) -> dict:
        found = {"read": self.read, "lost": 0, "duplicated": 0, "reordered": 0}
        found["corrupt"] = self.corrupt
        for numbers in self.numbers:
            seen, due = set(), 0
            for number in numbers:
                if number >= self.written:
                    found["corrupt"] += 1
                elif number in seen:
                    found["duplicated"] += 1
                elif number < due:
                    found["reordered"] += 1
                else:
                    due = number + 1
                seen.add(number)
            found["lost"] += len(set(range(self.written)) - seen)
        return found


async def read(uri: str, scope: str, stream: str) -> None:
    """The process of the readers: told how many events of each key were written, it ends with what it
    found when it has read everything."""
    manager = pravega_client.StreamManager(uri)
    group = manager.create_reader_group(f"readers-of-{stream}", scope, stream)
    readers = [group.create_reader(f"reader-{number}") for number in range(READERS)]
    say("ready")
    history = History()
    order = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    tasks = [asyncio.ensure_future(read_on(reader, history)) for reader in readers]
    await asyncio.wait([order, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if order.done():
        written = order.result()
        if not written:
            os._exit(0)
        history.written = int(written)
        behind = history.behind()
    await asyncio.gather(*tasks)
    for reader in readers:
        reader.reader_offline()
    say(json.dumps({**history.found(), "behind": behind}))


async def read_on(reader, history: History) -> None:
    """Reads until everything was read by all readers together, and nothing follows."""
    progress, since = history.read, time.monotonic()
    while True:
        # Waits up to a second for data; then the slice is empty.
        piece = await reader.get_segment_slice_async()
        for event in piece:
            history.take(bytes(event.data()))
        reader.release_segment(piece)
        if history.written is None or history.read != progress:
            progress, since = history.read, time.monotonic()
            continue
        quiet = time.monotonic() - since
        if history.behind() <= 0 and quiet > AFTERMATH_S:
            return
        ensure(quiet < STALL_LIMIT_S, f"no more events, {history.behind()} are due")


class Child:
    """A process of one part."""

    def __init__(self, part: str, process):
        self.part, self.process = part, process

    @classmethod
    async def start(cls, part: str, arguments: list) -> "Child":
        return cls(
            part,
            await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                part,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            ),
        )

    async def expect(self, line: str) -> None:
        said = await self.line(START_LIMIT_S)
        ensure(said == line, f"{self.part} says {said}")

    async def ask(self, order: str, limit: float) -> dict:
        self.process.stdin.write(order.encode() + b"\n")
        found = json.loads(await self.line(limit))
        ensure("error" not in found, f"{self.part}: {found.get('error')}")
        return found

    async def line(self, limit: float) -> str:
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), limit)
        except asyncio.TimeoutError:
            raise Failed(f"{self.part} says nothing for {limit} s") from None
        ensure(bool(line), f"{self.part} has ended")
        return line.decode().rstrip("\n")


async def steer(arguments: list) -> None:
    loop = asyncio.get_running_loop()
    writers = await Child.start("--write", arguments)
    await writers.expect("created")
    readers = await Child.start("--read", arguments)
    await readers.expect("ready")
    await writers.expect("ready")
    say("ready")
    while True:
        order = (await loop.run_in_executor(None, sys.stdin.readline)).rstrip("\n")
        if order in ("", "quit"):
            return
        if order != "verify":
            say(json.dumps({"error": "unknown command, expected verify or quit"}))
            continue
        try:
            say(json.dumps(await verify(writers, readers)))
        except Failed as error:
            say(json.dumps({"error": str(error)}))


async def verify(writers: Child, readers: Child) -> dict:
    begin = time.monotonic()
    written = (await writers.ask("stop", ACK_LIMIT_S))["written"]
    acked = time.monotonic()
    found = await readers.ask(str(written), DRAIN_LIMIT_S)
    took = {"ack_s": round(acked - begin, 1), "drain_s": round(time.monotonic() - acked, 1)}
    # The writers have ended well: all that was written was acknowledged.
    return {"acked": KEYS * written, "failed": 0, **found, **took}


async def alone(part) -> None:
    """Runs a part, and ends the process from within: outside, threads that read are waited for."""
    try:
        await part
    except BaseException as error:
        fail(error)
    os._exit(0)


def fail(error: BaseException) -> None:
    traceback.print_exception(type(error), error, error.__traceback__)
    say(json.dumps({"error": " ".join(str(error).split()) or type(error).__name__}))
    os._exit(1)


def main(arguments: list) -> None:
    part = arguments.pop(0) if arguments[:1] in (["--write"], ["--read"]) else None
    if len(arguments) != 3:
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    if part == "--write":
        # The client's panics are BaseExceptions.
        try:
            write(*arguments)
        except BaseException as error:
            fail(error)
        # Not an ordinary exit: the client's threads may still wait for data.
        os._exit(0)
    asyncio.run(alone(read(*arguments) if part else steer(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
