"""What the page shows of a control plane."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from meshproxy.control.documents import MeshDocuments
from meshproxy.control.page_source import COST_SHARE, LEAST_AGE, PageSource
from meshproxy.control.rollouts import Shown
from meshproxy.control.sources import Files
from meshproxy.control.status import ControlStatus, DocumentsEntry, SidecarState
from meshproxy.rollout.drift import Found, Signal, State
from meshproxy.rollout.drift_watch import Drift, Watched
from meshproxy.rollout.steps import Gate, Notice, Phase, RolloutStatus
from meshproxy.rollout.verdict import Outcome, Verdict
from meshproxy.view.mesh import Mesh
from meshproxy.web.shapes import Grade, Sync
from tests.control.statuses import VERSION, ago, entry, status
from tests.view.meshes import mesh

DOCUMENTS = """
apiVersion: meshproxy.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomain: m.example
  issuers:
  - {name: corp, issuer: "https://login.example", audiences: [models]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRole
metadata: {name: read}
spec: {rules: [{models: ["fraud*"], verbs: [predict]}, {models: [spam], verbs: [predict, status]}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: readers}
spec:
  role: read
  subjects:
  - workload: {namespace: shop, serviceAccount: api}
    token: {issuer: corp, claims: {groups: {prefix: ml-}}, claimPaths: [{path: [acme.example, team], prefix: fraud}]}
  - {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16], headers: {x-tenant: a}}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBinding
metadata: {name: no-bob}
spec: {role: read, action: deny, subjects: [{workload: {spiffeId: "spiffe://m.example/bob"}}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelServer
metadata: {name: models}
spec: {endpoints: [{rest: "127.0.0.1:8501", grpc: "127.0.0.1:8500"}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoute
metadata: {name: fraud}
spec: {models: [fraud, "any-*"], split: [{server: models, weight: 100}]}
"""


def source(
    found: ControlStatus,
    documents: MeshDocuments | None = None,
    known: Mesh | None = None,
    rollouts: Sequence[Shown] = (),
) -> PageSource:
    async def get() -> ControlStatus:
        return found

    return PageSource(known or Mesh(), get, documents, lambda: rollouts)


async def documents(folder: Path) -> MeshDocuments:
    (folder / "mesh.yaml").write_text(DOCUMENTS)
    found = MeshDocuments(Files((str(folder),)))
    await found.first()
    return found


async def test_rules_for_a_model(tmp_path: Path) -> None:
    made = source(status(), await documents(tmp_path))
    rules = made.rules("fraud-eu")
    assert rules is not None
    assert [(rule.binding, rule.action, rule.verbs) for rule in rules] == [
        ("no-bob", "deny", ("predict",)),
        ("readers", "allow", ("predict",)),
    ]
    assert rules[0].subjects == ("spiffe://m.example/bob",)
    assert rules[1].subjects == (
        'namespace shop account api, token of corp with groups: prefix "ml-", ["acme.example", "team"]: prefix "fraud"',
        'from 10.0.0.0/8, not from 10.1.0.0/16, header x-tenant: "a"',
    )
    spam = made.rules("spam")
    assert spam is not None
    assert {rule.verbs for rule in spam} == {("predict", "status")}
    assert made.rules("other") == ()
    assert source(status()).rules("fraud") is None


async def test_models_that_documents_name_are_shown_also_if_nobody_calls_them(tmp_path: Path) -> None:
    graph = source(status(), await documents(tmp_path)).graph(60)
    assert [node.name for node in graph.nodes] == ["fraud", "spam"]


def test_a_model_that_has_changed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    known = mesh(20, time.time())
    drift = Drift(Watched("inbound", "fraud", "3"), Signal.ERRORS, Found(State.RAISED, 1_767_355_200.0, 0.03, 0.01))
    monkeypatch.setattr(known.drift, "raised", lambda now, model: [drift] if model == "fraud" else [])
    source = PageSource(known, status, None)  # type: ignore[arg-type]
    (change,) = source.changes("fraud")
    assert change.since == datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert change.words == "version 3, at its servers: 3.00% of the calls fail, 1.00% before"
    assert source.changes("other") == ()


async def test_a_rollout_is_shown_as_its_document_has_it(tmp_path: Path) -> None:
    rollout = """---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRollout
metadata: {name: spam-5}
spec: {model: spam, stable: {version: "4"}, candidate: {label: canary}, paused: true}
"""
    (tmp_path / "rollout.yaml").write_text(rollout)
    made = source(status(), await documents(tmp_path))
    found = made.rollout("spam")
    assert found is not None
    assert (found.name, found.phase) == ("spam-5", "paused")
    assert [(arm.name, arm.version, arm.weight) for arm in found.arms] == [
        ("stable", "4", None),
        ("candidate", "canary", None),
    ]
    assert made.rollout("fraud") is None
    assert source(status()).rollout("spam") is None


async def test_a_rollout_is_shown_as_the_controller_steers_it(tmp_path: Path) -> None:
    (tmp_path / "rollout.yaml").write_text("""---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRollout
metadata: {name: spam-5}
spec: {model: spam, stable: {version: "4"}, candidate: {version: "5"}}
""")
    begun, grown = Notice(0.0, "RolloutStarted", "from 4 to 5"), Notice(60.0, "WeightIncreased", "to 25 %")
    state = RolloutStatus("r", 1, Phase.PROGRESSING, 25.0, step=1, gate=None, notices=[begun, grown])
    shown = Shown("spam-5", "spam", "version 4", "version 5", (10, 25, 50), 60.0, "sequential", False, 2, state)
    known = await documents(tmp_path)

    found = source(status(), known, rollouts=[shown]).rollout("spam")
    assert found is not None
    assert (found.phase, found.step) == ("progressing", "step 2 of 3")
    assert [(arm.version, arm.weight) for arm in found.arms] == [("4", 0.75), ("5", 0.25)]
    assert found.events == (
        "1970-01-01T00:01:00.000+00:00 WeightIncreased: to 25 %",
        "1970-01-01T00:00:00.000+00:00 RolloutStarted: from 4 to 5",
    )

    state.verdict, state.stalled, state.gate = Verdict(Outcome.INSUFFICIENT, ("12 of 100 calls",)), True, Gate.INCREASE
    held = source(status(), known, rollouts=[msgspec.structs.replace(shown, paused=True)]).rollout("spam")
    assert held is not None
    assert (held.phase, held.step) == ("paused", "step 2 of 3, waits for the webhooks of increase, stalled")
    assert held.events[0].startswith("Last window: ")
    assert held.events[0].endswith("; 12 of 100 calls")


async def test_certificates() -> None:
    late = entry(host="late-0", certificate_issued=ago(86_000), certificate_expires=ago(-400))
    gone = entry(SidecarState.GONE, host="gone-0", certificate_issued=ago(90_000), certificate_expires=ago(3_600))
    found = await source(status(entry(), late, gone, rotation_step="prepared")).certificates()
    assert [(each.holder, each.grade) for each in found.certificates] == [
        ("resnet on gone-0", Grade.ERROR),
        ("resnet on late-0", Grade.ERROR),
        ("this control plane", Grade.WELL),
        ("resnet on resnet-0", Grade.WELL),
    ]
    assert "expired" in found.certificates[0].problem
    assert "overdue" in found.certificates[1].problem
    assert (found.trust_domain, found.rotation, found.authority) == ("m.example", "prepared", "a" * 64)


async def test_configuration() -> None:
    refused = entry(SidecarState.REFUSED, host="bad-0", problems=("no such role",))
    behind = entry(SidecarState.BEHIND, host="slow-0", sent_at=ago(1))
    given = DocumentsEntry(version=VERSION, problems=("models.yaml: bad",), source_problem="the cluster is away")
    found = await source(status(entry(), refused, behind, documents=given, forgotten=3)).configuration()
    assert [(each.host, each.state, each.grade) for each in found.sidecars] == [
        ("bad-0", Sync.REFUSED, Grade.ERROR),
        ("slow-0", Sync.BEHIND, Grade.WARNING),
        ("resnet-0", Sync.IN_SYNC, Grade.WELL),
    ]
    assert "no such role" in found.sidecars[0].problems[0]
    assert (found.version, found.problems, found.forgotten) == (VERSION, ("models.yaml: bad", "the cluster is away"), 3)
    assert (await source(status(documents=None)).configuration()).version == ""


async def test_denials_in_words_the_newest_first() -> None:
    known = mesh(5, 1_000_000.0)
    found = source(status(), known=known).denials()
    assert len(found) == len(known.denials) > 1
    assert found[0].at >= found[-1].at
    assert found[0].message
    assert found[0].sidecar.startswith("spiffe://")


def test_a_graph_that_costs_much_is_made_seldom() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += cost  # of what lies between two looks at the clock
        return now

    async def nothing() -> ControlStatus:
        raise AssertionError

    cost = 0.0
    made = PageSource(Mesh(), nothing, None, clock=clock)
    first = made.graph(60)
    assert made.graph(60) is first
    assert made.graph(300) is not first
    now = LEAST_AGE
    cost = 1.0
    second = made.graph(60)
    assert second is not first
    cost, now = 0.0, now + 1.0 / COST_SHARE - 0.1
    assert made.graph(60) is second
    now += 0.2
    assert made.graph(60) is not second
