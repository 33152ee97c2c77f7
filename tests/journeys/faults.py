"""Faults planted in an archive, each of which a scrub must find under its right name, and nothing else.

``python -m tests.journeys.faults --faults 1000 --seed 1`` plants them, looks without repair and with it, and prints the
totals; the same seed plants the same faults. F2, F18, R3, R10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from storage.dicomjson import pack_metadata
from storage.filemeta import Announcement
from storage.index.sqlite import connect
from storage.keys import instance_key
from storage.model import Scope
from storage.spool import Spool
from tests.fix_archive import keep, open_archive
from tests.fix_servers import run_command
from tests.synthetic import EXPLICIT, SECONDARY_CAPTURE, image

OLD_SECONDS = 2 * 24 * 3600
UNMENDED = {"missing", "size", "digest", "journal"}
"""Faults that only whoever has the bytes can mend; unless it is the row that is wrong, or a copy lies about."""


@dataclass
class Totals:
    """What was planted by kind, and how the scrubs ended; everything from ``missed`` on has to be empty."""

    planted: Counter = field(default_factory=Counter)
    looked_at: int = 0
    found: int = 0
    mended: int = 0
    missed: list = field(default_factory=list)
    false: list = field(default_factory=list)
    unsound: list = field(default_factory=list)

    @property
    def is_sound(self):
        return not (self.missed or self.false or self.unsound)

    def lines(self):
        """The record of a run."""
        planted = ", ".join(f"{count} {kind}" for kind, count in sorted(self.planted.items()))
        return "\n".join(
            (
                f"planted: {self.planted.total()} ({planted})",
                f"looked at {self.looked_at}, findings {self.found}, mended {self.mended}",
                f"missed: {len(self.missed)}, false: {len(self.false)}, unsound: {len(self.unsound)}",
                *(f"  {problem}" for problem in (*self.missed, *self.false, *self.unsound)[:20]),
            )
        )


class Planter:
    """Stores studies of a few instances in an archive and damages them. expected: fault and name of each finding."""

    def __init__(self, data, seed):
        self._data = data
        self._root = data / "objects"
        self._random = random.Random(seed)
        self._archive = open_archive(data)
        self._study = 0
        self._late = []
        self.planted = Counter()
        self.expected = set()
        self.hopeless = set()
        self._kinds = {
            name.removeprefix("plant_"): getattr(self, name) for name in dir(type(self)) if name.startswith("plant_")
        }

    def study(self, count=2, *, series=1):
        """A new study that is whole: its instances."""
        self._study += 1
        study = f"2.25.7.{self._study}"
        made = []
        for number in range(1, count + 1):
            own, uid = f"{study}.{number % series + 1}", f"{study}.9.{number}"
            pixels = self._random.randbytes(self._random.choice([16, 16, 100 << 10]))
            content = image(
                len(pixels) // 16, 16, pixels=pixels, study=study, series=own, sop_instance=uid, name="A", number=number
            )
            made.append((keep(self._archive, content, sop=uid).instance, content))
        return made

    def plant(self, faults):
        """So many faults, of every kind in turn, among studies that have none."""
        kinds = sorted(self._kinds)
        for number in range(faults):
            kind = kinds[number % len(kinds)]
            self._kinds[kind]()
            self.planted[kind] += 1
        self._healthy()
        self._archive.close()
        with contextlib.closing(connect(self._data / "index.sqlite")) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("BEGIN IMMEDIATE")
            for text, parameters in self._late:
                connection.execute(text, parameters)
            connection.execute("COMMIT")

    def _healthy(self):
        """What looks like a fault and is none: rivals, what was deleted, and what may still be on its way."""
        ((instance, content), *_) = self.study(4, series=2)
        keep(self._archive, content.replace(b"A ", b"B "), sop=instance.sop_instance_uid)
        self._archive.delete(self.study()[0][0].scope)
        self._archive.delete(Scope(self.study()[0][0].study_instance_uid))
        self._orphan(is_old=False)
        (self._root / "incoming" / "just-now.incoming").write_bytes(b"DICM")

    def _path(self, key):
        return self._root / key

    def _expect(self, *found, is_mended=False):
        self.expected.update(found)
        if not is_mended:
            self.hopeless.update((fault, name) for fault, name in found if fault in UNMENDED)

    def _sql(self, text, *parameters):
        """Changed once everything is stored: an index is not written to behind the back of who has it open."""
        self._late.append((text, parameters))

    def _flip(self, key, start, end):
        """Turn one bit between two bytes."""
        with self._path(key).open("r+b") as file:
            at = self._random.randrange(start, end)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes((byte ^ 1 << self._random.randrange(8),)))

    def _rival(self):
        """An instance that another version came to: the key of that, and what there is to know of it."""
        (instance, content), _ = self.study()
        other = content.replace(b"A ", b"B ")
        keep(self._archive, other, sop=instance.sop_instance_uid)
        keys = [str(path.relative_to(self._root)) for path in self._path(instance.key).parent.iterdir()]
        (key,) = (key for key in keys if instance.sop_instance_uid in key and key != instance.key)
        return key, instance

    def _orphan(self, *, is_old=True):
        """An object whose store was cut off before its row: its key."""
        made, content = self.study()[0]
        uid = f"{made.study_instance_uid}.8.1"
        content = content.replace(made.sop_instance_uid.encode(), uid.encode())
        announcement = Announcement(SECONDARY_CAPTURE, uid, EXPLICIT)
        with Spool(self._archive._objects.spool_directory, announcement, maximum_bytes=1 << 30) as spool:
            spool.write(content)
            spool.finish()
            key = instance_key(made.study_instance_uid, uid, EXPLICIT, spool.digest)
            self._archive._objects.put(key, spool)
        if is_old:
            self._age(self._path(key))
        return key

    def _age(self, path):
        then = time.time() - OLD_SECONDS
        os.utime(path, (then, then))

    # -- kinds

    def plant_missing(self):
        (instance, _), _ = self.study()
        self._path(instance.key).unlink()
        self._expect(("missing", instance.key))

    def plant_truncated(self):
        (instance, _), _ = self.study()
        os.truncate(self._path(instance.key), self._random.randrange(instance.size_bytes))
        self._expect(("size", instance.key))

    def plant_flipped(self):
        (instance, _), _ = self.study()
        self._flip(instance.key, instance.data_set_offset, instance.size_bytes)
        self._expect(("digest", instance.key))

    def plant_bad_header(self):
        (instance, _), _ = self.study()
        self._flip(instance.key, 0, instance.data_set_offset)
        self._expect(("header", instance.key))

    def plant_stale_row(self):
        kinds = (self._stale_document, self._stale_derived, self._stale_counts, self._stale_key, self._stale_size)
        self._random.choice(kinds)()

    def _stale_document(self):
        (instance, _), _ = self.study()
        self._sql(
            "DELETE FROM document WHERE instance = (SELECT id FROM instance WHERE sop_instance_uid = ?)",
            instance.sop_instance_uid,
        )
        self._expect(("document", instance.key))

    def _stale_derived(self):
        (instance, _), _ = self.study()
        of_document = "WHERE instance = (SELECT id FROM instance WHERE sop_instance_uid = ?)"
        text, value = self._random.choice(
            [
                (f"UPDATE document SET metadata = ? {of_document}", pack_metadata({}, EXPLICIT)),
                (f"UPDATE document SET metadata = ? {of_document}", b"damaged"),
                (f"UPDATE document SET frame_table = ? {of_document}", b""),
                (f"UPDATE document SET bulk = ? {of_document}", b'{"7FE00010":[1,2,"OW"]}'),
                ("UPDATE instance SET number_of_frames = ? WHERE sop_instance_uid = ?", 77),
                ("UPDATE instance SET data_set_offset = ? WHERE sop_instance_uid = ?", 300),
                ("UPDATE instance SET attributes = ? WHERE sop_instance_uid = ?", '{"00200013":{"vr":"IS"}}'),
            ]
        )
        self._sql(text, value, instance.sop_instance_uid)
        self._expect(("derived", instance.key))

    def _stale_size(self):
        (instance, _), _ = self.study()
        self._sql("UPDATE instance SET size_bytes = 7 WHERE sop_instance_uid = ?", instance.sop_instance_uid)
        self._expect(("size", instance.key), is_mended=True)

    def _stale_counts(self):
        (instance, _), *_ = self.study(4, series=2)
        text, uid = self._random.choice(
            [
                ("UPDATE study SET number_of_study_related_instances = 9 WHERE study_instance_uid = ?", "study"),
                ("UPDATE study SET number_of_study_related_series = 9 WHERE study_instance_uid = ?", "study"),
                ("UPDATE study SET modalities_in_study = 'XX' WHERE study_instance_uid = ?", "study"),
                ("UPDATE study SET sop_classes_in_study = '1.2' WHERE study_instance_uid = ?", "study"),
                ("UPDATE series SET number_of_series_related_instances = 0 WHERE series_instance_uid = ?", "series"),
            ]
        )
        self._sql(text, getattr(instance, f"{uid}_instance_uid"))
        self._expect(("counts", f"studies/{instance.study_instance_uid}"))

    def _stale_key(self):
        (instance, _), _ = self.study()
        self._age(self._path(instance.key))
        wrong = f"v1/default/2.25.1/{instance.key.rpartition('/')[2]}"
        self._sql("UPDATE instance SET object_key = ? WHERE sop_instance_uid = ?", wrong, instance.sop_instance_uid)
        self._expect(("key", wrong), ("orphan", instance.key))

    def plant_parents(self):
        ((instance, _),) = self.study(1)
        self._sql("DELETE FROM series WHERE series_instance_uid = ?", instance.series_instance_uid)
        self._expect(("parents", instance.key), ("counts", f"studies/{instance.study_instance_uid}"))

    def plant_orphan(self):
        self._expect(("orphan", self._orphan()))

    def plant_damaged_orphan(self):
        key = self._orphan()
        self._flip(key, self._path(key).stat().st_size - 8, self._path(key).stat().st_size)
        self._age(self._path(key))
        self._expect(("damaged-orphan", key))

    def plant_wrong_prefix(self):
        (instance, _), _ = self.study()
        key = f"v1/default/2.25.6.{self._study}/{instance.key.rpartition('/')[2]}"
        self._path(key).parent.mkdir(parents=True)
        self._path(instance.key).rename(self._path(key))
        self._age(self._path(key))
        self._expect(("missing", instance.key), ("misplaced", key), is_mended=True)

    def plant_foreign(self):
        (instance, _), _ = self.study()
        name, content = self._random.choice(
            [
                ("v1/default/notes.txt", b"what is this"),
                ("v1/core", b"\x7fELF" + bytes(300)),
                ("stray.dcm", self._path(instance.key).read_bytes()),
                ("v1/default/2.25.9/IM0001", b"DICM"),
            ]
        )
        path = self._path(f"{name}.{self._study}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._age(path)
        self._expect(("foreign", f"{name}.{self._study}"))

    def plant_left_over(self):
        path = self._root / "incoming" / f"{self._random.randbytes(12).hex()}.incoming"
        path.write_bytes(b"half an instance")
        self._age(path)
        self._expect(("left-over", f"incoming/{path.name}"))

    def plant_rival_damaged(self):
        key, _ = self._rival()
        what = self._random.choice(["missing", "size", "digest", "header"])
        size, header = self._path(key).stat().st_size, 300
        if what == "missing":
            self._path(key).unlink()
        elif what == "size":
            os.truncate(self._path(key), self._random.randrange(size))
        elif what == "digest":
            self._flip(key, size - 8, size)
        else:
            self._flip(key, 0, header)
        self._expect((what, key))

    def plant_journal(self):
        (instance, _), _ = self.study()
        journal = self._root / "v1" / "journal"
        before = set(journal.iterdir()) if journal.exists() else set()
        self._archive.delete(instance.scope)
        (path,) = set(journal.iterdir()) - before
        self._flip(str(path.relative_to(self._root)), 0, path.stat().st_size)
        self._expect(("journal", str(path.relative_to(self._root))))


def scrub(data, *flags):
    """One scrub by the command line: its exit code, findings with whether they were mended, and how many it saw."""
    run = run_command("scrub", "--data", data, "--level", "checksum", "--json", *flags, seconds=3600)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert lines, run.stderr
    *found, last = lines
    assert last["event"] == "scrubbed", run.stderr
    return run.returncode, {(one["fault"], one["name"]): one["repaired"] for one in found}, last["looked_at"]


def run(data, faults, seed):
    """Plant, look, mend, look again; the totals."""
    planter = Planter(data, seed)
    planter.plant(faults)
    totals = Totals(planter.planted)
    exit_code, found, totals.looked_at = scrub(data)
    totals.found = len(found)
    totals.missed = sorted(planter.expected - found.keys())
    totals.false = sorted(found.keys() - planter.expected)
    if exit_code != (2 if faults else 0):
        totals.unsound.append(f"exit code {exit_code} of the first scrub")
    _mend(data, planter, totals)
    return totals


def _mend(data, planter, totals):
    """With --repair all is mended but what only its sender has; a second look finds that and nothing else."""
    hopeless = planter.hopeless
    exit_code, found, _ = scrub(data, "--repair")
    totals.mended = sum(found.values())
    unmended = {one for one, is_mended in found.items() if not is_mended}
    if unmended != hopeless or exit_code != (2 if hopeless else 1 if planter.expected else 0):
        totals.unsound += [f"not mended: {one}" for one in sorted(unmended - hopeless)]
        totals.unsound += [f"not seen again: {one}" for one in sorted(hopeless - unmended)]
        totals.unsound.append(f"exit code {exit_code} of the repair")
    _, found, _ = scrub(data)
    left = {("missing" if fault == "digest" else fault, name) for fault, name in hopeless}  # it was set aside
    totals.unsound += [f"after the repair: {one}" for one in sorted(found.keys() ^ left)]


def main(arguments):
    """The record: totals of a run, and exit code 1 when it is not sound."""
    parser = argparse.ArgumentParser(description="Plant faults in an archive; a scrub must find each of them.")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    started = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    try:
        totals = run(folder / "data", options.faults, options.seed)
    finally:
        shutil.rmtree(folder)
    print(f"{totals.lines()}\ntime: {time.monotonic() - started:.0f} s")
    return 0 if totals.is_sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
