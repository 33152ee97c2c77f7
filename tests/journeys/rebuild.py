"""An archive with many instances loses its index, which is made again: every answer has to be the same. F18

``python -m tests.journeys.rebuild --instances 100000`` prints how long that took and what memory it needed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage.dicomjson import unpack_metadata
from storage.matching import Query
from storage.model import Level
from tests.fix_archive import keep, open_archive
from tests.fix_servers import run_command
from tests.synthetic import CT, data_set, element, image_elements

OF_ONE_STUDY, OF_ONE_SERIES = 200, 50
THREADS = 16
PAGE = 1000


def instance(number, pixels):
    """An instance of a CT study of its time, in the order in which a modality sends them."""
    study, place = divmod(number, OF_ONE_STUDY)
    uid = f"2.25.8.{study}.9.{place}"
    extra = (
        element(0x00080050, "SH", f"A{study}"),
        element(0x00081030, "LO", f"Study {study % 17}"),
        element(0x00200011, "IS", str(place // OF_ONE_SERIES)),
        *image_elements(32, 32),
        element(0x7FE00010, "OW", pixels),
    )
    series = f"2.25.8.{study}.{place // OF_ONE_SERIES}"
    said = {"name": f"Patient^{study % 997}", "patient_id": f"P{study % 997}", "modality": "CT", "number": place}
    return uid, data_set(f"2.25.8.{study}", series, uid, sop_class=CT, extra=extra, **said)


def fill(data, instances, seed):
    """So many instances, a hundredth of them in a second version, and a few deletions."""
    chance = random.Random(seed)
    with contextlib.closing(open_archive(data)) as archive:

        def store(study):
            for number in range(study * OF_ONE_STUDY, min(instances, (study + 1) * OF_ONE_STUDY)):
                uid, content = instance(number, random.Random(number).randbytes(1024))
                keep(archive, content, sop=uid)
                if number % 100 == 7:
                    keep(archive, content[:-1] + b"\0", sop=uid)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(store, range((instances + OF_ONE_STUDY - 1) // OF_ONE_STUDY)))
        studies = archive.search(Query(Level.STUDY, limit=20))
        for study in chance.sample(studies, min(len(studies) - 1, 3)):
            archive.delete(study.scope)


def told(data):
    """A digest of every answer to searches at each level, in order, and of all metadata; and how many instances."""
    sha256, count = hashlib.sha256(), 0
    with contextlib.closing(open_archive(data)) as archive:
        for level in (Level.STUDY, Level.SERIES):
            for text in archive.search_json(Query(level, include="all"), str):
                sha256.update(text.encode())
        for study in archive.search(Query(Level.STUDY)):
            for text in archive.search_json(Query(Level.INSTANCE, scope=study.scope, include="all"), str):
                sha256.update(text.encode())
            for document in archive.documents(study.scope):
                sha256.update(repr((document.instance, document.frame_table, sorted(document.bulk.items()))).encode())
                sha256.update(unpack_metadata(document.metadata, ""))
                count += 1
    return sha256.hexdigest(), count


def run(data, instances, seed):
    """Fill, lose, rebuild, compare; lines for the record, and whether all is the same."""
    started = time.monotonic()
    fill(data, instances, seed)
    filled = time.monotonic()
    before = told(data)
    for path in data.glob("index.sqlite*"):
        path.unlink()
    began = time.monotonic()
    done = run_command("reindex", "--from-objects", "--json", "--data", data, seconds=24 * 3600)
    ended = time.monotonic()
    after = told(data)
    said = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"event": done.stderr}
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    is_same = before == after and done.returncode == 0
    return is_same, (
        f"instances: {before[1]} of {instances}, stored in {filled - started:.0f} s",
        f"rebuilt in {ended - began:.1f} s: {instances / (ended - began):.0f} a second, {memory:.0f} MiB at most",
        f"said: {said}",
        f"answers before: {before}",
        f"answers after:  {after}",
        "every answer is the same" if is_same else "ANSWERS DIFFER",
    )


def main(arguments):
    """The record, and exit code 1 when something differs."""
    parser = argparse.ArgumentParser(description="Lose the index of an archive and make it again.")
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="rebuild-"))
    try:
        is_same, lines = run(folder / "data", options.instances, options.seed)
    finally:
        shutil.rmtree(folder)
    print("\n".join(lines))
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
