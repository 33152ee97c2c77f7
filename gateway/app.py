"""Composition root: what each process of the gateway is made of. The only builder of the archive and of doors.

``serve`` is the parent: it takes the data folder, binds the ports and watches its children. ``run_dimse`` and
``run_http`` are the children; each imports only the door that it runs (D13).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__, allocator, logs, settings
from gateway.processes import CannotStart, Child, Lifeline, Supervisor, listen, lock_folder
from gateway.settings import Settings, SettingsError, read_peers, read_routes
from gateway.webhooks import read_webhooks
from storage.errors import GatewayError
from storage.spool import sweep

if TYPE_CHECKING:
    import uvicorn

    from gateway.pictures import Pictures
    from gateway.security.actor import Actor
    from gateway.session import Session
    from storage.archive import Archive
    from storage.reception import Hook

logger = logging.getLogger("gateway.app")

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
OBJECTS_FOLDER = "objects"
QUARANTINE_FOLDER = "quarantine"
INDEX_FILE = "index.sqlite"
_MODULE = "gateway.app"
_STOP_SECONDS = 3.0
_LOOK_SECONDS = 0.1
_LOOKS_UNTIL_GIVING_BACK = round(allocator.GIVES_BACK_EVERY_SECONDS / _LOOK_SECONDS)
_COLLECTION_THRESHOLDS = 20_000, 20, 50


@contextlib.contextmanager
def open_archive(values: Settings) -> Iterator[Archive]:
    """The archive in the data folder, which is made when it is not there; within it the attribute table of this process
    has the extended tags, too. Raises StorageUnavailable, and SettingsError for a hook that is not there.
    """
    from storage.archive import Archive
    from storage.attributes import extended_by
    from storage.commitment import Check
    from storage.extended import read_extended
    from storage.index import open_index
    from storage.objects import open_object_store
    from storage.policy import read_policies
    from storage.quarantine import Limits, Quarantine

    hook = _hook(values)
    values.archive.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    objects = open_object_store(values.archive.data / OBJECTS_FOLDER)
    ingest = values.ingest
    limits = Limits(
        ingest.quarantine_instances_maximum,
        ingest.quarantine_maximum_bytes,
        ingest.quarantine_least_free_bytes,
        ingest.quarantine_least_free_percent,
    )
    with (
        extended_by(read_extended(values.archive.extended_tags)),
        contextlib.closing(open_index(index_place(values), search_seconds=values.archive.search_seconds)) as index,
    ):
        archive = Archive(
            objects,
            index,
            maximum_instance_bytes=values.archive.maximum_instance_bytes,
            commitment_check=Check(values.archive.commitment_check),
            commitment_references_maximum=values.archive.commitment_references_maximum,
            commitment_kept_seconds=values.archive.commitment_kept_seconds,
            quarantine=Quarantine(values.archive.data / QUARANTINE_FOLDER, limits),
            ledger_days=ingest.ledger_days,
            ledger_maximum_rows=ingest.ledger_rows_maximum,
            checks_reads=values.archive.check_reads,
            policies=read_policies(values.archive.policies),
            hook=hook,
            name=values.dimse.ae_title,
        )
        with contextlib.closing(archive.ledger):
            yield archive


def index_place(values: Settings) -> Path | str:
    """Where the index is, for ``open_index``."""
    return values.archive.index or values.archive.data / INDEX_FILE


def _hook(values: Settings) -> Hook | None:
    """The operator's function that is asked about each instance. Raises SettingsError when it is not there."""
    from storage.reception import Hook

    if not values.archive.on_receive:
        return None
    module, _, name = values.archive.on_receive.partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except (ImportError, SyntaxError) as error:
        raise SettingsError(f"archive.on_receive: the module {module} cannot be imported: {error}") from error
    if not callable(function):
        raise SettingsError(f"archive.on_receive: {module} has no function {name}")
    return Hook(function, values.archive.on_receive_seconds)


@contextlib.contextmanager
def open_sessions(values: Settings) -> Iterator[Callable[[Actor], Session]]:
    """What doors get instead of the archive: a Session for each Actor (D6)."""
    from gateway.session import Session

    with open_archive(values) as archive:
        yield partial(Session, archive)


# ---------------------------------------------------------------------------------------------------------- children


def run_dimse(values: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve DIMSE on ``listener`` until SIGTERM, then let associations finish. Extended tags are indexed and what was
    deleted is collected beside it.
    """
    from gateway import metrics
    from gateway.collecting import keep_collected
    from gateway.delivery import Courier, Patience
    from gateway.dimse.forwarding import Forwarder, Route
    from gateway.dimse.limits import DimseLimits
    from gateway.dimse.requestor import Peer
    from gateway.dimse.server import DimseServer
    from gateway.indexing import keep_complete
    from gateway.pixels.pool import RenderPool
    from gateway.security.actor import Actor
    from gateway.session import Session
    from gateway.stability import keep_noting

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells everybody; our parent decides
    named = {
        row.name: getattr(values.dimse, row.name) for row in fields(DimseLimits) if hasattr(values.dimse, row.name)
    }
    limits = DimseLimits(**named, instance_maximum_bytes=values.archive.maximum_instance_bytes)
    pixels = values.pixels
    with (
        open_archive(values) as archive,
        RenderPool(
            pixels.workers, seconds=pixels.seconds, memory_bytes=pixels.memory_bytes, folder=values.archive.data
        ) as pool,
    ):
        sessions = partial(Session, archive)
        title = values.dimse.ae_title
        peers = read_peers(values.dimse.peers)
        destinations = {
            peer: Peer(host, port, called_ae=peer, calling_ae=title) for peer, (host, port) in peers.items()
        }
        routes = [
            Route(name, destinations[peer], matches)
            for name, (peer, matches) in read_routes(values.dimse.forward).items()
        ]
        server = DimseServer(listener, title, limits, sessions, destinations=destinations, transcoder=pool)
        serving = threading.Thread(target=server.serve, name="dimse")
        serving.start()
        indexing = threading.Thread(target=keep_complete, args=(archive.index_extended, stopping), name="indexing")
        if values.archive.extended_tags:
            indexing.start()
        reporting = threading.Thread(
            target=server.reporter.run, args=(stopping,), name="commitment", daemon=True
        )  # what waits for a peer is in the outbox, and outlives it
        reporting.start()
        collect = partial(archive.collect, values.archive.delete_grace_days)
        collecting = threading.Thread(
            target=keep_collected, args=(collect, archive.sweep, stopping), name="collecting", daemon=True
        )
        collecting.start()
        session = sessions(Actor("operator", "forwarding"))
        forwarding = [
            threading.Thread(
                target=Forwarder(route, session, pool, others=[one for one in routes if one.peer == route.peer]).run,
                args=(stopping,),
                name="forwarding",
                daemon=True,  # what waits for a peer is in the outbox, and outlives it
            )
            for route in routes
        ]
        patience = Patience.of(
            values.changes.webhook_seconds,
            values.changes.webhook_refusals_maximum,
            values.changes.webhook_patience_seconds,
            values.changes.webhook_networks,
        )
        telling = [
            threading.Thread(
                target=Courier(webhook, sessions(Actor("operator", "webhooks")), patience).run,
                args=(stopping,),
                name="webhook",
                daemon=True,  # as above
            )
            for webhook in read_webhooks(values.changes.webhooks)
        ]
        quiet_seconds = values.changes.stable_seconds

        def note(now: int, due: int) -> bool:
            metrics.CHANGES_LATEST.set(archive.latest())
            return bool(quiet_seconds) and archive.note_stable(now, due)

        noting = threading.Thread(
            target=keep_noting, args=(note, quiet_seconds, stopping), name="stability", daemon=True
        )
        for thread in (*forwarding, *telling, noting):
            thread.start()
        working = (serving, reporting, collecting, *forwarding, *telling, noting)
        ready()
        try:
            while not stopping.wait(1.0):
                metrics.note_process("dimse")
                if archive.quarantine is not None:
                    held = archive.quarantine.usage()
                    metrics.note_quarantine(held.count, held.size_bytes)
                are_alive = all(thread.is_alive() for thread in working)
                if not are_alive and not stopping.is_set():  # asked in this order: those that were told to stop do
                    raise RuntimeError("A thread of the DIMSE process has stopped by itself")
        finally:
            stopping.set()
            server.stop(values.dimse.drain_seconds)
            if values.archive.extended_tags:
                indexing.join(_STOP_SECONDS)
            for thread in working:
                thread.join(_STOP_SECONDS)


def run_http(values: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve DICOMweb, the start page and metrics on ``listener`` until SIGTERM, then let requests finish."""
    import uvicorn

    from gateway.asgi import application, tail_of
    from gateway.connections import BoundedHttp
    from gateway.pictures import Pictures
    from gateway.pixels.pool import RenderPool
    from gateway.security.actor import Actor

    pixels = values.pixels
    with (
        open_sessions(values) as sessions,
        RenderPool(
            pixels.workers, seconds=pixels.seconds, memory_bytes=pixels.memory_bytes, folder=values.archive.data
        ) as pool,
    ):
        tail = tail_of(values, sessions)
        app = application(values, sessions, pool, tail)
        config = uvicorn.Config(
            app,
            http=partial(BoundedHttp, values.http),  # type: ignore[arg-type]
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the door reads them, from trusted proxies only
            timeout_keep_alive=math.ceil(values.http.keep_alive_seconds),
            timeout_graceful_shutdown=math.ceil(values.http.drain_seconds),
        )

        class Server(uvicorn.Server):
            """Whoever waits for changes is told that there will be none, or they would keep it from stopping."""

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                tail.close()
                await super().shutdown(sockets)

        server = Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises it once more when it has drained
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        pictures = Pictures(sessions(Actor("operator", "thumbnails")), pool)
        with (
            _making_thumbnails(pictures, pixels.thumbnail_seconds),
            asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
        ):
            runner.run(_serve_http(server, listener, ready))
        app.flush()


@contextlib.contextmanager
def _making_thumbnails(pictures: Pictures, quiet_seconds: int) -> Iterator[None]:
    """Make thumbnails ahead meanwhile, in a thread of its own; not at all for 0."""
    from gateway.thumbnails import Thumbnailer

    if not quiet_seconds:
        yield
        return
    stopping = threading.Event()
    run = Thumbnailer(pictures, quiet_seconds).run
    making = threading.Thread(target=run, args=(stopping,), name="thumbnails", daemon=True)
    making.start()
    try:
        yield
    finally:
        stopping.set()
        making.join(_STOP_SECONDS)


async def _serve_http(server: uvicorn.Server, listener: socket.socket, ready: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn tells it by an attribute only
        await asyncio.sleep(0.005)
    ready()
    watching = asyncio.create_task(_watch_loop())
    try:
        await serving
    finally:
        watching.cancel()


async def _watch_loop() -> None:
    """Note how late this loop is, ten times a second, and what the process takes."""
    from gateway import metrics

    loop = asyncio.get_running_loop()
    for count in itertools.count():
        due = loop.time() + _LOOK_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)
        metrics.HTTP_LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due))
        if count % 10 == 0:
            metrics.note_process("http")
        if count % _LOOKS_UNTIL_GIVING_BACK == 0:
            await asyncio.to_thread(allocator.give_back)


def collect_rarely() -> None:
    """Leave what a process is made of out of the search for cycles, and search less often.

    An instance is some hundreds of dictionaries and lists without a cycle, which go when it is stored. Searching
    through them every 700 of them, which is Python's default, costs a twelfth of a store.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)


_CHILDREN = {"dimse": run_dimse, "http": run_http}


def main(arguments: list[str]) -> int:
    """A child: ``KIND LIFELINE LISTENER INHERITED…``, the last three being descriptors. Returns its exit code."""
    kind, *descriptors = arguments
    line_fd, listener_fd, *inherited = (int(text) for text in descriptors)
    for descriptor in (listener_fd, *inherited):
        os.set_inheritable(descriptor, False)
    line = Lifeline(line_fd)
    values = settings.from_json(line.greeting())
    line.watch()
    logs.configure(values.logs.level, strict=values.logs.strict)
    logs.guard_process()

    def ready() -> None:
        collect_rarely()
        line.ready()

    try:
        _CHILDREN[kind](values, socket.socket(fileno=listener_fd), ready)
    except GatewayError as error:
        line.failed(str(error))
        logger.critical("process.failed", exc_info=error)
        return 1
    return 0


# ------------------------------------------------------------------------------------------------------------ parent


@dataclass(frozen=True, slots=True)
class Places:
    """Where a gateway that is ready can be reached."""

    start_page: str
    dicomweb: str
    metrics: str
    dimse: str
    archive: str

    def text(self) -> str:
        """For people."""
        rows = [f"  {label:<11}{value}" for label, value in zip(_LABELS, astuple(self), strict=True)]
        return "\n".join(["The gateway is ready.", *rows, "Stop it with Ctrl-C."])

    def json(self) -> str:
        """For programs: one line."""
        return json.dumps({"event": "ready", **asdict(self)})


_LABELS = ("Start page", "DICOMweb", "Metrics", "DIMSE", "Archive")


def serve(values: Settings, announce: Callable[[Places], None]) -> None:
    """Run a gateway until SIGTERM or SIGINT; ``announce`` is called once, when all of it serves.

    Call it in the main thread. Raises SettingsError for what is unsafe, CannotStart, StorageUnavailable.
    """
    settings.refuse_unsafe(values)
    _refuse_lost_secrets(values)
    data = values.archive.data
    with contextlib.ExitStack() as held:
        lock = lock_folder(data)
        held.callback(os.close, lock)
        removed = _sweep(data)
        figures = _figures_folder(data)
        https = listen(values.http.host, values.http.port, count=values.http.workers)
        held.callback(_close, https)
        dimse = listen(values.dimse.host, values.dimse.port)
        held.callback(_close, dimse)
        logger.info("gateway.starting", extra={"version": __version__, "count": removed})
        if values.http.insecure_no_auth:
            logger.warning("gateway.insecure", extra={"reason": "Anybody who reaches it may read and store"})
        _bring_up_to_date(values)
        bound = _with_ports(values, https[0], dimse[0])
        Supervisor(
            [
                Child("dimse", ("-m", _MODULE, "dimse"), dimse[0], values.dimse.drain_seconds),
                *(
                    Child(f"http-{number}", ("-m", _MODULE, "http"), one, values.http.drain_seconds)
                    for number, one in enumerate(https, 1)
                ),
            ],
            greeting=settings.to_json(bound),
            environment=allocator.VARIABLES | settings.child_environment({METRICS_VARIABLE: str(figures)}),
            keep=[lock],
            ended=partial(_forget_figures, figures),
        ).run(lambda: announce(_places(bound)))
        logger.info("gateway.stopped")


def _refuse_lost_secrets(values: Settings) -> None:
    """Raises SettingsError when a webhook could not sign what it sends."""
    for webhook in read_webhooks(values.changes.webhooks):
        for secret in webhook.secrets:
            try:
                secret.key()
            except ValueError as error:
                raise SettingsError(f"changes.webhooks {error}") from None


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _sweep(data: Path) -> int:
    """Remove what stores that were cut off have left; returns how many files."""
    from storage.objects import open_object_store

    return sweep(open_object_store(data / OBJECTS_FOLDER).spool_directory)


def _bring_up_to_date(values: Settings) -> None:
    """Migrate the index, however long that takes, before the processes start that have to be ready in time.

    New routes begin here, before anything can come in; what is too old goes, and what killed processes left.
    """
    from gateway.thumbnails import OUTBOX

    webhooks = read_webhooks(values.changes.webhooks)
    with open_archive(values) as archive:
        for webhook in webhooks:
            archive.subscribers.find(webhook.name)
        if values.changes.stable_seconds:
            archive.note_stable(0, int(time.time()) + values.changes.stable_seconds)
        for name in (*values.dimse.forward, OUTBOX):
            archive.outbox.place(name)
        archive.ledger.prune()
        if archive.quarantine is not None:
            archive.quarantine.sweep()


def _figures_folder(data: Path) -> Path:
    """An empty folder in which the processes add up their metrics; that of an earlier run is over."""
    folder = data / "run" / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise CannotStart(f"The data folder {data} cannot be written: {error.strerror}") from None
    return folder.resolve()


def _forget_figures(folder: Path, pid: int) -> None:
    """Take a process that has ended out of the figures that count what is open now."""
    for path in folder.glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)


def _with_ports(values: Settings, http: socket.socket, dimse: socket.socket) -> Settings:
    """The same settings with the ports that the system has picked."""
    return replace(
        values,
        http=replace(values.http, port=http.getsockname()[1]),
        dimse=replace(values.dimse, port=dimse.getsockname()[1]),
    )


def _places(values: Settings) -> Places:
    base = values.http.public_url.rstrip("/") or f"http://{_address(values.http.host, values.http.port)}"
    return Places(
        start_page=f"{base}/",
        dicomweb=f"{base}/dicomweb",
        metrics=f"{base}/metrics",
        dimse=f"{values.dimse.ae_title}@{_address(values.dimse.host, values.dimse.port)}",
        archive=str(values.archive.data.resolve()),
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
