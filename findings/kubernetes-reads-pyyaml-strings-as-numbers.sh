#!/usr/bin/env bash
# A string that PyYAML (or msgspec.yaml, which uses it) writes bare becomes a number in Kubernetes.
#
# Expected: safe_dump quotes every string that a YAML reader could take for something else, as it
#   does for "yes", "1_000" and "0x1F"; what Python reads back as a string is one for the cluster.
# Happens: PyYAML quotes by its own resolver, which wants a dot and a signed exponent in a float and
#   knows neither y nor 0o17. `1e3`, `1234e56`, `08`, `0o17` and `y` stay bare. Kubernetes'
#   reader (sigs.k8s.io/yaml, what kubectl uses) makes them 1000, 1.234e+59, 8, 15 and true. The
#   other way round, the float `1e3` of a Kubernetes object is the text "1e3" for Python, so
#   msgspec refuses it for a float field.
# Since: PyYAML 6.0.4 with msgspec 0.23.0, read by sigs.k8s.io/yaml 1.4.0 and 1.6.0.
# Matters: a generated label or annotation with a short commit id of seven hexadecimal digits works
#   until one is like 1234e56, and then the object is refused ("cannot unmarshal number into ...
#   of type string"). A round trip through Python never shows it. Write JSON, or force quotes.
# Source: yaml/resolver.py, Resolver.add_implicit_resolver for float, int and bool;
#   sigs.k8s.io/yaml, yaml.go, YAMLToJSON; go.yaml.in/yaml/v2, resolve.go, resolve.
set -euo pipefail
version=${1:-6.0.4}
dir=$(mktemp -d)
export GOPATH=$dir/go GOFLAGS=-modcacherw GOTOOLCHAIN=local GOCACHE=$dir/cache
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "PyYAML==$version" msgspec==0.23.0 ||
    { echo "cannot install the packages" >&2; exit 2; }
mkdir "$dir/reader"
cd "$dir/reader"
cat >main.go <<'GO'
package main

import (
	"io"
	"os"

	"sigs.k8s.io/yaml"
)

func main() {
	document, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	answer, err := yaml.YAMLToJSON(document)
	if err != nil {
		panic(err)
	}
	os.Stdout.Write(answer)
}
GO
{ go mod init example/reader && go get sigs.k8s.io/yaml@v1.6.0 && go build -o reader .; } >log 2>&1 ||
    { cat log >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import json
import subprocess
import sys

import msgspec
import yaml

texts = ["1e3", "1234e56", "08", "0o17", "y", "yes", "1_000", "0x1F"]
expected = [1000, 1.234e59, 8, 15, True, "yes", "1_000", "0x1F"]
written = yaml.safe_dump(texts)
print("PyYAML", yaml.__version__, "msgspec", msgspec.__version__, "sigs.k8s.io/yaml 1.6.0", f"\n{written}")
if yaml.safe_load(written) != texts or msgspec.yaml.encode(texts).decode() != written:
    sys.exit("changed: PyYAML or msgspec no longer writes what PyYAML reads back")
read = json.loads(subprocess.run(["./reader"], input=written.encode(), capture_output=True, check=True).stdout)
print("strings for Python:    ", texts, "\nread by Kubernetes as: ", read)
try:
    print(msgspec.yaml.decode(b"1e3", type=float))
    sys.exit("changed: msgspec reads 1e3 as a float")
except msgspec.ValidationError as error:
    print("msgspec.yaml, the number 1e3 for a float field:", error)
if [(type(a), a) for a in read] != [(type(b), b) for b in expected]:
    sys.exit(f"changed: Kubernetes' reader was expected to give {expected}")
PY
