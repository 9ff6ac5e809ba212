"""The state of a rollout in the status of its object, and events, at an API server that is made up."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.control.rollout_objects import FIELD_MANAGER, ObjectKeeper
from meshproxy.control.rollouts import KeepFailed
from meshproxy.rollout.analysis import Analysis
from meshproxy.rollout.judge import Judge
from meshproxy.rollout.steps import Notice, Phase, RolloutStatus
from meshproxy.rollout.window import ArmWindow, bucket
from tests.control.conftest import FakeServer
from tests.control.fake_api_server import Key


class Leads:
    def is_leader(self) -> bool:
        return True


def keeper(server: FakeServer) -> ObjectKeeper:
    election: Any = Leads()
    return ObjectKeeper(server.client, election)


def key(server: FakeServer) -> Key:
    return f"/apis/meshproxy.dev/v1alpha1/namespaces/{server.namespace}/modelrollouts", server.namespace, "half"


def put(server: FakeServer, **more: Any) -> None:
    server.fake.objects[key(server)] = {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {
            "name": "half",
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        **more,
    }


async def test_it_is_kept_in_the_status(server: FakeServer) -> None:
    put(server)
    kept = keeper(server)
    assert kept.is_leader()
    assert await kept.load("half") is None
    status = RolloutStatus("r1", 2, Phase.PROGRESSING, 10.0)
    arm = ArmWindow(calls=5, failures={"grpc 13": 1}, latency={bucket(0.1): 4})
    status.verdict = Judge(Analysis(), status.evidence).add(arm, arm)
    await kept.keep("half", status)
    assert server.fake.objects[key(server)]["status"]["rollout"]["phase"] == "progressing"
    assert await kept.load("half") == status
    assert server.fake.requests[-2].query["fieldManager"] == FIELD_MANAGER


async def test_phase_and_weight_are_always_shown(server: FakeServer) -> None:
    put(server)
    kept, status = keeper(server), RolloutStatus("r1", 1)
    await kept.keep("half", status)
    shown = server.fake.objects[key(server)]["status"]["rollout"]
    assert (shown["phase"], shown["weight"]) == ("waiting", 0.0)
    assert await kept.load("half") == status


async def test_an_object_that_is_gone_has_nothing(server: FakeServer) -> None:
    assert await keeper(server).load("half") is None


async def test_a_status_that_is_not_ours(server: FakeServer) -> None:
    put(server, status={"rollout": {"phase": "somewhere"}})
    with pytest.raises(KeepFailed, match="not ours"):
        await keeper(server).load("half")


async def test_events(server: FakeServer) -> None:
    kept = keeper(server)
    notice = Notice(1_800_000_000.5, "RolledBack", "it fails", is_warning=True)
    await kept.tell("half", notice)
    await kept.tell("half", notice)  # another attempt to write it
    (event,) = server.fake.objects.values()
    assert (event["reason"], event["type"], event["message"]) == ("RolledBack", "Warning", "it fails")
    assert event["involvedObject"]["kind"] == "ModelRollout"
    assert event["firstTimestamp"] == "2027-01-15T08:00:00Z"


async def test_what_is_forbidden_says_which_right_is_missing(server: FakeServer) -> None:
    put(server)
    kept = keeper(server)
    server.fake.status = 403
    with pytest.raises(KeepFailed, match="get modelrollouts"):
        await kept.load("half")
    with pytest.raises(KeepFailed, match="patch the status of modelrollouts"):
        await kept.keep("half", RolloutStatus("r", 1))
    with pytest.raises(KeepFailed, match="create events"):
        await kept.tell("half", Notice(1.0, "Started", ""))
