"""Refused instances in the hands of the operator: what is wrong with one, and another try when the cause is mended.

Text for a terminal; whatever it shows of an instance is the operator's to see, and harmless to the terminal.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.query.text import clean, shortened
from gateway.session import Session
from storage.dictionary import keyword_of, uid_name
from storage.errors import GatewayError, NotFound
from storage.filemeta import Announcement
from storage.model import Held, JsonElement, Source
from storage.quarantine import Beginning, Quarantine

SOURCE = Source("retry")
HEADINGS = ("ID", "FROM", "ERROR", "TAG", "TOLD", "BYTES", "SOP INSTANCE UID", "REASON")
SHOWN_ELEMENTS = 60
_SHOWN_CHARACTERS = 72
_AGE = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of an instance that was tried again: its outcome, or ``refused``, and then the reason."""

    id: str
    outcome: str
    reason: str = ""


def seconds_of(age: str) -> int:
    """The seconds of an age such as 90s, 30m, 24h, 7d or 2w. Raises ValueError."""
    found = _AGE.fullmatch(age.strip())
    if not found:
        raise ValueError("is no age such as 30m, 24h, 7d or 2w")
    return int(found[1]) * _SECONDS[found[2]]


def chosen(quarantine: Quarantine, names: Sequence[str]) -> list[Held]:
    """The instances that are named by their ids, or by ends of them that only one has. Raises NotFound."""
    ids = quarantine.ids()
    found = []
    for name in names:
        fitting = [one for one in ids if one == name or (name and one.endswith(name))]
        if len(fitting) != 1:
            raise NotFound("There is no such instance in quarantine" if not fitting else "Several ids end so")
        found.append(quarantine.find(fitting[0]))
    return found


def sender(source: Source) -> str:
    """Who it was, in a word or two."""
    return " ".join(text for text in (source.calling_ae, source.address) if text) or source.door


def as_json(held: Held) -> dict[str, Any]:
    """What is known of an instance, for programs; without its bytes."""
    told = asdict(held.refusal)
    source = told.pop("source")
    return {"id": held.id, "refused_at": held.refused_at, "size_bytes": held.size_bytes, **source, **told}


def rows(held: Iterable[Held]) -> Iterator[Sequence[str]]:
    """A row for each, under ``HEADINGS``."""
    for one in held:
        said = one.refusal
        told = f"{said.status:04X}"
        yield (
            one.id,
            sender(said.source),
            said.error,
            said.tag,
            told,
            str(one.size_bytes),
            said.sop_instance_uid,
            said.reason,
        )


def older_than(session: Session, seconds: int) -> Iterator[Held]:
    """The instances that were refused longer ago."""
    latest = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
    for one in session.quarantine.held():
        if dt.datetime.fromisoformat(one.refused_at) < latest:
            yield one


class Run:
    """One run over instances that are tried again: a line of the ingest ledger."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._account = session.account(SOURCE)
        self._ending = "interrupted"

    def retry(self, held: Held, *, trusts_data_set: bool = False) -> Retried:
        """Store an instance as if it came now, from whoever sent it then; on success it leaves the quarantine.

        trusts_data_set: whatever the sender announced and the request named, the instance is what its Data Set says.
        """
        said = held.refusal
        is_announced = said.is_announced and not trusts_data_set
        announcement = Announcement(said.sop_class_uid, said.sop_instance_uid, said.transfer_syntax_uid)
        study = "" if trusts_data_set else said.study_instance_uid
        session, account = self._session, self._account
        try:
            with session.spool(announcement if is_announced else None) as spool:
                for chunk in session.quarantine.received(held, is_bare=is_announced):
                    spool.write(chunk)
                receipt = session.store(spool, said.source, study_instance_uid=study)
                account.note(receipt, spool.size_bytes)
        except GatewayError as error:
            account.note_failure(type(error).__name__)
            return Retried(held.id, "refused", error.reason)
        session.quarantine.drop(held.id)
        return Retried(held.id, receipt.outcome.value)

    def finish(self) -> None:
        """Say that nothing is left to be tried."""
        self._ending = "finished"

    def close(self) -> None:
        """Write the line."""
        self._account.close(self._ending)


def export(session: Session, held: Held, path: Path, *, is_bare: bool) -> int:
    """Write an instance to a new file; how many bytes. is_bare: as it was received, also without File Meta.

    Raises OSError, FileExistsError among them; CorruptObject, and then the file is gone again.
    """
    count = 0
    with path.open("xb") as file:
        try:
            for chunk in session.quarantine.received(held, is_bare=is_bare):
                count += file.write(chunk)
        except GatewayError:
            path.unlink()
            raise
    return count


def text(held: Held, found: Beginning) -> Iterator[str]:
    """All that can be said of an instance, as lines."""
    said = held.refusal
    facts = {
        "refused": held.refused_at,
        "from": f"{sender(said.source)}, by {said.source.door}" + (f" to {said.called_ae}" if said.called_ae else ""),
        "because": f"{said.error}: {said.reason}" + (f" ({_tag(said.tag)})" if said.tag else ""),
        "told": f"{said.status:04X}",
        "SOP Class": _named(said.sop_class_uid),
        "SOP Instance": said.sop_instance_uid,
        "syntax": _named(said.transfer_syntax_uid),
        "study": said.study_instance_uid,
        "bytes": str(held.size_bytes),
        "begins": found.first_bytes[:24].hex(" "),
        "reads": found.fault or "as a Data Set",
        "delivery": said.delivery,
    }
    yield held.id
    for name, value in facts.items():
        if value:
            yield f"  {name:<13}{clean(value)}"
    for tag, element in list(found.elements.items())[:SHOWN_ELEMENTS]:
        value = shortened(clean("\\".join(_values(element))), _SHOWN_CHARACTERS)
        yield f"  {_tag(tag)} {element.get('vr', ''):<3}{clean(keyword_of(int(tag, 16))):<36}{value}".rstrip()
    if len(found.elements) > SHOWN_ELEMENTS:
        yield f"  and {len(found.elements) - SHOWN_ELEMENTS} more elements"


def study_of(found: Beginning) -> str:
    """The Study Instance UID that can be read, or nothing."""
    values = found.elements.get("0020000D", {}).get("Value") or [""]
    return str(values[0])


def _named(uid: str) -> str:
    name = uid_name(uid)
    return f"{uid} {name}" if name else uid


def _tag(tag: str) -> str:
    return f"({tag[-8:-4]},{tag[-4:]})"


def _values(element: Mapping[str, JsonElement]) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield "(large)"
    if element.get("vr") == "SQ":
        yield f"({len(element.get('Value', ()))} items)"
        return
    for value in element.get("Value", ()):
        yield "=".join(map(str, value.values())) if isinstance(value, dict) else "" if value is None else str(value)
