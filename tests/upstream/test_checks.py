from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from meshproxy.codec.grpc import PREFIX_BYTES, frame
from meshproxy.config import servers
from meshproxy.devtools.model_server import ModelServer, parse_models
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue
from meshproxy.inference import grpc_health, model_status
from meshproxy.inference.grpc_health import Serving, write_response
from meshproxy.transport.channel import own_connections
from meshproxy.transport.client import Response
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.connection import ConnectionContext
from meshproxy.upstream import checks as module
from meshproxy.upstream.checks import AT_ONCE, Checker, CheckResult
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.pool import H1Pool, H2Pool, PoolSettings
from meshproxy.upstream.probe import ProbeFailed, Skipped, Unanswered

ALIVE = CheckResult(None, None)
REST, GRPC = SimpleNamespace(address="10.0.0.1:8501"), SimpleNamespace(address="10.0.0.1:8500")


class Server:
    """Instead of `get` and `call`: answers by model or target, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[Any, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.at_once = self.most_at_once = 0

    async def _answer(self, key: Any) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.answers[key]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def get(self, source: Any, target: bytes, timeout: float) -> Response:
        assert timeout == 1.0
        self.asked.append((source.address, target))
        answer: Response = await self._answer(target)
        return answer

    async def call(self, source: Any, path: bytes, body: bytes, timeout: float) -> bytes:
        assert timeout == 1.0
        self.asked.append((source.address, path))
        answer: bytes = await self._answer(body)
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    fake = Server()
    monkeypatch.setattr(module, "get", fake.get)
    monkeypatch.setattr(module, "call", fake.call)
    return fake


def make(check: Any, *models: str, rest: Any = REST, grpc: Any = GRPC, **changes: Any) -> Checker:
    shared: Any = SimpleNamespace(loop=SimpleNamespace(time=lambda: 100.0))
    settings = servers.Health(check=check, **changes)
    return Checker(shared, settings, Health(CheckSettings(models)), rest, grpc, lambda verdicts, has_changed: None)


def rest_answer(state: str, version: int = 1, status: int = 200) -> Response:
    body = f'{{"model_version_status": [{{"version": "{version}", "state": "{state}"}}]}}'
    return Response(status, (), body.encode())


@pytest.mark.parametrize("answer", [Response(200, (), b""), Response(404, (), b""), Response(503, (), b"")])
async def test_an_answer_is_enough_over_rest(server: Server, answer: Response) -> None:
    server.answers = {b"/": answer}
    assert await make("answer", "a").check() == (ALIVE,)
    assert server.asked == [("10.0.0.1:8501", b"/")]


@pytest.mark.parametrize(
    "answer", [write_response(Serving.NOT_SERVING), ProbeFailed("gRPC status PERMISSION_DENIED", 7)]
)
async def test_an_answer_is_enough_over_grpc(server: Server, answer: Any) -> None:
    server.answers = {grpc_health.write_request(""): answer}
    assert await make("answer", rest=None).check() == (ALIVE,)
    assert await make("answer", rest=GRPC).check() == (ALIVE,)  # a sidecar


@pytest.mark.parametrize("status", [7, 16])
async def test_a_sidecar_that_denies_it_is_asked_for_itself(server: Server, status: int) -> None:
    """Each denial is in its audit trail. After ten minutes the right may be there."""
    now = [100.0]
    checker = make("answer", rest=GRPC)
    checker._shared.loop.time = lambda: now[0]  # type: ignore[method-assign]
    server.answers = {
        grpc_health.write_request(""): ProbeFailed("denied", status),
        grpc_health.ALIVE: Response(204, (), b""),
    }
    for now[0] in (100.0, 101.0, 699.0, 701.0, 702.0):
        assert await checker.check() == (ALIVE,)
    itself, server_behind = ("10.0.0.1:8500", grpc_health.ALIVE), ("10.0.0.1:8500", grpc_health.CHECK)
    assert server.asked == [server_behind, itself, itself, server_behind, itself]
    server.answers[grpc_health.ALIVE] = Unanswered("no answer within 1 s")
    assert await checker.check() == (CheckResult(None, "no answer within 1 s"),)


async def test_what_is_no_sidecar_or_does_not_deny_is_asked_again(server: Server) -> None:
    server.answers = {grpc_health.write_request(""): ProbeFailed("denied", 7)}
    checker = make("answer", rest=None)
    assert [await checker.check(), await checker.check()] == [(ALIVE,), (ALIVE,)]
    server.answers = {grpc_health.write_request(""): ProbeFailed("unimplemented", 12)}
    checker = make("answer", rest=GRPC)
    assert [await checker.check(), await checker.check()] == [(ALIVE,), (ALIVE,)]
    assert server.asked == [("10.0.0.1:8500", grpc_health.CHECK)] * 4


async def test_no_answer_is_not(server: Server) -> None:
    server.answers = {b"/": Unanswered("no answer within 1 s")}
    assert await make("answer").check() == (CheckResult(None, "no answer within 1 s"),)


async def test_each_model_is_asked_for_over_rest(server: Server) -> None:
    server.answers = {
        b"/v1/models/a": rest_answer("AVAILABLE", 7),
        b"/v1/models/b": rest_answer("LOADING"),
        b"/v1/models/c": Response(404, (), b'{"error": "..."}'),
        b"/v1/models/d": Response(200, (), b"<html>"),
    }
    checker = make("model-status", "a", "b", "c", "d")
    assert await checker.check() == (
        ALIVE,
        CheckResult("a", None),
        CheckResult("b", "no version is AVAILABLE", is_loading=True),
        CheckResult("c", "HTTP status 404"),
        CheckResult("d", "Malformed message: the model's status is not the JSON that it should be."),
    )
    assert checker.available == {"a": ("7",), "b": (), "c": ()}
    assert {address for address, _ in server.asked} == {"10.0.0.1:8501"}


async def test_a_model_can_be_called_while_another_version_of_it_is_loading(server: Server) -> None:
    statuses = [("1", "AVAILABLE"), ("2", "LOADING"), ("0", "END")]
    body = {"model_version_status": [{"version": version, "state": state} for version, state in statuses]}
    server.answers = {b"/v1/models/a": Response(200, (), json.dumps(body).encode())}
    checker = make("model-status", "a")
    assert await checker.check() == (ALIVE, CheckResult("a", None, is_loading=True))
    assert checker.available == {"a": ("1",)}


@pytest.mark.parametrize(("rest", "grpc"), [(None, GRPC), (GRPC, GRPC)], ids=["no REST address", "a sidecar"])
async def test_models_are_asked_for_over_grpc_otherwise(server: Server, rest: Any, grpc: Any) -> None:
    available = b"\x00\x00\x00\x00\x06\x0a\x04\x08\x07\x10\x1e"
    server.answers = {
        model_status.write_request("a"): available,
        model_status.write_request("b"): ProbeFailed("gRPC status NOT_FOUND"),
        model_status.write_request("c"): b"?",
    }
    checker = make("model-status", "a", "b", "c", rest=rest, grpc=grpc)
    assert await checker.check() == (
        ALIVE,
        CheckResult("a", None),
        CheckResult("b", "gRPC status NOT_FOUND"),
        CheckResult("c", "Malformed message: the body is not one complete gRPC message."),
    )
    assert checker.available == {"a": ("7",), "b": ()}
    assert {path for _, path in server.asked} == {b"/tensorflow.serving.ModelService/GetModelStatus"}


async def test_what_is_not_answered_leaves_the_versions_that_were_known(server: Server) -> None:
    server.answers = {b"/v1/models/a": rest_answer("AVAILABLE", 7)}
    checker = make("model-status", "a")
    await checker.check()
    server.answers = {b"/v1/models/a": Unanswered("no connection")}
    assert await checker.check() == (CheckResult(None, "no connection"),)
    assert checker.available == {"a": ("7",)}


async def test_one_answer_is_a_sign_of_life(server: Server) -> None:
    server.answers = {b"/v1/models/a": Unanswered("too slow"), b"/v1/models/b": Response(500, (), b"")}
    assert await make("model-status", "a", "b").check() == (
        ALIVE,
        CheckResult("b", "HTTP status 500"),
        CheckResult("a", "too slow"),
    )


async def test_without_a_connection_of_ours_nothing_is_learned(server: Server) -> None:
    server.answers = {b"/v1/models/a": Skipped(), b"/v1/models/b": rest_answer("AVAILABLE")}
    assert await make("model-status", "a", "b").check() == (ALIVE, CheckResult("b", None))
    assert await make("model-status", "a").check() == ()
    server.answers[b"/"] = Skipped()
    assert await make("http").check() == ()


async def test_many_models_are_asked_for_a_few_at_a_time(server: Server) -> None:
    models = [f"m{i}" for i in range(20)]
    server.answers = {f"/v1/models/{model}".encode(): rest_answer("AVAILABLE") for model in models}
    verdicts = await make("model-status", *models).check()
    assert verdicts == (ALIVE, *(CheckResult(model, None) for model in models))
    assert server.most_at_once == AT_ONCE


async def test_health_of_each_model_over_grpc(server: Server) -> None:
    server.answers = {
        grpc_health.write_request("a"): write_response(Serving.SERVING),
        grpc_health.write_request("b"): write_response(Serving.NOT_SERVING),
        grpc_health.write_request("c"): ProbeFailed("gRPC status UNIMPLEMENTED"),
    }
    assert await make("grpc", "a", "b", "c").check() == (
        ALIVE,
        CheckResult("a", None),
        CheckResult("b", "NOT_SERVING"),
        CheckResult("c", "gRPC status UNIMPLEMENTED"),
    )
    assert server.asked[0] == ("10.0.0.1:8500", b"/grpc.health.v1.Health/Check")


async def test_without_models_the_server_as_a_whole_is_asked(server: Server) -> None:
    server.answers = {grpc_health.write_request(""): write_response(Serving.SERVING)}
    assert await make("grpc").check() == (ALIVE,)
    server.answers = {grpc_health.write_request(""): write_response(Serving.UNKNOWN)}
    assert await make("grpc").check() == (CheckResult(None, "UNKNOWN"),)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Response(200, (), b""), None),
        (Response(204, (), b""), None),
        (Response(301, (), b""), "HTTP status 301"),
        (Response(503, (), b""), "HTTP status 503"),
        (Unanswered("too slow"), "too slow"),
    ],
)
async def test_a_path_is_fetched(server: Server, answer: Any, problem: str | None) -> None:
    server.answers = {b"/healthz?deep": answer}
    assert await make("http", "a", path="/healthz?deep").check() == (CheckResult(None, problem),)


@pytest.mark.parametrize("path", ["healthz", "/a b", "/a\r\nx: y", "/\u00f6"])
async def test_what_is_not_a_path_is_not_requested(server: Server, path: str) -> None:
    (verdict,) = await make("http", path=path).check()
    assert verdict.problem is not None
    assert verdict.problem.endswith("is not a path")
    assert server.asked == []


@pytest.mark.parametrize(
    ("check", "rest", "grpc", "problem"),
    [
        ("http", None, GRPC, "the endpoint has no REST address"),
        ("grpc", REST, None, "the endpoint has no gRPC address"),
    ],
)
async def test_an_address_that_is_missing(check: Any, rest: Any, grpc: Any, problem: str) -> None:
    assert await make(check, rest=rest, grpc=grpc).check() == (CheckResult(None, problem),)


class Connecting:
    """Instead of `connect_h1`."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.closed = 0
        self.refuses = ""

    async def connect(self, shared: Any, address: str, owner: Any, timeout: float) -> Any:
        assert timeout == 1.0
        if address == self.refuses:
            raise ConnectError(f"{address} cannot be reached")
        self.open.append(address)
        return self

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("check", ["tcp", "model-status"])
async def test_connections_are_opened_and_closed(monkeypatch: pytest.MonkeyPatch, check: Any) -> None:
    network = Connecting()
    monkeypatch.setattr(module, "connect_h1", network.connect)
    assert await make(check).check() == (ALIVE,)
    assert (network.open, network.closed) == (["10.0.0.1:8501", "10.0.0.1:8500"], 2)
    assert await make(check, rest=GRPC, grpc=GRPC).check() == (ALIVE,)
    assert network.open[2:] == ["10.0.0.1:8500"]
    network.refuses = "10.0.0.1:8500"
    assert await make(check).check() == (CheckResult(None, "10.0.0.1:8500 cannot be reached"),)


class Rounds:
    """A checker that runs: what it told, how long it waited, on a clock of its own."""

    def __init__(self, health: Health, check: Any = "http", draw: float = 0.5, **changes: Any) -> None:
        self.told: list[tuple[tuple[CheckResult, ...], bool]] = []
        self.waits: list[float] = []
        self.now = 100.0
        self._enough = asyncio.Event()
        self._count = 0
        loop = SimpleNamespace(time=lambda: self.now, create_task=asyncio.get_running_loop().create_task)
        shared: Any = SimpleNamespace(loop=loop)
        settings = servers.Health(check=check, **changes)
        self.checker = Checker(
            shared,
            settings,
            health,
            REST,
            GRPC,
            self.tell,
            draw=lambda: draw,
            sleep=self.sleep,
        )

    def tell(self, verdicts: tuple[CheckResult, ...], has_changed: bool) -> None:
        self.told.append((verdicts, has_changed))

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if len(self.waits) > self._count:
            self._enough.set()
            await asyncio.Event().wait()

    async def run(self, count: int) -> None:
        """So many rounds."""
        self._count = count
        self.checker.start()
        await self._enough.wait()
        await self.checker.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_rounds_are_judged_and_told(server: Server) -> None:
    health = Health(CheckSettings((), unhealthy_after=2))
    server.answers = {b"/": Unanswered("too slow")}
    rounds = Rounds(health)
    await rounds.run(3)
    bad = (CheckResult(None, "too slow"),)
    assert rounds.told == [(bad, False), (bad, True), (bad, False)]
    assert not health.is_healthy


async def test_a_new_endpoint_comes_in_with_its_model(server: Server) -> None:
    health = Health(CheckSettings(("a",)), begins_unhealthy=True)
    server.answers = {b"/v1/models/a": rest_answer("AVAILABLE")}
    rounds = Rounds(health, "model-status")
    await rounds.run(1)
    assert rounds.told == [((ALIVE, CheckResult("a", None)), True)]
    assert health.since("a") == 100.5


@pytest.mark.parametrize(
    ("draw", "interval", "waits"),
    [
        (0.0, 2.0, [0.0, 1.8, 1.8]),
        (0.5, 2.0, [0.5, 2.0, 2.0]),
        (1.0, 2.0, [1.0, 2.2, 2.2]),
        (1.0, 0.5, [0.5, 0.55, 0.55]),
    ],
)
async def test_the_first_round_comes_soon_and_intervals_differ(
    server: Server, draw: float, interval: float, waits: list[float]
) -> None:
    server.answers = {b"/": Response(200, (), b"")}
    rounds = Rounds(Health(CheckSettings()), draw=draw, interval=interval)
    await rounds.run(2)
    assert rounds.waits == pytest.approx(waits)


async def test_mistakes_are_bad_checks_and_end_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, module.__name__):
        rounds = Rounds(Health(CheckSettings(("a",))), "model-status")  # the server knows no answer: KeyError
        await rounds.run(2)
    assert [verdicts[0].problem for verdicts, _ in rounds.told] == ["the check failed: KeyError(b'/v1/models/a')"] * 2


async def test_who_is_told_cannot_end_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(verdicts: tuple[CheckResult, ...], has_changed: bool) -> None:
        raise ValueError

    server.answers = {b"/": Response(200, (), b"")}
    monkeypatch.setattr(Rounds, "tell", broken)
    with caplog.at_level(logging.CRITICAL, module.__name__):
        rounds = Rounds(Health(CheckSettings()))
        await rounds.run(2)
    assert len(rounds.waits) == 3


async def test_closing_without_having_begun(server: Server) -> None:
    await make("tcp").close()


# Against the model server itself


@pytest.fixture
async def shared() -> AsyncIterator[ConnectionContext]:
    made = own_connections()
    yield made
    while len(made.reaper):  # connections that are about to be gone
        await asyncio.sleep(0)


@pytest.fixture
async def models() -> AsyncIterator[ModelServer]:
    started = await ModelServer.start(Service(Catalogue(parse_models(["half_plus_two=1,2"]))))
    yield started
    await started.stop(0)


POOL = PoolSettings(connect_timeout=20.0, max_connections=1, max_pending=8, idle_timeout=60.0)


@pytest.mark.parametrize("has_rest", [True, False], ids=["REST", "gRPC"])
async def test_a_model_server_says_what_it_has(shared: ConnectionContext, models: ModelServer, has_rest: bool) -> None:
    rest = H1Pool(shared, models.rest, POOL) if has_rest else None
    grpc = H2Pool(shared, models.grpc, POOL)
    health = Health(CheckSettings(("half_plus_two", "none")), begins_unhealthy=True)
    settings = servers.Health(timeout=20.0)
    done: asyncio.Future[Any] = shared.loop.create_future()

    def tell(verdicts: tuple[CheckResult, ...], has_changed: bool) -> None:
        if not done.done():
            done.set_result((verdicts, has_changed))

    checker = Checker(shared, settings, health, rest, grpc, tell, draw=lambda: 0.0)
    checker.start()
    verdicts, has_changed = await done
    await checker.close()
    why = "HTTP status 404" if has_rest else "gRPC status NOT_FOUND: Could not find any versions of model none"
    assert verdicts == (ALIVE, CheckResult("half_plus_two", None), CheckResult("none", why))
    assert has_changed
    assert health.allows("half_plus_two")
    assert not health.allows("none")
    assert checker.available == {"half_plus_two": ("1", "2"), "none": ()}
    for pool in (rest, grpc):
        if pool is not None:
            pool.close()


@pytest.mark.parametrize(
    ("check", "problem"),
    [("tcp", None), ("http", "HTTP status 404"), ("grpc", None)],
)
async def test_other_checks_of_a_model_server(
    shared: ConnectionContext, models: ModelServer, check: Any, problem: str | None
) -> None:
    rest, grpc = H1Pool(shared, models.rest, POOL), H2Pool(shared, models.grpc, POOL)
    settings = servers.Health(check=check, timeout=20.0)
    checker = Checker(shared, settings, Health(CheckSettings()), rest, grpc, lambda verdicts, has_changed: None)
    assert await checker.check() == (CheckResult(None, problem),)
    rest.close()
    grpc.close()


class Healthy(grpc.GenericRpcHandler):
    """grpc.health.v1 on grpcio, which frames messages itself, of a server with one model."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == grpc_health.CHECK.decode()
        return grpc.unary_unary_rpc_method_handler(self.check)

    async def check(self, message: bytes, context: Any) -> bytes:
        service = grpc_health.read_request(frame(message))
        if service == "none":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return write_response(Serving.SERVING if service == "a" else Serving.NOT_SERVING)[PREFIX_BYTES:]


async def test_a_server_with_health_of_its_own(shared: ConnectionContext) -> None:
    server = grpc.aio.server(handlers=[Healthy()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pool = H2Pool(shared, f"127.0.0.1:{port}", POOL)
    settings = servers.Health(check="grpc", timeout=20.0)
    checker = Checker(
        shared, settings, Health(CheckSettings(("a", "b", "none"))), None, pool, lambda verdicts, changed: None
    )
    assert await checker.check() == (
        ALIVE,
        CheckResult("a", None),
        CheckResult("b", "NOT_SERVING"),
        CheckResult("none", "gRPC status NOT_FOUND: no such model"),
    )
    pool.close()
    await server.stop(0)


async def test_a_server_that_is_gone(shared: ConnectionContext, models: ModelServer) -> None:
    rest, grpc = H1Pool(shared, models.rest, POOL), H2Pool(shared, models.grpc, POOL)
    await models.stop(0)
    for check in ("tcp", "http", "grpc", "model-status"):
        checker = Checker(
            shared,
            servers.Health(check=check),
            Health(CheckSettings(("m",))),
            rest,
            grpc,
            lambda verdicts, has_changed: None,
        )
        (verdict,) = await checker.check()
        assert verdict.model is None
        assert verdict.problem is not None
        assert "cannot be reached: Connection refused" in verdict.problem
    rest.close()
    grpc.close()
