"""A sender of C-STORE with next to no cost of its own: ``python -m benchmarks.dimse HOST PORT AE-TITLE FOLDER``.

One association; every ``.dcm`` file of the folder in order of names, each acknowledged before the next. Prints a line
of JSON. It negotiates exactly the contexts it needs and understands exactly the answers it expects.
PS3.7 §9.1.1, PS3.8 §9.3
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_TIMEOUT_SECONDS = 60.0
_MAXIMUM_ANSWER_BYTES = 1 << 20
_OUR_MAXIMUM_PDU_BYTES = 131072
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_CLASS_UID = "2.25.1"
_PRESENTATION_CONTEXT_RESULT, _USER_INFORMATION, _MAXIMUM_LENGTH = 0x21, 0x50, 0x51
_ASSOCIATE_AC, _P_DATA, _RELEASE_RP = 0x02, 0x04, 0x06

Context = tuple[str, str]


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(content):
        kind, _, length = struct.unpack_from(">BBH", content, at)
        yield kind, content[at + 4 : at + 4 + length]
        at += 4 + length


def _command_element(element: int, content: bytes) -> bytes:
    padded = content + b"\0" * (len(content) % 2)
    return struct.pack("<HHI", 0, element, len(padded)) + padded


def file_meta(content: bytes) -> tuple[Context, str, int]:
    """SOP Class and transfer syntax, SOP Instance, and where the Data Set starts. PS3.10 §7.1"""
    end = 144 + struct.unpack_from("<I", content, 140)[0]
    values: dict[int, str] = {}
    at = 144
    while at < end:
        _, element, vr, length = struct.unpack_from("<HH2sH", content, at)
        at += 8
        if vr in (b"OB", b"UN", b"UT"):
            (length,) = struct.unpack_from("<I", content, at)
            at += 4
        values[element] = content[at : at + length].rstrip(b"\0 ").decode("latin-1")
        at += length
    return (values[0x0002], values[0x0010]), values[0x0003], end


class Association:
    """An association as requestor. Raises ConnectionError where the peer does not play along, else OSError."""

    def __init__(self, host: str, port: int, ae_title: str, contexts: Sequence[Context]) -> None:
        if len(contexts) > 128:
            raise ValueError("an association has at most 128 presentation contexts")
        self._ids = {context: 2 * index + 1 for index, context in enumerate(contexts)}
        self._socket = socket.create_connection((host, port), _TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self._messages = 0
        self._maximum_pdu_bytes = self._associate(ae_title)

    def _associate(self, ae_title: str) -> int:
        """Negotiate; returns the largest P-DATA-TF that the peer takes. PS3.8 §9.3.2"""
        proposed = b"".join(
            _item(
                0x20, struct.pack(">BBBB", number, 0, 0, 0) + _item(0x30, sop.encode()) + _item(0x40, syntax.encode())
            )
            for (sop, syntax), number in self._ids.items()
        )
        user = _item(_MAXIMUM_LENGTH, struct.pack(">I", _OUR_MAXIMUM_PDU_BYTES)) + _item(
            0x52, _IMPLEMENTATION_CLASS_UID.encode()
        )
        names = ae_title.encode().ljust(16) + b"BENCHMARK".ljust(16) + bytes(32)
        content = struct.pack(">HH", 1, 0) + names + _item(0x10, _APPLICATION_CONTEXT.encode()) + proposed
        content += _item(_USER_INFORMATION, user)
        self._socket.sendall(struct.pack(">BBI", 1, 0, len(content)) + content)
        answer = self._pdu(_ASSOCIATE_AC)
        refused = 0
        maximum = 16384
        for kind, item in _items(answer[68:]):
            if kind == _PRESENTATION_CONTEXT_RESULT:
                refused += item[2] != 0
            elif kind == _USER_INFORMATION:
                maximum = next((struct.unpack(">I", value)[0] for sub, value in _items(item) if sub == 0x51), maximum)
        if refused:
            raise ConnectionError(f"the peer refused {refused} presentation contexts")
        return maximum or _OUR_MAXIMUM_PDU_BYTES

    def _pdu(self, wanted: int) -> bytes:
        head = self._answers.read(6)
        if len(head) < 6:
            raise ConnectionError("the peer hung up")
        kind, _, length = struct.unpack(">BBI", head)
        if kind != wanted or length > _MAXIMUM_ANSWER_BYTES:
            raise ConnectionError(f"the peer sent a PDU of type {kind}")
        return self._answers.read(length)

    def _send(self, context_id: int, content: memoryview, *, is_command: bool) -> None:
        """A command or Data Set in as many P-DATA-TF as it takes. PS3.8 §9.3.5, Annex E"""
        step = self._maximum_pdu_bytes - 6
        for at in range(0, len(content), step):
            piece = content[at : at + step]
            flags = int(is_command) | (2 if at + step >= len(content) else 0)
            length = len(piece)
            head = struct.pack(">BBIIBB", _P_DATA, 0, length + 6, length + 2, context_id, flags)
            self._socket.sendall(head + piece)

    def store(self, context: Context, sop_instance_uid: str, content: memoryview) -> int:
        """C-STORE of one Data Set; returns the status. PS3.7 §9.3.1"""
        self._messages += 1
        command = b"".join(
            (
                _command_element(0x0002, context[0].encode()),
                _command_element(0x0100, struct.pack("<H", 0x0001)),
                _command_element(0x0110, struct.pack("<H", self._messages & 0xFFFF)),
                _command_element(0x0700, struct.pack("<H", 0)),
                _command_element(0x0800, struct.pack("<H", 0x0000)),
                _command_element(0x1000, sop_instance_uid.encode()),
            )
        )
        group = _command_element(0x0000, struct.pack("<I", len(command))) + command
        self._send(self._ids[context], memoryview(group), is_command=True)
        self._send(self._ids[context], content, is_command=False)
        return self._status()

    def _status(self) -> int:
        answer = self._pdu(_P_DATA)
        if not answer[5] & 1 or not answer[5] & 2:
            raise ConnectionError("the peer's answer is not one whole command")
        at = 6
        while at + 8 <= len(answer):
            _, element, length = struct.unpack_from("<HHI", answer, at)
            if element == 0x0900:
                return int(struct.unpack_from("<H", answer, at + 8)[0])
            at += 8 + length
        raise ConnectionError("the peer's answer has no status")

    def release(self) -> None:
        """End in order. PS3.8 §9.3.6"""
        self._socket.sendall(struct.pack(">BBII", 5, 0, 4, 0))
        self._pdu(_RELEASE_RP)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self._socket.close()


def send(host: str, port: int, ae_title: str, folder: Path) -> dict[str, int]:
    """Send every file; returns how many were acknowledged, and how many of them with a warning."""
    files = [path.read_bytes() for path in sorted(folder.glob("*.dcm"))]
    metas = [file_meta(content) for content in files]
    association = Association(host, port, ae_title, sorted({context for context, _, _ in metas}))
    counts = {"stored": 0, "warned": 0}
    try:
        for content, (context, sop_instance_uid, start) in zip(files, metas, strict=True):
            status = association.store(context, sop_instance_uid, memoryview(content)[start:])
            if status and status >> 12 != 0xB:
                raise ConnectionError(f"the peer answered status {status:04X}")
            counts["stored"] += 1
            counts["warned"] += status != 0
        association.release()
    finally:
        association.close()
    return counts


if __name__ == "__main__":
    print(json.dumps(send(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))))
