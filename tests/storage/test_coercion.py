"""Elements are changed, every other byte is as it came, and what was there before is said: pydicom and DCMTK judge."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import tracemalloc
import zlib

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.coercion import Occasion, coerce
from storage.dataset import read_data_set
from storage.errors import PolicyFailed
from storage.policy import Action, coercion
from storage.reception import fill, prefix, remove, set_to
from storage.uids import transfer_syntax
from tests.storage.test_dataset import deflated
from tests.synthetic import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    data_set,
    element,
    encapsulated,
    image,
    image_elements,
    implicit_element,
    item,
    part10,
    sequence,
)

JPEG = "1.2.840.10008.1.2.4.50"
OCCASION = Occasion("20260102030405.000006+0000", "GATEWAY", "CT1")
CHANGES = (
    set_to("AccessionNumber", "A1"),
    fill("IssuerOfPatientID", "HOSP1"),
    fill("PatientID", "UNUSED"),
    prefix("PatientID", "X-"),
    remove("StudyDate"),
    remove("PatientComments"),
    set_to("Modality", "OT"),
)


def coerced(content, *changes, syntax=EXPLICIT, occasion=OCCASION):
    """The Data Set with its changes; None when there are none."""
    kind = transfer_syntax(syntax)
    written = bytearray()
    json = read_data_set(content, 0, kind).json
    return bytes(written) if coerce(content, 0, kind, json, changes, occasion, written.extend) else None


def read(content, syntax=EXPLICIT):
    return pydicom.dcmread(io.BytesIO(part10(content, syntax=syntax)))


def encoded(name):
    """One image in a transfer syntax, as bytes of its Data Set."""
    if name == JPEG:
        return data_set(extra=(*image_elements(2, 2), encapsulated([b"\xff\xd8", b"jpeg data "], offsets=(0,))))
    if name == EXPLICIT:
        return image()
    if name == DEFLATED:
        return deflated(image(40, 40))
    buffer = io.BytesIO()
    made = read(image(2, 3))
    is_implicit, is_little = name == IMPLICIT, name != BIG_ENDIAN
    pydicom.filewriter.write_dataset(
        _writer(buffer, is_implicit=is_implicit, is_little=is_little), _of(made, is_implicit=is_implicit)
    )
    return buffer.getvalue()


def _writer(buffer, *, is_implicit, is_little):
    writer = pydicom.filebase.DicomFileLike(buffer)
    writer.is_implicit_VR, writer.is_little_endian = is_implicit, is_little
    return writer


def _of(made, *, is_implicit):
    made.remove_private_tags()
    return made


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, JPEG])
def test_changes_are_made_and_all_else_stays_in_every_transfer_syntax(syntax):
    before = encoded(syntax)
    after = coerced(before, *CHANGES, syntax=syntax)
    old, new = read(before, syntax), read(after, syntax)
    assert (new.AccessionNumber, new.IssuerOfPatientID, new.PatientID) == ("A1", "HOSP1", "X-P1")
    assert "StudyDate" not in new
    (said,) = new.OriginalAttributesSequence
    (was,) = said.ModifiedAttributesSequence
    assert (was.PatientID, was.StudyDate) == ("P1", "20240131")
    assert (was.AccessionNumber, was.IssuerOfPatientID) == ("", "")
    assert {one.keyword for one in was} == {"PatientID", "StudyDate", "AccessionNumber", "IssuerOfPatientID"}
    assert said.AttributeModificationDateTime == OCCASION.changed_at
    assert (said.ModifyingSystem, said.SourceOfPreviousValues) == ("GATEWAY", "CT1")
    assert said.ReasonForTheAttributeModification == "COERCE"
    changed = {"AccessionNumber", "IssuerOfPatientID", "PatientID", "StudyDate", "OriginalAttributesSequence"}
    assert {one.keyword: one for one in new if one.keyword not in changed} == {
        one.keyword: one for one in old if one.keyword not in changed
    }
    assert [one.tag for one in new] == sorted(one.tag for one in new)
    assert len(after) % 2 == 0


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG])
def test_bytes_around_what_is_changed_are_the_very_same(syntax):
    before = encoded(syntax)
    after = coerced(before, set_to("StudyID", "S1"), syntax=syntax)
    order = ">" if syntax == BIG_ENDIAN else "<"
    number, pixels = struct.pack(f"{order}HH", 0x0020, 0x0013), struct.pack(f"{order}HH", 0x7FE0, 0x0010)
    first, last = before.index(number), before.rindex(pixels)
    assert after.startswith(before[:first])
    assert after.endswith(before[last:])
    behind = after[first:]
    assert behind[behind.index(number) :].startswith(before[first:last])


def test_nothing_is_written_where_nothing_changes():
    content = image()
    assert coerced(content) is None
    assert coerced(content, set_to("Modality", "OT"), fill("PatientID", "P9"), remove("PatientComments")) is None
    assert coerced(content, prefix("AccessionNumber", "A-")) is None
    assert coerced(content, set_to("PatientName", "Doe^Jane")) is None


def test_the_same_bytes_on_the_same_occasion_give_the_same_bytes():
    assert coerced(image(), *CHANGES) == coerced(image(), *CHANGES)
    assert coerced(encoded(DEFLATED), *CHANGES, syntax=DEFLATED) == coerced(
        encoded(DEFLATED), *CHANGES, syntax=DEFLATED
    )


@pytest.mark.parametrize("is_delimited", [False, True], ids=["defined", "undefined"])
def test_what_others_have_coerced_before_stays_said(is_delimited):
    earlier = sequence(
        0x04000561,
        item(element(0x04000563, "LO", "MODALITY"), length=UNDEFINED if is_delimited else None),
        is_delimited=is_delimited,
    )
    after = read(coerced(data_set(extra=(earlier,)), set_to("StudyID", "S1")))
    assert [one.ModifyingSystem for one in after.OriginalAttributesSequence] == ["MODALITY", "GATEWAY"]
    again = read(coerced(coerced(image(), set_to("StudyID", "S1")), set_to("StudyID", "S2")))
    assert [one.ModifiedAttributesSequence[0].StudyID for one in again.OriginalAttributesSequence] == ["", "S1"]


def test_nested_sequences_of_any_length_are_passed_over():
    inner = sequence(0x00081140, item(element(0x00081155, "UI", "1.2.3"), length=UNDEFINED), is_delimited=True)
    nested = sequence(0x00081115, item(inner, length=UNDEFINED), item(b""), is_delimited=True)
    unknown = element(0x00091001, "UN", b"", length=UNDEFINED)
    unknown += item(implicit_element(0x00081155, "1.2.3"), length=UNDEFINED) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    content = data_set(extra=(nested, unknown))
    after = read(coerced(content, set_to("StudyID", "S1"), remove("00091001")))
    assert after.StudyID == "S1"
    assert after.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert (0x0009, 0x1001) not in after
    assert (0x0009, 0x1001) in after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]


def test_a_data_set_without_vrs_that_says_otherwise_gets_elements_without_vrs():
    content = encoded(IMPLICIT)
    after = coerced(content, set_to("StudyID", "S1"))
    assert read(after, IMPLICIT).StudyID == "S1"


def test_elements_out_of_order_are_found():
    content = image() + element(0x00100020, "LO", "LATE") + element(0x00080050, "SH", "A9")
    json = read_data_set(content, 0, transfer_syntax(EXPLICIT)).json
    assert json["00080050"]["Value"] == ["A9"]
    after = coerced(content, set_to("AccessionNumber", "A1"))
    assert read_data_set(after, 0, transfer_syntax(EXPLICIT)).json["00080050"]["Value"] == ["A1"]


@pytest.mark.parametrize(
    ("charset", "value", "raw"),
    [
        ("ISO_IR 100", "Köln", "Köln".encode("latin-1")),
        ("ISO_IR 192", "東京", "東京".encode()),
        ("GB18030", "北京", "北京".encode("gb18030")),
    ],
)
def test_text_is_written_in_the_character_set_of_the_instance(charset, value, raw):
    content = data_set(extra=(element(0x00080005, "CS", charset),))
    assert element(0x00080080, "LO", raw) in coerced(content, set_to("InstitutionName", value))
    assert read(coerced(content, set_to("InstitutionName", value))).InstitutionName == value


@pytest.mark.parametrize("charset", ["", "ISO_IR 144", "ISO 2022 IR 6\\ISO 2022 IR 87"])
def test_text_that_the_character_set_has_not_is_refused(charset):
    content = data_set(extra=(element(0x00080005, "CS", charset),))
    with pytest.raises(PolicyFailed) as refused:
        coerced(content, set_to("InstitutionName", "Köln"))
    assert refused.value.tag == "00080080"
    assert "Köln" not in str(refused.value)


def test_a_prefix_goes_before_each_value_and_never_beyond_the_longest():
    content = data_set(extra=(element(0x00101000, "LO", "A\\B"), element(0x00080050, "SH", "1234567890123456")))
    assert element(0x00101000, "LO", "X-A\\X-B") in coerced(content, prefix("OtherPatientIDs", "X-"))
    with pytest.raises(PolicyFailed):
        coerced(content, prefix("AccessionNumber", "X"))


def test_text_of_two_byte_characters_is_not_cut_at_what_looks_like_a_backslash():
    raw = "表\\B".encode("gbk")
    assert raw.count(b"\\") == 1
    tricky = "Ａ\u4e57".encode("gb18030")
    content = data_set(extra=(element(0x00080005, "CS", "GB18030"), element(0x00101000, "LO", tricky + b"\\B")))
    json = read_data_set(content, 0, transfer_syntax(EXPLICIT)).json
    values = json["00101000"]["Value"]
    if len(values) == (tricky + b"\\B").count(b"\\") + 1:
        assert read(coerced(content, prefix("OtherPatientIDs", "X"))).OtherPatientIDs[1] == "XB"
    else:
        with pytest.raises(PolicyFailed):
            coerced(content, prefix("OtherPatientIDs", "X"))


def test_an_original_attributes_sequence_of_unknown_vr_is_refused():
    content = data_set(extra=(element(0x04000561, "UN", b""),))
    with pytest.raises(PolicyFailed):
        coerced(content, set_to("StudyID", "S1"))


def test_an_element_behind_what_is_inflated_of_a_header_is_refused(monkeypatch):
    monkeypatch.setattr("storage.dataset.MAXIMUM_HEADER_BYTES", 1 << 10)
    content = deflated(data_set(extra=(element(0x00091001, "OB", random.Random(1).randbytes(2 << 20)),)))
    with pytest.raises(PolicyFailed):
        coerced(content, remove("00091001"), syntax=DEFLATED)


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_a_huge_data_set_takes_no_memory_of_its_size(syntax, monkeypatch):
    monkeypatch.setattr("storage.dataset.MAXIMUM_HEADER_BYTES", 1 << 20)
    content = image(2000, 6000, pixels=random.Random(1).randbytes(12_000_000))
    if syntax == DEFLATED:
        content = deflated(content)
    kind = transfer_syntax(syntax)
    json = read_data_set(content, 0, kind).json
    total = 0

    def count(piece):
        nonlocal total
        total += len(piece)

    tracemalloc.start()
    try:
        assert coerce(content, 0, kind, json, [set_to("StudyID", "S1")], OCCASION, count)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert total > 0.9 * len(content)


@pytest.mark.needs("dcmdump")
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, JPEG])
def test_dcmtk_reads_what_was_coerced(tmp_path, syntax):
    path = tmp_path / "coerced.dcm"
    path.write_bytes(part10(coerced(encoded(syntax), *CHANGES, syntax=syntax), syntax=syntax))
    said = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, text=True, check=False, timeout=30)
    assert said.returncode == 0, said.stderr
    assert not said.stderr
    for text in ("[A1]", "[HOSP1]", "[X-P1]", "OriginalAttributesSequence", "[COERCE]", "[GATEWAY]"):
        assert text in said.stdout


_TAGS = st.sampled_from(
    ["AccessionNumber", "PatientID", "StudyID", "InstitutionName", "PatientComments", "ProtocolName"]
)
_VALUES = st.text(
    st.characters(codec="ascii", exclude_characters="\\", min_codepoint=33, max_codepoint=126), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=60)
@given(
    held=st.dictionaries(_TAGS, _VALUES, max_size=5),
    wanted=st.dictionaries(_TAGS, st.tuples(st.sampled_from(list(Action)), _VALUES), min_size=1, max_size=5),
    syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED]),
)
def test_any_changes_to_any_data_set_are_what_they_say(held, wanted, syntax):
    made = read(image())
    for keyword, text in held.items():
        setattr(made, keyword, text)
    buffer = io.BytesIO()
    is_implicit = syntax == IMPLICIT
    pydicom.filewriter.write_dataset(_writer(buffer, is_implicit=is_implicit, is_little=syntax != BIG_ENDIAN), made)
    content = deflated(buffer.getvalue()) if syntax == DEFLATED else buffer.getvalue()
    before = {one.keyword: str(one.value) for one in made}
    changes, expected = [], dict(before)
    for keyword, (action, text) in wanted.items():
        changes.append(coercion(action, keyword, "" if action is Action.REMOVE else text))
        old = before.get(keyword, "")
        if action is Action.REMOVE:
            expected.pop(keyword, None)
        elif action is Action.PREFIX:
            expected |= {keyword: text + old} if old else {}
        else:
            expected[keyword] = old if action is Action.FILL and old else text
    try:
        after = coerced(content, *changes, syntax=syntax)
    except PolicyFailed:
        assert any(len(text) > 16 for text in expected.values())
        return
    if after is None:
        assert expected == before
        return
    found = read(after, syntax)
    (said,) = found.OriginalAttributesSequence
    (was,) = said.ModifiedAttributesSequence
    assert {one.keyword: str(one.value) for one in found if one.keyword != "OriginalAttributesSequence"} == expected
    assert {one.keyword: str(one.value) for one in was} == {
        keyword: before.get(keyword, "")
        for keyword in before.keys() | expected.keys()
        if before.get(keyword) != expected.get(keyword)
    }


def test_a_deflated_data_set_is_whole_and_even():
    after = coerced(encoded(DEFLATED), *CHANGES, syntax=DEFLATED)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    assert inflater.decompress(after).endswith(read(encoded(DEFLATED), DEFLATED).PixelData)
    assert inflater.eof
    assert inflater.unused_data in (b"", b"\0")
