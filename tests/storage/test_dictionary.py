"""The dictionary and the character sets are those of pydicom, without importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydicom import charset, datadict, uid

from storage.charsets import ENCODINGS, ESCAPES
from storage.dictionary import dictionary_vr, keyword_of, keyword_path, tag_of, tag_path, uid_name


def test_every_tag_has_the_vr_that_pydicom_knows():
    for tag in datadict.DicomDictionary:
        if tag & 0xFFFF:
            assert dictionary_vr(tag) == datadict.dictionary_VR(tag)


@pytest.mark.parametrize("tag", [0x60000010, 0x60023000, 0x501E0010, 0x50000020, 0x00203155, 0x002804A0])
def test_repeating_groups_are_known(tag):
    assert dictionary_vr(tag) == datadict.dictionary_VR(tag)


@pytest.mark.parametrize(
    ("tag", "vr"), [(0x00090010, "LO"), (0x00091001, "UN"), (0x00080000, "UL"), (0x00070001, "UN")]
)
def test_private_and_unknown_tags_have_a_vr(tag, vr):
    assert dictionary_vr(tag) == vr


def test_keywords_lead_to_their_tags():
    assert tag_of("PatientName") == 0x00100010
    assert tag_of("NoSuchWord") is None


def test_uids_have_the_names_that_pydicom_knows():
    for one in (uid.CTImageStorage, uid.EnhancedSRStorage, uid.KeyObjectSelectionDocumentStorage, uid.RLELossless):
        assert uid_name(one) == one.name
    assert uid_name("1.2.3") == ""


def test_every_tag_has_the_keyword_that_pydicom_knows():
    for tag in (*datadict.DicomDictionary, 0x60000010, 0x501E0010, 0x00091001, 0x00189999):
        assert keyword_of(tag) == datadict.keyword_for_tag(tag)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("StudyDate", "00080020"),
        ("0020000d", "0020000D"),
        ("RequestAttributesSequence.00400009", "00400275.00400009"),
        ("00091001", "00091001"),
        ("studydate", ""),
        ("StudyDate.", ""),
        ("0008002", ""),
        ("", ""),
    ],
)
def test_names_of_a_query_lead_to_paths_of_tags(name, path):
    assert tag_path(name) == path


def test_paths_of_tags_lead_to_keywords():
    assert keyword_path("00400275.00400009") == "RequestAttributesSequence.ScheduledProcedureStepID"
    assert keyword_path("00091001") == "00091001"


def test_no_lookup_imports_pydicom():
    code = (
        "import sys; from storage.dictionary import dictionary_vr, tag_of;"
        "dictionary_vr(0x00100010); tag_of('Rows'); sys.exit('pydicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("term", sorted(charset.python_encoding))
def test_every_term_that_pydicom_knows_reads_the_same(term):
    raw = bytes(range(0x21, 0x7F)) if "2022" in term or "58" in term else bytes(range(0x20, 0x100))
    ours, theirs = ENCODINGS[term], charset.python_encoding[term]
    assert raw.decode(ours, "replace") == raw.decode(theirs, "replace")


@pytest.mark.parametrize("escape", sorted(charset.CODES_TO_ENCODINGS))
def test_every_escape_that_pydicom_knows_is_known(escape):
    assert escape[1:] in ESCAPES
