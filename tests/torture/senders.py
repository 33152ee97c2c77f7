"""Who calls a gateway: senders by C-STORE and STOW-RS, a reader, and one who stores and deletes. Each is a thread.

Whatever happens to a call, its sender goes on with the next one, as a modality does.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence

from benchmarks.dimse import Association
from tests import synthetic
from tests.fix_servers import command_environment
from tests.journeys.judge import part10_digest
from tests.torture.history import DELETE, GONE, STORE, Call, History, Outcome, Version
from tests.torture.making import Made, Maker
from tests.torture.world import Gateway, World

ANSWER_SECONDS = 20.0
REST_SECONDS = 0.05
AE_TITLE = "GATEWAY"
CONTEXTS = [(synthetic.SECONDARY_CAPTURE, syntax) for syntax in (synthetic.EXPLICIT, synthetic.DEFLATED)]
BOUNDARY = "b0"
CUT_OFF = (struct.error, IndexError)
"""What comes of an answer that ends too early."""
STORED, FAILED = "00081199", "00081198"


class Requestor(Association):
    """An association that waits ``ANSWER_SECONDS`` for an answer, and is closed when it does not come about."""

    def __init__(self, port: int) -> None:
        try:
            super().__init__("127.0.0.1", port, AE_TITLE, CONTEXTS)
        except (OSError, *CUT_OFF) as error:
            if hasattr(self, "_answers"):
                self.close()
            raise ConnectionError("no association") from error
        self._socket.settimeout(ANSWER_SECONDS)


def store_by_dimse(gateway: Gateway, maker: Maker, history: History, stopping: threading.Event) -> None:
    """One association after the other, each as long as it lasts."""
    door = f"dimse {gateway.name}"
    while not stopping.is_set():
        # What became of the calls, the history tells.
        with contextlib.suppress(OSError), contextlib.closing(Requestor(gateway.dimse_port)) as association:
            for _ in range(maker.chance.randrange(5, 100)):
                if stopping.is_set():
                    break
                if not _store(association, maker, history, door):
                    stopping.wait(REST_SECONDS)
            association.release()
        stopping.wait(REST_SECONDS)


def _store(association: Association, maker: Maker, history: History, door: str) -> bool:
    """One C-STORE; whether it succeeded. Raises OSError when the association has ended."""
    version, content = one = maker.next()
    call = history.begin(STORE, door, version)
    try:
        context = (synthetic.SECONDARY_CAPTURE, version.transfer_syntax)
        status = association.store(context, version.sop_instance, memoryview(content))
    except (OSError, *CUT_OFF) as error:
        history.end(call, Outcome.UNKNOWN, type(error).__name__)
        maker.give_back(one)
        raise ConnectionError from error
    if status == 0 or status >> 12 == 0xB:
        history.end(call, Outcome.OK)
        return True
    history.end(call, Outcome.FAIL, f"{status:04X}")
    maker.give_back(one)
    return False


class Client:
    """HTTP over one connection, which is made anew after a failure."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, bytes]:
        """Status, media type and body of the answer. Raises OSError or HTTPException."""
        try:
            self._connection.request(method, path, body, {key.replace("_", "-"): one for key, one in headers.items()})
            answer = self._connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def reach(self) -> bool:
        """Whether there is a connection, or one could be made: where nobody listens, there is nothing to call."""
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError:
                return False
        return True

    def get(self, path: str, accept: str) -> tuple[int, str, bytes]:
        return self.request("GET", path, Accept=accept)

    def close(self) -> None:
        self._connection.close()


def multipart(parts: Sequence[Made]) -> bytes:
    """The body of a STOW request. PS3.18 §10.5.1"""
    pieces = []
    for version, content in parts:
        pieces.append(f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode())
        pieces.append(synthetic.part10(content, syntax=version.transfer_syntax, sop=version.sop_instance))
        pieces.append(b"\r\n")
    return b"".join((*pieces, f"--{BOUNDARY}--".encode()))


def store_by_http(gateway: Gateway, maker: Maker, history: History, stopping: threading.Event) -> None:
    """One STOW request after the other."""
    with contextlib.closing(Client(gateway.http_port)) as client:
        while not stopping.is_set():
            if not stow(client, maker, maker.several(12), history, f"stow {gateway.name}"):
                stopping.wait(REST_SECONDS)


def stow(client: Client, maker: Maker, parts: Sequence[Made], history: History, door: str) -> bool:
    """One request; whether all of it was stored."""
    if not client.reach():
        for one in parts:
            maker.give_back(one)
        return False
    calls = [history.begin(STORE, door, version) for version, _ in parts]
    content_type = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    try:
        status, _, content = client.request("POST", "/dicomweb/studies", multipart(parts), Content_Type=content_type)
        said = json.loads(content) if content else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        _end(calls, parts, [(Outcome.UNKNOWN, type(error).__name__)] * len(parts), maker, history)
        return False
    stored, failed = (
        {item["00081155"]["Value"][0]: item for item in said.get(tag, {}).get("Value", ())} for tag in (STORED, FAILED)
    )
    outcomes = []
    for version, _ in parts:
        uid = version.sop_instance
        if uid in stored:
            outcomes.append((Outcome.OK, ""))
        elif uid in failed:
            outcomes.append((Outcome.FAIL, f"{failed[uid]['00081197']['Value'][0]:04X}"))
        elif STORED in said or FAILED in said:
            outcomes.append((Outcome.UNKNOWN, f"not named in a {status}"))
        else:
            outcomes.append((Outcome.FAIL, str(status)))
    _end(calls, parts, outcomes, maker, history)
    return all(outcome is Outcome.OK for outcome, _ in outcomes)


def _end(calls: Sequence[Call], parts: Sequence[Made], outcomes, maker: Maker, history: History) -> None:
    for call, one, (outcome, reason) in zip(calls, parts, outcomes, strict=True):
        history.end(call, outcome, reason)
        if outcome is not Outcome.OK:
            maker.give_back(one)


# ------------------------------------------------------------------------------------------------------------- readers


class Reader:
    """Reads what has been acknowledged, while everything fails: an answer may be an error, but never wrong.

    deleted: what study UIDs start with that are for the ``Deleter``. wrong: what it saw that must not be. read: answers
    that were right. refused: errors.
    """

    def __init__(self, world: World, history: History, chance: random.Random, deleted: str) -> None:
        self._world = world
        self._history = history
        self._chance = chance
        self._deleted = deleted
        self._current: dict[str, str] = {}
        self.wrong: list[tuple[str, str]] = []
        self.read = 0
        self.refused = 0

    def run(self, stopping: threading.Event) -> None:
        clients = {gateway.name: Client(gateway.http_port) for gateway in self._world.gateways}
        with contextlib.ExitStack() as stack:
            for client in clients.values():
                stack.callback(client.close)
            while not stopping.wait(REST_SECONDS / 5):
                version = self._pick()
                if version is not None:
                    look = self._chance.choice((self._find, self._retrieve))
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        look(clients[self._world.any_gateway(self._chance).name], version)

    def _pick(self) -> Version | None:
        """Mostly of what came last; nothing that may be deleted meanwhile."""
        known = self._history.acknowledged
        count = len(known)
        if not count:
            return None
        first = max(0, count - 100) if self._chance.random() < 0.5 else 0
        version = known[self._chance.randrange(first, count)]
        return None if version.study.startswith(self._deleted) else version

    def _find(self, client: Client, version: Version) -> None:
        """The very next search of any process finds it, once (Q27)."""
        path = f"/dicomweb/instances?SOPInstanceUID={version.sop_instance}"
        status, _, content = client.get(path, "application/dicom+json")
        if status != 200:
            self.refused += 1
        elif len(json.loads(content)) != 1:
            self.wrong.append(("lost", f"{version.sop_instance} is found {len(json.loads(content))} times"))
        else:
            self.read += 1

    def _retrieve(self, client: Client, version: Version) -> None:
        """Its bytes, or those of the version that was first, and always the same."""
        sop_instance = version.sop_instance
        status, _, content = client.get(version.path, "application/dicom; transfer-syntax=*")
        if status in (404, 410):
            if len(self._history.versions[sop_instance]) == 1:  # others may have another path
                self.wrong.append(("lost", f"{sop_instance} is {status}"))
        elif status != 200:
            self.refused += 1
        elif (digest := part10_digest(content)) not in self._history.versions[sop_instance]:
            self.wrong.append(("mixed", f"{sop_instance} is what nobody sent"))
        elif self._current.setdefault(sop_instance, digest) != digest:
            self.wrong.append(("mixed", f"{sop_instance} has changed"))
        else:
            self.read += 1


# ------------------------------------------------------------------------------------------------------------- deletes


class Deleter:
    """Stores instances and deletes them, one call after the other, so that it is known what has to be there.

    What deletes is a process of its own over the same archive, that may be killed like any other.
    """

    def __init__(self, world: World, seed: str, root: str, history: History) -> None:
        self._world = world
        self._seed = seed
        self._root = root
        self._history = history
        self._chance = random.Random(seed)
        self._process: subprocess.Popen[str] | None = None

    def process_id(self) -> int | None:
        """Of the process that deletes, while there is one."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self, stopping: threading.Event) -> None:
        try:
            for number in itertools.count(1):
                if stopping.is_set():
                    return
                gateway = self._world.any_gateway(self._chance)
                maker = Maker(f"{self._seed}/{number}", f"{self._root}.{number}", None)
                with contextlib.closing(Client(gateway.http_port)) as client:
                    self._turn(client, gateway, maker, stopping)
        finally:
            self._end_process(is_killed=False)

    def _turn(self, client: Client, gateway: Gateway, maker: Maker, stopping: threading.Event) -> None:
        """Some instances of a study of their own; again and again a part of them is deleted, and all are sent again."""
        kept = [maker.fresh() for _ in range(6)]
        for _ in range(3):
            if stopping.is_set():
                return
            if not stow(client, maker, kept, self._history, f"stow {gateway.name}"):
                stopping.wait(REST_SECONDS)
            level = maker.chance.randrange(3)
            first = kept[0][0]
            uids = (first.study, first.series, first.sop_instance)[: level + 1]
            concerned = [one for one, _ in kept if (one.study, one.series, one.sop_instance)[: level + 1] == uids]
            self._delete(uids, concerned)
            stopping.wait(REST_SECONDS)

    def _delete(self, uids: Sequence[str], concerned: Sequence[Version]) -> None:
        calls = [self._history.begin(DELETE, "archive", version) for version in concerned]
        outcome, reason = self._ask(uids)
        for call in calls:
            self._history.end(call, outcome, reason)

    def _ask(self, uids: Sequence[str]) -> tuple[Outcome, str]:
        try:
            if self.process_id() is None:
                self._end_process(is_killed=True)
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.torture.deleting", str(self._world.objects), str(self._world.place)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=command_environment(),
                )
            self._process.stdin.write(json.dumps(list(uids)) + "\n")
            self._process.stdin.flush()
            said = self._process.stdout.readline().strip()
        except OSError as error:
            return Outcome.UNKNOWN, type(error).__name__
        return {
            "deleted": (Outcome.OK, ""),
            GONE: (Outcome.OK, GONE),
            "": (Outcome.UNKNOWN, "killed"),
        }.get(said, (Outcome.FAIL, said))

    def _end_process(self, *, is_killed: bool) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if is_killed:
            self._process.kill()
        self._process.wait(ANSWER_SECONDS)
        self._process.stdout.close()
        self._process = None
