#!/usr/bin/env bash
# A Lease that Python's clients of Kubernetes write on a whole second is refused by the API server.
#
# Expected: the times of a Lease are datetime objects in both clients, so every datetime can be written.
# Happens: both leave out the fraction of a datetime whose microsecond is 0 ("...:00Z", "...:00+00:00"), and
#   MicroTime of apimachinery, with which the API server reads a Lease, insists on exactly six digits: 400
#   BadRequest, `parsing time "..." as "2006-01-02T15:04:05.000000Z07:00": cannot parse ...`.
# Since: seen with lightkube 1.0.1, kubernetes 37.0.2 and apimachinery 0.37.2.
# Matters: an election that renews a Lease fails once in a million attempts; whoever rounds times to seconds,
#   or sets a clock in a test, always fails. Write the text yourself: strftime("%Y-%m-%dT%H:%M:%S.%fZ").
# Source: apimachinery pkg/apis/meta/v1/micro_time.go (RFC3339Micro); datetime.isoformat.
set -euo pipefail
version=${1:-1.0.1}
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "lightkube==$version" kubernetes==37.0.2 ||
    { echo "cannot install the packages" >&2; exit 2; }
cd "$dir"
cat >main.go <<'GO'
package main

import (
	"encoding/json"
	"fmt"
	"os"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func main() {
	var read meta.MicroTime
	if err := json.NewDecoder(os.Stdin).Decode(&read); err != nil {
		fmt.Println("refused:", err)
		os.Exit(1)
	}
	fmt.Println("read as", read.UTC())
}
GO
{ go mod init example/reader && go get k8s.io/apimachinery@v0.37.2 && go mod tidy && go build -o reader .; } >log 2>&1 ||
    { cat log >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec
from kubernetes.client import ApiClient, V1LeaseSpec
from lightkube.models.coordination_v1 import LeaseSpec


def read(text):
    """Whether apimachinery reads a time, and what it says."""
    done = subprocess.run(["./reader"], input=json.dumps(text), capture_output=True, text=True)
    return done.returncode == 0, done.stdout.strip()


print(f"lightkube {version('lightkube')}, kubernetes {version('kubernetes')}, apimachinery 0.37.2")
seen = {}
for microsecond in (1, 0):
    moment = datetime(2027, 1, 15, 8, 0, 0, microsecond, tzinfo=UTC)
    texts = {
        "lightkube": json.loads(msgspec.json.encode(LeaseSpec(renewTime=moment)))["renewTime"],
        "kubernetes": ApiClient().sanitize_for_serialization(V1LeaseSpec(renew_time=moment))["renewTime"],
    }
    for client, text in texts.items():
        seen[client, microsecond], says = read(text)
        print(f"{client:10} writes {text:33} {says}")
for client in ("lightkube", "kubernetes"):
    if not seen[client, 1]:
        sys.exit(f"changed: a time of {client} with a fraction is refused, too")
    if seen[client, 0]:
        sys.exit(f"changed: a time of {client} on a whole second is taken")
PY
