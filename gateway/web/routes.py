"""The start page, and how the gateway is: ``/healthz``, ``/readyz``, ``/metrics``.

The page is plain HTML without scripts; nothing of any patient is on it.
"""

from __future__ import annotations

import json
from html import escape

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway import __version__, metrics
from gateway.http import http_settings, in_thread, root_url, session_of
from gateway.routing import Route
from storage.errors import StorageUnavailable

_SAFE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def live(_: Request) -> Response:
    """Whether the process answers; touches nothing else."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def ready(request: Request) -> Response:
    """Whether the archive can be used: 200, or 503 while it cannot."""
    try:
        await in_thread(session_of(request).check)
    except StorageUnavailable as error:
        body = orjson.dumps({"status": "unavailable", "reason": error.reason})
        return Response(body, 503, {"Retry-After": "10"}, "application/json")
    return Response(b'{"status":"ready"}', media_type="application/json")


async def figures(_: Request) -> Response:
    """All counters of all processes, as Prometheus reads them."""
    return Response(await in_thread(metrics.exposition), media_type=metrics.CONTENT_TYPE)


def ohif_configuration(base: str) -> str:
    """The data source to paste into OHIF's configuration, as JavaScript."""
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
        "sourceName": "gateway",
        "configuration": {
            "friendlyName": "DICOMweb gateway",
            "name": "gateway",
            "qidoRoot": base,
            "wadoRoot": base,
            "wadoUriRoot": f"{base}/wado",
            "qidoSupportsIncludeField": True,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "supportsFuzzyMatching": True,
            "supportsWildcard": True,
            "dicomUploadEnabled": True,
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True},
        },
    }
    return json.dumps(source, indent=2)


async def start(request: Request) -> Response:
    """What runs here, where, and how to point a viewer at it."""
    base = root_url(request) + "/dicomweb"
    dimse = request.app.state.settings.dimse
    peer = f"{dimse.ae_title}@{dimse.host}:{dimse.port}"
    return HTMLResponse(_page(base, peer, has_origins=bool(http_settings(request).cors_origins)), headers=_SAFE)


def _page(base: str, peer: str, *, has_origins: bool) -> str:
    links = (
        ("Studies (QIDO-RS)", f"{base}/studies?limit=25"),
        ("Series", f"{base}/series?limit=25"),
        ("Health", "/healthz"),
        ("Readiness", "/readyz"),
        ("Metrics", "/metrics"),
    )
    items = "".join(f'<li><a href="{escape(url)}">{escape(text)}</a></li>' for text, url in links)
    origins = (
        ""
        if has_origins
        else "<p>A viewer on another origin must be named in <code>GATEWAY_HTTP__CORS_ORIGINS</code>.</p>"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DICOMweb gateway</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }}
code, pre {{ font-family: ui-monospace, monospace; }}
pre {{ padding: 1rem; overflow: auto; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); }}
</style>
</head>
<body>
<h1>DICOMweb gateway</h1>
<p>Version {escape(__version__)} is running.</p>
<h2>Where things are</h2>
<table>
<tr><th align="left">DICOMweb</th><td><code>{escape(base)}</code></td></tr>
<tr><th align="left">DIMSE</th><td><code>{escape(peer)}</code></td></tr>
</table>
<ul>{items}</ul>
<h2>OHIF</h2>
<p>Add this to <code>dataSources</code> in OHIF's configuration:</p>
<pre>{escape(ohif_configuration(base))}</pre>
{origins}
</body>
</html>
"""


def routes() -> list[Route]:
    """Pages and probes at the root."""
    return [
        Route("GET", "/", start),
        Route("GET", "/healthz", live),
        Route("GET", "/readyz", ready),
        Route("GET", "/metrics", figures),
    ]
