"""The metrics page of a model server that has it elsewhere (`--monitoring_config_file` of TensorFlow Serving)."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import document, environment, local_mesh

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

DEFAULT = "/monitoring/prometheus/metrics"
PAGE = "# TYPE :tensorflow:serving:request_count counter"


async def test_the_page_is_authorised_where_it_is(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "m") as mesh:
        said = (await mesh.model_server("--metrics-path", "/metrics")).listening
        own = environment(said["rest"], said["grpc"])
        server = own[1]
        server["spec"]["metricsPath"] = "/metrics"
        reader, predictor = (
            [
                document("ModelRole", {"rules": [{"models": ["*"], "verbs": [verb]}]}, verb),
                document(
                    "ModelRoleBinding",
                    {"role": verb, "subjects": [{"workload": {"namespace": "tests", "serviceAccount": account}}]},
                    account,
                ),
            ]
            for verb, account in (("metrics", "client"), ("predict", "predictor"))
        )
        running = await mesh.sidecar("the sidecar", [*own, *reader, *predictor])
        async with RestClient(running.inbound, mesh.client) as client:
            page = await client.call("GET", "/metrics")
            assert (page.status, page.refusal) == ("200", None)
            assert PAGE in page.body
            moved = await client.call("GET", DEFAULT)
            assert (moved.status, moved.refusal) == ("404", "bad-request")
            assert (await client.call("POST", "/metrics")).refusal == "bad-request"
            assert (await client.call("POST", "/v1/models/half_plus_two:predict", {})).refusal == "permission-denied"
        async with RestClient(running.inbound, mesh.certificate("tests", "predictor")) as client:
            assert (await client.call("GET", "/metrics")).refusal == "permission-denied"
        await running.reload([document("ModelServer", {"endpoints": server["spec"]["endpoints"]}), *reader])
        async with RestClient(running.inbound, mesh.client) as client:
            assert (await client.call("GET", "/metrics")).refusal == "bad-request"
            assert (await client.call("GET", DEFAULT)).refusal is None  # it is the server's 404 now


async def test_an_application_gets_the_page_of_each_server_where_that_has_it(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "m") as mesh:
        elsewhere = await mesh.model_server("--metrics-path", "/metrics")
        usual = await mesh.replica()
        servers = [
            document(
                "ModelServer",
                {"endpoints": [{"rest": elsewhere.listening["rest"]}], "metricsPath": "/metrics"},
                "elsewhere",
            ),
            document(
                "ModelServer",
                {"endpoints": [usual.endpoint], "workload": {"namespace": "tests", "serviceAccount": "server"}},
                "usual",
            ),
        ]
        running = await mesh.application(servers)
        async with RestClient(running.outbound, None) as client:
            for name, path in (("elsewhere", "/metrics"), ("usual", DEFAULT)):
                page = await client.call("GET", path, headers={"host": name})
                assert (page.status, PAGE in page.body) == ("200", True)
            for name, path in (("elsewhere", DEFAULT), ("usual", "/metrics")):
                page = await client.call("GET", path, headers={"host": name})
                assert (page.status, page.refusal) == ("404", "bad-request")


async def test_a_scraper_reads_both_pages_at_one_port(tmp_path: Path) -> None:
    """If a binding permits that to its address: the admin port knows no identities."""
    relay = {"telemetry": {"modelServer": {"relay": True}}}
    scraper = [
        document("ModelRole", {"rules": [{"models": ["*"], "verbs": ["metrics"]}]}, "scrape"),
        document("ModelRoleBinding", {"role": "scrape", "subjects": [{"ipBlocks": ["127.0.0.0/8"]}]}, "scraper"),
    ]
    async with local_mesh(tmp_path / "m") as mesh:
        replica = await mesh.replica(mesh=relay)
        sidecar = replica.sidecar
        assert sidecar is not None
        async with RestClient(sidecar.inbound, mesh.client) as client:
            assert (await client.call("POST", "/v1/models/half_plus_two:predict", {"instances": [1.0]})).status == "200"
        assert not any(series.startswith(":") for series in await sidecar.metrics())
        assert await sidecar.total("meshproxy_model_server_relays_total", 'result="denied"') >= 1
        everyone = [each for each in sidecar.documents if each["kind"] not in ("MeshConfig", "Sidecar")]
        await sidecar.reload([*everyone, *scraper])
        page = await sidecar.metrics()
        assert page[':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"}'] == 1
        assert page['meshproxy_model_server_relays_total{result="ok"}'] >= 1
        await replica.model_server.stop()
        page = await sidecar.metrics()
        assert not any(series.startswith(":") for series in page)
        assert "meshproxy_config_in_sync" in page
