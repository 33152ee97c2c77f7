"""Counters and histograms of all processes of one gateway, as Prometheus text.

Names are ``gateway_<room>_<what>_<unit>``; labels come from closed sets, never from a peer. Several processes add up
when the supervisor names a shared folder in their environment before this module is imported (D13); without it the
figures are those of this process.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections import Counter as TallyCounter
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from gateway import __version__

_STATM = Path("/proc/self/statm")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

DIMSE_ASSOCIATIONS = Gauge("gateway_dimse_associations", "Associations that are open now", multiprocess_mode="livesum")
DIMSE_REJECTS = Counter("gateway_dimse_rejects_total", "Connections and associations refused", ["reason"])
DIMSE_REQUESTS = Counter("gateway_dimse_requests_total", "DIMSE requests answered", ["command", "status"])
DIMSE_SECONDS = Histogram(
    "gateway_dimse_request_seconds", "Time from a DIMSE request to its answer", ["command"], buckets=_SECONDS
)
INGEST_INSTANCES = Counter("gateway_ingest_instances_total", "Instances that came in", ["door", "outcome"])
INGEST_DEVIATIONS = Counter(
    "gateway_ingest_deviations_total", "Deviations from the standard that were accepted", ["door", "reason"]
)
INGEST_BYTES = Counter("gateway_ingest_bytes_total", "Bytes of Data Sets that were stored", ["door"])
INGEST_SECONDS = Histogram(
    "gateway_ingest_seconds",
    "Time from the last byte of an instance to its acknowledgement",
    ["door"],
    buckets=_SECONDS,
)
QUARANTINE = Counter(
    "gateway_quarantine_total", "Instances that were refused and worth keeping, by whether they were kept", ["outcome"]
)
QUARANTINE_INSTANCES = Gauge(
    "gateway_quarantine_instances", "Refused instances that are kept", multiprocess_mode="mostrecent"
)
QUARANTINE_BYTES = Gauge(
    "gateway_quarantine_bytes", "Bytes of refused instances that are kept", multiprocess_mode="mostrecent"
)
DELETED_INSTANCES = Counter("gateway_deleted_instances_total", "Instances that were deleted", ["door"])
COLLECTED_OBJECTS = Counter("gateway_collected_objects_total", "Objects of deleted instances that were removed")
COLLECTED_BYTES = Counter("gateway_collected_bytes_total", "Bytes of objects of deleted instances that were removed")
HTTP_REQUESTS = Counter("gateway_http_requests_total", "HTTP requests answered", ["route", "method", "status"])
HTTP_SECONDS = Histogram(
    "gateway_http_request_seconds", "Time from a request's header to the end of its answer", ["route"], buckets=_SECONDS
)
HTTP_LOOP_LAG_SECONDS = Histogram(
    "gateway_http_loop_lag_seconds", "How late the event loop of an HTTP worker came to what was due", buckets=_SECONDS
)
RENDER_SECONDS = Histogram("gateway_pixels_render_seconds", "Time to make a picture", ["kind"], buckets=_SECONDS)
RENDER_STARTS = Counter(
    "gateway_pixels_worker_starts_total", "Decoding processes that were started, by what confines them", ["confinement"]
)
RENDER_FAILURES = Counter(
    "gateway_pixels_failures_total", "Frames of which nothing could be made, by what became of them", ["outcome"]
)
RENDER_RESTARTS = Counter("gateway_pixels_worker_restarts_total", "Decoding processes that were replaced")
THUMBNAILS = Counter("gateway_thumbnails_total", "Series whose thumbnail was made ahead, or could not be", ["outcome"])
FORWARD_WAITING = Gauge(
    "gateway_forward_waiting", "Instances that are to be sent to a peer", ["peer"], multiprocess_mode="mostrecent"
)
FORWARD_INSTANCES = Counter(
    "gateway_forward_instances_total", "Instances that were sent to a peer, or put off", ["peer", "outcome"]
)
COMMITMENTS = Counter(
    "gateway_commitments_total", "Requests for storage commitment, by what became of them", ["door", "outcome"]
)
COMMITMENT_REFERENCES = Counter(
    "gateway_commitment_references_total",
    "Instances that somebody wanted to be sure of, by what was said of them: 0000 or a Failure Reason",
    ["door", "reason"],
)
COMMITMENTS_WAITING = Gauge(
    "gateway_commitments_waiting",
    "Requests for storage commitment that are still to be answered",
    multiprocess_mode="mostrecent",
)
CHANGES_LATEST = Gauge(
    "gateway_changes_latest", "Sequence of the last change in the feed", multiprocess_mode="mostrecent"
)
CHANGES_LISTENERS = Gauge("gateway_changes_listeners", "Clients that wait for changes now", multiprocess_mode="livesum")
WEBHOOK_BEHIND = Gauge(
    "gateway_webhook_behind_changes",
    "Changes behind the one up to which a webhook was told",
    ["hook"],
    multiprocess_mode="mostrecent",
)
WEBHOOK_FAILING_SECONDS = Gauge(
    "gateway_webhook_failing_seconds",
    "How long nothing could be delivered to a webhook; 0 when the last message was",
    ["hook"],
    multiprocess_mode="mostrecent",
)
WEBHOOK_UNDELIVERED = Gauge(
    "gateway_webhook_undelivered",
    "Messages of a webhook that were laid aside",
    ["hook"],
    multiprocess_mode="mostrecent",
)
WEBHOOK_MESSAGES = Counter(
    "gateway_webhook_messages_total", "Messages to a webhook, by what became of them", ["hook", "outcome"]
)
INTEGRITY_FAILURES = Counter(
    "gateway_integrity_failures_total",
    "Stored objects that were not what their rows say, when they were read",
    ["door"],
)
LIMITS_HIT = Counter("gateway_limits_hit_total", "Limits that were passed, by the id in the documents", ["limit"])
PROCESS_RESIDENT_BYTES = Gauge(
    "gateway_process_resident_bytes", "Resident memory of a process", ["process"], multiprocess_mode="liveall"
)
PROCESS_CPU_SECONDS = Gauge(
    "gateway_process_cpu_seconds", "Processor time of a process so far", ["process"], multiprocess_mode="liveall"
)
BUILD_INFO = Gauge("gateway_build_info", "What runs here; always 1", ["version", "python"], multiprocess_mode="max")
BUILD_INFO.labels(__version__, platform.python_version()).set(1)


def note_commitment(door: str, reasons: Iterable[int]) -> None:
    """Count a request for storage commitment that was answered, with what was said of each instance."""
    COMMITMENTS.labels(door, "answered").inc()
    for reason, count in TallyCounter(reasons).items():
        COMMITMENT_REFERENCES.labels(door, f"{reason:04X}").inc(count)


def note_process(process: str) -> None:
    """Say what this process, of a kind such as ``http``, takes now; called once a second or so."""
    PROCESS_RESIDENT_BYTES.labels(process).set(_resident_bytes())
    PROCESS_CPU_SECONDS.labels(process).set(time.process_time())


def note_quarantine(instances: int, size_bytes: int) -> None:
    """Say how much is in quarantine now."""
    QUARANTINE_INSTANCES.set(instances)
    QUARANTINE_BYTES.set(size_bytes)


def _resident_bytes() -> int:
    """Of this process; where there is no /proc, the most that it ever had."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_shared() -> bool:
    """Whether several processes add up in a folder."""
    return values.ValueClass is not values.MutexValue


def exposition() -> bytes:
    """All figures in the Prometheus text format, those of the other processes included."""
    if not is_shared():
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
