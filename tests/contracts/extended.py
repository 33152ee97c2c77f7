"""What every Index promises of extended attributes. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

import base64
import contextlib
import random
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.attributes import by_tag, extended_by, level_attributes
from storage.dicomjson import pack_metadata
from storage.errors import BadQuery
from storage.extended import read_extended
from storage.index.probes import probes_of
from storage.matching import Match, Query
from storage.model import Level, Outcome, Progress, Scope
from tests.contracts.index import (
    ASKED_NAMES,
    ASKED_TEXTS,
    HELD_NAMES,
    HELD_TEXTS,
    INJECTIONS,
    archive_and_questions,
    matching,
)
from tests.fix_index import EXPLICIT, data_set, entry, series_scope, study_scope, uid

COIL, STEP = "00191008:LO@series", "ProcedureCodeSequence.CodeValue"
TEXTS = (
    COIL,
    "00191009:PN@study",
    "0019100A:IS",
    "0019100B:DA@patient",
    "0019100C:TM",
    "0019100D:DT@series",
    "0019100E:UI",
    "0019100F:CS@study",
    "00191010:PN",
    "PatientComments",
    "Manufacturer",
    STEP,
    "00091020.00091021:LO@series",
    "00091020.00091022:IS@series",
    "00400275.ScheduledProcedureStepDescription",
)
EXTENDED = read_extended(TEXTS)
# In several groups of which each alone is somebody's, and with a blank that only the words of a name have.
MORE_NAMES = ("yamada*=山田*", "h*=山田*", "*o*=*=*", "y*==や*", "h*==や*", "?*=山田^?*=や*", "*oe j*", "* *", " j*")


def stored(*numbers: int, **said):
    """An entry with its true metadata; attributes are taken by the table of this moment."""
    made = entry(*numbers, **said)
    identity = {"SeriesNumber": numbers[1], "InstanceNumber": numbers[2]}
    plain = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20260102", "Modality": "CT"}
    named = {name: value for name, value in said.items() if name not in ("json", "content")}
    elements = data_set(**{**identity, **plain, **named}) | dict(said.get("json") or {})
    return replace(made, metadata=pack_metadata(elements, EXPLICIT))


def held(tag: str, *values: object, vr: str = "LO") -> dict:
    return {tag: {"vr": vr, "Value": list(values)}}


def asked(tag: str, text: str, level: Level = Level.STUDY, **options: bool) -> Query:
    return Query(level, (Match.of(by_tag(tag), text, **options),))


def numbers_of(answers) -> list[int]:
    """The numbers of the studies of answers."""
    return sorted({int(one.scope.study_instance_uid.rpartition(".")[2]) for one in answers})


def _name(given: object) -> object:
    return {"Alphabetic": given} if isinstance(given, str) else given


def index_all(index) -> int:
    """Index what is lacking; returns how many steps that took."""
    steps = 0
    while not index.index_extended().is_complete:
        steps += 1
    return steps


class ExtendedContract:
    """Inherit it, and say in ``open`` how an index in a folder is opened."""

    @contextlib.contextmanager
    def opened(self, folder, *texts):
        """The index in a folder, of a process with these extended tags."""
        with extended_by(read_extended(texts)), self.open(folder) as index:
            yield index

    @settings(
        deadline=None, max_examples=26, suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors]
    )
    @given(made=archive_and_questions(list(EXTENDED)), early=st.integers(0, 4))
    def test_a_search_answers_as_if_it_had_asked_match_accepts_of_every_row_whenever_it_was_stored(self, made, early):
        archive, questions, is_fuzzy = made

        def add(index, number, elements):
            plain = {"SeriesNumber": None, "InstanceNumber": None, "PatientID": None, "PatientName": None}
            made = entry(number, number, number, json=elements, **plain, StudyDate=None, Modality=None)
            index.add(replace(made, metadata=pack_metadata(elements, EXPLICIT)))

        with tempfile.TemporaryDirectory() as folder:
            with self.opened(Path(folder)) as index:
                for number, elements in enumerate(archive[:early]):
                    add(index, number, elements)
            with self.opened(Path(folder), *TEXTS) as index:
                for number, elements in enumerate(archive[early:], start=early):
                    add(index, number, elements)
                index_all(index)
                for matches in [*((match,) for match in questions), tuple(questions[:3])]:
                    if len([match for match in matches if match.attribute.is_nested]) > 1:
                        continue  # same item: has tests of its own
                    for level in Level:
                        search = Query(level, matches, fuzzy=is_fuzzy)
                        accepted = matching(archive, search.conditions(), {})
                        found = index.search(search)
                        if level is Level.PATIENT:  # every study is a patient of its own
                            assert len(found) == len(accepted)
                        else:
                            assert numbers_of(found) == sorted(accepted)

    def test_what_is_stored_is_found_and_returned_at_its_level_and_below_and_by_upper_levels(self, tmp_path):
        with self.opened(tmp_path, COIL, "KVP") as index:
            index.add(stored(1, 11, 111, json=held("00191008", "HEAD") | held("00180060", 120, vr="DS")))
            index.add(stored(2, 21, 211, json=held("00191008", "BODY")))
            for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
                assert numbers_of(index.search(asked("00191008", "HEAD", level))) == [1]
                assert numbers_of(index.search(asked("00180060", "120.0", level))) == [1]
            (series,) = index.search(asked("00191008", "B*", Level.SERIES))
            assert series.attributes["00191008"] == {"vr": "LO", "Value": ["BODY"]}
            named = Query(Level.INSTANCE, scope=series_scope(1, 11), include=frozenset(("00191008", "00180060")))
            (instance,) = index.search(named)
            assert instance.attributes["00180060"]["Value"] == [120]
            assert instance.attributes["00191008"]["Value"] == ["HEAD"]
            (plain,) = index.search(Query(Level.SERIES, scope=study_scope(2)))
            assert "00191008" not in plain.attributes
            (everything,) = index.search(Query(Level.SERIES, scope=study_scope(2), include="all"))
            assert everything.attributes["00191008"]["Value"] == ["BODY"]

    @pytest.mark.parametrize("text", [*TEXTS[:10]])
    def test_a_nul_within_a_value_keeps_no_instance_out(self, tmp_path, text):
        (attribute,) = read_extended([text])
        value = {"Alphabetic": "a\0b"} if attribute.vr == "PN" else "a\0b"
        with self.opened(tmp_path, text) as index:
            receipt = index.add(stored(1, 1, 1, json=held(attribute.tag, value, vr=attribute.vr)))
            assert receipt.outcome is Outcome.STORED
            assert numbers_of(index.search(Query(Level.STUDY))) == [1]

    def test_a_later_instance_fills_a_gap_of_its_study_and_the_first_value_stays(self, tmp_path):
        with self.opened(tmp_path, "0019100F:CS@study", COIL) as index:
            index.add(stored(1, 11, 111))
            assert numbers_of(index.search(asked("0019100F", "A"))) == []
            assert numbers_of(index.search(asked("0019100F", '""', empty=True))) == [1]
            index.add(stored(1, 11, 112, json=held("0019100F", "A", vr="CS") | held("00191008", "X")))
            index.add(stored(1, 11, 113, json=held("0019100F", "B", vr="CS")))
            assert numbers_of(index.search(asked("0019100F", "A"))) == [1]
            assert numbers_of(index.search(asked("0019100F", "B"))) == []
            assert numbers_of(index.search(asked("00191008", "X", Level.SERIES))) == [1]
            assert index_all(index) == 0

    def test_what_is_deleted_is_not_found_and_leaves_no_rows(self, tmp_path):
        with self.opened(tmp_path, COIL, "0019100F:CS@study", "KVP") as index:
            everywhere = held("00191008", "X") | held("0019100F", "A", vr="CS") | held("00180060", 1, vr="DS")
            for number in (1, 2):
                index.add(stored(number, number, number, json=everywhere))
            index.delete(study_scope(2))
            for tag, text in (("00191008", "X"), ("0019100F", "A"), ("00180060", "1")):
                assert numbers_of(index.search(asked(tag, text))) == [1]
            index.delete(stored(1, 1, 1).instance.scope)
            for name in ("study", "series", "instance"):
                assert index._rows(f"SELECT count(*) FROM {name}_extended", ()) == [(0,)]

    def test_keys_of_one_sequence_must_be_fulfilled_by_the_same_item(self, tmp_path):
        def item(first: str, second: int) -> dict:
            return held("00091021", first) | held("00091022", second, vr="IS")

        with self.opened(tmp_path, "00091020.00091021:LO@series", "00091020.00091022:IS@series") as index:
            index.add(stored(1, 1, 1, json=held("00091020", item("A", 1), item("B", 2), vr="SQ")))
            index.add(stored(2, 2, 2, json=held("00091020", item("A", 2), vr="SQ")))

            def found(first: str, second: str) -> list[int]:
                keys = (("00091020.00091021", first), ("00091020.00091022", second))
                matches = tuple(Match.of(by_tag(tag), text) for tag, text in keys)
                results = [numbers_of(index.search(Query(level, matches))) for level in (Level.STUDY, Level.SERIES)]
                assert results[0] == results[1]
                return results[0]

            assert found("A", "2") == [2]
            assert found("A", "1") == [1]
            assert found("?", "2") == [1, 2]
            assert found("B", "1") == []
            (series,) = index.search(asked("00091020.00091021", "B", Level.SERIES))
            assert series.attributes["00091020"]["Value"][0] == item("A", 1)

    def test_an_extended_key_and_a_standard_one_of_a_sequence_mean_the_same_item(self, tmp_path):
        def item(step: str, description: str) -> dict:
            return held("00400009", step, vr="SH") | held("00400007", description)

        with self.opened(tmp_path, "00400275.00400007") as index:
            index.add(stored(1, 1, 1, json=held("00400275", item("S1", "head"), item("S2", "neck"), vr="SQ")))
            index.add(stored(2, 2, 2, json=held("00400275", item("S1", "neck"), vr="SQ")))

            def found(step: str, description: str) -> list[int]:
                keys = (("00400275.00400009", step), ("00400275.00400007", description))
                return numbers_of(
                    index.search(Query(Level.SERIES, tuple(Match.of(by_tag(tag), text) for tag, text in keys)))
                )

            assert found("S1", "neck") == [2]
            assert found("S2", "neck") == [1]
            assert found("S?", "n*") == [1, 2]
            assert found("S2", "head") == []

    def test_a_private_value_of_unknown_vr_is_read_by_its_vr_and_another_creator_is_another_attribute(self, tmp_path):
        def unknown(text: str, creator: str) -> dict:
            raw = base64.b64encode(text.encode("utf-8")).decode()
            character_set = held("00080005", "ISO_IR 192", vr="CS")
            return character_set | held("00190010", creator) | {"00191008": {"vr": "UN", "InlineBinary": raw}}

        entries = [("KÖPF", "ACME"), ("KÖPF", "OTHER"), ("HALS ", "ACME")]
        with self.opened(tmp_path) as index:
            index.add(stored(1, 1, 1, json=unknown(*entries[0])))
            index.add(stored(2, 2, 2, json=unknown(*entries[1])))
        with self.opened(tmp_path, "00191008/ACME:LO@series") as index:
            index.add(stored(3, 3, 3, json=unknown(*entries[2])))
            index_all(index)
            assert numbers_of(index.search(asked("00191008", "K*"))) == [1]
            assert numbers_of(index.search(asked("00191008", "HALS"))) == [3]
            assert numbers_of(index.search(asked("00191008", '""', Level.SERIES, empty=True))) == [2]
            (series,) = index.search(asked("00191008", "KÖPF", Level.SERIES))
            assert series.attributes["00191008"] == {"vr": "LO", "Value": ["KÖPF"]}
        with self.opened(tmp_path, "00191008:LO@series") as index:
            index_all(index)
            assert numbers_of(index.search(asked("00191008", "K*"))) == [1, 2]
        with self.opened(tmp_path, "00191008/ACME:LO@series") as index:
            index_all(index)
            assert numbers_of(index.search(asked("00191008", "K*"))) == [1]
            (other,) = index.search(asked("00191008", '""', Level.SERIES, empty=True))
            assert other.attributes["00191008"] == {"vr": "LO"}
            assert numbers_of([other]) == [2]

    # -- index anew

    def test_the_first_value_that_came_is_that_of_a_study_however_many_steps_apart(self, tmp_path):
        with self.opened(tmp_path) as index:
            for number in range(1, 251):
                given = {30: "A", 120: "B", 250: "C"}.get(number)
                index.add(stored(1, 1, number, json=held("0019100F", given, vr="CS") if given else {}))
            for number in range(251, 500):
                index.add(stored(2, 2, number, json=held("0019100F", "D", vr="CS") if number == 499 else {}))
        with self.opened(tmp_path, "0019100F:CS@study", "KVP") as index:
            assert index_all(index) == 4
            found = [numbers_of(index.search(asked("0019100F", text))) for text in "ABCD"]
            assert found == [[1], [], [], [2]]
            answers = index.search(Query(Level.STUDY, include=frozenset(("0019100F",))))
            assert [one.attributes["0019100F"]["Value"] for one in answers] == [["D"], ["A"]]

    @pytest.mark.parametrize("is_fuzzy", [False, True])
    @pytest.mark.parametrize("text", ["00191009:PN@study", "00191009:PN@series", "00191009:PN"])
    def test_extended_names_alone_or_among_several_are_found_in_each_component_group(self, tmp_path, text, is_fuzzy):
        names = [[name] for name in HELD_NAMES] + [[HELD_NAMES[-1 - n], name] for n, name in enumerate(HELD_NAMES)]
        elements = [held("00191009", *(_name(one) for one in given), vr="PN") for given in names]
        with self.opened(tmp_path, text) as index:
            for number, element in enumerate(elements):
                index.add(stored(number, number, number, json=element))
            hits = 0
            for wanted in (*ASKED_NAMES, *MORE_NAMES):
                search = Query(Level.STUDY, (Match.of(by_tag("00191009"), wanted),), fuzzy=is_fuzzy)
                accepted = sorted(matching(elements, search.conditions(), {}))
                assert numbers_of(index.search(search)) == accepted, wanted
                hits += len(accepted)
            assert hits > 60

    def test_text_fits_the_same_patterns_as_it_does_in_a_column(self, tmp_path):
        elements = [held("00191008", *values) for values in HELD_TEXTS]
        with self.opened(tmp_path, COIL) as index:
            for number, element in enumerate(elements):
                index.add(stored(number, number, number, json=element))
            hits = 0
            for wanted in (*ASKED_TEXTS, *INJECTIONS):
                match = Match.of(by_tag("00191008"), wanted)
                accepted = sorted(matching(elements, [match], {}))
                assert numbers_of(index.search(Query(Level.STUDY, (match,)))) == accepted, wanted
                hits += len(accepted)
            assert hits > 200

    def test_a_value_that_more_have_than_a_probe_names_hides_no_other(self, tmp_path):
        with self.opened(tmp_path, COIL, "KVP") as index:
            common = held("00191008", "X") | held("00180060", 80, vr="DS")
            for number in range(1, 1003):
                index.add(stored(1, number, number, json=common))
            index.add(stored(2, 2000, 2000, json=common))
            for tag, text in (("00191008", "X"), ("00180060", "80"), ("00191008", "X*")):
                assert numbers_of(index.search(asked(tag, text))) == [1, 2]
                assert len(index.search(asked(tag, text, Level.INSTANCE))) == 1003
            (probe,) = probes_of(asked("00180060", "80"), index._engine.dialect)
            assert len(index._rows(*probe.statement)) == 2, "each study once"

    def test_of_large_metadata_a_step_takes_few(self, tmp_path):
        large = held("00081050", base64.b64encode(random.Random(1).randbytes(2 << 20)).decode())
        with self.opened(tmp_path) as index:
            for number in range(1, 7):
                index.add(stored(number, number, number, json=held("00191008", "X") | large))
        with self.opened(tmp_path, COIL) as index:
            done = [index.index_extended() for _ in range(3)]
            assert [one.count for one in done] == [2, 2, 2]
            assert done[-1].is_complete
            assert len(numbers_of(index.search(asked("00191008", "X")))) == 6

    def test_tags_that_are_not_equally_far_go_on_together_where_they_meet(self, tmp_path):
        with self.opened(tmp_path, COIL) as index:
            for number in range(1, 151):
                index.add(stored(number, number, number, json=held("00191008", "X")))
        with self.opened(tmp_path) as index:
            for number in range(151, 401):
                index.add(stored(number, number, number, json=held("00180060", 80, vr="DS")))
        with self.opened(tmp_path, COIL, "KVP") as index:
            done = []
            while not done or not done[-1].is_complete:
                done.append(index.index_extended())
            assert [(one.done, one.count) for one in done] == [(100, 100), (150, 50), (250, 100), (350, 100), (400, 50)]
            assert len(numbers_of(index.search(asked("00191008", "X")))) == 150
            assert len(numbers_of(index.search(asked("00180060", "80")))) == 250

    def test_a_search_is_refused_until_all_that_was_stored_before_is_indexed(self, tmp_path):
        with self.opened(tmp_path) as index:
            for number in range(1, 251):
                index.add(stored(number, number, number, json=held("00191008", f"C{number % 2}")))
        with self.opened(tmp_path, COIL) as index:
            done = []
            for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
                with pytest.raises(BadQuery, match="indexed") as refusal:
                    index.search(asked("00191008", "C1", level))
                assert refusal.value.tag == "00191008"
            while not (progress := index.index_extended()).is_complete:
                done.append(progress)
                with pytest.raises(BadQuery, match="indexed"):
                    index.search_json(asked("00191008", "C1"), str)
                index.add(stored(1000 + len(done), 1000 + len(done), 1000 + len(done), json=held("00191008", "C1")))
            assert [one.done for one in done] == [100, 200]
            assert not any(one.is_contended for one in done)
            assert numbers_of(index.search(asked("00191008", "C1"))) == [*range(1, 250, 2), 1001, 1002]
            assert index_all(index) == 0

    def test_a_tag_that_another_process_does_not_know_is_refused_until_it_is_complete_again(self, tmp_path):
        with self.opened(tmp_path, COIL) as index:
            index.add(stored(1, 1, 1, json=held("00191008", "X")))
            assert numbers_of(index.search(asked("00191008", "X"))) == [1]
        with self.opened(tmp_path) as index:
            assert by_tag("00191008") is None
            index.add(stored(2, 2, 2, json=held("00191008", "X")))
        with self.opened(tmp_path, COIL) as index:
            index.add(stored(3, 3, 3, json=held("00191008", "X")))
            with pytest.raises(BadQuery):
                index.search(asked("00191008", "X"))
            assert index.index_extended() == Progress(3, 3, 2)
            assert numbers_of(index.search(asked("00191008", "X"))) == [1, 2, 3]

    def test_an_id_that_is_given_again_is_not_taken_for_one_that_was_indexed(self, tmp_path):
        with self.opened(tmp_path, COIL) as index:
            index.add(stored(1, 1, 1, json=held("00191008", "X")))
            index.add(stored(2, 2, 2, json=held("00191008", "X")))
        with self.opened(tmp_path) as index:
            index.delete(study_scope(2))
            index.add(stored(3, 3, 3, json=held("00191008", "X")))
        with self.opened(tmp_path, COIL) as index:
            with pytest.raises(BadQuery):
                index.search(asked("00191008", "X"))
            index_all(index)
            assert numbers_of(index.search(asked("00191008", "X"))) == [1, 3]
            index.delete(study_scope(3))
            assert numbers_of(index.search(asked("00191008", "X"))) == [1]
            index.add(stored(4, 4, 4, json=held("00191008", "X")))
            assert numbers_of(index.search(asked("00191008", "X"))) == [1, 4]

    @pytest.mark.parametrize(
        "text", ["00191008:IS@series", "00191008:LO@study", "00191008:LO", "00191008/ACME:LO@series"]
    )
    def test_a_tag_that_becomes_another_attribute_is_indexed_anew(self, tmp_path, text):
        creator = held("00190010", "ACME")
        with self.opened(tmp_path, COIL) as index:
            index.add(stored(1, 1, 1, json=held("00191008", "007")))
            index.add(stored(1, 1, 2, json=held("00191008", "08") | creator))
            index.add(stored(2, 2, 3))
        (attribute,) = read_extended([text])
        first = (
            "08" if attribute.creator or attribute.level is Level.INSTANCE else "7" if attribute.vr == "IS" else "007"
        )
        with self.opened(tmp_path, text) as index:
            with pytest.raises(BadQuery):
                index.search(asked("00191008", first))
            index_all(index)
            assert numbers_of(index.search(asked("00191008", first, attribute.level))) == [1]
            found = index.search(Query(attribute.level, include=frozenset(("00191008",))))
            values = [(one.attributes["00191008"].get("Value") or [""])[0] for one in found]
            assert set(values) == {"007", "", *(["08"] if first == "08" else [])} - (
                {"007"} if attribute.creator else set()
            )
        with self.opened(tmp_path, COIL) as index:
            with pytest.raises(BadQuery):
                index.search(asked("00191008", "007"))
            index_all(index)
            assert numbers_of(index.search(asked("00191008", "007"))) == [1]
            assert numbers_of(index.search(asked("00191008", "08"))) == []

    def test_a_key_more_of_a_sequence_has_its_items_indexed_anew(self, tmp_path):
        one, other = held("00091021", "A"), held("00091022", 5, vr="IS")
        with self.opened(tmp_path, "00091020.00091021:LO@series") as index:
            index.add(stored(1, 1, 1, json=held("00091020", other, vr="SQ")))
            index.add(stored(1, 1, 2, json=held("00091020", one, vr="SQ")))
            assert numbers_of(index.search(asked("00091020.00091021", "A"))) == [1]
        with self.opened(tmp_path, "00091020.00091021:LO@series", "00091020.00091022:IS@series") as index:
            for tag, text in (("00091020.00091021", "A"), ("00091020.00091022", "5")):
                with pytest.raises(BadQuery):
                    index.search(asked(tag, text))
            index_all(index)
            assert numbers_of(index.search(asked("00091020.00091022", "5"))) == [1]
            assert numbers_of(index.search(asked("00091020.00091021", "A"))) == []  # of another sequence than the first

    def test_indexing_changes_nothing_that_the_standard_keys_find_or_return(self, tmp_path):
        request = held("00400275", held("00400009", "S1", vr="SH") | held("00400007", "head"), vr="SQ")
        with self.opened(tmp_path) as index:
            index.add(stored(1, 1, 1, json=held("00104000", "first", vr="LT")))
            index.add(stored(1, 1, 2, json=request | held("00104000", "second", vr="LT")))
            index.delete(stored(1, 1, 1).instance.scope)
        with self.opened(tmp_path, "PatientComments", "00400275.00400007") as index:
            index_all(index)
            assert numbers_of(index.search(asked("00104000", "first"))) == []
            assert numbers_of(index.search(asked("00104000", "second"))) == [1]
            assert numbers_of(index.search(asked("00400275.00400009", "S1", Level.SERIES))) == [1]
            assert numbers_of(index.search(asked("00400275.00400007", "head", Level.SERIES))) == [1]
            (series,) = index.search(Query(Level.SERIES, include=frozenset(("00400275", "00104000"))))
            assert series.attributes["00400275"] == request["00400275"]
            assert series.attributes["00104000"]["Value"] == ["second"]

    def test_several_may_index_while_others_store_and_delete_and_nothing_is_missing(self, tmp_path):
        with self.opened(tmp_path) as index:
            for number in range(1, 401):
                index.add(stored(number, number, number, json=held("00191008", f"C{number % 3}")))
        with (
            extended_by(read_extended([COIL])),
            self.open(tmp_path) as one,
            self.open(tmp_path) as other,
            ThreadPoolExecutor(4) as pool,
        ):
            together = threading.Barrier(4)

            def index_them(index) -> int:
                together.wait()
                return index_all(index)

            def store() -> None:
                together.wait()
                for number in range(1001, 1041):
                    one.add(stored(number, number, number, json=held("00191008", "C1")))

            def delete() -> None:
                together.wait()
                for number in range(1, 41):
                    other.delete(Scope(uid(number)))

            for future in [
                pool.submit(index_them, one),
                pool.submit(index_them, other),
                pool.submit(store),
                pool.submit(delete),
            ]:
                future.result()
            index_all(one)
            kept = [*range(41, 401), *range(1001, 1041)]
            expected = [number for number in kept if number > 1000 or number % 3 == 1]
            assert numbers_of(other.search(asked("00191008", "C1"))) == expected
            assert one._rows("SELECT count(*) FROM series_extended", ()) == [(len(kept),)]

    def test_a_definition_that_is_not_that_of_the_database_writes_nothing_under_the_tag(self, tmp_path):
        with self.opened(tmp_path, "00191008:IS@series") as old:
            old.add(stored(1, 1, 1, json=held("00191008", "7")))
            with self.opened(tmp_path, COIL) as new:
                index_all(new)
                assert numbers_of(new.search(asked("00191008", "7"))) == [1]
            with extended_by(read_extended(["00191008:IS@series"])):
                old.add(stored(2, 2, 2, json=held("00191008", "08")))
                with pytest.raises(BadQuery):
                    old.search(asked("00191008", "7"))
        with self.opened(tmp_path, COIL) as new:
            with pytest.raises(BadQuery):
                new.search(asked("00191008", "08"))
            index_all(new)
            assert numbers_of(new.search(asked("00191008", "08"))) == [2]

    def test_the_table_of_a_process_is_what_it_was_before(self):
        with extended_by(read_extended([COIL, "PatientComments"])):
            assert by_tag("00191008").level is Level.SERIES
            assert by_tag("00104000").is_key
            assert level_attributes(held("00191008", "X"))[Level.SERIES] == held("00191008", "X")
        assert by_tag("00191008") is None
        assert not by_tag("00104000").is_key
        assert level_attributes(held("00191008", "X"))[Level.SERIES] == {}
