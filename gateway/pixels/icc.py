"""Colour management: a picture in a well-known colour space, and the ICC profile that says so. PS3.18 §8.3.5.1.5

The profiles are made here of the primaries and curves that define the spaces; LittleCMS converts between them.
PS3.3 §C.11.15, ISO 15076-1
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO

from PIL import Image, ImageCms

from gateway.pixels.description import COLOR_SPACE, ICC_PROFILE, MAXIMUM_PROFILE_BYTES
from gateway.pixels.elements import DataSet, bytes_of, text_of
from gateway.pixels.options import IccProfile
from storage.errors import Undecodable

_HEADER_BYTES, _SIGNATURE = 128, b"acsp"
_D50 = (0.9642, 1.0, 0.8249)
_FROM_D65 = (1.0478112, 0.0228866, -0.0501270, 0.0295424, 0.9904844, -0.0170491, -0.0092345, 0.0150436, 0.7521316)
_FROM_D50 = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_MADE_AT = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
_PLAIN_CURVE, _CURVE_WITH_TOE = 0, 3

_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@dataclass(frozen=True, slots=True)
class ColorSpace:
    """primaries: XYZ of red, green and blue, adapted to D50. curve: the exponent, or with the toe of ISO 15076-1
    §10.18 type 3. to_d50: how white was adapted.
    """

    name: str
    primaries: tuple[tuple[float, float, float], ...]
    curve: tuple[float, ...]
    to_d50: tuple[float, ...] = _FROM_D65


# With seven decimals, as the sum of each space has to be white to the last bit for greys to stay grey.
_SPACES: Mapping[IccProfile, ColorSpace] = {
    IccProfile.SRGB: ColorSpace(
        "sRGB",
        ((0.4360413, 0.2224845, 0.0139202), (0.3851129, 0.7169051, 0.0970672), (0.1430458, 0.0606104, 0.7139126)),
        _SRGB_CURVE,
    ),
    IccProfile.ADOBE_RGB: ColorSpace(
        "Adobe RGB (1998)",
        ((0.6097408, 0.3111125, 0.0194654), (0.2052726, 0.6256751, 0.0608745), (0.1491867, 0.0632123, 0.7445601)),
        (563 / 256,),
    ),
    IccProfile.ROMM_RGB: ColorSpace(
        "ROMM RGB",
        ((0.7977198, 0.2880495, 0.0), (0.1351611, 0.7118732, 0.0), (0.0313191, 0.0000773, 0.8249)),
        (1.8, 1.0, 0.0, 1 / 16, 1 / 32),
        _FROM_D50,
    ),
    IccProfile.DISPLAY_P3: ColorSpace(
        "Display P3",
        ((0.5151187, 0.2411892, -0.0010505), (0.2919778, 0.6922441, 0.0418791), (0.1571035, 0.0665668, 0.7840713)),
        _SRGB_CURVE,
    ),
}
_BY_LABEL = {"SRGB": IccProfile.SRGB, "ADOBERGB": IccProfile.ADOBE_RGB, "ROMMRGB": IccProfile.ROMM_RGB}


@cache
def profile(space: IccProfile) -> bytes:
    """The ICC profile of a well-known colour space, always the same bytes."""
    colors = _SPACES[space]
    red, green, blue = (_xyz(primary) for primary in colors.primaries)
    curve = _curve(colors.curve)
    tags = {
        b"desc": _text(colors.name),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": _xyz(_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(*colors.to_d50),
        b"rXYZ": red,
        b"gXYZ": green,
        b"bXYZ": blue,
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    at = _HEADER_BYTES + 4 + 12 * len(tags)
    table, body = struct.pack(">L", len(tags)), b""
    for name, value in tags.items():
        table += struct.pack(">4sLL", name, at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">L4xL4s4s4s12s", at + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ", _MADE_AT)
    head += _SIGNATURE + bytes(28) + _fixed(*_D50)
    return head.ljust(_HEADER_BYTES, b"\0") + table + body


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}l", *(round(number * 65536) for number in numbers))


def _xyz(color: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*color)


def _curve(numbers: tuple[float, ...]) -> bytes:
    kind = _PLAIN_CURVE if len(numbers) == 1 else _CURVE_WITH_TOE
    return b"para\0\0\0\0" + struct.pack(">H2x", kind) + _fixed(*numbers)


def _text(words: str) -> bytes:
    encoded = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">LL4sLL", 1, 12, b"enUS", len(encoded), 28) + encoded


def own_profile(metadata: DataSet) -> bytes:
    """The profile that the object's colours are in, without padding; sRGB where it does not say. PS3.3 §C.11.15

    Raises Undecodable when it is no profile of RGB.
    """
    own = bytes_of(metadata, ICC_PROFILE)
    if not own:
        return profile(_BY_LABEL.get(text_of(metadata, COLOR_SPACE), IccProfile.SRGB))
    if len(own) > MAXIMUM_PROFILE_BYTES or own[36:40] != _SIGNATURE or own[16:20] != b"RGB ":
        raise Undecodable("The ICC profile of the object is malformed", tag=ICC_PROFILE)
    own = own[: int.from_bytes(own[:4])]
    try:
        ImageCms.ImageCmsProfile(BytesIO(own))
    except OSError:
        raise Undecodable("The ICC profile of the object is malformed", tag=ICC_PROFILE) from None
    return own


def profiled(image: Image.Image, metadata: DataSet, wanted: IccProfile) -> tuple[Image.Image, bytes]:
    """The picture in the colour space wanted, and the profile to be sent with it; none for NO.

    A grey picture has no profile of its own; where a space is named it becomes one of equal red, green and blue, as
    if its greys had been those of sRGB.
    Raises Undecodable for a malformed profile of the object.
    """
    if wanted is IccProfile.NO or (wanted is IccProfile.YES and image.mode == "L"):
        return image, b""
    own = profile(IccProfile.SRGB) if image.mode == "L" else own_profile(metadata)
    if wanted is IccProfile.YES:
        return image, own
    target = profile(wanted)
    if own == target:
        return image.convert("RGB"), target
    try:
        converted = ImageCms.profileToProfile(image.convert("RGB"), BytesIO(own), BytesIO(target), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        raise Undecodable("The ICC profile of the object is malformed", tag=ICC_PROFILE) from None
    if converted is None:
        raise Undecodable("The colours cannot be converted")
    return converted, target
