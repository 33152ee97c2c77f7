"""Inspection: what a healed archive holds, as its doors show it, and index and folder where no door does."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import re
import shutil
import sqlite3
import subprocess
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from storage.model import SERIES_STABLE, STUDY_STABLE
from tests import synthetic
from tests.journeys.judge import part10_digest
from tests.torture.checker import GHOST, LOST, MIXED, UNCLEAN, Observation, Problem, Seen
from tests.torture.history import Version
from tests.torture.senders import AE_TITLE, Client
from tests.torture.world import Gateway, World

PAGE = 500
READERS = 2
SAMPLE = 0.03
C_GET_SECONDS = 60.0
_BOUNDARY = re.compile(r'boundary="?([^";]+)')


class Looker:
    """Looks at studies through one gateway. sample: the part of all instances that is also looked at one by one."""

    def __init__(self, gateway: Gateway, sample: float, chance: random.Random) -> None:
        self._client = Client(gateway.http_port)
        self._sample = sample
        self._chance = chance
        self.problems: list[Problem] = []

    def close(self) -> None:
        self._client.close()

    def _ask(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """An answer that ends too early has no status."""
        try:
            return self._client.get(path, accept)
        except (OSError, http.client.HTTPException) as error:
            return 0, "", type(error).__name__.encode()

    def study(self, study: str, versions: Mapping[str, Collection[Version]]) -> dict[str, Seen]:
        """Its instances; versions: what was sent under each SOP Instance UID."""
        rows = self._rows(study)
        if not rows:
            return {}
        self._check_counts(study, Counter(uid for uid, _ in rows))
        digests = self._retrieve_study(study)
        markers = self._metadata(study)
        for name, found in (("retrieved", digests), ("metadata", markers)):
            if found.keys() != {uid for uid, _ in rows}:
                self.problems.append((MIXED, f"study {study}: {name} and rows are not of the same instances"))
        seen = {}
        for (uid, series), count in Counter(rows).items():
            seen[uid] = self._looked_at(Seen(study, series, count, digests.get(uid, ""), (), markers.get(uid, "")), uid)
            if len(versions.get(uid, ())) > 1 or self._chance.random() < self._sample:
                seen[uid] = self._closer(seen[uid], uid)
        return seen

    def _looked_at(self, seen: Seen, uid: str) -> Seen:
        """With its own retrieval where its study's had none."""
        if seen.digest:
            return seen
        status, _, content = self._instance(seen, uid)
        return replace(seen, digest=part10_digest(content)) if status == 200 else seen

    def _instance(self, seen: Seen, uid: str) -> tuple[int, str, bytes]:
        path = f"/dicomweb/studies/{seen.study}/series/{seen.series}/instances/{uid}"
        return self._ask(path, "application/dicom; transfer-syntax=*")

    def _closer(self, seen: Seen, uid: str) -> Seen:
        """Alone, its frame, and its own metadata."""
        path = f"/dicomweb/studies/{seen.study}/series/{seen.series}/instances/{uid}"
        status, _, content = self._instance(seen, uid)
        retrieved = (part10_digest(content) if status == 200 else str(status),)
        status, kind, content = self._client.get(
            f"{path}/frames/1", 'multipart/related; type="application/octet-stream"'
        )
        frames = [body for _, body in parts(kind, content)] if status == 200 else []
        frame = hashlib.sha256(frames[0]).hexdigest() if frames else str(status)
        status, _, content = self._ask(f"{path}/metadata", "application/dicom+json")
        marker = _marker(json.loads(content)[0]) if status == 200 else str(status)
        if marker != seen.marker:
            self.problems.append((MIXED, f"{uid}: its metadata is not that of its study"))
        return replace(seen, retrieved=retrieved, frame=frame)

    def _rows(self, study: str) -> list[tuple[str, str]]:
        """SOP and Series Instance UID of every row."""
        found: list[tuple[str, str]] = []
        while True:
            rows = self._search(f"/dicomweb/studies/{study}/instances?limit={PAGE}&offset={len(found)}")
            found += [(row["00080018"]["Value"][0], row["0020000E"]["Value"][0]) for row in rows]
            if len(rows) < PAGE:
                return found

    def _search(self, path: str) -> list[dict]:
        status, _, content = self._ask(path, "application/dicom+json")
        if status != 200:
            self.problems.append((LOST, f"a search answers {status} though all is healed"))
            return []
        return json.loads(content)

    def _check_counts(self, study: str, rows: Counter[str]) -> None:
        """A study counts its instances as they are, and so do its series together (Q28)."""
        studies = self._search(f"/dicomweb/studies?StudyInstanceUID={study}")
        series = self._search(f"/dicomweb/studies/{study}/series")
        counts = [
            sum(row[tag]["Value"][0] for row in found) for tag, found in (("00201208", studies), ("00201209", series))
        ]
        if counts != [rows.total()] * 2 or len(studies) != 1:
            self.problems.append((GHOST, f"study {study} counts {counts} of {rows.total()} instances"))

    def _retrieve_study(self, study: str) -> dict[str, str]:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        status, kind, content = self._ask(f"/dicomweb/studies/{study}", accept)
        if status != 200:
            self.problems.append((LOST, f"study {study} is retrieved as {status}"))
            return {}
        return {sop_instance_of(body): part10_digest(body) for _, body in parts(kind, content)}

    def _metadata(self, study: str) -> dict[str, str]:
        status, _, content = self._ask(f"/dicomweb/studies/{study}/metadata", "application/dicom+json")
        if status != 200:
            self.problems.append((LOST, f"metadata of study {study} is {status}"))
            return {}
        return {one["00080018"]["Value"][0]: _marker(one) for one in json.loads(content)}


def _marker(model: Mapping) -> str:
    return model.get("00204000", {}).get("Value", [""])[0]


def parts(kind: str, content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Header and body of the parts of an answer, whose bodies say how long they are or hold no boundary by chance."""
    boundary = b"\r\n--" + _BOUNDARY.search(kind).group(1).encode()
    pieces = (b"\r\n" + content).split(boundary)
    assert pieces[-1].startswith(b"--"), "the answer has no end"
    for piece in pieces[1:-1]:
        header, _, body = piece.partition(b"\r\n\r\n")
        yield header, body


def sop_instance_of(part10: bytes) -> str:
    """Media Storage SOP Instance UID of a Part 10 stream."""
    at = part10.index(b"\x02\x00\x03\x00UI")
    length = int.from_bytes(part10[at + 6 : at + 8], "little")
    return part10[at + 8 : at + 8 + length].rstrip(b"\0").decode()


# ---------------------------------------------------------------------------------------------------------- the archive


def observe(
    world: World, versions: Mapping[str, Mapping[str, Version]], sent: Collection[str], chance: random.Random
) -> Observation:
    """The instances of some SOP Instance UIDs, and whatever else is in their studies; what concerns all of the archive.

    versions: what was sent in all, by SOP Instance UID and digest.
    """
    observed = Observation()
    of_study: dict[str, dict[str, Collection[Version]]] = defaultdict(dict)
    for uid in sent:
        for version in versions[uid].values():
            of_study[version.study][uid] = versions[uid].values()
    lookers = [Looker(world.gateways[number % len(world.gateways)], SAMPLE, chance) for number in range(READERS)]
    with ThreadPoolExecutor(READERS) as pool, contextlib.ExitStack() as stack:
        for looker in lookers:
            stack.callback(looker.close)
        found = pool.map(
            lambda share: [share[0].study(study, of_study[study]) for study in share[1]],
            [(looker, sorted(of_study)[number::READERS]) for number, looker in enumerate(lookers)],
        )
        for seen in (one for share in found for one in share):
            for uid, one in seen.items():
                if uid in observed.seen:
                    observed.problems.append((GHOST, f"{uid} is in two studies"))
                observed.seen[uid] = one
    observed.problems += [problem for looker in lookers for problem in looker.problems]
    studies = sorted({seen.study for seen in observed.seen.values()})
    if studies:
        observed.problems += _get(world.any_gateway(chance), chance.choice(studies), observed.seen)
    observed.problems += _index_problems(world)
    observed.problems += [(UNCLEAN, f"left over: {path.name}") for path in world.objects.rglob("*.incoming")]
    rivals, changes = _told_by_index(world, versions, observed)
    observed.rivals = {uid: rivals[uid] for uid in sent if uid in rivals}
    observed.changes = {uid: changes[uid] for uid in sent if uid in changes}
    return observed


def _get(gateway: Gateway, study: str, seen: Mapping[str, Seen]) -> Iterator[Problem]:
    """A study by C-GET, with DCMTK's getscu where that is installed; it writes what it gets exactly as it comes."""
    if shutil.which("getscu") is None:
        return
    wanted = {uid: one.digest for uid, one in seen.items() if one.study == study}
    folder = gateway.data.parent / "getscu"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    words = ["getscu", "-S", "+B", "-od", str(folder), "-aec", AE_TITLE, "-k", "QueryRetrieveLevel=STUDY"]
    words += ["+xd"] if all(is_deflated(one) for one in seen.values() if one.study == study) else ["+xe"]
    words += ["-k", f"StudyInstanceUID={study}", "127.0.0.1", str(gateway.dimse_port)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=C_GET_SECONDS)
    if done.returncode:
        yield LOST, f"getscu ends with {done.returncode}"
    found = {sop_instance_of(raw): raw for raw in (path.read_bytes() for path in folder.iterdir())}
    shutil.rmtree(folder)
    for uid, digest in wanted.items():
        if uid not in found:
            yield LOST, f"C-GET brings no {uid}"
        elif not is_deflated(seen[uid]) and part10_digest(found[uid]) != digest:
            yield MIXED, f"{uid} comes by C-GET as something else than by WADO-RS"


def is_deflated(seen: Seen) -> bool:
    """Whether an instance is kept in Deflated Explicit VR, which getscu gets inflated beside others."""
    return seen.marker.endswith(synthetic.DEFLATED)


def _index_problems(world: World) -> Iterator[Problem]:
    """What the engine says of its own file."""
    if isinstance(world.place, Path):
        with contextlib.closing(sqlite3.connect(f"file:{world.place}?mode=ro", uri=True)) as index:
            for check, fine in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
                said = index.execute(f"PRAGMA {check}").fetchall()
                if said != fine:
                    yield UNCLEAN, f"{check}: {said[:3]}"


_CURRENT = (
    "SELECT instance.sop_instance_uid, instance.digest, instance.object_key, instance.size_bytes, "
    "instance.data_set_offset, document.instance FROM instance LEFT JOIN document ON document.instance = instance.id"
)
_RIVALS = "SELECT sop_instance_uid, digest, object_key, size_bytes, data_set_offset FROM rival"


def _told_by_index(
    world: World, versions: Mapping[str, Mapping[str, Version]], observed: Observation
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Rivals and changes of every SOP Instance UID; every row, seen or not, against its object."""
    rivals: dict[str, list[str]] = defaultdict(list)
    with world.index() as index:
        current = index._rows(_CURRENT, ())
        for uid, digest, key, size_bytes, offset, document in current:
            if document is None:
                observed.problems.append((MIXED, f"{uid} has no document"))
            observed.problems += _object_problems(world, uid, digest, key, size_bytes, offset)
            if uid in observed.seen and observed.seen[uid].digest != digest:
                observed.problems.append((MIXED, f"{uid}: its row has another digest than what is retrieved"))
        for uid, digest, key, size_bytes, offset in index._rows(_RIVALS, ()):
            rivals[uid].append(digest)
            observed.problems += _object_problems(world, uid, digest, key, size_bytes, offset)
        changes = _changes(index, observed)
    there = {row[0] for row in current}
    unsent = (there | rivals.keys() | changes.keys()) - versions.keys()
    observed.problems += [(GHOST, f"{uid} is in the index and was never sent") for uid in sorted(unsent)]
    stored = {uid for uid, kinds in changes.items() if len(kinds) % 2}
    observed.problems += [(GHOST, f"{uid}: rows and changes do not agree") for uid in sorted(there ^ stored)]
    return rivals, changes


def _object_problems(world: World, uid: str, digest: str, key: str, size_bytes: int, offset: int) -> Iterator[Problem]:
    """I1: a row has its object, of its length and digest."""
    try:
        content = (world.objects / key).read_bytes()
    except FileNotFoundError:
        yield LOST, f"{uid}: the object of a row is missing"
        return
    if len(content) != size_bytes:
        yield LOST, f"{uid}: the object has {len(content)} bytes of {size_bytes}"
    elif hashlib.sha256(content[offset:]).hexdigest() != digest:
        yield LOST, f"{uid}: the object has another digest than its row"


def _changes(index, observed: Observation) -> dict[str, list[str]]:
    """Kinds of the changes of each SOP Instance UID; a deleted study or series counts for all that was in it."""
    kinds: dict[str, list[str]] = defaultdict(list)
    there: dict[str, dict[str, str]] = defaultdict(dict)
    last = 0
    while some := index.changes(last, 10_000):
        for change in some:
            if change.sequence != last + 1:
                observed.problems.append((GHOST, f"the change feed goes from {last} to {change.sequence}"))
            last = change.sequence
            if change.kind in (SERIES_STABLE, STUDY_STABLE):
                continue
            scope = change.scope
            uids = (
                [scope.sop_instance_uid]
                if scope.sop_instance_uid
                else list(_below(there[scope.study_instance_uid], scope.series_instance_uid))
            )
            for uid in uids:
                kinds[uid].append(change.kind)
                if change.kind == "stored":
                    there[scope.study_instance_uid][uid] = scope.series_instance_uid
                else:
                    there[scope.study_instance_uid].pop(uid, None)
    return dict(kinds)


def _below(there: Mapping[str, str], series: str) -> Iterable[str]:
    return (uid for uid, its_series in there.items() if series in ("", its_series))
