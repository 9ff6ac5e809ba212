"""What routes say, with real clients and model servers: which version of which model answers a call."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from aiohttp import web

from meshproxy.devtools import messages
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import Document, document, environment, local_mesh, server_of
from meshproxy.devtools.models import predict_request
from tests.processes.calls import PREDICT
from tests.processes.waiting import json_lines, until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]


def route(*models: str, name: str = "route", **spec: Any) -> Document:
    return document("ModelRoute", {"models": list(models), "server": "models", **spec}, name)


async def rest_version(client: RestClient, model: str, headers: Mapping[str, str] | None = None) -> int:
    """Which version answered: every model computes x / 2 + 1 + version."""
    answer = await client.call("POST", f"/v1/models/{model}:predict", {"instances": [0.0]}, headers)
    assert answer.status == "200", answer
    return int(answer.body["predictions"][0] - 1)


async def grpc_spec(client: GrpcClient, model: str, headers: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Name and version of the model that answered, as it says itself."""
    answer = await client.call(PREDICT, predict_request(model, [0.0]).SerializeToString(), headers)
    assert answer.status == "OK", answer
    spec = messages.PredictResponse.FromString(answer.body).model_spec
    return spec.name, spec.version.value


async def test_headers_are_matched_by_what_they_are_like(tmp_path: Path) -> None:
    conditions: dict[int, Document] = {
        2: {"x-tier": "gold"},
        3: {"x-tier": {"prefix": "canary-"}},
        4: {"user-agent": {"regex": "(?i).*(beta|nightly)/[0-9]+\\..*"}},
        5: {"x-opt-in": {"present": True}, "x-opt-out": {"present": False}},
    }
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.bare("--model", "resnet=1,2,3,4,5")
        matched = [
            route("resnet", name=f"v{version}", match=[{"headers": headers}], split=[{"version": version}])
            for version, headers in conditions.items()
        ]
        rest_of_them = route("resnet", name="v1", split=[{"version": 1}])
        application = await mesh.application([server_of([replica]), *matched, rest_of_them])
        calls: list[tuple[dict[str, str], int]] = [
            ({}, 1),
            ({"x-tier": "gold"}, 2),
            ({"x-tier": "golden"}, 1),
            ({"x-tier": "canary-eu"}, 3),
            ({"x-tier": "my-canary-eu"}, 1),
            ({"user-agent": "trainer Nightly/12.3"}, 4),
            ({"user-agent": "trainer Nightly"}, 1),
            ({"x-opt-in": "yes"}, 5),
            ({"x-opt-in": "yes", "x-opt-out": ""}, 1),
        ]
        async with RestClient(application.outbound, None) as rest, GrpcClient(application.outbound, None) as client:
            for headers, version in calls:
                assert await rest_version(rest, "resnet", headers) == version, headers
                if "user-agent" not in headers:  # grpcio writes its own
                    assert await grpc_spec(client, "resnet", headers) == ("resnet", version), headers


async def test_shares_copies_and_fallbacks_may_name_another_model(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        # Every model has a version of its own, so that answers tell which one it was.
        current, shadow = await mesh.bare_each(
            ("--model", "resnet=1", "--model", "resnet-v2=7", "--model", "resnet-small=9"),
            (
                "--model",
                "resnet-next=1",
            ),
        )
        servers = [
            server_of([current], health={"check": "model-status", "interval": "200ms"}),
            server_of([shadow], "shadow"),
        ]
        shares = [{"weight": 90, "model": "resnet"}, {"weight": 10, "model": "resnet-v2"}]
        mirror = {"server": "shadow", "model": "resnet-next", "maxInFlight": 1000}
        # A model that is not there: its checks find out, and its calls go to another.
        gone = route("gone", name="gone", fallback={"model": "resnet-small"})
        application = await mesh.application(
            [*servers, route("resnet", split=shares, mirror=mirror), gone],
            sidecar={"accessLog": "./access.log"},
        )
        async with RestClient(application.outbound, None) as rest, GrpcClient(application.outbound, None) as client:
            over_rest = Counter([await rest_version(rest, "resnet") for _ in range(300)])
            over_grpc = Counter([await grpc_spec(client, "resnet") for _ in range(300)])
            # Binomial: outside of these bounds once in ten million runs.
            assert over_rest.keys() == {1, 7}
            assert 5 <= over_rest[7] <= 62
            assert over_grpc.keys() == {("resnet", 1), ("resnet-v2", 7)}
            assert 5 <= over_grpc[("resnet-v2", 7)] <= 62
            # Whoever names a version means that of the model.
            pinned = predict_request("resnet", [0.0], version=1).SerializeToString()
            assert {(await client.call(PREDICT, pinned)).status for _ in range(30)} == {"OK"}
            assert {
                (await rest.call("POST", "/v1/models/resnet/versions/7:predict", {"instances": [0.0]})).status
                for _ in range(10)
            } == {"404"}
            await until(lambda: is_served(client, "gone"))
            assert await grpc_spec(client, "gone") == ("resnet-small", 9)
            assert await rest_version(rest, "gone") == 9
        answered = 'result="answered"'
        await until(lambda: is_counted(application.total("meshproxy_mirrored_total", answered), 640))
        assert await shadow.request_count() == await shadow.request_count("OK", "resnet-next") == 640
        assert await application.total("meshproxy_requests_total", 'model="resnet-v2"') == over_rest[7] + sum(
            count for (name, _), count in over_grpc.items() if name == "resnet-v2"
        )
        wanted = {("resnet", None), ("resnet", "resnet-v2"), ("gone", "resnet-small")}
        await until(lambda: wanted <= set(logged_models(mesh.directory / "access.log")))


async def is_counted(figure: Awaitable[float], wanted: float) -> bool:
    return await figure == wanted


async def is_served(client: GrpcClient, model: str) -> bool:
    return (await client.call(PREDICT, predict_request(model, [0.0]).SerializeToString())).status == "OK"


def logged_models(log: Path) -> list[tuple[str, str | None]]:
    """Of every answer in an access log: the model that was called, and the other one that answered."""
    return [(line["model"], line["forwarded_model"]) for line in json_lines(log) if line["response_code"] == 200]


async def test_a_caller_must_be_permitted_what_a_call_becomes(tmp_path: Path) -> None:
    roles = [
        document("ModelRole", {"rules": [{"models": ["resnet"], "verbs": ["predict"]}]}, "resnet"),
        document("ModelRoleBinding", {"role": "resnet", "subjects": [{"workload": {"namespace": "tests"}}]}, "resnet"),
    ]
    v2 = document("ModelRoute", {"models": ["resnet"], "split": [{"model": "resnet-v2"}]}, "v2")
    async with local_mesh(tmp_path / "mesh") as mesh:
        server = await mesh.bare("--model", "resnet=1", "--model", "resnet-v2=7")
        own = environment(server.rest, server.grpc)
        sidecar = await mesh.sidecar("the sidecar", [*own, *roles, v2])
        async with (
            RestClient(sidecar.inbound, mesh.client) as rest,
            GrpcClient(sidecar.inbound, mesh.client) as client,
        ):
            request = predict_request("resnet", [0.0]).SerializeToString()
            assert (await client.call(PREDICT, request)).status == "PERMISSION_DENIED"
            denied = await rest.call("POST", "/v1/models/resnet:predict", {"instances": [0.0]})
            assert (denied.status, denied.refusal) == ("403", "permission-denied")
            assert await server.request_count() == 0
            roles[0]["spec"]["rules"][0]["models"] = ["resnet", "resnet-v2"]
            await sidecar.reload([own[1], *roles, v2])
            assert await grpc_spec(client, "resnet") == ("resnet-v2", 7)
            assert await rest_version(rest, "resnet") == 7


class Flaky:
    """A model server of grpcio and aiohttp that fails the first call of each key, in the form that is asked for."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def predict(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        asked = dict(context.invocation_metadata() or ())
        key = str(asked["x-key"])
        self.calls[key] += 1
        if self.calls[key] > 1:
            return b"answer"
        if asked["x-form"] == "head":
            await context.send_initial_metadata((("x-head", "1"),))
        await context.abort(grpc.StatusCode[str(asked["x-status"])], "not now")
        raise AssertionError

    async def rest(self, request: web.BaseRequest) -> web.Response:
        key = request.headers["x-key"]
        self.calls[key] += 1
        return web.Response(status=200 if self.calls[key] > 1 else int(request.headers["x-status"]), text="answer")


@asynccontextmanager
async def flaky() -> AsyncIterator[tuple[Document, Flaky]]:
    """Such a server, as a ModelServer."""
    served = Flaky()
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(served.predict)
    service, method = PREDICT[1:].split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    runner = web.ServerRunner(web.Server(served.rest))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        addresses = {"grpc": f"127.0.0.1:{port}", "rest": f"127.0.0.1:{runner.addresses[0][1]}"}
        yield document("ModelServer", {"endpoints": [addresses]}, "models"), served
    finally:
        await runner.cleanup()
        await server.stop(None)


async def test_chosen_statuses_are_retried(tmp_path: Path) -> None:
    statuses = ["RESOURCE_EXHAUSTED", "ABORTED"]
    chosen = {"grpcStatuses": statuses, "httpStatuses": [429], "reasons": ["unavailable"]}
    async with local_mesh(tmp_path / "mesh") as mesh, flaky() as (server, served):
        retried = route("resnet", retries=chosen)
        application = await mesh.application([server, retried, route("once", name="once")])
        request = {model: predict_request(model, [0.0]).SerializeToString() for model in ("resnet", "once")}
        async with RestClient(application.outbound, None) as rest, GrpcClient(application.outbound, None) as client:
            for form in ("trailers-only", "head"):
                for status in ("RESOURCE_EXHAUSTED", "ABORTED", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"):
                    for model in ("resnet", "once"):
                        key = f"{form}-{status}-{model}"
                        headers = {"x-key": key, "x-form": form, "x-status": status}
                        answer = await client.call(PREDICT, request[model], headers)
                        # UNAVAILABLE is among the defaults.
                        is_retried = status == "UNAVAILABLE" or (model == "resnet" and status in statuses)
                        assert answer.status == ("OK" if is_retried else status), key
                        assert served.calls[key] == (2 if is_retried else 1)
            over_rest = [("429", "resnet", True), ("409", "resnet", False), ("429", "once", False)]
            for status, model, is_retried in over_rest:
                key = f"{status}-{model}"
                headers = {"x-key": key, "x-status": status}
                answer = await rest.call("POST", f"/v1/models/{model}:predict", {"instances": [0.0]}, headers)
                assert (answer.status, served.calls[key]) == (("200", 2) if is_retried else (status, 1)), key
        assert await application.total("meshproxy_retries_total", 'reason="status"') == 5


async def curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec("curl", "-sS", *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_a_cookie_keeps_a_client_with_its_share(tmp_path: Path) -> None:
    cookie = {"name": "user", "ttl": "1h", "path": "/v1"}
    sticky = {"by": "cookie", "cookie": cookie}
    shares = [{"version": 1}, {"version": 2}]
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.bare("--model", "resnet=1,2", "--model", "own=1,2")
        application = await mesh.application(
            [
                server_of([replica]),
                route("resnet", split=shares, sticky=sticky),
                route("own", name="own", split=shares, sticky={"by": "cookie", "cookie": {"name": "user"}}),
            ]
        )
        url = f"http://{application.outbound}/v1/models/resnet:predict"
        versions: set[str] = set()
        for client in range(32):
            if client >= 8 and len(versions) == 2:
                break
            jar = str(tmp_path / f"jar-{client}")
            request = ("-b", jar, "-c", jar, "-d", '{"instances": [0.0]}', url)
            first = await curl("-D", "-", *request)
            assert "set-cookie: user=" in first
            assert "; Path=/v1; Max-Age=3600; HttpOnly; SameSite=Lax\r\n" in first
            answers = {first.partition("\r\n\r\n")[2], *[await curl(*request) for _ in range(3)]}
            assert len(answers) == 1
            assert "set-cookie" not in await curl("-D", "-", *request)
            versions |= answers
        assert len(versions) == 2  # one in two billion runs has one
        async with GrpcClient(application.outbound, None) as client_of_grpc:
            call: Any = client_of_grpc.channel.unary_unary(PREDICT)
            request_of_grpc = predict_request("resnet", [0.0]).SerializeToString()
            made = call(request_of_grpc)
            version = messages.PredictResponse.FromString(await made).model_spec.version.value
            given = str(dict(await made.initial_metadata())["set-cookie"]).partition(";")[0]
            # Several fields are one cookie header (RFC 9113 section 8.2.3).
            for metadata in ((("cookie", given),), (("cookie", "theme=dark"), ("cookie", given), ("cookie", "a=b"))):
                for _ in range(8):
                    again = call(request_of_grpc, metadata=metadata)
                    assert messages.PredictResponse.FromString(await again).model_spec.version.value == version
                    assert "set-cookie" not in dict(await again.initial_metadata())
            # Without a lifetime nothing is set, and a client without a cookie gets any share.
            assert {(await grpc_spec(client_of_grpc, "own"))[1] for _ in range(40)} == {1, 2}
            assert len({(await grpc_spec(client_of_grpc, "own", {"cookie": given}))[1] for _ in range(8)}) == 1


async def test_the_example_in_the_readme_shares_the_calls_of_two_callers(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = [block for block in re.findall(r"(?s)```yaml\n(.*?)```", readme) if "kind: ModelRoute\n" in block]
    tests = {"role": "everything", "subjects": [{"workload": {"namespace": "tests"}}]}
    documents = [document("ModelRoleBinding", tests, "tests"), *yaml.safe_load_all(example)]
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica("--model", "fraud=3,4,5", documents=documents)
        assert replica.sidecar is not None
        answered: Counter[int] = Counter()
        for account in ("a", "b"):
            async with GrpcClient(replica.sidecar.inbound, mesh.certificate("tests", account)) as client:
                answered.update([(await grpc_spec(client, "fraud"))[1] for _ in range(150)])
        assert answered.keys() == {3, 4}
        assert abs(answered[4] - 30) <= 26  # binomial: five standard deviations


async def test_a_model_name_with_a_slash_over_rest(tmp_path: Path) -> None:
    roles = [
        document("ModelRole", {"rules": [{"models": ["team/*"], "verbs": ["predict", "status"]}]}, "team"),
        document("ModelRoleBinding", {"role": "team", "subjects": [{"workload": {"namespace": "tests"}}]}, "team"),
    ]
    versions = document("ModelRoute", {"models": ["team/resnet"], "split": [{"version": 2}]}, "team")
    async with local_mesh(tmp_path / "mesh") as mesh:
        server = await mesh.bare("--model", "team/resnet=1,2,3", "--model", "other/resnet=1", "--model", "team=1,2")
        sidecar = await mesh.sidecar("the sidecar", [*environment(server.rest, server.grpc), *roles, versions])
        files = [str(mesh.directory / name) for name in ("ca.pem", "client.pem", "client-key.pem")]
        identity = [word for pair in zip(("--cacert", "--cert", "--key"), files, strict=True) for word in pair]

        async def status(name: str) -> str:
            url = f"https://localhost:{sidecar.port}/v1/models/{name}:predict"
            content = ("-d", '{"instances": [0.0]}', "-o", "/dev/null", "-w", "%{http_code}")
            return await curl(*identity, "--path-as-is", *content, url)

        assert await status("team%2Fresnet") == await status("team%2fresnet") == "200"
        assert await status("team%2Fresnet/versions/3") == "200"
        async with (
            RestClient(sidecar.inbound, mesh.client) as rest,
            GrpcClient(sidecar.inbound, mesh.client) as client,
        ):
            assert await rest_version(rest, "team%2Fresnet") == 2  # the route is that of the decoded name
            assert await grpc_spec(client, "team/resnet") == ("team/resnet", 2)
            answer = await rest.call("GET", "/v1/models/team%2Fresnet")
            assert [each["version"] for each in answer.body["model_version_status"]] == ["3", "2", "1"]
        before = await server.request_count()
        assert await status("other%2Fresnet") == await status("team") == "403"
        for name in ("team/resnet", "team%252Fresnet", "team%2F..%2Fother%2Fresnet", "%2Fteam", "team%2Fversions%2F2"):
            assert await status(name) == "400", name
        assert await server.request_count() == before
