#!/usr/bin/env bash
# prometheus_client renames metrics with a colon in OpenMetrics, and only in their samples.
#
# Expected: a colon is part of the classic character set of metric names, so the escaping scheme
#   "underscores", which keeps classic names as they are, leaves `serving:requests_total` alone.
# Happens: answering `Accept: application/openmetrics-text;version=1.0.0` (Prometheus 2 and every
#   scraper that names no escaping scheme) the samples become `serving_requests_total`, while HELP
#   and TYPE still say `serving:requests`. The same registry as text/plain, or with
#   escaping=allow-utf-8, keeps the colon. Its own parser reads the result as a counter without
#   samples and an untyped series. `dots` and `values` also escape the samples but not the metadata.
# Since: 0.23.0; 0.22.1 and earlier keep the colon. Seen up to 0.26.0.
# Matters: TensorFlow Serving's names start with a colon (`:tensorflow:serving:request_count`). A
#   sidecar or exporter that collects them through this library gives one series two names, by the
#   scraper's Accept header, and loses its type: dashboards break at an upgrade, not at a change.
# Source: prometheus_client/openmetrics/exposition.py, generate_latest (escapes a family's name with
#   escape_metric_name, but a sample's name with the rules for label names).
set -euo pipefail
version=${1:-0.26.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "prometheus_client==$version" packaging ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import importlib.metadata
import sys

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families

registry = CollectorRegistry()
Counter("serving:requests", "Requests.", registry=registry).inc()
print("prometheus_client", importlib.metadata.version("prometheus_client"))


def scrape(accept):
    encode, content_type = choose_encoder(accept)
    text = encode(registry).decode()
    lines = [line for line in text.splitlines() if "_created" not in line]
    print(f"\nAccept: {accept}\nContent-Type: {content_type}", *lines, sep="\n    ")
    return text


plain = scrape("text/plain;version=0.0.4")
utf8 = scrape("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8")
classic = scrape("application/openmetrics-text;version=1.0.0")
families = {f.name: (f.type, len(f.samples)) for f in text_string_to_metric_families(classic)}
print("\nread back by its own parser (type, number of samples):", families)
if "\nserving:requests_total 1.0" not in plain or "\nserving:requests_total 1.0" not in utf8:
    sys.exit("changed: the colon is lost in the other formats too")
if "# TYPE serving:requests counter" not in classic or "\nserving_requests_total 1.0" not in classic:
    sys.exit("changed: metadata and samples of OpenMetrics agree, or differ in another way")
if families.get("serving:requests") != ("counter", 0):
    sys.exit("changed: the parser finds samples for the counter")
PY
