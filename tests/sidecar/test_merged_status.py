"""One status of several workers."""

from __future__ import annotations

from typing import Any

from meshproxy.sidecar.merged_status import merge
from meshproxy.telemetry.last_refusals import KEPT
from tests.sidecar.conftest import direction, endpoint, issuer, refusal, rejected, status

OWN = {"version": "1.2.3", "pid": 1, "startedAt": "2026-01-01T08:00:00.000+00:00", "state": "ready",
       "conditions": {"worker 0 is ready": True}}  # fmt: skip
WORKERS = [{"number": number, "ready": True} for number in range(2)]


def merged(noon: float, *statuses: dict[str, Any], workers: int = 2) -> dict[str, Any]:
    return merge(OWN, WORKERS[:workers], statuses, noon)


def test_workers_that_are_alike(noon: float) -> None:
    found = merged(noon, status(pid=7), status(pid=8))
    assert found["attention"] == []
    assert {key: found[key] for key in OWN} == OWN
    assert found["workers"] == WORKERS
    for same in ("documents", "identity", "issuers", "mtls"):
        assert found[same] == status()[same]
    assert found["directions"]["inbound"] == {
        "address": "0.0.0.0:18500",
        "state": "serving",
        "connections": {"mtls": 6, "tls": 0, "plaintext": 2},
        "connectionsTotal": {"mtls": 60, "tls": 0, "plaintext": 20},
        "inFlight": 8,
        "served": 2_000,
    }
    assert found.keys() == status().keys()


def test_of_endpoints_the_worst_state_and_the_sum_of_the_rest(noon: float) -> None:
    def serving(*endpoints: dict[str, Any]) -> dict[str, Any]:
        return status(servers={"local": {"source": "dns", "known": True, "endpoints": list(endpoints)}})

    good = endpoint("a:1", healthy=True, latencySeconds=0.001)
    bad = endpoint("a:1", healthy=False, takesCalls=False, breaker="open", ejected=True, modelBreakers={"m": "open"},
                   unavailableModels=["m"], loadingModels=["m"])  # fmt: skip
    found = merged(noon, serving(good), serving(bad, endpoint("b:1", breaker=None, latencySeconds=None)))
    a, b = found["servers"]["local"]["endpoints"]
    assert a == {**bad, "inFlight": 2, "connections": 4}
    assert (b["breaker"], b["healthy"], b["latencySeconds"]) == (None, None, None)
    assert found["attention"] == [
        "1 of 2 endpoints of local take no calls, or single ones",
        "models of local that are not available everywhere: m",
    ]


def test_what_one_worker_has_not_taken_is_shown(noon: float) -> None:
    found = merged(
        noon, status(), status(documents=rejected("f.yaml: bad"), issuers=[issuer(problem="timeout", keys=0)])
    )
    assert found["documents"]["lastReload"]["problems"] == ["f.yaml: bad"]
    assert found["issuers"][0]["problem"] == "timeout"
    assert len(found["attention"]) == 2


def test_the_identity_that_ends_first_or_was_rejected(noon: float) -> None:
    sooner = {**status()["identity"], "notAfter": "2026-01-01T12:30:00.000+00:00"}
    assert merged(noon, status(), status(identity=sooner))["identity"] == sooner
    wrong = {**status()["identity"], "problem": "another key"}
    assert merged(noon, status(identity=sooner), status(identity=wrong))["identity"] == wrong


def test_different_documents(noon: float) -> None:
    other = {**status()["documents"], "fingerprint": "cd" * 32}
    assert merged(noon, status(), status(documents=other))["attention"] == ["the workers use different documents"]


def test_refusals_of_all(noon: float) -> None:
    ours = {
        "total": {"rate-limited": 2},
        "last": [refusal(at=f"2026-01-01T11:{minute}:00") for minute in range(59, 19, -2)],
    }
    theirs = {"total": {"rate-limited": 1, "internal": 5},
              "last": [refusal(at=f"2026-01-01T11:{minute}:00") for minute in range(58, 18, -2)]}  # fmt: skip
    found = merged(noon, status(refusals=ours), status(refusals=theirs))["refusals"]
    assert found["total"] == {"internal": 5, "rate-limited": 3}
    assert [each["at"] for each in found["last"]] == [
        f"2026-01-01T11:{minute}:00" for minute in range(59, 59 - KEPT, -1)
    ]


def test_workers_that_say_nothing(noon: float) -> None:
    found = merged(noon, status())
    assert found["attention"] == ["1 of 2 workers did not tell their status: it is missing here"]
    assert found["directions"]["inbound"] == direction()
    nobody = merged(noon)
    assert nobody.keys() == status().keys()
    assert nobody["attention"] == ["2 of 2 workers did not tell their status: it is missing here"]
    assert merge({**OWN, "conditions": {"a": False}}, WORKERS, [], noon)["attention"][0].endswith("does not hold: a")


def test_models_whose_hop_lag_has_risen_in_one_of_them(noon: float) -> None:
    found = merged(noon, status(hopLag={"raised": ["m"]}), status())
    assert found["hopLag"] == {"raised": ["m"]}
    assert found["attention"] == ["the hop lag of these models has risen: m"]
