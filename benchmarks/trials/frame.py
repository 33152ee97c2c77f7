"""Frame: what trials have in common. Servers that are stopped at the end, a corpus, and a table in Markdown."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench import Bench, Scale, scratch_folder
from benchmarks.corpus import Corpus
from benchmarks.servers import Server, start_gateway


@dataclass
class Frame:
    """One trial on its way. work: folder on the disk that is measured. stack: what is undone at the end.

    has_failed: set by a trial that found what it must not.
    """

    options: argparse.Namespace
    cache: Path
    work: Path
    stack: contextlib.ExitStack
    has_failed: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    def gateway(self, database: str = "", arguments: Sequence[str] = ()) -> Server:
        """The gateway at its default settings, but for the database of its index where one is named, and arguments."""
        if database:
            settings = self.work / "gateway.toml"
            settings.write_text(f"[archive]\nindex = {json.dumps(database)}\n", encoding="utf-8")
            arguments = [*arguments, "--config", str(settings)]
        return self.kept(start_gateway(self.work / "gateway", arguments=arguments))

    def kept(self, server: Server) -> Server:
        """A server that is stopped at the end."""
        self.stack.callback(server.stop)
        self.versions[server.name] = server.version
        return server

    def bench(self, servers: Sequence[Server], ct_instances: int = 0) -> Bench:
        """Senders and clients for these servers."""
        count = ct_instances or self.options.ct
        scale = Scale(self.options.reps, 4.0, 1, self.options.patience)
        corpus = Corpus(self.cache, count)
        return Bench(corpus, scale, servers, scratch_folder(count * 600_000), "storescu", "wrk")


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table in Markdown."""
    texts = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    print("\n".join((lines[0], rule, *lines[1:])))


__all__ = ["Frame", "print_table"]
