"""One element of the DICOM JSON Model, read with care: what strangers wrote is checked where it is taken. Pure.

PS3.18 §F.2
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence

from storage.errors import Undecodable
from storage.model import JsonElement

DataSet = Mapping[str, JsonElement]
MAXIMUM_WORDS = 65_536


def element_of(data_set: DataSet, tag: str) -> DataSet:
    """The element as an object; empty when there is none."""
    element = data_set.get(tag)
    return element if isinstance(element, Mapping) else {}


def vr_of(data_set: DataSet, tag: str) -> str:
    """Its Value Representation; empty when it has none."""
    return str(element_of(data_set, tag).get("vr", ""))


def values_of(data_set: DataSet, tag: str) -> Sequence[JsonElement]:
    """Its values as they stand."""
    values = element_of(data_set, tag).get("Value")
    return values if isinstance(values, list) else ()


def text_of(data_set: DataSet, tag: str) -> str:
    """The first value if it is text, without blanks around it."""
    values = values_of(data_set, tag)
    return values[0].strip() if values and isinstance(values[0], str) else ""


def integer_of(data_set: DataSet, tag: str, default: int | None = None, *, minimum: int, maximum: int) -> int:
    """The first value of ``tag``. Raises Undecodable when it is no integer of the range, or missing without default."""
    values = values_of(data_set, tag)
    if not values or values[0] is None:
        if default is None:
            raise Undecodable("An attribute that describes the pixels is missing", tag=tag)
        return default
    try:
        value = int(values[0])
    except (TypeError, ValueError, OverflowError):
        raise Undecodable("An attribute that describes the pixels is malformed", tag=tag) from None
    if not minimum <= value <= maximum:
        raise Undecodable("An attribute that describes the pixels is out of range", tag=tag)
    return value


def numbers_of(data_set: DataSet, tag: str) -> list[float]:
    """The values of ``tag``; an empty list when one of them is no finite number, as display can go on without."""
    try:
        numbers = [float(value) for value in values_of(data_set, tag)]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


def items_of(data_set: DataSet, tag: str) -> Sequence[DataSet]:
    """The items of a sequence, without empty ones."""
    return [item for item in values_of(data_set, tag) if isinstance(item, Mapping)]


def bytes_of(data_set: DataSet, tag: str) -> bytes:
    """The bytes of an element that is kept inline; none where it is not. Raises Undecodable."""
    inline = element_of(data_set, tag).get("InlineBinary")
    try:
        return base64.b64decode(inline, validate=True) if isinstance(inline, str) else b""
    except ValueError:  # of base64, and of what is not even ASCII
        raise Undecodable("A binary value of the metadata is malformed", tag=tag) from None


def words_of(data_set: DataSet, tag: str) -> bytes:
    """The bytes of a table that is kept inline or as a list of numbers, little endian."""
    inline = bytes_of(data_set, tag)
    if inline:
        return inline
    values = values_of(data_set, tag)
    if not values or len(values) > MAXIMUM_WORDS:
        reason = "A lookup table is kept apart from the metadata" if "BulkDataURI" in element_of(data_set, tag) else ""
        raise Undecodable(reason or "A lookup table is missing or malformed", tag=tag)
    try:
        return struct.pack(f"<{len(values)}H", *[int(value) & 0xFFFF for value in values])
    except (TypeError, ValueError, OverflowError):
        raise Undecodable("A lookup table is malformed", tag=tag) from None
