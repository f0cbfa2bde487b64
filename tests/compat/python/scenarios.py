"""The scenarios: what the official Python client must be able to do."""

import asyncio
import secrets

import pravega_client

from world import Ledger, World, ensure, ensure_refused, read_all, read_until

LARGEST_PLAIN_EVENT_BYTES = 8_388_608


async def scopes_and_streams(world: World) -> None:
    manager, scope = world.manager, world.scope
    ensure(scope not in manager.list_scope(), "the scope exists before")
    ensure(manager.create_scope(scope), "the scope was there")
    ensure(not manager.create_scope(scope), "the scope was created twice")
    ensure(scope in manager.list_scope(), "the scope is not listed")
    ensure(world.streams() == [], "a new scope has streams")

    ensure(manager.create_stream(scope, "one", 1), "the stream was there")
    ensure(not manager.create_stream(scope, "one", 1), "the stream was created twice")
    fixed = pravega_client.StreamScalingPolicy.fixed_scaling_policy
    by_size = pravega_client.StreamRetentionPolicy.by_size(1 << 30)
    ensure(
        manager.create_stream_with_policy(scope, "four", fixed(4), by_size, ["colour", "size"]),
        "four was there",
    )
    ensure(world.streams() == ["four", "one"], f"listed: {world.streams()}")
    ensure(
        sorted(manager.get_stream_tags(scope, "four")) == ["colour", "size"], "the tags are others"
    )
    ensure(not manager.get_stream_tags(scope, "one"), "a stream has tags it was not given")

    by_time = pravega_client.StreamRetentionPolicy.by_time(86_400_000)
    ensure(
        manager.update_stream_with_policy(scope, "four", fixed(4), by_time, ["shape"]),
        "the update was refused",
    )
    ensure(manager.get_stream_tags(scope, "four") == ["shape"], "the tags are the old ones")

    ensure_refused(
        "a stream in a missing scope", manager.create_stream, scope + "-missing", "stream", 1
    )
    ensure_refused("an invalid stream name", manager.create_stream, scope, "no spaces or / here", 1)
    ensure_refused("the deletion of an unsealed stream", manager.delete_stream, scope, "one")
    ensure(not manager.delete_stream(scope, "missing"), "a missing stream was deleted")
    ensure(world.streams() == ["four", "one"], f"a refusal left {world.streams()}")


async def ways_to_write(world: World) -> None:
    stream = world.create_stream("events", 1)
    writer = world.manager.create_writer(world.scope, stream)
    writer.write_event("text, with a key: Öl", "key")
    writer.write_event("text without a key")
    writer.write_event_bytes(b"\x00\xff", "key")
    writer.write_event_bytes(b"\x01\xfe")
    await writer.write_event_async("asynchronously", "key")
    writer.flush()
    due = [
        "text, with a key: Öl".encode(),
        b"text without a key",
        b"\x00\xff",
        b"\x01\xfe",
        b"asynchronously",
    ]
    reader = world.create_group("group", stream).create_reader("reader")
    read: list = []
    while len(read) < len(due):
        piece = await reader.get_segment_slice_async()
        read += [bytes(event.data()) for event in piece]
        reader.release_segment(piece)
    ensure(read == due, f"read back: {read}")


async def events_on_one_segment(world: World) -> None:
    ledger = Ledger(world.nonce)
    stream = world.create_stream("events", 1)
    ledger.write(world, stream)
    group = world.create_group("group", stream)
    first, second = group.create_reader("first"), group.create_reader("second")
    # One segment has one reader at a time. The second takes over where the first stops, at its next
    # rebalancing: 10 s after its creation.
    half = ledger.total // 2
    ensure(
        await read_until(first, ledger, half) == half,
        "the first reader got another number of events",
    )
    first.reader_offline()
    ensure(await read_all(second, ledger) == half, "the second reader got another number of events")


async def events_on_four_segments(world: World) -> None:
    ledger = Ledger(world.nonce)
    stream = world.create_stream("events", 4)
    ledger.write(world, stream)
    group = world.create_group("group", stream)
    # The first reader of a group takes all segments when it is created, and later ones have to wait
    # for the next rebalancing. With an idle third one in the group, two take two each.
    opener, idle = group.create_reader("opener"), group.create_reader("idle")
    opener.reader_offline()
    first, second = group.create_reader("first"), group.create_reader("second")
    idle.reader_offline()
    shares = await asyncio.gather(read_all(first, ledger), read_all(second, ledger))
    ensure(min(shares) > 0, f"the readers got {shares} events")


async def seal_delete_recreate(world: World) -> None:
    manager, scope = world.manager, world.scope
    stream = world.create_stream("reborn", 4)
    ledger = Ledger(world.nonce, keys=100, per_key=20)
    ledger.write(world, stream)
    # The writer exists before the seal and learns of it from the segment store.
    writer = manager.create_writer(scope, stream)
    ensure(manager.seal_stream(scope, stream), "the seal was refused")
    ensure_refused("an event on a sealed stream", writer.write_event_bytes, b"late", "key")
    # A sealed stream is still read, to its end.
    await read_all(world.create_group("sealed", stream).create_reader("reader"), ledger)

    ensure(manager.delete_stream(scope, stream), "the delete found no stream")
    ensure(world.streams() == [], "the deleted stream is listed")
    ensure(not manager.delete_stream(scope, stream), "the stream was deleted twice")

    ensure(manager.create_stream(scope, stream, 4), "the name was still taken")
    ledger = Ledger(secrets.token_bytes(8), keys=100, per_key=20)
    ledger.write(world, stream)
    await read_all(world.create_group("reborn-group", stream).create_reader("reader"), ledger)


async def read_from_a_cut(world: World) -> None:
    stream = world.create_stream("events", 4)
    Ledger(world.nonce, keys=100, per_key=20).write(world, stream)
    # A group that starts at the tail knows the cut between the two halves.
    at_tail = world.create_group("at-tail", stream, from_tail=True)
    cut = at_tail.get_streamcut()
    offsets = cut.get_segment_offset_map()
    ensure(len(offsets) == 4 and min(offsets.values()) > 0, f"the cut is {offsets}")
    nonce = secrets.token_bytes(8)
    Ledger(nonce, keys=100, per_key=20).write(world, stream)
    at_cut = world.create_group("at-cut", stream, cut=cut)
    for group in at_tail, at_cut:
        await read_all(group.create_reader("reader"), Ledger(nonce, keys=100, per_key=20))


async def byte_stream(world: World) -> None:
    length, head = 3 * 1024 * 1024, 1024 * 1024 + 17
    data = bytes(range(251)) * (length // 251) + world.nonce
    length = len(data)
    name = world.create_stream("bytes", 1)
    stream = world.manager.create_byte_stream(world.scope, name)
    for start in range(0, length, 65_536):
        chunk = data[start : start + 65_536]
        ensure(stream.write(chunk) == len(chunk), f"not all of {len(chunk)} bytes were taken")
    stream.flush()

    def read(count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = bytearray(count - len(parts))
            parts += part[: stream.readinto(part)]
        return bytes(parts)

    ensure(
        (stream.current_head_offset(), stream.current_tail_offset()) == (0, length),
        "head or tail are elsewhere",
    )
    ensure(read(length) == data, "other bytes were read than written")
    for position, whence, at in (
        (100_000, 0, 100_000),
        (-150, 1, 99_900),
        (-1_000, 2, length - 1_000),
    ):
        ensure(stream.seek(position, whence) == at, f"a seek did not go to {at}")
        ensure(read(50) == data[at : at + 50], f"other bytes at {at}")
        ensure(stream.tell() == at + 50, f"the position is {stream.tell()}")

    stream.truncate(head)
    ensure(
        (stream.current_head_offset(), stream.current_tail_offset()) == (head, length),
        "not cut where asked",
    )
    stream.seek(0, 0)
    ensure_refused("a read of truncated bytes", stream.readinto, bytearray(10))
    stream.seek(head, 0)
    ensure(read(length - head) == data[head:], "other bytes above the cut")


async def largest_plain_event(world: World) -> None:
    stream = world.create_stream("large", 1)
    big = (world.nonce * (LARGEST_PLAIN_EVENT_BYTES // len(world.nonce)))[
        :LARGEST_PLAIN_EVENT_BYTES
    ]
    due = [b"before", big, b"after"]
    writer = world.manager.create_writer(world.scope, stream)
    for event in due:
        writer.write_event_bytes(event, "key")
    writer.flush()
    reader = world.create_group("group", stream).create_reader("reader")
    read: list = []
    while len(read) < len(due):
        piece = await reader.get_segment_slice_async()
        read += [bytes(event.data()) for event in piece]
        reader.release_segment(piece)
    ensure(
        [len(event) for event in read] == [len(event) for event in due],
        "the events came back in other sizes",
    )
    ensure(read == due, "an event came back changed")


# Name, what it runs, longest time it may take in seconds: several times what the reference needs on
# a busy machine.
SCENARIOS = {
    "admin": (scopes_and_streams, 60),
    "writes": (ways_to_write, 60),
    "events_1_segment": (events_on_one_segment, 120),
    "events_4_segments": (events_on_four_segments, 120),
    "seal_delete_recreate": (seal_delete_recreate, 90),
    "read_from_cut": (read_from_a_cut, 90),
    "byte_stream": (byte_stream, 90),
    "event_8_mib": (largest_plain_event, 60),
}
