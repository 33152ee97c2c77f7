"""The Command Set, held against pydicom."""

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from gateway.dimse.command import (
    NO_DATA_SET,
    Command,
    Element,
    Field,
    MalformedCommandError,
    decode,
    encode,
    response,
)

CT = "1.2.840.10008.5.1.4.1.1.2"


def written_by_pydicom(**values):
    data_set = Dataset()
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = True, True
    write_dataset(file, data_set)
    return file.getvalue()


def read_by_pydicom(encoded):
    return read_dataset(BytesIO(encoded), is_implicit_VR=True, is_little_endian=True)


def store_request(**more):
    return written_by_pydicom(
        AffectedSOPClassUID=CT,
        CommandField=0x0001,
        MessageID=7,
        CommandDataSetType=0x0001,
        AffectedSOPInstanceUID="1.2.3",
        **more,
    )


def test_a_request_of_another_library_is_read():
    command = decode(store_request())
    assert command.number(Element.COMMAND_FIELD) == Field.C_STORE
    assert command.number(Element.MESSAGE_ID) == 7
    assert command.text(Element.AFFECTED_SOP_CLASS_UID) == CT
    assert command.text(Element.AFFECTED_SOP_INSTANCE_UID) == "1.2.3"
    assert command.has_data_set


def test_elements_that_are_not_there_read_as_empty_text_or_are_malformed_as_numbers():
    command = decode(store_request())
    assert command.text(Element.ERROR_COMMENT) == ""
    with pytest.raises(MalformedCommandError):
        command.number(Element.STATUS)


def test_a_response_is_read_by_another_library():
    answer = read_by_pydicom(
        response(decode(store_request()), 0xA900, offending_element=0x00080018, comment="A constant phrase")
    )
    assert answer.CommandField == 0x8001
    assert answer.MessageIDBeingRespondedTo == 7
    assert answer.Status == 0xA900
    assert answer.OffendingElement == 0x00080018
    assert answer.ErrorComment == "A constant phrase"
    assert answer.AffectedSOPClassUID == CT
    assert answer.AffectedSOPInstanceUID == "1.2.3"
    assert answer.CommandDataSetType == NO_DATA_SET


def test_the_group_length_counts_what_follows_it():
    encoded = response(decode(store_request()), 0x0000)
    assert read_by_pydicom(encoded).CommandGroupLength == len(encoded) - 12


def test_a_uid_that_is_none_is_not_sent_back():
    hostile = (
        written_by_pydicom(CommandField=1, MessageID=1, CommandDataSetType=1)
        + encode({Element.AFFECTED_SOP_INSTANCE_UID: b"../../etc/passwd"})[12:]
    )
    assert b"passwd" not in response(decode(hostile), 0x0117)


def test_comments_longer_than_64_characters_are_cut():
    answer = read_by_pydicom(response(decode(store_request()), 0xC000, comment="x" * 100))
    assert answer.ErrorComment == "x" * 64


def test_a_uid_of_odd_length_as_old_modalities_send_it_is_read():
    assert decode(b"\0\0\0\x10\5\0\0\x001.2.3").text(Element.AFFECTED_SOP_INSTANCE_UID) == "1.2.3"


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\0",
        b"\0\0\0\1\2\0\0",
        b"\0\0\0\1\2\0\0\0\1",
        b"\x08\0\x18\0\2\0\0\0\1\0",
        b"\0\0\0\1\xff\xff\xff\xff\1\0",
        (b"\0\0\0\1\2\0\0\0\1\0") * 2,
        b"".join(b"\0\0" + number.to_bytes(2, "little") + b"\0\0\0\0" for number in range(65)),
    ],
    ids=["empty", "byte", "cut", "cut value", "group 8", "huge length", "twice", "65 elements"],
)
def test_what_is_no_command_set_is_malformed(encoded):
    with pytest.raises(MalformedCommandError):
        decode(encoded)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_are_malformed(encoded):
    with contextlib.suppress(MalformedCommandError):
        assert isinstance(decode(encoded), Command)


@given(
    st.dictionaries(st.sampled_from(sorted(Element)[1:]), st.binary(max_size=40).map(lambda raw: raw * 2), min_size=1)
)
def test_what_is_written_is_read_back(elements):
    elements = dict(sorted(elements.items()))
    assert {key: value for key, value in decode(encode(elements)).elements.items() if key} == elements
