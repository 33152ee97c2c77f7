"""Images made to harm who decodes them: sizes that lie, few bytes that become many, streams without end, and chance.

``bombs`` makes the same ones from the same seed. None of them needs a file, and none is larger than some megabytes.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image
from rle.rle import encode_frame

from benchmarks.corpus import uid
from benchmarks.part10 import Attributes, Name, Value, encapsulated, part10
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN

_STEM = "1.2.840.10008.1.2."
SYNTAXES: Mapping[str, str] = {
    "native": EXPLICIT_VR_LITTLE_ENDIAN,
    "deflated": f"{_STEM}8.1",
    "rle": f"{_STEM}5",
    "jpeg": f"{_STEM}4.50",
    "jpeg-12": f"{_STEM}4.51",
    "jpeg-lossless": f"{_STEM}4.70",
    "jpeg-ls": f"{_STEM}4.80",
    "jpeg-2000": f"{_STEM}4.90",
    "htj2k": f"{_STEM}4.201",
    "jpeg-xl": f"{_STEM}4.110",
}
"""One transfer syntax of each decoder."""

_SIDE = 64
_MOST_SIDE = 10_000  # its square is the most pixels that a frame may have
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_STUDY = 9_001


@dataclass(frozen=True)
class Bomb:
    """One image: a frame, what the Data Set says of it, and how the picture is asked for besides the plain way."""

    name: str
    syntax: str
    frame: bytes
    attributes: Mapping[Name, Value]
    query: str = ""

    def part10(self, number: int) -> bytes:
        """The file; ``number`` tells it from others."""
        attributes: dict[Name, Value] = {
            "SOPClassUID": _SECONDARY_CAPTURE,
            "SOPInstanceUID": uid(_STUDY, 0, 0, number),
            "StudyInstanceUID": uid(_STUDY, 0),
            "SeriesInstanceUID": uid(_STUDY, 0, 0),
            "Modality": "OT",
            "PatientID": "BOMB",
            "PatientName": "Bomb^Of^Test",
            **self.attributes,
        }
        if self.syntax != "native":
            return part10(attributes, SYNTAXES[self.syntax], encapsulated([self.frame]))
        return part10({**attributes, "PixelData": self.frame})

    @staticmethod
    def path(number: int) -> str:
        """Of the instance, below the root of DICOMweb."""
        return f"/studies/{uid(_STUDY, 0)}/series/{uid(_STUDY, 0, 0)}/instances/{uid(_STUDY, 0, 0, number)}"


def pixel_attributes(rows: int, columns: int, bits: int = 8, samples: int = 1, **other: Value) -> dict[Name, Value]:
    """The Image Pixel Module; ``other`` by keyword. PS3.3 §C.7.6.3"""
    allocated = 8 if bits <= 8 else 16
    made: dict[Name, Value] = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    if samples == 3:
        made["PlanarConfiguration"] = 0
    return made | dict(other.items())


# Whole frames, by encoders that have no part in the gateway's decoders


def _pillow(array: Any, **options: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(array).save(target, "JPEG", **options)
    return target.getvalue()


def _deflated(raw: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return deflater.compress(raw) + deflater.flush()


def _rle(array: Any) -> bytes:
    samples = array.shape[2] if array.ndim == 3 else 1
    return bytes(encode_frame(array.tobytes(), *array.shape[:2], samples, 8 * array.dtype.itemsize, "<"))


ENCODERS: Mapping[str, Callable[[Any], bytes]] = {
    "native": lambda array: bytes(array.tobytes()),
    "deflated": lambda array: _deflated(array.tobytes()),
    "rle": _rle,
    "jpeg": lambda array: _pillow(array, quality=95),
    "jpeg-12": lambda array: bytes(imagecodecs.jpeg8_encode(array, level=95, bitspersample=12)),
    "jpeg-lossless": lambda array: bytes(
        imagecodecs.jpeg8_encode(array, lossless=True, bitspersample=_bits(array), predictor=1)
    ),
    "jpeg-ls": lambda array: bytes(imagecodecs.jpegls_encode(array)),
    "jpeg-2000": lambda array: bytes(
        imagecodecs.jpeg2k_encode(array, codecformat="J2K", reversible=True, bitspersample=_bits(array))
    ),
    "htj2k": lambda array: bytes(imagecodecs.htj2k_encode(array, reversible=True)),
    "jpeg-xl": lambda array: bytes(imagecodecs.jpegxl_encode(array, lossless=True, effort=1)),
}


def _bits(array: Any) -> int:
    return 8 if array.dtype.itemsize == 1 else 16


def sound(seed: int = 1) -> Iterator[Bomb]:
    """What is no bomb: a whole frame of each syntax, of 8 and of 12 bits and of colour, as far as it has them."""
    chance = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(_SIDE), np.arange(_SIDE))
    grey = (slope + chance.integers(0, 64, (_SIDE, _SIDE))).astype(np.uint8)
    deep = (16 * slope + chance.integers(0, 256, (_SIDE, _SIDE))).astype(np.uint16)
    colour = np.stack([grey, grey.T, 255 - grey], axis=-1)
    for syntax, encode in ENCODERS.items():
        if syntax != "jpeg-12":
            yield Bomb(f"{syntax} of 8 bits", syntax, encode(grey), pixel_attributes(_SIDE, _SIDE))
        if syntax != "jpeg":
            yield Bomb(f"{syntax} of 12 bits", syntax, encode(deep), pixel_attributes(_SIDE, _SIDE, 12))
        if syntax not in ("rle", "jpeg-12"):
            yield Bomb(f"{syntax} of colour", syntax, encode(colour), pixel_attributes(_SIDE, _SIDE, samples=3))


# Sizes that lie


def _header_place(frame: bytes) -> tuple[int, str]:
    """Where the codestream says its rows and columns, and the form of it; (-1, "") where it does not say so plainly."""
    if frame.startswith(b"\xff\x4f\xff\x51"):
        return 8, ">LL"
    for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2", b"\xff\xc3", b"\xff\xf7"):
        at = frame.find(marker, 2, 700)
        if at >= 0:
            return at + 5, ">HH"
    return -1, ""


def resized(frame: bytes, rows: int, columns: int) -> bytes:
    """The codestream with another size in its header. Of JPEG 2000 the only tile is as large."""
    at, form = _header_place(frame)
    changed = bytearray(frame)
    if form == ">HH":
        struct.pack_into(form, changed, at, rows, columns)
    elif form:
        struct.pack_into(form, changed, at, columns, rows)
        struct.pack_into(form, changed, at + 16, columns, rows)
    return bytes(changed)


def _lying() -> Iterator[Bomb]:
    for whole in sound():
        for side in (_MOST_SIDE, 65_535, 1):
            attributes = {**whole.attributes, "Rows": side, "Columns": side}
            yield replace(whole, name=f"{whole.name}, said to have {side} rows and columns", attributes=attributes)
        if _header_place(whole.frame)[1]:
            for rows, columns in ((20_000, 20_000), (_MOST_SIDE, _MOST_SIDE), (1, 1), (0, 0)):
                name = f"{whole.name}, that says of itself {rows} by {columns}"
                yield replace(whole, name=name, frame=resized(whole.frame, rows, columns))


# Few bytes that become many


def _flat_jpeg(rows: int, columns: int, *, components: int = 1, scans: int = 1, process: int = 0xC0) -> bytes:
    """One bit for each coefficient of direct current and one for each block's end, all of them 0. ITU-T T.81 §B"""
    table = b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
    sampling = b"".join(bytes((number, 0x11, 0)) for number in range(1, components + 1))
    header = bytes((0xFF, process)) + struct.pack(">HBHHB", 8 + 3 * components, 8, rows, columns, components) + sampling
    codes = b"".join(b"\xff\xc4\x00\x14" + bytes((kind, 1)) + bytes(15) + b"\0" for kind in (0x00, 0x10))
    chosen = b"".join(bytes((number, 0x00)) for number in range(1, components + 1))
    start = b"\xff\xda" + struct.pack(">HB", 6 + 2 * components, components) + chosen + b"\x00\x3f\x00"
    blocks = -(-rows // 8) * -(-columns // 8) * components
    data = bytes(blocks * 2 // 8 + 1) if scans == 1 else bytes(8)
    return b"\xff\xd8" + table + header + codes + (start + data) * scans + b"\xff\xd9"


def _many_scans(rows: int, columns: int, scans: int, process: int = 0xC0) -> bytes:
    """Three components, each in scans of its own that hold next to nothing, over and over."""
    whole = _flat_jpeg(rows, columns, components=3, scans=1, process=process)
    head = whole[: whole.index(b"\xff\xda")]
    starts = [b"\xff\xda\x00\x08\x01" + bytes((number, 0x00)) + b"\x00\x3f\x00\0\0" for number in (1, 2, 3)]
    return head + b"".join(starts[number % 3] for number in range(scans)) + b"\xff\xd9"


def _flat_lossless(rows: int, columns: int, data_bytes: int) -> bytes:
    """A difference of 0 in one bit. ITU-T T.81 §H"""
    header = b"\xff\xc3" + struct.pack(">HBHHB", 11, 8, rows, columns, 1) + b"\x01\x11\x00"
    codes = b"\xff\xc4\x00\x14\x00\x01" + bytes(15) + b"\0"
    return b"\xff\xd8" + header + codes + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + bytes(data_bytes) + b"\xff\xd9"


def _flat_wavelets(rows: int, columns: int, syntax: str = "jpeg-2000", samples: int = 1) -> bytes:
    """Middle grey is nothing at all in JPEG 2000: some empty packets stand for any number of pixels."""
    shape = (_SIDE, _SIDE) if samples == 1 else (_SIDE, _SIDE, samples)
    return resized(ENCODERS[syntax](np.full(shape, 128, np.uint8)), rows, columns)


def _flat_rle(rows: int, columns: int) -> bytes:
    pixels = rows * columns
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * -(-pixels // 128)


def _expanding() -> Iterator[Bomb]:
    side = _MOST_SIDE
    most = pixel_attributes(side, side)
    blank = np.zeros((side, side), np.uint8)
    frames = {
        "deflated": _deflated(bytes(side * side)),
        "rle": _flat_rle(side, side),
        "jpeg": _flat_jpeg(side, side),
        "jpeg-lossless": _flat_lossless(side, side, side * side // 8 + 1),
        "jpeg-ls": ENCODERS["jpeg-ls"](blank),
        "jpeg-2000": _flat_wavelets(side, side),
        "htj2k": _flat_wavelets(side, side, "htj2k"),
        "jpeg-xl": ENCODERS["jpeg-xl"](blank),
    }
    for syntax, frame in frames.items():
        yield Bomb(f"{syntax} of 100 Mpixel", syntax, frame, most)
        yield Bomb(f"{syntax} of 100 Mpixel, large", syntax, frame, most, "viewport=8192,8192")
    bits = {**most, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    yield Bomb("native of 100 Mpixel of one bit", "native", bytes(side * side // 8), bits)
    colour = pixel_attributes(side, side, samples=3)
    yield Bomb("jpeg of 100 Mpixel of colour", "jpeg", _flat_jpeg(side, side, components=3), colour)
    for syntax in ("jpeg-2000", "htj2k"):
        yield Bomb(f"{syntax} of 100 Mpixel of colour", syntax, _flat_wavelets(side, side, syntax, 3), colour)
    deflated = _deflated(bytes(1 << 30))
    for bits_stored, samples in ((8, 1), (16, 3)):
        attributes = pixel_attributes(_SIDE, _SIDE, bits_stored, samples)
        yield Bomb(f"a gigabyte of zeros for {samples} samples", "deflated", deflated, attributes)
    deep = pixel_attributes(side, side, 16, 3)
    yield Bomb("a gigabyte of zeros for 600 MB", "deflated", deflated, deep)
    yield Bomb("deflated blocks of nothing", "deflated", b"\0\0\0\xff\xff" * 2_000_000, most)
    huge = ENCODERS["jpeg-xl"](np.zeros((20_000, 20_000), np.uint8))
    yield Bomb("jpeg-xl of 400 Mpixel, said to be small", "jpeg-xl", huge, pixel_attributes(_SIDE, _SIDE))
    yield Bomb("jpeg-xl of 400 Mpixel, said to be 100", "jpeg-xl", huge, most)


# Streams that are absurd in a way of their own


def endless() -> Bomb:
    """What no decoder gets done with in minutes."""
    attributes = pixel_attributes(_MOST_SIDE, _MOST_SIDE, samples=3)
    return Bomb("endless jpeg", "jpeg", _many_scans(_MOST_SIDE, _MOST_SIDE, 3_000), attributes)


def _jpeg_oddities() -> Iterator[Bomb]:
    side = _MOST_SIDE
    yield endless()
    for rows, columns, scans in ((64, 64, 300_000), (65_500, 1_500, 500)):
        frame = _many_scans(rows, columns, scans)
        name = f"jpeg of {scans} scans of {rows} by {columns}"
        yield Bomb(name, "jpeg", frame, pixel_attributes(rows, columns, samples=3))
    grey = np.zeros((_SIDE, _SIDE), np.uint8)
    progressive = _pillow(grey, progressive=True)
    at = progressive.index(b"\xff\xda")
    yield Bomb("progressive", "jpeg", progressive, pixel_attributes(_SIDE, _SIDE))
    scans_again = progressive[:-2] + progressive[at:-2] * 500 + b"\xff\xd9"
    yield Bomb("progressive of 500 scans", "jpeg", scans_again, pixel_attributes(_SIDE, _SIDE))
    frame = _many_scans(side, side, 500, 0xC2)
    yield Bomb("progressive of 100 Mpixel", "jpeg", frame, pixel_attributes(side, side, samples=3))
    yield Bomb("jpeg of markers alone", "jpeg", b"\xff\xd8" + b"\xff" * 4_000_000, pixel_attributes(side, side))
    comments = b"\xff\xd8" + b"\xff\xfe\x00\x02" * 1_000_000 + _flat_jpeg(64, 64)[2:]
    yield Bomb("jpeg of a million comments", "jpeg", comments, pixel_attributes(64, 64))
    restarts = _flat_jpeg(1_000, 1_000)
    restarts = restarts[:-2] + b"".join(bytes((0xFF, 0xD0 + n % 8)) for n in range(1_000_000)) + restarts[-2:]
    yield Bomb("jpeg of a million restarts", "jpeg", restarts, pixel_attributes(1_000, 1_000))
    for data_bytes in (0, 10, 100_000):
        frame = _flat_lossless(side, side, data_bytes)
        yield Bomb(f"jpeg-lossless of {data_bytes} bytes", "jpeg-lossless", frame, pixel_attributes(side, side))


def _jpeg_ls_oddities() -> Iterator[Bomb]:
    whole = ENCODERS["jpeg-ls"](np.zeros((_SIDE, _SIDE), np.uint8))
    at = whole.index(b"\xff\xda")
    head = whole[: at + 10]
    for rows, columns in ((10_000, 10_000), (65_535, 1_500), (1, 65_535)):
        attributes = pixel_attributes(rows, columns)
        for name, data in (("ones", b"\xff\x7f" * 500_000), ("zeros", bytes(1_000_000)), ("nothing", b"")):
            frame = resized(head + data + b"\xff\xd9", rows, columns)
            yield Bomb(f"jpeg-ls of {name}, {rows} by {columns}", "jpeg-ls", frame, attributes)
    without_end = resized(head, 10_000, 10_000) + bytes(5_000_000)
    yield Bomb("jpeg-ls without end", "jpeg-ls", without_end, pixel_attributes(10_000, 10_000))
    for values in ((0, 0, 0, 0, 0), (65_535,) * 5, (255, 255, 255, 255, 1), (255, 0, 0, 0, 65_535)):
        preset = b"\xff\xf8" + struct.pack(">HB5H", 13, 1, *values)
        frame = whole[:2] + preset + whole[2:]
        yield Bomb(f"jpeg-ls with the thresholds {values}", "jpeg-ls", frame, pixel_attributes(_SIDE, _SIDE))


def _wavelet_oddities() -> Iterator[Bomb]:
    """Headers of JPEG 2000 that ask for very much. ISO/IEC 15444-1 §A.5, §A.6"""
    side = _MOST_SIDE
    for syntax in ("jpeg-2000", "htj2k"):
        whole = _flat_wavelets(side, side, syntax)
        small = _flat_wavelets(_SIDE, _SIDE, syntax)
        style = whole.index(b"\xff\x52")

        def changed(frame: bytes, *places: tuple[int, str, int]) -> bytes:
            made = bytearray(frame)
            for at, form, value in places:
                struct.pack_into(form, made, at, value)
            return bytes(made)

        headers: dict[str, tuple[bytes, *tuple[tuple[int, str, int], ...]]] = {
            "255 by 255 tiles": (whole, (24, ">L", 40), (28, ">L", 40)),
            "tiles of a pixel": (whole, (24, ">L", 1), (28, ">L", 1)),
            "two tiles": (whole, (24, ">L", side // 2)),
            "tiles far away": (whole, (32, ">L", 2**31), (36, ">L", 2**31)),
            "an origin far away": (whole, (16, ">L", 2**32 - 1), (20, ">L", 2**32 - 1)),
            "65,535 layers": (whole, (style + 6, ">H", 65_535)),
            "65,535 layers of a small one": (small, (style + 6, ">H", 65_535)),
            "32 resolutions": (whole, (style + 9, ">B", 32)),
            "33 resolutions": (whole, (style + 9, ">B", 33)),
            "255 resolutions": (small, (style + 9, ">B", 255)),
            "code blocks of 4 pixels": (whole, (style + 10, ">B", 0), (style + 11, ">B", 0)),
            "impossible code blocks": (whole, (style + 10, ">B", 255), (style + 11, ">B", 255)),
            "38 bits": (small, (42, ">B", 37)),
            "128 bits": (small, (42, ">B", 127)),
            "signed samples": (small, (42, ">B", 135)),
            "samples far apart": (small, (43, ">B", 255), (44, ">B", 255)),
            "samples nowhere": (small, (43, ">B", 0), (44, ">B", 0)),
            "16,384 components": (small, (40, ">H", 16_384)),
            "no component": (small, (40, ">H", 0)),
        }
        for name, (frame, *places) in headers.items():
            is_whole = frame is whole
            attributes = pixel_attributes(side, side) if is_whole else pixel_attributes(_SIDE, _SIDE)
            yield Bomb(f"{syntax} with {name}", syntax, changed(frame, *places), attributes)
        # Precincts of a pixel each, of which there are as many as pixels.
        resolutions = whole[style + 9] + 1
        precincts = bytearray(whole[: style + 14] + bytes(resolutions) + whole[style + 14 :])
        precincts[style + 4] |= 1
        struct.pack_into(">H", precincts, style + 2, int.from_bytes(whole[style + 2 : style + 4], "big") + resolutions)
        yield Bomb(f"{syntax} with precincts of a pixel", syntax, bytes(precincts), pixel_attributes(side, side))
        region = b"\xff\x5e\x00\x05\x00\x00\xff"
        frame = small[:style] + region + small[style:]
        yield Bomb(f"{syntax} with a region shifted by 255", syntax, frame, pixel_attributes(_SIDE, _SIDE))
        comment = b"\xff\x64\x00\x04\x00\x01" * 500_000
        frame = small[:style] + comment + small[style:]
        yield Bomb(f"{syntax} with many comments", syntax, frame, pixel_attributes(_SIDE, _SIDE))


def _rle_oddities() -> Iterator[Bomb]:
    attributes = pixel_attributes(_SIDE, _SIDE)
    deep = pixel_attributes(_SIDE, _SIDE, 16)
    data = b"\x81\0" * 32
    headers = {
        "16 segments": (16, 64),
        "no segment": (0, 64),
        "four billion segments": (2**32 - 1, 64),
        "an offset beyond the end": (1, 2**32 - 1),
        "an offset within the header": (1, 4),
        "offsets that descend": (2, 120, 64),
        "offsets that are the same": (2, 64, 64),
    }
    for name, (count, *offsets) in headers.items():
        frame = struct.pack("<16L", count, *offsets, *[0] * (15 - len(offsets))) + data
        yield Bomb(f"rle with {name}", "rle", frame, attributes)
        yield Bomb(f"rle with {name}, of 16 bits", "rle", frame, deep)
    head = struct.pack("<16L", 1, 64, *[0] * 14)
    most = pixel_attributes(_MOST_SIDE, _MOST_SIDE)
    for name, body in {
        "nothing but no-operations": b"\x80" * 8_000_000,
        "runs that never end": b"\x81\0" * 4_000_000,
        "a literal beyond the end": b"\x7f" + b"\1" * 3,
        "a run beyond the end": b"\x81",
        "far too little": b"\x81\0",
    }.items():
        yield Bomb(f"rle of {name}", "rle", head + body, attributes)
        yield Bomb(f"rle of {name}, 100 Mpixel", "rle", head + body, most)


# What Data Sets say beside the frame


def _descriptions() -> Iterator[Bomb]:
    small = bytes(_SIDE * _SIDE)
    plain = pixel_attributes(_SIDE, _SIDE)
    said: dict[str, dict[Name, Value]] = {
        "no rows": {"Rows": 0},
        "65,535 by 65,535 and two billion frames": {
            "Rows": 65_535,
            "Columns": 65_535,
            "NumberOfFrames": "2147483647",
        },
        "two billion frames": {"NumberOfFrames": "2147483647"},
        "frames below zero": {"NumberOfFrames": "-1"},
        "64 bits": {"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63},
        "13 bits": {"BitsAllocated": 13, "BitsStored": 13, "HighBit": 12},
        "65,535 samples": {"SamplesPerPixel": 65_535},
        "bits stored beyond those allocated": {"BitsStored": 65_535, "HighBit": 65_535},
        "10,000 windows": {"WindowCenter": ["1"] * 10_000, "WindowWidth": ["1"] * 10_000},
        "a window beyond all numbers": {"WindowCenter": "1e308", "WindowWidth": "1e308"},
        "a window below all numbers": {"WindowCenter": "-1e308", "WindowWidth": "1e-300"},
        "a rescale beyond all numbers": {"RescaleSlope": "1e300", "RescaleIntercept": "1e308"},
        "a pixel aspect of 1 to 2147483647": {"PixelAspectRatio": ["1", "2147483647"]},
        "a pixel aspect of 20 to 1": {"PixelAspectRatio": ["20", "1"]},
        "a spacing of almost nothing": {"PixelSpacing": ["1e-300", "1e300"]},
        "padding everywhere": {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 65_535},
    }
    for name, other in said.items():
        yield Bomb(f"native with {name}", "native", small, {**plain, **other})
    for name, first, bits, entries in (("few", 0, 16, 2), ("many", 65_535, 16, 65_536), ("odd", 0, 255, 3)):
        descriptor = struct.pack("<3H", entries & 0xFFFF, first, bits)
        item: dict[Name, Value] = {"LUTDescriptor": descriptor, (0x00283006, "OW"): b"\xff\x7f" * entries}
        colours: dict[Name, Value] = {"PhotometricInterpretation": "PALETTE COLOR"}
        for number, place in enumerate(("Red", "Green", "Blue"), start=1):
            colours[0x00281100 + number, "US"] = descriptor
            colours[f"{place}PaletteColorLookupTableData"] = b"\xff\x7f" * entries
        indices = bytes(range(256)) * 16
        yield Bomb(f"a palette of {name} entries", "native", indices, {**plain, **colours})
        short = {**colours, "BluePaletteColorLookupTableData": b"\0\0"}
        yield Bomb(f"a palette of {name} entries, one short", "native", indices, {**plain, **short})
        for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
            yield Bomb(f"{sequence} of {name} entries", "native", indices, {**plain, sequence: [item]})
    tables: list[Attributes] = [{"LUTDescriptor": struct.pack("<3H", 1, 0, 8), (0x00283006, "OW"): b"\0\0"}] * 5_000
    yield Bomb("5,000 tables", "native", small, {**plain, "VOILUTSequence": tables})
    windows: Attributes = {"FrameVOILUTSequence": [{"WindowCenter": ["1"] * 50, "WindowWidth": ["9"] * 50}]}
    grouped = {**plain, "PerFrameFunctionalGroupsSequence": [windows] * 2_000}
    yield Bomb("2,000 groups for one frame", "native", small, grouped)
    for rows, columns in ((65_535, 1), (1, 65_535)):
        attributes = pixel_attributes(rows, columns)
        for query in ("", "viewport=8192,8192", "viewport=8192,8192,0,0,1,1", "viewport=1,8192", "viewport=8192,1"):
            yield Bomb(f"{rows} by {columns} {query}", "native", bytes(65_536), attributes, query)
        aspect = {**attributes, "PixelAspectRatio": ["20", "1"] if rows == 1 else ["1", "20"]}
        yield Bomb(f"{rows} by {columns}, stretched", "native", bytes(65_536), aspect, "viewport=8192,8192")
    yield Bomb("a pixel, enlarged", "native", b"\0\0", pixel_attributes(1, 1), "viewport=8192,8192")


# Chance


def _truncated() -> Iterator[Bomb]:
    for whole in sound():
        for eighths in (0, 1, 4, 7):
            end = len(whole.frame) * eighths // 8
            yield replace(whole, name=f"{whole.name}, {eighths} eighths of it", frame=whole.frame[:end])


def _mutated(chance: random.Random, each: int) -> Iterator[Bomb]:
    for whole in sound():
        for number in range(each):
            changed = bytearray(whole.frame)
            is_early = number % 2 == 0  # headers are where it hurts
            end = min(len(changed), 200) if is_early else len(changed)
            for _ in range(chance.choice((1, 1, 2, 8, 64))):
                at = chance.randrange(end)
                changed[at] = changed[at] ^ (1 << chance.randrange(8)) if number % 3 else chance.randrange(256)
            yield replace(whole, name=f"{whole.name}, mutation {number}", frame=bytes(changed))
        noise = chance.randbytes(5_000)
        yield replace(whole, name=f"{whole.name}, noise behind its start", frame=whole.frame[:40] + noise)


KINDS: Mapping[str, Callable[[], Iterator[Bomb]]] = {
    "sound": sound,
    "lying": _lying,
    "truncated": _truncated,
    "descriptions": _descriptions,
    "rle": _rle_oddities,
    "jpeg": _jpeg_oddities,
    "jpeg-ls": _jpeg_ls_oddities,
    "jpeg-2000": _wavelet_oddities,
    "expanding": _expanding,
}
"""Those that chance has no part in; the last ones take some seconds to make."""


def bombs(seed: int = 1, mutations: int = 6, kinds: Iterable[str] = tuple(KINDS)) -> list[Bomb]:
    """All of them, the cheap ones and the dear ones mixed. mutations: how many of each whole frame."""
    chance = random.Random(seed)
    found = [bomb for kind in kinds for bomb in KINDS[kind]()] + list(_mutated(chance, mutations))
    chance.shuffle(found)
    return found
