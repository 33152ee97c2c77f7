"""Animation: pictures of one size, each a GIF, joined to one GIF that moves. Nothing is drawn or held here.

GIF89a specification §18 to §26; the loop is Netscape's extension, which every browser knows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from gateway.pixels.elements import DataSet, numbers_of
from storage.errors import Undecodable

_HEADER = struct.Struct("<6sHHBBB")
_DESCRIPTOR = struct.Struct("<BHHHHB")
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, b";"
_HAS_TABLE, _IS_INTERLACED = 0x80, 0x40
_FOREVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
_SHORTEST, _LONGEST, _USUAL = 2, 6_000, 10  # hundredths of a second; browsers slow down what is shorter


def delay_of(metadata: DataSet) -> int:
    """How long a frame stays, in hundredths of a second: as the object says, else a tenth of one.

    Frame Time, or the mean of Frame Time Vector, or one of the rates. PS3.3 §C.7.6.5
    """
    times = [time for time in numbers_of(metadata, "00181063")[:1] or numbers_of(metadata, "00181065")[1:] if time > 0]
    rates = [rate for tag in ("00082144", "00180040") for rate in numbers_of(metadata, tag)[:1] if rate > 0]
    milliseconds = sum(times) / len(times) if times else 1000 / rates[0] if rates else 10 * _USUAL
    return round(min(max(milliseconds / 10, _SHORTEST), _LONGEST))


def animated(pictures: Iterable[bytes], delay: int) -> Iterator[bytes]:
    """One GIF of all ``pictures``, piece by piece as they come; it starts again at its end.

    delay: of each, in hundredths of a second. Raises Undecodable for what is no GIF.
    """
    is_first = True
    for picture in pictures:
        try:
            head, width, height, packed, _, _ = _HEADER.unpack_from(picture)
            block = _block(picture, packed, delay)
        except (struct.error, IndexError, ValueError):
            raise Undecodable("A picture of the animation is malformed") from None
        if is_first:
            yield _HEADER.pack(head, width, height, packed & ~_HAS_TABLE, 0, 0) + _FOREVER
            is_first = False
        yield block
    yield _TRAILER


def _block(picture: bytes, packed: int, delay: int) -> bytes:
    """The only image of a GIF with its control and a table of colours of its own."""
    has_table = bool(packed & _HAS_TABLE)
    table_bytes = 3 << ((packed & 7) + 1) if has_table else 0
    table_end = _HEADER.size + table_bytes
    at = table_end
    while picture[at] == _EXTENSION:
        at += 2
        while picture[at]:
            at += picture[at] + 1
        at += 1
    mark, left, top, width, height, form = _DESCRIPTOR.unpack_from(picture, at)
    if mark != _IMAGE or picture[-1:] != _TRAILER:
        raise ValueError
    control = struct.pack("<BBBBHBB", _EXTENSION, 0xF9, 4, 0, delay, 0, 0)
    table = b"" if form & _HAS_TABLE else picture[_HEADER.size : table_end]
    form = form if form & _HAS_TABLE else _HAS_TABLE | (form & _IS_INTERLACED) | (packed & 7)
    descriptor = _DESCRIPTOR.pack(mark, left, top, width, height, form)
    return b"".join((control, descriptor, table, picture[at + _DESCRIPTOR.size : -1]))
