"""Metadata as it is kept and given out: the DICOM JSON Model of an instance, compressed, with marks where the
instance's own URL goes. PS3.18 §10.4.1.1.2, Annex F

What is kept is a zlib stream of the text, cut at the marks: no piece refers back to one before it, so pieces and URLs
can be put together anew, to one zlib stream of many instances, without inflating anything. A table behind the stream
says where the pieces are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping

import orjson

from storage.model import JsonElement

_LEVEL = 1
AVAILABLE_TRANSFER_SYNTAX_UID = "00083002"
_ESCAPED_REFERENCE = b'"BulkDataURI":"\\u0000'
_REFERENCE = b'"BulkDataURI":"\0'
_MARK = b"\0"

_PIECE = struct.Struct("<IIII")  # where its deflated bytes start and end; length and Adler-32 of its text
_COUNT = struct.Struct("<I4s")
_TABLE = b"\0gw1"  # closes a row with a table; earlier ones have none
_ZLIB_HEADER = b"\x78\x01"
_LAST_BLOCK = b"\x03\x00"
_STORED_BLOCK = struct.Struct("<BHH")
_STORED_BYTES = 0xFFFF
_ADLER_BASE = 65521


def pack_metadata(json: Mapping[str, JsonElement], transfer_syntax_uid: str) -> bytes:
    """The metadata of an instance as a row keeps it. json: with tags ascending.

    Group 0002 is not part of it; Available Transfer Syntax UID says how the instance is stored. Values too large for
    metadata stand as references to the instance's URL, for which a NUL byte stands: no other NUL can be in JSON text,
    and a quotation mark within text is escaped, so nothing else can be taken for one.
    """
    available = {AVAILABLE_TRANSFER_SYNTAX_UID: {"vr": "UI", "Value": [transfer_syntax_uid]}}
    text = orjson.dumps(dict(sorted({**json, **available}.items())))
    pieces = text.replace(_ESCAPED_REFERENCE, _REFERENCE).split(_MARK)
    deflater = zlib.compressobj(_LEVEL)
    stream: list[bytes] = []
    table: list[bytes] = []
    at = 0
    for number, piece in enumerate(pieces):
        start = b"" if number == 0 else deflater.compress(_MARK) + deflater.flush(zlib.Z_FULL_FLUSH)
        deflated = deflater.compress(piece) + deflater.flush(zlib.Z_FULL_FLUSH)
        stream += (start, deflated)
        first, at = at + len(start), at + len(start) + len(deflated)
        table.append(_PIECE.pack(first or len(_ZLIB_HEADER), at, len(piece), zlib.adler32(piece)))
    return b"".join((*stream, deflater.flush(), *table, _COUNT.pack(len(pieces), _TABLE)))


def unpack_metadata(packed: bytes, instance_url: str) -> bytes:
    """JSON text of an instance's metadata with absolute references below ``instance_url``."""
    text = zlib.decompressobj().decompress(packed)
    return text.replace(_MARK, _reference(instance_url))


def read_metadata(packed: bytes, instance_url: str) -> Mapping[str, JsonElement]:
    """The same, read: elements by tag, ascending."""
    elements: Mapping[str, JsonElement] = orjson.loads(unpack_metadata(packed, instance_url))
    return elements


def _reference(instance_url: str) -> bytes:
    return orjson.dumps(instance_url)[1:-1]


def metadata_array(documents: Iterable[tuple[bytes, str]]) -> Iterator[bytes]:
    """The JSON array of the metadata of many instances, each given as it is kept and with its URL; in pieces."""
    separator = b"["
    for packed, url in documents:
        yield separator
        yield unpack_metadata(packed, url)
        separator = b","
    yield b"]"


def deflated_metadata_array(documents: Iterable[tuple[bytes, str]]) -> Iterator[bytes]:
    """The same text as one zlib stream, put together from what is kept; nothing is inflated. RFC 1950, RFC 1951"""
    yield _ZLIB_HEADER
    adler = 1
    separator = b"["
    for packed, url in documents:
        yield _stored(separator)
        adler = zlib.adler32(separator, adler)
        separator = b","
        if not packed.endswith(_TABLE):
            text = unpack_metadata(packed, url)
            yield _stored(text)
            adler = zlib.adler32(text, adler)
            continue
        reference = _reference(url)
        pieces, inserted = memoryview(packed), _stored(reference)
        parts: list[bytes | memoryview] = []
        for number, (start, end, length, piece_adler) in enumerate(_pieces(packed)):
            if number:
                parts.append(inserted)
                adler = zlib.adler32(reference, adler)
            parts.append(pieces[start:end])
            adler = _joined_adler(adler, piece_adler, length)
        yield b"".join(parts)
    yield _stored(b"]") + _LAST_BLOCK + zlib.adler32(b"]", adler).to_bytes(4, "big")


def _pieces(packed: bytes) -> Iterator[tuple[int, int, int, int]]:
    count, _ = _COUNT.unpack_from(packed, len(packed) - _COUNT.size)
    first = len(packed) - _COUNT.size - count * _PIECE.size
    return iter(_PIECE.iter_unpack(memoryview(packed)[first : len(packed) - _COUNT.size]))


def _stored(text: bytes) -> bytes:
    """Text as deflate blocks that hold it as it is. RFC 1951 §3.2.4"""
    chunks = (text[at : at + _STORED_BYTES] for at in range(0, len(text), _STORED_BYTES))
    return b"".join(_STORED_BLOCK.pack(0, len(one), len(one) ^ 0xFFFF) + one for one in chunks)


def _joined_adler(first: int, second: int, second_bytes: int) -> int:
    """Adler-32 of two texts one after the other, from those of each and the length of the second. RFC 1950 §9"""
    ones, twos = first & 0xFFFF, first >> 16
    low = (ones + (second & 0xFFFF) - 1) % _ADLER_BASE
    high = (twos + (second >> 16) + second_bytes * (ones - 1)) % _ADLER_BASE
    return high << 16 | low


__all__ = [
    "AVAILABLE_TRANSFER_SYNTAX_UID",
    "deflated_metadata_array",
    "metadata_array",
    "pack_metadata",
    "read_metadata",
    "unpack_metadata",
]
