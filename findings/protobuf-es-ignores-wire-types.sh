#!/usr/bin/env bash
# protobuf-es reads a known field as the type of its schema, whatever the wire type says.
#
# Expected: a known field of another wire type is an unknown field (C++, Go, Java, upb) or an error (prost, gogo).
# Happens: a StringValue with field 1 as the number 3 and field 3 as the text "a" is the text "\u001a\u0001a": the
#   number is taken as a length, and what follows as the text. The other libraries read no text.
# Since: seen with @bufbuild/protobuf 2.17.0.
# Matters: who reads a message to decide on it and who acts on it read two things if one of them is a server of Connect
#   for Node. Of TensorFlow Serving's messages the name of the model is such a field; the model server is not concerned.
# Source: @bufbuild/protobuf, from-binary.ts: of the readers of fields only that of lists looks at the wire type.
set -euo pipefail
version=${1:-2.17.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
{ npm install --silent --no-audit --no-fund "@bufbuild/protobuf@$version" && python3 -m venv venv &&
    venv/bin/pip install --quiet --disable-pip-version-check protobuf==7.36.2; } >log 2>&1 || { cat log >&2; exit 2; }
cat >read.cjs <<'JS'
const { fromBinary } = require("@bufbuild/protobuf");
const { StringValueSchema } = require("@bufbuild/protobuf/wkt");
console.log(JSON.stringify(fromBinary(StringValueSchema, Buffer.from(process.argv[2], "hex")).value));
JS
timeout 60 venv/bin/python - "$version" <<'PY'
import json
import subprocess
import sys

from google.protobuf.wrappers_pb2 import StringValue

data = b"\x08\x03" + b"\x1a\x01a"
found = StringValue.FromString(data).value, json.loads(subprocess.check_output(["node", "read.cjs", data.hex()]))
print(f"protobuf: {found[0]!r}\n@bufbuild/protobuf {sys.argv[1]}: {found[1]!r}")
sys.exit(found != ("", "\x1a\x01a"))
PY
