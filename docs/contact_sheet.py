# ruff: noqa: INP001 - a script
"""Draw docs/contact-sheet.png: everything that is rendered, made by the gateway's own rendering.

The samples, an image in each encoding, each transformation, each way to ask, and the icons. Run from the root of the
repository, with DCMTK installed: ``python -m docs.contact_sheet``. ``docs.rendering_table`` says how right they are.
"""

from __future__ import annotations

import io
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw

from gateway.pixels.annotation import annotated
from gateway.pixels.icons import Icon, icon
from gateway.pixels.options import PNG, Annotation, RenderOptions, Viewport
from gateway.pixels.render import render
from storage.errors import Undecodable
from tests.gateway.pixels.asked import WAYS
from tests.gateway.pixels.part10 import Source, handed_over, read
from tests.gateway.pixels.reference import decoded
from tests.gateway.pixels.specimens import FEATURE_SPECIMENS, SPECIMENS, Specimen
from tests.gateway.pixels.subjects import COLUMNS, FEATURES, ROWS, SUBJECTS

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_dicom"
TARGET = ROOT / "docs" / "contact-sheet.png"
WIDTH, GAP, LINE = 2_400, 6, 12
BACKGROUND, REFUSED = "#5a6570", "#a03030"
SIDE = 128
SHOWN_IN_ALL_WAYS = ("ct_stack/slice_11", "echo/still_fragments", "segmentation/masks")


@dataclass(frozen=True)
class Tile:
    """One picture, and what is written below it."""

    picture: Image.Image
    caption: str = ""


def shown(source: Source, number: int, options: RenderOptions) -> Image.Image:
    """A frame by its number, from 1; an icon for what is no image, if a thumbnail is asked for."""
    frame = source.frames[number - 1] if source.frames else b""
    return opened(render(source.metadata, source.transfer_syntax_uid, number, frame, options))


def opened(data: bytes) -> Image.Image:
    """The picture as RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def samples() -> Iterator[Tile]:
    """A thumbnail of the middle frame of each."""
    options = RenderOptions(PNG, is_thumbnail=True, viewport=Viewport(SIDE, SIDE))
    for path in sorted(SAMPLES.rglob("*.dcm")):
        source = handed_over(read(path))
        yield Tile(shown(source, len(source.frames) // 2 + 1, options), f"{path.parent.name}\n{path.stem}")


def encoded(specimen: Specimen, folder: Path) -> Image.Image:
    """A specimen in its own size; a red field where it is refused."""
    try:
        return shown(handed_over(read(specimen.write(folder))), 1, RenderOptions(PNG))
    except Undecodable:
        return Image.new("RGB", (COLUMNS, ROWS), REFUSED)


def encodings(folder: Path) -> Image.Image:
    """A row for each transfer syntax, a column for each subject; nothing where there is no such file."""
    syntaxes = list(dict.fromkeys(specimen.syntax for specimen in SPECIMENS))
    subjects = [key for key in SUBJECTS if key not in FEATURES]
    left, top = 230, 3 * LINE
    across, down = COLUMNS + 4, ROWS + 4
    grid = Image.new("RGB", (left + len(subjects) * across, top + len(syntaxes) * down), BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for number, key in enumerate(subjects):
        draw.text((left + number * across, 0), key.replace(" ", "\n"), "white", font_size=10, spacing=1)
    for number, syntax in enumerate(syntaxes):
        draw.text((0, top + number * down + ROWS // 2 - 6), syntax, "white", font_size=9)
    for specimen in SPECIMENS:  # of several of a subject, the last one
        place = left + subjects.index(specimen.subject) * across, top + syntaxes.index(specimen.syntax) * down
        grid.paste(encoded(specimen, folder), place)
    return grid


def transformations(folder: Path) -> Iterator[Tile]:
    """Each in its own size."""
    for specimen in FEATURE_SPECIMENS:
        yield Tile(encoded(specimen, folder), specimen.of.variant)


def ways() -> Iterator[Tile]:
    """Each way to ask, of a few samples; then what is written on them."""
    for name in SHOWN_IN_ALL_WAYS:
        (path,) = SAMPLES.rglob(f"{name}.dcm")
        source = handed_over(read(path))
        number = len(source.frames) // 2 + 1
        stored = decoded(source.data_set, number)
        for way in WAYS:
            picture = shown(source, number, way.options(source.data_set, number, stored))
            yield Tile(_fitted(picture), f"{way.name}\n{picture.width} x {picture.height}")
        options = RenderOptions(PNG, annotation=tuple(Annotation), viewport=Viewport(SIDE, SIDE))
        said = source.metadata | annotated(source.metadata, Annotation, number)
        yield Tile(_fitted(shown(replace(source, metadata=said), number, options)), "annotation")


def _fitted(picture: Image.Image) -> Image.Image:
    """Of its own size where there is room."""
    made = picture.copy()
    made.thumbnail((SIDE, SIDE))
    return made


def icons() -> Iterator[Tile]:
    """All kinds."""
    options = RenderOptions(PNG, is_thumbnail=True, viewport=Viewport(SIDE // 2, SIDE // 2))
    for kind in Icon:
        yield Tile(opened(icon(kind, options)), kind.value)


def rows(title: str, tiles: list[Tile], width: int) -> Image.Image:
    """Tiles side by side, each over its caption, below a title."""
    height = max(tile.picture.height for tile in tiles)
    captions = [_wrapped(tile.caption, width) for tile in tiles]
    lines = max(caption.count("\n") + 1 for caption in captions)
    across, down = width + GAP, height + lines * LINE + GAP
    columns = max(1, (WIDTH - GAP) // across)
    sheet = Image.new("RGB", (WIDTH, 2 * LINE + GAP + -(-len(tiles) // columns) * down), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, "white", font_size=16)
    for number, tile in enumerate(tiles):
        left, top = GAP + number % columns * across, 2 * LINE + GAP + number // columns * down
        place = left + (width - tile.picture.width) // 2, top + (height - tile.picture.height) // 2
        sheet.paste(tile.picture, place)
        draw.text((left, top + height + 1), captions[number], "white", font_size=10, spacing=1)
    return sheet


def _wrapped(caption: str, width: int) -> str:
    """In lines of about as many letters of 10 pixels as there is room for."""
    return "\n".join(part for line in caption.split("\n") for part in textwrap.wrap(line, max(8, width * 2 // 11)))


def contact_sheet(folder: Path) -> Image.Image:
    """All parts, one below the other."""
    grid = encodings(folder)
    parts = [
        rows("Samples", list(samples()), SIDE),
        rows("Encodings: transfer syntax by pixels", [Tile(grid)], grid.width),
        rows("Transformations", list(transformations(folder)), 112),
        rows("Ways to ask", list(ways()), 150),
        rows("Icons", list(icons()), SIDE // 2),
    ]
    sheet = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), BACKGROUND)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def main() -> None:
    """Write the sheet."""
    with tempfile.TemporaryDirectory() as folder:
        contact_sheet(Path(folder)).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
