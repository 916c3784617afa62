"""The messages between the market and the process that checks submissions for it.

A message is eight bytes with its length, big-endian, and a pickle. Both ends are this project's own code and send
objects that they built themselves; nothing of a submission is ever unpickled.
"""

import os
from typing import Any, NamedTuple

LENGTH_BYTES = 8
"""Bytes of a message's first field, which holds the length of the rest."""


class Ask(NamedTuple):
    """A step of `ChecksHere` by its name and arguments, with the memory in bytes and the computing time in seconds that
    it may take."""

    step: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    memory_bytes: int
    cpu_s: int


class Answer(NamedTuple):
    """The end of a step: its value, or its error; or `died`, how its process ended without either."""

    value: Any = None
    error: BaseException | None = None
    died: str | None = None


def receive(descriptor: int) -> bytes | None:
    """Returns the content of the next message, or None where there is no whole one any more."""
    head = _read(descriptor, LENGTH_BYTES)
    return None if head is None else _read(descriptor, int.from_bytes(head, "big"))


def send(descriptor: int, content: bytes) -> None:
    """Writes a message."""
    left = memoryview(len(content).to_bytes(LENGTH_BYTES, "big") + content)
    while left:
        left = left[os.write(descriptor, left) :]


def _read(descriptor: int, count: int) -> bytes | None:
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
