"""PixelDescription: what the metadata of an instance says about the pixels of one of its frames.

Pure. It never sees the frame itself and promises that every number it holds has been checked, so that decoders and
lookup tables need not. PS3.3 §C.7.6.3, §C.7.6.16, §C.11.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.pixels.elements import (
    DataSet,
    integer_of,
    items_of,
    numbers_of,
    text_of,
    values_of,
    vr_of,
    words_of,
)
from gateway.pixels.options import VoiFunction, Window
from gateway.pixels.segmented import expanded
from storage.errors import NotFound, TooLarge, Undecodable

MAXIMUM_FRAME_PIXELS = 100_000_000  # L12
MAXIMUM_PROFILE_BYTES = 4 << 20
ICC_PROFILE, COLOR_SPACE = "00282000", "00282002"
MAXIMUM_LUT_ENTRIES = 65_536

Frame = bytes | memoryview  # one frame as stored

# All that is looked at below: at the top level, and in the functional groups of a frame. See ``summary``.
PER_FRAME_GROUPS, SHARED_GROUPS = "52009230", "52009229"
OF_ONE_FRAME = "of_one_frame"  # no tag: the per-frame functional groups are only those of the frame asked for
DESCRIBING = (
    *("00080016", "00181164", "00182010", "00280002", "00280004", "00280006", "00280008", "00280010", "00280011"),
    *("00280030", "00280034", "00280100", "00280101", "00280102", "00280103", "00280120", "00280121", "00280122"),
    *("00280124", "00280301", "00281050", "00281051", "00281052", "00281053", "00281056", "00281101", "00281102"),
    *("00281103", "00281201", "00281202", "00281203", "00281221", "00281222", "00281223", "00283000", "00283010"),
    *("20500020",),
)
OVERLAY_PLANE = re.compile(r"60[01][02468ACE](?:00(?:1[015]|40|5[01])|010[02]|3000)", re.ASCII)
FRAME_DESCRIBING = ("00289110", "00289132", "00289145")


class PixelKind(enum.Enum):
    """Which element holds the pixels. PS3.3 §C.7.6.24"""

    INTEGER = "7FE00010"
    FLOAT = "7FE00008"
    DOUBLE = "7FE00009"


@dataclass(frozen=True, slots=True)
class Lut:
    """A lookup table: ``first`` is the input mapped to the first entry; inputs beyond an end take that end's entry.

    entries: unsigned 16-bit little endian. bits: 1 to 16, enough for the largest entry. PS3.3 §C.11.1.1
    """

    first: int
    bits: int
    entries: bytes


@dataclass(frozen=True, slots=True)
class PixelDescription:
    """The Image Pixel Module of one frame, with the transformations to be applied for display.

    padding: lowest and highest stored value that is not part of the image, inclusive. windows: those of the frame,
    in the order of the object. pixel_aspect: height of one pixel divided by its width. is_word_data: the pixels are
    OW, which in big endian swaps the bytes of every pair. is_inverted: the lowest value is to be shown white.
    presentation_lut: the last transformation, which only a presentation state has.
    """

    transfer_syntax_uid: str
    frame_number: int
    number_of_frames: int
    kind: PixelKind
    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    is_word_data: bool
    padding: tuple[float, float] | None
    rescale_slope: float
    rescale_intercept: float
    modality_lut: Lut | None
    voi_lut: Lut | None
    windows: tuple[Window, ...]
    is_inverted: bool
    palette: tuple[Lut, Lut, Lut] | None
    pixel_aspect: float
    burned_in_annotation: bool
    presentation_lut: Lut | None = None

    @property
    def pixels(self) -> int:
        """Pixels of the frame."""
        return self.rows * self.columns

    @property
    def is_monochrome(self) -> bool:
        """Whether the values are grey; then modality and VOI transformations apply."""
        return self.photometric_interpretation in {"MONOCHROME1", "MONOCHROME2"}

    @classmethod
    def of(cls, metadata: DataSet, transfer_syntax_uid: str, frame_number: int) -> PixelDescription:
        """What ``metadata`` (DICOM JSON Model, by eight-digit tag) says about frame ``frame_number``, from 1.

        A per-frame functional group goes before a shared one, and that before the top level.
        Raises NotFound when the instance has no pixels or no such frame, TooLarge beyond the pixel limit, and
        Undecodable when an attribute is missing or contradicts another. PS3.3 §C.7.6.3, §C.7.6.16
        """
        if not has_pixels(metadata):
            raise NotFound("The instance has no pixels")
        number_of_frames = integer_of(metadata, "00280008", 1, minimum=1, maximum=2**31 - 1)
        if not 1 <= frame_number <= number_of_frames:
            raise NotFound("The instance has no such frame")
        kind = next((kind for kind in PixelKind if kind.value in metadata), PixelKind.INTEGER)
        rows = integer_of(metadata, "00280010", minimum=1, maximum=65_535)
        columns = integer_of(metadata, "00280011", minimum=1, maximum=65_535)
        if rows * columns > MAXIMUM_FRAME_PIXELS:
            raise TooLarge("The frame has too many pixels")
        samples = integer_of(metadata, "00280002", 1, minimum=1, maximum=4)
        photometric = _photometric_interpretation(metadata, samples)
        bits_allocated, bits_stored, high_bit = _bits(metadata, kind)
        signed = integer_of(metadata, "00280103", 0, minimum=0, maximum=1) if kind is PixelKind.INTEGER else 1
        groups = tuple(functional_groups(metadata, frame_number))
        slope, intercept, modality_lut = _modality(groups, signed=bool(signed))
        voi_lut, windows = _voi(groups)
        return cls(
            transfer_syntax_uid=transfer_syntax_uid,
            frame_number=frame_number,
            number_of_frames=number_of_frames,
            kind=kind,
            rows=rows,
            columns=columns,
            samples_per_pixel=samples,
            photometric_interpretation=photometric,
            planar_configuration=integer_of(metadata, "00280006", 0, minimum=0, maximum=1) if samples > 1 else 0,
            bits_allocated=bits_allocated,
            bits_stored=bits_stored,
            high_bit=high_bit,
            pixel_representation=signed,
            is_word_data=vr_of(metadata, kind.value) == "OW",
            padding=_padding(metadata, kind, bits_allocated, signed=bool(signed)),
            rescale_slope=slope,
            rescale_intercept=intercept,
            modality_lut=modality_lut,
            voi_lut=voi_lut,
            windows=windows,
            is_inverted=photometric == "MONOCHROME1" or text_of(metadata, "20500020") == "INVERSE",
            palette=palette_of(metadata, signed=bool(signed)) if photometric == "PALETTE COLOR" else None,
            pixel_aspect=_pixel_aspect(metadata, groups),
            burned_in_annotation=has_burned_in_annotation(metadata),
        )


def has_pixels(metadata: DataSet) -> bool:
    """Whether the instance is an image. Rows is Type 1 in every image, and in nothing else. PS3.3 §C.7.6.3"""
    return "00280010" in metadata


def has_burned_in_annotation(metadata: DataSet) -> bool:
    """Whether the object says that its pixels show who the patient is. PS3.3 §C.7.6.1.1.1"""
    return text_of(metadata, "00280301") == "YES"


# The Image Pixel Module. PS3.3 §C.7.6.3

_SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "XYB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_PARTIAL_422": 3,
    "YBR_RCT": 3,
}


def _photometric_interpretation(metadata: DataSet, samples: int) -> str:
    text = text_of(metadata, "00280004") or ("RGB" if samples == 3 else "MONOCHROME2")
    if text not in _SAMPLES:
        raise Undecodable("The photometric interpretation is not supported", tag="00280004")
    if _SAMPLES[text] != samples:
        raise Undecodable("Samples per Pixel contradicts the photometric interpretation", tag="00280002")
    return text


_ALLOCATED = {PixelKind.INTEGER: (1, 8, 16, 32), PixelKind.FLOAT: (32,), PixelKind.DOUBLE: (64,)}


def _bits(metadata: DataSet, kind: PixelKind) -> tuple[int, int, int]:
    """Bits Allocated, Bits Stored and High Bit; the last two are the natural ones where they cannot be true."""
    allocated = integer_of(metadata, "00280100", minimum=1, maximum=64)
    if allocated not in _ALLOCATED[kind]:
        raise Undecodable("This number of bits per pixel is not supported", tag="00280100")
    stored = integer_of(metadata, "00280101", allocated, minimum=1, maximum=allocated)
    high_bit = integer_of(metadata, "00280102", stored - 1, minimum=0, maximum=255)
    return allocated, stored, high_bit if stored - 1 <= high_bit < allocated else stored - 1


def _padding(metadata: DataSet, kind: PixelKind, bits: int, *, signed: bool) -> tuple[float, float] | None:
    """Pixel Padding Value up to Pixel Padding Range Limit, in either order. PS3.3 §C.7.5.1.1.2"""
    tags = ("00280120", "00280121") if kind is PixelKind.INTEGER else ("00280122", "00280124")
    ends = [number for tag in tags for number in numbers_of(metadata, tag)[:1]]
    if not ends or not numbers_of(metadata, tags[0]):
        return None
    if kind is PixelKind.INTEGER:
        ends = [float(_in_range(int(end), bits, signed=signed)) for end in ends]
    return min(ends), max(ends)


def _in_range(value: int, bits: int, *, signed: bool) -> int:
    """A value which some senders write with the other signedness than their pixels."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _pixel_aspect(metadata: DataSet, groups: Sequence[DataSet]) -> float:
    """Height divided by width of one pixel; 1 where unknown or beyond 1:20, which is no picture of anything.

    Pixel Aspect Ratio is only there when no spacing is. PS3.3 §C.7.6.3.1.7, §10.7.1.3
    """
    measures = [item for group in groups for item in items_of(group, "00289110")]
    spacings = [numbers_of(data_set, "00280030") for data_set in (*measures, metadata)]
    spacings += [numbers_of(metadata, tag) for tag in ("00181164", "00182010", "00280034")]
    pair = next((pair for pair in spacings if len(pair) == 2 and min(pair) > 0), [1.0, 1.0])
    aspect = pair[0] / pair[1]
    return aspect if 0.05 <= aspect <= 20 and abs(aspect - 1) > 0.005 else 1.0


# Functional groups and the transformations for display. PS3.3 §C.7.6.16, §C.11


def functional_groups(metadata: DataSet, frame_number: int) -> Iterator[DataSet]:
    """Where a transformation may stand, the strongest place first; the top level is the last one."""
    per_frame = values_of(metadata, PER_FRAME_GROUPS)
    index = 0 if OF_ONE_FRAME in metadata else frame_number - 1
    if index < len(per_frame) and isinstance(per_frame[index], Mapping):
        yield per_frame[index]
    yield from items_of(metadata, SHARED_GROUPS)[:1]
    yield metadata


def _modality(groups: Sequence[DataSet], *, signed: bool) -> tuple[float, float, Lut | None]:
    """Slope, intercept and Modality LUT, which stands instead of them. PS3.3 §C.11.1, §C.7.6.16.2.9"""
    for data_set in (*[item for group in groups for item in items_of(group, "00289145")[:1]], groups[-1]):
        tables = items_of(data_set, "00283000")
        if tables:
            return 1.0, 0.0, lut_of(tables[0], "00283002", "00283006", signed=signed)
        slope, intercept = numbers_of(data_set, "00281053"), numbers_of(data_set, "00281052")
        if slope or intercept:
            # A slope of 0 would make one grey of the image; peers that write it mean "none".
            return (slope[0] if slope and slope[0] else 1.0), (intercept[0] if intercept else 0.0), None
    return 1.0, 0.0, None


def _voi(groups: Sequence[DataSet]) -> tuple[Lut | None, tuple[Window, ...]]:
    """The first VOI LUT and all windows of the strongest place that has either. PS3.3 §C.11.2, §C.7.6.16.2.10"""
    for data_set in (*[item for group in groups for item in items_of(group, "00289132")[:1]], groups[-1]):
        tables = items_of(data_set, "00283010")
        lut = lut_of(tables[0], "00283002", "00283006", signed=None) if tables else None
        windows = _windows(data_set)
        if lut or windows:
            return lut, windows
    return None, ()


def _windows(data_set: DataSet) -> tuple[Window, ...]:
    """The windows that can be shown: a LINEAR width below 1 is taken as LINEAR_EXACT, 0 or less not at all."""
    function = VoiFunction.__members__.get(text_of(data_set, "00281056"), VoiFunction.LINEAR)
    centers, widths = numbers_of(data_set, "00281050"), numbers_of(data_set, "00281051")
    return tuple(
        Window(center, width, VoiFunction.LINEAR_EXACT if function is VoiFunction.LINEAR and width < 1 else function)
        for center, width in zip(centers, widths, strict=False)
        if width > 0
    )


def lut_of(data_set: DataSet, descriptor_tag: str, data_tag: str, *, signed: bool | None) -> Lut:
    """A table from its descriptor and data.

    signed: whether its input is; None when only the Value Representation of the descriptor can tell.
    The data may hold one entry per word, or two 8-bit entries per word. PS3.3 §C.11.1.1, §C.7.6.3.1.5
    """
    count, first, bits = _descriptor(data_set, descriptor_tag)
    if signed is not None:
        first = _in_range(first, 16, signed=signed)
    data = words_of(data_set, data_tag)
    if len(data) < count:
        raise Undecodable("A lookup table is shorter than its descriptor says", tag=data_tag)
    entries = bytearray(2 * count)
    if len(data) >= 2 * count:
        entries[:] = data[: 2 * count]
    else:
        entries[::2] = data[:count]
    largest = max(struct.unpack(f"<{count}H", entries))
    return Lut(first, max(min(bits, 16), largest.bit_length()), bytes(entries))


def _descriptor(data_set: DataSet, tag: str) -> tuple[int, int, int]:
    """Number of entries, first input and bits of an entry. PS3.3 §C.7.6.3.1.5"""
    descriptor = numbers_of(data_set, tag)
    if len(descriptor) != 3:
        raise Undecodable("A lookup table is malformed", tag=tag)
    count, first, bits = (int(number) for number in descriptor)
    return (count & 0xFFFF) or MAXIMUM_LUT_ENTRIES, first, bits


def palette_of(metadata: DataSet, *, signed: bool) -> tuple[Lut, Lut, Lut]:
    """The Palette Color Lookup Table Module. PS3.3 §C.7.9"""
    is_segmented = "00281221" in metadata and "00281201" not in metadata
    table = _segmented_lut if is_segmented else lut_of
    data_tag = "0028122" if is_segmented else "0028120"
    red, green, blue = (table(metadata, f"0028110{n}", f"{data_tag}{n}", signed=signed) for n in (1, 2, 3))
    return red, green, blue


def _segmented_lut(data_set: DataSet, descriptor_tag: str, data_tag: str, *, signed: bool) -> Lut:
    """The same of a table whose data are segments. PS3.3 §C.7.9.2"""
    count, first, bits = _descriptor(data_set, descriptor_tag)
    entries = expanded(words_of(data_set, data_tag), count, bits)
    return Lut(_in_range(first, 16, signed=signed), 8 if bits <= 8 else 16, struct.pack(f"<{count}H", *entries))
