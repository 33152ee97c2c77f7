"""BodySender: a body of pieces, written straight to a socket; files go there without passing through this process.

It never waits: who calls it waits for the socket, and for as long as the peer deserves.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Self

from storage.filerange import FileRange, Piece

PIECES = "gateway.response.pieces"
"""ASGI extension and type of its message: ``pieces``, the whole body, of ``size_bytes`` as Content-Length says."""
STEP_BYTES = 8 << 20
_GATHER_BYTES = 64 << 10
# Between a part's header and its file: else each of both is a packet, and wakes the peer. Linux only.
_MORE = getattr(socket, "MSG_MORE", 0)


class BodySender:
    """Sends pieces to a socket in steps. It owns a descriptor of its own, so that nobody closes it meanwhile.

    One thread at a time. sent_bytes: so far.
    """

    def __init__(self, connection_fd: int, pieces: Iterator[Piece]) -> None:
        self._socket = socket.fromfd(connection_fd, socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._pieces = pieces
        self._text = memoryview(b"")
        self._file: FileRange | None = None
        self._is_over = False
        self.sent_bytes = 0

    def fileno(self) -> int:
        """What to wait on."""
        return self._socket.fileno()

    def step(self, enough_bytes: int = STEP_BYTES) -> bool:
        """Send what the socket takes, some ``enough_bytes`` at the most; whether all has been sent.

        Raises what the pieces raise, and OSError when the peer is gone.
        """
        end = self.sent_bytes + enough_bytes
        try:
            while self.sent_bytes < end:
                if self._text:
                    sent = self._socket.send(self._text, _MORE if self._file is not None else 0)
                    self._text = self._text[sent:]
                    self.sent_bytes += sent
                elif self._file is not None:
                    self.sent_bytes += self._file.send_to(self._socket.fileno(), end - self.sent_bytes)
                    if len(self._file) == 0:
                        self._drop_file()
                elif self._is_over:
                    return True
                else:
                    self._take()
        except BlockingIOError:
            return False
        return not self._text and self._file is None and self._is_over

    def _take(self) -> None:
        """The next pieces: bytes, joined where they are small, and the file behind them."""
        texts: list[bytes] = []
        size = 0
        while size < _GATHER_BYTES:
            piece = next(self._pieces, None)
            if piece is None:
                self._is_over = True
                break
            if isinstance(piece, FileRange):
                self._file = piece
                if len(piece) == 0:
                    self._drop_file()
                    continue
                break
            texts.append(piece)
            size += len(piece)
        self._text = memoryview(texts[0] if len(texts) == 1 else b"".join(texts))

    def _drop_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Let go of descriptors and pieces; the connection stays open."""
        self._drop_file()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
