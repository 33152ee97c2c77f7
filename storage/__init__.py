"""The archive: DICOM instances as immutable objects and an index of them. It knows no protocol and no pixels.

This face shows the nouns and the errors only; the Archive itself is reached through a Session (D6).
"""

from storage.errors import GatewayError
from storage.model import Answer, Change, Document, Entry, Instance, Level, Outcome, Receipt, Scope, Source

__all__ = [
    "Answer",
    "Change",
    "Document",
    "Entry",
    "GatewayError",
    "Instance",
    "Level",
    "Outcome",
    "Receipt",
    "Scope",
    "Source",
]
