"""All that pydicom bundles and all samples, fetched in every transfer syntax that there is of each, over HTTP and by
C-MOVE: judged by pydicom and DCMTK, which decode the original themselves.
"""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import UID

from gateway.pixels.codecs import HTJ2K_LOSSLESS, JPEG_2000_LOSSLESS, JPEG_LS_LOSSLESS
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN as EXPLICIT
from storage.uids import RLE_LOSSLESS
from tests.fix_corpus import sources

TARGETS = {
    "plain": EXPLICIT,
    "RLE": RLE_LOSSLESS,
    "JPEG-LS": JPEG_LS_LOSSLESS,
    "JPEG 2000": JPEG_2000_LOSSLESS,
    "HTJ2K": HTJ2K_LOSSLESS,
}
DCMTK = {
    "1.2.840.10008.1.2.5": ["dcmdrle"],
    "1.2.840.10008.1.2.4.8": ["dcmdjpls"],
    "1.2.840.10008.1.2.4.": ["dcmdjpeg"],
}


def images():
    """Files with pixels, by name."""
    found = {}
    for name, file in sources().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data_set = dcmread(file.path, force=True, stop_before_pixels=True)
        if "Rows" in data_set and file.transfer_syntax and "StudyInstanceUID" in data_set:
            found[name] = file
    return found


IMAGES = images()


def decoded(raw):
    """All stored values by pydicom; None where it has no decoder, or none for such a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data_set = dcmread(BytesIO(raw), force=True)
            return pixel_array(data_set, raw=True), data_set
    except Exception as error:  # noqa: BLE001 - whatever it says: it does not decode it
        return None, str(error)


def decoded_by_dcmtk(raw, syntax, folder):
    """Pixel Data without compression as DCMTK has it; None where it cannot."""
    program = next((words for prefix, words in DCMTK.items() if syntax.startswith(prefix)), None)
    if program is None:
        return None
    source, target = folder / "source.dcm", folder / "target.dcm"
    source.write_bytes(raw)
    # +cn: as stored, without a change of colours
    words = [*program, *(["+cn"] if program == ["dcmdjpeg"] else []), source, target]
    run = subprocess.run(words, capture_output=True, check=False, timeout=120)
    return decoded(target.read_bytes())[0] if run.returncode == 0 else None


def part10(raw):
    return dcmread(BytesIO(raw), force=True)


@pytest.mark.needs("dcmdrle", "dcmdjpls", "dcmdjpeg")
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_the_same_pixels_in_every_transfer_syntax(name, corpus, tmp_path):
    file = corpus.files[name]
    url = corpus.url_of(name)
    if url is None:
        pytest.skip("the archive has refused this file")  # which ones, the push journey says
    original = corpus.get(url, "application/dicom; transfer-syntax=*")
    assert original.status_code == 200
    expected, theirs = decoded(original.content)
    compared = 0
    plain = None
    for target, uid in TARGETS.items():
        answer = corpus.get(url, f"application/dicom; transfer-syntax={uid}")
        if answer.status_code == 406:
            assert "available" in answer.json()["reason"], target
            continue
        assert answer.status_code == 200, (target, answer.text)
        assert answer.headers["content-type"] == f"application/dicom; transfer-syntax={uid}"
        made = part10(answer.content)
        assert made.file_meta.TransferSyntaxUID == uid
        ours, _ = decoded(answer.content)
        if target == "plain":
            plain = ours
            if ours is None:  # pydicom reads neither: what says how large the image is, is broken
                assert expected is None, theirs
                return
            if original.headers["content-type"] != answer.headers["content-type"]:
                _compare_elements(theirs, made)
                if UID(file.transfer_syntax).is_encapsulated and made.get("PlanarConfiguration") is not None:
                    assert made.PlanarConfiguration == 0
        if ours is None and uid == JPEG_LS_LOSSLESS:
            ours = decoded_by_dcmtk(answer.content, uid, tmp_path)
        assert ours is not None, target
        assert plain is None or np.array_equal(ours, plain), target
        compared += 1
    if plain is None:
        return
    assert compared >= 1
    lossy_colour = UID(file.transfer_syntax).is_encapsulated and plain.ndim >= 3 and plain.shape[-1] == 3
    judges = {"pydicom": expected, "DCMTK": decoded_by_dcmtk(original.content, file.transfer_syntax, tmp_path)}
    for judge, values in judges.items():
        if values is not None and not (lossy_colour and ".4.5" in file.transfer_syntax):
            assert np.array_equal(_values(values), _values(plain)), judge


def _values(array):
    """As numbers, whatever their width: a decoder may say that 12 bits are signed 16."""
    return array.astype(np.float64)


def _compare_elements(original, made):
    """All but the pixels, and what says how they are encoded, is as it was."""
    said_otherwise = {0x00280004, 0x00280006, 0x00282110, 0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00010}
    if isinstance(original, str):
        return
    tags = {element.tag for element in original if element.tag.element}
    dropped = {tag for tag in tags if tag > 0x7FE00010}
    assert {element.tag for element in made} - said_otherwise == tags - said_otherwise - dropped
    for tag in tags - said_otherwise - dropped:
        assert _text(made[tag]) == _text(original[tag]), tag


def _text(element):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break rules
        return re.sub(r"\s+", " ", str(element.value))


@pytest.mark.parametrize("name", IMAGES)
def test_each_frame_is_the_frame_that_an_independent_decoder_finds(name, corpus):
    file = corpus.files[name]
    url = corpus.url_of(name)
    if url is None:
        pytest.skip("the archive has refused this file")
    answer = corpus.get(url, f"application/dicom; transfer-syntax={EXPLICIT}")
    if answer.status_code != 200:
        return
    plain, data_set = decoded(answer.content)
    if plain is None:
        return  # as above
    count = int(data_set.get("NumberOfFrames") or 1)
    if data_set.BitsAllocated == 1 or data_set.PhotometricInterpretation == "YBR_FULL_422":
        return  # packed: the tests of frames have them
    frames = plain if count > 1 else plain[None]
    for number in {1, count}:
        got = corpus.get(f"{url}/frames/{number}", f"application/octet-stream; transfer-syntax={EXPLICIT}")
        assert got.status_code == 200, got.text
        values = frames[number - 1]
        if data_set.get("PlanarConfiguration") == 1 and not UID(file.transfer_syntax).is_encapsulated:
            values = values.transpose(2, 0, 1)
        assert got.content == values.astype(values.dtype.newbyteorder("<")).tobytes()


def test_what_cannot_be_had_is_explained(corpus):
    name = next(name for name in IMAGES if "JPEG2000-embedded-sequence-delimiter" in name)
    url = corpus.url_of(name)
    answer = corpus.get(url, f"application/dicom; transfer-syntax={EXPLICIT}")
    assert answer.status_code == 406
    said = json.loads(answer.text)["reason"]
    assert "transfer-syntax=1.2.840.10008.1.2.4.91" in said
    assert "range 1: it cannot be had in that transfer syntax" in said
    assert said.endswith("The JPEG 2000 codestream has an impossible number of tiles")
    assert corpus.get(url, "application/dicom").status_code == 200
