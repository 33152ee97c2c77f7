"""The schema: migrations lead to one place, a later release is refused, columns follow the attribute table, and the
questions that are asked most are answered by an index.
"""

from __future__ import annotations

import contextlib
import random
import re

import orjson
import pytest

from storage.attributes import ATTRIBUTES, by_keyword, by_tag, extended_by
from storage.errors import StorageUnavailable
from storage.extended import read_extended
from storage.index import open_index, sqlite_version
from storage.index.columns import columns, words_column
from storage.index.dialect import POSTGRESQL, SQLITE
from storage.index.probes import outliers_of, probes_of
from storage.index.schema import _statements, migrations
from storage.index.sql import Lead, plan_of, search_statement
from storage.index.sqlite import OLDEST_SQLITE, SqliteIndex, check_version, connect, migrate, version_of
from storage.matching import Match, Query
from storage.model import Extent, Level, Scope
from tests.fix_index import data_set, entry, study_scope


def schema_of(connection) -> list[tuple]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()


@pytest.fixture
def fresh(tmp_path):
    open_index(tmp_path / "fresh.sqlite").close()
    with contextlib.closing(connect(tmp_path / "fresh.sqlite")) as connection:
        yield connection


def test_a_database_that_was_migrated_step_by_step_is_as_a_fresh_one(tmp_path, fresh):
    path = tmp_path / "migrated.sqlite"
    for number, _ in migrations("sqlite"):
        with contextlib.closing(connect(path)) as connection:
            migrate(connection, to=number)
            assert version_of(connection) == number
    with contextlib.closing(connect(path)) as connection:
        assert schema_of(connection) == schema_of(fresh)


def test_opening_again_migrates_nothing(tmp_path, fresh):
    before = fresh.execute("SELECT * FROM schema_version").fetchall()
    open_index(tmp_path / "fresh.sqlite").close()
    assert fresh.execute("SELECT * FROM schema_version").fetchall() == before
    assert [version for version, _ in before] == [number for number, _ in migrations("sqlite")]


def test_a_database_of_a_later_release_is_refused_and_left_alone(tmp_path, fresh):
    later = len(migrations("sqlite")) + 1
    fresh.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, 'then')", (later,))
    with pytest.raises(StorageUnavailable, match="later release"):
        open_index(tmp_path / "fresh.sqlite")
    assert version_of(fresh) == later


def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path, monkeypatch):
    number, text = migrations("sqlite")[0]
    monkeypatch.setattr("storage.index.schema.migrations", lambda _: ((number, text + "\nCREATE nonsense;\n"),))
    with contextlib.closing(connect(tmp_path / "index.sqlite")) as connection:
        with pytest.raises(Exception, match="syntax error"):
            migrate(connection)
        assert schema_of(connection) == []


def test_a_script_is_split_at_the_ends_of_its_statements():
    text = (
        "-- a comment; with a semicolon\nCREATE TABLE a (b TEXT DEFAULT ';\n');\n\nCREATE INDEX c ON a (b);\n-- end\n"
    )
    assert [statement.split()[-1] for statement in _statements(text)] == ["');", "(b);"]


def test_every_key_of_the_attribute_table_has_its_columns(fresh):
    tables = {Level.PATIENT: "study", Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "instance"}
    for attribute in (one for one in ATTRIBUTES if one.is_key):
        held = {row[1] for row in fresh.execute(f"PRAGMA table_info({tables[attribute.level]})")}
        words = [words_column(attribute)] if attribute.vr == "PN" else []
        assert {*columns(attribute), *words} <= held, attribute.keyword


def test_a_database_of_the_first_release_is_filled_with_what_it_lacks(tmp_path):
    path = tmp_path / "index.sqlite"
    attributes = orjson.dumps(data_set(PatientName="Müller^Jürgen", PatientID="P10")).decode()
    with contextlib.closing(connect(path)) as connection:
        migrate(connection, to=1)
        for number in range(2500):
            connection.execute(
                "INSERT INTO study (study_instance_uid, study_order, patient_name, patient_id, attributes) "
                "VALUES (?, '0', 'müller^jürgen', 'P10', ?)",
                (f"1.2.{number}", attributes),
            )
    name, identifier = by_keyword("PatientName"), by_keyword("PatientID")
    with contextlib.closing(open_index(path)) as index:
        for query in (
            Query(Level.STUDY, (Match.of(name, "jurgen"),), fuzzy=True),
            Query(Level.STUDY, (Match.of(identifier, "*P10*"), Match.of(name, "müller*"))),
        ):
            assert len(index.search(query)) == 2500
        assert index.search(Query(Level.STUDY, (Match.of(name, "jurgens"),), fuzzy=True)) == []
    with contextlib.closing(connect(path)) as connection:
        found = connection.execute("SELECT count(*) FROM study_text WHERE study_text MATCH 'patient_id : \"P10\"'")
        assert found.fetchone() == (2500,)


def test_what_was_deleted_before_deletions_were_written_down_can_be_listed_and_brought_back(tmp_path):
    path, at = tmp_path / "index.sqlite", "2026-11-01T10:00:00.000000+00:00"
    back, gone = entry(1, 1, 1).instance, entry(1, 1, 2).instance
    with contextlib.closing(open_index(path)) as index:
        index.add(entry(1, 1, 1))
        index.add(entry(2, 2, 3))
    with contextlib.closing(connect(tmp_path / "old.sqlite")) as connection:
        migrate(connection, to=11)
        connection.execute("ATTACH ? AS new", (str(path),))
        for table in ("study", "series", "instance", "document", "change"):
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM new.{table}")
        for scope, key in (
            (gone.scope, gone.key),
            (back.scope, back.key),
            (Scope(gone.study_instance_uid, gone.series_instance_uid), ""),
            (study_scope(1), ""),
        ):
            connection.execute(
                "INSERT INTO tombstone (study_instance_uid, series_instance_uid, sop_instance_uid, object_key, "
                "deleted_at) VALUES (?, ?, ?, ?, ?)",
                (scope.study_instance_uid, scope.series_instance_uid, scope.sop_instance_uid, key, at),
            )
        connection.execute(
            "INSERT INTO change (sequence, kind, study_instance_uid, series_instance_uid, sop_instance_uid, "
            "changed_at) VALUES (9, 'deleted', ?, '', '', ?)",
            (back.study_instance_uid, at),
        )
    with contextlib.closing(open_index(tmp_path / "old.sqlite")) as index:
        (row,) = index.deletions.listed(0, 10)
        assert (row.scope, row.deleted_at, row.extent, row.kept) == (study_scope(1), at, Extent(1, 2, 2, 0), 1)
        assert [one.key for one in index.deletions.remains(study_scope(1), 0, 10)] == [gone.key]
        assert list(index.upkeep.deletions(back)) == list(index.upkeep.deletions(gone)) == [at]
        (burial,) = index.upkeep.burials(study_scope(1))
        assert [key for _, key in burial.buried] == [gone.key, back.key, "", ""]


def test_every_study_is_in_the_table_of_trigrams_or_waits_for_it_and_few_wait(tmp_path):
    path = tmp_path / "index.sqlite"
    chance = random.Random(3)
    name = by_keyword("PatientName")
    described = by_keyword("StudyDescription")
    with contextlib.closing(open_index(path)) as index, contextlib.closing(connect(path)) as connection:
        there: dict[int, bool] = {}  # whether the description is known
        for number in range(1, 400):
            act = chance.random()
            if act < 0.7 or not there:
                index.add(entry(number, number, number, PatientName=f"Patient^N{number:04}"))
                there[number] = False
            elif act < 0.85:
                study = chance.choice(list(there))
                series = chance.randrange(10_000, 10**6)
                index.add(entry(study, series, series, StudyDescription=f"seen {study:04}"))
                there[study] = True
            else:
                study = chance.choice(list(there))
                index.delete(study_scope(study))
                del there[study]
            ((waiting,),) = connection.execute("SELECT count(*) FROM study_text_pending").fetchall()
            assert waiting < 64
        indexed = connection.execute("SELECT count(*) FROM study_text").fetchone()[0]
        assert 0 < indexed < len(there)
        assert indexed + waiting == len(there)
        for study in range(1, 400):
            for key, text, is_there in (
                (name, f"*n{study:04}*", study in there),
                (described, f"*een {study:04}*", there.get(study, False)),
            ):
                found = index.search(Query(Level.STUDY, (Match.of(key, text),)))
                assert [one.scope for one in found] == ([study_scope(study)] if is_there else [])


def test_the_library_in_use_is_free_of_the_wal_reset_bug():
    assert tuple(int(part) for part in sqlite_version().split(".")) >= OLDEST_SQLITE
    check_version(OLDEST_SQLITE)
    for version in ((3, 51, 2), (3, 40, 1)):
        with pytest.raises(StorageUnavailable, match=r"3\.51\.3"):
            check_version(version)


@pytest.mark.parametrize(
    ("pragma", "expected"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("trusted_schema", 0)]
)
def test_a_connection_is_durable_and_strict(fresh, pragma, expected):
    assert fresh.execute(f"PRAGMA {pragma}").fetchone() == (expected,)


def explained(connection, statement) -> str:
    text, parameters = statement
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters))


def query_for(level: Level, scope: Scope | None = None, **keys: str) -> Query:
    matches = []
    for keyword, text in keys.items():
        attribute = by_keyword(keyword)
        assert attribute is not None
        matches.append(Match.of(attribute, text))
    return Query(level, tuple(matches), scope, limit=100)


def plan_for(connection, level: Level, scope: Scope | None = None, lead: Lead | None = None, **keys: str) -> str:
    """How SQLite would run the statement of a search, once its probes were asked."""
    query = query_for(level, scope, **keys)
    return explained(connection, search_statement(query, plan_of(query), SQLITE, lead))


@pytest.mark.parametrize(
    ("keys", "by_index"),
    [
        ({"PatientID": "A"}, "study_by_patient_id (patient_id=?)"),
        ({"PatientID": "A*"}, "study_by_patient_id (patient_id>? AND patient_id<?)"),
        ({"PatientID": "*A10*"}, "study_text VIRTUAL TABLE INDEX"),
        ({"PatientName": "Doe*"}, "study_by_patient_name (patient_name>? AND patient_name<?)"),
        ({"PatientName": "山田*"}, "study_by_patient_name_ideographic (patient_name_ideographic>?"),
        ({"PatientName": "*doe*"}, "study_text VIRTUAL TABLE INDEX"),
        ({"StudyDescription": "*head*"}, "study_text VIRTUAL TABLE INDEX"),
        ({"AccessionNumber": "A"}, "study_by_accession_number (accession_number=?)"),
        ({"ModalitiesInStudy": "CT\\MR"}, "series_by_modality (modality=?)"),
        ({"Modality": "CT"}, "series_by_modality (modality=?)"),
        ({"StudyInstanceUID": "1.2\\1.3"}, "(study_instance_uid=?)"),
        ({"SeriesInstanceUID": "1.2"}, "series_by_uid (series_instance_uid=?)"),
        ({"SOPInstanceUID": "1.2"}, "(sop_instance_uid=?)"),
    ],
)
def test_a_key_of_a_study_is_looked_up_in_its_index_and_leads_to_its_rows(fresh, keys, by_index):
    (probe,) = probes_of(query_for(Level.STUDY, **keys), SQLITE)
    looked_up = explained(fresh, probe.statement)
    assert by_index in looked_up
    assert not re.search(r"SCAN (study|series|instance)\b(?! *_text)", looked_up.replace("SCAN study_text", ""))
    led = plan_for(fresh, Level.STUDY, lead=Lead(probe.table, [1, 2]), **keys)
    assert "SEARCH study USING INTEGER PRIMARY KEY (rowid=?)" in led


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.INSTANCE])
@pytest.mark.parametrize(
    ("text", "asked", "by_index"),
    [
        ("00191008:LO@study", "A", "study_extended_by_value (tag=? AND value=?)"),
        ("00191008:LO@series", "A", "series_extended_by_value (tag=? AND value=?)"),
        ("00191008:LO@series", "A*", "series_extended_by_value (tag=? AND value>? AND value<?)"),
        ("00191008:PN", "doe^*", "instance_extended_by_value (tag=? AND value>? AND value<?)"),
        ("00191008:DA@patient", "20260101-", "study_extended_by_value (tag=? AND value>? AND value<?)"),
    ],
)
def test_an_extended_key_is_looked_up_by_its_values_and_leads_to_its_rows(fresh, level, text, asked, by_index):
    with extended_by(read_extended([text])):
        query = Query(level, (Match.of(by_tag("00191008"), asked),), limit=100)
        (probe,) = probes_of(query, SQLITE)
        assert by_index in explained(fresh, probe.statement)
        assert "SCAN" not in explained(fresh, probe.statement).replace("SCAN probe", "")
        led = explained(fresh, search_statement(query, plan_of(query), SQLITE, Lead(probe.table, [1])))
        assert re.search(r"SEARCH held (EXISTS )?USING PRIMARY KEY \(owner=\? AND tag=\?", led)
        assert not re.search(r"SCAN (study|series|instance)\b", led)


@pytest.mark.parametrize("asked", ["*A", '""', "?B*"])
def test_an_extended_key_that_no_index_answers_has_no_probe(asked):
    with extended_by(read_extended(["00191008:LO@series"])):
        assert probes_of(Query(Level.STUDY, (Match.of(by_tag("00191008"), asked, empty=True),)), SQLITE) == []


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"ModalitiesInStudy": "CT"},
        {"PatientName": "*an*"},
        {"PatientID": "A"},
        {"Modality": "CT"},
        {"StudyDate": "20260101-", "ModalitiesInStudy": "CT"},
    ],
)
def test_studies_with_common_keys_are_read_in_their_order_and_not_sorted(fresh, keys):
    plan = plan_for(fresh, Level.STUDY, **keys)
    assert "study_by_order" in plan
    assert "TEMP B-TREE" not in plan


def test_a_range_of_dates_is_a_part_of_the_order(fresh):
    plan = plan_for(fresh, Level.STUDY, StudyDate="20260101-20260131")
    assert "study_by_order (study_order>? AND study_order<?)" in plan
    assert "TEMP B-TREE" not in plan
    outliers = outliers_of(query_for(Level.STUDY, StudyDate="20260101-20260131"), SQLITE)
    assert "study_by_several_dates" in explained(fresh, outliers)


def test_the_next_page_starts_where_the_last_one_ended(fresh):
    query = Query(Level.STUDY, limit=100, after=("20260101000000.000000", "1.2"))
    plan = explained(fresh, search_statement(query, plan_of(query), SQLITE))
    assert "study_by_order (study_order<?" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("key", [{}, {"PatientName": "*an*"}])
def test_patients_are_read_in_the_order_of_their_latest_studies(fresh, key):
    plan = plan_for(fresh, Level.PATIENT, **key)
    assert "study USING INDEX study_by_order" in plan
    later = "study_by_patient_id (patient_id=? AND (study_order,study_instance_uid)>(?,?))"
    assert f"SEARCH later USING INDEX {later}" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    ("level", "scope"),
    [
        (Level.SERIES, Scope("1.2")),
        (Level.INSTANCE, Scope("1.2")),
        (Level.INSTANCE, Scope("1.2", "1.3")),
        (Level.INSTANCE, Scope("", "1.3")),
    ],
)
def test_what_is_below_a_resource_is_found_without_a_scan(fresh, level, scope):
    assert "SCAN" not in plan_for(fresh, level, scope)


def test_the_instances_of_a_series_are_read_in_their_order_and_not_sorted(fresh):
    assert "TEMP B-TREE" not in plan_for(fresh, Level.INSTANCE, Scope("1.2", "1.3"))


@pytest.mark.parametrize("keys", [{}, {"Modality": "CT"}, {"PatientSex": "F"}])
def test_a_page_of_all_instances_is_read_in_its_order_and_only_instances_of_equal_series_are_sorted(fresh, keys):
    plan = plan_for(fresh, Level.INSTANCE, **keys)
    assert "SCAN series USING INDEX series_by_order" in plan
    assert "SEARCH instance USING INDEX instance_by_order (series=?)" in plan
    assert "TEMP B-TREE FOR ORDER BY" not in plan


@pytest.mark.parametrize("level", [Level.SERIES, Level.INSTANCE])
@pytest.mark.parametrize("keys", [{"PatientID": "A"}, {"StudyInstanceUID": "1.2"}, {"StudyDate": "20260101"}])
def test_what_is_below_a_few_studies_is_found_without_a_scan(fresh, level, keys):
    (probe,) = probes_of(query_for(level, **keys), SQLITE)
    assert probe.table == "study"
    plan = plan_for(fresh, level, lead=Lead("study", [1]), **keys)
    assert not re.search(r"SCAN (study|series|instance)\b", plan)


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL])
@pytest.mark.parametrize("form", ["a{}", "*abc{}*", "abc{}*"])
def test_statements_do_not_grow_with_the_values_that_a_key_lists(dialect, form):
    """They are kept, ready to be run again: those of many lengths would fill the memory."""

    def texts(count):
        listed = "\\".join(map(form.format, range(count)))
        names = ("PatientName", "StudyDescription", "StudyTime", "Modality")
        times = "\\".join(f"{n // 60:02}{n % 60:02}" for n in range(count))
        given = {name: times if name == "StudyTime" else listed for name in names}
        matches = tuple(Match.of(by_keyword(name), text, multiple=True) for name, text in given.items())
        query = Query(Level.SERIES, matches)
        probes = [probe.statement for probe in probes_of(query, dialect)]
        return [text for text, _ in (search_statement(query, plan_of(query), dialect), *probes)]

    assert texts(1000) == texts(9)
    assert max(map(len, texts(1000))) < 8000


@pytest.mark.parametrize("level", Level)
def test_a_search_without_keys_is_one_statement_however_many_it_finds(tmp_path, level):
    statements = []

    def traced(path):
        connection = connect(path)
        connection.set_trace_callback(statements.append)
        return connection

    with contextlib.closing(SqliteIndex(tmp_path / "index.sqlite", open_connection=traced)) as index:
        for number in range(1, 12):
            index.add(entry(number, number, number))
        index.search(Query(level))
        statements.clear()
        index.search(Query(level, include="all"))
        assert len([text for text in statements if not text.startswith("--")]) == 1
