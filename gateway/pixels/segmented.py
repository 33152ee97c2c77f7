"""Segmented palettes: a colour lookup table told as runs, slopes and repetitions. Pure. PS3.3 §C.7.9.2"""

from __future__ import annotations

import struct

from storage.errors import Undecodable

_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2


def expanded(data: bytes, count: int, bits: int) -> list[int]:
    """The ``count`` entries that the segments of ``data`` tell, each of ``bits``, 8 or 16.

    Fields are bytes in a table of 8 bits, else little endian words. What segments repeat may not itself be a
    repetition, so a short table cannot grow without bound. Raises Undecodable.
    """
    size = 1 if bits <= 8 else 2
    fields = struct.unpack_from(f"<{len(data) // size}{'B' if size == 1 else 'H'}", data)
    entries: list[int] = []
    at = 0
    while at < len(fields) and len(entries) < count:  # an odd number of bytes is padded
        if fields[at] != _INDIRECT:
            at = _segment(fields, at, entries, count)
            continue
        repeated = fields[at + 1] if at + 1 < len(fields) else 0
        place = int.from_bytes(data[(at + 2) * size : (at + 2) * size + 4], "little") // size
        for _ in range(repeated):
            place = _segment(fields, place, entries, count)
        at += 2 + 4 // size
    if len(entries) != count:
        raise Undecodable("A segmented palette is shorter than its descriptor says")
    return entries


def _segment(fields: tuple[int, ...], at: int, entries: list[int], count: int) -> int:
    """Append what the discrete or linear segment at ``at`` tells; returns where the next one starts."""
    kind, length = fields[at : at + 2] if 0 <= at <= len(fields) - 3 else (-1, 0)
    if len(entries) + length > count:
        raise Undecodable("A segmented palette is longer than its descriptor says")
    if kind == _DISCRETE:
        values = fields[at + 2 : at + 2 + length]
        if len(values) != length:
            raise Undecodable("A segmented palette is truncated")
        entries += values
        return at + 2 + length
    if kind == _LINEAR and entries:
        start, end = entries[-1], fields[at + 2]
        entries += (round(start + (end - start) * step / length) for step in range(1, length + 1))
        return at + 3
    raise Undecodable("A segmented palette is malformed")
