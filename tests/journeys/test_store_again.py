"""What is given out is taken in: metadata and bulk data of every file, posted to another gateway, make the instance.

pydicom judges: the same elements, the same frames. DCMTK and pydicom themselves make metadata that is posted, too.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import warnings

import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ExplicitVRBigEndian, generate_uid

from tests.fix_corpus import sources
from tests.fix_samples import MANIFEST, SAMPLES
from tests.fix_store import JSON, XML, part, parts_of
from tests.storage.test_dicomxml import in_utf_8

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of values that it would not write

AS_STORED = "application/dicom; transfer-syntax=*"
PIXELS = {0x7FE00010}
NOT_COMPARED = {0x00083002, 0x00080005}  # what metadata has beside a Data Set; text is compared by its characters


def read(raw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(io.BytesIO(raw), force=True)
        str(data_set)
    return data_set


def bulk_of(client, url, uid="", own=""):
    """Bulk data as the resource of an instance gives it out: parts with their media types and locations.

    own: what stands for the SOP Instance UID in those.
    """
    response = client.get(f"{url}/bulkdata", headers={"Accept": 'multipart/related; type="*/*", */*'})
    if response.status_code == 404:
        return []
    assert response.status_code == 200, response.text
    return [part(content, kind, renamed(location, uid, own)) for kind, location, content in parts_of(response)]


def renamed(text, uid, own):
    """A text in which that UID, and none that begins with it, is another one."""
    return re.sub(rf"(?<![\d.]){re.escape(uid)}(?![\d.])", own, text) if uid else text


def frames_of(data_set):
    syntax = UID(data_set.file_meta.TransferSyntaxUID)
    if "PixelData" not in data_set:
        return []
    if syntax == ExplicitVRBigEndian and data_set.BitsAllocated == 16:
        return [np.frombuffer(data_set.PixelData, ">u2").astype("<u2").tobytes()]
    if not syntax.is_encapsulated:
        return [data_set.PixelData]
    number = int(data_set.get("NumberOfFrames") or 1)
    return [codestream(frame) for frame in generate_frames(data_set.PixelData, number_of_frames=number)]


def codestream(frame):
    """Without padding, and without the boxes of a JP2 file that do not belong into DICOM."""
    start = frame.find(b"\xff\x4f\xff\x51") if frame[4:8] == b"jP  " else 0
    return frame[start:].rstrip(b"\0")


def differences(before, after, path=""):
    """Elements that are not the same, by path; text by its characters, whatever set they are written in."""
    for tag in sorted({element.tag for element in before} | {element.tag for element in after}):
        if tag in PIXELS or tag in NOT_COMPARED or tag.element == 0:
            continue
        one, two = before.get(tag), after.get(tag)
        if one is None or two is None:
            yield f"{path}{tag}: {'added' if one is None else 'missing'}"
        elif one.VR == "SQ" and two.VR == "SQ":
            if len(one.value) != len(two.value):
                yield f"{path}{tag}: {len(one.value)} items, {len(two.value)}"
            for number, (first, second) in enumerate(zip(one.value, two.value, strict=False)):
                yield from differences(first, second, f"{path}{tag}/{number}/")
        elif plain(one) != plain(two):
            yield f"{path}{tag} {one.VR}: {str(one.value)[:60]!r}, {str(two.value)[:60]!r}"


def plain(element):
    value = element.value
    if element.VR in ("DS", "IS") and element.value not in (None, ""):
        values = [value] if element.VM == 1 else value
        return [number(one) for one in values]
    if isinstance(value, bytes):
        return value.rstrip(b"\0")
    if isinstance(value, str) or value is None:
        return (value or "").rstrip(" \0")
    if element.VR == "PN":
        return [str(one).rstrip("^=") for one in (value if element.VM > 1 else [value])]
    return [str(one).strip() for one in value] if element.VM > 1 else str(value).strip()


def number(value):
    try:
        return None if value in (None, "") else float(value)
    except ValueError:
        return str(value)


def assert_same(before, after):
    assert list(differences(before, after)) == []
    assert [frame.rstrip(b"\0") for frame in frames_of(before)] == [frame.rstrip(b"\0") for frame in frames_of(after)]


@pytest.mark.parametrize("name", sorted(sources()))
@pytest.mark.parametrize("kind", [JSON, XML])
def test_an_instance_is_the_same_when_its_metadata_and_bulk_data_are_stored_again(corpus, taking, name, kind):
    url = corpus.url_of(name)
    if url is None:
        return
    before = read(corpus.get(url, AS_STORED).content)
    uid, own = before.SOPInstanceUID, generate_uid()  # of its own, so that the first one stored is no answer for others
    if kind == JSON:
        texts = [corpus.get(f"{url}/metadata").content]
    else:
        response = corpus.get(f"{url}/metadata", f'multipart/related; type="{XML}"')
        texts = [content for _, _, content in parts_of(response)]
    texts = [part(renamed(text.decode(), uid, own).encode(), kind) for text in texts]
    answer = taking.post([*texts, *bulk_of(corpus.client, url, uid, own)], kind)
    assert answer.status in (200, 202), (answer.status, answer.words, answer.module)
    assert answer.failed == {}
    assert answer.others == []
    before.SOPInstanceUID = own
    assert_same(before, taking.file(own))


@pytest.mark.parametrize(
    "name", ["patterns_constance/clocks/extended_offset_table.dcm", "us_heart_kovaleva/echo/colour_loop.dcm"]
)
def test_an_instance_is_stored_again_beside_itself_under_new_uids(taking, name):
    before = pydicom.dcmread(SAMPLES / name)
    sent = io.BytesIO()
    before.save_as(sent)
    assert taking.client.post(
        "/studies", content=sent.getvalue(), headers={"Content-Type": "application/dicom"}
    ).is_success
    url = f"/studies/{before.StudyInstanceUID}/series/{before.SeriesInstanceUID}/instances/{before.SOPInstanceUID}"
    (model,) = taking.client.get(f"{url}/metadata").json()
    for tag in ("0020000D", "0020000E", "00080018"):
        model[tag]["Value"] = [generate_uid()]
    answer = taking.post([part([model], JSON), *bulk_of(taking.client, url)])
    assert answer.status == 200, answer.words
    after = taking.file(model["00080018"]["Value"][0])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert after[keyword].value == model[f"{after[keyword].tag:08X}"]["Value"][0]
        after[keyword].value = before[keyword].value
    assert_same(before, after)


UNCOMPRESSED = sorted(
    name for name, row in MANIFEST.items() if not UID(row["transfer_syntax"]).is_compressed and "deflated" not in name
)


@pytest.mark.needs("dcm2json")
@pytest.mark.parametrize("name", UNCOMPRESSED)
def test_what_dcm2json_makes_of_a_file_is_stored(taking, tmp_path, name):
    before = read((SAMPLES / name).read_bytes())
    path = in_utf_8(SAMPLES / name, tmp_path / "one.dcm")
    run = subprocess.run(["dcm2json", path], capture_output=True, check=True)
    model = json.loads(run.stdout)
    before.SOPInstanceUID = generate_uid()
    model["00080018"]["Value"] = [before.SOPInstanceUID]
    answer = taking.post([part(model, JSON)])
    assert answer.status in (200, 202), answer.words
    assert answer.failed == {}
    after = taking.file(before.SOPInstanceUID)
    assert_same(before, after)


LITTLE_ENDIAN = [
    name for name in sorted(MANIFEST) if "big_endian" not in name
]  # pydicom does not turn their bytes round


@pytest.mark.parametrize("name", LITTLE_ENDIAN)
def test_what_pydicom_makes_of_a_file_is_stored(taking, name):
    before = read((SAMPLES / name).read_bytes())
    before.SOPInstanceUID = generate_uid()
    model = {**before.file_meta.to_json_dict(), **before.to_json_dict(bulk_data_threshold=1 << 30)}
    answer = taking.post([part([model], JSON)])
    assert answer.status in (200, 202), answer.words
    assert answer.failed == {}
    assert_same(before, taking.file(before.SOPInstanceUID))
