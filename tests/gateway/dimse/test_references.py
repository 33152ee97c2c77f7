"""Data Sets of references, held against pydicom; and what is no such Data Set."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from gateway.dimse.references import read_request, write_report
from storage.commitment import Reference
from storage.errors import InvalidInstance, NotDicom, TooLarge
from tests.fix_commitment import captures, data_set_bytes, request_of
from tests.synthetic import CT, EXPLICIT, IMPLICIT, SECONDARY_CAPTURE, UNDEFINED, element, item, sequence, us

SYNTAXES = {EXPLICIT: False, IMPLICIT: True}


def written(data_set, syntax):
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, SYNTAXES[syntax]
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def read(encoded, syntax):
    return read_dataset(io.BytesIO(encoded), SYNTAXES[syntax], is_little_endian=True)


def with_more(asked):
    """With what other requestors send besides: elements around and in the items, sequences of either length."""
    asked.SpecificCharacterSet = "ISO_IR 100"
    asked.RetrieveAETitle = "PACS"
    step = Dataset()
    step.ReferencedSOPClassUID, step.ReferencedSOPInstanceUID = "1.2", "1.3"
    asked.ReferencedPerformedProcedureStepSequence = [step]
    asked.StorageMediaFileSetID = "DISK"
    for one in asked.ReferencedSOPSequence:
        one.RetrieveAETitle = "PACS"
        one.add_new(0x00091010, "SQ", [Dataset()])
        one[0x00091010].is_undefined_length = True
    return asked


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("is_delimited", [False, True])
@pytest.mark.parametrize("more", [lambda asked: asked, with_more])
def test_a_request_of_pydicom_is_read(syntax, is_delimited, more):
    pairs = [(CT, "1.2.3"), (SECONDARY_CAPTURE, "1.2.34"), (CT, "1.2.3")]
    asked = more(request_of("1.9.8", pairs))
    asked["ReferencedSOPSequence"].is_undefined_length = is_delimited
    for one in asked.ReferencedSOPSequence:
        one.is_undefined_length_sequence_item = is_delimited
    found = read_request(b"ahead" + written(asked, syntax), 5, syntax, 10)
    assert found == ("1.9.8", [Reference(CT, "1.2.3"), Reference(SECONDARY_CAPTURE, "1.2.34")])


def test_items_of_undefined_length_are_read():
    encoded = data_set_bytes("1.9", captures(["1.1", "1.2"]), is_delimited=True)
    assert read_request(encoded, 0, EXPLICIT, 10)[1] == [Reference(*one) for one in captures(["1.1", "1.2"])]


ONE = item(element(0x00081150, "UI", CT) + element(0x00081155, "UI", "1.2"))
TRANSACTION = element(0x00081195, "UI", "1.9")
BAD = {
    "no Transaction UID": (sequence(0x00081199, ONE), InvalidInstance, "00081195"),
    "an empty Transaction UID": (element(0x00081195, "UI") + sequence(0x00081199, ONE), InvalidInstance, "00081195"),
    "a Transaction UID that is none": (
        element(0x00081195, "UI", "../etc") + sequence(0x00081199, ONE),
        InvalidInstance,
        "00081195",
    ),
    "a Transaction UID that is too long": (
        element(0x00081195, "UI", "1" * 65) + sequence(0x00081199, ONE),
        InvalidInstance,
        "00081195",
    ),
    "no sequence": (TRANSACTION, InvalidInstance, "00081199"),
    "no references": (TRANSACTION + sequence(0x00081199), InvalidInstance, "00081199"),
    "an empty item": (TRANSACTION + sequence(0x00081199, item(b"")), InvalidInstance, "00081150"),
    "no instance": (
        TRANSACTION + sequence(0x00081199, item(element(0x00081150, "UI", CT))),
        InvalidInstance,
        "00081155",
    ),
    "an instance of text": (
        TRANSACTION + sequence(0x00081199, item(element(0x00081150, "UI", CT) + element(0x00081155, "UI", "1\n2"))),
        InvalidInstance,
        "00081155",
    ),
    "no sequence of items": (TRANSACTION + element(0x00081199, "SQ", us(0x00081197, 1)), NotDicom, ""),
    "an item that is longer than its sequence": (
        TRANSACTION + sequence(0x00081199, item(b"", length=400)),
        NotDicom,
        "",
    ),
    "a sequence that is longer than the rest": (
        TRANSACTION + element(0x00081199, "SQ", ONE, length=9999),
        NotDicom,
        "",
    ),
    "a sequence without an end": (TRANSACTION + element(0x00081199, "SQ", ONE, length=UNDEFINED), NotDicom, ""),
    "text": (b"GET / HTTP/1.1\r\n\r\n", NotDicom, ""),
    "too many": (TRANSACTION + sequence(0x00081199, *(item(ONE[8:-4] + b"1.2%d" % n) for n in range(4))), TooLarge, ""),
    "nested without end": (
        TRANSACTION + element(0x00081199, "SQ", b"", length=UNDEFINED) + item(b"", length=UNDEFINED)[:8] * 50,
        NotDicom,
        "",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused_and_named(name):
    encoded, kind, tag = BAD[name]
    with pytest.raises(kind) as raised:
        read_request(encoded, 0, EXPLICIT, 3)
    assert raised.value.tag == tag


@given(st.data())
def test_a_damaged_request_is_read_or_refused(data):
    encoded = bytearray(data_set_bytes("1.9", captures(["1.1", "1.22"]), is_delimited=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    cut = bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    try:
        transaction, references = read_request(cut, 0, data.draw(st.sampled_from(sorted(SYNTAXES))), 10)
    except (NotDicom, InvalidInstance, TooLarge):
        return
    assert transaction
    assert references


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pydicom_reads_a_report(syntax):
    references = [Reference(CT, f"1.2.{'3' * (number % 3)}4.{number}") for number in range(2500)]
    reasons = [0x0112 if number % 5 == 0 else 0 for number in range(2500)]
    pieces = write_report("1.9.8", references, reasons, ae_title="GATEWAY", transfer_syntax_uid=syntax)
    told = read(b"".join(pieces), syntax)
    assert [one.tag for one in told] == [0x00080054, 0x00081195, 0x00081198, 0x00081199]
    assert (told.RetrieveAETitle, told.TransactionUID) == ("GATEWAY", "1.9.8")
    failed = [(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in told.FailedSOPSequence]
    kept = [(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in told.ReferencedSOPSequence]
    assert failed == [one[:2] for one, reason in zip(references, reasons, strict=True) if reason]
    assert kept == [one[:2] for one, reason in zip(references, reasons, strict=True) if not reason]
    assert {one.FailureReason for one in told.FailedSOPSequence} == {0x0112}
    assert all("FailureReason" not in one for one in told.ReferencedSOPSequence)


@pytest.mark.parametrize(("reason", "tag"), [(0, 0x00081199), (0x0119, 0x00081198)])
def test_a_report_has_no_empty_sequence(reason, tag):
    pieces = write_report("1.9", [Reference(CT, "1.2")], [reason], ae_title="A", transfer_syntax_uid=EXPLICIT)
    assert [one.tag for one in read(b"".join(pieces), EXPLICIT)] == [0x00080054, 0x00081195, tag]
