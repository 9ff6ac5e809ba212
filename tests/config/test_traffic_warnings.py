"""What is suspicious about routes and rollouts."""

from __future__ import annotations

import pytest

from tests.config.conftest import Check, codes, document, mesh, said, server


def route(spec: str) -> str:
    return document("ModelRoute", "t", f"{{models: [m], {spec}}}")


@pytest.mark.parametrize(
    ("split", "shares"),
    [
        ("[{weight: 9, version: 1}, {weight: 1, version: 2}]", "90 %, 10 %"),
        ("[{weight: 90, version: 1}, {weight: 20, version: 2}]", "81.8 %, 18.2 %"),
        ("[{weight: 90, version: 1}, {version: 2}]", "98.9 %, 1.1 %"),
    ],
)
def test_weights_that_are_not_a_hundred(check: Check, split: str, shares: str) -> None:
    (found,) = said(check(route(f"split: {split}")), "MP0601")
    assert found.startswith("4: ModelRoute/t: spec.split: the weights add up to ")
    assert found.endswith(shares)


@pytest.mark.parametrize(
    "split",
    ["[{weight: 90, version: 1}, {weight: 10, version: 2}]", "[{version: 1}]", "[{version: 1}, {version: 2}]"],
)
def test_weights_that_are_fine(check: Check, split: str) -> None:
    assert codes(check(route(f"split: {split}"))) == []


@pytest.mark.parametrize(
    ("spec", "field", "limit"),
    [
        ("timeout: 1s, tryTimeout: 3s", "tryTimeout", '"timeout", 1s'),
        ("timeout: 1s, idleTimeout: 3s", "idleTimeout", '"timeout", 1s'),
        ("timeout: 1s, concurrency: {queueTimeout: 3s}", "concurrency.queueTimeout", '"timeout", 1s'),
        ("timeout: 1s, retries: {hedgeAfter: 3s}", "retries.hedgeAfter", '"timeout", 1s'),
        ("timeout: 9s, tryTimeout: 1s, retries: {hedgeAfter: 3s}", "retries.hedgeAfter", '"tryTimeout", 1s'),
        ("tryTimeout: 3s", "tryTimeout", '"requestTimeout" of the MeshConfig, 2s'),
    ],
)
def test_a_time_limit_beyond_that_of_the_whole(check: Check, spec: str, field: str, limit: str) -> None:
    (found,) = said(check(mesh(", limits: {requestTimeout: 2s}"), route(spec), is_partial=True), "MP0602")
    assert found == f"9: ModelRoute/t: spec.{field}: 3s is beyond {limit}: it never applies"


@pytest.mark.parametrize(
    "spec", ["timeout: 3s, tryTimeout: 1s", "timeout: 3s, tryTimeout: 3s", "tryTimeout: 3s", "timeout: 100ms"]
)
def test_time_limits_that_are_fine(check: Check, spec: str) -> None:
    assert codes(check(route(spec))) == []


@pytest.mark.parametrize(
    ("spec", "is_suspicious"),
    [
        ("tryTimeout: 1s, retries: {attempts: 3}", True),
        ("tryTimeout: 1s, retries: {reasons: [gateway-error]}", True),
        ("tryTimeout: 1s, retries: {reasons: [gateway-error, timeout]}", False),
        ("tryTimeout: 1s, retries: {attempts: 1}", False),
        ("tryTimeout: 1s", False),
        ("retries: {attempts: 3}", False),
    ],
)
def test_attempts_that_end_the_call(check: Check, spec: str, is_suspicious: bool) -> None:
    why = 'leaves "timeout" out: an attempt that "tryTimeout" ends is not retried, and the call fails'
    wanted = [f"4: ModelRoute/t: spec.retries.reasons: {why}"] if is_suspicious else []
    assert said(check(route(spec)), "MP0613") == wanted


CORS = "cors: {allowOrigins: ['https://app.example']}"


@pytest.mark.parametrize(("mode", "is_suspicious"), [("strict", True), ("permissive", False), ("disabled", False)])
def test_browsers_have_no_certificate_for_a_preflight(check: Check, mode: str, is_suspicious: bool) -> None:
    mesh = document("MeshConfig", "mesh", f"{{trustDomain: prod.example, mtls: {mode}}}")
    found = said(check(mesh, route(CORS), is_partial=True), "MP0605")
    assert [line.partition(": browsers")[0] for line in found] == (
        ["9: ModelRoute/t: spec.cors: mtls is strict, and a browser presents no client certificate with a preflight"]
        if is_suspicious
        else []
    )


TOKENS = ", issuers: [{name: corp, issuer: 'https://a', audiences: [b], tokenFrom: {cookie: session}}]"
TAKEN = (
    'tokens of issuer "corp" are in the cookie "session": a client without one is given a random value, which is no '
    "token, and is refused from then on: use another name"
)
REFUSED = 'browsers refuse the cookie "__Host-a" with the path "/v1": use "/", or another name'


@pytest.mark.parametrize(
    ("cookie", "message"), [("{name: session, ttl: 1h}", TAKEN), ("{name: __Host-a, ttl: 0, path: /v1}", REFUSED)]
)
def test_a_cookie_that_does_harm_or_is_refused(check: Check, cookie: str, message: str) -> None:
    key = f"{{by: cookie, cookie: {cookie}}}"
    (found,) = said(check(mesh(TOKENS), route(f"sticky: {key}"), is_partial=True), "MP0610")
    assert found == f"9: ModelRoute/t: spec.sticky.cookie: {message}"
    balanced = server(f", balancing: {{policy: ring-hash, key: {key}}}")
    (found,) = said(check(mesh(TOKENS), balanced, is_partial=True), "MP0610")
    assert found == f"9: ModelServer/local: spec.balancing.key.cookie: {message}"


@pytest.mark.parametrize("cookie", ["{name: session}", "{name: Session, ttl: 1h}", "{name: __Host-a, ttl: 1h}"])
def test_cookies_that_are_fine(check: Check, cookie: str) -> None:
    found = check(mesh(TOKENS), route(f"sticky: {{by: cookie, cookie: {cookie}}}"), is_partial=True)
    assert said(found, "MP0610") == []


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ("min: 0.99", [".min: 0.99 is in percent: write 99 if it is a ratio"]),
        ("min: 1", [".min: 1 is in percent: write 100 if it is a ratio"]),
        ("max: 99", [": a version of which no call fails breaks it: its rate is 100"]),
        ("min: 100.5", [": a version of which no call fails breaks it: its rate is 100"]),
        ("min: 99", []),
        ("min: 0", []),
        ("min: 1.5, max: 100", []),
    ],
)
def test_success_rates_are_percentages(check: Check, bounds: str, wanted: list[str]) -> None:
    def rollout(metric: str) -> str:
        metrics = f"metrics: [{{name: not-a-number}}, {{name: {metric}, thresholdRange: {{{bounds}}}}}]"
        return document(
            "ModelRollout",
            "t",
            f"{{model: m, stable: {{version: 1}}, candidate: {{version: 2}}, analysis: {{{metrics}}}}}",
        )

    where = "4: ModelRollout/t: spec.analysis.metrics[1].thresholdRange"
    assert said(check(rollout("request-success-rate"), is_partial=True), "MP0611") == [where + each for each in wanted]
    assert said(check(rollout("request-duration"), is_partial=True), "MP0611") == []
