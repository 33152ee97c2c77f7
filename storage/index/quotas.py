"""What was kept in a day under each rule with a quota, counted in the transaction of the store itself (H32)."""

from __future__ import annotations

import datetime as dt

from storage.errors import QuotaExceeded
from storage.index.engine import Connection
from storage.model import Instance, Quota

_KEPT_DAYS = 31
_USED = "SELECT instances, bytes FROM quota WHERE name = ? AND day = ?"
_CHARGE = (
    "INSERT INTO quota (name, day, instances, bytes) VALUES (?, ?, 1, ?) ON CONFLICT (name, day) "
    "DO UPDATE SET instances = quota.instances + 1, bytes = quota.bytes + excluded.bytes"
)
_FORGET = "DELETE FROM quota WHERE day < ?"


def refusal(connection: Connection, quota: Quota, instance: Instance, now: str) -> QuotaExceeded | None:
    """The refusal of an instance that there is no room for on this day, None where there is. now: ISO 8601, in UTC."""
    found = connection.execute(_USED, (quota.name, now[:10])).fetchone()
    instances, used_bytes = (0, 0) if found is None else found
    is_over = (quota.instances_per_day is not None and instances + 1 > quota.instances_per_day) or (
        quota.bytes_per_day is not None and used_bytes + instance.size_bytes > quota.bytes_per_day
    )
    return QuotaExceeded(uid=instance.sop_instance_uid) if is_over else None


def charge(connection: Connection, quota: Quota, instance: Instance, now: str) -> None:
    """Count an instance that is about to be kept, after ``refusal`` has found room for it in the same transaction."""
    connection.execute(_CHARGE, (quota.name, now[:10], instance.size_bytes))
    oldest = dt.date.fromisoformat(now[:10]) - dt.timedelta(days=_KEPT_DAYS)
    connection.execute(_FORGET, (oldest.isoformat(),))
