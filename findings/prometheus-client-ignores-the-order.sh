#!/usr/bin/env bash
# prometheus_client answers with OpenMetrics although Prometheus asked for the text format first.
#
# Expected: `scrape_protocols` of Prometheus lists formats, the most wanted first, and becomes falling weights in
#   `Accept`. A server honours them (RFC 9110 section 12.5.1), as expfmt of Prometheus does, and sends nothing that
#   has weight 0.
# Happens: no weight is read. Wherever OpenMetrics stands in the field, it is sent, also behind
#   `text/plain;version=0.0.4` and with q=0; only `text/plain;version=1.0.0` counts, by its place. In the same way
#   `Accept-Encoding: gzip;q=0` gets gzip.
# Since: seen in prometheus_client 0.22.1 and 0.26.0, beside prometheus/common 0.74.0.
# Matters: who puts PrometheusText0.0.4 first, to keep names or series of the text format, changes what targets in
#   Go send and nothing in Python. Leave OpenMetrics out of `scrape_protocols` for these.
# Source: prometheus_client/exposition.py, choose_encoder and gzip_accepted.
set -euo pipefail
version=${1:-0.26.0}
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "prometheus_client==$version" packaging ||
    { echo "cannot install the packages" >&2; exit 2; }
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/common/expfmt"
)

func main() {
	format := expfmt.NegotiateIncludingOpenMetrics(http.Header{"Accept": {os.Args[1]}})
	fmt.Print(strings.Split(string(format), ";")[0])
}
GO
{ go mod init example/negotiate && go get github.com/prometheus/common@v0.74.0 && go mod tidy && go build -o negotiate .; } >log 2>&1 ||
    { cat log >&2; exit 2; }
timeout 60 venv/bin/python - <<'PY'
import subprocess
import sys
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import MetricsHandler

TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text"
# What Prometheus sends for a list of scrape_protocols: weights that fall by 0.1, and anything at last.
CASES = {
    "OpenMetrics first": (f"{OPENMETRICS};version=1.0.0;q=0.6,{TEXT};version=0.0.4;q=0.5,*/*;q=0.4", OPENMETRICS),
    "text first": (f"{TEXT};version=0.0.4;q=0.6,{OPENMETRICS};version=1.0.0;q=0.5,*/*;q=0.4", TEXT),
    "OpenMetrics refused": (f"{TEXT};version=0.0.4,{OPENMETRICS};version=1.0.0;q=0", TEXT),
}
registry = CollectorRegistry()
Counter("requests", "Requests.", registry=registry).inc()


class Quiet(MetricsHandler.factory(registry)):
    def log_message(self, *arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def scrape(**fields):
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    with opener.open(urllib.request.Request(url, headers=named), timeout=10) as answer:
        return answer.headers


print(f"prometheus_client {version('prometheus_client')}, prometheus/common 0.74.0")
changed = []
for name, (accept, preferred) in CASES.items():
    python = scrape(accept=accept)["content-type"].split(";")[0]
    go = subprocess.run(["./negotiate", accept], capture_output=True, text=True, check=True).stdout
    print(f"{name:20} expfmt: {go:29} prometheus_client: {python}")
    if go != preferred or python != OPENMETRICS:
        changed.append(name)
coding = scrape(accept_encoding="identity, gzip;q=0")["content-encoding"]
print("gzip refused         prometheus_client sends content-encoding:", coding)
if coding != "gzip":
    changed.append("gzip refused")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
