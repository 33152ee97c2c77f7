"""One frame as stored becomes an array. A table from transfer syntax to decoder; none of them sees more than a frame.

Every decoder compares what the frame says of its own size with the description before it allocates, fills arrays
that start as zeros, and refuses a frame that is short (H15, H17). PS3.5 §8.2, Annex A.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from gateway.pixels.codestreams import Codestream
from gateway.pixels.description import Frame, PixelDescription, PixelKind
from gateway.pixels.jpeg import decode_jpeg
from gateway.pixels.jpeg2000 import decode_jpeg2000
from gateway.pixels.jpeg_variants import (
    decode_jpeg_extended,
    decode_jpeg_lossless,
    decode_jpeg_ls,
    decode_jpeg_xl,
)
from gateway.pixels.native import Pixels, decode_deflated_frame, decode_native
from gateway.pixels.run_length import decode_rle
from storage.errors import Undecodable
from storage.uids import TRANSFER_SYNTAXES

Decoder = Callable[[PixelDescription, bytes], Pixels]

_BY_KEYWORD: dict[str, Decoder] = {
    "ImplicitVRLittleEndian": decode_native,
    "ExplicitVRLittleEndian": decode_native,
    "DeflatedExplicitVRLittleEndian": decode_native,
    "ExplicitVRBigEndian": decode_native,
    "EncapsulatedUncompressedExplicitVRLittleEndian": decode_native,
    "DeflatedImageFrameCompression": decode_deflated_frame,
    "RLELossless": decode_rle,
    "JPEGBaseline8Bit": decode_jpeg,
    "JPEGExtended12Bit": decode_jpeg_extended,
    "JPEGLossless": decode_jpeg_lossless,
    "JPEGLosslessSV1": decode_jpeg_lossless,
    "JPEGLSLossless": decode_jpeg_ls,
    "JPEGLSNearLossless": decode_jpeg_ls,
    "JPEG2000Lossless": decode_jpeg2000,
    "JPEG2000": decode_jpeg2000,
    "JPEGXLLossless": decode_jpeg_xl,
    "JPEGXLJPEGRecompression": decode_jpeg_xl,
    "JPEGXL": decode_jpeg_xl,
    "HTJ2KLossless": decode_jpeg2000,
    "HTJ2KLosslessRPCL": decode_jpeg2000,
    "HTJ2K": decode_jpeg2000,
}
DECODERS = {uid: _BY_KEYWORD[row.keyword] for uid, row in TRANSFER_SYNTAXES.items() if row.keyword in _BY_KEYWORD}

_TO_RGB = frozenset({decode_jpeg, decode_jpeg_extended, decode_jpeg_xl})
_PACKINGS = frozenset({decode_native, decode_deflated_frame, decode_rle})
_OF_CELLS = frozenset({decode_jpeg_lossless, decode_jpeg_ls, decode_jpeg2000})
_YBR = frozenset({"YBR_FULL", "YBR_FULL_422"})
_PARTIAL, _XYB = "YBR_PARTIAL_422", "XYB"


def decode(description: PixelDescription, frame: Frame) -> Pixels:
    """The frame as (rows, columns) of stored values, or (rows, columns, 3) of RGB for colour, to be shown.

    See ``decode_stored`` for the rest. PS3.3 §C.7.6.3.1.2
    """
    values, photometric_interpretation = decode_stored(description, frame)
    return values if photometric_interpretation not in _YBR else _rgb(values, description.bits_stored)


def decode_stored(description: PixelDescription, frame: Frame) -> tuple[Pixels, str]:
    """The frame as it was encoded, colour with all its samples side by side, and what its values mean.

    frame: as stored, fragments joined, in the byte order of the transfer syntax; inflated where the Data Set was
    deflated. The result may be a view of it. Palette colour stays indices; colours that only compression uses are
    RGB again. Raises Undecodable when no decoder takes the transfer syntax or the frame is not what the description
    says. PS3.3 §C.7.6.3.1.2
    """
    decoder = DECODERS.get(description.transfer_syntax_uid)
    if decoder is None:
        raise Undecodable("No decoder for this transfer syntax is installed")
    if description.kind is not PixelKind.INTEGER and decoder not in {decode_native, decode_deflated_frame}:
        raise Undecodable("Floating point pixels have no such encoding")
    values = decode_native(description, frame) if decoder is decode_native else decoder(description, bytes(frame))
    if values.ndim == 2:
        return values, description.photometric_interpretation
    if decoder in _TO_RGB or (decoder is decode_jpeg2000 and Codestream.of(bytes(frame)).has_component_transform):
        return values, "RGB"
    if description.photometric_interpretation == _XYB:
        raise Undecodable("The colours of JPEG XL have no other encoding")
    if description.photometric_interpretation == _PARTIAL:
        return _rgb_of_partial(values, description.bits_stored), "RGB"
    return values, "YBR_FULL" if description.photometric_interpretation in _YBR else "RGB"


def whole(description: PixelDescription) -> PixelDescription:
    """The same with all bits of a sample, for where they may be kept: overlays and others lie beside Bits Stored."""
    if DECODERS.get(description.transfer_syntax_uid) not in _PACKINGS | _OF_CELLS:
        return description
    return replace(description, bits_stored=description.bits_allocated, high_bit=description.bits_allocated - 1)


def keeps_all_bits(description: PixelDescription) -> bool:
    """Whether what lies beside Bits Stored is there for certain. PS3.5 §8.1.2"""
    return DECODERS.get(description.transfer_syntax_uid) in _PACKINGS


def _rgb(values: Pixels, bits: int) -> Pixels:
    """YBR_FULL of ``bits`` as RGB of as many. PS3.3 §C.7.6.3.1.2"""
    if values.dtype == np.uint8 and bits == 8:
        return np.array(Image.fromarray(values, "YCbCr").convert("RGB"))
    return _mixed(values, bits, black=0, luminance=1.0, chroma=1.0)


def _rgb_of_partial(values: Pixels, bits: int) -> Pixels:
    """The same where black is 16 and white 235 of 255, and colour differences reach from 16 to 240."""
    return _mixed(values, bits, black=16 << (bits - 8), luminance=255 / 219, chroma=255 / 224)


def _mixed(values: Pixels, bits: int, *, black: int, luminance: float, chroma: float) -> Pixels:
    """Red, green and blue of luminance and colour differences, row by row so that no second frame is needed.

    Their factors are those of ITU-R BT.601, of which both kinds of YBR are.
    """
    if values.dtype.kind != "u" or values.dtype.itemsize > 2 or bits < 8:
        raise Undecodable("YBR of this depth is not supported")
    rgb = np.zeros_like(values)
    for row, result in zip(values, rgb, strict=True):
        y = (row[:, 0].astype(np.float64) - black) * luminance
        blue, red = ((row[:, n].astype(np.float64) - (1 << (bits - 1))) * chroma for n in (1, 2))
        mixed = (y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue)
        result[:] = np.rint(np.stack(mixed, axis=-1)).clip(0, (1 << bits) - 1)
    return rgb
