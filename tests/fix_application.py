"""The web application in this process, over the archive of a test."""

from __future__ import annotations

import asyncio
from functools import partial

import httpx
import pytest

from gateway.asgi import application
from gateway.pixels.pool import RenderPool
from gateway.session import Session
from gateway.settings import Settings


class Here:
    """The application in this process."""

    def __init__(self, archive, pool):
        self.pool = pool
        self._app = application(Settings(), partial(Session, archive), pool)

    def get(self, url, **headers):
        async def answer():
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.get(url, headers={"Accept": "*/*", **headers})

        return asyncio.run(answer())


@pytest.fixture
def here(archive):
    with RenderPool(1) as pool:
        yield Here(archive, pool)
