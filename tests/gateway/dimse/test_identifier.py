"""Identifiers, held against pydicom; character sets of real patients."""

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.valuerep import format_number_as_ds

from gateway.dimse import identifier
from storage.errors import NotDicom
from storage.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests import synthetic

SYNTAXES = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN]
YAMADA = {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}


def read_by_pydicom(encoded, syntax):
    found = read_dataset(BytesIO(encoded), syntax == IMPLICIT_VR_LITTLE_ENDIAN, is_little_endian=True)
    found.decode()
    return found


def written_by_pydicom(data_set, syntax):
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = syntax == IMPLICIT_VR_LITTLE_ENDIAN, True
    write_dataset(file, data_set)
    return file.getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_elements_of_every_kind_are_read_by_another_library(syntax):
    elements = {
        "00080018": {"vr": "UI", "Value": ["1.2.3"]},
        "00080020": {"vr": "DA", "Value": ["20200101"]},
        "00080061": {"vr": "CS", "Value": ["CT", "MR"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00100020": {"vr": "LO"},
        "00101030": {"vr": "DS", "Value": [70.5]},
        "00200011": {"vr": "IS", "Value": [3]},
        "00280009": {"vr": "AT", "Value": ["00181063"]},
        "00280010": {"vr": "US", "Value": [512]},
        "00400275": {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": ["SPS1"]}}, {}]},
        "00189313": {"vr": "FD", "Value": [1.5, -2.0]},
        "7FE00010": {"vr": "OB", "InlineBinary": "AAEC"},
    }
    found = read_by_pydicom(identifier.encode(elements, syntax, ""), syntax)
    assert found.SOPInstanceUID == "1.2.3"
    assert found.StudyDate == "20200101"
    assert found.ModalitiesInStudy == ["CT", "MR"]
    assert found.PatientName == "Doe^Jane"
    assert found["PatientID"].is_empty
    assert found.PatientWeight == 70.5
    assert found.SeriesNumber == 3
    assert found.FrameIncrementPointer == 0x00181063
    assert found.Rows == 512
    assert [item.get("ScheduledProcedureStepID") for item in found.RequestAttributesSequence] == ["SPS1", None]
    assert found.DataCollectionCenterPatient == [1.5, -2.0]
    assert found.PixelData == b"\0\1\2\0"
    assert "SpecificCharacterSet" not in found


@pytest.mark.parametrize(
    ("asked", "name", "answered"),
    [
        ("", {"Alphabetic": "Doe^Jane"}, None),
        ("", {"Alphabetic": "Müller^Jörg"}, "ISO_IR 192"),
        ("ISO_IR 6", {"Alphabetic": "Müller^Jörg"}, "ISO_IR 192"),
        ("ISO_IR 100", {"Alphabetic": "Müller^Jörg"}, "ISO_IR 100"),
        ("ISO_IR 100", {"Alphabetic": "Διονυσιος"}, "ISO_IR 192"),
        ("ISO_IR 126", {"Alphabetic": "Διονυσιος"}, "ISO_IR 126"),
        ("ISO_IR 144", {"Alphabetic": "Люкceмбypг"}, "ISO_IR 144"),
        ("ISO_IR 127", {"Alphabetic": "قباني^لنزار"}, "ISO_IR 127"),
        ("ISO_IR 192", YAMADA, "ISO_IR 192"),
        ("ISO_IR 100", YAMADA, "ISO_IR 192"),
        ("\\ISO 2022 IR 87", YAMADA, ["", "ISO 2022 IR 87"]),
        ("ISO 2022 IR 13\\ISO 2022 IR 87", YAMADA, ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
        ("ISO_IR 13", {"Alphabetic": "ﾔﾏﾀﾞ^ﾀﾛｳ"}, "ISO_IR 13"),
        ("ISO_IR 13", YAMADA, "ISO_IR 192"),
        ("\\ISO 2022 IR 149", {"Alphabetic": "Hong", "Ideographic": "洪^吉洞"}, ["", "ISO 2022 IR 149"]),
        ("\\ISO 2022 IR 149", {"Alphabetic": "Müller^Jörg"}, "ISO_IR 192"),
        ("GB18030", {"Alphabetic": "Wang", "Ideographic": "王^小东"}, "GB18030"),
        ("NO SUCH SET", {"Alphabetic": "Müller"}, "ISO_IR 192"),
    ],
)
def test_answers_keep_the_character_set_of_the_query_when_it_suffices(asked, name, answered):
    elements = {"00080052": {"vr": "CS", "Value": ["STUDY"]}, "00100010": {"vr": "PN", "Value": [name]}}
    encoded = identifier.encode(elements, EXPLICIT_VR_LITTLE_ENDIAN, asked)
    found = read_by_pydicom(encoded, EXPLICIT_VR_LITTLE_ENDIAN)
    assert found.get("SpecificCharacterSet") == answered
    assert str(found.PatientName) == "=".join(name.get(group, "") for group in YAMADA).rstrip("=")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_identifier_of_another_library_is_read(syntax):
    query = Dataset()
    query.SpecificCharacterSet = "ISO_IR 100"
    query.QueryRetrieveLevel = "STUDY"
    query.PatientName = "Müller*"
    query.StudyDate = "20200101-20201231"
    query.StudyInstanceUID = ["1.2", "1.3"]
    query.SeriesNumber = None
    query.RequestAttributesSequence = [Dataset()]
    query.RequestAttributesSequence[0].RequestedProcedureID = "P1"
    found = identifier.decode(written_by_pydicom(query, syntax), syntax)
    texts = {tag: identifier.text(element) for tag, element in found.items()}
    assert texts == {
        "00080005": "ISO_IR 100",
        "00080020": "20200101-20201231",
        "00080052": "STUDY",
        "00100010": "Müller*",
        "0020000D": "1.2\\1.3",
        "00200011": "",
        "00400275": "",
    }
    assert found["00400275"]["Value"] == [{"00401001": {"vr": "SH", "Value": ["P1"]}}]


def test_no_bytes_are_an_identifier_without_keys():
    assert identifier.decode(b"", IMPLICIT_VR_LITTLE_ENDIAN) == {}


@pytest.mark.parametrize(
    "write", [synthetic.element, lambda tag, vr, value=b"": synthetic.implicit_element(tag, value)]
)
def test_group_lengths_are_told_without_a_value(write):
    syntax = EXPLICIT_VR_LITTLE_ENDIAN if write is synthetic.element else IMPLICIT_VR_LITTLE_ENDIAN
    encoded = b"".join(
        [
            write(0x00080000, "UL", b"\x0e\0\0\0"),
            write(0x00080052, "CS", b"STUDY "),
            write(0x00091001, "UN", b"\0\0\0\0"),
            write(0x00100000, "UL", b"\0\0\0\0"),
        ]
    )
    found = identifier.decode(encoded, syntax)
    assert found.pop("00091001")["vr"] == "UN"
    assert found == {
        "00080000": {"vr": "UL"},
        "00080052": {"vr": "CS", "Value": ["STUDY"]},
        "00100000": {"vr": "UL"},
    }


@pytest.mark.parametrize("value", [["x"], [1e400], [-1], [2**80], [None], [{}]], ids=str)
@pytest.mark.parametrize("vr", ["US", "UL", "SS", "FL", "FD", "IS", "DS", "UI", "PN", "LO", "DA", "CS"])
def test_a_value_its_vr_cannot_hold_never_fails(vr, value):
    encoded = identifier.encode({"00280010": {"vr": vr, "Value": value}}, EXPLICIT_VR_LITTLE_ENDIAN, "ISO_IR 100")
    assert encoded[:6] == b"\x28\0\x10\0" + vr.encode()
    assert len(encoded) % 2 == 0


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_in_16_characters_no_worse_than_by_another_library(value):
    written = identifier.encode({"00280030": {"vr": "DS", "Value": [value]}}, EXPLICIT_VR_LITTLE_ENDIAN, "ISO_IR 192")
    text = written[8:].decode("ascii").strip()
    assert len(text) <= 16
    assert abs(float(text) - value) <= abs(float(format_number_as_ds(value)) - value)


@pytest.mark.parametrize("broken", ["!", "AAE", "é"])
def test_binary_that_is_none_is_left_empty(broken):
    encoded = identifier.encode({"7FE00010": {"vr": "OB", "InlineBinary": broken}}, EXPLICIT_VR_LITTLE_ENDIAN, "")
    assert encoded == b"\xe0\x7f\x10\0OB\0\0\0\0\0\0"


def test_a_value_too_long_for_its_length_field_is_left_empty():
    encoded = identifier.encode({"00081030": {"vr": "LO", "Value": ["x" * 70_000]}}, EXPLICIT_VR_LITTLE_ENDIAN, "")
    assert encoded == b"\x08\0\x30\x10LO\0\0"


SETS = ["", "ISO_IR 100", "ISO_IR 126", "\\ISO 2022 IR 87", "ISO 2022 IR 13\\ISO 2022 IR 87", "ISO_IR 13", "GB18030"]


@given(st.text(max_size=60) | st.text("aé¢山ﾔ洪Δ ", max_size=8), st.sampled_from(SETS))
def test_any_text_comes_back_whatever_the_character_set(written, character_set):
    written = "".join(c for c in written if c.isprintable() and c not in "\\^=").strip()
    elements = {"00081030": {"vr": "LO", "Value": [written]}} if written else {}
    encoded = identifier.encode(elements, IMPLICIT_VR_LITTLE_ENDIAN, character_set)
    found = identifier.decode(encoded, IMPLICIT_VR_LITTLE_ENDIAN)
    assert identifier.text(found.get("00081030", {})) == written


@given(st.binary(min_size=1, max_size=200), st.sampled_from(SYNTAXES))
def test_any_bytes_are_read_or_are_no_identifier(encoded, syntax):
    with contextlib.suppress(NotDicom):
        assert identifier.decode(encoded, syntax)
