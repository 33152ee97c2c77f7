"""One frame as stored becomes an array. A table from transfer syntax to decoder; none of them sees more than a frame.

Every decoder compares what the frame says of its own size with the description before it allocates, fills arrays
that start as zeros, and refuses a frame that is short (H15, H17). PS3.5 §8.2, Annex A.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from gateway.pixels.description import Frame, PixelDescription, PixelKind
from gateway.pixels.jpeg import decode_jpeg
from gateway.pixels.jpeg2000 import Codestream, decode_jpeg2000
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
    "JPEGExtended12Bit": decode_jpeg,
    "JPEG2000Lossless": decode_jpeg2000,
    "JPEG2000": decode_jpeg2000,
    "HTJ2KLossless": decode_jpeg2000,
    "HTJ2KLosslessRPCL": decode_jpeg2000,
    "HTJ2K": decode_jpeg2000,
}
DECODERS = {uid: _BY_KEYWORD[row.keyword] for uid, row in TRANSFER_SYNTAXES.items() if row.keyword in _BY_KEYWORD}

_IN_RGB = frozenset({"RGB", "YBR_ICT", "YBR_RCT"})


def decode(description: PixelDescription, frame: Frame) -> Pixels:
    """The frame as (rows, columns) of stored values, or (rows, columns, 3) of RGB for colour.

    frame: as stored, fragments joined, in the byte order of the transfer syntax; inflated where the Data Set was
    deflated. The result may be a view of it. Palette colour stays indices. Raises Undecodable when no decoder takes
    the transfer syntax or the frame is not what the description says. PS3.3 §C.7.6.3.1.2
    """
    decoder = DECODERS.get(description.transfer_syntax_uid)
    if decoder is None:
        raise Undecodable("No decoder for this transfer syntax is installed")
    if description.kind is not PixelKind.INTEGER and decoder not in {decode_native, decode_deflated_frame}:
        raise Undecodable("Floating point pixels have no such encoding")
    values = decode_native(description, frame) if decoder is decode_native else decoder(description, bytes(frame))
    if values.ndim == 2 or description.photometric_interpretation in _IN_RGB or decoder is decode_jpeg:
        return values
    if decoder is decode_jpeg2000 and Codestream.of(bytes(frame)).has_component_transform:
        return values
    return _rgb(values)


def _rgb(values: Pixels) -> Pixels:
    """YBR_FULL as RGB. PS3.3 §C.7.6.3.1.2"""
    if values.dtype != np.uint8:
        raise Undecodable("YBR of more than 8 bits is not supported")
    return np.array(Image.fromarray(values, "YCbCr").convert("RGB"))
