"""What a viewer would trip over: the requests that viewers send, to a server through its public URL, and what is wrong
with the answers. PS3.18 §10; the requests are those of OHIF, Cornerstone, Slim, VolView and Weasis.

It only reads. Each check stands alone: one that fails does not keep the others from being made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson

from gateway.query.failures import QueryError
from gateway.query.server import WebServer
from gateway.query.text import quoted
from gateway.query.web import Fetched, fetch
from storage.model import JsonElement

_MAXIMUM_BYTES = 64 << 20
_JSON = "application/dicom+json"
_OCTETS = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'
_CORNERSTONE = "multipart/related; type=application/octet-stream; transfer-syntax=*"
_TWO = 'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*"'
_WEASIS = 'multipart/related;type="application/dicom";transfer-syntax=*'
_BROWSER = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
_PART_TYPE = re.compile(rb"\r\nContent-Type: [^\r\n]*transfer-syntax=[0-9.]+\r\n")
_EXPOSED = ("content-range", "etag", "warning")
_STUDY, _SERIES, _INSTANCE, _RETRIEVE_URL = "0020000D", "0020000E", "00080018", "00081190"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. trouble: what is wrong and whom it hurts; empty where all is well. is_skipped: nothing to look at."""

    name: str
    trouble: str = ""
    is_skipped: bool = False


def _place(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL, as far as a browser tells them apart. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _Trouble(Exception):  # noqa: N818 - a word for what was found
    """What is wrong with an answer."""


class _NothingThere(Exception):  # noqa: N818 - no fault
    """The archive holds nothing that the check could be made with."""


@dataclass
class Doctor:
    """Asks one server. origin: of the web page that a viewer would be loaded from; empty for that of the server."""

    server: WebServer
    headers: Mapping[str, str]
    seconds: float
    origin: str = ""
    study: Mapping[str, JsonElement] = field(default_factory=dict)
    series: Mapping[str, JsonElement] = field(default_factory=dict)
    instance: Mapping[str, JsonElement] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """One after the other, as they are made. Raises Unreachable when nobody answers at all."""
        self._fetch("/studies?limit=1", _JSON)
        for name, check in _CHECKS:
            try:
                check(self)
            except _NothingThere:
                yield Finding(name, is_skipped=True)
            except (_Trouble, QueryError) as error:
                yield Finding(name, str(error))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                yield Finding(name, "is JSON that cannot be understood")
            else:
                yield Finding(name)

    # Asking

    def _fetch(self, path: str, accept: str | None, *, method: str = "GET", **headers: str) -> Fetched:
        wanted = {} if accept is None else {"Accept": accept}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if path.startswith("http"):
            parts = urlsplit(path)
            if _place(path) != _place(self.server.name):
                raise _Trouble(f"a link leads to {quoted(parts.netloc)}, not the address asked: set the public URL")
            target = parts.path + (f"?{parts.query}" if parts.query else "")
        else:
            target = self.server.path + path
        return fetch(
            self.server, target, {**self.headers, **wanted, **given}, self.seconds, _MAXIMUM_BYTES, method=method
        )

    def _ok(self, path: str, accept: str | None, **headers: str) -> Fetched:
        fetched = self._fetch(path, accept, **headers)
        if fetched.status not in (200, 206):
            raise _Trouble(f"answers {fetched.status} instead of 200")
        return fetched

    def _json(self, path: str) -> list[Mapping[str, JsonElement]]:
        fetched = self._fetch(path, _JSON)
        if fetched.status == 204:
            return []
        if fetched.status != 200:
            raise _Trouble(f"answers {fetched.status} instead of 200")
        kind = fetched.headers.get("content-type", "")
        try:
            found = orjson.loads(fetched.body)
        except orjson.JSONDecodeError:
            raise _Trouble(f"is {quoted(kind) or 'something'} that is no JSON: is a proxy in between?") from None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise _Trouble("is JSON, but no list of Data Sets")
        return found

    def _of(self, data_set: Mapping[str, JsonElement], tag: str) -> str:
        values = (data_set.get(tag) or {}).get("Value") or [""]
        if not values[0]:
            raise _NothingThere
        return str(values[0])

    def _series_path(self) -> str:
        return f"/studies/{self._of(self.study, _STUDY)}/series/{self._of(self.series, _SERIES)}"

    def _instance_path(self) -> str:
        return f"{self._series_path()}/instances/{self._of(self.instance, _INSTANCE)}"

    def _frame_path(self) -> str:
        if "00280010" not in self.instance:
            raise _NothingThere
        return f"{self._instance_path()}/frames/1"

    # Checks

    def lists_studies(self) -> None:
        """The study list without any parameter, as VolView asks for it."""
        found = self._json("/studies")
        if not found:
            raise _NothingThere
        self.study = next((one for one in found if (one.get("00201208") or {}).get("Value")), found[0])

    def takes_viewers_keys(self) -> None:
        """OHIF's study list with its includefields, limits and wildcards."""
        self._json(
            "/studies?PatientName=*a*&limit=101&offset=0&fuzzymatching=false"
            "&includefield=00081030,00080060,00080090,00100030"
        )

    def lists_series(self) -> None:
        """The series of a study; the first with pixels is looked at further."""
        study = self._of(self.study, _STUDY)
        found = self._json(f"/studies/{study}/series?includefield=0008103E,00080021")
        for one in found:
            if _SERIES not in one:
                raise _Trouble("leaves Series Instance UID out")
            self.series = self.series or one

    def says_where_to_retrieve(self) -> None:
        """Retrieve URLs that the viewer can follow through the same address."""
        url = self._of(self.study, _RETRIEVE_URL)
        if _place(url) != _place(self.server.name):
            raise _Trouble(
                f"Retrieve URL names {quoted(urlsplit(url).netloc)}, not the address asked: set the public URL"
            )

    def has_metadata(self) -> None:
        """Metadata of the series, with what viewers read of it."""
        found = self._json(f"{self._series_path()}/metadata")
        if not found:
            raise _Trouble("is empty")
        self.instance = found[0]
        if "00083002" not in self.instance and "00020010" not in self.instance:
            raise _Trouble("says no transfer syntax (0008,3002): Cornerstone takes videos for pictures")
        if "7FE00010" in self.instance and "BulkDataURI" not in self.instance["7FE00010"]:
            raise _Trouble("holds pixels inline: it will be slow")

    def follows_bulk_data(self) -> None:
        """A BulkDataURI leads to its value, through the address asked."""
        found = [element["BulkDataURI"] for element in self.instance.values() if "BulkDataURI" in element]
        if not found:
            raise _NothingThere
        url = str(found[0])
        self._ok(url if url.startswith("http") else f"{self._instance_path()}/{url}", None)

    def sends_frames(self) -> None:
        """Frames by the Accept headers of OHIF and Cornerstone, with the part header that they parse."""
        for accept in (_OCTETS, _CORNERSTONE, _TWO):
            fetched = self._ok(self._frame_path(), accept)
            if not fetched.headers.get("content-type", "").startswith("multipart/related"):
                raise _Trouble("is no multipart/related")
            if not _PART_TYPE.search(fetched.body[:4096]):
                raise _Trouble("has no 'Content-Type: …; transfer-syntax=<uid>' in its part, which Cornerstone reads")

    def sends_instances(self) -> None:
        """An instance as Weasis and Slim fetch it."""
        fetched = self._ok(self._instance_path(), _WEASIS)
        if b"DICM" not in fetched.body[:4096]:
            raise _Trouble("holds no Part 10 file")

    def draws_thumbnails(self) -> None:
        """A thumbnail as a browser's <img> asks for it, and by the query parameter."""
        for path, accept in (
            (f"{self._series_path()}/thumbnail", _BROWSER),
            (f"{self._frame_path()}/rendered?accept=image/jpeg", None),
        ):
            fetched = self._ok(path, accept)
            if not fetched.headers.get("content-type", "").startswith("image/"):
                raise _Trouble("is no picture")

    def allows_origins(self) -> None:
        """Cross-origin reads for a viewer that is loaded from elsewhere, errors included."""
        if not self.origin:
            raise _NothingThere
        asked = {"Origin": self.origin, "Access_Control_Request_Method": "GET"}
        preflight = self._fetch(
            "/studies", None, method="OPTIONS", **asked, Access_Control_Request_Headers="authorization,accept"
        )
        if preflight.status not in (200, 204):
            raise _Trouble(f"the preflight is answered {preflight.status}: add the origin")
        for path in ("/studies?limit=1", "/studies/1.2.3.4.5/metadata"):
            fetched = self._fetch(path, _JSON, Origin=self.origin)
            if fetched.headers.get("access-control-allow-origin") not in (self.origin, "*"):
                raise _Trouble(f"an answer of {fetched.status} does not allow the origin")
            shown = fetched.headers.get("access-control-expose-headers", "").lower()
            hidden = [name for name in _EXPOSED if name not in shown]
            if hidden:
                raise _Trouble(f"scripts cannot read {', '.join(hidden)}")

    def answers_what_is_not_there(self) -> None:
        """An unknown study is 404, and not the page of a proxy."""
        fetched = self._fetch("/studies/1.2.826.0.1.3680043.10.999/metadata", _JSON)
        if fetched.status not in (404, 410):
            raise _Trouble(f"an unknown study is answered {fetched.status} instead of 404")

    def keeps_long_queries(self) -> None:
        """A list of UIDs as long as OHIF sends them passes every proxy on the way."""
        uids = "%5C".join(f"1.2.826.0.1.3680043.10.999.{number}" for number in range(60))
        self._json(f"/studies?StudyInstanceUID={uids}")

    def keeps_dicom_media_types(self) -> None:
        """The answer is of the type that was asked for, and may be cached apart from others."""
        fetched = self._ok("/studies?limit=1", _JSON)
        if not fetched.headers.get("content-type", "").startswith(_JSON):
            raise _Trouble("is not called application/dicom+json")


_CHECKS: tuple[tuple[str, Callable[[Doctor], None]], ...] = (
    ("study list", Doctor.lists_studies),
    ("study list with OHIF's keys", Doctor.takes_viewers_keys),
    ("media type", Doctor.keeps_dicom_media_types),
    ("long queries", Doctor.keeps_long_queries),
    ("series list", Doctor.lists_series),
    ("Retrieve URL", Doctor.says_where_to_retrieve),
    ("metadata", Doctor.has_metadata),
    ("bulk data", Doctor.follows_bulk_data),
    ("frames", Doctor.sends_frames),
    ("instance", Doctor.sends_instances),
    ("thumbnail and rendered", Doctor.draws_thumbnails),
    ("cross-origin", Doctor.allows_origins),
    ("unknown study", Doctor.answers_what_is_not_there),
)
