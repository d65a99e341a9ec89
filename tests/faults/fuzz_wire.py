"""Throws mutated frames and messages at the wire: each ends in a message or a documented error, in bounded memory.

    python -m tests.faults.fuzz_wire --count 100000 --seed 1

prints how much of what came out, and fails with the bytes that did something else.
"""

import argparse
import random
import sys
import tracemalloc
from collections import Counter
from typing import Any

import msgpack
import orjson

from meshbridge.appmesh.subscribe import Subscriptions, decode_event
from meshbridge.appmesh.tcp_messages import MessageError, RequestMessage, ResponseMessage
from meshbridge.appmesh.wire.conversation import Conversation
from meshbridge.appmesh.wire.framing import FrameDecoder, FramingError, encode_frame

MAX_FRAME_BYTES = 64 * 1024
MEMORY_BYTES = 32 * 1024 * 1024

EVENT = {
    "subscription_id": "s",
    "event_type": "STDOUT",
    "app_name": "a",
    "timestamp": 1795515804,
    "sequence": 7,
    "data": {"output": "é\n", "position": 3, "finished": False},
}
MESSAGES = [
    RequestMessage("u", "/appmesh/app/a", "PUT", "host", b'{"name":"a"}', {"X-A": "1"}, {"q": "2"}).serialize(),
    ResponseMessage("u", "/appmesh/app/a", 200, "application/json", b'{"name":"a"}', {"X-Exit-Code": "3"}).serialize(),
    ResponseMessage("e", "/appmesh/event", 200, "application/json", orjson.dumps(EVENT), {}).serialize(),
    ResponseMessage("u", "/appmesh/app/a/output", 200, "text/plain", b"\xff\x00" * 100, {}).serialize(),
]
ODD_VALUES: list[Any] = [
    None, True, -1, 2**63, 1.5, float("nan"), "", "x" * 300, b"", b"\xff" * 300, [], [[[]]], {}, {1: 2}, {b"k": None},
    msgpack.ExtType(5, b"x"), msgpack.Timestamp(2**33),
]  # fmt: skip
ODD_JSON: list[Any] = [None, True, -1, 2**63, 1.5, "", "s", "x" * 300, [], [[]], {}, {"position": []}, {"output": 5}]


def mutate(chance: random.Random) -> bytes:
    """A message that was right once: with other values in it, or other bytes."""
    message = chance.choice(MESSAGES)
    if chance.random() < 0.5:
        fields = msgpack.unpackb(message)
        for _ in range(chance.randint(1, 3)):
            name = chance.choice([*fields, "another"])
            if chance.random() < 0.2:
                fields.pop(name, None)
            else:
                fields[name] = chance.choice(ODD_VALUES)
        body = fields.get("body")
        if isinstance(body, str) and body.startswith("{") and chance.random() < 0.4:
            fields["body"] = mutate_json(body, chance)
        packed: bytes = msgpack.packb(fields)
        return packed
    return mutate_bytes(message, chance)


def mutate_json(body: str, chance: random.Random) -> bytes:
    """Other values in a body, or other bytes."""
    fields = orjson.loads(body)
    if chance.random() < 0.5:
        return mutate_bytes(body.encode(), chance)
    for _ in range(chance.randint(1, 3)):
        fields[chance.choice([*fields, "another"])] = chance.choice(ODD_JSON)
    return orjson.dumps(fields)


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        kind, place = chance.random(), chance.randrange(len(changed) + 1)
        if kind < 0.4 and place < len(changed):
            changed[place] = chance.randrange(256)
        elif kind < 0.6:
            changed[place:place] = chance.randbytes(chance.randint(1, 8))
        elif kind < 0.8:
            del changed[place : place + chance.randint(1, 16)]
        else:
            del changed[place:]
    return bytes(changed)


def read_message(message: bytes, subscriptions: Subscriptions) -> str:
    """What the client makes of a message; anything but the documented errors passes through."""
    try:
        read = Conversation.read(message)
    except MessageError:
        return "MessageError"
    if isinstance(read, ResponseMessage):
        assert isinstance(read.body, bytes)
        assert all(isinstance(text, str) for pair in read.headers.items() for text in pair)
        return "answer"
    try:
        event = decode_event(read)
    except ValueError:
        return "no event"
    assert isinstance(event.data, dict)
    subscriptions.route(event, len(read))
    return "event"


def read_request(message: bytes) -> str:
    try:
        request = RequestMessage.from_bytes(message)
    except MessageError:
        return "no request"
    assert isinstance(request.body, bytes)
    return "request"


def read_stream(stream: bytes, chance: random.Random, subscriptions: Subscriptions) -> str:
    """A connection's bytes, in pieces of any size, up to the first fault of the framing."""
    decoder = FrameDecoder(MAX_FRAME_BYTES)
    place = 0
    while place < len(stream):
        size = chance.choice([1, 3, 8, 9, 100, 5000])
        decoder.feed(stream[place : place + size])
        place += size
        try:
            for body in decoder.frames():
                if body:
                    read_message(body, subscriptions)
        except FramingError:
            try:
                list(decoder.frames())
            except FramingError:
                return "FramingError"
            raise AssertionError("the decoder goes on after a fault") from None
        assert decoder.buffered_bytes <= MAX_FRAME_BYTES + 8 + size
    return "stream"


def run(count: int, seed: int) -> Counter[str]:
    """``count`` rounds of the generator with ``seed``; what came out, by kind.

    Raises:
        AssertionError: something else than a message or a documented error; its note has the bytes.

    """
    chance = random.Random(seed)
    subscriptions = Subscriptions()
    outcomes: Counter[str] = Counter()
    tracemalloc.start()
    try:
        for number in range(count):
            message = mutate(chance)
            try:
                outcomes[read_message(message, subscriptions)] += 1
                outcomes[read_request(message)] += 1
                if number % 4 == 0:
                    frames = b"".join(encode_frame(mutate(chance)) for _ in range(3))
                    stream = mutate_bytes(frames, chance) if chance.random() < 0.7 else frames
                    outcomes[read_stream(stream, chance, subscriptions)] += 1
            except Exception as error:
                error.add_note(f"seed {seed}, round {number}: {message.hex()}")
                raise
            if number % 1000 == 0:
                used = tracemalloc.get_traced_memory()[0]
                assert used < MEMORY_BYTES, f"seed {seed}: {used} bytes are held after {number} rounds"
    finally:
        tracemalloc.stop()
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for kind, times in run(arguments.count, arguments.seed).most_common():
        sys.stdout.write(f"{times:>10,} {kind}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
