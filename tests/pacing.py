"""What keeps a requestor made with pynetdicom from losing a response.

Its thread takes what arrives as if it were a request, unless it is paused; and a request that follows another at once
may find the flag of the pause before. The response is then thrown away with "Received unexpected ... message".
"""

from __future__ import annotations

import threading
import time

from pynetdicom.association import Association


class _Checkpoint(threading.Event):
    """An Event whose ``clear`` leaves the flag ``_is_paused`` true only when the thread is held here."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self.set()
        self._association = association
        self._passage = threading.Lock()

    def wait(self, timeout: float | None = None) -> bool:
        while super().wait(timeout):
            with self._passage:
                if self.is_set():
                    self._association._is_paused = False
                    return True
        return False

    def clear(self) -> None:
        with self._passage:
            super().clear()


def paced(association: Association) -> Association:
    """The association, established just now or not, with a thread that takes no response from its requests."""
    association._reactor_checkpoint = _Checkpoint(association)
    while association._is_paused and association.is_alive():  # not yet past the one it had
        time.sleep(0.0002)
    return association


def pause(association: Association) -> None:
    """Hold the thread of a paced association, until its checkpoint is set again."""
    association._reactor_checkpoint.clear()
    while not association._is_paused and association.is_alive():
        time.sleep(0.0002)
