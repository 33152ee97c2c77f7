"""JPEG 2000 and HTJ2K frames, through OpenJPEG. PS3.5 §A.4.4, §8.2.4.

The codestream's own size is compared with the description before a decoder sees it (H15).
"""

from __future__ import annotations

import numpy as np

from gateway.pixels.codestreams import Codestream
from gateway.pixels.description import PixelDescription
from gateway.pixels.native import Pixels, of_cells
from storage.errors import Undecodable

_LOSSLESS = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in ("90", "201", "202"))


def decode_jpeg2000(description: PixelDescription, frame: bytes) -> Pixels:
    """Stored values; colour is RGB wherever the codestream transforms its components, else as it is stored.

    A codestream without its end is refused: OpenJPEG runs strictly. Raises Undecodable.
    """
    header = Codestream.of(frame)
    if (header.rows, header.columns, header.components) != (
        description.rows,
        description.columns,
        description.samples_per_pixel,
    ):
        raise Undecodable("The size of the codestream is not that of the description")
    if header.precision > description.bits_allocated:
        raise Undecodable("The codestream has more bits than the description")
    # A third of a worker's start and a tenth of its memory, which most pictures can do without.
    from openjpeg.utils import decode as decode_codestream  # noqa: PLC0415

    try:
        values: Pixels = decode_codestream(frame[header.start :], j2k_format=0)
    except (RuntimeError, ValueError):
        raise Undecodable("The JPEG 2000 codestream is damaged or truncated") from None
    shape = (header.rows, header.columns) if header.components == 1 else (header.rows, header.columns, 3)
    if values.shape != shape:
        raise Undecodable("The decoded image is not as large as its codestream says")
    if header.is_signed != bool(description.pixel_representation):
        # The values are right, their sign is not: read the same bits as the description has them. PS3.5 §8.2.4
        letter = "i" if description.pixel_representation else "u"
        unused = 8 * values.dtype.itemsize - header.precision
        values = (values.view(f"{letter}{values.dtype.itemsize}") << unused) >> np.uint8(unused)
    is_cell = header.precision > max(description.high_bit, description.bits_stored)
    return of_cells(values, description) if is_cell and description.transfer_syntax_uid in _LOSSLESS else values
