"""What every Index promises of versions, quotas and coercions. An engine inherits it beside ``IndexContract``."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from storage.dicomjson import pack_metadata
from storage.errors import InstanceConflict, QuotaExceeded
from storage.matching import Query
from storage.model import Coerced, Conflict, Level, Outcome, Quota, Source, Terms
from tests.contracts.extended import COIL, asked, held, index_all, numbers_of
from tests.contracts.index import assert_counts_equal_rows, query, studies, value
from tests.fix_index import CT_IMAGE, EXPLICIT, JPEG_2000, data_set, entry, series_scope, study_scope, uid

REPLACE, REJECT = Terms(Conflict.REPLACE), Terms(Conflict.REJECT)


def said(*numbers, content="", json=None, sop_class_uid=CT_IMAGE, **attributes):
    """An entry whose metadata says what its attributes do."""
    _, series, instance = numbers
    made = entry(*numbers, content=content, json=json, sop_class_uid=sop_class_uid, **attributes)
    plain = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20260102", "Modality": "CT"}
    elements = data_set(**{"SeriesNumber": series, "InstanceNumber": instance, **plain, **attributes}) | (json or {})
    return replace(made, metadata=pack_metadata(elements, EXPLICIT))


def coerced(made, received, content):
    """The same entry, of bytes that came as ``received`` and are kept as ``content``."""
    digest = (content * 64)[:64]
    instance = replace(made.instance, digest=digest, key=f"v1/{content}/{digest}.dcm")
    return replace(made, instance=instance, coerced=Coerced((received * 64)[:64], f"2026{content}", "CT1"))


def outcomes(index, number=1):
    """Outcome and digest of each version of an instance."""
    return [(one.outcome, one.instance.digest) for one in index.versions(uid(number, "3"))]


def kinds(index):
    return [(one.kind, one.scope) for one in index.changes(0, 1000)]


class PolicyContract:
    """Inherit it beside ``IndexContract``, which opens the index."""

    def test_a_replacement_is_current_at_once_and_the_version_before_it_stays(self, index):
        old, new = said(1, 1, 1), said(1, 1, 1, content="new", sop_class_uid="1.2.3", InstanceNumber=7)
        index.add(said(1, 1, 2))
        index.add(old)
        index.keep_thumbnail(uid(1, "3"), "old", b"picture")
        receipt = index.add(new, REPLACE)
        assert (receipt.outcome, receipt.instance, receipt.replaced) == (
            Outcome.REPLACED,
            new.instance,
            old.instance,
        )
        assert index.find([uid(1, "3")]) == {uid(1, "3"): new.instance}
        assert [one.metadata for one in index.documents(new.instance.scope)] == [new.metadata]
        assert index.thumbnail(uid(1, "3"), "old") is None
        assert outcomes(index) == [("current", new.instance.digest), ("replaced", old.instance.digest)]
        assert kinds(index)[-1] == ("replaced", new.instance.scope)
        assert len(kinds(index)) == 3
        (answer,) = index.search(query(Level.INSTANCE, scope=new.instance.scope))
        assert value(answer, "00200013") == 7
        assert not index.is_deleted(new.instance.scope)
        assert_counts_equal_rows(index)

    def test_the_only_instance_of_a_study_is_replaced_with_all_that_is_said_of_it(self, index):
        index.add(said(1, 1, 1, PatientID="WRONG", Modality="MR", StudyDescription="Head"))
        index.add(said(1, 1, 1, content="new", PatientID="P1"), REPLACE)
        assert (studies(index, PatientID="WRONG"), studies(index, PatientID="P1")) == ([], [uid(1)])
        assert studies(index, ModalitiesInStudy="CT") == [uid(1)]
        assert studies(index, StudyDescription="Head") == []
        assert not index.is_deleted(study_scope(1))
        assert_counts_equal_rows(index)

    def test_a_replacement_in_another_study_leaves_no_empty_parent_and_says_that_it_is_gone(self, index):
        old, new = said(1, 1, 1), said(2, 2, 1, content="new")
        index.add(old)
        index.add(said(2, 2, 2))
        assert index.add(new, REPLACE).outcome is Outcome.REPLACED
        assert studies(index) == [uid(2)]
        assert index.search(query(Level.SERIES, scope=series_scope(1, 1))) == []
        assert all(index.is_deleted(scope) for scope in (study_scope(1), series_scope(1, 1), old.instance.scope))
        assert kinds(index)[-2:] == [("deleted", old.instance.scope), ("replaced", new.instance.scope)]
        assert outcomes(index)[1] == ("replaced", old.instance.digest)
        assert_counts_equal_rows(index)

    def test_a_replacement_in_another_series_takes_its_modality_along(self, index):
        index.add(said(1, 1, 1, Modality="MR"))
        index.add(said(1, 2, 2))
        index.add(said(1, 2, 1, content="new"), REPLACE)
        (study,) = index.search(query(Level.STUDY))
        assert study.attributes["00080061"]["Value"] == ["CT"]
        assert_counts_equal_rows(index)

    def test_a_study_says_the_new_values_when_its_last_old_instance_is_replaced(self, index):
        for number in (1, 2, 3):
            index.add(said(1, 1, number, PatientID="WRONG", StudyDescription="Head", Modality="MR"))
        for number in (1, 2):
            receipt = index.add(said(1, 1, number, content="new"), REPLACE)
            assert len(receipt.warnings) == 1, "it names another patient than its study does still"
            assert studies(index, PatientID="WRONG", StudyDescription="Head", ModalitiesInStudy="MR") == [uid(1)]
        index.add(said(1, 1, 3, content="new"), REPLACE)
        assert studies(index, PatientID="P1", ModalitiesInStudy="CT") == [uid(1)]
        assert studies(index, StudyDescription="Head") == studies(index, PatientID="WRONG") == []
        assert_counts_equal_rows(index)

    def test_a_study_that_an_instance_leaves_says_no_more_what_only_that_one_said(self, index):
        index.add(said(1, 1, 1))
        index.add(said(1, 1, 2, AccessionNumber="A1"))
        index.add(said(2, 2, 2, content="new", AccessionNumber="A1"), REPLACE)
        assert studies(index, AccessionNumber="A1") == [uid(2)]
        assert_counts_equal_rows(index)

    def test_what_only_the_replaced_instance_said_is_said_no_more(self, index):
        index.add(said(1, 1, 1))
        index.add(said(1, 1, 2, AccessionNumber="A1"))
        assert studies(index, AccessionNumber="A1") == [uid(1)]
        index.add(said(1, 1, 2, content="new", StudyDescription="Head"), REPLACE)
        assert studies(index, AccessionNumber="A1") == []
        assert studies(index, StudyDescription="Head", PatientID="P1") == [uid(1)]

    def test_the_very_same_is_a_duplicate_whatever_the_terms(self, index):
        index.add(entry())
        for terms in (REPLACE, REJECT, Terms()):
            assert index.add(entry(), terms).outcome is Outcome.DUPLICATE
        assert len(kinds(index)) == len(outcomes(index)) == 1
        assert index.versions(uid(1, "3"))[0].receive_count == 4

    def test_a_version_that_comes_again_is_current_again_and_none_is_lost(self, index):
        made = [entry(content=text) for text in ("a", "b", "c")]
        for one in made:
            index.add(one, REPLACE)
        receipt = index.add(made[0], REPLACE)
        assert (receipt.outcome, receipt.replaced) == (Outcome.REPLACED, made[2].instance)
        assert Counter(outcomes(index)) == Counter(
            {("current", made[0].instance.digest): 1, **{("replaced", one.instance.digest): 1 for one in made[1:]}}
        )
        assert [one.receive_count for one in index.versions(uid(1, "3"))] == [2, 1, 1]
        again = index.add(made[1], Terms(Conflict.REPLACE, is_received=False))
        assert again.outcome is Outcome.REPLACED
        assert index.versions(uid(1, "3"))[0].receive_count == 1
        assert_counts_equal_rows(index)

    def test_another_transfer_syntax_becomes_current_too_where_replacing_is_wanted(self, index):
        index.add(entry())
        made = entry(content="compressed", transfer_syntax_uid=JPEG_2000)
        assert index.add(made, REPLACE).outcome is Outcome.REPLACED
        assert index.find([uid(1, "3")])[uid(1, "3")] == made.instance

    def test_a_conflict_is_refused_where_it_is_to_be_and_writes_nothing(self, index):
        index.add(first := entry())
        before = index.changes(0, 10), outcomes(index)
        for attempt in (index.add, index.foresee):
            with pytest.raises(InstanceConflict):
                attempt(entry(content="other"), REJECT)
            with pytest.raises(InstanceConflict):
                attempt(entry(2, 2, 1), REJECT)
        assert (index.changes(0, 10), outcomes(index)) == before
        assert index.find([uid(1, "3")])[uid(1, "3")] == first.instance
        variant = entry(content="compressed", transfer_syntax_uid=JPEG_2000)
        index.foresee(variant, REJECT)
        assert index.add(variant, REJECT).outcome is Outcome.VARIANT
        assert_counts_equal_rows(index)

    def test_refusals_and_stores_of_one_transaction_do_not_touch_one_another(self, index):
        index.add(entry())
        barrier = threading.Barrier(16)

        def store(number):
            barrier.wait()
            try:
                return index.add(entry(1, 1, number, content="other" if number == 1 else ""), REJECT).outcome
            except InstanceConflict:
                return None

        with ThreadPoolExecutor(16) as pool:
            found = Counter(pool.map(store, [1, *range(2, 9)] * 2))
        assert found == {None: 2, Outcome.STORED: 7, Outcome.DUPLICATE: 7}
        assert_counts_equal_rows(index)

    def test_what_was_coerced_is_a_duplicate_when_the_same_bytes_come_again(self, index):
        first = coerced(entry(), "a", "b")
        assert index.coerced(uid(1, "3"), EXPLICIT, "a" * 64) is None
        assert index.add(first).outcome is Outcome.STORED
        assert index.coerced(uid(1, "3"), EXPLICIT, "a" * 64) == Coerced("a" * 64, "2026b", "CT1")
        for terms in (Terms(), REPLACE, REJECT):
            assert index.add(coerced(entry(), "a", "c"), terms).outcome is Outcome.DUPLICATE, "at another time"
            uncoerced = replace(entry(), instance=replace(entry().instance, digest="a" * 64))
            assert index.add(uncoerced, terms).outcome is Outcome.DUPLICATE, "nothing is coerced any more"
        assert index.add(coerced(entry(), "d", "e")).outcome is Outcome.CONFLICT
        assert index.add(coerced(entry(), "d", "f")).outcome is Outcome.CONFLICT
        assert outcomes(index) == [("current", "b" * 64), ("conflict", "e" * 64)]

    def test_an_instance_that_was_kept_as_it_came_is_a_duplicate_when_it_would_be_coerced(self, index):
        index.add(entry())
        made = coerced(entry(), "a", "b")
        again = replace(made, coerced=Coerced(entry().instance.digest, "2026"))
        assert index.add(again, REPLACE).outcome is Outcome.DUPLICATE

    def test_what_was_deleted_has_no_versions_and_no_coercion(self, index):
        index.add(coerced(entry(), "a", "b"))
        index.add(entry(content="new"), REPLACE)
        index.delete(study_scope(1))
        assert index.versions(uid(1, "3")) == []
        assert index.coerced(uid(1, "3"), EXPLICIT, "a" * 64) is None

    def test_a_quota_counts_what_is_kept_and_nothing_twice(self, index):
        terms = Terms(quota=Quota("ae=CT1", instances_per_day=3))
        for made in (entry(1, 1, 1), entry(1, 1, 1), entry(1, 1, 1, content="other"), entry(1, 1, 2)):
            index.add(made, terms)
        for attempt in (index.add, index.foresee):
            with pytest.raises(QuotaExceeded):
                attempt(entry(1, 1, 3), terms)
        for kept in (entry(1, 1, 1), entry(1, 1, 1, content="other")):
            index.foresee(kept, terms)
            index.add(kept, terms)
        index.add(entry(1, 1, 3), Terms(quota=Quota("ae=CT2", instances_per_day=3)))
        assert_counts_equal_rows(index)

    def test_a_quota_of_bytes_is_never_passed(self, index):
        terms = Terms(quota=Quota("*", bytes_per_day=2500))
        index.add(entry(1, 1, 1), terms)
        index.add(entry(1, 1, 2), terms)
        with pytest.raises(QuotaExceeded):
            index.add(entry(1, 1, 3), terms)
        assert index.find([uid(3, "3")]) == {}

    def test_a_quota_is_exact_however_many_store_at_once(self, tmp_path):
        terms = Terms(quota=Quota("ae=CT1", instances_per_day=100))
        with self.open(tmp_path) as one, self.open(tmp_path) as other:

            def store(number):
                try:
                    return (one, other)[number % 2].add(entry(1, 1, number), terms).outcome
                except QuotaExceeded:
                    return None

            with ThreadPoolExecutor(64) as pool:
                found = Counter(pool.map(store, range(1, 301)))
            assert found == {Outcome.STORED: 100, None: 200}
            assert len(one.instances(study_scope(1))) == 100
            assert_counts_equal_rows(one)

    @pytest.mark.parametrize("conflict", list(Conflict))
    def test_64_writers_of_one_instance_over_several_indexes_leave_one_row_and_every_version(self, tmp_path, conflict):
        with self.open(tmp_path) as one, self.open(tmp_path) as other, self.open(tmp_path) as third:
            indexes = (one, other, third)
            barrier = threading.Barrier(64)

            def store(number, round_number):
                made = entry(1 + number % 2, 1, round_number, content=str(number % 16))
                barrier.wait()
                try:
                    receipt = indexes[number % 3].add(made, Terms(conflict))
                except InstanceConflict:
                    return None, made.instance
                return receipt.outcome, made.instance

            with ThreadPoolExecutor(64) as pool:
                for round_number in range(1, 4):
                    results = list(pool.map(store, range(64), [round_number] * 64))
                    self._check_round(one, round_number, conflict, results)
            assert_counts_equal_rows(one)
            sequence = [change.sequence for change in one.changes(0, 10_000)]
            assert sequence == list(range(1, len(sequence) + 1))

    def _check_round(self, index, round_number, conflict, results):
        counts = Counter(outcome for outcome, _ in results)
        assert counts[Outcome.STORED] == 1
        versions = index.versions(uid(round_number, "3"))
        assert [one.is_current for one in versions] == [True, *[False] * (len(versions) - 1)]
        (current,) = index.search(Query(Level.INSTANCE, scope=versions[0].instance.scope))
        assert current.scope == versions[0].instance.scope
        kept = [one.instance for one in versions]
        assert len(set(kept)) == len(kept)
        if conflict is Conflict.REJECT:
            (winner,) = {instance for outcome, instance in results if outcome is not None}
            assert kept == [winner]
        else:
            assert set(kept) == {instance for _, instance in results}
            (first,) = (instance for outcome, instance in results if outcome is Outcome.STORED)
            assert conflict is Conflict.REPLACE or kept[0] == first
        if conflict is Conflict.REPLACE:
            uids = uid(round_number, "3")
            told = [change for change in index.changes(0, 10_000) if change.scope.sop_instance_uid == uids]
            assert told[-1].scope == kept[0].scope, "the last one to commit is current"

    def test_counts_equal_rows_after_any_sequence_of_stores_replacements_and_deletes(self, index):
        chance = random.Random(20260102)
        for _ in range(200):
            number = chance.randint(1, 8)
            study = chance.randint(1, 3)
            made = said(
                study,
                chance.randint(1, 2),
                number,
                content=chance.choice("abc"),
                Modality=chance.choice(["CT", "MR", None]),
                PatientID=chance.choice(["P1", "P2"]),
                sop_class_uid=chance.choice(["1.2.3", "1.2.4"]),
            )
            action = chance.random()
            if action < 0.15:
                index.delete(chance.choice([study_scope(study), made.instance.scope]))
            else:
                index.add(made, REPLACE if action < 0.7 else Terms())
        assert_counts_equal_rows(index)

    def test_an_extended_tag_finds_what_is_current_and_not_what_was_replaced(self, tmp_path):
        with self.opened(tmp_path, COIL, "PatientComments") as index:
            for number in (1, 2):
                index.add(
                    said(number, number, number, json=held("00191008", "HEAD") | held("00104000", "old", vr="LT"))
                )
            new = said(2, 2, 2, content="new", json=held("00191008", "KNEE") | held("00104000", "new", vr="LT"))
            index.add(new, REPLACE)
            assert numbers_of(index.search(asked("00191008", "HEAD", Level.SERIES))) == [1]
            assert numbers_of(index.search(asked("00191008", "KNEE", Level.SERIES))) == [2]
            assert numbers_of(index.search(asked("00104000", "new", Level.INSTANCE))) == [2]
            assert numbers_of(index.search(asked("00104000", "old", Level.INSTANCE))) == [1]
        with self.opened(tmp_path) as index:
            index.add(said(2, 2, 2, content="newer", json=held("00191008", "FOOT")), REPLACE)
        with self.opened(tmp_path, COIL, "PatientComments") as index:
            index_all(index)
            assert numbers_of(index.search(asked("00191008", "FOOT", Level.SERIES))) == [2]
            assert numbers_of(index.search(asked("00191008", "KNEE", Level.SERIES))) == []

    def test_the_source_of_each_version_is_known(self, index):
        index.add(entry(source=Source("dimse", "CT1", "10.0.0.1")))
        index.add(entry(content="new", source=Source("dicomweb", address="10.0.0.2")), REPLACE)
        assert [one.source for one in index.versions(uid(1, "3"))] == [
            Source("dicomweb", address="10.0.0.2"),
            Source("dimse", "CT1", "10.0.0.1"),
        ]
