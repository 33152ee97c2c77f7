"""UIDs and the table of transfer syntaxes. PS3.5 §9, PS3.5 §10, PS3.6 Annex A."""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.errors import InvalidInstance

UID_PATTERN = r"(?![0-9.]{65})(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*"
"""Dotted decimal components without leading zeros, at most 64 characters. PS3.5 §9.1"""
_UID = re.compile(UID_PATTERN, re.ASCII)


def is_uid(text: str) -> bool:
    """Whether ``text`` is a UID. PS3.5 §9.1"""
    return _UID.fullmatch(text) is not None


def checked_uid(text: str, tag: str = "") -> str:
    """``text`` if it is a UID. Raises InvalidInstance, naming the tag and not the text. PS3.5 §9.1"""
    if not is_uid(text):
        raise InvalidInstance("A UID is missing or malformed", tag=tag)
    return text


IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One way to encode a Data Set. PS3.5 Annex A

    media_type: of a frame that is encoded so, on its own (PS3.18 Table 8.7.3-2).
    """

    uid: str
    keyword: str
    media_type: str = "application/octet-stream"
    is_encapsulated: bool = True
    is_lossy: bool = False
    is_implicit_vr: bool = False
    is_little_endian: bool = True
    is_deflated: bool = False


def _encapsulated(suffix: str, keyword: str, media_type: str, *, is_lossy: bool = False) -> TransferSyntax:
    return TransferSyntax("1.2.840.10008.1.2." + suffix, keyword, media_type, is_lossy=is_lossy)


_TABLE = (
    TransferSyntax(IMPLICIT_VR_LITTLE_ENDIAN, "ImplicitVRLittleEndian", is_encapsulated=False, is_implicit_vr=True),
    TransferSyntax(EXPLICIT_VR_LITTLE_ENDIAN, "ExplicitVRLittleEndian", is_encapsulated=False),
    TransferSyntax(
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, "DeflatedExplicitVRLittleEndian", is_encapsulated=False, is_deflated=True
    ),
    TransferSyntax(EXPLICIT_VR_BIG_ENDIAN, "ExplicitVRBigEndian", is_encapsulated=False, is_little_endian=False),
    TransferSyntax("1.2.840.10008.1.2.1.98", "EncapsulatedUncompressedExplicitVRLittleEndian"),
    _encapsulated("4.50", "JPEGBaseline8Bit", "image/jpeg", is_lossy=True),
    _encapsulated("4.51", "JPEGExtended12Bit", "image/jpeg", is_lossy=True),
    _encapsulated("4.57", "JPEGLossless", "image/jpeg"),
    _encapsulated("4.70", "JPEGLosslessSV1", "image/jpeg"),
    _encapsulated("4.80", "JPEGLSLossless", "image/jls"),
    _encapsulated("4.81", "JPEGLSNearLossless", "image/jls", is_lossy=True),
    _encapsulated("4.90", "JPEG2000Lossless", "image/jp2"),
    _encapsulated("4.91", "JPEG2000", "image/jp2", is_lossy=True),
    _encapsulated("4.92", "JPEG2000MCLossless", "image/jpx"),
    _encapsulated("4.93", "JPEG2000MC", "image/jpx", is_lossy=True),
    _encapsulated("4.100", "MPEG2MPML", "video/mpeg", is_lossy=True),
    _encapsulated("4.101", "MPEG2MPHL", "video/mpeg", is_lossy=True),
    _encapsulated("4.102", "MPEG4HP41", "video/mp4", is_lossy=True),
    _encapsulated("4.103", "MPEG4HP41BD", "video/mp4", is_lossy=True),
    _encapsulated("4.104", "MPEG4HP422D", "video/mp4", is_lossy=True),
    _encapsulated("4.105", "MPEG4HP423D", "video/mp4", is_lossy=True),
    _encapsulated("4.106", "MPEG4HP42STEREO", "video/mp4", is_lossy=True),
    _encapsulated("4.107", "HEVCMP51", "video/H265", is_lossy=True),
    _encapsulated("4.108", "HEVCM10P51", "video/H265", is_lossy=True),
    _encapsulated("4.110", "JPEGXLLossless", "image/jxl"),
    _encapsulated("4.111", "JPEGXLJPEGRecompression", "image/jxl", is_lossy=True),
    _encapsulated("4.112", "JPEGXL", "image/jxl", is_lossy=True),
    _encapsulated("4.201", "HTJ2KLossless", "image/jphc"),
    _encapsulated("4.202", "HTJ2KLosslessRPCL", "image/jphc"),
    _encapsulated("4.203", "HTJ2K", "image/jphc", is_lossy=True),
    _encapsulated("5", "RLELossless", "image/dicom-rle"),
    _encapsulated("8.1", "DeflatedImageFrameCompression", "application/octet-stream"),
)

TRANSFER_SYNTAXES = {syntax.uid: syntax for syntax in _TABLE}


def transfer_syntax(uid: str) -> TransferSyntax:
    """The row of the table; for a UID that is not in it, an encapsulated Explicit VR Little Endian encoding.

    Every private or later transfer syntax that peers use in practice is one (PS3.5 §A.4), so such an instance can
    still be indexed and returned as it was sent.
    """
    return TRANSFER_SYNTAXES.get(uid) or TransferSyntax(uid, "")
