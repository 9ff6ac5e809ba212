"""The weights of rollouts in a sidecar, and the flip back to the stable version."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.fields import Metadata, TextMatch
from meshproxy.config.rollouts import Arm, FastKill, ModelRollout, Rollback, RolloutSpec, WarmUp
from meshproxy.config.routes import Match, ModelRoute, RouteSpec
from meshproxy.rollout.link import RolloutState
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.live_split import LiveSplit
from meshproxy.routing.routes import compile_routes
from meshproxy.sidecar.rollouts import Killed, Rollouts, is_loaded, weight_of
from tests.rollout.test_meter import Record

FILE = "rollouts.json"
DOCUMENT = ModelRollout(metadata=Metadata("r"), spec=RolloutSpec("m", Arm("1"), Arm("2"), warm_up=WarmUp(0, 0.0)))
REVISION = DOCUMENT.spec.revision


def state(weight: float, attempt: int = 0, **changes: Any) -> RolloutState:
    return RolloutState("r", changes.pop("revision", REVISION), attempt, weight, **changes)


class Sidecar:
    """A process: what it has on disk outlives it."""

    def __init__(self, folder: Path) -> None:
        self.live = CarriedState()
        self.is_loaded: bool | None = None
        self.rollouts = Rollouts(self.live, folder / FILE, lambda rollout: self.is_loaded)
        self.adopt(DOCUMENT)

    def adopt(self, *documents: ModelRollout) -> None:
        for document in documents:
            self.live.live_split(document)
        self.live.adopt()
        self.rollouts.adopt(SimpleNamespace(rollouts=documents))  # type: ignore[arg-type]

    @property
    def split(self) -> LiveSplit:
        (split,) = self.live.splits()
        return split

    def fail(self, calls: int = 20) -> None:
        for _ in range(calls):
            if (meter := self.rollouts.meters.get("r")) is not None and self.split.weight:
                meter.ended(Record(200, 13).real, True, 0, 0, None)


@pytest.fixture
def sidecar(tmp_path: Path) -> Sidecar:
    return Sidecar(tmp_path)


def test_until_it_is_told_the_stable_version_has_all(sidecar: Sidecar) -> None:
    assert (sidecar.split.weight, sidecar.rollouts.meters) == (0.0, {})
    sidecar.rollouts.take([state(10.0)])
    assert (sidecar.split.weight, list(sidecar.rollouts.meters)) == (10.0, ["r"])
    assert sidecar.rollouts.weights() == [(("r",), 10.0)]
    sidecar.rollouts.take([state(0.0, is_active=False)])
    assert (sidecar.split.weight, sidecar.rollouts.meters) == (0.0, {})


def test_what_is_said_of_other_arms_is_not_for_these(sidecar: Sidecar) -> None:
    sidecar.rollouts.take([state(50.0, revision="another")])
    assert sidecar.split.weight == 0.0


def test_a_burst_flips_at_once_and_is_told(sidecar: Sidecar) -> None:
    sidecar.rollouts.take([state(50.0)])
    sidecar.rollouts.has_news.clear()
    sidecar.fail()
    assert sidecar.split.weight == 0.0
    assert sidecar.rollouts.kills == 1
    assert sidecar.rollouts.has_news.is_set()
    (report,) = sidecar.rollouts.reports()
    assert "burst" in report.killed
    assert report.candidate.failures == {"grpc 13": 7}


def test_a_candidate_that_is_not_available_yet_gets_nothing(sidecar: Sidecar) -> None:
    sidecar.is_loaded = False
    sidecar.rollouts.take([state(50.0)])
    assert sidecar.split.weight == 0.0
    sidecar.rollouts.checked()
    assert sidecar.split.weight == 0.0
    sidecar.is_loaded = True
    sidecar.rollouts.checked()
    assert sidecar.split.weight == 50.0
    # It was there: that it is gone is a failure, which is judged, and no reason to wait.
    sidecar.is_loaded = False
    sidecar.rollouts.checked()
    assert sidecar.split.weight == 50.0
    sidecar.rollouts.take([state(20.0, attempt=1)])
    assert sidecar.split.weight == 0.0


def test_one_that_was_promoted_waits_for_nothing(sidecar: Sidecar, tmp_path: Path) -> None:
    """The stable version may be gone: a sidecar that starts again must not call that until a check is answered."""
    sidecar.rollouts.take([state(100.0, is_active=False)])
    again = Sidecar(tmp_path)
    again.is_loaded = False
    again.rollouts.checked()
    assert again.split.weight == 100.0


def test_a_candidate_is_looked_for_where_its_calls_go() -> None:
    """A route may name another server than the one that calls go to by default, also under a condition."""
    matching = RouteSpec(("m",), server="b", match=(Match(headers={"x": TextMatch(exact="1")}),))
    found: dict[str, frozenset[str] | None] = {"a": frozenset("1"), "b": frozenset("2"), "c": None}

    def loaded(server: str | None, *specs: RouteSpec, candidate: Arm = Arm("2"), model: str = "m") -> bool | None:  # noqa: B008
        spec = RolloutSpec(model, Arm("1"), candidate, direction="outbound")
        documents = [ModelRoute(metadata=Metadata(f"r{n}"), spec=each) for n, each in enumerate(specs)]
        routes = compile_routes("outbound", None, None, documents, "m.example", CarriedState())
        return is_loaded(spec, routes, server, lambda name, model: found[name])

    assert [loaded(server) for server in ("a", "b", "c", None)] == [False, True, None, None]
    assert loaded("a", RouteSpec(("m",), server="b")) is True
    assert loaded("a", RouteSpec(("m",), server="b"), model="n") is False
    assert [loaded(server, matching) for server in ("a", "b", "c")] == [False, True, None]
    assert loaded("a", candidate=Arm("2", server="b")) is True
    assert loaded("a", candidate=Arm(label="canary")) is None


def test_it_stays_out_until_another_attempt(sidecar: Sidecar) -> None:
    sidecar.rollouts.take([state(50.0)])
    sidecar.fail()
    sidecar.rollouts.take([state(60.0)])  # sent before the control plane knew
    assert sidecar.split.weight == 0.0
    sidecar.rollouts.take([state(5.0, attempt=1)])
    assert sidecar.split.weight == 5.0
    assert sidecar.rollouts.reports() == []


def test_a_restart_while_the_control_plane_is_away(sidecar: Sidecar, tmp_path: Path) -> None:
    sidecar.rollouts.take([state(20.0)])
    assert Sidecar(tmp_path).split.weight == 20.0
    sidecar.fail()
    again = Sidecar(tmp_path)
    assert again.split.weight == 0.0
    assert again.rollouts.reports()[0].killed


def test_a_damaged_file_gives_all_to_the_stable_version(sidecar: Sidecar, tmp_path: Path) -> None:
    sidecar.rollouts.take([state(20.0)])
    (tmp_path / FILE).write_bytes(b'{"told":[{"rollout"')
    assert Sidecar(tmp_path).split.weight == 0.0


def test_documents_that_change(sidecar: Sidecar) -> None:
    sidecar.rollouts.take([state(20.0)])
    sidecar.adopt()
    assert (sidecar.rollouts.meters, sidecar.rollouts.exist.is_set()) == ({}, False)
    sidecar.adopt(DOCUMENT)
    assert sidecar.split.weight == 20.0


def test_a_fast_kill_that_the_document_turns_off(sidecar: Sidecar) -> None:
    sidecar.rollouts.take([state(20.0)])
    meter = sidecar.rollouts.meters["r"]
    sidecar.adopt(DOCUMENT)
    assert sidecar.rollouts.meters["r"] is meter
    spec = msgspec.structs.replace(DOCUMENT.spec, rollback=Rollback(fast_kill=FastKill(enabled=False)))
    sidecar.adopt(msgspec.structs.replace(DOCUMENT, spec=spec))
    sidecar.fail()
    assert sidecar.split.weight == 20.0


def test_what_was_reported_is_not_reported_again(sidecar: Sidecar) -> None:
    sidecar.rollouts.take([state(20.0)])
    sidecar.rollouts.meters["r"].ended(Record(200).real, False, 0, 5, None)
    (report,) = sidecar.rollouts.reports()
    assert report.stable.calls == 1
    assert sidecar.rollouts.reports() == []
    assert sidecar.rollouts.period == 5.0


@settings(max_examples=40)
@given(st.floats(0, 100), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans())
def test_a_failed_candidate_gets_nothing(weight: float, told: int, killed: int, same: bool, active: bool) -> None:
    out = Killed("r", REVISION if same else "other", killed, "why")
    found, _ = weight_of(state(weight, told, is_active=active), out, REVISION)
    assert found == (0.0 if same and told <= killed else weight)
