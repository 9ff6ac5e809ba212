"""Twenty real sidecars under load, and one control plane: the graph that it shows is compared, edge by edge, with what
was sent. `SIDECARS=6` for fewer. The small version is tests/mesh/test_mesh_view.py.

Counts are equal: calls, status codes, bindings and denials, of each caller, server and verb as the server's sidecar
reports them, and of each caller and verb as the caller's does.

Latencies are compared by the bucket that their quantiles are in; buckets grow by a tenth. The model server takes
three seconds for each answer. The generator's clock runs from before it sends to after it has read, so it adds its own
share to what the caller's sidecar measures, and that one its own to what the server's does: milliseconds, or a second
on a machine with thirty busy processes. So both must be between the model server and the generator, give or take one
bucket, which on a quiet machine leaves two. Calls of one caller to several servers are one row of its sidecar, so the
generator's are put together for that. Denied calls take no time, and sidecars count none for them.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path

import aiohttp
import msgspec
import pytest

from meshproxy.control.attestation import make_token
from meshproxy.control.store import FolderStore
from meshproxy.devtools.child import Child
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import (
    CONNECT_TIMEOUT,
    Document,
    LocalMesh,
    LocalSidecar,
    document,
    environment,
    local_mesh,
)
from meshproxy.telemetry.quantiles import BOUNDS, quantile
from meshproxy.view.graph import Graph
from meshproxy.view.page import MeshPage, read_mesh
from meshproxy.view.tallies import Edge, Tally, new_tally
from tests.processes.mesh import control_command, spiffe_id
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(900)]

REPLICAS = APPLICATIONS = int(os.environ.get("SIDECARS", "20")) // 2
AT_ONCE = 2
"""That start: more would be slower, as each needs a processor for a second."""
CALLED = 3
"""Replicas that each application calls."""
MODEL = "half_plus_two"
VERBS = ("predict", "status")
IN_PARALLEL = 2
CALLS = 5
"""Of each verb, of an application to each of its replicas, one after the other: so often in parallel."""
LATENCY = math.sqrt(math.prod(BOUNDS[bisect_left(BOUNDS, 3.0) - 1 :][:2]))
"""Of the model server, in seconds: in the middle of a bucket, whose width is then a third of a second."""
SHARES = (0.5, 0.9)
"""The quantiles that are compared."""
DENIED = 0
"""The application that may not predict."""


Sent = tuple[str, str, str]
"""Caller, server and verb."""


def replica(number: int) -> tuple[str, str]:
    return ("serving", f"replica-{number}")


def application(number: int) -> tuple[str, str]:
    return ("shop", f"application-{number}")


def called_by(number: int) -> list[int]:
    return [(number + step) % REPLICAS for step in range(CALLED)]


def settings(mesh: LocalMesh, control: Child, account: tuple[str, str]) -> Document:
    """`controlPlane` of a sidecar that has been given a join token."""
    name = "-".join(account)
    store = FolderStore(mesh.directory / "control")
    (mesh.directory / f"{name}.token").write_text(make_token(store, spiffe_id(account), time.time(), 600.0))
    return {
        "address": control.listening["control"],
        "spiffeId": spiffe_id(("meshproxy", "control")),
        "trustBundle": "control/authority.pem",
        "folder": name,
        "joinToken": f"{name}.token",
    }


def policy() -> list[Document]:
    """Everybody may ask for the status, and everybody but one may predict."""
    found: list[Document] = []
    for verb in VERBS:
        callers = [application(each) for each in range(APPLICATIONS) if (each, verb) != (DENIED, "predict")]
        subjects = [{"workload": {"namespace": namespace, "serviceAccount": name}} for namespace, name in callers]
        found.append(document("ModelRole", {"rules": [{"models": [MODEL], "verbs": [verb]}]}, verb))
        found.append(document("ModelRoleBinding", {"role": verb, "subjects": subjects}, f"{verb}-callers"))
    return found


async def start_replica(mesh: LocalMesh, control: Child, number: int, rest: str) -> LocalSidecar:
    documents = environment(rest, sidecar={"controlPlane": settings(mesh, control, replica(number))})
    del documents[2]["spec"]["identity"]
    return await mesh.sidecar(f"replica {number}", [*documents, *policy()])


async def start_application(mesh: LocalMesh, control: Child, number: int, replicas: list[LocalSidecar]) -> LocalSidecar:
    servers = []
    for which in called_by(number):
        namespace, account = replica(which)
        workload = {"namespace": namespace, "serviceAccount": account}
        spec = {
            "endpoints": [{"sidecar": replicas[which].inbound}],
            "workload": workload,
            "connectTimeout": CONNECT_TIMEOUT,
        }
        servers.append(document("ModelServer", spec, f"replica-{which}"))
    own = {
        "controlPlane": settings(mesh, control, application(number)),
        "outbound": {"listen": "127.0.0.1:0"},
        "admin": {"listen": "127.0.0.1:0"},
        "accessLog": "off",
    }
    # The policy names the model: otherwise denials are counted under `_other` until a call has been answered.
    documents = [environment()[0], *servers, *policy(), document("Sidecar", own, f"application-{number}")]
    return await mesh.sidecar(f"application {number}", documents)


async def few_at_once(starting: Iterable[Coroutine[None, None, LocalSidecar]]) -> list[LocalSidecar]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def start(one: Coroutine[None, None, LocalSidecar]) -> LocalSidecar:
        async with turn:
            return await one

    return list(await asyncio.gather(*map(start, starting)))


class Load:
    """What was sent, and what came of it at the client."""

    def __init__(self) -> None:
        self.codes: defaultdict[Sent, Counter[str]] = defaultdict(Counter)
        self.seconds: defaultdict[Sent, list[float]] = defaultdict(list)

    async def of(self, number: int, sidecar: LocalSidecar) -> None:
        """All calls of one application."""
        async with RestClient(sidecar.outbound, None) as client:
            to = [(which, verb) for which in called_by(number) for verb in VERBS] * IN_PARALLEL
            await asyncio.gather(*(self._calls(client, number, which, verb) for which, verb in to))

    async def _calls(self, client: RestClient, number: int, which: int, verb: str) -> None:
        key = (spiffe_id(application(number)), spiffe_id(replica(which)), verb)
        headers = {"x-model-server": f"replica-{which}"}
        for _ in range(CALLS):
            if verb == "predict":
                path = f"/v1/models/{MODEL}:predict"
                answer = await client.call("POST", path, {"instances": [1.0]}, headers)
            else:
                answer = await client.call("GET", f"/v1/models/{MODEL}", None, headers)
            self.codes[key][answer.status] += 1
            self.seconds[key].append(answer.seconds)


async def ask(control: Child, path: str) -> bytes:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{control.listening['web']}{path}?seconds=3600") as response,
    ):
        assert response.status == 200
        return await response.read()


def edges(page: MeshPage, direction: str) -> dict[tuple[str, ...], Tally]:
    """Inbound by caller, server and verb; outbound by caller and verb, as it goes to several servers."""
    found: defaultdict[tuple[str, ...], Tally] = defaultdict(new_tally)
    for each in page.calls:
        edge = Edge.of(each.reporter, each.calls)
        if edge.direction == direction:
            assert edge.model == MODEL
            caller = edge.caller.workload
            key = (caller, edge.reporter, edge.verb) if direction == "inbound" else (caller, edge.verb)
            found[key].add(each.calls)
    return found


def bucket(seconds: float | None) -> int:
    assert seconds is not None
    return bisect_left(BOUNDS, seconds)


def of_samples(share: float, seconds: Sequence[float]) -> int:
    """The bucket that a quantile of these is in."""
    return bucket(sorted(seconds)[math.ceil(share * len(seconds)) - 1])


def is_denied(key: Sent) -> bool:
    return key[0] == spiffe_id(application(DENIED)) and key[2] == "predict"


async def test_the_graph_is_what_was_sent(tmp_path: Path) -> None:
    async with local_mesh(tmp_path) as mesh:
        control = await mesh.start("the control plane", *control_command(mesh, "127.0.0.1:0", "127.0.0.1:0"))
        server = await mesh.model_server(f"--latency-ms={LATENCY * 1000:g}")
        rest = str(server.listening["rest"])
        replicas = await few_at_once(start_replica(mesh, control, each, rest) for each in range(REPLICAS))
        starting = (start_application(mesh, control, each, replicas) for each in range(APPLICATIONS))
        applications = await few_at_once(starting)
        load, begun = Load(), time.monotonic()
        await asyncio.gather(*(load.of(number, each) for number, each in enumerate(applications)))
        sent, took = sum(map(Counter.total, load.codes.values())), time.monotonic() - begun

        async def have_come() -> bool:
            page = read_mesh(await ask(control, "/mesh"))
            graph = msgspec.json.decode(await ask(control, "/api/graph"), type=Graph)
            reported = [sum(each.calls for each in edges(page, way).values()) for way in ("inbound", "outbound")]
            return min(*reported, sum(row.traffic.calls for row in graph.rows)) >= sent

        await until(have_come)
        page = read_mesh(await ask(control, "/mesh"))
        graph = msgspec.json.decode(await ask(control, "/api/graph"), type=Graph)
    inbound, outbound = edges(page, "inbound"), edges(page, "outbound")
    print(f"{sent} calls in {took:.0f} s on {len(load.codes)} edges of {REPLICAS + APPLICATIONS} sidecars")
    assert set(load.codes) == {
        (spiffe_id(application(number)), spiffe_id(replica(which)), verb)
        for number in range(APPLICATIONS)
        for which in called_by(number)
        for verb in VERBS
    }
    for key, codes in load.codes.items():
        assert codes == {"403" if is_denied(key) else "200": IN_PARALLEL * CALLS}
    assert_all_has_come(page)
    assert_counts(load, inbound, outbound)
    assert_rows(load, graph)
    assert_denials(page)
    assert_latencies(load, inbound, outbound)


def assert_all_has_come(page: MeshPage) -> None:
    assert page.reports.processes["fresh"] == REPLICAS + APPLICATIONS
    assert (page.reports.problems(), page.reporters) == ([], [])
    assert {each.calls.security for each in page.calls} == {"mtls"}


def assert_counts(load: Load, inbound: dict[tuple[str, ...], Tally], outbound: dict[tuple[str, ...], Tally]) -> None:
    """Of each verb, as both sidecars have reported them."""
    assert {key: tally.codes for key, tally in inbound.items()} == load.codes
    for key, codes in load.codes.items():
        tally, count = inbound[key], codes.total()
        assert sum(tally.denied.values()) == (count if is_denied(key) else 0), key
        assert tally.allowed == ({} if is_denied(key) else {f"{key[2]}-callers": count}), key
    by_caller: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for (caller, _, verb), codes in load.codes.items():
        by_caller[caller, verb] += codes
    assert {key: tally.codes for key, tally in outbound.items()} == by_caller


def assert_rows(load: Load, graph: Graph) -> None:
    """Of the graph that people see, which has each call once, and all verbs in a row."""
    rows: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (caller, server, _), codes in load.codes.items():
        rows[caller, server] += codes
    assert {(row.workload, row.server): row.traffic.codes for row in graph.rows} == rows
    assert len(graph.rows) == len(rows)
    calls = {edge.source: edge.traffic.calls for edge in graph.edges if edge.target == f"model:{MODEL}"}
    sent: Counter[str] = Counter()
    for (caller, _), codes in rows.items():
        sent[f"caller:{caller}"] += codes.total()
    assert calls == sent


def assert_denials(page: MeshPage) -> None:
    """The last ones of each report."""
    expected = {(spiffe_id(application(DENIED)), spiffe_id(replica(which))) for which in called_by(DENIED)}
    inbound = {(each.caller, each.server) for each in page.denials if each.server != spiffe_id(application(DENIED))}
    assert inbound == expected


def assert_latencies(load: Load, inbound: dict[tuple[str, ...], Tally], outbound: dict[tuple[str, ...], Tally]) -> None:
    """Of calls that were answered."""
    answered = {key: each for key, each in load.seconds.items() if not is_denied(key)}
    by_caller: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    apart: Counter[int] = Counter()
    least = bucket(LATENCY) - 1
    for key, seconds in answered.items():
        by_caller[key[0], key[2]] += seconds
        shown = inbound[key].total
        assert sum(shown.values()) == len(seconds)
        for share in SHARES:
            assert least <= bucket(quantile(share, shown)) <= of_samples(share, seconds) + 1, key
    for caller, seconds in by_caller.items():
        shown = outbound[caller].total
        assert sum(shown.values()) == len(seconds)
        for share in SHARES:
            assert least <= bucket(quantile(share, shown)) <= of_samples(share, seconds) + 1, caller
            apart[of_samples(share, seconds) - bucket(quantile(share, shown))] += 1
    print("buckets between the generator's quantiles and those of the callers' sidecars:", dict(apart))
