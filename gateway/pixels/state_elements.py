"""One element of a presentation state in the DICOM JSON Model, read strictly. PS3.18 §F.2

Pure. What is missing, malformed or out of range raises Undecodable with the tag in its reason, so that a state is shown
as it says or not at all; what passes a limit raises TooLarge.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from typing import TypeVar

from gateway.pixels.elements import DataSet
from storage.errors import TooLarge, Undecodable

MAXIMUM_ITEMS = 16_384
MAXIMUM_VALUES = 131_072
T = TypeVar("T")


def malformed(tag: str, what: str = "is missing or malformed") -> Undecodable:
    """The error of an element. what: a constant phrase that says what is wrong with it."""
    return Undecodable(f"({tag[:4]},{tag[4:]}) of the presentation state {what}", tag=tag)


def too_many(tag: str) -> TooLarge:
    """The error of an element that asks for more than is ever drawn."""
    return TooLarge(f"({tag[:4]},{tag[4:]}) of the presentation state has too many values", tag=tag)


def is_present(data_set: DataSet, tag: str) -> bool:
    """Whether the element is there and has a value, also one that is not to be read here."""
    element = data_set.get(tag)
    return isinstance(element, Mapping) and bool(element.keys() & {"Value", "InlineBinary", "BulkDataURI"})


def items(data_set: DataSet, tag: str) -> Sequence[DataSet]:
    """The items of a sequence; none when it is absent or empty."""
    values = _values(data_set, tag)
    if len(values) > MAXIMUM_ITEMS:
        raise too_many(tag)
    if not all(isinstance(item, Mapping) for item in values):
        raise malformed(tag)
    return values  # type: ignore[return-value]


def texts(data_set: DataSet, tag: str) -> tuple[str, ...]:
    """The values of a text without blanks around them; none when it is absent or empty."""
    found = []
    for value in _values(data_set, tag):
        if not isinstance(value, str):
            raise malformed(tag)
        found.append(value.strip())
    return tuple(found)


def text(data_set: DataSet, tag: str) -> str:
    """The first value of a text; "" when it is absent or empty."""
    return next(iter(texts(data_set, tag)), "")


def code(data_set: DataSet, tag: str, known: Mapping[str, T], default: str = "") -> T:
    """What a Code String stands for. default: the one taken when the element is absent or empty."""
    try:
        return known[text(data_set, tag) or default]
    except KeyError:
        raise malformed(tag) from None


def numbers(data_set: DataSet, tag: str, *, count: int = 0, limit: float) -> tuple[float, ...]:
    """Finite numbers from -limit to limit; none when the element is absent or empty.

    count: how many there have to be if there are any; 0 for any number.
    """
    element = data_set.get(tag)
    inline = element.get("InlineBinary") if isinstance(element, Mapping) else None
    values = _values(data_set, tag) if inline is None else _floats(inline, tag)
    if len(values) > MAXIMUM_VALUES:
        raise too_many(tag)
    if not values and is_present(data_set, tag):
        raise malformed(tag)
    try:
        found = tuple(float(value) for value in values)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise malformed(tag) from None
    if not all(math.isfinite(number) for number in found) or (found and count and len(found) != count):
        raise malformed(tag)
    if any(abs(number) > limit for number in found):
        raise malformed(tag, "is out of range")
    return found


def integers(data_set: DataSet, tag: str, *, count: int = 0, limit: int) -> tuple[int, ...]:
    """The same, of whole numbers."""
    found = numbers(data_set, tag, count=count, limit=limit)
    if any(number != int(number) for number in found):
        raise malformed(tag)
    return tuple(map(int, found))


def words(data_set: DataSet, tag: str, *, count: int) -> tuple[int, ...]:
    """``count`` unsigned numbers of 16 bits; none when the element is absent or empty."""
    found = integers(data_set, tag, count=count, limit=0xFFFF)
    if any(number < 0 for number in found):
        raise malformed(tag, "is out of range")
    return found


def _values(data_set: DataSet, tag: str) -> Sequence[object]:
    element = data_set.get(tag)
    if element is None:
        return ()
    values = element.get("Value", ()) if isinstance(element, Mapping) and "BulkDataURI" not in element else None
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise malformed(tag)
    return values


def _floats(inline: object, tag: str) -> Sequence[float]:
    """The numbers of a value of FL that was kept as bytes, little endian."""
    if not isinstance(inline, str):
        raise malformed(tag)
    if len(inline) > 6 * MAXIMUM_VALUES:
        raise too_many(tag)
    try:
        raw = base64.b64decode(inline, validate=True)
        return struct.unpack(f"<{len(raw) // 4}f", raw)
    except (ValueError, struct.error):
        raise malformed(tag) from None
