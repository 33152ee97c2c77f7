"""Gathered: bytes of a body that wait until they are worth a change of threads."""

from __future__ import annotations

from typing import Protocol

GATHER_BYTES = 1 << 20
"""Of a part, before it is worth a change of threads."""
COPIED_PIECE_BYTES = 4 << 10
"""A piece smaller than this is copied; of a larger one the chunk is kept that it came in."""


class Sink(Protocol):
    """What takes bytes in their order."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        ...


class Gathered:
    """Bytes that wait for a thread: views of the chunks that they came in, without a copy.

    Small ones are copied together, so that a body in tiny chunks costs no more memory than its bytes.
    """

    __slots__ = ("_pieces", "size_bytes")

    def __init__(self) -> None:
        self._pieces: list[memoryview | bytearray] = []
        self.size_bytes = 0

    def add(self, view: memoryview) -> None:
        """Append bytes."""
        self.size_bytes += len(view)
        if len(view) >= COPIED_PIECE_BYTES:
            self._pieces.append(view)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray):
            last += view
        else:
            self._pieces.append(bytearray(view))

    def write_to(self, sink: Sink) -> None:
        """Write all of it. Raises what the sink raises."""
        for piece in self._pieces:
            sink.write(piece)
