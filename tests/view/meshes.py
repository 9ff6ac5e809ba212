"""Meshes to look at: of any size, the same each time."""

from __future__ import annotations

import random

from meshproxy.control_api import MeshReport, ReportedCaller, ReportedCalls, ReportedDenial, ReportedTime
from meshproxy.telemetry.quantiles import BOUNDS
from meshproxy.view.mesh import Mesh

EVERY = 5.0


def calls(
    caller: str | ReportedCaller = "spiffe://mesh.test/ns/shop/sa/api",
    model: str = "fraud",
    version: str = "3",
    count: int = 10,
    **others: object,
) -> ReportedCalls:
    """One row of a report: calls that the model server answered in 5 ms."""
    row: dict[str, object] = {
        "direction": "inbound",
        "caller": ReportedCaller(workload=caller) if isinstance(caller, str) else caller,
        "security": "mtls",
        "model": model,
        "version": version,
        "verb": "predict",
        "codes": {"200": count},
        "allowed": {"readers": count},
        "attempts": count,
        "total": {49: count},
        "upstream": {47: count},
        "proxy": {16: count},
    }
    return ReportedCalls(**(row | others))  # type: ignore[arg-type]


def report(*rows: ReportedCalls, sequence: int = 1, **others: object) -> MeshReport:
    """A report of five seconds."""
    members: dict[str, object] = {"sidecar": "fraud", "run": "a", "sequence": sequence, "seconds": EVERY, "host": "h"}
    return MeshReport(**(members | {"calls": rows} | others))  # type: ignore[arg-type]


def mesh(nodes: int, now: float, seconds: float = 60.0) -> Mesh:
    """A mesh with about so many callers, models and versions, which has reported for a while until `now`.

    Some callers have no certificate, some are denied, some models fail or have a canary, one reporter is silent.
    """
    chance = random.Random(nodes)
    found = Mesh()
    models = max(1, nodes // 5)
    callers = max(1, nodes - 2 * models - models // 3)
    rows = [(model, caller) for caller in range(callers) for model in _called(chance, models)]
    rounds = int(seconds / EVERY)
    for round_ in range(rounds):
        at = now - (rounds - 1 - round_) * EVERY
        by_model: dict[int, list[ReportedCalls]] = {}
        for model, caller in rows:
            by_model.setdefault(model, []).extend(_rows(chance, model, caller))
        for model in range(models):
            if model == 1 and round_ > rounds // 2:
                continue  # silent
            denials = (_denial(at),) if model == 0 else ()
            times = {f"model-{model}": ReportedTime(100, 0.4, 0.05, {20 + round_ % 7: 80, 32: 20})}
            said = report(
                *by_model.get(model, []), sequence=round_ + 1, host=f"pod-{model}", denials=denials, times=times
            )
            found.take(f"spiffe://mesh.test/ns/serving/sa/model-{model}", said, EVERY, at)
    return found


def _called(chance: random.Random, models: int) -> list[int]:
    return sorted(chance.sample(range(models), min(models, chance.randint(1, 3))))


def _rows(chance: random.Random, model: int, caller: int) -> list[ReportedCalls]:
    count = chance.randint(5, 60)
    canary = count // 20 if model % 3 == 0 else 0
    found = [_row(chance, model, caller, "4", count - canary)]
    if canary:
        found.append(_row(chance, model, caller, "5", canary))
    if caller % 11 == 3:
        found.append(
            calls(
                f"spiffe://mesh.test/ns/shop/sa/caller-{caller}", f"model-{model}", "4", codes={"403": 7}, allowed={},
                denied={"PERMISSION_DENIED": 7}, attempts=0, total={}, upstream={}, proxy={},
            )
        )  # fmt: skip
    return found


def _row(chance: random.Random, model: int, caller: int, version: str, count: int) -> ReportedCalls:
    failed = count // 4 if model % 7 == 5 else count // 50 if model % 7 == 3 else 0
    middle = 45 + model % 20
    buckets: dict[int, int] = {}
    for _ in range(count):
        bucket = min(max(round(chance.gauss(middle, 4)), 0), len(BOUNDS) - 1)
        buckets[bucket] = buckets.get(bucket, 0) + 1
    is_open = caller % 9 == 4
    who = (
        ReportedCaller(address=f"10.0.0.{caller % 250}")
        if is_open
        else f"spiffe://mesh.test/ns/shop/sa/caller-{caller}"
    )
    return calls(
        who,
        f"model-{model}",
        version,
        security="plaintext" if is_open else "mtls",
        codes={"200": count - failed, "503": failed} if failed else {"200": count},
        failed=failed,
        allowed={f"readers-{model}": count},
        attempts=count + count // 30,
        retries=count // 30,
        total=buckets,
        upstream={max(0, bucket - 2): each for bucket, each in buckets.items()},
        proxy={10: count},
    )


def _denial(at: float) -> ReportedDenial:
    return ReportedDenial(
        at, ReportedCaller(workload="spiffe://mesh.test/ns/shop/sa/caller-3"), "predict model-0", "PERMISSION_DENIED",
        "no binding allows spiffe://mesh.test/ns/shop/sa/caller-3 to predict model-0",
    )  # fmt: skip
