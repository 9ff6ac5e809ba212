"""Documents that are objects, whoever the API server is: run against the fake one by `make test`, against a real one by
`make e2e`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from lightkube.models.meta_v1 import ObjectMeta

from meshproxy.config import schema
from meshproxy.control.documents import MeshDocuments
from meshproxy.control.objects import ClusterObjects, resource
from meshproxy.control.sources import Files
from meshproxy.telemetry.control_metrics import ControlMetrics
from tests.background import running
from tests.control.following import ReflectorTests, Server
from tests.processes.waiting import until

KINDS = {kind.__name__: kind for kind in schema.KINDS}
TRAFFIC = Path(__file__).parents[2] / "deploy" / "examples" / "traffic.yaml"


class Keeping:
    """The documents of a namespace."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.metrics = ControlMetrics()
        self.documents = MeshDocuments(ClusterObjects(server.client, server.namespace, self.metrics))
        self.changes = 0
        self.documents.listeners.append(lambda changes: self._count())

    def _count(self) -> None:
        self.changes += 1

    async def write(self, kind: str, name: str, spec: Any, **labels: str) -> None:
        metadata = ObjectMeta(name=name, namespace=self._server.namespace, labels=labels or None)
        made: Any = resource(KINDS[kind])
        await self._server.client.apply(made(metadata=metadata, spec=spec), force=True)

    async def delete(self, kind: str, name: str) -> None:
        await self._server.client.delete(resource(KINDS[kind]), name, namespace=self._server.namespace)

    async def read(self) -> None:
        """Wait until the objects have been read."""
        await until(lambda: self.documents.problems or self.documents.held)

    async def become(self, *names: str) -> None:
        await until(lambda: set(self.documents.held) == set(names))


@asynccontextmanager
async def keeping(server: Server) -> AsyncIterator[Keeping]:
    it = Keeping(server)
    async with running(it.documents.follow()):
        yield it


SPEC = {"endpoints": [{"rest": "a:1"}]}


@pytest.mark.asyncio(loop_factories=["uvloop"])  # the control plane runs on no other
class KeepingTests(ReflectorTests):
    """Whoever inherits from this has the fixture `server`, which knows our kinds."""

    async def test_objects_are_the_documents_that_files_are(self, server: Server, tmp_path: Path) -> None:
        documents = [each for each in yaml.safe_load_all(TRAFFIC.read_text()) if each["kind"] != "Sidecar"]
        (tmp_path / "traffic.yaml").write_text(yaml.safe_dump_all(documents))
        files = MeshDocuments(Files([str(tmp_path)]))
        await files.first()
        async with keeping(server) as it:
            for each in documents:
                await it.write(each["kind"], each["metadata"]["name"], each["spec"])
            await it.become(*files.held)
            for key, held in files.held.items():
                assert msgspec.json.decode(it.documents.held[key].sent.document) == msgspec.json.decode(
                    held.sent.document
                )
            await until(lambda: it.documents.problems == ())

    async def test_objects_come_change_and_go(self, server: Server) -> None:
        async with keeping(server) as it:
            await it.write("MeshConfig", "m", {"trustDomain": "m.example"})
            await it.write("ModelServer", "s", SPEC)
            await it.become("MeshConfig/m", "ModelServer/s")
            before = it.documents.held["ModelServer/s"]
            await it.write("ModelServer", "s", {"endpoints": [{"rest": "a:2"}]})
            await until(lambda: it.documents.held["ModelServer/s"] is not before)
            await it.delete("ModelServer", "s")
            await it.become("MeshConfig/m")

    async def test_what_is_not_the_document_changes_nothing(self, server: Server) -> None:
        async with keeping(server) as it:
            await it.write("MeshConfig", "m", {"trustDomain": "m.example"})
            await it.write("ModelServer", "s", SPEC)
            await it.become("MeshConfig/m", "ModelServer/s")
            changes, before = it.changes, it.documents.held["ModelServer/s"]
            await it.write("ModelServer", "s", SPEC, team="models")
            await it.write("ModelServer", "t", SPEC)
            await it.become("MeshConfig/m", "ModelServer/s", "ModelServer/t")
            assert it.documents.held["ModelServer/s"] is before
            assert it.changes == changes + 1

    async def test_a_problem_is_its_objects_alone(self, server: Server) -> None:
        async with keeping(server) as it:
            await it.write("MeshConfig", "m", {"trustDomain": "m.example"})
            await it.write("ModelServer", "s", SPEC)
            await it.write("ModelRoute", "r", {"models": ["*"], "server": "nobody"})
            await until(lambda: it.documents.held_back == {"ModelRoute/r"})
            await it.become("MeshConfig/m", "ModelServer/s")
            assert [problem.document for problem in it.documents.problems] == ["ModelRoute/r"]
            await it.write("ModelRoute", "r", {"models": ["*"], "server": "s"})
            await it.become("MeshConfig/m", "ModelServer/s", "ModelRoute/r")
            await until(lambda: it.documents.problems == ())

    async def test_while_the_api_server_is_away_nothing_changes(self, server: Server) -> None:
        async with keeping(server) as it:
            await it.write("MeshConfig", "m", {"trustDomain": "m.example"})
            await it.become("MeshConfig/m")
            await server.stop()
            restarts = it.metrics.watch_restarts.labels("MeshConfig", "unavailable")
            await until(lambda: restarts.value >= 2)
            assert set(it.documents.held) == {"MeshConfig/m"}
            assert it.documents.problems == ()
            await until(lambda: it.documents.source_problem.startswith("MeshConfig, ModelRole, "))
            await server.start()
            await it.write("ModelServer", "s", SPEC)
            await it.become("MeshConfig/m", "ModelServer/s")
            await until(lambda: it.documents.source_problem == "")

    async def test_a_start_while_the_api_server_is_away(self, server: Server) -> None:
        await Keeping(server).write("MeshConfig", "m", {"trustDomain": "m.example"})
        await server.stop()
        async with keeping(server) as it:
            restarts = it.metrics.watch_restarts.labels("MeshConfig", "unavailable")
            await until(lambda: restarts.value >= 2)
            assert not it.documents.held
            await server.start()
            await it.become("MeshConfig/m")
