"""Calls of browsers from pages of other origins: what the browser is told, and the answer to a preflight.

A preflight (https://fetch.spec.whatwg.org/#cors-preflight-fetch) asks whether a page may make a call. It carries
neither token nor client certificate, and names the model by its path only. The sidecar answers it from the route of
that model, so the answer says nothing about what the model server has or whom the policy lets in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.codec.events import RequestHead
    from meshproxy.proxy.request import Request
    from meshproxy.routing.routes import Route

SHOWN = 100
"""Characters of an origin that a message shows."""


def answers_preflight(request: Request) -> bool:
    """Note who may read the answer. True: the request was a preflight, and has its answer.

    Raises:
        Refusal: ORIGIN_NOT_ALLOWED, for a preflight.
    """
    head = request.head
    origin = _only(head, b"origin")
    announced = _only(head, b"access-control-request-method") if head.method == b"OPTIONS" else None
    if origin is None or announced is None:
        _share(request, head.method, origin)
        return False
    route = _share(request, announced, origin)
    if route is None or route.cors is None:
        return False
    request.route = route.name
    if not route.cors.allows(origin):
        shown = ascii(origin[:SHOWN].decode("latin-1"))[1:-1]
        message = f"Pages of {shown} may not call this model: add the origin to cors.allowOrigins of its ModelRoute."
        raise Refusal(Reason.ORIGIN_NOT_ALLOWED, message)
    asked = _only(head, b"access-control-request-headers")
    request.answer_directly(204, route.cors.preflight_fields(origin, asked))
    return True


def _share(request: Request, method: bytes, origin: bytes | None) -> Route | None:
    """Note what the route of the model that the path names tells the browser; None: there is no such route."""
    snapshot = request.snapshot
    try:
        call = snapshot.surfaces.find_rest(method, request.head.target).call
    except Refusal:
        return None  # it will be refused, for what it is
    route = snapshot.routes.for_all(call) if call is not None else None
    if route is not None and route.cors is not None:
        request.sharing = route.cors.fields(origin)
    return route


def _only(head: RequestHead, wanted: bytes) -> bytes | None:
    values = [value for name, value in head.headers if name == wanted]
    return values[0] if len(values) == 1 else None
