#!/usr/bin/env bash
# OpenTelemetry's B3 propagator for Python decides what the caller left open, yes in one form of B3 and no in the other.
#
# Expected: B3 has four states: accept, deny, debug, and none, which defers the decision to the receiver. The two forms,
#   one header or several, mean the same. A deny may stand alone (`b3: 0`, `X-B3-Sampled: 0`).
# Happens: for a receiver with a parent-based sampler:
#   - `b3: TRACE-SPAN` is taken as sampled: the span is recorded where the sampler for new traces records none.
#   - `X-B3-TraceId` and `X-B3-SpanId` alone are taken as not sampled: it is not recorded where that sampler records all.
#   - A deny without ids is not seen: the sampler for new traces decides, and the next hop is told "sampled".
# Since: opentelemetry-propagator-b3 1.45.1, with the SDK 1.45.2.
# Matters: behind a proxy that passes ids on and leaves sampling to the services, traces of Python services are all
#   missing or all there, by the form of the header; a caller's `b3: 0`, which is how health
#   checks are kept out of traces, has no effect.
# Source: opentelemetry/propagators/b3/__init__.py, B3MultiFormat.extract: `sampled` begins as "0", and a single header
#   with two fields sets it to "1".
set -euo pipefail
version=${1:-1.45.1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "opentelemetry-propagator-b3==$version" \
    opentelemetry-sdk==1.45.2 || { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import importlib.metadata
import sys

from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

TRACE, SPAN = "463ac35c9f6413ad48485a3953bb6124", "0020000000000001"
SEVERAL = {"x-b3-traceid": TRACE, "x-b3-spanid": SPAN}
# What is received -> whether it is recorded by a receiver that records all new traces, and by one that records none.
RECEIVED = [
    ("accepted, one header", {"b3": f"{TRACE}-{SPAN}-1"}, (True, True)),
    ("accepted, several", {**SEVERAL, "x-b3-sampled": "1"}, (True, True)),
    ("denied, one header", {"b3": f"{TRACE}-{SPAN}-0"}, (False, False)),
    ("denied, several", {**SEVERAL, "x-b3-sampled": "0"}, (False, False)),
    ("deferred, one header", {"b3": f"{TRACE}-{SPAN}"}, (True, True)),
    ("deferred, several", SEVERAL, (False, False)),
    ("denied without ids, one header", {"b3": "0"}, (True, False)),
    ("denied without ids, several", {"x-b3-sampled": "0"}, (True, False)),
]
print("opentelemetry-propagator-b3", importlib.metadata.version("opentelemetry-propagator-b3"))
for what, headers, expected in RECEIVED:
    for propagator in (B3MultiFormat(), B3SingleFormat()):
        found = tuple(
            TracerProvider(sampler=ParentBased(sampler))
            .get_tracer("receiver")
            .start_span("call", context=propagator.extract(headers))
            .is_recording()
            for sampler in (ALWAYS_ON, ALWAYS_OFF)
        )
        print(f"{what:31} {type(propagator).__name__:15} recorded with all on: {found[0]}, all off: {found[1]}")
        if found != expected:
            sys.exit(f"changed: {what}")
PY
