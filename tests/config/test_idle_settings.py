"""Settings that change nothing."""

from __future__ import annotations

import pytest

from tests.config.conftest import Check, document, mesh, said, server, sidecar

AT = '{rest: "127.0.0.1:8501"}'
OWN = 'identity: {workloadApi: {socket: "unix:/a"}}, inbound: {server: local}'
PLANE = "controlPlane: {address: 'c:1', spiffeId: 'spiffe://prod.example/c', trustBundle: b, folder: f}"
SPEC = {
    "MeshConfig": "trustDomain: prod.example",
    "ModelServer": f"endpoints: [{AT}]",
    "ModelRoute": "models: [m]",
    "ModelRollout": "model: m, stable: {version: 1}, candidate: {version: 2}",
    "Sidecar": OWN,
}
SHARES = "split: [{weight: 50, version: 1}, {weight: 50, version: 2}]"


def of(check: Check, kind: str, spec: str) -> list[str]:
    found = said(check(document(kind, "x", f"{{{SPEC[kind]}, {spec}}}"), is_partial=True), "MP0612")
    return [each.removeprefix(f"4: {kind}/x: spec.") for each in found]


@pytest.mark.parametrize(
    ("kind", "spec", "settings"),
    [
        ("MeshConfig", "telemetry: {accessLog: {keep: {slowerThan: 1s}}}", ["telemetry.accessLog.keep"]),
        ("ModelServer", "balancing: {key: {by: header, header: x-user}}", ["balancing.key"]),
        ("ModelServer", "breaker: {window: 5s, minRequests: 9}", ["breaker.window", "breaker.minRequests"]),
        ("ModelServer", "ejection: {minEndpoints: 1}", ["ejection"]),
        ("ModelServer", "health: {path: /a}", ["health.path"]),
        ("ModelServer", "health: {check: tcp, models: [m]}", ["health.models"]),
        ("ModelServer", "health: {check: http, models: [m], path: /a}", ["health.models"]),
        ("ModelRoute", "sticky: {by: caller}", ["sticky"]),
        ("ModelRoute", "sticky: {by: caller}, split: [{weight: 100, version: 1}, {weight: 0, version: 2}]", ["sticky"]),
        ("ModelRoute", "priority: default", ["priority"]),
        ("ModelRoute", "concurrency: {limit: 5, initial: 9, max: 10}", ["concurrency.initial", "concurrency.max"]),
        ("ModelRoute", "concurrency: {queue: 0, queueTimeout: 1s}", ["concurrency.queueTimeout"]),
        ("ModelRoute", "retries: {reasons: [reset, timeout]}", ["retries.reasons"]),
        ("ModelRollout", "analysis: {stepWeights: [1, 5], stepWeight: 5}", ["analysis.stepWeight"]),
        ("ModelRollout", "analysis: {mode: thresholds, falseAlarm: 0.01}", ["analysis.falseAlarm"]),
        ("Sidecar", "audit: {signingKey: a, fsync: never}", ["audit.signingKey", "audit.fsync"]),
        ("Sidecar", "auditLog: stdout, audit: {signingKey: a, keepFiles: 3}", ["audit.keepFiles"]),
        ("Sidecar", "auditLog: 'http://c:4318', audit: {rotateBytes: 1MiB}", ["audit.rotateBytes"]),
        ("Sidecar", "admin: {firstWorkerPort: 19000}", ["admin.firstWorkerPort"]),
    ],
)
def test_what_changes_nothing(check: Check, kind: str, spec: str, settings: list[str]) -> None:
    assert sorted(each.partition(": changes nothing: ")[0] for each in of(check, kind, spec)) == sorted(settings)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("MeshConfig", "telemetry: {accessLog: {ratio: 0, keep: {slowerThan: 1s}}}"),
        ("ModelServer", "balancing: {policy: ring-hash, key: {by: header, header: x-user}}"),
        ("ModelServer", "breaker: {successRate: 0.5, window: 5s, minRequests: 9}"),
        ("ModelServer", "ejection: {enabled: false}"),
        ("ModelServer", "health: {check: http, path: /a}"),
        ("ModelServer", "health: {models: [m]}"),
        ("ModelServer", "health: {enabled: false, path: /a}"),
        ("ModelRoute", f"sticky: {{by: caller}}, {SHARES}"),
        ("ModelRoute", "priority: sheddable, concurrency: {}"),
        ("ModelRoute", "concurrency: {initial: 9, max: 10, queueTimeout: 1s}"),
        ("ModelRoute", "concurrency: {limit: 5}"),
        ("ModelRoute", "server: a, fallback: a"),  # without it, endpoints are called although all breakers are open
        ("ModelRoute", "retries: {}"),
        ("ModelRoute", "tryTimeout: 1s, retries: {reasons: [timeout]}"),
        ("ModelRollout", "analysis: {stepWeight: 5, falseAlarm: 0.01}"),
        ("Sidecar", "auditLog: /a/b, audit: {signingKey: a, fsync: never}"),
        ("Sidecar", "workers: 2, admin: {firstWorkerPort: 19000}"),
    ],
)
def test_what_counts(check: Check, kind: str, spec: str) -> None:
    assert of(check, kind, spec) == []


def test_more_endpoints_than_are_written(check: Check) -> None:
    for endpoints, settings, why in (
        (f"endpoints: [{AT}, {AT}]", "{deviations: 1.5}", "it takes 3 endpoints to compare them, and there are 2"),
        (f"endpoints: [{AT}, {AT}]", "{minEndpoints: 2}", None),
        ("dns: {name: models, rest: 8501}", "{deviations: 1.5}", None),
    ):
        found = said(
            check(document("ModelServer", "x", f"{{{endpoints}, ejection: {settings}}}"), is_partial=True), "MP0612"
        )
        assert found == ([f"4: ModelServer/x: spec.ejection: changes nothing: {why}"] if why else [])


def route(name: str, match: str, more: str = "") -> str:
    return document("ModelRoute", name, f"{{models: [m], match: [{match}], timeout: 1s{more}}}")


X, Y = "{headers: {x: a}}", "{headers: {z: {prefix: b}}}"
XY = "{headers: {x: a, z: {prefix: b}}}"
OF_A = "{headers: {x: a}, caller: {workload: {namespace: a}}}"


@pytest.mark.parametrize(
    ("first", "second", "is_reached"),
    [
        (route("a", X), route("b", X), False),
        (route("a", f"{X}, {Y}"), route("b", f"{XY}, {Y}"), False),
        (route("a", X), route("b", OF_A), False),
        (route("a", OF_A), route("b", X), True),
        (route("a", XY), route("b", X), True),
        (route("a", X), route("b", f"{X}, {Y}"), True),
        (route("a", "{headers: {x: b}}"), route("b", X), True),
        (route("a", X, ", directions: [inbound]"), route("b", X), True),
        (route("a", X), route("b", X, ", directions: [inbound]"), False),
        (document("ModelRoute", "a", f"{{models: [n], match: [{X}]}}"), route("b", X), True),
        (document("ModelRoute", "a", "{models: [m]}"), route("b", X), True),
    ],
)
def test_a_route_that_an_earlier_one_hides(check: Check, first: str, second: str, is_reached: bool) -> None:
    found = said(check(first, second, is_partial=True), "MP0612")
    begin, _, end = "".join(found).partition(" at ")
    if is_reached:
        assert found == []
    else:
        assert begin == "9: ModelRoute/b: spec.match: never applies: all of these calls have ModelRoute/a"
        assert end.endswith("f.yaml:1, which comes first")


def rollout(metric: str = "request-duration") -> str:
    return document("ModelRollout", "x", f"{{{SPEC['ModelRollout']}, analysis: {{metrics: [{{name: {metric}}}]}}}}")


COMPARES = document("ModelRoute", "t", "{models: ['m*'], mirror: {version: 2, compare: {}}}")


def test_a_rollout_without_a_control_plane(check: Check) -> None:
    joined = document("Sidecar", "s", f"{{{PLANE}, inbound: {{server: local}}}}")
    assert said(check(mesh(), server(), joined, rollout()), "MP0612") == []
    assert said(check(rollout(), is_partial=True), "MP0612") == []
    (found,) = said(check(mesh(), server(), sidecar(), rollout()), "MP0612")
    assert found.endswith('s has no "controlPlane", which moves the weight: the stable version has all calls')


def test_copies_that_nothing_compares(check: Check) -> None:
    joined = document("Sidecar", "s", f"{{{PLANE}, inbound: {{server: local}}}}")
    judged = rollout("shadow-disagreement")
    assert said(check(mesh(), server(), joined, COMPARES, judged), "MP0612") == []
    assert said(check(judged, is_partial=True), "MP0612") == []
    for other in (COMPARES.replace("m*", "n*"), COMPARES.replace(", compare: {}", "")):
        (found,) = said(check(mesh(), server(), joined, other, judged), "MP0612")
        assert "spec.analysis.metrics[0]: nothing is compared" in found


def test_documents_with_problems_are_left_alone(check: Check) -> None:
    assert (
        said(check(document("ModelRoute", "x", "{models: [m], priority: default, a: b}"), is_partial=True), "MP0612")
        == []
    )
