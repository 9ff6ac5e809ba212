"""Trails of audit lines, as the writer writes them."""

from __future__ import annotations

from functools import cache
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshproxy.audit.chain import NOTHING_BEFORE, constant_part, join
from meshproxy.audit.lines import Kind
from meshproxy.telemetry import audit_writer
from meshproxy.telemetry.audit_writer import AuditWriter

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


class Memory:
    """A sink that keeps lines."""

    is_unsettled = False
    lost = 0

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, lines: bytes) -> int:
        """Takes all of them."""
        self.content += lines
        return len(lines)

    def settle(self, last: int) -> None:
        """Nothing to do."""

    def reopen(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def call_body(number: int, kind: Kind = Kind.ALLOWED, extra: str = "") -> bytes:
    """The body of the line of a call."""
    return (
        f'","kind":"{kind.value}","reason":null,"audits":[],"conditions":[],"model_count":1,"forwarded_as":null,'
        f'"direction":"inbound","grpc_status":null}},"time":{1_700_000_000_000 + number},"class_uid":6003,'
        '"category_uid":6,"activity_id":2,"type_uid":600302,"severity_id":1,"status_id":1,"action_id":1,'
        '"disposition_id":1,"message":"permitted","actor":{"user":{"uid":"alice","type_id":1},"idp":{"name":"corp"},'
        '"app_uid":"spiffe://dev.example/ns/pricing/sa/quoter"},"api":{"operation":"predict"},'
        f'"resources":[{{"type":"model","name":"model-{number % 7}"}}],"src_endpoint":{{"ip":"10.0.0.1","port":40000}},'
        '"http_request":{"http_method":"POST","url":{"path":"/v1/models/m:predict"}},"http_response":{"code":200}'
        f',"policy":{{"name":"finance-team"}}{extra},"trace":{{"uid":"{number:032x}"}}}}\n'
    ).encode()


def line_of(body: bytes) -> bytes:
    """A line with this body, the first one of a chain."""
    return join(1, constant_part("w", "00" * 8), NOTHING_BEFORE, body)


@cache
def trail(lines: int, writer: str = "w@h", key: Ed25519PrivateKey | None = KEY) -> tuple[bytes, ...]:
    """A trail of so many calls, from its start to its stop."""
    sink = Memory()
    audit = AuditWriter(sink, writer, key=key, clock=lambda: 1_700_000_000.0)
    with mock.patch.object(audit_writer, "CLOSE_SECONDS", 60.0):
        for number in range(lines):
            audit.write(call_body(number), most=1 << 40)
        audit.start()
        audit.close()
    assert audit.dropped == 0
    return tuple(bytes(sink.content).splitlines(keepends=True))
