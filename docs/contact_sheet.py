# ruff: noqa: INP001 - a script
"""Draw docs/contact-sheet.png: a thumbnail of every sample, made by the gateway's own rendering.

Run from the root of the repository: ``python -m docs.contact_sheet``; with ``--compare`` it also prints, for the first
and last frame of every sample, how alike its picture is to that of an independent renderer (PSNR in dB).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from gateway.pixels.options import PNG, RenderOptions, Viewport
from gateway.pixels.render import render
from tests.gateway.pixels.judge import compared
from tests.gateway.pixels.part10 import Source, read

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_dicom"
TARGET = ROOT / "docs" / "contact-sheet.png"
SIDE, CAPTION, GAP, COLUMNS = 128, 26, 6, 10
OPTIONS = RenderOptions(PNG, is_thumbnail=True, viewport=Viewport(SIDE, SIDE))


def thumbnail(source: Source) -> Image.Image:
    """The middle frame; an icon for what is no image."""
    number = len(source.frames) // 2 + 1
    frame = source.frames[number - 1] if source.frames else b""
    data = render(source.metadata, source.transfer_syntax_uid, number, frame, OPTIONS)
    return Image.open(io.BytesIO(data)).convert("RGB")


def contact_sheet(paths: list[Path]) -> Image.Image:
    """The thumbnails in rows, each over its series and file name."""
    rows = -(-len(paths) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP), "#5a6570")
    draw = ImageDraw.Draw(sheet)
    for number, path in enumerate(paths):
        left = GAP + number % COLUMNS * (SIDE + GAP)
        top = GAP + number // COLUMNS * (SIDE + CAPTION + GAP)
        picture = thumbnail(read(path))
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        draw.text(
            (left, top + SIDE + 1), f"{path.parent.name[:21]}\n{path.stem[:21]}", "white", font_size=10, spacing=1
        )
    return sheet


def main() -> None:
    """Write the sheet, and print the comparison where it is asked for."""
    paths = sorted(SAMPLES.rglob("*.dcm"))
    contact_sheet(paths).save(TARGET, optimize=True)
    if "--compare" in sys.argv:
        for path in paths:
            source = read(path)
            for number in sorted({1, len(source.frames)} if source.frames else ()):
                judge, psnr = compared(source, number)
                print(f"{path.relative_to(SAMPLES)!s:64} frame {number:3} {judge:9} {psnr:6.1f} dB")  # noqa: T201


if __name__ == "__main__":
    main()
