"""A short torture over each engine, with every kind of kill and fault, and what it is made of."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import replace

import pytest

from storage.errors import StorageUnavailable
from tests.fix_archive import keep
from tests.torture import store
from tests.torture.checker import GHOST, LOST, MIXED, Observation, Seen, check
from tests.torture.history import DELETE, GONE, STORE, History, Outcome
from tests.torture.inspection import observe
from tests.torture.making import Contested, Maker, made
from tests.torture.nemesis import ALL, BACKEND, CHILD, DELETER, FAULT_SECONDS, KINDS_OF_FAULTS, SUPERVISOR
from tests.torture.orders import Followed, Orders
from tests.torture.run import Figure, Load, Torture, new_world
from tests.torture.senders import multipart
from tests.torture.store import FAULTS, FaultStore

SHORT = Load(dimse=2, http=2, workers=1)
WAIT_SECONDS = 60.0


def once_each(history, kinds_of_kills):
    """Each kind of kill, and each kind of fault; in between the senders have to get through."""

    def trouble(nemesis, stopping):
        for kind in kinds_of_kills:
            wait_for(history, 20)
            assert nemesis.kill(kind), kind
        for kind in KINDS_OF_FAULTS:
            wait_for(history, 5)
            nemesis.trouble(kind, stopping)

    return trouble


def wait_for(history, more):
    goal = len(history.acknowledged) + more
    deadline = time.monotonic() + WAIT_SECONDS
    while len(history.acknowledged) < goal:
        assert time.monotonic() < deadline, "nothing is acknowledged any more"
        time.sleep(0.02)


@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql"])
def test_nothing_that_was_acknowledged_is_lost_half_there_or_mixed(tmp_path, engine_name, monkeypatch):
    monkeypatch.setattr("tests.torture.nemesis.FAULT_SECONDS", (FAULT_SECONDS[0] / 2, FAULT_SECONDS[0]))
    figure = Figure(random.SystemRandom().randrange(1 << 32))
    print(f"seed {figure.seed}")
    kinds = [CHILD, DELETER, SUPERVISOR, CHILD, ALL] if engine_name == "sqlite" else [BACKEND, CHILD, ALL]
    with new_world(engine_name, tmp_path / "world", "limit", workers=SHORT.workers) as world:
        torture = Torture(world, 1, figure, load=SHORT, pace_seconds=1.0)
        world.start()
        torture.round(1, 0.0, trouble=once_each(torture.history, kinds))
        print(figure.text())
        assert figure.kills.total() == len(kinds)
        assert set(figure.faults) == set(KINDS_OF_FAULTS)
        assert figure.reads["right"] > 0
        assert figure.is_sound, f"seed {figure.seed}: {figure.text()}"
        if engine_name == "sqlite":
            assert_damage_is_seen(world, torture.history)


def assert_damage_is_seen(world, history):
    """What the checker found to be sound is not, once something is taken away, turned or added behind its back."""
    paths = sorted(world.objects.rglob("*.dcm"), key=lambda path: path.stat().st_size)
    with world.index() as index:
        rows = {key: uid for uid, key in index._rows("SELECT sop_instance_uid, object_key FROM instance", ())}
    known = [path for path in paths if path.relative_to(world.objects).as_posix() in rows]
    uids = [rows[path.relative_to(world.objects).as_posix()] for path in known[:2]]
    known[0].unlink()
    turned = bytearray(known[1].read_bytes())
    turned[-1] ^= 1
    known[1].write_bytes(turned)
    (world.objects / "incoming" / "x.incoming").touch()
    observed = observe(world, history.versions, set(history.versions), random.Random(1))
    found = check(history, history.calls, observed)
    assert {uid for kind, text in found for uid in uids if kind == LOST and uid in text} == set(uids)
    assert ("unclean", "left over: x.incoming") in found


# ---------------------------------------------------------------------------------------------------------- the checker


def versions(count=2):
    return [made("1.2", "1.2.1", "1.2.9.1", bytes([number]) * 1024)[0] for number in range(count)]


def history_of(*calls):
    """Calls one after the other, each a verb, a version, an outcome and maybe a reason."""
    history = History()
    for verb, version, outcome, *reason in calls:
        history.end(history.begin(verb, "door", version), outcome, *reason)
    return history


def seen_as(version, **changes):
    whole = Seen(version.study, version.series, 1, version.digest, (version.digest,), version.marker, version.frame)
    return {version.sop_instance: replace(whole, **changes)}


def problems(history, seen, *, rivals=(), changes=("stored",)):
    uid = "1.2.9.1"
    observed = Observation(seen, {uid: list(rivals)} if rivals else {}, {uid: list(changes)} if changes else {})
    return [kind for kind, _ in check(history, history.calls, observed)]


A, B = versions()
OK, FAIL, UNKNOWN = Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN
SOUND = {
    "acknowledged and there": (history_of((STORE, A, OK)), seen_as(A), {}),
    "unknown and there": (history_of((STORE, A, UNKNOWN)), seen_as(A), {}),
    "unknown and absent": (history_of((STORE, A, UNKNOWN)), {}, {"changes": ()}),
    "refused, then acknowledged": (history_of((STORE, A, FAIL), (STORE, A, OK)), seen_as(A), {}),
    "a rival that is kept": (history_of((STORE, A, OK), (STORE, B, OK)), seen_as(A), {"rivals": [B.digest]}),
    "deleted": (history_of((STORE, A, OK), (DELETE, A, OK)), {}, {"changes": ("stored", "deleted")}),
    "maybe deleted": (history_of((STORE, A, OK), (DELETE, A, UNKNOWN)), seen_as(A), {}),
    "found gone after a delete of which nobody heard": (
        history_of((STORE, A, OK), (DELETE, A, UNKNOWN), (DELETE, A, OK, GONE)),
        {},
        {"changes": ("stored", "deleted")},
    ),
}
WRONG = {
    "acknowledged and absent": (LOST, history_of((STORE, A, OK)), {}, {"changes": ()}),
    "found twice": (GHOST, history_of((STORE, A, OK)), seen_as(A, rows=2), {}),
    "half of what was unknown": (GHOST, history_of((STORE, A, UNKNOWN)), seen_as(A, digest=""), {}),
    "other bytes": (LOST, history_of((STORE, A, OK)), seen_as(A, digest="0"), {}),
    "other bytes by another way": (MIXED, history_of((STORE, A, OK)), seen_as(A, retrieved=("0",)), {}),
    "the metadata of a rival": (
        MIXED,
        history_of((STORE, A, OK), (STORE, B, OK)),
        seen_as(A, marker=B.marker),
        {"rivals": [B.digest]},
    ),
    "the frame of a rival": (
        MIXED,
        history_of((STORE, A, OK), (STORE, B, OK)),
        seen_as(A, frame=B.frame),
        {"rivals": [B.digest]},
    ),
    "another series": (MIXED, history_of((STORE, A, OK)), seen_as(A, series="1.2.2"), {}),
    "a rival that is not kept": (LOST, history_of((STORE, A, OK), (STORE, B, OK)), seen_as(A), {}),
    "a rival that came first": (MIXED, history_of((STORE, A, OK), (STORE, B, OK)), seen_as(B), {"rivals": [A.digest]}),
    "a rival that nobody sent": (GHOST, history_of((STORE, A, OK)), seen_as(A), {"rivals": ["0"]}),
    "stored twice": (GHOST, history_of((STORE, A, OK)), seen_as(A), {"changes": ("stored", "stored")}),
    "never in the feed": (LOST, history_of((STORE, A, OK)), seen_as(A), {"changes": ()}),
    "in the feed alone": (GHOST, history_of((STORE, A, UNKNOWN)), {}, {}),
    "there after it was deleted": (GHOST, history_of((STORE, A, OK), (DELETE, A, OK)), seen_as(A), {}),
    "gone without a delete": (
        LOST,
        history_of((STORE, A, OK), (DELETE, A, OK, GONE)),
        {},
        {"changes": ("stored", "deleted")},
    ),
    "never sent": (GHOST, history_of(), seen_as(A), {}),
}


@pytest.mark.parametrize("name", SOUND)
def test_the_checker_finds_nothing_wrong_with(name):
    history, seen, more = SOUND[name]
    assert problems(history, seen, **more) == []


@pytest.mark.parametrize("name", WRONG)
def test_the_checker_finds(name):
    kind, history, seen, more = WRONG[name]
    assert kind in problems(history, seen, **more)


# --------------------------------------------------------------------------------------------------- what it is made of


@pytest.fixture
def ordered(archive, tmp_path):
    """``ordered(fault)``: from now on it befalls every operation of the archive's store."""
    path = tmp_path / "orders.json"
    Orders().give(path)
    followed = Followed(path)
    archive._objects = FaultStore(archive._objects, followed)

    def order(fault):
        Orders(fault, 1.0).give(path)
        deadline = time.monotonic() + WAIT_SECONDS
        while followed.orders.fault != fault:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    yield order
    followed.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_store_does_an_instance_is_acknowledged_and_whole_or_can_be_sent_again(
    archive, ordered, fault, monkeypatch
):
    monkeypatch.setattr(store, "HANG_SECONDS", 0.05)
    monkeypatch.setattr(store, "AGAIN_SECONDS", 0.05)
    version, content = made("1.2", "1.2.1", "1.2.9.1", bytes(range(64)) * 16)
    ordered(fault)
    with contextlib.suppress(StorageUnavailable):
        keep(archive, content, sop=version.sop_instance)
    ordered("")
    receipt = keep(archive, content, sop=version.sop_instance)
    time.sleep(0.1)  # what comes twice has come
    with archive.open(receipt.instance) as stored:
        assert b"".join(stored.chunks(0, len(content))) == content
    assert [change.kind for change in archive.changes(0, 10)] == ["stored"]
    assert list(archive._objects.spool_directory.iterdir()) == []


def test_the_same_seed_sends_the_same():
    def sent(seed):
        maker = Maker(f"{seed}/a", "1.2.3", Contested(f"{seed}/b", "1.2.4"))
        return [version for _ in range(50) for version, _ in maker.several(6)]

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


def test_some_of_what_is_sent_is_too_large_to_wait_in_memory_and_some_is_contested():
    maker = Maker("1", "1.2.3", Contested("1", "1.2.4"))
    sent = [maker.next() for _ in range(1000)]
    sizes = [len(content) for _, content in sent]
    assert sum(size > 64 << 10 for size in sizes) >= 20
    assert sum(size > 512 << 10 for size in sizes) >= 2
    assert sum(size < 8 << 10 for size in sizes) > 900
    digests = {}
    for version, _ in sent:
        digests.setdefault(version.sop_instance, []).append(version.digest)
    assert any(len(some) > len(set(some)) for some in digests.values())
    assert any(len(set(some)) > 1 for some in digests.values())
    assert multipart(sent[:2]).count(b"\r\n--b0") == 2
