"""Kill -9 during ingest, again and again, and nothing that was acknowledged may be lost. F5, R1–R5.

A torture is a chain of lives over one data folder. In each a gateway runs, senders push by C-STORE and STOW, and at
random moments the DIMSE process, an HTTP worker or all processes at once are killed. The next life starts with an
inspection: what was acknowledged reads byte for byte, every row has its object, counts agree, nothing is left over.

``python -m tests.journeys.torture --kills 200 --seed 1`` prints the totals; the same seed makes the same plan.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import http.client
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydicom.uid import UID
from pynetdicom import AE, build_context

from tests import synthetic
from tests.fix_servers import running_gateway
from tests.journeys.judge import part10_digest
from tests.journeys.push import AE_TITLE, send_verbatim
from tests.pacing import paced

DIMSE, HTTP, GROUP = "DIMSE process", "HTTP worker", "all processes"
SENDERS = {DIMSE: 3, HTTP: 2}
DOOR_OF = {DIMSE: (DIMSE,), HTTP: (HTTP,), GROUP: (DIMSE, HTTP)}
LARGE_EVERY = 25
PAUSE_SECONDS = 0.01
BACK_SECONDS = 60.0
LONGEST_WAIT_SECONDS = 0.3


@dataclass(frozen=True)
class Sent:
    """An instance that a sender has begun to send. digest: SHA-256 (hex) of its Data Set."""

    study: str
    series: str
    sop_instance: str
    digest: str

    @property
    def path(self):
        return f"/dicomweb/studies/{self.study}/series/{self.series}/instances/{self.sop_instance}"


class Ledger:
    """What was sent, and of that what was acknowledged, by whom. Thread-safe."""

    def __init__(self):
        self._changed = threading.Condition()
        self.sent = {}
        self.acknowledged = set()
        self.refused = Counter()
        self.by_door = Counter()

    def begin(self, sent):
        with self._changed:
            self.sent[sent.sop_instance] = sent

    def acknowledge(self, door, sop_instances):
        with self._changed:
            self.acknowledged.update(sop_instances)
            self.by_door[door] += len(sop_instances)
            self._changed.notify_all()

    def refuse(self, what):
        with self._changed:
            self.refused[what] += 1

    def wait_for(self, door, more):
        """Wait until a door has acknowledged so many more."""
        with self._changed:
            goal = self.by_door[door] + more
            assert self._changed.wait_for(lambda: self.by_door[door] >= goal, BACK_SECONDS), f"{door} is not back"


@dataclass
class Totals:
    """What a torture has seen; everything from ``lost`` on has to be empty."""

    kills: Counter = field(default_factory=Counter)
    sent: int = 0
    acknowledged: int = 0
    kept_unacknowledged: int = 0
    refused: Counter = field(default_factory=Counter)
    lost: list = field(default_factory=list)
    ghosts: list = field(default_factory=list)
    unclean: list = field(default_factory=list)

    @property
    def is_sound(self):
        return not (self.lost or self.ghosts or self.unclean)

    def lines(self):
        """The record of a run."""
        kills = ", ".join(f"{count} of {kind}" for kind, count in sorted(self.kills.items()))
        return "\n".join(
            (
                f"kills: {self.kills.total()} ({kills})",
                f"instances: {self.sent} begun, {self.acknowledged} acknowledged",
                f"kept though the kill came before the answer: {self.kept_unacknowledged}",
                f"refused or interrupted: {dict(self.refused)}",
                f"lost: {len(self.lost)}, ghosts: {len(self.ghosts)}, unclean starts: {len(self.unclean)}",
                *(f"  {problem}" for problem in (*self.lost, *self.ghosts, *self.unclean)[:20]),
            )
        )


# ----------------------------------------------------------------------------------------------------------- senders


class Maker:
    """Instances of one sender in one life: a study of its own, tens of kilobytes each and now and then over a MiB."""

    def __init__(self, ledger, seed, study):
        self._ledger = ledger
        self._random = random.Random(seed)
        self._study = study
        self._count = 0

    def next(self):
        """The next instance and its Data Set, entered in the ledger."""
        self._count += 1
        size = self._random.randrange(8, 48) << 10
        if self._random.randrange(LARGE_EVERY) == 0:
            size = self._random.randrange(1100, 2600) << 10
        series, sop_instance = f"{self._study}.{self._count % 3}", f"{self._study}.9.{self._count}"
        pixels = self._random.randbytes(1024) * (size >> 10)
        raw = synthetic.image(
            size >> 10, 1024, pixels=pixels, study=self._study, series=series, sop_instance=sop_instance
        )
        sent = Sent(self._study, series, sop_instance, hashlib.sha256(raw).hexdigest())
        self._ledger.begin(sent)
        return sent, raw

    def pause(self):
        time.sleep(self._random.uniform(0, PAUSE_SECONDS))

    def several(self):
        """One to six instances."""
        return [self.next() for _ in range(self._random.randrange(1, 7))]


def store_by_dimse(port, maker, ledger, stopping):
    """One association after the other, each as long as it lasts."""
    ae = AE("TORTURE")
    ae.acse_timeout = ae.network_timeout = ae.connection_timeout = 20
    ae.dimse_timeout = 3
    context = build_context(UID(synthetic.SECONDARY_CAPTURE), [UID(synthetic.EXPLICIT)])
    while not stopping.is_set():
        association = paced(ae.associate("127.0.0.1", port, [context], ae_title=AE_TITLE))
        while association.is_established and not stopping.is_set():
            sent, raw = maker.next()
            status = send_verbatim(association, synthetic.SECONDARY_CAPTURE, sent.sop_instance, raw)
            if status is None:
                ledger.refuse("C-STORE without answer")
                association.abort()
                break
            if status == 0:
                ledger.acknowledge(DIMSE, [sent.sop_instance])
            else:
                ledger.refuse(f"C-STORE {status:04X}")
            maker.pause()
        if association.is_established:
            association.release()
        for thread in (association, association.dul):
            if thread.is_alive():
                thread.join(5)
        maker.pause()


@contextlib.contextmanager
def forgotten_sockets():
    """Let pass that pynetdicom forgets to close a socket which its peer has reset, and what it logs of that."""
    logger = logging.getLogger("pynetdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            gc.collect()
            logger.setLevel(level)


def store_by_http(port, maker, ledger, stopping):
    """One STOW request after the other, parts trickling in."""
    while not stopping.is_set():
        try:
            status, stored = stow(port, maker)
        except (OSError, http.client.HTTPException) as error:
            ledger.refuse(f"STOW {type(error).__name__}")
        else:
            ledger.acknowledge(HTTP, stored)
            if status != 200:
                ledger.refuse(f"STOW {status}")
        maker.pause()


def stow(port, maker):
    """One request; its status and the instances that the answer says are stored."""

    def body():
        for sent, raw in maker.several():
            yield b"--b0\r\nContent-Type: application/dicom\r\n\r\n"
            yield synthetic.part10(raw, sop=sent.sop_instance)
            yield b"\r\n"
            maker.pause()
        yield b"--b0--"

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        content_type = 'multipart/related; type="application/dicom"; boundary=b0'
        connection.request("POST", "/dicomweb/studies", body(), {"Content-Type": content_type}, encode_chunked=True)
        answer = connection.getresponse()
        content = answer.read()
    if answer.status not in (200, 202):
        return answer.status, []
    return answer.status, [item["00081155"]["Value"][0] for item in json.loads(content)["00081199"]["Value"]]


# ------------------------------------------------------------------------------------------------------------- lives


class Torture:
    """Lives over ``data``. plan: for each life the kinds of its kills; a kill of all processes ends the life."""

    def __init__(self, data, seed, plan):
        self._data = data
        self._seed = seed
        self._plan = plan
        self._random = random.Random(seed)
        self.totals = Totals()

    def run(self, progress=lambda _: None):
        """All lives, then an inspection of everything; the totals."""
        everything = Ledger()
        last = Ledger()
        for number, kinds in enumerate(self._plan):
            with running_gateway(self._data) as gateway:
                self._inspect(gateway, last)
                last = Ledger()
                with forgotten_sockets():
                    self._live(gateway, number, kinds, last)
            everything.sent |= last.sent
            everything.acknowledged |= last.acknowledged
            self.totals.refused += last.refused
            progress(self.totals)
        with running_gateway(self._data) as gateway:
            self._inspect(gateway, last)
            self._inspect_all(gateway, everything)
        self.totals.sent, self.totals.acknowledged = len(everything.sent), len(everything.acknowledged)
        return self.totals

    def _live(self, gateway, number, kinds, ledger):
        stopping = threading.Event()
        senders = [
            threading.Thread(target=send, args=(port, maker, ledger, stopping))
            for door, send, port in (
                (DIMSE, store_by_dimse, gateway.dimse_port),
                (HTTP, store_by_http, gateway.http_port),
            )
            for maker in (self._maker(ledger, number, door, one) for one in range(SENDERS[door]))
        ]
        for sender in senders:
            sender.start()
        try:
            for kind in kinds:
                for door in DOOR_OF[kind]:
                    ledger.wait_for(door, 1)
                time.sleep(self._random.uniform(0, LONGEST_WAIT_SECONDS))
                self._kill(gateway, kind)
            if GROUP not in kinds:
                for door in SENDERS:
                    ledger.wait_for(door, 1)
        finally:
            stopping.set()
            for sender in senders:
                sender.join(BACK_SECONDS)
        assert not any(sender.is_alive() for sender in senders)

    def _maker(self, ledger, number, door, one):
        door_number = list(SENDERS).index(door)
        return Maker(ledger, f"{self._seed}/{number}/{door}/{one}", f"2.25.{self._seed}.{number}.{door_number}.{one}")

    def _kill(self, gateway, kind):
        if kind == GROUP:
            parent = psutil.Process(gateway.process.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            gateway.process.wait()
        else:
            os.kill(self._random.choice(living(gateway, "dimse" if kind == DIMSE else "http")), signal.SIGKILL)
        self.totals.kills[kind] += 1

    # Inspections

    def _inspect(self, gateway, ledger):
        """A gateway that has just started, against what the life before sent."""
        self._inspect_start(gateway)
        with contextlib.closing(Reader(gateway.http_port)) as reader:
            for study in sorted({sent.study for sent in ledger.sent.values()}):
                rows = reader.instances(study)
                counts = reader.counts(study)
                if counts != (len(rows), len(rows)):
                    self.totals.ghosts.append(f"counts {counts} of {len(rows)} rows")
                for sop_instance in rows:
                    self._read(reader, ledger, sop_instance)
                expected = {one for one in ledger.acknowledged if ledger.sent[one].study == study}
                self.totals.lost += sorted(expected - set(rows))
                self.totals.kept_unacknowledged += len(set(rows) - expected)

    def _read(self, reader, ledger, sop_instance):
        """A row has to have its object, with the bytes that were sent."""
        sent = ledger.sent.get(sop_instance)
        if sent is None:
            self.totals.ghosts.append(f"{sop_instance} was never sent")
            return
        status, content = reader.get(sent.path, "application/dicom; transfer-syntax=*")
        if status != 200 or part10_digest(content) != sent.digest:
            wrong = self.totals.lost if sop_instance in ledger.acknowledged else self.totals.ghosts
            wrong.append(f"{sop_instance} reads as {status} with {len(content)} bytes")

    def _inspect_start(self, gateway):
        unclean = self.totals.unclean
        unclean += [f"left over: {path.name}" for path in self._data.rglob("*.incoming")]
        unclean += [f"log line {line['event']}" for line in gateway.lines() if line["level"] in ("ERROR", "CRITICAL")]
        with contextlib.closing(sqlite3.connect(f"file:{self._data / 'index.sqlite'}?mode=ro", uri=True)) as index:
            ((said,),) = index.execute("PRAGMA integrity_check").fetchall()
        if said != "ok":
            unclean.append(f"integrity_check: {said}")

    def _inspect_all(self, gateway, everything):
        """Rows and objects of all lives, the objects straight from the folder."""
        with contextlib.closing(Reader(gateway.http_port)) as reader:
            rows = {row for study in {one.study for one in everything.sent.values()} for row in reader.instances(study)}
        digests = {}
        for path in self._data.rglob("*.dcm"):
            sop_instance = path.name.split("_")[0]
            digests[sop_instance] = part10_digest(path.read_bytes())
        self.totals.lost += sorted(everything.acknowledged - rows)
        wrong = [row for row in rows if digests.get(row) != everything.sent[row].digest]
        self.totals.lost += [row for row in wrong if row in everything.acknowledged]
        self.totals.ghosts += [row for row in wrong if row not in everything.acknowledged]


def living(gateway, prefix):
    """Processes of that kind that run now; at least one, though it may have to be started again first."""
    deadline = time.monotonic() + BACK_SECONDS
    while time.monotonic() < deadline:
        children = {process.pid for process in psutil.Process(gateway.process.pid).children()}
        found = sorted(children & set(gateway.pids(prefix).values()))
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"no process {prefix} runs")


class Reader:
    """DICOMweb over one connection."""

    PAGE = 500

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def get(self, path, accept):
        self._connection.request("GET", path, headers={"Accept": accept})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def search(self, path):
        status, content = self.get(path, "application/dicom+json")
        assert status in (200, 204), (status, content)
        return json.loads(content) if content else []

    def instances(self, study):
        """SOP Instance UIDs of every row of a study."""
        found = []
        while True:
            page = f"limit={self.PAGE}&offset={len(found)}"
            rows = self.search(f"/dicomweb/studies/{study}/instances?{page}")
            found += [row["00080018"]["Value"][0] for row in rows]
            if len(rows) < self.PAGE:
                return found

    def counts(self, study):
        """Instances of a study as its own row counts them, and as the rows of its series do together."""
        studies = self.search(f"/dicomweb/studies?StudyInstanceUID={study}")
        series = self.search(f"/dicomweb/studies/{study}/series")
        return tuple(
            sum(row[tag]["Value"][0] for row in rows) for tag, rows in (("00201208", studies), ("00201209", series))
        )

    def close(self):
        self._connection.close()


def plan_of(kills):
    """Lives of three kills, one of each kind, until there are enough."""
    kinds = [DIMSE, HTTP, GROUP] * (kills // 3) + [DIMSE, HTTP][: kills % 3]
    return [kinds[at : at + 3] for at in range(0, len(kinds), 3)]


def main(arguments):
    """The record: totals of a long run, and exit code 1 when it is not sound."""
    parser = argparse.ArgumentParser(description="Kill -9 during ingest; nothing acknowledged may be lost.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    started = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    try:
        torture = Torture(folder / "data", options.seed, plan_of(options.kills))
        totals = torture.run(lambda so_far: print(f"\r{so_far.kills.total()} kills", end="", flush=True))
    finally:
        shutil.rmtree(folder)
    print(f"\n{totals.lines()}\ntime: {time.monotonic() - started:.0f} s")
    return 0 if totals.is_sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
