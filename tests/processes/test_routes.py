"""What routes say, with real clients and model servers: which version of which model answers a call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools import messages
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import Document, document, local_mesh, server_of
from meshproxy.devtools.models import predict_request

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(60)]

PREDICT = "/tensorflow.serving.PredictionService/Predict"


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
        async with RestClient(application.outbound, None) as rest, GrpcClient(application.outbound, None) as grpc:
            for headers, version in calls:
                assert await rest_version(rest, "resnet", headers) == version, headers
                if "user-agent" not in headers:  # grpcio writes its own
                    assert await grpc_spec(grpc, "resnet", headers) == ("resnet", version), headers
