from __future__ import annotations

import msgspec
import pytest

from meshproxy.audit.lines import Kind, read_line
from meshproxy.audit.sentences import models, sentence
from meshproxy.telemetry.audit_events import Author, IssuedCertificate, certificate_body, entity_body, login_body
from meshproxy.telemetry.audit_writer import own_body
from tests.audit.trails import line_of

AT = 1_796_042_683.0
WHEN = "2026-11-30 12:44:43 UTC"


def told(body: bytes) -> str:
    return sentence(read_line(line_of(body)))


def call(kind: str, **more: object) -> bytes:
    unmapped = {"kind": kind, "direction": "inbound", **more.pop("unmapped", {})}  # type: ignore[dict-item]
    fields = {
        "time": int(AT * 1_000),
        "unmapped": unmapped,
        "actor": {
            "app_uid": "spiffe://dev.example/ns/pricing/sa/quoter",
            "user": {"uid": "alice"},
            "idp": {"name": "corp"},
        },
        "api": {"operation": "predict"},
        "resources": [{"name": "fraud", "version": "3"}],
        "src_endpoint": {"ip": "10.0.0.1", "port": 40000},
        "http_response": {"code": 200},
        "policy": {"name": "finance"},
        **more,
    }
    return msgspec.json.encode(fields)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (call("allowed"), "was allowed to predict fraud:3 (by finance)."),
        (call("allowed", http_response={"code": 503}), "(by finance), which was answered with 503."),
        (call("audited", unmapped={"audits": ["watch"]}), "(by finance; watched by watch)."),
        (
            call(
                "denied",
                policy={"name": "default-deny"},
                message="No role permits this.",
                unmapped={"reason": "x-denied"},
            ),
            "was denied to predict fraud:3 (by default-deny; x-denied): No role permits this.",
        ),
    ],
)
def test_calls(line: bytes, words: str) -> None:
    told = sentence(read_line(line))
    who = f"{WHEN}: spiffe://dev.example/ns/pricing/sa/quoter as corp:alice from 10.0.0.1:40000 "
    assert told.startswith(who)
    assert told.endswith(words)


def test_a_call_that_was_refused_before_anything_was_known() -> None:
    line = b'{"time":1796042683000,"unmapped":{"kind":"denied"},"http_request":{"url":{"path":"/v1/x"}}}'
    assert sentence(read_line(line)) == f"{WHEN}: an anonymous caller was denied to call /v1/x."


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("team/resnet_50.v2", "team/resnet_50.v2"),
        ("modèle", "modèle"),
        ("a:3", '"a:3"'),
        ("a, b", '"a, b"'),
        ('a". Bob', '"a\\". Bob"'),
    ],
)
def test_names_are_no_part_of_the_sentence(name: str, shown: str) -> None:
    line = call("denied", resources=[{"name": name}], actor={"user": {"uid": name}, "idp": {"name": "corp"}})
    told = sentence(read_line(line))
    subject = shown if name != "a:3" else name
    assert told.startswith(f"{WHEN}: corp:{subject} from 10.0.0.1:40000 was denied to predict {shown} (by finance)")


def test_many_models() -> None:
    record = read_line(call("admin", resources=[{"name": name} for name in "abcde"], unmapped={"model_count": 9}))
    assert models(record) == "a, b, c and 6 more"
    assert models(read_line(call("admin", resources=[]))) == "the model server as a whole"


def test_events() -> None:
    certificate = IssuedCertificate("1f", "ab", AT + 60)
    identity = "spiffe://dev.example/ns/models/sa/resnet"
    assert told(certificate_body(AT, identity, "10.0.0.1:1", "proven by join token", certificate=certificate)) == (
        f"{WHEN}: {identity} was given a certificate at 10.0.0.1:1: proven by join token."
    )
    assert told(certificate_body(AT, None, "10.0.0.1:1", "no proof", reason="unattested")) == (
        f"{WHEN}: somebody unknown was refused a certificate at 10.0.0.1:1: no proof."
    )
    changed = entity_body(Kind.DOCUMENT_CHANGED, AT, "ModelRole/reader", "in force", before="a" * 64, after="b" * 64)
    assert told(changed) == f"{WHEN}: ModelRole/reader was changed (aaaaaaaaaaaa to bbbbbbbbbbbb): in force."
    assert told(own_body(Kind.STARTED, "begins a chain", AT, b"")) == f"{WHEN}: the trail begins a chain."
    assert told(own_body(Kind.CONTINUED, "goes on after a stop", AT, b"")) == f"{WHEN}: the trail goes on after a stop."
    rollout = entity_body(
        Kind.ROLLOUT_CHANGED, AT, "ModelRollout/f", "ordered by e", reason="Promoted", by=Author("e@a")
    )
    assert told(rollout) == f"{WHEN}: ModelRollout/f was promoted by e@a: ordered by e."
    refused = entity_body(Kind.ROLLOUT_REFUSED, AT, "ModelRollout/f", "it is over", reason="pause", by=Author("e@a"))
    assert told(refused) == f"{WHEN}: ModelRollout/f: the order to pause was refused by e@a: it is over."
    login = login_body(Kind.LOGIN, AT, "as viewer", "10.0.0.1:1", issuer="https://a", subject="vera")
    assert told(login) == f"{WHEN}: https://a:vera logged in to the page at 10.0.0.1:1: as viewer."
    dropped = own_body(Kind.DROPPED, "2 events have no line", AT, b"", 2)
    assert told(dropped) == f"{WHEN}: gap: 2 events have no line."
    for kind in Kind:
        assert told(own_body(kind, "x", AT, b""))
