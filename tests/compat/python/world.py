"""What every scenario starts from: checks, a client with a scope of its own, a ledger of events."""

import secrets
import time

import pravega_client

KEYS = 1_000
EVENTS_PER_KEY = 100
EVENT_BYTES = 100
# Events that a writer may have on the way before a write waits for the first of them.
IN_FLIGHT = 10_000
# Longest time without an event while some are due. Above the 10 s between two rebalancings.
STALL_LIMIT_S = 30


class Failed(Exception):
    """A check of this suite that did not hold."""


def ensure(holds: bool, otherwise: str) -> None:
    # Not `assert`, which -O removes.
    if not holds:
        raise Failed(otherwise)


def ensure_refused(what: str, call, *arguments) -> None:
    try:
        call(*arguments)
    except (ValueError, OSError):
        return
    raise Failed(f"{what} was not refused")


class World:
    """A client and a scope that no other scenario uses."""

    def __init__(self, uri: str, scenario: str):
        # Lives as long as the world: the client's runtime belongs to it, and all that is made with
        # it.
        self.manager = pravega_client.StreamManager(uri)
        self.nonce = secrets.token_bytes(8)
        self.scope = f"python-{scenario.replace('_', '-')}-{self.nonce.hex()}"
        self.groups: list = []

    def create_stream(self, name: str, segments: int) -> str:
        self.manager.create_scope(self.scope)
        ensure(self.manager.create_stream(self.scope, name, segments), f"stream {name} was there")
        return name

    def create_group(self, name: str, stream: str, from_tail: bool = False, cut=None):
        self.groups.append(name)
        return self.manager.create_reader_group(name, self.scope, stream, from_tail, cut)

    def streams(self) -> list:
        """Names of the scope's streams that users made."""
        return sorted(
            name for name in self.manager.list_stream(self.scope) if not name.startswith("_")
        )

    def clean_up(self) -> None:
        for group in self.groups:
            self.manager.delete_reader_group(group, self.scope)
        if self.scope in self.manager.list_scope():
            for stream in self.streams():
                self.manager.seal_stream(self.scope, stream)
                self.manager.delete_stream(self.scope, stream)
            self.manager.delete_scope(self.scope)


class Ledger:
    """Which events are due: per routing key those numbered from 0 up, each once, in order."""

    def __init__(self, nonce: bytes, keys: int = KEYS, per_key: int = EVENTS_PER_KEY):
        self.nonce, self.keys, self.per_key = nonce, keys, per_key
        self.due = [0] * keys
        self.accepted = 0
        self.total = keys * per_key

    def event(self, key: int, number: int) -> bytes:
        """100 bytes: nonce, key, number, and a filler that differs in every event."""
        head = self.nonce + key.to_bytes(4, "big") + number.to_bytes(4, "big")
        filler = (key * 1_000_003 + number * 8_191 + 1).to_bytes(7, "big")
        return head + (filler * (EVENT_BYTES // 7))[: EVENT_BYTES - len(head)]

    def accept(self, event: bytes) -> None:
        """Notes an event that was read; fails unless it is, byte for byte, the one that is due."""
        ensure(len(event) == EVENT_BYTES, f"an event of {len(event)} bytes")
        key, number = int.from_bytes(event[8:12], "big"), int.from_bytes(event[12:16], "big")
        ensure(key < self.keys, f"an event of key {key}, which was never used")
        ensure(event == self.event(key, number), f"event {number} of key {key} has other bytes")
        ensure(number >= self.due[key], f"key {key}: event {number} again, {self.due[key]} is due")
        ensure(number == self.due[key], f"key {key}: event {number}, but {self.due[key]} is due")
        ensure(number < self.per_key, f"key {key}: event {number} was never written")
        self.due[key] += 1
        self.accepted += 1

    def write(self, world: World, stream: str) -> None:
        """Writes all events, key by key in turn; returns when every one is acknowledged."""
        writer = world.manager.create_writer(world.scope, stream, IN_FLIGHT)
        for number in range(self.per_key):
            for key in range(self.keys):
                writer.write_event_bytes(self.event(key, number), f"key-{key}")
        writer.flush()


async def read_until(reader, ledger: Ledger, goal: int) -> int:
    """Reads until the ledger has accepted `goal` events, not one more.

    Returns how many of them this reader got.
    """
    read, accepted, since = 0, ledger.accepted, time.monotonic()
    while ledger.accepted < goal:
        if ledger.accepted > accepted:
            accepted, since = ledger.accepted, time.monotonic()
        stalled = time.monotonic() - since > STALL_LIMIT_S
        ensure(not stalled, f"no more events: {accepted} of {ledger.total} came")
        # Waits up to a second for data; then the slice is empty.
        piece = await reader.get_segment_slice_async()
        while ledger.accepted < goal:
            event = next(piece, None)
            if event is None:
                break
            ledger.accept(bytes(event.data()))
            read += 1
        reader.release_segment(piece)
    return read


async def read_all(reader, ledger: Ledger) -> int:
    """Reads until the ledger is complete, whoever reads, and makes sure that nothing follows.

    Returns how many events this reader got.
    """
    read = await read_until(reader, ledger, ledger.total)
    piece = await reader.get_segment_slice_async()
    ensure(next(piece, None) is None, "an event more than expected")
    reader.release_segment(piece)
    return read
