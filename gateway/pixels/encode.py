"""Decoded frames in another encoding, without loss. A table from transfer syntax to encoder. PS3.5 §8.2, Annex A, G

What a codec cannot hold is refused before it is asked. A frame comes out without padding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gateway.pixels.codecs import HTJ2K_LOSSLESS, JPEG_2000_LOSSLESS, JPEG_LS_LOSSLESS
from gateway.pixels.decode import decode_stored, whole
from gateway.pixels.description import Frame, PixelDescription, PixelKind
from gateway.pixels.elements import DataSet
from gateway.pixels.native import Pixels
from gateway.pixels.protocol import Transcoded
from storage.errors import NotFound, Undecodable
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS

Encoder = Callable[[PixelDescription, Pixels], bytes]

_MOST_RESOLUTIONS = 6  # which needs 32 pixels
_SPIFF = b"\xff\xd8\xff\xe8"


def transcode(
    metadata: DataSet, transfer_syntax_uid: str, frame_number: int, frame: Frame, target_uid: str
) -> Transcoded:
    """The frame in the transfer syntax ``target_uid``, with the same stored values; colour is by pixel.

    Colours are RGB where decoding makes them so, for no other encoding has those of JPEG (V6). Raises TooLarge, and
    Undecodable for what is no image, has no such frame, cannot be decoded, or not be held by the target.
    """
    try:
        description = PixelDescription.of(metadata, transfer_syntax_uid, frame_number)
    except NotFound as error:  # of what describes the pixels: what is stored is there
        raise Undecodable(error.reason) from None
    encoder = ENCODERS.get(target_uid)
    if encoder is None:
        raise Undecodable("No encoder for this transfer syntax is installed")
    if description.kind is not PixelKind.INTEGER:
        raise Undecodable("Floating point pixels have no other encoding")
    values, photometric_interpretation = decode_stored(whole(description), frame)
    return Transcoded(photometric_interpretation, encoder(description, values))


def native_frame(description: PixelDescription, values: Pixels) -> bytes:
    """Little endian samples, each as wide as Bits Allocated; single bits are packed. PS3.5 §8.1.1"""
    if description.bits_allocated == 1:
        if description.number_of_frames > 1 and description.pixels % 8:
            raise Undecodable("Frames of single bits that share bytes cannot be put together")
        return np.packbits(values != 0, bitorder="little").tobytes()
    letter = "f" if description.kind is not PixelKind.INTEGER else "i" if description.pixel_representation else "u"
    return values.astype(f"<{letter}{description.bits_allocated // 8}", copy=False).tobytes()


def _rle(description: PixelDescription, values: Pixels) -> bytes:
    from rle.rle import encode_frame  # noqa: PLC0415 - of the workers, most only draw

    _refuse_beyond(description, bits=32)
    return bytes(
        encode_frame(
            native_frame(description, values),
            description.rows,
            description.columns,
            description.samples_per_pixel,
            description.bits_allocated,
            "<",
        )
    )


def _jpeg_2000(description: PixelDescription, values: Pixels) -> bytes:
    import imagecodecs  # noqa: PLC0415

    _refuse_beyond(description, bits=16)
    smallest_side = min(description.rows, description.columns)
    try:
        return bytes(
            imagecodecs.jpeg2k_encode(
                np.ascontiguousarray(values),
                codecformat="J2K",
                reversible=True,
                mct=False,
                bitspersample=_bits(description, values),
                resolutions=min(_MOST_RESOLUTIONS, smallest_side.bit_length()),
                numthreads=1,
            )
        )
    except (RuntimeError, ValueError):
        raise Undecodable("The frame cannot be encoded as JPEG 2000") from None


def _jpeg_ls(description: PixelDescription, values: Pixels) -> bytes:
    import imagecodecs  # noqa: PLC0415

    _refuse_beyond(description, bits=16)
    unsigned = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")  # JPEG-LS knows no sign
    try:
        codestream = bytes(imagecodecs.jpegls_encode(unsigned))
    except (RuntimeError, ValueError):
        raise Undecodable("The frame cannot be encoded as JPEG-LS") from None
    # A SPIFF header, which DICOM does not have, is left out. ITU-T T.87 Annex F
    return codestream if not codestream.startswith(_SPIFF) else codestream[:2] + _behind_spiff(codestream)


def _behind_spiff(codestream: bytes) -> bytes:
    """From the first marker on that is no application data."""
    at = 2
    while codestream[at : at + 2] == _SPIFF[2:]:
        at += 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
    return codestream[at:]


def _htj2k(description: PixelDescription, values: Pixels) -> bytes:
    import imagecodecs  # noqa: PLC0415

    _refuse_beyond(description, bits=16)
    try:
        return bytes(imagecodecs.htj2k_encode(np.ascontiguousarray(values), reversible=True, rgb=False))
    except (RuntimeError, ValueError):
        raise Undecodable("The frame cannot be encoded as HTJ2K") from None


def _refuse_beyond(description: PixelDescription, *, bits: int) -> None:
    if description.kind is not PixelKind.INTEGER or not 8 <= description.bits_allocated <= bits:
        raise Undecodable("Pixels of this depth have no such encoding")


def _bits(description: PixelDescription, values: Pixels) -> int:
    """Bits Stored, or as many as there are where the values do not keep to it."""
    stored = description.bits_stored
    low, high = int(values.min()), int(values.max())
    first, last = (
        (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if values.dtype.kind == "i" else (0, (1 << stored) - 1)
    )
    return stored if first <= low and high <= last else 8 * values.dtype.itemsize


ENCODERS: dict[str, Encoder] = {
    EXPLICIT_VR_LITTLE_ENDIAN: native_frame,
    RLE_LOSSLESS: _rle,
    JPEG_LS_LOSSLESS: _jpeg_ls,
    JPEG_2000_LOSSLESS: _jpeg_2000,
    HTJ2K_LOSSLESS: _htj2k,
}
