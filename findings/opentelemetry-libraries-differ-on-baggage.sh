#!/usr/bin/env bash
# The same `baggage` field has other values in Python, JavaScript and Rust than in Go, and they pass the others on.
#
# Expected: W3C Baggage: a value is any number of octets, `+` and `=` among them; what is not one is percent-encoded; a
#   key is a token and stays as it is; properties follow a semicolon and are no part of the value. So each library reads
#   the same, and a service behind it that uses Go reads what the one before it sent.
# Happens: Go reads all of these as written. Of the others,
#   - Python decodes `+` to a space and writes a space as `+`: "a b" becomes "a+b" on its way through a service, and a
#     token in base64 is another one. (Known: opentelemetry-python 5566.) Properties become a part of the value.
#   - Rust cuts a value at its second `=`: base64 loses its padding.
#   - JavaScript drops a member with an empty value.
#   - Keys are decoded by all three: Python sends "k%20x" on as "k+x", Rust drops the member, as a key has no space.
#   None of it is an error for the caller.
# Since: seen with opentelemetry-api 1.45.1 (Python), @opentelemetry/core 2.12.1, opentelemetry_sdk 0.33.1 (Rust), and
#   go.opentelemetry.io/otel 1.47.0.
# Matters: tenants, users and experiments travel in baggage, and services decide by them. A value is right in one
#   service and wrong in the next one, in another language. Base64url without padding is the same for all.
# Source: opentelemetry/baggage/propagation (quote_plus, unquote_plus; no split at ";"); opentelemetry_sdk,
#   src/propagation/baggage.rs (split('=')); core, src/baggage/utils.ts (parsePairKeyValue, parseKeyPairsIntoRecord).
set -euo pipefail
version=${1:-1.45.1}
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "opentelemetry-api==$version" ||
    { echo "cannot install the packages" >&2; exit 2; }
# Each program reads the field that is its argument, and prints keys with their values, then the field that it sends on.
cat >by_python.py <<'PY'
import sys

from opentelemetry.baggage import get_all
from opentelemetry.baggage.propagation import W3CBaggagePropagator

carrier = {}
context = W3CBaggagePropagator().extract({"baggage": sys.argv[1]})
W3CBaggagePropagator().inject(carrier, context)
print("; ".join(f"{key}: {value}" for key, value in get_all(context).items()))
print(carrier.get("baggage", ""))
PY
cat >by_node.js <<'JS'
const api = require("@opentelemetry/api");
const { W3CBaggagePropagator } = require("@opentelemetry/core");
const propagator = new W3CBaggagePropagator();
const carrier = {};
const context = propagator.extract(api.ROOT_CONTEXT, { baggage: process.argv[2] }, api.defaultTextMapGetter);
propagator.inject(context, carrier, api.defaultTextMapSetter);
const entries = api.propagation.getBaggage(context)?.getAllEntries() ?? [];
console.log(entries.map(([key, { value }]) => `${key}: ${value}`).join("; "));
console.log(carrier.baggage ?? "");
JS
mkdir src
cat >src/main.rs <<'RS'
use opentelemetry::{baggage::BaggageExt, propagation::TextMapPropagator, Context};
use opentelemetry_sdk::propagation::BaggagePropagator;
use std::collections::HashMap;

fn main() {
    let field = std::env::args().nth(1).unwrap();
    let (received, mut carrier) = (HashMap::from([("baggage".to_string(), field)]), HashMap::new());
    let context = BaggagePropagator::new().extract_with_context(&Context::new(), &received);
    BaggagePropagator::new().inject_context(&context, &mut carrier);
    let entries: Vec<_> = context.baggage().iter().map(|(key, (value, _))| format!("{key}: {value}")).collect();
    println!("{}\n{}", entries.join("; "), carrier.get("baggage").map_or("", String::as_str));
}
RS
cat >Cargo.toml <<'TOML'
[package]
name = "by_rust"
version = "0.1.0"
edition = "2021"

[dependencies]
opentelemetry = "=0.33.1"
opentelemetry_sdk = "=0.33.1"
TOML
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
)

func main() {
	carrier := propagation.MapCarrier{}
	received := propagation.Baggage{}.Extract(context.Background(), propagation.MapCarrier{"baggage": os.Args[1]})
	propagation.Baggage{}.Inject(received, carrier)
	entries := []string{}
	for _, member := range baggage.FromContext(received).Members() {
		entries = append(entries, member.Key()+": "+member.Value())
	}
	fmt.Printf("%s\n%s\n", strings.Join(entries, "; "), carrier["baggage"])
}
GO
{ npm install --silent --no-audit --no-fund @opentelemetry/core@2.12.1 @opentelemetry/api@1.9.1 &&
    cargo build --quiet && go mod init example/reader && go get go.opentelemetry.io/otel@v1.47.0 && go mod tidy &&
    go build -o by_go .; } >log 2>&1 || { cat log >&2; exit 2; }
timeout 120 venv/bin/python - <<'PY'
import subprocess
import sys

# A field, and what differs from Go's reading of it: what a library reads, and what Go reads of what it sends on.
CASES = {
    "k=ab": ("k: ab", {}),
    "k=a%20b": ("k: a b", {"Python": ("k: a b", "k: a+b")}),
    "k=a+b": ("k: a+b", {"Python": ("k: a b", "k: a+b")}),
    "k=AAA+/w==": (
        "k: AAA+/w==",
        {"Python": ("k: AAA /w==", "k: AAA+/w=="), "Rust": ("k: AAA+/w", "k: AAA+/w")},
    ),
    "k=v;p=1": ("k: v", {"Python": ("k: v;p=1", "k: v;p=1")}),
    "k=": ("k: ", {"Node": ("", "")}),
    "k%20x=1": (
        "k%20x: 1",
        {"Python": ("k x: 1", "k+x: 1"), "Node": ("k x: 1", "k%20x: 1"), "Rust": ("", "")},
    ),
}
PROGRAMS = {
    "Go": ["./by_go"],
    "Python": ["venv/bin/python", "by_python.py"],
    "Node": ["node", "by_node.js"],
    "Rust": ["target/debug/by_rust"],
}


def hop(library, field):
    """What a library reads in a field, and the field that it sends on."""
    command = [*PROGRAMS[library], field]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return done.stdout.split("\n")[:2]


changed = []
for field, (as_written, differing) in CASES.items():
    for library in PROGRAMS:
        read, sent = hop(library, field)
        behind, _ = hop("Go", sent)
        print(f"{field:11} {library:7} reads {read!r:15} sends {sent!r:20} Go behind it: {behind!r}")
        if (read, behind) != differing.get(library, (as_written, as_written)):
            changed.append(f"{library}, {field}")
sys.exit("changed: " + "; ".join(changed) if changed else 0)
PY
