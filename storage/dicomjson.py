"""Metadata as it is kept and given out: the DICOM JSON Model of an instance, compressed, with one mark where the
instance's own URL goes. PS3.18 §10.4.1.1.2, Annex F
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import orjson

from storage.model import JsonElement

_LEVEL = 1
AVAILABLE_TRANSFER_SYNTAX_UID = "00083002"
_ESCAPED_REFERENCE = b'"BulkDataURI":"\\u0000'
_REFERENCE = b'"BulkDataURI":"\0'


def pack_metadata(json: Mapping[str, JsonElement], transfer_syntax_uid: str) -> bytes:
    """The metadata of an instance as a row keeps it.

    Group 0002 is not part of it; Available Transfer Syntax UID says how the instance is stored. Values too large for
    metadata stand as references to the instance's URL, for which a NUL byte stands: no other NUL can be in JSON text,
    and a quotation mark within text is escaped, so nothing else can be taken for one.
    """
    available = {AVAILABLE_TRANSFER_SYNTAX_UID: {"vr": "UI", "Value": [transfer_syntax_uid]}}
    ordered = dict(sorted({**json, **available}.items()))
    return zlib.compress(orjson.dumps(ordered).replace(_ESCAPED_REFERENCE, _REFERENCE), _LEVEL)


def unpack_metadata(packed: bytes, instance_url: str) -> bytes:
    """JSON text of an instance's metadata with absolute references below ``instance_url``."""
    return zlib.decompress(packed).replace(b"\0", orjson.dumps(instance_url)[1:-1])


__all__ = ["AVAILABLE_TRANSFER_SYNTAX_UID", "pack_metadata", "unpack_metadata"]
