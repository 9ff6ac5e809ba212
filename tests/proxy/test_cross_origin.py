"""Calls of browsers from pages of other origins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.config.cors import Cors
from meshproxy.config.routes import Match
from meshproxy.proxy.cross_origin import SHOWN
from meshproxy.routing.cors import CorsPolicy
from meshproxy.routing.match import Condition
from meshproxy.routing.routes import Routes
from tests.proxy.conftest import World, route
from tests.proxy.fakes import FakeDownstream

APP = b"https://app.example"
ORIGIN = (b"origin", APP)
PREDICT = b"/v1/models/open:predict"
ALLOW = b"access-control-allow-origin"


@pytest.fixture
def shared(world: World) -> World:
    """Pages of APP may call every model."""
    cors = CorsPolicy(Cors(allow_origins=(APP.decode(),), expose_headers=("x-meshproxy-refusal",), max_age=60.0))
    world.use(routes=Routes(route(), [("*", (), route(name="shared", cors=cors))]))
    return world


def send(
    world: World, method: bytes, target: bytes, headers: Headers, *, body: bytes | None = b"", peer: Any = None
) -> FakeDownstream:
    client = FakeDownstream("HTTP/1.1", peer)
    world.pipeline.serve(client, RequestHead(1, method, b"models", target, headers, end=body == b""))
    if body:
        client.receive(body, True)
    return client


def preflight(world: World, *more: tuple[bytes, bytes], origin: bytes = APP, **rest: Any) -> FakeDownstream:
    asked = (b"access-control-request-method", rest.pop("method", b"POST"))
    return send(world, b"OPTIONS", rest.pop("target", PREDICT), ((b"origin", origin), asked, *more), **rest)


class TestPreflight:
    def test_it_is_answered_without_identity_and_without_the_model_server(self, shared: World) -> None:
        client = preflight(shared, (b"access-control-request-headers", b"authorization,content-type"))
        assert (client.status, client.ended, client.body) == (204, True, b"")
        assert client.headers == {
            ALLOW: APP,
            b"vary": b"origin",
            b"access-control-allow-methods": b"GET, POST",
            b"access-control-allow-headers": b"authorization, content-type",
            b"access-control-max-age": b"60",
        }
        assert shared.cluster.streams == shared.policy.asked == []
        (exchange,) = shared.finished
        assert (exchange.status, exchange.refusal, exchange.route, exchange.upstream) == (204, None, "shared", "")
        shared.assert_let_go()

    def test_a_bad_token_does_not_matter(self, shared: World) -> None:
        assert preflight(shared, (b"authorization", b"Bearer bad")).status == 204

    def test_a_model_that_nobody_may_call_is_like_any_other(self, shared: World) -> None:
        """It grants nothing, and so it tells nothing."""
        assert preflight(shared, target=b"/v1/models/closed:predict").status == 204
        assert send(shared, b"POST", b"/v1/models/closed:predict", (ORIGIN,), body=b"{}").status == 403

    def test_another_origin_is_refused(self, shared: World) -> None:
        client = preflight(shared, origin=b"https://app.example.evil")
        assert (client.status, client.headers[b"x-meshproxy-refusal"]) == (403, b"origin-not-allowed")
        assert "https://app.example.evil" in json.loads(client.body)["error"]
        assert ALLOW not in client.headers
        assert shared.cluster.streams == []

    def test_an_origin_that_is_none_is_shown_in_part(self, shared: World) -> None:
        client = preflight(shared, origin=b"\xff<" + b"x" * 5_000)
        assert client.status == 403
        assert len(client.body) < 2 * SHOWN + 200
        assert client.body.isascii()

    def test_the_method_that_it_announces_has_the_path(self, shared: World) -> None:
        assert preflight(shared, target=b"/v1/models/open", method=b"GET").status == 204
        for method in (b"DELETE", b"GET"):  # nothing of the surface
            client = preflight(shared, method=method)
            assert (client.status, client.headers[b"x-meshproxy-refusal"]) == (400, b"bad-request")
            assert ALLOW not in client.headers

    def test_a_body_is_not_waited_for(self, shared: World) -> None:
        client = preflight(shared, body=None)
        assert (client.status, client.has_stopped) == (204, True)

    def test_one_whose_answer_is_read_late(self, shared: World) -> None:
        client = FakeDownstream("HTTP/1.1", None)
        client.is_full = True
        headers = (ORIGIN, (b"access-control-request-method", b"POST"))
        shared.pipeline.serve(client, RequestHead(1, b"OPTIONS", b"models", PREDICT, headers, end=True))
        assert client.status == 204
        shared.assert_let_go()

    @pytest.mark.parametrize(
        "headers",
        [
            (),
            (ORIGIN,),
            ((b"access-control-request-method", b"POST"),),
            (ORIGIN, ORIGIN, (b"access-control-request-method", b"POST")),
            (ORIGIN, (b"access-control-request-method", b"POST"), (b"access-control-request-method", b"GET")),
        ],
    )
    def test_options_otherwise_is_refused_as_without_cors(self, world: World, shared: World, headers: Headers) -> None:
        client = send(shared, b"OPTIONS", PREDICT, headers)
        assert (client.status, client.headers[b"x-meshproxy-refusal"]) == (400, b"bad-request")

    def test_without_cors_a_preflight_is_refused(self, world: World) -> None:
        client = preflight(world)
        assert (client.status, client.headers[b"x-meshproxy-refusal"]) == (400, b"bad-request")
        assert not any(name.startswith(b"access-control-") for name in client.headers)

    def test_a_model_without_it_is_refused_though_another_has_it(self, world: World) -> None:
        cors = CorsPolicy(Cors(allow_origins=("*",)))
        world.use(routes=Routes(route(), [("open-a", (), route(cors=cors))]))
        assert preflight(world).status == 400
        assert preflight(world, target=b"/v1/models/open-a:predict").status == 204


class TestResponse:
    def test_of_the_model_server(self, shared: World) -> None:
        client = send(shared, b"POST", PREDICT, (ORIGIN,), body=b"{}")
        theirs = ((b"access-control-allow-origin", b"*"), (b"access-control-allow-methods", b"GET, POST"))
        shared.cluster.streams[0].respond(b"answer", headers=((b"content-type", b"application/json"), *theirs))
        assert client.headers == {
            b"content-type": b"application/json",
            ALLOW: APP,
            b"vary": b"origin",
            b"access-control-expose-headers": b"x-meshproxy-refusal",
        }
        assert (client.status, client.body) == (200, b"answer")

    def test_of_the_sidecar(self, shared: World) -> None:
        """Otherwise a page would learn no more than that something failed."""
        unauthenticated = send(shared, b"POST", PREDICT, (ORIGIN, (b"authorization", b"Bearer bad")), body=b"{}")
        denied = send(shared, b"POST", b"/v1/models/closed:predict", (ORIGIN,), body=b"{}")
        shared.cluster.is_ready = False
        late = send(shared, b"POST", PREDICT, (ORIGIN, (b"x-envoy-expected-rq-timeout-ms", b"100")), body=b"{}")
        shared.wait(0.3)
        for client, status in ((unauthenticated, 401), (denied, 403), (late, 504)):
            assert (client.status, client.headers[ALLOW]) == (status, APP)
            assert client.headers[b"vary"] == b"origin"

    def test_to_another_origin_it_says_nothing_and_is_a_call_like_others(self, shared: World) -> None:
        """Browsers send `origin` with calls of the same origin, too."""
        client = send(shared, b"POST", PREDICT, ((b"origin", b"https://other.example"),), body=b"{}")
        shared.cluster.streams[0].respond(headers=((ALLOW, b"*"),))
        assert (client.status, client.headers) == (200, {b"vary": b"origin"})

    def test_without_origin_it_varies(self, shared: World) -> None:
        client = send(shared, b"GET", b"/v1/models/open", ())
        shared.cluster.streams[0].respond()
        assert (client.status, client.headers) == (200, {b"vary": b"origin"})

    def test_what_cannot_be_called_has_no_route(self, shared: World) -> None:
        client = send(shared, b"GET", b"/favicon.ico", (ORIGIN,))
        assert client.status == 404
        assert ALLOW not in client.headers

    def test_without_cors_the_model_servers_fields_are_passed_on(self, world: World) -> None:
        client = send(world, b"POST", PREDICT, (ORIGIN,), body=b"{}")
        world.cluster.streams[0].respond(headers=((ALLOW, b"*"),))
        assert client.headers == {ALLOW: b"*"}

    def test_grpc_is_not_of_browsers(self, shared: World, wire: Any) -> None:
        client = shared.grpc(wire.spec(b"open"), headers=(ORIGIN,))
        shared.cluster.streams[0].respond_grpc()
        assert b"vary" not in client.headers

    def test_a_route_for_some_callers_has_the_cors_of_the_route_for_all(self, world: World) -> None:
        cors = CorsPolicy(Cors(allow_origins=(APP.decode(),)))
        canary = Condition(Match(headers={"x-canary": "1"}), "dev.example")
        patterns = [("*", (), route(cors=cors)), ("open", (canary,), route("other"))]
        world.use(routes=Routes(route(), patterns))
        client = send(world, b"POST", PREDICT, (ORIGIN, (b"x-canary", b"1")), body=b"{}")
        world.other.streams[0].respond()
        assert client.headers[ALLOW] == APP
