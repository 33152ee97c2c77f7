"""The shape of the tree: docstrings, names, edges, the reader of the environment, and contracts that really bite."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for room in ("gateway", "storage") for path in (ROOT / room).rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in MODULES]
FORBIDDEN_NAMES = {"utils", "util", "helpers", "common", "misc", "manager", "service", "handler"}
READERS_OF_THE_ENVIRONMENT = {"gateway/settings.py"}
# Where a request or message ends, or a thread that others wait for: a bug must become an answer, not a dead thread.
EDGES = {
    "gateway/collecting.py",
    "gateway/delivery.py",
    "gateway/dimse/forwarding.py",
    "gateway/dimse/reporting.py",
    "gateway/dimse/server.py",
    "gateway/dimse/status.py",
    "gateway/pixels/worker.py",
    "gateway/routing.py",
    "gateway/thumbnails.py",
    "storage/index/committer.py",
    "storage/reception.py",
}


@pytest.fixture(params=MODULES, ids=NAMES)
def module(request):
    return request.param


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_module_says_what_it_is(module):
    assert len(ast.get_docstring(tree(module)) or "") >= 20


def test_no_module_is_named_after_nothing(module):
    assert module.stem not in FORBIDDEN_NAMES
    assert module.stem != "base" or module.parent.name in ("objects", "index")


def is_broad(handler):
    """Whether it catches everything and keeps it; cleaning up and raising again is no catch."""
    if isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None:
        return False
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        one is None or (isinstance(one, ast.Name) and one.id in ("Exception", "BaseException")) for one in caught
    )


def test_only_edges_catch_everything(module):
    broad = [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.ExceptHandler) and is_broad(node)]
    silent = [
        node.lineno
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(one, ast.Pass) for one in node.body)
    ]
    assert silent == []
    assert not broad or module.relative_to(ROOT).as_posix() in EDGES


def test_only_settings_read_the_environment(module):
    reads = [
        node.lineno
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    ]
    assert bool(reads) == (module.relative_to(ROOT).as_posix() in READERS_OF_THE_ENVIRONMENT)


def test_nothing_prints(module):
    calls = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [node.lineno for node in calls if node.func.id in ("print", "input", "breakpoint")] == []


def contracts():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


@pytest.mark.parametrize("room", ["gateway", "storage"])
def test_every_module_has_its_layer(room):
    (layers,) = [
        one["layers"] for one in contracts() if any(row.startswith(f"{room}.") for row in one.get("layers", []))
    ]
    named = {name.strip() for row in layers for name in row.split("|")}
    found = {
        f"{room}.{path.stem}"
        for path in (ROOT / room).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {f"{room}.__init__"} == named


def linted(folder):
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "COLUMNS": "400", "NO_COLOR": "1"},
    )


def copied(folder):
    for room in ("gateway", "storage"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_tree_keeps_its_contracts(tmp_path):
    run = linted(copied(tmp_path))
    assert run.returncode == 0, run.stdout
    assert f"Contracts: {len(contracts())} kept, 0 broken." in run.stdout


# Importing module, planted line, and what the report must name.
PLANTED = [
    ("storage/uids.py", "import gateway.metrics", "storage.uids -> gateway.metrics"),
    ("storage/frames.py", "import numpy", "storage.frames -> numpy"),
    ("storage/keys.py", "import storage.objects", "storage.keys -> storage.objects"),
    ("storage/errors.py", "import storage.model", "storage.errors -> storage.model"),
    ("storage/matching.py", "import starlette.requests", "storage.matching -> starlette"),
    (
        "gateway/dimse/contexts.py",
        "import gateway.dicomweb.routes",
        "gateway.dimse.contexts -> gateway.dicomweb.routes",
    ),
    ("gateway/dimse/limits.py", "import starlette", "gateway.dimse.limits -> starlette"),
    ("gateway/dicomweb/wado.py", "from storage.archive import Archive", "gateway.dicomweb.wado -> storage.archive"),
    ("gateway/dicomweb/qido.py", "import storage.index", "gateway.dicomweb.qido -> storage.index"),
    ("gateway/dicomweb/stow.py", "import pynetdicom", "gateway.dicomweb.stow -> pynetdicom"),
    ("gateway/pixels/decode.py", "import gateway.session", "gateway.pixels.decode -> gateway.session"),
    ("gateway/session.py", "import gateway.http", "gateway.session -> gateway.http"),
    ("gateway/logs.py", "import gateway.settings", "gateway.logs -> gateway.settings"),
    ("gateway/processes.py", "import gateway.app", "gateway.processes -> gateway.app"),
    ("gateway/importer.py", "import storage.archive", "gateway.importer -> storage.archive"),
    ("gateway/web/routes.py", "import storage.rebuild", "gateway.web.routes -> storage.rebuild"),
    ("storage/archive.py", "import storage.upkeep", "storage.archive -> storage.upkeep"),
    ("gateway/query/qido.py", "import gateway.app", "gateway.query.qido -> gateway.app"),
    ("gateway/query/find.py", "import pynetdicom", "gateway.query.find -> pynetdicom"),
    ("gateway/query/search.py", "import storage.index", "gateway.query.search -> storage.index"),
    ("gateway/dimse/query_scu.py", "import gateway.query", "gateway.dimse.query_scu -> gateway.query"),
    (
        "gateway/dimse/storage_scp.py",
        "import storage.quarantine",
        "gateway.dimse.storage_scp -> storage.quarantine",
    ),
    ("gateway/web/routes.py", "import storage.objects", "gateway.web.routes -> storage.objects"),
]


def test_planted_violations_are_caught(tmp_path):
    folder = copied(tmp_path)
    for name, line, _ in PLANTED:
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    run = linted(folder)
    assert run.returncode == 1, run.stdout + run.stderr
    missed = [wanted for _, _, wanted in PLANTED if wanted not in run.stdout]
    assert missed == []
