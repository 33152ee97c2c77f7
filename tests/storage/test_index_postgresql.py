"""The PostgreSQL index keeps the contract, whatever happens to the server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from storage.attributes import by_keyword
from storage.errors import StorageUnavailable
from storage.index import open_index, postgresql
from storage.index.dialect import POSTGRESQL
from storage.index.postgresql import PostgresqlIndex
from storage.index.probes import probes_of
from storage.matching import Match, Query
from storage.model import Level, Outcome
from tests.contracts.commitments import CommitmentsContract
from tests.contracts.deletions import DeletionsContract
from tests.contracts.deliveries import DeliveriesContract
from tests.contracts.extended import ExtendedContract
from tests.contracts.index import IndexContract
from tests.contracts.outbox import OutboxContract
from tests.contracts.policies import PolicyContract
from tests.contracts.stability import StabilityContract
from tests.contracts.subscribers import SubscribersContract
from tests.fix_index import entry, study_scope
from tests.fix_postgresql import database_url, new_server, shared_server

ROOT = Path(__file__).parents[2]


class TestPostgresqlIndex(
    IndexContract,
    ExtendedContract,
    OutboxContract,
    PolicyContract,
    CommitmentsContract,
    DeletionsContract,
    DeliveriesContract,
    StabilityContract,
    SubscribersContract,
):
    @contextlib.contextmanager
    def open(self, folder):
        with contextlib.closing(open_index(database_url(folder))) as index:
            yield index


@pytest.fixture
def url(tmp_path):
    return database_url(tmp_path)


def found(index, **keys):
    matches = tuple(Match.of(by_keyword(keyword), text) for keyword, text in keys.items())
    return [answer.scope.study_instance_uid for answer in index.search(Query(Level.STUDY, matches))]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_goes_away_is_unavailable_until_it_is_back_and_nothing_acknowledged_is_lost(mode):
    server = new_server()
    with contextlib.closing(open_index(server.database("index"))) as index:
        index.add(entry(1, 1, 1))
        with ThreadPoolExecutor(4) as pool:  # leaves idle connections behind
            assert len(set(map(str, pool.map(lambda _: found(index), range(20))))) == 1
        server.stop(mode)
        for attempt in (lambda: index.add(entry(1, 1, 2)), lambda: found(index)):
            with pytest.raises(StorageUnavailable):
                attempt()
        server.start()
        for _ in range(10):
            assert len(found(index)) == 1
        assert index.add(entry(1, 1, 2)).outcome is Outcome.STORED
        assert len(index.instances(study_scope(1))) == 2
        assert [change.sequence for change in index.changes(0, 10)] == [1, 2]


def test_a_search_that_takes_too_long_is_broken_off_and_the_next_one_is_answered(url):
    with contextlib.closing(open_index(url, search_seconds=0.2)) as index:
        index.add(entry())
        started = time.monotonic()
        with pytest.raises(StorageUnavailable):
            index._rows("SELECT pg_sleep(?)", (20,))
        assert time.monotonic() - started < 5
        assert len(found(index)) == 1


def test_a_lock_of_another_writer_that_is_not_released_is_unavailable_and_reading_goes_on(url):
    with contextlib.closing(PostgresqlIndex(url, busy_seconds=0.2)) as index, psycopg.connect(url) as other:
        index.add(entry(1, 1, 1))
        other.execute("SELECT pg_advisory_xact_lock(%s)", (0x6469636F6D,))
        with pytest.raises(StorageUnavailable):
            index.add(entry(1, 1, 2))
        assert len(found(index)) == 1
        other.rollback()
        assert index.add(entry(1, 1, 2)).outcome is Outcome.STORED


def test_a_reading_connection_cannot_write(url):
    with contextlib.closing(open_index(url)) as index:
        index.add(entry())
        with pytest.raises(StorageUnavailable), index._engine.reading() as connection:
            connection.execute("DELETE FROM change")
        assert len(index.changes(0, 10)) == 1


def test_a_mistake_in_sql_is_not_called_unavailable(url):
    with contextlib.closing(open_index(url)) as index, pytest.raises(psycopg.Error, match="does not exist"):
        index._rows("SELECT 1 FROM nowhere", ())


def test_values_longer_than_an_entry_of_an_index_are_kept_and_found(url):
    texts = [letter * 60 + "Ж" * 900 for letter in "AB"]
    with contextlib.closing(open_index(url)) as index:
        index.add(entry(1, 1, 1, PatientID=texts[0], AccessionNumber=texts, PatientName=texts[1]))
        index.add(entry(2, 2, 2, PatientID=texts[1], Modality=texts))
        assert found(index, PatientID="A" * 60 + "*") == [study_scope(1).study_instance_uid]
        assert found(index, PatientID="A" * 60 + "Ж" * 190) == []
        assert found(index, AccessionNumber="B" * 60 + "*") == [study_scope(1).study_instance_uid]
        assert found(index, PatientName="*ЖЖЖ*") == [study_scope(1).study_instance_uid]
        assert found(index, ModalitiesInStudy="B*") == [study_scope(2).study_instance_uid]


def test_indexes_that_start_together_over_an_empty_database_make_one_schema(tmp_path):
    name = "empty" + tmp_path.name.replace("-", "_")
    shared_server().execute(f'CREATE DATABASE "{name}"')
    url = shared_server().url(name)
    barrier = threading.Barrier(4)

    def start(_):
        barrier.wait()
        return open_index(url)

    with ThreadPoolExecutor(4) as pool:
        indexes = list(pool.map(start, range(4)))
    receipts = [index.add(entry(1, 1, number)) for number, index in enumerate(indexes, 1)]
    assert {receipt.outcome for receipt in receipts} == {Outcome.STORED}
    for index in indexes:
        index.close()


WRITER = """
import sys
from storage.index import open_index
from tests.fix_index import entry

index = open_index(sys.argv[1])
first, count = int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    receipt = index.add(entry(1, number % 7, number))
    print(number, receipt.outcome.value, flush=True)
index.close()
"""


def test_processes_that_write_together_lose_nothing_and_leave_no_gap(url):
    arguments = [[sys.executable, "-c", WRITER, url, str(first), "60"] for first in (1, 31, 1001)]
    processes = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True, cwd=ROOT) for one in arguments]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    outcomes = [line.split()[1] for output in outputs for line in output.splitlines()]
    assert sorted(set(outcomes)) == ["duplicate", "stored"]
    assert outcomes.count("stored") == 150
    with contextlib.closing(open_index(url)) as index:
        assert len(index.instances(study_scope(1))) == 150
        assert [change.sequence for change in index.changes(0, 1000)] == list(range(1, 151))
        (study,) = index.search(Query(Level.STUDY))
        assert study.attributes["00201208"]["Value"] == [150]
        assert study.attributes["00201206"]["Value"] == [7]


def test_a_database_that_cannot_be_used_says_why(tmp_path):
    server = shared_server()
    name = "ascii" + tmp_path.name.replace("-", "_")
    server.execute(f"CREATE DATABASE \"{name}\" ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StorageUnavailable, match="UTF-8"):
        open_index(server.url(name))
    with pytest.raises(StorageUnavailable, match="does not exist"):
        open_index(server.url("nowhere"))
    with pytest.raises(StorageUnavailable, match="nobody"):
        open_index(server.url().replace("postgres@", "nobody@"))
    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        open_index("postgresql://postgres@127.0.0.1:9/index")


def test_a_database_of_a_later_release_is_refused_and_left_alone():
    url = shared_server().database("later")  # which no other test gets
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO schema_version (version, applied_at) VALUES (1000, 'then')")
        with pytest.raises(StorageUnavailable, match="later release"):
            open_index(url)
        assert connection.execute("SELECT max(version) FROM schema_version").fetchone() == (1000,)


def test_a_server_that_falls_silent_holds_nobody_up_for_long(monkeypatch):
    monkeypatch.setattr(postgresql, "_ANSWER_SECONDS", 1.0)
    server = new_server()
    with contextlib.closing(PostgresqlIndex(server.database("index"), busy_seconds=0.5, search_seconds=0.5)) as index:
        index.add(entry(1, 1, 1))
        assert len(found(index)) == 1
        with server.silent():
            started = time.monotonic()
            for attempt in (lambda: index.add(entry(1, 1, 2)), lambda: found(index)):
                with pytest.raises(StorageUnavailable):
                    attempt()
            assert time.monotonic() - started < 20
        assert index.add(entry(1, 1, 2)).outcome in (Outcome.STORED, Outcome.DUPLICATE)
        assert len(index.instances(study_scope(1))) == 2


def end_connections(url):
    """Have the server end all sessions of a database, and wait until they have ended."""
    name = url.rpartition("/")[2]
    end = f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'"
    shared_server().execute(end)


def test_a_writer_whose_connection_was_ended_meanwhile_does_not_fail(url):
    with contextlib.closing(open_index(url)) as index:
        index.add(entry(1, 1, 1))
        end_connections(url)
        assert index.add(entry(1, 1, 2)).outcome is Outcome.STORED
        assert len(index.instances(study_scope(1))) == 2


def test_a_writer_whose_end_shows_only_when_it_is_used_does_not_fail(url, monkeypatch):
    with contextlib.closing(open_index(url)) as index:
        index.add(entry(1, 1, 1))
        end_connections(url)
        with monkeypatch.context() as patched:
            patched.setattr(postgresql, "_has_word", lambda raw: False)
            assert index.add(entry(1, 1, 2)).outcome is Outcome.STORED
        assert len(index.instances(study_scope(1))) == 2


def test_a_pattern_that_very_many_names_fit_is_not_looked_up_and_a_rare_one_is(url, monkeypatch):
    monkeypatch.setattr(postgresql, "_MANY_ROWS", 100)
    with contextlib.closing(open_index(url)) as index:
        for number in range(1, 301):
            index.add(entry(number, number, number, PatientName="Smith^Rare" if number == 7 else "Smith^Common"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE study")
        with index._engine.reading() as connection:
            for text, is_many in (("*common*", True), ("*rare*", False)):
                query = Query(Level.STUDY, (Match.of(by_keyword("PatientName"), text),))
                (probe,) = probes_of(query, POSTGRESQL)
                assert index._engine.expects_many(connection, probe.statement) is is_many
        assert len(found(index, PatientName="*common*")) == 299
        assert found(index, PatientName="*rare*") == [study_scope(7).study_instance_uid]
