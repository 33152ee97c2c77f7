"""Bring files that lie on a disk into the archive. Not a door to the network: the operator names the files.

A file that cannot be taken is reported and the next one follows; nothing of a file but its path and our reason is
ever shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gateway.session import Session
from storage.errors import GatewayError
from storage.ledger import Account
from storage.model import Source

SOURCE = Source("import")
THREADS = 4  # stores wait for the disk, and share commits (D14)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one file. outcome: as in ``Outcome``, or ``refused``, then with a reason."""

    path: Path
    outcome: str
    reason: str = ""


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and those at any depth of the folders named, sorted, without hidden ones."""
    found: list[Path] = []
    for path in paths:
        found += sorted(_inside(path)) if path.is_dir() else [path]
    return found


def _inside(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def import_files(session: Session, paths: Iterable[Path]) -> Iterator[Result]:
    """Store each file, a few at once; results come in the order of the paths. One run is a line of the ingest ledger.

    What is refused is not put into quarantine: its file stays where it is, and the operator is told.
    """
    account = session.account(SOURCE)
    ending = "interrupted"
    try:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="import") as threads:
            yield from threads.map(lambda path: import_file(session, path, account), paths)
        ending = "finished"
    finally:
        account.close(ending)


def import_file(session: Session, path: Path, account: Account) -> Result:
    """Store one Part 10 file; every way it can fail is in the result."""
    try:
        with path.open("rb") as file, session.spool() as spool:
            while chunk := file.read(_CHUNK_BYTES):
                spool.write(chunk)
            spool.finish()
            receipt = session.store(spool, SOURCE)
            account.note(receipt, spool.size_bytes)
    except GatewayError as error:
        account.note_failure(type(error).__name__)
        return Result(path, "refused", error.reason)
    except OSError as error:
        account.note_failure("OSError")
        return Result(path, "refused", f"The file cannot be read: {error.strerror}")
    return Result(path, receipt.outcome.value, "; ".join(receipt.warnings))
