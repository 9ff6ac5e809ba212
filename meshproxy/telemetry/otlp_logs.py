"""Lines of the audit trail as log records of an `ExportLogsServiceRequest` in protobuf.

https://github.com/open-telemetry/opentelemetry-proto, `logs/v1/logs.proto` and `collector/logs/v1`: the messages around
the records have the numbers of those around spans (`otlp.encode_request`), and so has the answer
(`otlp.read_response`). The body of a record is the line as it is in a file, without its line feed, so that the chain
can be verified from what a collector holds. Everything else is taken from the line, for those who search there.
"""

from __future__ import annotations

import re
import struct
from binascii import unhexlify

from meshproxy.audit.chain import read_head
from meshproxy.inference.unary import write_bytes
from meshproxy.telemetry.otlp import encode_attributes

SCOPE = "meshproxy.audit"
"""The name of the scope: `audit.collected` knows records of a trail by it."""

_FIXED64 = struct.Struct("<BQBQ").pack
_TIME = re.compile(rb'"time":([0-9]{1,15}),')
_SEVERITY = re.compile(rb'"severity_id":([0-9]),')
_TRACE = re.compile(rb'"trace":\{"uid":"([0-9a-f]{32})"\}\}$')
_SEVERITIES = {b"1": (9, b"INFO"), b"2": (13, b"WARN"), b"3": (17, b"ERROR")}
"""Of `severity_id`: `SeverityNumber` and its text."""
_INFO = _SEVERITIES[b"1"]


def encode_record(line: bytes, now: int) -> bytes:
    """A line, without its line feed, as a field of `ScopeLogs`. `now`: nanoseconds since the epoch."""
    head, time, severity = read_head(line), _TIME.search(line), _SEVERITY.search(line)
    at = int(time[1]) * 1_000_000 if time is not None else now
    number, text = _SEVERITIES.get(severity[1], _INFO) if severity is not None else _INFO
    parts = [
        _FIXED64(0x09, at, 0x59, now),  # fields 1 and 11
        b"\x10%c" % number,
        write_bytes(3, text),
        write_bytes(5, write_bytes(1, line)),
    ]
    if head is not None:
        found = (("meshproxy.audit.sequence", head.sequence), ("meshproxy.audit.chain", head.chain))
        parts.append(encode_attributes(6, found))
        parts.append(write_bytes(12, f"meshproxy.audit.{head.kind}".encode()))
    if (trace := _TRACE.search(line)) is not None:
        parts.append(write_bytes(9, unhexlify(trace[1])))
    return write_bytes(2, b"".join(parts))
