"""What the generated files show: one scene in every photometric interpretation and depth, with no symmetry at all.

A subject is a Data Set without its pixels and the stored values of one frame; ``specimens`` encodes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests.gateway.pixels.reference import of_rgb

ROWS, COLUMNS = 40, 56


@dataclass(frozen=True)
class Subject:
    """One image to be encoded. bits: Bits Stored in Bits Allocated, as the table writes it. variant: what else it has.

    stored: (rows, columns) or (rows, columns, 3); chroma is whole and is thinned out where it is packed. plain: for the
    judge alone, attributes that say the same in the simplest way. elements: those without a keyword, with their VR.
    """

    photometric: str
    bits: str
    variant: str
    stored: np.ndarray
    attributes: dict[str, Any] = field(default_factory=dict)
    keyword: str = "PixelData"
    plain: dict[str, Any] = field(default_factory=dict)
    elements: dict[tuple[int, int], tuple[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.photometric, self.bits, self.variant) if part)


def scene() -> np.ndarray:
    """0.0 to 1.0: a ramp, a bright disc at the upper left, a dark bar below on the right, and both extremes."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(float)
    grey = 0.25 + 0.4 * x / COLUMNS + 0.15 * np.sin(y / 6)
    grey[(y - 12) ** 2 + (x - 14) ** 2 < 64] = 0.95
    grey[26:34, 32:52] = 0.08
    grey[36:40, 0:4], grey[36:40, 4:8] = 0.0, 1.0
    return grey


def colours() -> np.ndarray:
    """0.0 to 1.0 in R, G and B: slow ramps, and patches of the pure colours along the lower edge, two columns each."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(float)
    picture = np.stack([0.2 + 0.6 * x / COLUMNS, 0.8 - 0.5 * y / ROWS, 0.5 + 0.3 * np.sin(x / 9)], axis=-1)
    picture[(y - 12) ** 2 + (x - 14) ** 2 < 64] = 0.9, 0.3, 0.2
    for number, colour in enumerate(np.ndindex(2, 2, 2)):
        picture[32:, number * 6 : number * 6 + 6] = colour
    return picture


def grey(
    stored: int, allocated: int, *, photometric: str = "MONOCHROME2", sign: str = "", high_bit: int = 0, **other: Any
) -> Subject:
    """The scene over the whole range of the stored bits. sign: "signed", or nothing."""
    low = -(2 ** (stored - 1)) if sign else 0
    values = np.rint(low + scene() * (2**stored - 1)).astype(np.int64)
    variant = [other.pop("variant", sign), f"High Bit {high_bit}" if high_bit else ""]
    elements = other.pop("elements", {})
    attributes = {
        "BitsAllocated": allocated,
        "BitsStored": stored,
        "HighBit": high_bit or stored - 1,
        "PixelRepresentation": int(bool(sign)),
        **other,
    }
    made = ", ".join(filter(None, variant))
    return Subject(photometric, f"{stored}/{allocated}", made, values, attributes, elements=elements)


def floating(bits: int) -> Subject:
    """Float Pixel Data or Double Float Pixel Data, with what is no number in it. PS3.3 §C.7.6.24, §C.7.6.25"""
    values = (scene() * 3 - 1) * 1e-3
    values = values.astype(f"f{bits // 8}")
    values[0, 0] = np.nan
    keyword = {32: "FloatPixelData", 64: "DoubleFloatPixelData"}[bits]
    return Subject("MONOCHROME2", f"{bits}/{bits}", "floating point", values, {"BitsAllocated": bits}, keyword)


def rgb(bits: int, allocated: int = 0, planar: int = 0) -> Subject:
    values = np.rint(colours() * (2**bits - 1)).astype(np.int64)
    return _colour("RGB", bits, allocated or bits, planar, values)


def ybr(photometric: str, bits: int, planar: int = 0) -> Subject:
    """The colours as luminance and chroma; with half of the chroma, pairs of pixels share their mean."""
    values = of_rgb(np.rint(colours() * (2**bits - 1)), photometric, bits)
    if photometric.endswith("_422"):
        values[..., 1:] = values.reshape(ROWS, -1, 2, 3)[..., 1:].mean(axis=2).repeat(2, axis=1)
    values = np.clip(np.rint(values), 0, 2**bits - 1).astype(np.int64)
    return _colour(photometric, bits, bits, planar, values)


def _colour(photometric: str, bits: int, allocated: int, planar: int, values: np.ndarray) -> Subject:
    attributes = {
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PlanarConfiguration": planar,
    }
    return Subject(photometric, f"{bits}/{allocated}", "by plane" if planar else "", values, attributes)


def palette(index_bits: int, entry_bits: int, *, segmented: bool = False) -> Subject:
    """Indices into a table of colours, some of them beyond its ends. PS3.3 §C.7.9"""
    count, first = (200, 20) if index_bits == 8 else (1000, 500)
    indices = np.rint(scene() * (count + 2 * first - 1)).astype(np.int64).clip(0, 2**index_bits - 1)
    tables = _tables(count, first, entry_bits)
    attributes = grey(index_bits, index_bits).attributes
    attributes |= _segmented(tables, count // 2) if segmented else tables
    variant = f"{entry_bits}-bit palette" + (", segmented" if segmented else "")
    return Subject("PALETTE COLOR", f"{index_bits}/{index_bits}", variant, indices, attributes, plain=tables)


def _tables(count: int, first: int, bits: int) -> dict[str, Any]:
    """Three tables that rise or fall to their middle, and back."""
    largest = 2**bits - 1
    made: dict[str, Any] = {}
    for colour, start, middle in (("Red", 0, largest), ("Green", largest // 3, largest // 2), ("Blue", largest, 0)):
        half = count // 2
        steps = [np.linspace(start, middle, half), np.linspace(middle, start, count - half)]
        prefix = f"{colour}PaletteColorLookupTable"
        made[f"{prefix}Descriptor"] = [count, first, bits]
        made[f"{prefix}Data"] = np.rint(np.concatenate(steps)).astype("u1" if bits == 8 else "<u2").tobytes()
    return made


def _segmented(tables: dict[str, Any], half: int) -> dict[str, Any]:
    """The same tables as segments."""
    made: dict[str, Any] = {}
    for keyword, value in tables.items():
        if keyword.endswith("Descriptor"):
            made[keyword] = value
        else:
            bits = tables[keyword.replace("Data", "Descriptor")][2]
            made[f"Segmented{keyword}"] = _segments(np.frombuffer(value, "u1" if bits == 8 else "<u2"), half)
    return made


def _segments(entries: np.ndarray, half: int) -> bytes:
    """A discrete entry and a line from it, for each half; each word as wide as an entry. PS3.3 §C.7.9.2"""
    last = len(entries) - 1
    words = [0, 1, entries[0], 1, half - 1, entries[half - 1], 0, 1, entries[half], 1, last - half, entries[last]]
    return np.array(words, entries.dtype).tobytes()


CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 900, "WindowWidth": 2500}
FALLING = {"RescaleSlope": -2, "RescaleIntercept": 100}
SIGNED = {"WindowCenter": 100, "WindowWidth": 3000}

GREYS = {
    "1": grey(1, 1),
    "8": grey(8, 8),
    "8 M1": grey(8, 8, photometric="MONOCHROME1"),
    "8 signed": grey(8, 8, sign="signed"),
    "10": grey(10, 16),
    "12": grey(12, 16, **CT),
    "12 M1": grey(12, 16, photometric="MONOCHROME1", **CT),
    "12 high": grey(12, 16, high_bit=15, **CT),
    "12 odd": grey(12, 16, high_bit=13, **CT),
    "12 signed": grey(12, 16, sign="signed", **FALLING),
    "12 signed high": grey(12, 16, sign="signed", high_bit=15, **SIGNED),
    "16": grey(16, 16),
    "16 M1": grey(16, 16, photometric="MONOCHROME1"),
    "16 signed": grey(16, 16, sign="signed"),
    "32": grey(32, 32),
    "32 signed": grey(32, 32, sign="signed"),
    "24 in 32": grey(24, 32),
    "float": floating(32),
    "double": floating(64),
}
COLOURS = {
    "RGB": rgb(8),
    "RGB plane": rgb(8, planar=1),
    "RGB 16": rgb(16),
    "RGB 16 plane": rgb(16, planar=1),
    "RGB 12": rgb(12, 16),
    "RGB 32": rgb(32),
    "YBR": ybr("YBR_FULL", 8),
    "YBR plane": ybr("YBR_FULL", 8, planar=1),
    "YBR 16": ybr("YBR_FULL", 16),
    "YBR 422": ybr("YBR_FULL_422", 8),
    "YBR 422 16": ybr("YBR_FULL_422", 16),
    "YBR partial": ybr("YBR_PARTIAL_422", 8),
}
PALETTES = {
    "palette 8": palette(8, 8),
    "palette 8 16": palette(8, 16),
    "palette 16": palette(16, 16),
    "palette 8 segmented": palette(8, 8, segmented=True),
    "palette 16 segmented": palette(16, 16, segmented=True),
}


# What else decides how an image looks. PS3.3 §C.11, §C.7.5.1.1.2, §C.9.2, §C.7.6.16


def table(entries: list[int], first: int, bits: int) -> Dataset:
    """An item of a Modality or VOI LUT Sequence; ``first`` is signed where it is negative."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    item.ModalityLUTType = "US"
    return item


def group(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def overlay(kind: str, top: int, left: int, rows: int, columns: int) -> dict[tuple[int, int], tuple[str, Any]]:
    """A frame of two points round a triangle that is filled; some of it may lie outside of the image."""
    points = np.tri(rows, columns, dtype="u1")
    points[:2] = points[-2:] = points[:, :2] = points[:, -2:] = 1
    bits = np.packbits(points.ravel(), bitorder="little").tobytes()
    return {
        (0x6000, 0x0010): ("US", rows),
        (0x6000, 0x0011): ("US", columns),
        (0x6000, 0x0040): ("CS", kind),
        (0x6000, 0x0050): ("SS", [top, left]),
        (0x6000, 0x0100): ("US", 1),
        (0x6000, 0x0102): ("US", 0),
        (0x6000, 0x3000): ("OW", bits + bytes(len(bits) % 2)),
    }


def _curve(entries: int, bits: int) -> list[int]:
    return np.rint(np.linspace(0, 1, entries) ** 2 * (2**bits - 1)).astype(int).tolist()


def _feature(variant: str, stored: int = 12, allocated: int = 16, **other: Any) -> Subject:
    return grey(stored, allocated, variant=variant, **other)


_WINDOW = {"WindowCenter": 1500, "WindowWidth": 1800}
_FRAME_VOI = [group(FrameVOILUTSequence=[group(WindowCenter=400, WindowWidth=3000)])]
_FRAME_VALUES = [
    group(PixelValueTransformationSequence=[group(RescaleSlope=2, RescaleIntercept=-3000, RescaleType="US")])
]
FEATURES = {
    subject.variant: subject
    for subject in (
        _feature("first of two windows", WindowCenter=[1500, 40], WindowWidth=[1800, 400]),
        _feature("window of width 1", WindowCenter=1500, WindowWidth=1),
        _feature("window beyond the values", WindowCenter=9000, WindowWidth=100),
        _feature("window LINEAR_EXACT", VOILUTFunction="LINEAR_EXACT", **_WINDOW),
        _feature("window SIGMOID", VOILUTFunction="SIGMOID", **_WINDOW),
        _feature("window SIGMOID, MONOCHROME1", photometric="MONOCHROME1", VOILUTFunction="SIGMOID", **_WINDOW),
        _feature("window and falling rescale", WindowCenter=-3000, WindowWidth=5000, **FALLING),
        _feature(
            "window and rescale of fractions",
            RescaleSlope=0.37,
            RescaleIntercept=-10.5,
            WindowCenter=300.5,
            WindowWidth=700,
        ),
        _feature("VOI LUT of 16 bits", VOILUTSequence=[table(_curve(4096, 16), 0, 16)]),
        _feature("VOI LUT of 8 bits, narrower than the values", VOILUTSequence=[table(_curve(900, 8), 1000, 8)]),
        _feature("VOI LUT of signed values", sign="signed", VOILUTSequence=[table(_curve(3000, 12), -1500, 12)]),
        _feature("VOI LUT before a window", VOILUTSequence=[table(_curve(4096, 16), 0, 16)], **_WINDOW),
        _feature("Modality LUT", ModalityLUTSequence=[table(_curve(4096, 16), 0, 16)]),
        _feature("Modality LUT and window", ModalityLUTSequence=[table(_curve(4096, 12), 0, 16)], **_WINDOW),
        _feature("padding", PixelPaddingValue=0),
        _feature("padding range", PixelPaddingValue=3500, PixelPaddingRangeLimit=4095),
        _feature("padding of signed values", sign="signed", PixelPaddingValue=-2048, **SIGNED),
        _feature("padding, MONOCHROME1", photometric="MONOCHROME1", PixelPaddingValue=0),
        _feature("Presentation LUT Shape IDENTITY", PresentationLUTShape="IDENTITY"),
        _feature("Presentation LUT Shape INVERSE", PresentationLUTShape="INVERSE"),
        _feature("INVERSE and MONOCHROME1", photometric="MONOCHROME1", PresentationLUTShape="INVERSE"),
        _feature("window of shared functional groups", SharedFunctionalGroupsSequence=_FRAME_VOI),
        _feature("window of the frame's functional groups", PerFrameFunctionalGroupsSequence=_FRAME_VOI, **_WINDOW),
        _feature("rescale of the frame's functional groups", PerFrameFunctionalGroupsSequence=_FRAME_VALUES),
        _feature("pixels twice as high as wide", PixelSpacing=[2, 1]),
        _feature("pixels wider than high", PixelAspectRatio=[2, 3]),
        _feature("overlay", elements=overlay("G", 5, 9, 21, 30)),
        _feature("overlay that is larger than the image", elements=overlay("G", -3, -7, 60, 80)),
        _feature("overlay of a region of interest", elements=overlay("R", 5, 9, 21, 30)),
        _feature("overlay on 8 bits", 8, 8, elements=overlay("G", 5, 9, 21, 30)),
    )
}
SUBJECTS = {**GREYS, **COLOURS, **PALETTES, **FEATURES}
