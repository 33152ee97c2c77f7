"""The schema: migrations lead to one place, a later release is refused, columns follow the attribute table, and the
questions that are asked most are answered by an index.
"""

from __future__ import annotations

import contextlib

import pytest

from storage.attributes import ATTRIBUTES, by_keyword
from storage.errors import StorageUnavailable
from storage.index import open_index, sqlite_version
from storage.index.columns import columns
from storage.index.engine import OLDEST_SQLITE, check_version, connect
from storage.index.schema import _statements, migrate, migrations, version_of
from storage.index.sql import plan_of, search_statement
from storage.index.sqlite import SqliteIndex
from storage.matching import Match, Query
from storage.model import Level, Scope
from tests.fix_index import entry


def schema_of(connection) -> list[tuple]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()


@pytest.fixture
def fresh(tmp_path):
    open_index(tmp_path / "fresh.sqlite").close()
    with contextlib.closing(connect(tmp_path / "fresh.sqlite")) as connection:
        yield connection


def test_a_database_that_was_migrated_step_by_step_is_as_a_fresh_one(tmp_path, fresh):
    path = tmp_path / "migrated.sqlite"
    for number, _ in migrations():
        with contextlib.closing(connect(path)) as connection:
            migrate(connection, to=number)
            assert version_of(connection) == number
    with contextlib.closing(connect(path)) as connection:
        assert schema_of(connection) == schema_of(fresh)


def test_opening_again_migrates_nothing(tmp_path, fresh):
    before = fresh.execute("SELECT * FROM schema_version").fetchall()
    open_index(tmp_path / "fresh.sqlite").close()
    assert fresh.execute("SELECT * FROM schema_version").fetchall() == before
    assert [version for version, _ in before] == [number for number, _ in migrations()]


def test_a_database_of_a_later_release_is_refused_and_left_alone(tmp_path, fresh):
    later = len(migrations()) + 1
    fresh.execute("INSERT INTO schema_version (version, applied_at) VALUES (?, 'then')", (later,))
    with pytest.raises(StorageUnavailable, match="later release"):
        open_index(tmp_path / "fresh.sqlite")
    assert version_of(fresh) == later


def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path, monkeypatch):
    number, text = migrations()[0]
    monkeypatch.setattr("storage.index.schema.migrations", lambda: ((number, text + "\nCREATE nonsense;\n"),))
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
        assert set(columns(attribute)) <= held, attribute.keyword


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


def plan_for(connection, level: Level, scope: Scope | None = None, **keys: str) -> str:
    matches = []
    for keyword, text in keys.items():
        attribute = by_keyword(keyword)
        assert attribute is not None
        matches.append(Match.of(attribute, text))
    query = Query(level, tuple(matches), scope, limit=100)
    text, parameters = search_statement(query, plan_of(query))
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters))


@pytest.mark.parametrize(
    ("keys", "by_index"),
    [
        ({"PatientID": "A"}, "study_by_patient_id (patient_id=?)"),
        ({"PatientID": "A*"}, "study_by_patient_id (patient_id>? AND patient_id<?)"),
        ({"PatientName": "Doe*"}, "study_by_patient_name (patient_name>? AND patient_name<?)"),
        ({"PatientName": "山田*"}, "study_by_patient_name_ideographic (patient_name_ideographic>?"),
        ({"AccessionNumber": "A"}, "study_by_accession_number (accession_number=?)"),
        ({"StudyDate": "20260101-20260131"}, "study_by_study_date (study_date>? AND study_date<?)"),
        ({"StudyInstanceUID": "1.2\\1.3"}, "(study_instance_uid=?)"),
    ],
)
def test_a_selective_key_of_a_study_is_answered_by_its_index(fresh, keys, by_index):
    plan = plan_for(fresh, Level.STUDY, **keys)
    assert by_index in plan
    assert "SCAN study" not in plan


def test_the_study_list_is_read_in_its_order_and_not_sorted(fresh):
    plan = plan_for(fresh, Level.STUDY)
    assert "study_by_order" in plan
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


@pytest.mark.parametrize("keys", [{"PatientID": "A"}, {"SOPInstanceUID": "1.2"}, {"StudyInstanceUID": "1.2"}])
def test_instances_of_a_selective_key_are_found_without_a_scan(fresh, keys):
    assert "SCAN series" not in plan_for(fresh, Level.INSTANCE, **keys)


@pytest.mark.parametrize("level", Level)
def test_a_search_is_one_statement_however_many_it_finds(tmp_path, level):
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
