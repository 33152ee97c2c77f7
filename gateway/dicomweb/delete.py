"""Delete: a study, series or instance is taken out of the archive, for good after a grace period.

PS3.18 knows no such transaction; the paths are those of what is deleted, as elsewhere. However large it is, it is one
transaction: when the answer comes, nobody finds any of it any more, by any door.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gateway.dicomweb.responses import NO_SNIFF, path_scope
from gateway.http import client_address, http_settings, in_waiting_thread, is_from_elsewhere, session_of
from storage.errors import Forbidden
from storage.model import Source


async def delete(request: Request) -> Response:
    """``DELETE`` of a study, series or instance: 204 when it is done.

    403 unless ``http.allow_delete`` says otherwise, and for web pages of other sites, 409 where a legal hold is on it,
    410 for what was deleted before, 429 for who does it too often.
    """
    settings = http_settings(request)
    if not settings.allow_delete:
        raise Forbidden("Deleting over HTTP is switched off, see http.allow_delete")
    if is_from_elsewhere(request):
        raise Forbidden("A web page of another site may not delete")
    source = Source("dicomweb", address=client_address(request))
    session = session_of(request)
    await in_waiting_thread(session.delete, path_scope(request), source, per_minute=settings.deletes_per_minute)
    return Response(status_code=204, headers=NO_SNIFF)
