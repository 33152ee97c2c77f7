"""Which transfer syntaxes frames can be decoded from and encoded in, and the library that each takes.

A table and no codec: it is asked in processes that never load one. ``decode`` and ``encode`` have the functions, for
the same transfer syntaxes. PS3.5 Annex A
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType

from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS, TRANSFER_SYNTAXES

_BUILT_IN = "numpy"
_DECODED_WITH = {
    "ImplicitVRLittleEndian": _BUILT_IN,
    "ExplicitVRLittleEndian": _BUILT_IN,
    "DeflatedExplicitVRLittleEndian": _BUILT_IN,
    "ExplicitVRBigEndian": _BUILT_IN,
    "EncapsulatedUncompressedExplicitVRLittleEndian": _BUILT_IN,
    "DeflatedImageFrameCompression": _BUILT_IN,
    "RLELossless": "rle",
    "JPEGBaseline8Bit": "PIL",
    "JPEGExtended12Bit": "imagecodecs",
    "JPEGLossless": "imagecodecs",
    "JPEGLosslessSV1": "imagecodecs",
    "JPEGLSLossless": "imagecodecs",
    "JPEGLSNearLossless": "imagecodecs",
    "JPEG2000Lossless": "openjpeg",
    "JPEG2000": "openjpeg",
    "JPEGXLLossless": "imagecodecs",
    "JPEGXLJPEGRecompression": "imagecodecs",
    "JPEGXL": "imagecodecs",
    "HTJ2KLossless": "openjpeg",
    "HTJ2KLosslessRPCL": "openjpeg",
    "HTJ2K": "openjpeg",
}
DECODED_WITH: Mapping[str, str] = MappingProxyType(
    {uid: _DECODED_WITH[row.keyword] for uid, row in TRANSFER_SYNTAXES.items() if row.keyword in _DECODED_WITH}
)
"""The library that decodes frames of a transfer syntax."""

JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"

ENCODED_WITH: Mapping[str, str] = MappingProxyType(
    {
        EXPLICIT_VR_LITTLE_ENDIAN: _BUILT_IN,
        RLE_LOSSLESS: "rle",
        JPEG_LS_LOSSLESS: "imagecodecs",
        JPEG_2000_LOSSLESS: "imagecodecs",
        HTJ2K_LOSSLESS: "imagecodecs",
    }
)
"""The library that encodes frames in a transfer syntax, in the order in which they are offered. Only lossless ones: a
lossy copy would be another instance, with a UID of its own (PS3.3 §C.7.6.1.1.5)."""


def can_decode(transfer_syntax_uid: str) -> bool:
    """Whether frames so encoded can be turned into plain ones, as long as they are sound."""
    package = DECODED_WITH.get(transfer_syntax_uid)
    return package is not None and _is_installed(package)


def encodings() -> tuple[str, ...]:
    """The transfer syntaxes that pixels can be encoded in here; the first one is Explicit VR Little Endian."""
    return tuple(uid for uid, package in ENCODED_WITH.items() if _is_installed(package))


@cache
def _is_installed(package: str) -> bool:
    return find_spec(package) is not None
