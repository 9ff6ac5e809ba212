"""The definitions of our kinds for Kubernetes. tests/e2e/test_crds.py has what a real API server makes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import reduce
from itertools import product
from operator import getitem
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from msgspec import Struct, inspect

from meshproxy.config import crds, schema, sidecars
from meshproxy.config.codes import Code
from meshproxy.config.convert import convert
from meshproxy.config.files import Source
from meshproxy.config.nodes import Node, read_documents
from meshproxy.config.parse import Parsed, parse
from meshproxy.devtools.ca import DevelopmentCA
from tests.config.unfit import BALANCER, UNFIT

PAGE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds.yaml"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == crds.page(), "run meshproxy config crds > deploy/kubernetes/crds.yaml"


def test_a_definition_for_every_kind() -> None:
    found = {each["spec"]["names"]["kind"]: each for each in yaml.safe_load_all(crds.page())}
    assert set(found) == {kind.__name__ for kind in schema.KINDS}
    role = found["ModelRole"]
    assert role["metadata"]["name"] == "modelroles.meshproxy.dev"
    (version,) = role["spec"]["versions"]
    assert version["name"] == "v1alpha1"
    assert version["subresources"] == {"status": {}}


def parts(node: Any) -> list[Any]:
    """Everything below a node, itself included."""
    if isinstance(node, dict):
        return [node, *(each for value in node.values() for each in parts(value))]
    return [each for item in node for each in parts(item)] if isinstance(node, list) else []


@pytest.mark.parametrize("kind", schema.KINDS, ids=lambda kind: kind.__name__)
def test_no_defaults_and_a_bound_for_every_text(kind: type[Struct]) -> None:
    spec = crds.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = parts(spec)
    assert not [each for each in found if "default" in each and "type" in each]
    texts = [each for each in found if each.get("type") == "string"]
    assert [each for each in texts if "maxLength" not in each and "enum" not in each] == []
    assert len(json.dumps(crds.definition(kind))) < 100_000, "kubectl apply keeps a copy of at most 256 KiB"


@pytest.mark.parametrize("what", UNFIT)
def test_what_the_definitions_refuse_is_refused_here(what: str) -> None:
    document, words = UNFIT[what]
    parsed = Parsed()
    parse(Source(Path("unfit.json"), json.dumps(document).encode(), is_named=True), parsed)
    assert words.replace("\\", "") in "\n".join(map(str, parsed.problems)).replace('"', "")
    assert len(parsed.problems) == 1


# Values of the fields that rules name, where they are not what `value_of` makes of their names.
WORKLOAD = {"namespace": "n"}
VALUES: dict[tuple[str, str], Any] = {
    ("KeySource", "inline"): {"keys": [{"kty": "EC"}]},
    ("TrustBundle", "inline"): DevelopmentCA.create("n.example").bundle_pem.decode(),
    ("Subject", "workload"): WORKLOAD,
    ("BindingSubject", "workload"): WORKLOAD,
    ("Match", "caller"): {"workload": WORKLOAD},
    ("ServerTls", "rest"): {},
    ("ServerTls", "grpc"): {},
    ("Dns", "rest"): 1,
    ("Dns", "grpc"): 2,
    ("Dns", "sidecar"): 3,
    ("Service", "rest"): "",
    ("ThresholdRange", "min"): 1,
    ("ThresholdRange", "max"): 2,
}
BY_NAME: dict[str, Any] = {
    "url": "https://a.example", "audiences": ["a"], "requiredClaims": {"a": "b"}, "issuer": "https://a.example",
    "versions": [1], "labels": ["l"], "models": ["*"], "verbs": ["predict"], "spiffeId": "spiffe://m.example/a",
    "trustDomain": "m.example", "token": {"issuer": "a"}, "iamRole": "arn:aws:iam::123456789012:role/r",
    "headers": {"a": "b"}, "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.0.0.0/8"], "version": 1, "weight": 1,
    "delay": {"percent": 1, "duration": "1s"}, "abort": {"percent": 1}, "requests": 1, "bytes": 1, "examples": 1,
    "cors": {"allowOrigins": ["https://a.example"]}, "match": [{"headers": {"a": "b"}}], "rest": "a:1", "grpc": "a:2",
    "sidecar": "a:3", "srv": "rest", "dns": {"name": "a", "rest": 1}, "endpoints": [{"rest": "a:1"}],
    "service": {"namespace": "n", "name": "s", "rest": "http"}, "workloadApi": {"socket": "s"},
    "files": {"certificate": "c", "key": "k", "trustBundle": "b"}, "inbound": {"server": "s"}, "outbound": {},
    "identity": {"workloadApi": {"socket": "s"}}, "loadBalancers": [BALANCER], "tokenFrom": {"header": "h"},
    "controlPlane": {"address": "a:1", "spiffeId": "spiffe://m.example/c", "trustBundle": "b", "folder": "f"},
}  # fmt: skip


def value_of(cls: type[Struct], field: str) -> Any:
    return VALUES.get((cls.__name__, field), BY_NAME.get(field, "a"))


def problems_of(info: inspect.StructType, part: dict[str, Any]) -> list[str]:
    """What a file that holds this has problems with."""
    found: list[str] = []

    def report(line: int, field: str, message: str, code: Code) -> None:
        found.append(message)

    (node,) = read_documents(json.dumps(part), report)
    convert(node, info, Path(), report)
    return found


def refuses(rule: str, part: dict[str, Any]) -> bool:
    """Whether CEL would refuse it. Of CEL, what the rules use."""
    text = rule.replace("__namespace__", "namespace").replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"\[(.*)\]\.exists_one\(one, one\)", r"sum([\1]) == 1", text)
    text = re.sub(r"(has\([\w.]+\)) \? 1 : 0", r"int(\1)", text)
    text = re.sub(r"(has|size)\(self\.([\w.]+)\)", r"\1('\2')", text)
    text = re.sub(r"self\.([\w.]+)", r"value('\1')", text)
    text = re.sub(r"!(?!=)", " not ", text)

    def value(path: str) -> Any:
        return reduce(getitem, path.split("."), part)

    def has(path: str) -> bool:
        folder, _, name = path.rpartition(".")
        return name in (value(folder) if folder else part)

    names = {"has": has, "size": lambda path: len(value(path)), "value": value, "int": int, "sum": sum}
    return not eval(text, {"__builtins__": {}}, names)


def broken(schema: dict[str, Any], value: Any) -> Iterator[str]:
    """What the rules of a definition say of a value, and of everything below it."""
    rules = schema.get("x-kubernetes-validations", ())
    yield from (each["message"] for each in rules if refuses(each["rule"], value))
    if isinstance(value, list):
        for each in value:
            yield from broken(schema.get("items", {}), each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from broken(schema.get("properties", {}).get(name, {}), each)


def test_each_rule_is_broken_by_a_document() -> None:
    """By one of those that a real API server is to refuse."""
    definitions = {kind.__name__: crds.definition(kind)["spec"]["versions"][0] for kind in schema.KINDS}
    said = {
        message
        for document, _ in UNFIT.values()
        for message in broken(definitions[document["kind"]]["schema"]["openAPIV3Schema"], document)
    }
    assert {message for rules in crds.RULES.values() for _, message in rules} == said


@pytest.mark.parametrize("cls", crds.RULES, ids=lambda cls: cls.__name__)
def test_no_rule_refuses_what_a_file_may_hold(cls: type[Struct]) -> None:
    """Every choice of the fields that the rules name."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    required = {field.encode_name for field in info.fields if field.required}
    named = {name for rule, _ in crds.RULES[cls] for name in re.findall(r"self\.(\w+)", rule)}
    named = {name.strip("_") for name in named}
    assert named <= {field.encode_name for field in info.fields}
    fit = 0
    for chosen in product([False, True], repeat=len(named)):
        given = required | {name for name, is_there in zip(sorted(named), chosen, strict=True) if is_there}
        part = {name: value_of(cls, name) for name in given}
        problems = problems_of(info, part)
        fit += not problems
        assert problems or not any(refuses(rule, part) for rule, _ in crds.RULES[cls]), part
    assert fit, "the values do not fit"


@pytest.mark.parametrize("documents", [True, False])
def test_a_control_plane_beside_an_identity_gives_the_documents(documents: bool) -> None:
    info = inspect.type_info(sidecars.SidecarSpec)
    assert isinstance(info, inspect.StructType)
    part = {name: value_of(sidecars.SidecarSpec, name) for name in ("inbound", "identity")}
    part["controlPlane"] = {**BY_NAME["controlPlane"], "documents": documents}
    refusing = [message for rule, message in crds.RULES[sidecars.SidecarSpec] if refuses(rule, part)]
    assert bool(problems_of(info, part)) == bool(refusing) == (not documents)


def admits(schema: dict[str, Any], value: Any) -> bool:
    """Whether the API server would take it, as far as types, bounds, lengths and patterns go."""
    if "x-kubernetes-int-or-string" in schema:
        kinds = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
        return bool(jsonschema.Draft202012Validator({**schema, **kinds}).is_valid(value))
    if (items := schema.get("items")) is not None and isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(admits(items, each) for each in value)
    if isinstance(of_all := schema.get("additionalProperties"), dict) and isinstance(value, dict):
        return all(admits(of_all, each) for each in value.values())
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


TEXTS = [
    "a", "*", "a*", "a_b", "a.example", "A", "1", "0", "01", "true", "off", "stdout", "/x", "./x", "..", "a b",
    "é" * 128, *("a" * length for length in (63, 64, 253, 254, 255, 256, 257, 1_024, 1_025, 2_048, 5_000)),
    "0s", "250ms", "1.5s", "1h1m30s", "0.0000001s", "24h", "1h0m0s", "1024", "65536", "1K", "1KB", "1KiB", "64MiB",
    "1GiB", "a:80", "127.0.0.1:0", "[::1]:80", "unix:/x", "127.0.0.1", "::1", "10.0.0.0/8", "::/0", "x-a",
    "spiffe://m.example/a", "https://a.example", "http://localhost:8080/x", "arn:aws:iam::123456789012:role/r",
    "arn:aws:iam::prod:role/p/r", "123456789012", "http-1", ".*", "(?i)a|b", "1.3", "sub", "application/json",
]  # fmt: skip
PLAIN = [0, 1, 2, 50, 100, 399, 400, 599, 65_535, 65_536, 1_000_000, 1 << 31, 0.5, 1e-3, True, False]
ENTRIES = ({"a": "b"}, {"a": 1}, {"a": True}, {"x-a": "b"}, {"a": "123456789012"}, {"a": {"prefix": "b"}})


def structs(kind: inspect.Type, found: dict[type[Struct], inspect.StructType]) -> None:
    for part in parts_of(kind):
        if isinstance(part, inspect.StructType) and part.cls not in found:
            found[part.cls] = part
            for field in part.fields:
                structs(field.type, found)


def parts_of(kind: inspect.Type) -> Iterator[inspect.Type]:
    """A type, and those that it is of."""
    yield kind
    inner = [getattr(kind, name, None) for name in ("type", "item_type", "value_type")]
    for each in (*inner, *getattr(kind, "types", ())):
        if isinstance(each, inspect.Type):
            yield from parts_of(each)


@pytest.mark.parametrize("kind", schema.KINDS, ids=lambda kind: kind.__name__)
def test_what_a_file_may_say_an_object_may_say(kind: type[Struct]) -> None:
    """But for fractions of seconds: an integer or a text is all that there is."""
    found: dict[type[Struct], inspect.StructType] = {}
    structs(next(field.type for field in inspect.type_info(kind).fields if field.name == "spec"), found)  # type: ignore[attr-defined]
    taken = 0
    for cls, info in found.items():
        for field in info.fields:
            words = {word for part in parts_of(field.type) for word in getattr(part, "values", ())}
            values = [*TEXTS, *PLAIN, *words]
            for value in (*values, *([each] for each in (*TEXTS, *PLAIN[:3], *words)), [], *ENTRIES):
                if is_taken(field.type, value):
                    taken += 1
                    is_fraction = isinstance(value, float) and "x-kubernetes-int-or-string" in crds.type_schema(
                        field.type
                    )
                    assert is_fraction or admits(crds.type_schema(field.type), value), (cls, field.name, value)
    assert taken > 20 * len(found)


def is_taken(kind: inspect.Type, value: Any) -> bool:
    problems: list[str] = []

    def report(line: int, field: str, message: str, code: Code) -> None:
        problems.append(message)

    convert(node_of(value), kind, Path(), report)
    return not problems


def node_of(value: Any) -> Node:
    if isinstance(value, dict):
        return Node({name: node_of(each) for name, each in value.items()}, 1)
    return Node([node_of(each) for each in value] if isinstance(value, list) else value, 1)
