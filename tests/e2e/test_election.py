"""The Lease in a real API server."""

from __future__ import annotations

import asyncio
import time

import pytest
from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.models.rbac_v1 import PolicyRule, RoleRef, Subject
from lightkube.resources.rbac_authorization_v1 import Role, RoleBinding

from meshproxy.control.cluster import connect
from meshproxy.control.election import NAME, Election, Resource
from tests.e2e.conftest import TestNamespace
from tests.processes.waiting import until

pytestmark = pytest.mark.timeout(600)


async def allowed(namespace: TestNamespace) -> AsyncClient:
    """A client that may do with Leases what the manual says, and no more."""
    rules = [PolicyRule(apiGroups=["coordination.k8s.io"], resources=["leases"], verbs=["get", "create", "update"])]
    metadata = ObjectMeta(name="lease", namespace=namespace.name)
    role = RoleRef(apiGroup="rbac.authorization.k8s.io", kind="Role", name="lease")
    kubeconfig = await namespace.kubeconfig("control")
    subject = Subject(kind="ServiceAccount", name="control", namespace=namespace.name)
    await namespace.client.apply(Role(metadata=metadata, rules=rules), field_manager="e2e")
    await namespace.client.apply(RoleBinding(metadata=metadata, roleRef=role, subjects=[subject]), field_manager="e2e")
    return connect(kubeconfig)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # 20 s, most of which is the time that a Lease lasts
async def test_one_leads_hands_over_and_is_followed_when_it_is_gone(namespace: TestNamespace) -> None:
    client = await allowed(namespace)
    elections = {name: Election(client, name) for name in "abc"}
    tasks = {name: asyncio.create_task(each.run()) for name, each in elections.items()}

    def leaders() -> list[str]:
        return [name for name, each in elections.items() if each.is_leader()]

    await until(leaders)
    (first,) = leaders()
    tasks[first].cancel()  # it releases the Lease
    await asyncio.gather(tasks.pop(first), return_exceptions=True)
    assert dict(await client.get(Resource, NAME))["spec"].get("holderIdentity") != first
    await until(leaders)
    (second,) = leaders()
    # It is killed: it does not release anything.
    elections[second]._candidate.release = lambda now: None  # type: ignore[method-assign]
    tasks[second].cancel()
    await asyncio.gather(tasks.pop(second), return_exceptions=True)
    (third,) = tasks
    began = time.monotonic()
    await until(lambda: elections[third].is_leader())
    print(f"taken over {time.monotonic() - began:.1f} s after the leader was killed")
    assert not elections[second].is_leader()
    spec = dict(await client.get(Resource, NAME))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == (third, 2)
    tasks[third].cancel()
    await asyncio.gather(tasks[third], return_exceptions=True)
    await client.close()


async def test_times_on_a_whole_second(namespace: TestNamespace) -> None:
    """The API server takes six digits and nothing else; both of Python's clients would leave them out."""
    client = await allowed(namespace)
    election = Election(client, "a", wall_clock=lambda: 1_800_000_000.0)
    await election._attempt()
    await election._attempt()
    assert election.is_leader()
    await client.close()
