"""What a request is decided on: permission, base server, keys, and what of its head is forwarded."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.config.servers import Cookie, Key
from meshproxy.identity.caller import Caller, Token
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.inference.hash_key import stable_hash
from meshproxy.inference.surface import Operation
from meshproxy.inference.surfaces import surfaces
from meshproxy.proxy.headers import RequestHeaders
from meshproxy.proxy.request import Request
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.deadline import REST_HEADER
from tests.proxy.fakes import ALICE, NOW, FakeDownstream, RecordedRequest, Surroundings

OPEN = Call(Verb.PREDICT, (ModelRef("open"),))
CLOSED = Call(Verb.PREDICT, (ModelRef("closed"),))
TOKEN = Token("corp", "bob", {}, NOW + 60)


def make(
    around: Surroundings | None = None, *, headers: Headers = (), authority: bytes = b"host", length: int | None = None
) -> RecordedRequest:
    around = around or Surroundings()
    head = RequestHead(1, b"POST", authority, b"/asked", headers, False, length)
    request = RecordedRequest(around.context, FakeDownstream(), head)
    request.fields = RequestHeaders(headers)
    request.forward = request.fields.forward
    return request


class Servers:
    """Finds the server that an application selected (`ports.FindsServer`)."""

    def __init__(self, found: str | None) -> None:
        self.found = found
        self.asked: list[tuple[bytes, bytes | None, str]] = []

    def find(self, authority: bytes, header: bytes | None, original: str) -> str | None:
        self.asked.append((authority, header, original))
        return self.found


class TestDecide:
    def test_what_is_permitted_is_recorded(self) -> None:
        request = make()
        request.decide(OPEN)
        assert (request.forwarded, request.rule, request.permit_audits) == (OPEN, "binding", ("watched",))
        assert request.decided == 100.0

    def test_what_is_not_is_refused_and_the_call_is_recorded_all_the_same(self) -> None:
        request = make()
        with pytest.raises(Refusal) as raised:
            request.decide(CLOSED)
        assert raised.value.reason is Reason.PERMISSION_DENIED
        assert (request.forwarded, request.decided) == (CLOSED, 0.0)

    def test_the_first_decision_is_when_it_was_decided(self) -> None:
        around = Surroundings()
        request = make(around)
        request.decide(OPEN)
        around.loop.now += 5.0
        request.decide(OPEN)
        assert request.decided == 100.0

    def test_the_policy_is_told_where_the_request_comes_from_and_what_it_says(self) -> None:
        around = Surroundings()
        request = make(around)
        request.decide(OPEN)
        assert around.policy.told == [(request.connection.remote, request.head.headers)]

    def test_conditions_of_both_calls_are_kept(self) -> None:
        around = Surroundings()
        request = make(around)
        around.policy.conditions = ("a: ipBlocks ::1/128",)
        request.decide(OPEN)
        around.policy.conditions = ("a: ipBlocks ::1/128", "b: header x: 1")
        request.decide_rewritten(OPEN)
        assert request.conditions == ("a: ipBlocks ::1/128", "b: header x: 1")
        around.policy.conditions = ()
        request.decide_rewritten(OPEN)
        assert request.conditions == ("a: ipBlocks ::1/128", "b: header x: 1")

    def test_audits_of_the_call_as_it_was_made_are_kept(self) -> None:
        request = make()
        request.permit_audits = ("asked", "watched")
        request.decide_rewritten(Call(Verb.PREDICT, (ModelRef("open", "2"),)))
        assert request.permit_audits == ("asked", "watched")


class TestBaseServer:
    def serve(self, around: Surroundings, *, server: str | None = None, servers: Servers | None = None) -> None:
        around.context.snapshot = replace(around.context.snapshot, server=server, servers=servers)

    def test_inbound_the_local_one(self) -> None:
        around = Surroundings()
        self.serve(around, server="local")
        assert make(around).base_server() == "local"

    def test_outbound_the_one_that_is_selected(self) -> None:
        around = Surroundings()
        servers = Servers("chosen")
        self.serve(around, server="default", servers=servers)
        assert make(around, headers=((b"x-model-server", b"a"),)).base_server() == "chosen"
        assert servers.asked == [(b"host", b"a", "")]

    def test_otherwise_the_default(self) -> None:
        around = Surroundings()
        self.serve(around, server="default", servers=Servers(None))
        assert make(around).base_server() == "default"

    @pytest.mark.parametrize("found", [None, ""])
    def test_or_none(self, found: str | None) -> None:
        around = Surroundings()
        self.serve(around, server="default" if found == "" else None, servers=Servers(found))
        request = make(around)
        with pytest.raises(Refusal) as raised:
            request.base_server()
        assert (raised.value.reason, str(request.flags)) == (Reason.NO_ROUTE, "NR")

    def test_the_metrics_page_of_another_server_is_not_found(self) -> None:
        around = Surroundings()
        paths = {"a": b"/metrics", "b": b"/prometheus"}
        for server, target in itertools.product(paths, paths.values()):
            around.context.snapshot = replace(around.context.snapshot, server=server, metrics_paths=paths)
            request = make(around)
            request.operation = surfaces(["/metrics", "/prometheus"]).find_rest(b"GET", target)
            if paths[server] == target:
                assert request.base_server() == server
                continue
            with pytest.raises(Refusal) as raised:
                request.base_server()
            assert (raised.value.reason, raised.value.http_status) == (Reason.BAD_REQUEST, 404)
        request.operation = surfaces([]).find_rest(b"GET", b"/v1/models/m")
        assert request.base_server() == server


class TestKeys:
    @pytest.mark.parametrize(
        ("caller", "key"),
        [
            (Caller(ALICE, TOKEN), "corp bob"),
            (Caller(ALICE), "spiffe://dev.example/ns/a/sa/alice"),
            (Caller(), "127.0.0.1"),
        ],
    )
    def test_of_the_caller(self, caller: Caller, key: str) -> None:
        request = make()
        request.caller = caller
        assert request.caller_key() == key
        assert request.key(Key(by="caller")) == stable_hash(key.encode())

    def test_of_a_header(self) -> None:
        key = Key(by="header", header="x-user")
        first = make(headers=((b"a", b"b"), (b"x-user", b"1"), (b"x-user", b"2")))
        assert first.key(key) == stable_hash(b"1")
        assert make().key(key) == stable_hash(b"127.0.0.1")

    @pytest.mark.parametrize(("version", "is_secure"), [("", False), ("TLSv1.3", True)])
    def test_of_a_cookie(self, version: str, is_secure: bool) -> None:
        key = Key(by="cookie", cookie=Cookie(name="user", ttl=60.0))
        assert make(headers=((b"cookie", b"x=1; user=a"),)).key(key) == stable_hash(b"a")
        around = Surroundings()
        around.draws += [0.5]
        request = make(around)
        request.connection.tls_version = version
        assert request.key(key) == request.key(key) == stable_hash(b"8000000000000000")
        field = b"user=8000000000000000; Path=/; Max-Age=60; HttpOnly; SameSite=Lax" + b"; Secure" * is_secure
        assert request.set_cookies == ((b"set-cookie", field),)

    def test_by_chance_without_a_cookie_that_is_never_set(self) -> None:
        around = Surroundings()
        around.draws += [0.25, 0.75]
        request = make(around)
        assert [request.key(Key(by="cookie", cookie=Cookie(name="user"))) for _ in range(2)] == [1 << 62, 3 << 62]
        assert request.set_cookies == ()

    def test_of_a_client_id_in_the_beginning_of_the_body(self) -> None:
        seen: list[bytes] = []

        def affinity_key(body: bytes) -> bytes | None:
            seen.append(body)
            return body[:2] or None

        key = Key(by="client-id")
        request = make()
        assert request.key(key) == stable_hash(b"127.0.0.1")
        request.operation = Operation(Verb.PREDICT, b"/x", OPEN, affinity_key=affinity_key)
        assert request.key(key) == stable_hash(b"127.0.0.1")
        request.peeked = b"id and more"
        assert request.key(key) == stable_hash(b"id")
        assert seen == [b"", b"id and more"]


class TestForwardedHead:
    def test_it_is_what_was_authorised(self) -> None:
        request = make(headers=((b"a", b"b"), (b"x-meshproxy-caller", b"forged")), length=2)
        request.target, request.trace_parent = b"/rebuilt", b"trace"
        head = request.forwarded_head(100.0, "127.0.0.1:8500")
        assert head == RequestHead(0, b"POST", b"host", b"/rebuilt", ((b"a", b"b"),), False, 2, False, b"trace")

    def test_without_an_authority_it_gets_the_address(self) -> None:
        assert make(authority=b"").forwarded_head(100.0, "127.0.0.1:8500").authority == b"127.0.0.1:8500"

    def test_a_unix_socket_has_no_authority(self) -> None:
        assert make(authority=b"").forwarded_head(100.0, "unix:/run/rest.sock").authority == b"localhost"

    def test_a_body_that_may_be_rewritten_has_no_length(self) -> None:
        request = make(length=2)
        request.rewrites_body = True
        assert request.forwarded_head(100.0, "x:1").length is None

    def test_the_verified_caller_is_named_if_the_snapshot_says_so(self) -> None:
        around = Surroundings()
        around.context.snapshot = replace(around.context.snapshot, forwards_identity=True)
        request = make(around)
        request.caller = Caller(ALICE)
        assert request.forwarded_head(100.0, "x:1").headers == (
            (b"x-meshproxy-caller", b"spiffe://dev.example/ns/a/sa/alice"),
        )

    @pytest.mark.parametrize(
        ("is_grpc", "now", "field"),
        [
            (False, 104.0, (REST_HEADER, b"6000")),
            (True, 104.0, (b"grpc-timeout", b"6000m")),
            (False, 111.0, (REST_HEADER, b"1")),  # 0 would mean: no limit
            (True, 111.0, (b"grpc-timeout", b"1000000n")),
        ],
    )
    def test_what_is_left_of_the_deadline(self, is_grpc: bool, now: float, field: tuple[bytes, bytes]) -> None:
        request = make()
        request.is_grpc = is_grpc
        request.limit_time(10.0)
        assert request.forwarded_head(now, "x:1").headers == (field,)

    def test_a_copy_has_neither_caller_nor_deadline(self) -> None:
        around = Surroundings()
        around.context.snapshot = replace(around.context.snapshot, forwards_identity=True)
        request = make(around, headers=((b"a", b"b"),), length=2)
        request.caller = Caller(ALICE)
        request.limit_time(10.0)
        assert request.mirrored_head() == RequestHead(0, b"POST", b"host", b"/asked", ((b"a", b"b"),), False)


def test_the_encoding_of_the_body() -> None:
    assert make(headers=((b"grpc-encoding", b"gzip"),)).encoding == b"gzip"
    request = make()
    request.fields = None
    assert request.encoding is None


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [("request_sent", (True,)), ("upstream_drained", ()), ("fall_back", ()), ("rewrite", (b"", True))],
)
def test_hooks_are_for_the_class_above(hook: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(NotImplementedError):
        getattr(Request, hook)(make(), *arguments)
