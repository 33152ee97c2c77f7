"""Softcopy: the steps from a decoded frame to the picture that a presentation state wants of it.

Before scaling come shutter and overlays, in pixels of the image, and the displayed area, cut out and turned; after it
graphics and text, so that they are sharp at any size. PS3.4 §N.2
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from gateway.pixels.cielab import Colour
from gateway.pixels.description import PixelDescription
from gateway.pixels.displayed_area import Box, DisplayedArea, Placement
from gateway.pixels.elements import DataSet
from gateway.pixels.graphics import draw_objects, with_colours
from gateway.pixels.luts import pseudo_colour
from gateway.pixels.native import Pixels
from gateway.pixels.options import MAXIMUM_OUTPUT_SIDE_PIXELS, Region, RenderOptions, Viewport
from gateway.pixels.overlays import Overlay
from gateway.pixels.planes import draw, points_of
from gateway.pixels.presentation import IMAGE, PRESENTED, STATE, PresentationState
from gateway.pixels.shutters import Circle, Opening, Polygon, Rectangle, Shutter
from storage.errors import Undecodable

_HIDDEN, _SEEN = 255, 0
_ACTIVATION = re.compile(r"60[01].1001", re.ASCII)
_TURNS = {1: Image.Transpose.ROTATE_270, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_90}


@dataclass(frozen=True, slots=True)
class Softcopy:
    """One frame and the state that it is to be seen in.

    description: of the frame as stored, with the transformations of the state. shown: of the displayed area as it is
    turned, which is what is fitted into the picture with ``options``.
    """

    state: PresentationState
    description: PixelDescription
    shown: PixelDescription
    options: RenderOptions

    @classmethod
    def of(cls, metadata: DataSet, description: PixelDescription, options: RenderOptions) -> Self | None:
        """None when no state rides in the metadata. Raises Undecodable and TooLarge."""
        presented = metadata.get(PRESENTED)
        if presented is None:
            return None
        if not isinstance(presented, Mapping) or not isinstance(presented.get(STATE), Mapping):
            raise Undecodable("The presentation state is no Data Set")
        said = presented[STATE]
        if options.is_thumbnail:  # which has no overlays, so they are not there to be read either
            said = {tag: element for tag, element in said.items() if not _ACTIVATION.fullmatch(tag)}
        state = PresentationState.of(said, str(presented.get(IMAGE, "")), metadata, description)
        described = state.described(description)
        shown = _shown(described, state.area)
        return cls(state, described, shown, _options(options, state.area.magnification, shown))

    def displayed(self, image: Image.Image, points_of: Callable[[Overlay], Pixels]) -> Image.Image:
        """The displayed area of a frame, in pixels of the image. A thumbnail has no overlays: they may name people.

        points_of: gives what is set of an overlay, as (rows, columns).
        """
        state = self.state
        if state.palette is not None:
            image = Image.fromarray(pseudo_colour(np.asarray(image), state.palette))
        if not self.options.is_thumbnail:
            for plane, colour in state.overlays:
                image = _painted(image, _mask(plane, points_of(plane), image.size), colour)
        if state.shutter is not None:
            hidden = _hidden(state.shutter, image.size, self.description.pixel_aspect)
            image = _painted(image, hidden, state.shutter.colour)
        return _turned(_cut_out(image, state.area), state.area)

    def annotated(self, picture: Image.Image, box: Box) -> Image.Image:
        """The scaled picture with graphics and text; a thumbnail has none. box: what it shows of the area."""
        if self.options.is_thumbnail:
            return picture
        region = (self.options.viewport and self.options.viewport.region) or Region()
        is_mirrored = (region.width or 0) < 0, (region.height or 0) < 0
        return draw_objects(picture, self.state.drawn, Placement(self.state.area, box, picture.size, is_mirrored))


def _shown(description: PixelDescription, area: DisplayedArea) -> PixelDescription:
    columns, rows = area.size
    aspect = description.pixel_aspect if area.pixel_aspect is None else area.pixel_aspect
    aspect = 1 / aspect if area.quarter_turns % 2 else aspect
    return replace(description, rows=rows, columns=columns, pixel_aspect=aspect)


def _options(options: RenderOptions, magnification: float | None, shown: PixelDescription) -> RenderOptions:
    """Options in which the magnification of a state is a viewport: one that is too small for it sees the middle.

    A region that was asked for fits its viewport, and a thumbnail its square. PS3.18 §9.5.2.3
    """
    viewport = options.viewport
    if magnification is None or options.is_thumbnail or (viewport is not None and viewport.region is not None):
        return options
    scales = [magnification * max(1.0, 1 / shown.pixel_aspect), magnification * max(1.0, shown.pixel_aspect)]
    whole = [shown.columns, shown.rows]
    limits = [side or MAXIMUM_OUTPUT_SIDE_PIXELS for side in _sides(viewport)]
    seen = [min(length, limit / scale) for length, limit, scale in zip(whole, limits, scales, strict=True)]
    x, y = ((length - part) / 2 for length, part in zip(whole, seen, strict=True))
    width, height = (max(1, round(part * scale)) for part, scale in zip(seen, scales, strict=True))
    return replace(options, viewport=Viewport(width, height, Region(x, y, seen[0], seen[1])))


def _sides(viewport: Viewport | None) -> tuple[int | None, int | None]:
    return (viewport.width, viewport.height) if viewport else (None, None)


def _cut_out(image: Image.Image, area: DisplayedArea) -> Image.Image:
    """The area; black where the image does not reach."""
    size = area.right - area.left, area.bottom - area.top
    if (area.left, area.top, *size) == (0, 0, *image.size):
        return image
    canvas = Image.new(image.mode, size)
    canvas.paste(image, (-area.left, -area.top))
    return canvas


def _turned(image: Image.Image, area: DisplayedArea) -> Image.Image:
    """Turned clockwise, then flipped. PS3.3 §C.10.6"""
    if area.quarter_turns:
        image = image.transpose(_TURNS[area.quarter_turns])
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if area.is_flipped else image


def _painted(image: Image.Image, mask: Image.Image, colour: Colour) -> Image.Image:
    image = with_colours(image, [colour])
    image.paste(colour if image.mode == "RGB" else colour[0], mask=mask)
    return image


# Masks of the size of an image: 255 where to paint


def _mask(plane: Overlay, points: Pixels, size: tuple[int, int]) -> Image.Image:
    mask = np.zeros(size[::-1], np.uint8)
    draw(mask, plane, points)
    return Image.fromarray(mask)


def _hidden(shutter: Shutter, size: tuple[int, int], pixel_aspect: float) -> Image.Image:
    """What all of a shutter leaves seen is seen. pixel_aspect: by which a circle is round, not its pixels."""
    bitmap = shutter.bitmap
    hidden = Image.new("L", size) if bitmap is None else _mask(bitmap, points_of(bitmap), size)
    for opening in shutter.openings:
        closed = Image.new("L", size, _HIDDEN)
        _open(ImageDraw.Draw(closed), opening, size, pixel_aspect)
        hidden = ImageChops.lighter(hidden, closed)
    return hidden


def _open(pen: ImageDraw.ImageDraw, opening: Opening, size: tuple[int, int], pixel_aspect: float) -> None:
    match opening:
        case Rectangle(left, right, top, bottom):
            _clear(pen, size, (left - 1, top - 1, right - 1, bottom - 1))
        case Circle(row, column, radius):
            reach = int(radius / pixel_aspect)
            for y in range(max(0, row - 1 - reach), min(size[1], row + reach)):
                half = int(max(0.0, radius**2 - ((y - (row - 1)) * pixel_aspect) ** 2) ** 0.5)
                _clear(pen, size, (column - 1 - half, y, column - 1 + half, y))
        case Polygon(vertices):
            pen.polygon([(column - 1, row - 1) for row, column in vertices], fill=_SEEN)


def _clear(pen: ImageDraw.ImageDraw, size: tuple[int, int], corners: tuple[int, int, int, int]) -> None:
    """Leave a rectangle of pixels seen, the corners among them."""
    left, top = max(0, corners[0]), max(0, corners[1])
    right, bottom = min(size[0] - 1, corners[2]), min(size[1] - 1, corners[3])
    if left <= right and top <= bottom:
        pen.rectangle((left, top, right, bottom), fill=_SEEN)
