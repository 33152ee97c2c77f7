"""The router: paths to endpoints, methods, and errors to answers."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from gateway.routing import Route, Router
from storage.errors import NotFound


async def endpoint(request):
    if "fail" in request.path_params.values():
        raise NotFound
    if "crash" in request.path_params.values():
        raise ValueError("secret")
    return PlainTextResponse(repr(sorted(request.path_params.items())))


def answer(_, error):
    status = getattr(error, "status_code", 404 if isinstance(error, NotFound) else 500)
    return PlainTextResponse(type(error).__name__, status, getattr(error, "headers", None))


ROUTER = Router(
    [
        Route("GET", "/", endpoint),
        Route("GET", "/studies", endpoint),
        Route("POST", "/studies", endpoint),
        Route("GET", "/studies/{study}", endpoint),
        Route("GET", "/studies/{study}/metadata", endpoint),
        Route("GET", "/studies/{study}/bulk/{path:path}", endpoint),
    ],
    answer,
)


def call(method, path):
    messages = []

    async def send(message):
        messages.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    asyncio.run(ROUTER(scope, receive, send))
    start, *body = messages
    return start["status"], b"".join(part["body"] for part in body).decode(), dict(start["headers"]), scope["template"]


@pytest.mark.parametrize(
    ("path", "template", "parameters"),
    [
        ("/", "/", []),
        ("/studies", "/studies", []),
        ("/studies/", "/studies", []),
        ("/studies/1.2", "/studies/{study}", [("study", "1.2")]),
        ("/studies/metadata", "/studies/{study}", [("study", "metadata")]),
        ("/studies/1.2/metadata/", "/studies/{study}/metadata", [("study", "1.2")]),
        ("/studies/1/bulk/a/0/b", "/studies/{study}/bulk/{path:path}", [("path", "a/0/b"), ("study", "1")]),
    ],
)
def test_a_path_finds_its_endpoint_and_names(path, template, parameters):
    status, body, _, found = call("GET", path)
    assert (status, body, found) == (200, repr(parameters), template)


@pytest.mark.parametrize(
    "path", ["/nothing", "/studies/1/2/3", "/studies//metadata", "/studies/1/bulk", "/studies/1//", "//studies"]
)
def test_another_path_is_not_found(path):
    status, body, _, template = call("GET", path)
    assert (status, body, template) == (404, HTTPException.__name__, "unmatched")


def test_a_wrong_method_is_told_which_are_allowed():
    assert call("DELETE", "/studies")[0] == 405
    assert call("DELETE", "/studies")[2][b"allow"] == b"GET, HEAD, POST"


def test_head_has_the_header_and_no_body():
    status, body, headers, _ = call("HEAD", "/studies/1.2")
    assert (status, body) == (200, "")
    assert int(headers[b"content-length"]) > 0


@pytest.mark.parametrize(("study", "status", "name"), [("fail", 404, "NotFound"), ("crash", 500, "ValueError")])
def test_what_an_endpoint_raises_is_answered(study, status, name):
    assert call("GET", f"/studies/{study}")[:2] == (status, name)
