"""Admission: which connections may stay and which associations may begin (L1, P2, P8). Bookkeeping, no protocol."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from gateway.dimse.connection import Connection
from gateway.dimse.limits import DimseLimits


class Admission:
    """Every connection of the listener: pending until its association begins, then established. Thread-safe.

    A flood of silent connections never keeps others out: when there are too many, the oldest pending one makes room
    for the newest. Established associations are never ended for it.
    """

    def __init__(self, limits: DimseLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._pending: dict[Connection, None] = {}
        self._established: dict[Connection, str] = {}

    def enter(self, connection: Connection) -> bool:
        """Take a new connection in as pending; returns whether another had to make room."""
        limits = self._limits
        with self._lock:
            total = len(self._pending) + len(self._established)
            neighbours = [other for other in self._pending if other.address == connection.address]
            near = len(neighbours) + sum(other.address == connection.address for other in self._established)
            leaving: Connection | None = None
            if near >= limits.connections_per_address_maximum and neighbours:
                leaving = neighbours[0]
            elif len(self._pending) >= limits.pending_connections_maximum or total >= limits.connections_maximum:
                leaving = next(iter(self._pending), None)
            if leaving is not None:
                del self._pending[leaving]
                leaving.interrupt()
            self._pending[connection] = None
            return leaving is not None

    def establish(self, connection: Connection, calling_ae: str) -> bool:
        """Let an association begin; False when a limit is reached, or the connection has been told to go."""
        limits = self._limits
        with self._lock:
            from_address = sum(other.address == connection.address for other in self._established)
            of_calling_ae = sum(title == calling_ae for title in self._established.values())
            if (
                connection not in self._pending
                or len(self._established) >= limits.associations_maximum
                or from_address >= limits.connections_per_address_maximum
                or of_calling_ae >= limits.associations_per_calling_ae_maximum
            ):
                return False
            del self._pending[connection]
            self._established[connection] = calling_ae
            return True

    def part(self, connection: Connection) -> bool:
        """End the association of a connection that is about to be closed; False when it had been told to go.

        Until it leaves it is pending again: it may have to make room, but holds no association.
        """
        with self._lock:
            if self._established.pop(connection, None) is not None:
                self._pending[connection] = None
            return connection in self._pending

    def leave(self, connection: Connection) -> None:
        """Forget a connection before it is closed."""
        with self._lock:
            self._pending.pop(connection, None)
            self._established.pop(connection, None)

    def interrupt_pending(self) -> None:
        """Tell every connection without an association to go."""
        with self._lock:
            self._interrupt(list(self._pending))

    def interrupt_all(self) -> None:
        """Tell every connection to go."""
        with self._lock:
            self._interrupt([*self._pending, *self._established])

    @staticmethod
    def _interrupt(connections: Sequence[Connection]) -> None:
        for connection in connections:
            connection.interrupt()

    @property
    def established(self) -> int:
        """How many associations there are."""
        with self._lock:
            return len(self._established)

    def __len__(self) -> int:
        with self._lock:
            return len(self._pending) + len(self._established)
