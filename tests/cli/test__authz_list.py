"""`meshproxy authz list`: the bindings in force, and how much each has decided."""

from __future__ import annotations

import json

import msgspec

from meshproxy.cli._authz_list import subject
from meshproxy.config.fields import BindingSubject
from meshproxy.config.sent import SentKind, encode
from tests.cli.conftest import ServePages
from tests.cli.test__mesh import API, FRAUD, page, run
from tests.view.meshes import calls
from tests.view.test_findings import binding, role

DOCUMENTS: list[SentKind] = [
    role("all", "fraud*"),
    role("old", "idle"),
    binding("readers", "all"),
    binding("never", "old", "deny"),
]


def control(serve_pages: ServePages) -> str:
    rows = [calls(API, count=10), calls(API, codes={"403": 2}, allowed={}, denied={"never: permission-denied": 2})]
    documents = msgspec.json.encode([encode(each, "").document for each in DOCUMENTS])
    return serve_pages({"/mesh": page((FRAUD, rows)), "/documents": documents})


def test_a_table(serve_pages: ServePages) -> None:
    found = run("authz", "list", "--control", control(serve_pages)).stdout.splitlines()
    assert [line.split() for line in found] == [
        ["MODEL", "POLICY", "ACTION", "SUBJECTS", "VERBS", "USED"],
        ["idle", "never", "deny", "a/b", "predict", "2"],
        ["fraud*", "readers", "allow", "a/b", "predict", "10"],
    ]


def test_those_that_concern_a_model(serve_pages: ServePages) -> None:
    result = run("authz", "list", "model/fraud", "--control", control(serve_pages), "-o", "json")
    found = json.loads(result.stdout)
    assert [(each["policy"], each["used"]) for each in found["grants"]] == [("readers", 10)]
    none = run("authz", "list", "nothing", "--control", control(serve_pages))
    assert (none.exit_code, none.stderr) == (0, "no bindings are in force for nothing\n")


def test_a_subject() -> None:
    spec = {
        "workload": {"namespace": "shop"},
        "token": {"issuer": "corp", "claims": {"groups": "ml", "team": {"prefix": "a"}}},
        "ipBlocks": ["10.0.0.0/8"],
        "headers": {"x-a": "1"},
    }
    each = msgspec.convert(spec, BindingSubject)
    assert subject(each) == "shop/* + token corp(groups=ml, team=(pattern)) + from 10.0.0.0/8 + header x-a"
