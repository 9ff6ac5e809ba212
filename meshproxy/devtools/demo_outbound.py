"""The demo, second part: an application calls three replicas through the outbound port of its sidecar, in plain text.
Calls are balanced, split and mirrored, and a replica is killed under load."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from meshproxy.devtools.clients import Answer, RestClient
from meshproxy.devtools.demo import fetch_lines
from meshproxy.devtools.demo_mesh import DemoMesh
from meshproxy.devtools.load.generator import Run
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.models import predict_request

NAME = "models.example"
"""The host name by which the application calls the replicas."""
MODEL = "half_plus_two"
SPLIT_MODEL = "finance-prod"
SHADOWED_MODEL = "half_plus_three"
REQUEST = bytes(predict_request(MODEL, [1.0]).SerializeToString())

AT_ONCE = 16
NOT_COMPARED = "not compared"
PATIENCE = 5.0
"""Seconds within which mirrored calls must be counted."""


@dataclass(frozen=True)
class Scene:
    """What was done, and its result.

    Attributes:
        failed: calls of the application that were not answered well.
        seen: the figures to show.
        problem: why the result is not as expected; empty if it is.
    """

    what: str
    calls: int
    failed: int
    seen: str
    problem: str


async def run(mesh: DemoMesh) -> AsyncIterator[Scene]:
    """Plays the scenes, one after another. The last one kills a replica."""
    yield await spread(mesh)
    yield await split(mesh)
    yield await mirror(mesh)
    yield await kill(mesh)


async def spread(mesh: DemoMesh, calls: int = 600) -> Scene:
    """Balancing of the calls of one gRPC connection."""
    before = [await each.request_count(model=MODEL) for each in mesh.replicas]
    run = await predict_over_grpc(mesh.application.outbound, 400, calls / 400, REQUEST, name=NAME)
    counts = [await each.request_count(model=MODEL) - known for each, known in zip(mesh.replicas, before, strict=True)]
    problem = problem_of(run)
    # Balancing goes by latency, and the latencies of such a cheap model are random: the counts need not be equal.
    if not problem and not all(counts):
        problem = "a replica got no calls"
    seen = f"replicas {_listed(counts)}"
    return Scene("one gRPC connection, three replicas", calls, run.failed, seen, problem)


async def split(mesh: DemoMesh, calls: int = 1_000) -> Scene:
    """90 % to version 1 and 10 % to version 2, which answer 2.5 and 3.5 to the same."""
    answers = await _ask(mesh, SPLIT_MODEL, calls)
    values = Counter(each.body["predictions"][0] for each in answers if each.status == "200")
    failed = calls - values.total()
    first, second = values[2.5], values[3.5]
    # Binomial: one run in two million is more than five standard deviations off.
    allowed = 5 * math.sqrt(calls * 0.9 * 0.1)
    problem = f"{failed} calls failed" if failed else ""
    if not problem and (first + second != calls or abs(first - 0.9 * calls) > allowed):
        problem = f"{first} and {second} calls are not 90 and 10 %"
    return Scene("a split, 90 to 10", calls, failed, f"version 1 {first}, version 2 {second}", problem)


async def mirror(mesh: DemoMesh, calls: int = 200) -> Scene:
    """Version 1 answers; version 2 gets a copy of each call, and its different answers are only compared."""
    # One after the other, because a sidecar spends at most a twentieth of its time on comparing: of calls that come
    # faster, some are not compared.
    answers = await _ask(mesh, SHADOWED_MODEL, calls, at_once=1, pause=0.005)
    failed = sum(each.status != "200" or each.body != {"predictions": [2.5]} for each in answers)
    mirrored_counts: dict[str, int] = {}
    for _ in range(int(PATIENCE / 0.05)):
        mirrored_counts = await mirrored(mesh)
        if sum(mirrored_counts.values()) >= calls:
            break
        await asyncio.sleep(0.05)
    problem = f"{failed} calls failed, or were answered by the mirror" if failed else ""
    compared = mirrored_counts.get("differs", 0)
    if not problem and (compared < calls // 2 or compared + mirrored_counts.get("answered", 0) != calls):
        problem = f"{compared} mirrored responses differ, expected about {calls}"
    seen = ", ".join(
        f"{NOT_COMPARED if each == 'answered' else each} {count}" for each, count in mirrored_counts.items()
    )
    return Scene("a mirror with different responses", calls, failed, f"mirrored: {seen or 'none'}", problem)


async def kill(mesh: DemoMesh, rate: float = 250, seconds: float = 3) -> Scene:
    """kill -9 of a replica, model server and sidecar, under load over REST and gRPC."""

    async def strike() -> None:
        await asyncio.sleep(seconds / 3)
        await mesh.replicas[-1].kill()

    rest, grpc, _ = await asyncio.gather(
        predict_over_rest(mesh.application.outbound, rate, seconds, name=NAME),
        predict_over_grpc(mesh.application.outbound, rate, seconds, REQUEST, name=NAME),
        strike(),
    )
    retried = sum(
        int(float(line.rpartition(" ")[2]))
        for line in await fetch_lines(mesh.application.admin, "/metrics")
        if line.startswith("meshproxy_retries_total{")
    )
    longest = max((*rest.latencies, *grpc.latencies), default=0.0)
    return Scene(
        f"kill -9 of one of three at {2 * rate:.0f}/s",
        int(2 * rate * seconds),
        rest.failed + grpc.failed,
        f"retried {retried}, longest {longest * 1e3:.0f} ms",
        problem_of(rest) or problem_of(grpc),
    )


async def mirrored(mesh: DemoMesh) -> dict[str, int]:
    """The results of mirrored calls, from the metrics of the application's sidecar."""
    found = {}
    for line in await fetch_lines(mesh.application.admin, "/metrics"):
        if line.startswith("meshproxy_mirrored_total{"):
            found[line.partition('result="')[2].partition('"')[0]] = int(float(line.rpartition(" ")[2]))
    return found


async def metric_lines(mesh: DemoMesh) -> list[str]:
    """What the metrics of the application's sidecar say: the counters that are not 0, and which endpoints there are."""
    wanted = (
        "meshproxy_requests_total{",
        "meshproxy_retries_total{",
        "meshproxy_mirrored_total{",
        "meshproxy_endpoints{",
    )
    lines = await fetch_lines(mesh.application.admin, "/metrics")
    return [line for line in lines if line.startswith(wanted) and not line.endswith((" 0", " 0.0"))]


async def _ask(mesh: DemoMesh, model: str, calls: int, *, at_once: int = AT_ONCE, pause: float = 0.0) -> list[Answer]:
    """Makes `calls` predictions over REST, `at_once` at a time, with a pause of `pause` seconds after each answer."""
    answers: list[Answer] = []
    in_flight = 0

    async def ask(client: RestClient) -> None:
        nonlocal in_flight
        while len(answers) + in_flight < calls:
            in_flight += 1
            answer = await client.call("POST", f"/v1/models/{model}:predict", {"instances": [1.0]}, {"host": NAME})
            in_flight -= 1
            answers.append(answer)
            await asyncio.sleep(pause)

    async with RestClient(mesh.application.outbound, None) as client:
        await asyncio.gather(*(ask(client) for _ in range(at_once)))
    return answers


def problem_of(run: Run) -> str:
    """The first fault of a run; empty if there is none."""
    if run.errors:
        error, count = run.errors.most_common(1)[0]
        return f"{count} calls failed: {error}"
    return f"{run.unanswered} calls were not answered" if run.unanswered else ""


def _listed(counts: list[int]) -> str:
    return ", ".join(map(str, counts))
