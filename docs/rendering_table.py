# ruff: noqa: INP001 - a script
"""Write docs/rendering.md: what can be rendered, and how alike the pictures are to those of independent judges.

Run from the root of the repository, with DCMTK installed: ``python -m docs.rendering_table``.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from gateway.dicomweb.responses import STATUS
from gateway.pixels.decode import DECODERS
from storage.uids import TRANSFER_SYNTAXES
from tests.gateway.pixels.asked import WAYS, Asked
from tests.gateway.pixels.reference import psnr_db
from tests.gateway.pixels.specimens import FEATURE_SPECIMENS, SPECIMENS, Specimen
from tests.gateway.pixels.synthetic import element
from tests.gateway.pixels.verdicts import Likeness, Verdict, opened, picture, verdict

TARGET = Path(__file__).parent / "rendering.md"
FULL_RANGE = {
    "t00281050": element("DS", 127.5),
    "t00281051": element("DS", 255),
    "t00281056": element("CS", "LINEAR_EXACT"),
}
# One specimen of each kind of pixels and of each decoder.
SHOWN_IN_ALL_WAYS = (
    "ExplicitVRLittleEndian MONOCHROME2 1/1",
    "ExplicitVRLittleEndian MONOCHROME2 12/16",
    "ExplicitVRLittleEndian MONOCHROME2 32/32 floating point",
    "ExplicitVRLittleEndian MONOCHROME2 12/16 pixels twice as high as wide",
    "ExplicitVRLittleEndian MONOCHROME2 12/16 overlay",
    "ExplicitVRBigEndian MONOCHROME1 16/16",
    "DeflatedExplicitVRLittleEndian YBR_FULL_422 8/8",
    "RLELossless PALETTE COLOR 16/16 16-bit palette",
    "JPEGLosslessSV1 MONOCHROME2 12/16 signed",
    "JPEGLSLossless RGB 8/8 by plane",
    "JPEG2000Lossless YBR_RCT 8/8",
    "HTJ2KLossless MONOCHROME2 16/16 signed",
    "JPEGXLLossless RGB 16/16",
)
_COLUMNS = ("transfer syntax", "photometric interpretation", "bits", "of it", "result", "PS3.3", "DCMTK")
_CELLS = re.compile(r"^\| (\w+) \| ([^|]+) \| (\d+/\d+) \| ([^|]*?) ?\| ([^|]+) \|[^|]+\|[^|]+\|$", re.MULTILINE)

_INTRODUCTION = """\
# Rendering, by encoding

Which pictures `rendered` makes, and how alike they are to those of two judges that share no code with the gateway.
`PS3.3` is the picture that the formulas of the standard give (PS3.3 §C.7.6.3.1.2, §C.7.9, §C.11) for the values that
were encoded; `DCMTK` is that of its `dcmj2pnm` or `dcml2pnm`, or – where they cannot decode the file or do not know a
transformation. The files are made by pydicom, DCMTK, imagecodecs and Pillow. `python -m docs.rendering_table` writes
this page; `tests/gateway/pixels/test_reference.py` demands what it says, and judges the samples and what pydicom and
pynetdicom bundle in the same way. `contact-sheet.png` shows the pictures.

* *exact*: every sample is the nearest of the 256 levels; else the peak signal to noise ratio of the two pictures.
* DCMTK rounds greys down: where there are more than 256, half of them are one level darker, which makes 50 to 55 dB,
  and never more than one level. It mixes YBR in whole numbers: up to two levels.
* 16-bit entries of palettes are cut to their upper byte, as DCMTK does; the nearest level may be one higher.
* JPEG with half of the chroma differs most from what was encoded, at the edges of pure colours; its decoder makes of it
  the same as DCMTK's.
* Bits are those stored in those allocated. A result that is no pass is the answer that a client gets.

"""


def result(found: Verdict) -> str:
    """``pass``, or the answer that a client gets."""
    if found.refusal is None:
        return "pass"
    kind, reason = found.refusal
    return f"{STATUS[kind]}: {reason}"


@cache
def committed() -> dict[tuple[str, str, str, str], str]:
    """The results that the page has, by transfer syntax, photometric interpretation, bits and what else there is."""
    rows = _CELLS.findall(TARGET.read_text(encoding="utf-8"))
    return {(syntax, photometric, bits, variant): found for syntax, photometric, bits, variant, found in rows}


def _overview(found: Iterable[Verdict]) -> Iterator[str]:
    """Files that pass, of how many, and the lowest likeness of each kind."""
    yield "| transfer syntax | files | pass | PS3.3, the least | DCMTK, the least |\n|---|---|---|---|---|\n"
    by_syntax: dict[str, list[Verdict]] = {}
    for one in found:
        by_syntax.setdefault(one.specimen.syntax, []).append(one)
    for syntax, rows in by_syntax.items():
        shown = [one for one in rows if one.refusal is None]
        least = [_least(getattr(one, judge) for one in shown) for judge in ("reference", "dcmtk")]
        yield f"| {syntax} | {len(rows)} | {len(shown)} | {least[0]} | {least[1]} |\n"


def _least(found: Iterable[Likeness | None]) -> str:
    known = [one for one in found if one is not None]
    return str(min(known, key=lambda one: one.db)) if known else "–"


def _table(found: Iterable[Verdict]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|\n"
    for one in found:
        judged = [str(likeness) if likeness else "–" for likeness in (one.reference, one.dcmtk)]
        yield "| " + " | ".join((*one.specimen.row, result(one), *judged)).replace("|  |", "| |") + " |\n"


def _ways(folder: Path) -> Iterator[str]:
    """The least likeness of each way to ask, over ``SHOWN_IN_ALL_WAYS``."""
    yield "| asked for | PS3.3, the least | of |\n|---|---|---|\n"
    chosen = {specimen.name: specimen for specimen in (*SPECIMENS, *FEATURE_SPECIMENS)}
    for way in WAYS:
        least, name = min((_likeness(way, chosen[name], folder), name) for name in SHOWN_IN_ALL_WAYS)
        yield f"| {way.name} | {'exact' if math.isinf(least) else f'{least:.1f} dB'} | {name} |\n"


def _likeness(way: Asked, specimen: Specimen, folder: Path) -> float:
    stored = specimen.of.stored
    ours = picture(opened(specimen.write(folder)), 1, way, stored)
    return psnr_db(ours, way.expected(specimen.judged(), 1, stored))


def page(folder: Path) -> str:
    """The whole page, from files made in ``folder``."""
    encodings = [verdict(specimen, folder) for specimen in SPECIMENS]
    features = [verdict(specimen, folder) for specimen in FEATURE_SPECIMENS]
    without = [f"`{row.keyword}`" for uid, row in TRANSFER_SYNTAXES.items() if uid not in DECODERS]
    return "".join(
        (
            _INTRODUCTION,
            *_overview(encodings),
            "\nFrames of other transfer syntaxes are not decoded: ",
            ", ".join(without),
            ".\n\n## Ways to ask\n\n",
            "Of one file of each kind. What is scaled is compared with exact filters, Lanczos' and Catmull-Rom's.\n\n",
            *_ways(folder),
            "\n## Transformations\n\n",
            *_table(features),
            "\n## Encodings\n\n",
            *_table(encodings),
        )
    )


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        TARGET.write_text(page(Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
