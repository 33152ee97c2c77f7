"""Re-encoding to Explicit and Implicit VR Little Endian, judged by pydicom and DCMTK."""

from __future__ import annotations

import io
import subprocess
import warnings
from pathlib import Path

import numpy as np
import orjson
import pydicom
import pytest

from storage.dataset import read_data_set
from storage.dictionary import dictionary_vr
from storage.errors import GatewayError
from storage.filemeta import Announcement, canonical_header, read_file_meta
from storage.reencoding import Pixels, little_endian_data_set
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, transfer_syntax
from tests import synthetic
from tests.storage.test_dataset import readable_files

SAMPLES = Path(__file__).parents[2] / "sample_dicom"


def native_files():
    found = []
    for path in [*readable_files(), *sorted(SAMPLES.rglob("*.dcm"))]:
        announcement, start = read_file_meta(path.read_bytes())
        syntax = transfer_syntax(announcement.transfer_syntax_uid)
        if not (syntax.is_encapsulated or syntax.is_deflated):
            found.append(pytest.param(path, start, syntax, id=path.name))
    return found


def reencoded(raw, syntax, *, to_implicit=False, pixels=None):
    read = lambda start, end: raw[start:end]  # noqa: E731 - as short as it gets
    return b"".join(little_endian_data_set(read, len(raw), syntax, to_implicit=to_implicit, pixels=pixels))


def without_places(json):
    return orjson.loads(orjson.dumps({tag: one for tag, one in json.items() if "BulkDataURI" not in one}))


@pytest.mark.parametrize(("path", "start", "syntax"), native_files())
def test_every_element_and_pixel_is_the_same_afterwards(path, start, syntax):
    raw = path.read_bytes()[start:]
    try:
        before = read_data_set(raw, 0, syntax)
    except GatewayError:
        return  # such a file is never stored
    again = reencoded(raw, syntax)
    after = read_data_set(again, 0, transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN))
    if not any(one.get("vr") == "SQ" and "0001" in tag for tag, one in before.json.items()):
        assert without_places(before.json) == without_places(after.json)
    header = canonical_header(Announcement("1.2", "1.3", EXPLICIT_VR_LITTLE_ENDIAN))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, theirs = pydicom.dcmread(io.BytesIO(header + again)), pydicom.dcmread(path, force=True)
        assert set(mine.keys()) == {tag for tag in theirs.keys() if tag.element}  # noqa: SIM118 - Data Sets iterate values
        # 32-bit words in big endian OW are read by pydicom as one word, by the standard and DCMTK as two.
        if "PixelData" in theirs and "truncated" not in path.name and "expb" not in path.name:
            try:
                expected = theirs.pixel_array
            except (AttributeError, ValueError):
                return
            assert np.array_equal(mine.pixel_array, expected)


@pytest.mark.parametrize(("path", "start", "syntax"), native_files())
def test_implicit_vr_holds_the_same_values(path, start, syntax):
    raw = path.read_bytes()[start:]
    try:
        read_data_set(raw, 0, syntax)
    except GatewayError:
        return  # such a file is never stored
    explicit, implicit = reencoded(raw, syntax), reencoded(raw, syntax, to_implicit=True)
    assert implicit == reencoded(implicit, transfer_syntax(IMPLICIT_VR_LITTLE_ENDIAN), to_implicit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, theirs = (
            pydicom.dcmread(io.BytesIO(canonical_header(Announcement("1.2", "1.3", uid)) + content))
            for uid, content in ((IMPLICIT_VR_LITTLE_ENDIAN, implicit), (EXPLICIT_VR_LITTLE_ENDIAN, explicit))
        )
        assert mine.keys() == theirs.keys()
        for tag in mine.keys():  # noqa: SIM118 - Data Sets iterate values
            if dictionary_vr(tag) not in ("UN", "SQ", ""):
                assert mine[tag].value == theirs[tag].value, tag


@pytest.mark.needs("dcmconv")
@pytest.mark.parametrize(("path", "start", "syntax"), [one for one in native_files() if "expb" in str(one.id)])
def test_big_endian_words_turn_as_dcmtk_turns_them(path, start, syntax, tmp_path):
    subprocess.run(["dcmconv", "+te", path, tmp_path / "theirs.dcm"], check=True)
    theirs = pydicom.dcmread(tmp_path / "theirs.dcm").PixelData
    again = reencoded(path.read_bytes()[start:], syntax)
    place = read_data_set(again, 0, transfer_syntax(EXPLICIT_VR_LITTLE_ENDIAN)).bulk["7FE00010"]
    assert again[place.start : place.end] == theirs


TRAILING = (synthetic.element(0xFFFAFFFA, "SQ", b""), synthetic.element(0xFFFCFFFC, "OB", bytes(20)))
BEHIND = (synthetic.element(0x7FE10010, "LO", "Behind"), synthetic.element(0x7FE11001, "LO", "kept"))
NATIVE = synthetic.element(0x7FE00010, "OW", bytes(64))
ENCAPSULATED = synthetic.encapsulated([b"\xff\xd8" + bytes(60) + b"\xff\xd9"])


@pytest.mark.parametrize("to_implicit", [False, True])
@pytest.mark.parametrize(
    ("uid", "stored"), [(EXPLICIT_VR_LITTLE_ENDIAN, NATIVE), ("1.2.840.10008.1.2.4.50", ENCAPSULATED)]
)
def test_what_lies_behind_the_pixels_is_kept_but_for_signatures_and_padding(uid, stored, to_implicit):
    raw = synthetic.data_set(extra=(*synthetic.image_elements(8, 8), stored, *BEHIND, *TRAILING))
    pixels = Pixels(iter([bytes(range(64))]), 1, 64, "OB", {0x00280004: ("CS", b"RGB ")})
    again = reencoded(raw, transfer_syntax(uid), to_implicit=to_implicit, pixels=pixels)
    written = IMPLICIT_VR_LITTLE_ENDIAN if to_implicit else EXPLICIT_VR_LITTLE_ENDIAN
    made = pydicom.dcmread(io.BytesIO(canonical_header(Announcement("1.2", "1.3", written)) + again))
    assert made.PixelData == bytes(range(64))
    assert made.PhotometricInterpretation == "RGB"
    assert made[0x7FE11001].value in ("kept", b"kept")
    assert max(made.keys()) == 0x7FE11001
