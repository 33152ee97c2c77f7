from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pixels.annotation import annotated
from gateway.pixels.options import PNG, Annotation, RenderOptions
from gateway.pixels.render import render
from storage.errors import BadRequest
from tests.gateway.pixels.part10 import BUNDLED, read
from tests.gateway.pixels.synthetic import element, sequence

BOTH = (Annotation.PATIENT, Annotation.TECHNIQUE)
SAMPLES = Path(__file__).parents[3] / "sample_dicom"


def patient(metadata):
    return annotated(metadata, [Annotation.PATIENT], 1)["patient"]["Value"]


def technique(metadata, frame_number=1):
    return annotated(metadata, [Annotation.TECHNIQUE], frame_number)["technique"]["Value"]


def named(**groups):
    return {"00100010": {"vr": "PN", "Value": [groups]}}


def test_a_ct_slice_says_who_it_is_and_how_it_was_made():
    metadata = read(BUNDLED / "CT_small.dcm").metadata
    assert patient(metadata) == ["CompressedSamples, CT1", "ID 1CT1", "O", "JFK IMAGING CENTER", "2004-01-19"]
    assert technique(metadata) == [
        "CT",
        "Image 1",
        "120 kV",
        "170 mA",
        "1601 ms",
        "170 mAs",
        "Kernel STANDARD",
        "Thickness 5 mm",
        "Location -77.2041 mm",
    ]


def test_a_magnetic_resonance_slice_has_times_and_field_strength():
    metadata = read(BUNDLED / "MR_small.dcm").metadata | {"00180087": element("DS", 1.5)}
    expected = ["MR", "Image 1", "1.5 T", "TR 4000 ms", "TE 240 ms", "Flip 90°", "Thickness 0.8 mm", "Location 0 mm"]
    assert technique(metadata) == expected


def test_what_is_asked_for_is_there_and_nothing_else():
    metadata = read(BUNDLED / "CT_small.dcm").metadata
    assert annotated(metadata, [], 1) == {}
    assert list(annotated(metadata, [Annotation.TECHNIQUE], 1)) == ["technique"]
    assert set(annotated(metadata, BOTH, 1)) == {"patient", "technique"}
    assert annotated({}, BOTH, 1) == {"patient": {"Value": []}, "technique": {"Value": []}}


def group(**values):
    return {"00209111": sequence({}), "00280000": {"vr": "UL"}} | {
        macro: sequence({tag.removeprefix("t"): value}) for macro, (tag, value) in values.items()
    }


def test_each_frame_has_the_values_of_its_own_functional_groups():
    timing, measures = "t00180080", "t00180050"
    per_frame = [
        group(**{"00189112": (timing, element("DS", 500.0)), "00289110": (measures, element("DS", thickness))})
        for thickness in (3.0, 4.5)
    ]
    shared = group(**{"00289110": (measures, element("DS", 9)), "00189115": ("t00181314", element("DS", 70))})
    metadata = {
        "00080060": element("CS", "MR"),
        "0008103E": element("LO", "t2 tse"),
        "00180050": element("DS", 8),
        "00280008": element("IS", 3),
        "52009229": sequence(shared),
        "52009230": sequence(*per_frame),
    }
    assert technique(metadata, 1) == ["MR  t2 tse", "TR 500 ms", "Flip 70°", "Thickness 3 mm", "Frame 1 of 3"]
    assert technique(metadata, 2)[1:] == ["TR 500 ms", "Flip 70°", "Thickness 4.5 mm", "Frame 2 of 3"]
    assert technique(metadata, 3)[1:] == ["Flip 70°", "Thickness 9 mm", "Frame 3 of 3"]
    del metadata["52009229"]
    assert technique(metadata, 3)[1:] == ["Thickness 8 mm", "Frame 3 of 3"]


def test_an_enhanced_object_is_read_in_its_groups():
    lines = technique(read(SAMPLES / enhanced()).metadata, 2)
    assert lines[-1].startswith("Frame 2 of ")
    assert any(line.startswith("Thickness ") for line in lines)


def enhanced():
    manifest = json.loads((SAMPLES / "manifest.json").read_text(encoding="utf-8"))
    found = (row["file"] for row in manifest if row["frames"] and row["frames"] > 1)
    return next(name for name in found if "52009229" in read(SAMPLES / name).metadata)


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        ({"Alphabetic": "Doe^Jane"}, "Doe, Jane"),
        ({"Alphabetic": "Adams^John Robert Quincy^^Rev.^B.A. M.Div."}, "Adams, Rev. John Robert Quincy B.A. M.Div."),
        ({"Alphabetic": "Kowalski^Łukasz^Żółć"}, "Kowalski, Łukasz Żółć"),
        ({"Alphabetic": "Люкceмбypг"}, "Люкceмбypг"),
        (
            {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
            "Yamada, Tarou (山田, 太郎)",
        ),
        ({"Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}, "山田, 太郎 (やまだ, たろう)"),
        ({"Alphabetic": "^Jane"}, "Jane"),
        ({"Alphabetic": " Doe ^ ^^^"}, "Doe"),
        ({"Alphabetic": "Doe^J^^^^^^^more"}, "Doe, J"),
    ],
)
def test_a_name_is_written_as_people_do(groups, line):
    assert patient(named(**groups)) == [line]


@pytest.mark.parametrize("name", ["chrH31", "chrRuss", "chrGreek", "chrX1"])
def test_names_of_many_scripts_come_whole(name):
    path = BUNDLED.parent / "charset_files" / f"{name}.dcm"
    (line, *_) = patient(read(path).metadata)
    family = str(read(path).data_set.PatientName).split("=")[0].split("^")[0]
    assert line.startswith(family)


@pytest.mark.parametrize("value", ["", None, [], {}, "^^^^"])
def test_who_has_no_name_has_no_line(value):
    assert patient({"00100010": {"vr": "PN", "Value": [{"Alphabetic": value}]}}) == []
    assert patient({"00100010": {"vr": "PN", "Value": [value]}}) == []


@pytest.mark.parametrize(
    ("written", "shown"),
    [("19700131", "1970-01-31"), ("1970", "1970"), ("1970.01.31", "1970.01.31"), ("unknown?", "unknown?")],
)
def test_a_date_is_easy_to_read_if_it_is_one(written, shown):
    assert patient({"00100030": element("DA", written), "00100040": element("CS", "F")}) == [f"{shown}  F"]


def test_control_characters_and_line_breaks_are_blanks():
    metadata = named(Alphabetic="Do\x1be^J\n\ra\u202en\u2028e\0") | {"00100020": element("LO", "1\t2\u200b3")}
    assert patient(metadata) == ["Do e, J  a n e", "ID 1 2 3"]


LONG = "x" * 10_240


def test_long_values_are_cut():
    tags = ("00100010", "00100020", "00100030", "00100040", "00080080", "00080020", "00080060", "0008103E", "00200013")
    metadata = {tag: element("LO", LONG) for tag in tags} | named(Alphabetic=f"{LONG}^{LONG}", Ideographic=LONG)
    lines = [*patient(metadata), *technique(metadata)]
    assert len(lines) == 7
    assert all(len(line) <= 2 * 64 + 2 for line in lines)
    assert all("…" in line for line in lines)


def test_many_values_are_cut_as_well():
    (line,) = technique({"00181210": element("SH", *["H30s"] * 5000)})
    assert line == f"Kernel {'H30s, ' * 10}H30…"


def test_numbers_are_rounded():
    metadata = {"00201041": element("DS", -77.20405555), "00180060": element("DS", 120.0)}
    assert technique(metadata) == ["120 kV", "Location -77.2041 mm"]


def test_a_thumbnail_takes_no_annotation_and_ignores_what_is_there():
    with pytest.raises(BadRequest):
        RenderOptions(PNG, is_thumbnail=True, annotation=BOTH)
    source = read(BUNDLED / "CT_small.dcm")
    lines = annotated(source.metadata, BOTH, 1)
    small = RenderOptions(PNG, is_thumbnail=True)
    plain, marked = (
        render(metadata, source.transfer_syntax_uid, 1, source.frames[0], small)
        for metadata in (source.metadata, source.metadata | lines)
    )
    assert plain == marked


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=100)
elements = st.lists(values | st.dictionaries(st.sampled_from(["Alphabetic", "Ideographic"]), values), max_size=4).map(
    lambda found: {"vr": "LO", "Value": found}
) | st.sampled_from([None, "x", {}, {"Value": None}, {"Value": {}}])
TAGS = ("00100010", "00100020", "00100030", "00100040", "00080020", "00080060", "00181210", "00280008", "00180050")
groups = st.dictionaries(
    st.sampled_from(["00289110", "00189112"]),
    st.dictionaries(st.sampled_from(TAGS), elements).map(lambda item: {"Value": [item]}) | elements,
)


@given(st.dictionaries(st.sampled_from(TAGS), elements), st.lists(groups | values, max_size=3), st.integers(1, 4))
def test_whatever_strangers_write_becomes_short_lines(metadata, per_frame, frame_number):
    metadata |= {"52009230": {"Value": per_frame}, "52009229": {"Value": per_frame[:1]}}
    for kind in annotated(metadata, BOTH, frame_number).values():
        for line in kind["Value"]:
            assert 0 < len(line) <= 140
            assert line.isprintable()
