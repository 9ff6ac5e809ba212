"""The screen of `meshproxy status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from meshproxy.cli import _status_text
from meshproxy.cli._status_text import WIDTH, show
from tests.sidecar.conftest import direction, endpoint, issuer, refusal, rejected, status


@pytest.fixture(autouse=True)
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

    monkeypatch.setattr(_status_text, "datetime", Noon)


@pytest.fixture
def screen(capsys: pytest.CaptureFixture[str]) -> Any:
    def read(**fields: Any) -> str:
        show(status(**fields), "127.0.0.1:18502")
        return capsys.readouterr().out

    return read


def test_a_sidecar_that_is_well(screen: Any) -> None:
    assert screen() == (
        "sidecar     meshproxy 1.2.3 at 127.0.0.1:18502, process 7, up 3h\n"
        "state       READY\n"
        "documents   abababababab, in use for 2h: 2 roles, 1 binding, 1 server, 0 routes\n"
        "identity    spiffe://prod.example/ns/serving/sa/tfs\n"
        "            expires in 1h (2026-01-01 13:00:00 UTC), mtls strict\n"
        "issuers     corp: 2 keys, fetched 1m ago\n"
        "inbound     0.0.0.0:18500, 4 connections of 40 so far (75 % mTLS, 25 % plain\n"
        "            text), 4 calls in flight, 1,000 served\n"
        "refusals    none\n"
        "\n"
        "SERVER  ENDPOINT        STATE  LATENCY  FLIGHT  CONN  TLS\n"
        "local   127.0.0.1:8501  ok        2 ms       1     2  none\n"
    )


def test_everything_that_can_be_wrong_fits_on_a_screen(screen: Any) -> None:
    bad = endpoint("10.0.0.1:8501,10.0.0.1:8500", healthy=False, ejected=True, breaker="half_open", latencySeconds=None)
    text = screen(
        state="not ready",
        attention=["a " * 60, "b"],
        documents=rejected(*[f"policy.yaml:{number}: ModelRole/readers: spec: {'x ' * 50}" for number in range(12)]),
        identity={**status()["identity"], "notAfter": "2026-01-01T11:00:00.000+00:00"},
        issuers=[
            issuer(problem="no answer", failures=3),
            issuer(name="other", keys=0, unused=["key 1: x"], fetchedAt=None),
        ],
        directions={"outbound": direction(state="draining", connectionsTotal={"mtls": 0, "tls": 0, "plaintext": 0})},
        servers={
            "local": {"source": "dns", "known": True, "endpoints": [endpoint(), bad]},
            "far": {"source": "dns", "known": False, "endpoints": []},
        },
        refusals={"total": {"permission-denied": 1_234, "rate-limited": 2}, "last": [refusal()] * 20},
        workers=[
            {
                "number": 0,
                "pid": 8,
                "state": "serving",
                "ready": True,
                "admin": "127.0.0.1:18503",
                "fingerprint": "ab" * 32,
            },
            {"number": 1, "pid": None, "state": "waiting", "ready": False, "admin": None, "fingerprint": None},
        ],
    )
    assert max(map(len, text.splitlines())) <= WIDTH
    for part in (
        "state       NOT READY\nattention   ! a a a",
        "            ! b\n",
        "last reload rejected 1h ago\n            - policy.yaml:0: ",
        "- and 2 more (-o json)\n",
        "has EXPIRED (2026-01-01 11:00:00 UTC)",
        "issuers     corp: 2 keys, fetched 1m ago; 3 attempts failed since: no answer\n",
        "            other: 0 keys and 1 not used (-o json says why), never fetched\n",
        "outbound    0.0.0.0:18500, draining, 4 connections, 4 calls",
        "refusals    permission-denied 1,234, rate-limited 2\n",
        "not resolved",
        "serving  yes    127.0.0.1:18503  abababababab\n",
        "waiting  no     -",
    ):
        assert part in text
    (row,) = [line for line in text.splitlines() if "predict fraud" in line]
    assert row.split() == ["30s", "20", "in", "permission-denied", "predict", "fraud", "pricing/quoter", "default-deny"]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"healthy": True}, "healthy"),
        ({"ejected": True}, "ejected"),
        ({"breaker": None}, "ok"),
        ({"healthy": False, "breaker": "open"}, "unhealthy; breaker open"),
        ({"unavailableModels": ["a", "b"]}, "without a, b"),
        ({"loadingModels": ["a"], "unavailableModels": ["a"]}, "without a; loading a"),
        ({"modelBreakers": {"m": "open"}}, "breaker open for m"),
    ],
)
def test_states_of_endpoints(screen: Any, fields: dict[str, Any], state: str) -> None:
    assert f"  {state}  " in screen(
        servers={"local": {"source": "static", "known": True, "endpoints": [endpoint(**fields)]}}
    )


@pytest.mark.parametrize(
    ("security", "shown"),
    [
        ({"rest": "mtls", "grpc": "mtls"}, "mTLS"),
        ({"rest": "plaintext"}, "none"),
        ({"rest": "plaintext", "grpc": "tls"}, "REST none, gRPC TLS"),
    ],
)
def test_how_endpoints_are_secured(screen: Any, security: dict[str, str], shown: str) -> None:
    server = {"source": "static", "known": True, "endpoints": [endpoint(security=security)]}
    assert screen(servers={"local": server}).endswith(f"  {shown}\n")


def test_without_identity(screen: Any) -> None:
    assert "identity    none: mtls is disabled\n" in screen(identity=None, mtls="disabled")


def test_workers_that_say_nothing(screen: Any) -> None:
    text = screen(documents=None, identity=None, mtls=None, issuers=[], directions={}, servers={})
    assert "identity    not known\n" in text
    assert "documents" not in text


@pytest.mark.parametrize(
    ("caller", "shown"),
    [
        ("spiffe://d/ns/a/sa/b", "a/b"),
        ("spiffe://d/x", "spiffe://d/x"),
        ("corp: alice", "corp: alice"),
        (None, "10.0.0.1"),
    ],
)
def test_callers(screen: Any, caller: str | None, shown: str) -> None:
    text = screen(refusals={"total": {}, "last": [refusal(caller=caller)]})
    assert f"  {shown}  " in text.splitlines()[-1]


@pytest.mark.parametrize("name", ["[fd00::7]:8501", "[red]x[/red]", "[/x]", "2001:db8:b:1"])
def test_names_are_no_markup(screen: Any, name: str) -> None:
    server = {"source": "static", "known": True, "endpoints": [endpoint(name)]}
    text = screen(servers={"local": server}, refusals={"total": {}, "last": [refusal(call=name)]})
    assert text.count(f"  {name}  ") == 2


def test_what_could_move_the_cursor_is_escaped(screen: Any) -> None:
    server = {"source": "static", "known": True, "endpoints": [endpoint("\x1b[2J")]}
    text = screen(servers={"local": server}, attention=["\x1b]0;x\x07"], issuers=[issuer(name="a\x9bb")])
    assert "\\x1b[2J  " in text
    assert text.replace("\n", "").isprintable()
