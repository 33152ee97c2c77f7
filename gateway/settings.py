"""Settings: every knob with its type, unit, default and one sentence; defaults, then TOML, then the environment.

The only reader of the environment. Values are read once, by the command line, and passed down as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


def _setting(default: object, doc: str) -> object:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Where images are kept."""

    data: Path = _setting(Path("data"), "Folder of the archive: objects and index.")  # type: ignore[assignment]
    maximum_instance_bytes: int = _setting(4 << 30, "Largest instance that is accepted (L6).")  # type: ignore[assignment]
