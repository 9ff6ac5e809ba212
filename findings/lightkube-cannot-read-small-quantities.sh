#!/usr/bin/env bash
# lightkube's parse_quantity refuses quantities that Kubernetes itself writes: nano, micro, and exponents with a capital E.
#
# Expected: it parses "an str representing a K8s quantity", so whatever apimachinery writes can be read back.
# Happens: `n` and `u` are "Invalid unit suffix", and so is the `E3` of `1E3`, although the grammar of the page to which
#   its documentation points allows an exponent with e or E. apimachinery keeps 1E3 as it is, and writes 0.0000005 as
#   500n. parse_quantity of the official client reads all of them.
# Since: seen in lightkube 1.0.1, beside kubernetes 37.0.2 and apimachinery 0.37.2.
# Matters: metrics-server reports the CPU of pods and nodes in nanocores (`95647727n`), so a controller on lightkube
#   that looks at usage fails on the first pod that is not idle, while it reads the limits beside it, in m and Mi. That
#   page does not mention n and u: they are only in apimachinery's code.
# Source: lightkube/utils/quantity.py (MULTIPLIERS and the pattern); apimachinery pkg/api/resource/suffix.go.
set -euo pipefail
version=${1:-1.0.1}
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "lightkube==$version" kubernetes==37.0.2 ||
    { echo "cannot install the packages" >&2; exit 2; }
cat >main.go <<'GO'
package main

import (
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/api/resource"
)

func main() {
	quantity := resource.MustParse(os.Args[1])
	fmt.Print(quantity.String())
}
GO
{ go mod init example/quantity && go get k8s.io/apimachinery@v0.37.2 && go mod tidy && go build -o canonical .; } >log 2>&1 ||
    { cat log >&2; exit 2; }
timeout 60 venv/bin/python - <<'PY'
import subprocess
import sys
from importlib.metadata import version

from kubernetes.utils.quantity import parse_quantity as by_kubernetes
from lightkube.utils.quantity import parse_quantity as by_lightkube

# What is written in a manifest or by metrics-server, what apimachinery makes of it, whether lightkube reads that.
CASES = [
    ("0.25", "250m", True),
    ("1e3", "1e3", True),
    ("1E3", "1E3", False),
    ("0.0005", "500u", False),
    ("0.0000005", "500n", False),
    ("95647727n", "95647727n", False),
]
print(f"lightkube {version('lightkube')}, kubernetes {version('kubernetes')}, apimachinery 0.37.2")
changed = []
for written, canonical, is_read in CASES:
    kept = subprocess.run(["./canonical", written], capture_output=True, text=True, check=True).stdout
    try:
        seen = f"{by_lightkube(kept):f}"
    except ValueError as error:
        seen = None
        shown = f"refused: {error}"
    else:
        shown = seen
    print(f"{written:>10} is {kept:10} kubernetes: {by_kubernetes(kept):<12f} lightkube: {shown}")
    if kept != canonical or (seen is not None) != is_read:
        changed.append(f"{written}: {kept}, {shown}")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
