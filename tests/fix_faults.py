"""Stores and indexes that fail at the n-th operation, before or after they have done it."""

from __future__ import annotations

from storage.errors import StorageUnavailable


class Failing:
    """Any seam, with one operation that fails.

    at: which operation, counted from 1 over all methods. after: the work is done and only its word is lost, as with
    a connection that breaks before the answer arrives.
    """

    def __init__(self, real, at: int, *, after: bool) -> None:
        self._real = real
        self._at = at
        self._after = after
        self.operations = 0

    def __getattr__(self, name):
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def operation(*arguments, **options):
            self.operations += 1
            fails = self.operations == self._at
            if fails and not self._after:
                raise StorageUnavailable("planted")
            result = found(*arguments, **options)
            if fails:
                raise StorageUnavailable("planted")
            return result

        return operation
