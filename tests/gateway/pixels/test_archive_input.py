"""What the archive keeps of an instance is all that the pixels room needs, and says the same as another reader."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gateway.pixels.options import PNG, RenderOptions
from gateway.pixels.render import render
from storage.archive import Archive
from storage.dicomjson import unpack_metadata
from storage.errors import GatewayError
from storage.frames import FrameTable
from storage.index import open_index
from storage.model import Source
from storage.objects import open_object_store
from tests.gateway.pixels.part10 import BUNDLED, read

SAMPLES = Path(__file__).parents[3] / "sample_dicom"
FOREIGN = [
    "693_J2KI CT_small MR_small_RLE MR_small_bigendian MR_small_implicit MR_small_padded SC_rgb_rle_32bit_2frame",
    "SC_rgb_small_odd SC_rgb_small_odd_jpeg SC_ybr_full_422_uncompressed examples_palette",
    "examples_ybr_color image_dfl liver_1frame rtdose JPGExtended MR_truncated",
]
PATHS = [*SAMPLES.rglob("*.dcm"), *(BUNDLED / f"{name}.dcm" for line in FOREIGN for name in line.split())]
OPTIONS = RenderOptions(PNG)


def picture(metadata, uid, number, frame) -> bytes | type[GatewayError]:
    try:
        return render(metadata, uid, number, frame, OPTIONS)
    except GatewayError as error:
        return type(error)


@pytest.fixture
def archive(tmp_path):
    opened = Archive(open_object_store(tmp_path / "objects"), open_index(tmp_path / "index.sqlite"))
    yield opened
    opened.close()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_pictures_of_archived_frames_are_those_of_the_file(archive, path):
    with archive.spool() as spool:
        spool.write(path.read_bytes())
        receipt = archive.store(spool, Source("test"))
    document = archive.document(receipt.instance.scope)
    metadata = orjson.loads(unpack_metadata(document.metadata, ""))
    table = FrameTable(document.frame_table)
    source = read(path)
    assert table.number_of_frames == (0 if path.stem == "MR_truncated" else len(source.frames))
    with archive.open(document.instance) as stored:
        for number in sorted({1, table.number_of_frames} if table.number_of_frames else ()):
            kept = picture(metadata, receipt.instance.transfer_syntax_uid, number, stored.frame(table, number))
            assert kept == picture(source.metadata, source.transfer_syntax_uid, number, source.frames[number - 1])
