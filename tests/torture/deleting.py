"""A process that deletes: one JSON list of UIDs a line comes in, what became of it goes out.

``python -m tests.torture.deleting OBJECTS INDEX``. The answer is ``deleted``, ``gone`` for what is not there, or the
class of the error; after an answer it is durable.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from storage.archive import Archive
from storage.errors import GatewayError, Gone, NotFound
from storage.index import URL_SCHEMES, open_index
from storage.model import Scope
from storage.objects import open_object_store
from tests.torture.history import GONE


def answer(archive: Archive, uids: list[str]) -> str:
    """What became of deleting a study, series or instance."""
    try:
        archive.delete(Scope(*uids))
    except (Gone, NotFound):
        return GONE
    except GatewayError as error:
        return type(error).__name__
    return "deleted"


def main(objects: str, index: str) -> None:
    """Until the input ends."""
    place = index if index.startswith(URL_SCHEMES) else Path(index)
    try:
        opened = Archive(open_object_store(Path(objects)), open_index(place))
    except GatewayError as error:
        sys.exit(type(error).__name__)
    with contextlib.closing(opened) as archive:
        for line in sys.stdin:
            print(answer(archive, json.loads(line)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
