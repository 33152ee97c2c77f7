"""What single content items say, and that whatever they lack is said to be missing."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from gateway.dicomweb.content_items import MAXIMUM_LISTED, VALUE_TYPES, name_of, person, phrases_of, scalar
from tests.reports import IMAGE, code, content, item, metadata, reference

URL = "https://pacs/i"


def said(data_set, json=None):
    found = phrases_of(json or metadata(data_set), lambda uid: URL if uid == IMAGE else "")
    return [f"[{one.text}]" if one.is_missing else one.text for one in found]


def links(data_set):
    return [one.href for one in phrases_of(metadata(data_set), lambda uid: URL if uid == IMAGE else "")]


def number(value="38", unit=None, **attributes):
    measured = item(NumericValue=value, MeasurementUnitsCodeSequence=[unit or code("millimeter", "mm", "UCUM")])
    return content("NUM", "Size", **({"MeasuredValueSequence": [measured]} | attributes))


def cell(row, column, **value):
    return item(TableRowNumber=row, TableColumnNumber=column, **value)


TABLE = content(
    "TABLE",
    "Vessels",
    TabulatedValuesSequence=[
        item(
            TableRowDefinitionSequence=[item(TableRowNumber=1, ConceptNameCodeSequence=[code("Aorta")])],
            TableColumnDefinitionSequence=[
                item(
                    TableColumnNumber=1,
                    ConceptNameCodeSequence=[code("Width")],
                    MeasurementUnitsCodeSequence=[code("mm", "mm", "UCUM")],
                )
            ],
            CellValuesSequence=[
                cell(1, 1, SelectorDSValue="21.5"),
                cell(2, 1, SelectorCodeSequenceValue=[code("Large")]),
                cell(2, 2),
            ],
        )
    ],
)

ITEMS = [
    (content("TEXT", "Finding", TextValue="None"), ["None"]),
    (number(), ["38 mm (millimeter)"]),
    (number("0.5", code("ratio", "{ratio}", "UCUM")), ["0.5 ratio"]),
    (number("2", code("no units", "1", "UCUM")), ["2 no units"]),
    (number("-1e-3", code("cm", "cm", "UCUM")), ["-0.001 cm"]),
    (number("3", code("Length", "cm", "99TEST")), ["3 Length (cm, 99TEST)"]),
    (
        number(MeasuredValueSequence=[], NumericValueQualifierCodeSequence=[code("Not a number")]),
        ["Not a number (C1, 99TEST)"],
    ),
    (number(NumericValueQualifierCodeSequence=[code("Estimated")]), ["38 mm (millimeter)", "Estimated (C1, 99TEST)"]),
    (content("NUM", "Size"), ["[number missing]", "[unit missing]"]),
    (content("CODE", "Side", ConceptCodeSequence=[code("Right", "24028007", "SCT")]), ["Right (24028007, SCT)"]),
    (content("CODE", "Side", ConceptCodeSequence=[item(LongCodeValue="L")]), ["[meaning of the code missing (L)]"]),
    (content("CODE", "Side"), ["[code missing]"]),
    (content("DATE", "On", Date="20240229"), ["2024-02-29"]),
    (content("TIME", "At", Time="1015"), ["10:15"]),
    (content("TIME", "At", Time="101530.250"), ["10:15:30.250"]),
    (content("DATETIME", "At", DateTime="20240229101530.000000+0100"), ["2024-02-29 10:15:30 +0100"]),
    (content("DATETIME", "At", DateTime="2024"), ["2024"]),
    (content("UIDREF", "UID", UID="1.2.3"), ["1.2.3"]),
    (content("PNAME", "Observer", PersonName="Doe^Jane^Q^Dr.^MD"), ["Dr. Jane Q Doe, MD"]),
    (content("PNAME", "Observer", PersonName=""), ["[person name missing]"]),
    (content("IMAGE", ReferencedSOPSequence=reference()), ["CT Image Storage"]),
    (
        content("IMAGE", ReferencedSOPSequence=reference(ReferencedFrameNumber=[2, 5])),
        ["CT Image Storage", "frame 2", "frame 5"],
    ),
    (
        content("IMAGE", ReferencedSOPSequence=reference("1.9", ReferencedSegmentNumber=3)),
        ["CT Image Storage", "instance 1.9", "segment 3"],
    ),
    (
        content(
            "IMAGE",
            ReferencedSOPSequence=reference(ReferencedSOPSequence=reference("1.7", "1.2.840.10008.5.1.4.1.1.11.1")),
        ),
        ["CT Image Storage", "with Grayscale Softcopy Presentation State Storage"],
    ),
    (content("COMPOSITE", ReferencedSOPSequence=reference("1.9", "1.2.999")), ["1.2.999", "instance 1.9"]),
    (content("IMAGE"), ["[reference missing]"]),
    (content("IMAGE", ReferencedSOPSequence=[Dataset()]), ["[class of the instance missing]", "[instance missing]"]),
    (
        content(
            "WAVEFORM",
            ReferencedSOPSequence=reference(
                "1.9", "1.2.840.10008.5.1.4.1.1.9.1.1", ReferencedWaveformChannels=[1, 2, 1, 0]
            ),
        ),
        ["12-lead ECG Waveform Storage", "instance 1.9", "channel 1/2", "channel 1/0"],
    ),
    (content("SCOORD", GraphicType="CIRCLE", GraphicData=[1.0, 2.5, 3.0, 4.0]), ["CIRCLE", "(1, 2.5)", "(3, 4)"]),
    (content("SCOORD", GraphicType="POINT", GraphicData=[1.0, 2.0, 3.0]), ["POINT", "(1, 2)", "(3)"]),
    (content("SCOORD"), ["[graphic type missing]", "[graphic data missing]"]),
    (
        content("SCOORD3D", GraphicType="POINT", GraphicData=[1.0, 2.0, 3.0], ReferencedFrameOfReferenceUID="1.2"),
        ["POINT", "(1, 2, 3)", "frame of reference 1.2"],
    ),
    (content("TCOORD", TemporalRangeType="POINT", ReferencedSamplePositions=[7]), ["POINT", "sample 7"]),
    (content("TCOORD", TemporalRangeType="POINT", ReferencedTimeOffsets=["1.5"]), ["POINT", "1.5 s"]),
    (
        content("TCOORD", TemporalRangeType="POINT", ReferencedDateTime=["20240229101530"]),
        ["POINT", "2024-02-29 10:15:30"],
    ),
    (content("TCOORD"), ["[temporal range type missing]", "[temporal coordinates missing]"]),
    (
        TABLE,
        [
            "Aorta, Width mm: 21.5",
            "row 2, Width mm: Large (C1, 99TEST)",
            "row 2, column 2: cell value missing",
        ],
    ),
    (content("TABLE"), ["[table missing]"]),
    (content("CONTAINER", "Findings"), []),
    (content("NOVEL"), ["[value type NOVEL unknown]"]),
    (item(RelationshipType="CONTAINS"), ["[value type missing]"]),
]


@pytest.mark.parametrize(("data_set", "expected"), ITEMS, ids=lambda value: str(value)[-40:] if value else "")
def test_each_kind_of_item_says_what_it_holds(data_set, expected):
    assert said(data_set) == expected


def test_every_value_type_is_among_those():
    assert {str(data_set.get("ValueType", "")) for data_set, _ in ITEMS} >= set(VALUE_TYPES)


def test_an_image_of_the_evidence_can_be_followed_by_frame():
    assert links(content("IMAGE", ReferencedSOPSequence=reference())) == [f"{URL}/rendered"]
    frames = content("IMAGE", ReferencedSOPSequence=reference(ReferencedFrameNumber=[2, 5]))
    assert links(frames) == ["", f"{URL}/frames/2/rendered", f"{URL}/frames/5/rendered"]
    assert links(content("IMAGE", ReferencedSOPSequence=reference("1.9"))) == ["", ""]


def test_a_long_list_says_how_much_more_there_is():
    outline = content("SCOORD", GraphicType="POLYLINE", GraphicData=[0.0] * 2 * (MAXIMUM_LISTED + 3))
    assert len(said(outline)) == 1 + MAXIMUM_LISTED + 1
    assert said(outline)[-1] == "and 3 more"


def test_a_value_that_is_not_in_the_metadata_is_said_to_be_too_large():
    json = {"0040A040": {"vr": "CS", "Value": ["TEXT"]}, "0040A160": {"vr": "UT", "BulkDataURI": "javascript:x"}}
    assert said(None, json) == ["[text too large to be shown]"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ({"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}, "Tarou Yamada (山田 太郎)"),
        ({"Ideographic": "山田^太郎"}, "山田 太郎"),
        ({"Alphabetic": "Doe"}, "Doe"),
        ({"Alphabetic": {"Alphabetic": "Doe"}}, ""),
        ("Doe^Jane", "Doe^Jane"),
        (None, ""),
    ],
)
def test_names_are_written_with_all_their_groups(name, expected):
    assert person(name) == expected


def test_numbers_are_written_without_what_json_adds():
    assert [scalar(value) for value in (38.0, 0.1, 7, "x", None, [1])] == ["38", "0.1", "7", "x", "", ""]


def test_an_item_without_a_name_has_that_of_its_kind_if_it_may():
    assert [name_of(metadata(content(kind))).text for kind in ("IMAGE", "SCOORD")] == ["Image", "Spatial coordinates"]
    for kind in ("TEXT", "NOVEL"):
        assert name_of(metadata(content(kind))).is_missing
    assert name_of(metadata(content("TEXT", "Finding"))).text == "Finding"
    unnamed = item(ValueType="TEXT", ConceptNameCodeSequence=[item(CodeValue="F-1")])
    assert name_of(metadata(unnamed)).text == "F-1"
