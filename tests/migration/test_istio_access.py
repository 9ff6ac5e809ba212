"""AuthorizationPolicies against Istio's own rules: what is written never allows what Istio did not."""

from __future__ import annotations

from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.examine import examine
from meshproxy.config.files import Source as File
from meshproxy.config.parse import Parsed, parse
from meshproxy.config.schema import ModelRole, ModelRoleBinding
from meshproxy.identity.caller import Caller, workload_of
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.migration.istio_access import ALL_VERBS, EVERYONE, Settings, authorization_policy
from meshproxy.migration.source import Kind, Translation, read_sources
from meshproxy.policy.compile import compile_policy
from meshproxy.policy.decide import Policy
from meshproxy.refusal import Refusal

SETTINGS = Settings("cluster.local", {"https://login.example": "corp"})
WIDER = Settings("cluster.local", {"https://login.example": "corp"}, accept_wider=True)


def translate(action: str, *rules: dict[str, Any], settings: Settings = SETTINGS, **spec: Any) -> Translation:
    document = {"kind": "AuthorizationPolicy", "metadata": {"name": "p"}}
    made = Translation()
    text = yaml.safe_dump({**document, "spec": {"action": action, "rules": list(rules), **spec}}).encode()
    for _, _, source in read_sources("p.yaml", text, made):
        authorization_policy(source, source.name, "istio-system", settings, made)
    return made


def one(made: Translation) -> tuple[list[Any], list[Any]]:
    """Rules of the role and subjects of the binding."""
    role, binding = made.documents
    return role["spec"]["rules"], binding["spec"]["subjects"]


def kinds(made: Translation) -> dict[str, Kind]:
    return {note.field: note.kind for note in made.notes}


def to(*paths: str, **operation: Any) -> dict[str, Any]:
    return {"to": [{"operation": {"paths": list(paths), **operation}}]}


def source(**fields: Any) -> dict[str, Any]:
    return {"from": [{"source": fields}]}


CHECKOUT = "cluster.local/ns/payments/sa/checkout"


def test_paths_are_models_and_verbs_and_would_allow_more() -> None:
    rule = source(principals=[CHECKOUT]) | to("/v1/models/m:predict", methods=["POST"])
    refused = translate("ALLOW", rule)
    assert refused.documents == []
    assert kinds(refused) == {"spec.rules[0].to[0].operation.paths": Kind.REFUSED}
    made = translate("ALLOW", rule, settings=WIDER)
    assert one(made) == (
        [{"models": ["m"], "verbs": ["predict"]}],
        [{"workload": {"namespace": "payments", "serviceAccount": "checkout"}}],
    )
    assert kinds(made) == {"spec.rules[0].to[0].operation.paths": Kind.WIDER}


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/v1/models/m/versions/3:classify", {"models": ["m"], "verbs": ["classify"], "versions": ["3"]}),
        ("/v1/models/m/labels/stable/metadata", {"models": ["m"], "verbs": ["metadata"], "labels": ["stable"]}),
        ("/v1/models/m", {"models": ["m"], "verbs": ["status"]}),
        ("/v1/models/m:*", {"models": ["m"], "verbs": ["predict", "classify", "regress"]}),
        ("/v1/models/m*", {"models": ["m*"], "verbs": ["predict", "classify", "regress", "metadata", "status"]}),
        ("/tensorflow.serving.PredictionService/Predict", {"models": ["*"], "verbs": ["predict"]}),
        ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", {"models": ["*"], "verbs": ["reload"]}),
        ("*", {"models": ["*"], "verbs": ALL_VERBS}),
    ],
)
def test_paths(path: str, rule: dict[str, Any]) -> None:
    assert one(translate("ALLOW", to(path), settings=WIDER))[0] == [rule]


@pytest.mark.parametrize(
    "path", ["/v1/models/{*}:predict", "*:predict", "/v1/models/a%2Fb:predict", "/v1/models/m?:predict"]
)
def test_paths_without_a_counterpart(path: str) -> None:
    assert translate("ALLOW", to(path), settings=WIDER).documents == []
    assert one(translate("DENY", to(path)))[0] == [{"models": ["*"], "verbs": ALL_VERBS}]


def test_paths_of_other_servers_say_nothing() -> None:
    for action in ("ALLOW", "DENY"):
        made = translate(action, to("/admin", "/healthz*"), settings=WIDER)
        assert made.documents == []


ACCOUNT = {"namespace": "a", "serviceAccount": "b"}
ALICE = {"issuer": "corp", "claims": {"sub": "alice"}}


@pytest.mark.parametrize(
    ("fields", "subjects"),
    [
        ({"principals": ["*"]}, [{"workload": {"namespace": "*"}}]),
        ({"principals": ["old.local/ns/a/sa/b"]}, [{"workload": {**ACCOUNT, "trustDomain": "old.local"}}]),
        ({"namespaces": ["test-*"]}, [{"workload": {"namespace": "test-*"}}]),
        ({"serviceAccounts": ["a/b"]}, [{"workload": ACCOUNT}]),
        ({"serviceAccounts": ["c"]}, [{"workload": {"namespace": "istio-system", "serviceAccount": "c"}}]),
        ({"ipBlocks": ["10.0.0.0/8", "192.0.2.1"]}, [{"ipBlocks": ["10.0.0.0/8", "192.0.2.1"]}]),
        ({"notIpBlocks": ["10.0.0.0/8", "192.0.2.1"]}, [{"notIpBlocks": ["10.0.0.0/8", "192.0.2.1"]}]),
        (
            {"ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.1.0.0/16", "10.2.0.0/16"]},
            [{"ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.1.0.0/16", "10.2.0.0/16"]}],
        ),
        ({"requestPrincipals": ["https://login.example/alice"]}, [{"token": ALICE}]),
    ],
)  # fmt: skip
def test_sources(fields: dict[str, Any], subjects: list[Any]) -> None:
    assert one(translate("ALLOW", source(**fields)))[1] == subjects


@pytest.mark.parametrize(
    "fields",
    [
        {"notPrincipals": ["a"]},
        {"notRequestPrincipals": ["*"]},
        {"remoteIpBlocks": ["10.0.0.0/8"]},
        {"principals": ["*/sa/b"]},
        {"requestPrincipals": ["*"]},
    ],
)
def test_sources_without_a_counterpart(fields: dict[str, Any]) -> None:
    made = translate("ALLOW", source(**fields))
    assert made.documents == []
    assert Kind.REFUSED in kinds(made).values()
    denial = translate("DENY", source(**fields))
    assert one(denial)[1] == [EVERYONE]
    assert Kind.NARROWER in kinds(denial).values()


def test_conditions() -> None:
    when = {
        "when": [
            {"key": "request.headers[X-Tenant]", "values": ["a", "b*"]},
            {"key": "request.auth.claims[groups]", "values": ["red", "blue"]},
        ]
    }
    token = {"token": {"issuer": "corp", "claims": {"groups": {"anyOf": ["red", "blue"]}}}}
    assert one(translate("ALLOW", when))[1] == [
        {"headers": {"x-tenant": "a"}, **token},
        {"headers": {"x-tenant": {"prefix": "b"}}, **token},
    ]
    for condition in ({"key": "destination.port", "values": ["80"]}, {"key": "source.ip", "notValues": ["1.1.1.1"]}):
        assert translate("ALLOW", {"when": [condition]}).documents == []
        assert one(translate("DENY", {"when": [condition]}))[1] == [EVERYONE]


def test_whole_policies() -> None:
    assert translate("ALLOW").documents == []
    assert "allows nothing" in translate("ALLOW").notes[0].why
    assert translate("CUSTOM", {}).documents == []
    assert one(translate("AUDIT", {})) == (
        [{"models": ["*"], "verbs": ALL_VERBS}],
        [{"ipBlocks": ["0.0.0.0/0", "::/0"]}],
    )
    # Of some workloads, it would be of all models of the mesh here.
    of_some = translate("ALLOW", {}, selector={"matchLabels": {"app": "x"}})
    assert of_some.documents == []
    assert any("of some workloads" in note.why for note in of_some.notes)


# Against Istio's rules (https://istio.io/latest/docs/reference/config/security/authorization-policy/)

NAMES = st.sampled_from(["a", "b"])
VALUES = st.sampled_from(["a", "b", "a*", "*"])
PRINCIPALS = st.builds("cluster.local/ns/{}/sa/{}".format, NAMES, NAMES) | st.just("cluster.local/ns/a/*")
SOURCES = st.fixed_dictionaries(
    {},
    optional={
        "principals": st.lists(PRINCIPALS, min_size=1, max_size=2),
        "namespaces": st.lists(VALUES, min_size=1, max_size=2),
        "notNamespaces": st.lists(NAMES, min_size=1, max_size=1),
        "ipBlocks": st.just(["10.0.0.0/8"]),
        "notIpBlocks": st.sampled_from([["10.1.0.0/16"], ["10.0.0.0/8", "192.0.2.0/24"]]),
    },
).filter(bool)
PATHS = st.sampled_from(
    ["/v1/models/a:predict", "/v1/models/a*", "/v1/models/*", "/v1/models/b", "*predict", "/x", "*"]
)
OPERATIONS = st.fixed_dictionaries(
    {"paths": st.lists(PATHS, min_size=1, max_size=2)}, optional={"methods": st.sampled_from([["GET"], ["POST"]])}
)
WHEN = st.builds(
    lambda key, values: {"key": key, "values": values},
    st.sampled_from(["request.headers[x-t]", "source.namespace"]),
    st.lists(VALUES, min_size=1, max_size=2),
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(st.builds(lambda each: {"source": each}, SOURCES), min_size=1, max_size=2),
        "to": st.lists(st.builds(lambda each: {"operation": each}, OPERATIONS), min_size=1, max_size=2),
        "when": st.lists(WHEN, min_size=1, max_size=2),
    },
)
ROWS = {
    "/v1/models/a:predict": Call(Verb.PREDICT, (ModelRef("a"),)),
    "/v1/models/a/versions/1:predict": Call(Verb.PREDICT, (ModelRef("a", "1"),)),
    "/v1/models/b": Call(Verb.STATUS, (ModelRef("b"),)),
}


def matches(rule: dict[str, Any], namespace: str, account: str, address: str, tenant: str, path: str) -> bool:
    """Whether a rule of Istio matches a request over REST."""
    principal = f"cluster.local/ns/{namespace}/sa/{account}"
    method = "POST" if path.endswith("predict") else "GET"

    def fits(value: str, patterns: list[str]) -> bool:
        return any(fnmatchcase(value, pattern) for pattern in patterns)

    def from_source(each: dict[str, Any]) -> bool:
        return (
            ("principals" not in each or fits(principal, each["principals"]))
            and ("namespaces" not in each or fits(namespace, each["namespaces"]))
            and ("notNamespaces" not in each or not fits(namespace, each["notNamespaces"]))
            and ("ipBlocks" not in each or address.startswith("10."))
            and not any(ip_address(address) in ip_network(block) for block in each.get("notIpBlocks", ()))
        )

    def to_operation(each: dict[str, Any]) -> bool:
        return fits(path, each["paths"]) and ("methods" not in each or method in each["methods"])

    def holds(each: dict[str, Any]) -> bool:
        return fits(namespace if each["key"] == "source.namespace" else tenant, each["values"])

    return (
        ("from" not in rule or any(from_source(each["source"]) for each in rule["from"]))
        and ("to" not in rule or any(to_operation(each["operation"]) for each in rule["to"]))
        and all(holds(each) for each in rule.get("when", []))
    )


def compiled(made: Translation) -> Policy:
    if not made.documents:
        return compile_policy([], [], "cluster.local")
    text = "---\n".join(yaml.safe_dump(each) for each in made.documents).encode()
    found = examine([], text, is_partial=True)
    assert not [str(each) for each in found.problems if each.severity == "error"]
    parsed = Parsed()
    parse(File(Path("x"), text, is_named=True), parsed)
    documents = [each.document for each in parsed.placed]
    roles = [each for each in documents if isinstance(each, ModelRole)]
    return compile_policy(roles, [each for each in documents if isinstance(each, ModelRoleBinding)], "cluster.local")


@settings(max_examples=40, deadline=None)
@given(
    rule=RULES,
    namespace=NAMES,
    account=NAMES,
    address=st.sampled_from(["10.1.1.1", "10.2.1.1", "192.0.2.1"]),
    tenant=NAMES,
    path=st.sampled_from(sorted(ROWS)),
    is_allow=st.booleans(),
)
def test_nothing_is_widened(
    rule: dict[str, Any], namespace: str, account: str, address: str, tenant: str, path: str, is_allow: bool
) -> None:
    everybody = translate("ALLOW", {}).documents
    made = translate("ALLOW" if is_allow else "DENY", rule)
    if not is_allow:
        made.documents += [{**each, "metadata": {"name": "all"}} for each in everybody]
        made.documents[-1]["spec"] = {**made.documents[-1]["spec"], "role": "all"}
    policy = compiled(made)
    caller = Caller(workload_of(f"spiffe://cluster.local/ns/{namespace}/sa/{account}"))
    try:
        policy.decide(caller, ROWS[path], f"{address}:1", ((b"x-t", tenant.encode()),))
        is_allowed = bool(policy.roles)
    except Refusal:
        is_allowed = False
    matched = matches(rule, namespace, account, address, tenant, path)
    if is_allowed:
        assert matched if is_allow else not matched


@pytest.mark.parametrize(
    "rule",
    [
        {"from": {"source": {"principals": ["cluster.local/ns/a/sa/b"]}}},
        {"form": [{"source": {"principals": ["cluster.local/ns/a/sa/b"]}}]},
        {"from": [{}]},
        {"to": {"operation": {"paths": ["/v1/models/fraud:predict"]}}},
        {"to": [{}]},
        {"to": [{"operation": {"path": ["/v1/models/fraud:predict"]}}]},
        {"to": [{"operation": {"paths": []}}]},
        {"when": {"key": "source.ip", "values": ["10.0.0.0/8"]}},
        {"when": [{"key": "source.ip", "values": "10.0.0.0/8"}]},
        {"when": [{"key": "request.auth.claims[groups]"}]},
        {"when": [{"key": "request.headers[x-tenant]", "values": ["*a*"]}]},
        {"from": [{"source": {"serviceAccounts": ["a/*"]}}]},
    ],
    ids=str,
)
def test_what_is_not_as_istio_has_it_allows_nothing_and_denies_all(rule: dict[str, Any]) -> None:
    allowed = translate("ALLOW", rule, settings=WIDER)
    assert allowed.documents == []
    assert Kind.REFUSED in kinds(allowed).values()
    assert one(translate("DENY", rule)) == ([{"models": ["*"], "verbs": ALL_VERBS}], [EVERYONE])


def test_a_denial_by_namespace_says_that_it_is_of_one_trust_domain() -> None:
    assert kinds(translate("DENY", source(namespaces=["test"])))["spec.rules[0].from[0].source.namespaces"] is (
        Kind.DIFFERENT
    )
    assert not translate("ALLOW", source(namespaces=["test"])).notes
