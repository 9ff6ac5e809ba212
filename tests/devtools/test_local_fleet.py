from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.local_fleet import local_fleet, server_of
from meshproxy.devtools.local_sidecar import document
from meshproxy.devtools.models import predict_request

PATH = "/v1/models/half_plus_two:predict"
CONTENT = {"instances": [1.0]}
PREDICT = "/tensorflow.serving.PredictionService/Predict"
REQUEST = predict_request("half_plus_two", [1.0]).SerializeToString()


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_calls_of_the_application_arrive_and_what_was_killed_is_no_surprise(tmp_path: Path) -> None:
    async with local_fleet(tmp_path / "fleet") as fleet:
        replica, other = await fleet.replica(), await fleet.bare("--failure-rate=1")
        outbound = await fleet.outbound(
            [server_of([replica]), server_of([other], "other", workload={"namespace": "a", "serviceAccount": "b"})]
        )
        async with RestClient(outbound.address, None) as rest, GrpcClient(outbound.address, None) as grpc:
            assert (await rest.call("POST", PATH, CONTENT, {"host": "models"})).body == {"predictions": [3.5]}
            assert (await grpc.call(PREDICT, REQUEST, {"x-model-server": "models"})).status == "OK"
            assert (await grpc.call(PREDICT, REQUEST, {"x-model-server": "other"})).status == "UNAVAILABLE"
            assert (await rest.call("POST", PATH, CONTENT, {"host": "third"})).status == "404"
            assert (await replica.heard(), await replica.heard("UNAVAILABLE")) == (2, 0)
            assert await other.heard("UNAVAILABLE") == await other.heard() > 0

            await outbound.reload([server_of([replica], "third")])
            assert (await rest.call("POST", PATH, CONTENT, {"host": "third"})).status == "200"
            assert await outbound.total("meshproxy_config_reloads_total", 'result="ok"') == 1
            with pytest.raises(ChildFailed, match="nobody"):
                await outbound.reload([document("ModelRoute", {"models": ["*"], "server": "nobody"})])
            assert (await rest.call("POST", PATH, CONTENT, {"host": "third"})).status == "200"

        runs = (
            await predict_over_rest(outbound.address, 200, 0.1, name="third", connections=4),
            await predict_over_grpc(outbound.address, 200, 0.1, REQUEST, name="third", streams=4),
            await predict_over_rest(outbound.address, 200, 0.1, name="third", model="unknown", connections=20),
        )
        assert [(run.done, run.errors.total(), run.unanswered) for run in runs] == [(20, 0, 0), (20, 0, 0), (0, 20, 0)]
        await replica.kill()
        assert [child.returncode for child in replica.children] == [-9, -9]
    assert [child.returncode for child in (outbound.child, other.model_server)] == [0, 0]


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_part_that_cannot_start_says_why_and_the_others_are_stopped(tmp_path: Path) -> None:
    async with local_fleet(tmp_path / "fleet") as fleet:
        replica = await fleet.bare()
        route = document("ModelRoute", {"models": ["*"], "timeOut": "1s"})
        with pytest.raises(ChildFailed, match="timeOut"):
            await fleet.outbound([server_of([replica]), route])
    assert replica.model_server.returncode == 0
