"""A frame becomes a picture: decode, modality, VOI, polarity or palette, overlays, region, scale, encode.

In this order; a thumbnail has no overlays, and a presentation state has steps of its own, see ``softcopy``. Pure and
bounded by the limits of ``description`` and ``options``; to be run in ``pool``, as it decodes what strangers sent.
PS3.4 §N.2, PS3.18 §8.3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from gateway.pixels.decode import decode, decode_stored, keeps_all_bits, whole
from gateway.pixels.description import Frame, PixelDescription, has_burned_in_annotation, has_pixels
from gateway.pixels.elements import DataSet, values_of
from gateway.pixels.icc import profiled
from gateway.pixels.icons import encode, icon, icon_kind
from gateway.pixels.lettering import write_corners
from gateway.pixels.luts import colour, grey, palette_colour
from gateway.pixels.native import Pixels
from gateway.pixels.options import (
    MAXIMUM_OUTPUT_SIDE_PIXELS,
    THUMBNAIL_SIDE_PIXELS,
    Annotation,
    Region,
    RenderOptions,
    Viewport,
    Window,
)
from gateway.pixels.overlays import Overlay, overlays
from gateway.pixels.planes import draw, points_of
from gateway.pixels.softcopy import Softcopy
from storage.errors import BadRequest

__all__ = ["RenderOptions", "Viewport", "Window", "render"]

# How much larger than the result the image may be that the filter sees; what is larger yet is averaged before.
_REDUCING_GAP = 3.0  # Pillow's own advice for a result that looks like the filter's
_THUMBNAIL_REDUCING_GAP = 1.0  # five times as fast, and hardly to be told from the other in so small a picture


def render(
    metadata: DataSet, transfer_syntax_uid: str, frame_number: int, frame: Frame, options: RenderOptions
) -> bytes:
    """The frame as JPEG, PNG or GIF of 8 bits per sample.

    Square pixels: those of another shape are stretched along their longer side. A thumbnail of an object that is no
    image, or that says its pixels show the patient's identity, is an icon. Raises NotFound for no image or no such
    frame, TooLarge, Undecodable, and BadRequest for a region outside the image.
    """
    if options.is_thumbnail and (has_burned_in_annotation(metadata) or not has_pixels(metadata)):
        return icon(icon_kind(metadata), options)
    description = PixelDescription.of(metadata, transfer_syntax_uid, frame_number)
    softcopy = Softcopy.of(metadata, description, options)
    image = _drawn(metadata, description, frame, options) if softcopy is None else _presented(softcopy, frame)
    if options.annotation:
        lines = [list(map(str, values_of(metadata, kind.value))) for kind in Annotation]
        write_corners(image, *lines)
    image, profile = profiled(image, metadata, options.icc_profile)
    return encode(image, options, profile)


def _drawn(metadata: DataSet, description: PixelDescription, frame: Frame, options: RenderOptions) -> Image.Image:
    """The frame as the object itself wants it."""
    box = _region(description, options)
    shown = display(description, decode(description, frame), options.window)
    if not options.is_thumbnail:  # what lies over it may name the patient
        points = _points(description, frame)
        for overlay in overlays(metadata, description):
            if not shown.flags.writeable:  # colours of 8 bits are the frame itself
                shown = shown.copy()
            draw(shown, overlay, points(overlay))
    return _fitted(Image.fromarray(shown), description, options, box)


def _presented(softcopy: Softcopy, frame: Frame) -> Image.Image:
    """The frame as a presentation state wants it. PS3.4 §N.2"""
    description = softcopy.description
    box = _region(softcopy.shown, softcopy.options)
    shown = Image.fromarray(display(description, decode(description, frame), softcopy.options.window))
    area = softcopy.displayed(shown, _points(description, frame))
    return softcopy.annotated(_fitted(area, softcopy.shown, softcopy.options, box), box)


def display(description: PixelDescription, values: Pixels, window: Window | None = None) -> Pixels:
    """The decoded frame as it is to be seen: (rows, columns) of greys or (rows, columns, 3) of RGB, 8 bits."""
    if description.palette is not None:
        return palette_colour(values, description.palette)
    if description.is_monochrome:
        return grey(values, description, window)
    return colour(values, description.bits_stored)


def _points(description: PixelDescription, frame: Frame) -> Callable[[Overlay], Pixels]:
    """What gives the points of an overlay; none where compression left out the bits that it was in. PS3.5 §8.1.2"""

    @cache
    def all_bits() -> Pixels:
        values, _ = decode_stored(whole(description), frame)
        return values.view(f"u{values.dtype.itemsize}")

    def points(overlay: Overlay) -> Pixels:
        if not overlay.is_embedded:
            return points_of(overlay)
        if not keeps_all_bits(description):
            return np.zeros((0, 0), np.uint8)
        found: Pixels = all_bits()[: overlay.rows, : overlay.columns] >> overlay.bit_position & 1
        return found

    return points


def _region(description: PixelDescription, options: RenderOptions) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is shown, in source pixels. PS3.18 §8.3.5.1.3"""
    region = (options.viewport and options.viewport.region) or Region()
    if region.is_relative and region.width is not None and region.height is not None:
        left, top = region.x * description.columns, region.y * description.rows
        return left, top, left + region.width * description.columns, top + region.height * description.rows
    width = description.columns - region.x if region.width is None else abs(region.width)
    height = description.rows - region.y if region.height is None else abs(region.height)
    right, bottom = region.x + width, region.y + height
    if width <= 0 or height <= 0 or right > description.columns or bottom > description.rows:
        raise BadRequest("The region of the parameter viewport lies outside the image")
    return region.x, region.y, right, bottom


def _fitted(
    image: Image.Image, description: PixelDescription, options: RenderOptions, box: tuple[float, float, float, float]
) -> Image.Image:
    """The region of the image, mirrored as asked, at its size."""
    size = _size(box, description.pixel_aspect, options)
    if size != image.size or box != (0, 0, *image.size):
        gap = _THUMBNAIL_REDUCING_GAP if options.is_thumbnail else _REDUCING_GAP
        image = image.resize(size, _filter(description, size, box), box=box, reducing_gap=gap)
    region = options.viewport and options.viewport.region
    if region and region.width is not None and region.width < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if region and region.height is not None and region.height < 0:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


def _size(box: tuple[float, float, float, float], pixel_aspect: float, options: RenderOptions) -> tuple[int, int]:
    """Width and height of the picture in square pixels: natural, or the largest that fits in the viewport."""
    width = (box[2] - box[0]) * max(1.0, 1 / pixel_aspect)
    height = (box[3] - box[1]) * max(1.0, pixel_aspect)
    viewport = options.viewport
    if viewport is None and options.is_thumbnail:
        viewport = Viewport(THUMBNAIL_SIDE_PIXELS, THUMBNAIL_SIDE_PIXELS)
    sides = (viewport.width, viewport.height) if viewport else (None, None)
    scales = [side / length for side, length in zip(sides, (width, height), strict=True) if side is not None]
    scale = min([*(scales or (1.0,)), MAXIMUM_OUTPUT_SIDE_PIXELS / max(width, height)])
    return max(1, round(width * scale)), max(1, round(height * scale))


def _filter(
    description: PixelDescription, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Resampling:
    """Smooth, with less ringing where it shows most; a mask of single bits keeps hard edges when it grows."""
    is_larger = size[0] >= box[2] - box[0] and size[1] >= box[3] - box[1]
    if description.bits_stored == 1:
        return Image.Resampling.NEAREST if is_larger else Image.Resampling.BOX
    return Image.Resampling.BICUBIC if is_larger else Image.Resampling.LANCZOS
