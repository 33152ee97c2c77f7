"""JPEG frames of 8 bits, sequential DCT, through Pillow; and what all kinds of JPEG have in common. PS3.5 §8.2.1

The codestream is taken apart and put together again before libjpeg sees it: its own size is compared with the
description, application data is left out, and what it means for colour is decided here. libjpeg fills what is
missing with grey and only warns; ``_is_whole`` finds that out. ITU-T T.81 Annex B.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from gateway.pixels.description import MAXIMUM_FRAME_PIXELS, PixelDescription
from gateway.pixels.native import Pixels
from storage.errors import Undecodable

# Sizes are compared with the description, so Pillow's own limit must only not lie below ours.
Image.MAX_IMAGE_PIXELS = MAXIMUM_FRAME_PIXELS

_START, END = b"\xff\xd8", b"\xff\xd9"
_SOF = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
SEQUENTIAL, LOSSLESS = frozenset({0xC0, 0xC1}), frozenset({0xC3})  # processes, by their start of frame
_TABLES = frozenset({0xC4, 0xDA, 0xDB, 0xDD})  # and scan, and restart interval
_APP0, _APP14, _SOS, _EOI = 0xE0, 0xEE, 0xDA, 0xD9
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_ADOBE_BYTES = 12
FILLER = bytes((17 * n * n + 101 * n + 5) % 251 for n in range(1, 4096))  # no 0xff, little order
_MISSING_GREY = 128


@dataclass(frozen=True, slots=True)
class Stream:
    """A codestream in pieces. segments: those that decoding needs, each with its scan's data, without the ends.

    adobe_transform: 0 for none, 1 for YCbCr, -1 when the marker is not there.
    """

    rows: int
    columns: int
    precision: int
    components: int
    is_subsampled: bool
    has_jfif: bool
    adobe_transform: int
    segments: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, frame: bytes, processes: frozenset[int] = SEQUENTIAL) -> Stream:
        """Take ``frame`` apart, up to its first end; garbage and padding after that are passed over.

        Raises Undecodable when it is malformed, ends too early, or is of another process than those.
        """
        if not frame.startswith(_START):
            raise Undecodable("The frame is not a JPEG codestream")
        segments: list[tuple[bytes, bytes]] = []
        header, has_jfif, adobe = b"", False, -1
        at = len(_START)
        while (found := _marker(frame, at))[0] != _EOI:
            marker, at = found
            length = int.from_bytes(frame[at : at + 2], "big")
            payload = frame[at + 2 : at + length]
            if length < 2 or len(payload) != length - 2:
                raise Undecodable("The frame is truncated")
            at += length
            if marker in _SOF:
                if marker not in processes or header:
                    raise Undecodable("This process of JPEG is not supported")
                header = payload
            has_jfif |= marker == _APP0 and payload.startswith(b"JFIF\0")
            if marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= _ADOBE_BYTES:
                adobe = payload[11]
            scan = b""
            if marker == _SOS:
                end = _AFTER_SCAN.search(frame, at)
                if end is None:
                    raise Undecodable("The frame is truncated")
                scan, at = frame[at : end.start()], end.start()
            if marker in processes or marker in _TABLES:
                segments.append((b"\xff" + bytes([marker]) + length.to_bytes(2, "big") + payload, scan))
        return cls(*_frame_header(header), has_jfif=has_jfif, adobe_transform=adobe, segments=tuple(segments))

    def joined(self, *, is_ycbcr: bool, filler: bytes = b"") -> bytes:
        """The codestream again, saying itself what its colours are; ``filler`` is put behind every interval."""
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([is_ycbcr])
        parts = [_START, adobe] if self.components == 3 else [_START]
        for segment, scan in self.segments:
            parts += [segment, _filled(scan, filler) if filler and segment[1] == _SOS else scan]
        return b"".join([*parts, END])


def _filled(scan: bytes, filler: bytes) -> bytes:
    """The data of a scan with more behind every restart interval, and with one interval more."""
    filled, restarts = _RESTART.subn(lambda found: filler + found[0], scan)
    return filled + filler + b"\xff" + bytes([0xD0 + restarts % 8]) + filler


def _marker(frame: bytes, at: int) -> tuple[int, int]:
    """The marker at ``at`` and the place behind it; 0xff may be repeated before it. ITU-T T.81 §B.1.1.2"""
    start = at
    while at < len(frame) and frame[at] == 0xFF:
        at += 1
    if at == start or at == len(frame):
        raise Undecodable("The frame is truncated" if at == len(frame) else "The JPEG codestream is malformed")
    return frame[at], at + 1


def _frame_header(payload: bytes) -> tuple[int, int, int, int, bool]:
    """Rows, columns, precision, components, and whether a component is smaller than another. ITU-T T.81 §B.2.2"""
    try:
        precision, rows, columns, components = struct.unpack_from(">BHHB", payload)
        sampling = {payload[7 + 3 * n] for n in range(components)}
    except (struct.error, IndexError):
        raise Undecodable("The JPEG codestream is malformed") from None
    return rows, columns, precision, components, len(sampling) > 1


def decode_jpeg(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values, or RGB for colour. Garbage after the end is passed over; a frame without end is refused.

    Raises Undecodable.
    """
    stream = Stream.of(frame)
    if (stream.rows, stream.columns, stream.components) != (
        description.rows,
        description.columns,
        description.samples_per_pixel,
    ):
        raise Undecodable("The size of the codestream is not that of the description")
    if stream.precision != 8:
        raise Undecodable("JPEG of 12 bits is not supported")
    is_ycbcr = _is_ycbcr(stream, description.photometric_interpretation)
    values = _pixels(stream.joined(is_ycbcr=is_ycbcr))
    if values.shape[:2] != (description.rows, description.columns):
        raise Undecodable("The decoded image is not as large as its codestream says")
    if not _is_whole(values, stream, is_ycbcr=is_ycbcr):
        raise Undecodable("The frame is truncated")
    return values.view(np.int8) if description.pixel_representation else values


def _is_ycbcr(stream: Stream, photometric_interpretation: str) -> bool:
    """Whether three components are to be transformed.

    The codestream's own word goes first, as many an ultrasound says RGB and sends JFIF. Then the description; but
    who calls components of unequal size RGB is wrong. PS3.5 §8.2.1, ITU-T T.871 §6.1
    """
    if stream.adobe_transform >= 0:
        return stream.adobe_transform == 1
    return stream.has_jfif or stream.is_subsampled or photometric_interpretation != "RGB"


def _pixels(codestream: bytes) -> Pixels:
    try:
        with Image.open(BytesIO(codestream), formats=["JPEG"]) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError):
        raise Undecodable("The JPEG codestream is damaged or truncated") from None


def _is_whole(values: Pixels, stream: Stream, *, is_ycbcr: bool) -> bool:
    """Whether the codestream held every block of the image.

    Blocks that are missing come out as exact middle grey. Where there is such a block, the image is decoded again
    with other bytes behind the data: a whole codestream never reads those, a short one makes a picture of them.
    """
    rows, columns = (
        np.minimum(np.arange(0, size, 8)[:, None] + np.arange(2, 6), size - 1).ravel() for size in values.shape[:2]
    )
    inner = values[np.ix_(rows, columns)].reshape(len(rows) // 4, 4, len(columns) // 4, -1) == _MISSING_GREY
    if not inner.all(axis=(1, 3)).any():
        return True
    return np.array_equal(values, _pixels(stream.joined(is_ycbcr=is_ycbcr, filler=FILLER)))
