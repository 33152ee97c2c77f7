"""Forms of output: aligned, inert in spreadsheets, JSON that is JSON, and harmless to terminals."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.query.output import fitted, write_csv, write_json, write_table, write_tabs
from gateway.query.search import read_field
from gateway.query.text import columns

NAME, ID, UID = (read_field(name) for name in ("PatientName", "PatientID", "StudyInstanceUID"))


def answer(name="Doe^Jane", patient_id="1", uid="1.2.3"):
    return {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]},
        "00100020": {"vr": "LO", "Value": [patient_id]},
        "0020000D": {"vr": "UI", "Value": [uid]},
    }


def table(answers, width, fields=(ID, NAME, UID)):
    out = io.StringIO()
    write_table(fields, answers, out, width)
    return out.getvalue().splitlines()


def test_a_table_is_aligned_also_with_wide_characters():
    lines = table([answer("水野^遥", "1"), answer("Doe", "22")], 80)
    assert lines == [
        "PatientID  PatientName  StudyInstanceUID",
        "1          水野^遥      1.2.3",
        "22         Doe          1.2.3",
    ]


def test_no_answer_is_no_table():
    assert table([], 80) == []


def test_a_narrow_terminal_cuts_text_before_uids():
    uid = "1.2.840.99999.12345"
    lines = table([answer("N" * 50, "I" * 50, uid)], 50)
    assert all(columns(line) <= 50 for line in lines)
    assert lines[1].endswith(uid)
    assert lines[1].count("…") == 2


def test_a_uid_is_whole_or_not_there_and_what_it_leaves_is_given_to_text():
    uid = "1.2.840.99999.12345"
    heading, line = table([answer("N" * 50, "I" * 50, uid)], 40, (ID, UID, NAME))
    assert heading.split() == ["PatientID", "PatientName"]
    assert line == f"{'I' * 18}…  {'N' * 18}…"


@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), min_size=1, max_size=12), st.integers(1, 300))
def test_columns_always_fit(wanted, width):
    widths = fitted([room for room, _ in wanted], [is_uid for _, is_uid in wanted], width)
    shown = [one for one in widths if one]
    assert shown
    assert sum(shown) + 2 * (len(shown) - 1) <= width
    assert all(got <= room for got, (room, _) in zip(widths, wanted, strict=True))
    assert len(shown) == 1 or all(
        got in (0, room) for got, (room, is_uid) in zip(widths, wanted, strict=True) if is_uid
    )


def test_answers_after_the_surveyed_ones_keep_to_the_columns():
    lines = table([answer("A")] * 1000 + [answer("N" * 500)], 60)
    assert len(lines) == 1002
    assert all(columns(line) <= 60 for line in lines)


@pytest.mark.parametrize(
    "value", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", '=HYPERLINK("x")']
)
def test_a_formula_is_made_text_in_csv(value):
    out = io.StringIO()
    write_csv((ID,), [answer(patient_id=value)], out)
    (heading,), (cell,) = csv.reader(io.StringIO(out.getvalue()))
    assert heading == "PatientID"
    assert cell.startswith("'")


@pytest.mark.parametrize("value", ["-5", "+3.25", "a=b", "Doe^Jane", "1.2.3", "a,b", 'say "x"', ""])
def test_other_values_stay_as_they_are_in_csv(value):
    out = io.StringIO()
    write_csv((ID,), [answer(patient_id=value)], out)
    assert list(csv.reader(io.StringIO(out.getvalue())))[1:] == ([[value]] if value else [[""]])


def test_lines_with_tabs_have_as_many_cells_as_columns_whatever_is_in_them():
    out = io.StringIO()
    write_tabs((ID, NAME, UID), [answer("a\tb\nc", "\x1b[2J")], out)
    assert out.getvalue() == "\ufffd[2J\ta b c\t1.2.3\n"


def test_json_is_one_array_of_what_came_and_harmless():
    answers = [answer("\x1b\x9b\u202e"), answer("水野")]
    out = io.StringIO()
    write_json(answers, out)
    assert json.loads(out.getvalue()) == answers
    assert not {"\x1b", "\x9b", "\u202e"} & set(out.getvalue())
    assert "水野" in out.getvalue()


def test_json_of_nothing_is_an_empty_array():
    out = io.StringIO()
    write_json([], out)
    assert out.getvalue() == "[]\n"


def test_json_that_an_error_cut_short_is_no_json():
    def failing():
        yield answer()
        raise ConnectionError

    out = io.StringIO()
    with pytest.raises(ConnectionError):
        write_json(failing(), out)
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.getvalue())
