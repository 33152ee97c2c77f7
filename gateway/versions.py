"""The versions of an instance, for the operator: listed, fetched, and one of them made current.

Not a door to the network: whoever may run commands over the data folder may see all that is kept in it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.session import Session
from storage.errors import BadRequest, NotFound
from storage.filerange import as_bytes
from storage.model import Version

LEAST_DIGITS = 8
"""Of a digest, to name a version by."""


def chosen(versions: Sequence[Version], digest: str) -> Version:
    """The version whose digest begins so. Raises BadRequest for too few digits, NotFound for none or several."""
    if len(digest) < LEAST_DIGITS:
        raise BadRequest(f"A version is named by at least {LEAST_DIGITS} digits of its digest")
    found = [one for one in versions if one.instance.digest.startswith(digest.lower())]
    if len(found) != 1:
        raise NotFound("No version has such a digest" if not found else "Several versions have such a digest")
    return found[0]


def save(session: Session, version: Version, path: Path) -> int:
    """Write a version as a Part 10 file that must not be there yet; returns its bytes. Raises OSError."""
    with session.open(version.instance) as stored, path.open("xb") as file:
        try:
            for piece in as_bytes(stored.object_pieces()):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return version.instance.size_bytes


def row_of(version: Version) -> dict[str, Any]:
    """A version as JSON has it."""
    instance, source = version.instance, version.source
    return {
        "outcome": version.outcome,
        "digest": instance.digest,
        "study": instance.study_instance_uid,
        "series": instance.series_instance_uid,
        "sop_class": instance.sop_class_uid,
        "transfer_syntax": instance.transfer_syntax_uid,
        "bytes": instance.size_bytes,
        "received_at": version.received_at,
        "last_received_at": version.last_received_at,
        "received": version.receive_count,
        "door": source.door,
        "calling_ae": source.calling_ae,
        "address": source.address,
    }


def line_of(version: Version) -> str:
    """A version as a line for people; what a peer said of itself is shown without control characters."""
    source = " ".join(filter(None, (version.source.door, version.source.calling_ae, version.source.address)))
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in source)
    digest, size = version.instance.digest[:16], f"{version.instance.size_bytes:,}"
    return (
        f"{version.outcome:<9}  {digest}  {version.received_at[:19]}  {version.receive_count:>4}x  {size:>14}  {shown}"
    )
