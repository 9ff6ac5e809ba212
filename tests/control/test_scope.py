"""Scopes: what concerns a sidecar, and that it decides by it as it would by everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config import schema
from meshproxy.config.fields import BindingSubject, Metadata, TextMatch, WorkloadSubject
from meshproxy.config.own_host import misfits
from meshproxy.config.rollouts import Arm, ModelRollout, RolloutSpec
from meshproxy.config.routes import Destination, Fallback, Match, Mirror, ModelRoute, RouteSpec
from meshproxy.config.schema import BindingSpec, MeshConfig, MeshSpec, ModelRole, ModelRoleBinding, RoleSpec, Rule
from meshproxy.config.servers import Endpoint, ModelServer, ServerSpec, Service
from meshproxy.config.sidecars import Inbound, Outbound, Sidecar, SidecarSpec
from meshproxy.config.values import Address
from meshproxy.control.scope import Change, Held, Selection, servers_of
from meshproxy.control_api import Scope
from meshproxy.identity.caller import ANONYMOUS, Caller, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.refusal import Refusal
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.routes import Route, Routes, compile_routes
from meshproxy.routing.servers import Servers
from meshproxy.sidecar.snapshots import inbound_snapshot

DOMAIN = "m.example"
SERVERS = ("s1", "s2", "s3", "s4")
MODELS = ("a", "ab", "b")
HEADERS = ((), ((b"x-canary", b"1"),))
CALLERS = (
    ANONYMOUS,
    *(Caller(Workload(f"spiffe://{DOMAIN}/ns/n/sa/{name}", DOMAIN, "n", name, 1e12)) for name in "xy"),
)
CALLS = (
    *(Call(verb) for verb in Verb if verb.is_admin),
    Call(Verb.STATUS),
    *(Call(verb, (ModelRef(name),)) for verb in (Verb.PREDICT, Verb.STATUS) for name in MODELS),
    *(Call(Verb.PREDICT, (ModelRef(name, "1"),)) for name in MODELS),
    Call(Verb.PREDICT, (ModelRef("a"), ModelRef("b"))),
)


def named(name: str) -> dict[str, Any]:
    return {"metadata": Metadata(name)}


patterns = st.lists(st.sampled_from([*MODELS, "*", "a*", "?"]), min_size=1, max_size=2).map(tuple)
servers = st.sampled_from(SERVERS)
rules = st.builds(
    Rule,
    patterns,
    st.lists(st.sampled_from(["predict", "status", "reload", "metrics"]), min_size=1, max_size=2).map(tuple),
    st.sampled_from([(), ("1",)]),
)
roles = st.builds(lambda name, rule: ModelRole(**named(name), spec=RoleSpec((rule,))), st.sampled_from("pqr"), rules)
subjects = st.sampled_from(
    [
        BindingSubject(workload=WorkloadSubject(namespace="n")),
        BindingSubject(workload=WorkloadSubject(namespace="n", service_account="x")),
        BindingSubject(headers={"x-canary": "1"}),
        BindingSubject(headers={"x-canary": TextMatch(present=False)}),
    ]
)
split = st.lists(st.builds(Destination, st.just(1), st.none() | servers), max_size=2).map(tuple)
fallback = st.none() | servers | st.builds(Fallback, servers, st.none() | st.sampled_from(MODELS))
matches = st.sampled_from([(), (Match(headers={"x-canary": "1"}),)])
directions = st.sampled_from([("inbound",), ("outbound",), ("inbound", "outbound")])
routes = st.builds(
    lambda name, **spec: ModelRoute(**named(name), spec=RouteSpec(**spec)),
    st.sampled_from("uvwz"),
    models=patterns,
    match=matches,
    directions=directions,
    server=st.none() | servers,
    split=split,
    mirror=st.none() | st.builds(Mirror, servers),
    fallback=fallback,
)


def server(name: str, host: str = "", models: tuple[str, ...] = ()) -> ModelServer:
    hosts = (f"{name}.{host}",) if host else ()
    return ModelServer(**named(name), spec=ServerSpec((Endpoint(rest=f"{name}:1"),), hosts=hosts, models=models))


@st.composite
def meshes(draw: st.DrawFn) -> dict[str, Held]:
    """The documents of a mesh, as the control plane has checked them."""
    listed = draw(st.sampled_from([(), ("a",), ("b",), ("ab", "b"), ("other",)]))
    first, *others = SERVERS
    servers = [server(first, models=listed), *map(server, others)]
    found: list[Any] = [MeshConfig(**named("m"), spec=MeshSpec(DOMAIN)), *servers]
    some = draw(st.lists(roles, max_size=3, unique_by=lambda role: role.metadata.name))
    found += some
    if some:
        role = st.sampled_from([role.metadata.name for role in some])
        actions = st.sampled_from(["allow", "deny", "audit"])
        specs = st.builds(BindingSpec, role, st.lists(subjects, min_size=1, max_size=2).map(tuple), actions)
        found += [
            ModelRoleBinding(**named(f"b{place}"), spec=spec)
            for place, spec in enumerate(draw(st.lists(specs, max_size=4)))
        ]
    found += draw(st.lists(routes, max_size=4, unique_by=lambda route: route.metadata.name))
    places = draw(st.permutations(range(len(found))))
    held = [Held.of(document, f"{place:06}") for place, document in zip(places, found, strict=True)]
    return {each.key: each for each in held}


scopes = st.sampled_from(
    [
        Scope("s1"),
        Scope("s1", True),
        Scope("s1", True, ""),
        Scope("s1", models=True),
        Scope("s1", True, models=True),
        Scope("s2", models=True),
        Scope("missing", models=True),
        Scope("", True, models=True),
        Scope("s2"),
        Scope("", True),
        Scope("", True, "s2"),
        Scope("missing"),
        Scope(),
    ]
)


def documents(held: dict[str, Held], scope: Scope) -> schema.Documents:
    """What a sidecar would have."""
    found = [each.document for each in sorted(held.values(), key=lambda each: each.sent.order)]

    def of(kind: type[Any]) -> tuple[Any, ...]:
        return tuple(document for document in found if isinstance(document, kind))

    inbound = Inbound(server=scope.server) if scope.server else None
    spec = SidecarSpec(inbound=inbound, outbound=Outbound() if scope.outbound or inbound is None else None)
    return schema.Documents(
        mesh=of(MeshConfig)[0],
        sidecar=Sidecar(**named("x"), spec=spec),
        roles=of(ModelRole),
        bindings=of(ModelRoleBinding),
        servers=of(ModelServer),
        routes=of(ModelRoute),
        fingerprint="",
    )


def decided(mesh: schema.Documents) -> list[object]:
    """Every decision on inbound calls, and what may be seen of answers to those that are refused."""
    snapshot = inbound_snapshot(mesh, {}, None, CarriedState())
    assert snapshot is not None
    policy = snapshot.policy
    found: list[object] = []
    for caller in CALLERS:
        for call in CALLS:
            for headers in HEADERS:
                try:
                    found.append(policy.decide(caller, call, "10.0.0.1:1", headers))
                except Refusal as refusal:
                    found.append((refusal.reason, str(refusal), refusal.rule, refusal.audits, refusal.conditions))
                    found.append(policy.decide_partly(caller, call, "10.0.0.1:1", headers))
                    if len(call.models) == 1:
                        found.append(policy.may_see(caller, call, "1", "10.0.0.1:1", headers))
    return found


def described(route: Route) -> tuple[object, ...]:
    return route.name, route.server, repr(route.arms), route.mirror, repr(route.fallback), route.labels


def routed(found: Routes) -> list[Route]:
    return [found.match(call, headers, caller) for caller in CALLERS for call in CALLS for headers in HEADERS]


def targets(route: Route) -> set[str]:
    named = [route.server, *(arm.server for arm in route.arms)]
    named += [each.server for each in (route.mirror, route.fallback) if each is not None]
    return {name for name in named if name is not None}


@given(meshes(), scopes)
def test_a_sidecar_decides_as_it_would_by_everything(mesh: dict[str, Held], scope: Scope) -> None:
    whole, own = documents(mesh, scope), documents(Selection(scope, mesh).documents, scope)
    present = {each.metadata.name for each in own.servers}
    if scope.server:
        assert decided(own) == decided(whole)
        for each, other in zip(*(routed(inbound(all_of, scope)) for all_of in (own, whole)), strict=True):
            assert described(each) == described(other)
            assert targets(each) - {"missing"} <= present
        assert list(misfits(own.sidecar, own.mesh, own.servers, own.routes)) == list(
            misfits(whole.sidecar, whole.mesh, whole.servers, whole.routes)
        )
    if scope.outbound:
        for each, other in zip(*(routed(outbound(all_of)) for all_of in (own, whole)), strict=True):
            assert described(each) == described(other)
            assert targets(each) <= present
        found = [Servers(all_of.servers) for all_of in (own, whole)]
        for host in (*SERVERS, "s1.h", "unknown"):
            assert found[0].find(host.encode(), None, "s1:1") == found[1].find(host.encode(), None, "s1:1")
            assert found[0].find(b"", host.encode(), "") == found[1].find(b"", host.encode(), "")


def inbound(mesh: schema.Documents, scope: Scope) -> Routes:
    return compile_routes("inbound", scope.server, None, mesh.routes, DOMAIN, CarriedState())


def outbound(mesh: schema.Documents) -> Routes:
    return compile_routes("outbound", None, None, mesh.routes, DOMAIN, CarriedState())


@given(meshes(), st.lists(meshes(), min_size=1, max_size=3), scopes)
def test_following_changes_is_the_same_as_selecting_anew(
    mesh: dict[str, Held], later: list[dict[str, Held]], scope: Scope
) -> None:
    selection = Selection(scope, mesh)
    for after in later:
        before = dict(selection.documents)
        keys = dict.fromkeys([*mesh, *after])
        changes = [Change(key, mesh.get(key), after.get(key)) for key in keys if mesh.get(key) is not after.get(key)]
        touched = selection.apply(changes, after)
        anew = Selection(scope, after)
        assert selection.documents == anew.documents
        assert selection.total.version == anew.total.version
        assert touched == {key for key in keys if before.get(key) is not selection.documents.get(key)}
        mesh = after


def held(*found: Any) -> dict[str, Held]:
    return {each.key: each for each in (Held.of(document, f"{place}") for place, document in enumerate(found))}


def test_what_does_not_concern_a_sidecar_is_left_out() -> None:
    role = ModelRole(**named("r"), spec=RoleSpec((Rule(("*",), ("predict",)),)))
    binding = ModelRoleBinding(
        **named("b"), spec=BindingSpec("r", (BindingSubject(workload=WorkloadSubject(namespace="n")),))
    )
    out = ModelRoute(**named("out"), spec=RouteSpec(("a",), directions=("outbound",), server="s3"))
    into = ModelRoute(**named("in"), spec=RouteSpec(("b",), directions=("inbound",), mirror=Mirror("s2")))
    mesh = held(
        MeshConfig(**named("m"), spec=MeshSpec(DOMAIN)), role, binding, out, into, *(server(name) for name in SERVERS)
    )

    def keys(scope: Scope | None) -> set[str]:
        return set(Selection(scope, mesh).documents)

    policy = {"ModelRole/r", "ModelRoleBinding/b"}
    assert keys(None) == set(mesh)
    assert keys(Scope("s1")) == {"MeshConfig/m", "ModelRoute/in", "ModelServer/s1", "ModelServer/s2", *policy}
    assert keys(Scope("s1", outbound=True)) == set(mesh)
    assert keys(Scope(outbound=True)) == set(mesh) - policy - {"ModelRoute/in"}
    assert keys(Scope("", True, "s4")) == keys(Scope("", True))
    # A change of one that is not in the scope is none.
    selection = Selection(Scope("s1"), mesh)
    other = Held.of(server("s3", "changed"), "9")
    change = Change("ModelServer/s3", mesh["ModelServer/s3"], other)
    assert selection.apply([change], {**mesh, "ModelServer/s3": other}) == frozenset()


def rollout(name: str, stable: Arm, candidate: Arm) -> ModelRollout:
    return ModelRollout(**named(name), spec=RolloutSpec("a", stable, candidate))


def test_rollouts_concern_the_sidecars_that_choose() -> None:
    """And the servers of their arms; a sidecar of an earlier version does not know them."""
    inner = rollout("in", Arm("1"), Arm("2"))
    outer = rollout("out", Arm(server="s1"), Arm(server="s4"))
    sockets = Endpoint(rest="127.0.0.1:1")
    beside = ModelServer(**named("s4"), spec=ServerSpec((sockets,)))
    mesh = held(MeshConfig(**named("m"), spec=MeshSpec(DOMAIN)), inner, outer, server("s1"), beside)

    def keys(scope: Scope) -> set[str]:
        return set(Selection(scope, mesh).documents) - {"MeshConfig/m"}

    assert keys(Scope("s1", rollouts=True)) == {"ModelRollout/in", "ModelServer/s1"}
    assert keys(Scope("", True, "", rollouts=True)) == {"ModelRollout/out", "ModelServer/s1", "ModelServer/s4"}
    assert keys(Scope("", True, "")) == {"ModelServer/s1"}


def test_the_servers_that_a_route_names() -> None:
    spec = RouteSpec(
        ("a",), server="s1", split=(Destination(1, "s2"), Destination(1)), mirror=Mirror("s3"), fallback="s4"
    )
    assert servers_of(ModelRoute(**named("r"), spec=spec)) == set(SERVERS)
    assert servers_of(ModelRoute(**named("r"), spec=RouteSpec(("a",)))) == set()


@pytest.mark.parametrize(
    ("endpoints", "is_in"),
    [
        ((Endpoint(rest="127.0.0.1:8501", grpc="127.0.0.1:8500"),), False),
        ((Endpoint(rest="localhost:8501", grpc="unix:/run/grpc.sock"), Endpoint(grpc="[::1]:8500")), False),
        ((Endpoint(rest="127.0.0.1:8501"), Endpoint(rest="10.0.0.1:8501")), True),
        ((Endpoint(rest="localhost.example:8501"),), True),
        ((Endpoint(sidecar=Address("127.0.0.1", 18500)),), True),
        ((), True),  # by DNS, or a Service
    ],
)
def test_a_server_beside_another_sidecar_is_no_server_to_call(endpoints: tuple[Endpoint, ...], is_in: bool) -> None:
    """Without this an application's sidecar checks the health of what its pod does not have."""
    service = None if endpoints else Service(namespace="n", name="s", sidecar="mesh")
    spec = ServerSpec(endpoints, service=service, workload=WorkloadSubject(namespace="n", service_account="s"))
    mesh = held(MeshConfig(**named("m"), spec=MeshSpec(DOMAIN)), ModelServer(**named("local"), spec=spec))

    def has_it(scope: Scope) -> bool:
        return "ModelServer/local" in Selection(scope, mesh).documents

    assert has_it(Scope("", True, "")) is is_in
    assert has_it(Scope("other", True, "other")) is is_in
    assert has_it(Scope("local", True, ""))
    assert has_it(Scope("", True, "local"))
    assert has_it(Scope("", True)), "an older sidecar does not say where its calls go"
    route = Held.of(ModelRoute(**named("r"), spec=RouteSpec(("a",), directions=("outbound",), server="local")), "9")
    assert "ModelServer/local" in Selection(Scope("", True, ""), {**mesh, route.key: route}).documents


def test_roles_of_models_that_the_server_does_not_list_are_left_out() -> None:
    """Nor their bindings. For a sidecar that does not refuse other models they all matter."""

    def role(name: str, *models: str) -> ModelRole:
        return ModelRole(**named(name), spec=RoleSpec((Rule(models, ("predict",)),)))

    def binding(name: str, role: str) -> ModelRoleBinding:
        subjects = (BindingSubject(workload=WorkloadSubject(namespace="n")),)
        return ModelRoleBinding(**named(name), spec=BindingSpec(role, subjects, "deny"))

    mesh = held(
        MeshConfig(**named("m"), spec=MeshSpec(DOMAIN)),
        server("s1", models=("fraud", "churn")),
        *(role(name, *models) for name, models in [("one", ("fraud",)), ("glob", ("x", "ch*")), ("no", ("prices",))]),
        *(binding(f"to-{name}", name) for name in ("one", "glob", "no")),
    )
    selection = Selection(Scope("s1", models=True), mesh)
    about = {"ModelRole/one", "ModelRoleBinding/to-one", "ModelRole/glob", "ModelRoleBinding/to-glob"}
    no = {"ModelRole/no", "ModelRoleBinding/to-no"}
    basis = {"MeshConfig/m", "ModelServer/s1"}
    assert set(selection.documents) == basis | about
    assert set(Selection(Scope("s1"), mesh).documents) == basis | about | no

    def apply(*documents: ModelRole | ModelServer) -> frozenset[str]:
        found = held(*documents)
        changes = [Change(key, mesh[key], each) for key, each in found.items()]
        mesh.update(found)
        return selection.apply(changes, mesh)

    # A role that comes to be about a listed model brings its bindings; one that is no more takes them along.
    assert apply(role("no", "*"), role("one", "else")) == no | {"ModelRole/one", "ModelRoleBinding/to-one"}
    assert apply(role("no", "fraud")) == {"ModelRole/no"}
    # Another list; and none.
    assert apply(server("s1", models=("churn",))) == no | {"ModelServer/s1"}
    assert set(selection.documents) == {"ModelRole/glob", "ModelRoleBinding/to-glob"} | basis
    apply(server("s1"))
    assert set(selection.documents) == basis | about | no
