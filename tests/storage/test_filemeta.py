"""File Meta: ours is read by others, and theirs by us."""

from __future__ import annotations

import hashlib
import io
import subprocess

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import NotDicom
from storage.filemeta import Announcement, canonical_header, read_file_meta
from tests.synthetic import CT, EXPLICIT, IMPLICIT, data_set, element, implicit_element, part10

ANNOUNCED = Announcement(CT, "1.2.3.4", EXPLICIT)


def test_our_header_is_what_pydicom_expects():
    content = pydicom.dcmread(io.BytesIO(canonical_header(ANNOUNCED) + data_set(sop_class=CT, sop_instance="1.2.3.4")))
    assert content.preamble == b"\0" * 128
    meta = content.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, "1.2.3.4")
    assert meta.TransferSyntaxUID == EXPLICIT
    assert "SourceApplicationEntityTitle" not in meta


@pytest.mark.needs("dcmftest", "dcmdump")
def test_our_header_is_what_dcmtk_expects(tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(canonical_header(ANNOUNCED) + data_set(sop_class=CT, sop_instance="1.2.3.4"))
    assert subprocess.run(["dcmftest", path], capture_output=True, check=True).stdout.startswith(b"yes:")
    dump = subprocess.run(["dcmdump", "-q", path], capture_output=True, check=True)
    assert b"(0002,0000) UL" in dump.stdout
    assert not dump.stderr


def test_the_same_instance_has_the_same_header():
    assert canonical_header(ANNOUNCED) == canonical_header(Announcement(CT, "1.2.3.4", EXPLICIT))


@given(st.integers(1, 64))
def test_a_header_is_found_however_the_stream_is_cut(size):
    raw = part10(data_set())
    buffer = bytearray()
    for at in range(0, len(raw), size):
        buffer += raw[at : at + size]
        found = read_file_meta(buffer)
        if found is not None:
            announcement, start = found
            assert announcement.sop_instance_uid == "1.2.3.4.5"
            assert raw[start:] == data_set()
            return
    pytest.fail("the header was not found")


def test_a_stream_without_preamble_is_accepted():
    announcement, start = read_file_meta(part10(data_set())[132:]) or (None, 0)
    assert announcement is not None
    assert start > 0


@pytest.mark.parametrize(
    ("raw", "syntax"),
    [(element(0x00080060, "CS", "CT"), EXPLICIT), (implicit_element(0x00080060, "CT"), IMPLICIT)],
)
def test_a_bare_data_set_is_recognised(raw, syntax):
    assert read_file_meta(raw * 3) == (Announcement("", "", syntax), 0)


@pytest.mark.parametrize("raw", [b"GIF89a" * 40, b"\0" * 140, b"\0" * 128 + b"DICM" + b"\2\0\x10\0\0\0\0\0" * 4])
def test_other_bytes_are_not_dicom(raw):
    with pytest.raises(NotDicom):
        read_file_meta(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_answered(raw):
    for prefix in (b"", b"\0" * 128 + b"DICM"):
        try:
            read_file_meta(prefix + raw)
        except NotDicom:
            continue


def test_our_header_stays_as_it_was_for_every_object_that_is_stored():
    """A key does not tell the header: another one would make a known object look damaged when it is sent again."""
    header = canonical_header(Announcement("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1"))
    assert hashlib.sha256(header).hexdigest() == "2b869592e527c7ce5902892e1653d3df898bedaa70160043cb8f05f9411db6db"
