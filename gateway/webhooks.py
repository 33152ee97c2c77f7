"""Webhooks: who is told of changes over HTTP, of which kinds, and how a message is made and signed.

Pure but for secrets in files.

Messages are signed as Standard Webhooks has it, whose libraries verify them: HMAC-SHA256 over id, time and body.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.changes import as_object
from gateway.outbound import Target, read_target
from storage.model import KINDS, Change

MEDIA_TYPE = "application/json"
TYPE = "dicom.changes"
_NAME = re.compile(r"(?=.*[A-Za-z.:\[])[A-Za-z0-9._:\[\]-]{1,64}")  # a number alone is one of what was laid aside
_SEPARATORS = re.compile(r"[,+]")
_PREFIX = "whsec_"
_SECRET_MAXIMUM_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Secret:
    """What messages are signed with: as text, or the file that it lies in."""

    text: str = ""
    file: str = ""

    def key(self) -> bytes:
        """The bytes: those in base64 behind ``whsec_``, else those of the text. Raises ValueError."""
        text = self.text
        if self.file:
            try:
                with Path(self.file).open("rb") as file:
                    text = file.read(_SECRET_MAXIMUM_BYTES).decode("utf-8").strip()
            except OSError as error:
                raise ValueError(f"names a secret_file that cannot be read: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ValueError("names a secret_file that is not text") from None
        try:
            key = base64.b64decode(text[len(_PREFIX) :], validate=True) if text.startswith(_PREFIX) else text.encode()
        except binascii.Error:
            raise ValueError("has a secret that is not base64 behind whsec_") from None
        if not key:
            raise ValueError("has an empty secret")
        return key


@dataclass(frozen=True, slots=True)
class Webhook:
    """One of them. kinds: those it is told of."""

    name: str
    target: Target
    kinds: frozenset[str]
    secrets: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. id: the same for the same changes, however often it is sent."""

    id: str
    body: bytes

    def headers(self, seconds: int, keys: Sequence[bytes]) -> Mapping[str, str]:
        """Of an attempt at that time, since 1970; a signature for each key, none without one."""
        headers = {"Content-Type": MEDIA_TYPE, "webhook-id": self.id, "webhook-timestamp": str(seconds)}
        if keys:
            signed = f"{self.id}.{seconds}.".encode("ascii") + self.body
            digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
            headers["webhook-signature"] = " ".join(f"v1,{base64.b64encode(one).decode('ascii')}" for one in digests)
        return headers


def message_of(name: str, changes: Sequence[Change]) -> Message:
    """The message that tells a webhook of changes, at least one."""
    first, last = changes[0], changes[-1]
    told = f"{name}\n{first.sequence}\n{first.changed_at}\n{last.sequence}\n{last.changed_at}"
    body = {"type": TYPE, "timestamp": last.changed_at, "data": {"changes": [as_object(change) for change in changes]}}
    return Message(f"msg_{hashlib.sha256(told.encode()).hexdigest()[:32]}", orjson.dumps(body))


def read_webhooks(entries: Sequence[str]) -> Sequence[Webhook]:
    """Webhooks of entries as ``URL [name=NAME] [events=KIND+KIND…] [secret=TEXT | secret_file=PATH]…``, blanks in
    quotes. Each is called like its host and port unless it has a name. Raises ValueError.
    """
    found: dict[str, Webhook] = {}
    for entry in entries:
        one = _read(entry)
        if one.name in found:
            raise ValueError(f"has two webhooks that are called {one.name}: give them a name= each")
        found[one.name] = one
    return list(found.values())


def _read(entry: str) -> Webhook:
    try:
        url, *options = shlex.split(entry) or [""]
    except ValueError:
        raise ValueError("has a quote that is not closed") from None
    target = read_target(url)
    name, kinds, secrets = target.authority, frozenset(KINDS), list[Secret]()
    for option in options:
        key, _, value = option.partition("=")
        if not value:
            raise ValueError("has an option without a value")
        if key == "name":
            name = value
        elif key == "events":
            kinds = frozenset(_SEPARATORS.split(value))
            if unknown := kinds - set(KINDS):
                raise ValueError(f"has an event {min(unknown)!r:.40}; there are {', '.join(KINDS)}")
        elif key in ("secret", "secret_file"):
            secrets.append(Secret(text=value) if key == "secret" else Secret(file=value))
            if key == "secret":
                secrets[-1].key()
        else:
            raise ValueError("has an option that is none of name, events, secret, secret_file")
    if not _NAME.fullmatch(name):
        raise ValueError("has a name that is not made of letters, digits and ._:-, or of digits alone")
    return Webhook(name, target, kinds, tuple(secrets))
