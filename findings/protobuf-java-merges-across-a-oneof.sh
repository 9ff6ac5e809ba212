#!/usr/bin/env bash
# protobuf-java merges a message of a oneof into what was there before another member took its place, and reads a padded
# number of ten bytes as a negative one.
#
# Expected: of several members of a oneof the last one counts, and clears the others. A varint of ten bytes whose last
#   one is 0 has bit 63 clear, however unusual such padding is. (protobuf.dev/programming-guides/encoding)
# Happens: a google.protobuf.Value of the list ["a"], the text "x" and the list ["b"] is the list ["a", "b"] in Java,
#   and ["b"] in C++, Go, upb and others. An Int64Value of 3, padded to ten bytes, is 3 - 2^63 in Java, and 3 elsewhere.
# Since: seen with protobuf-java 3.21.12 and 4.33.1; the Python package has upb.
# Matters: who reads a message to decide on it (a proxy, a gateway) and who acts on it read two things if one of them is
#   in Java: TensorFlow Serving's ModelSpec has its version in such a oneof. meshproxy refuses both.
# Source: generated code, Value.Builder.mergeFrom: the field builder of a message in a oneof stays when another member
#   is set, and is read into again. CodedInputStream.ArrayDecoder.readRawVarint64: the tenth byte is only compared
#   with 0.
set -euo pipefail
version=${1:-4.33.1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >Read.java <<'JAVA'
import com.google.protobuf.Int64Value;
import com.google.protobuf.Value;
import java.util.HexFormat;
import java.util.stream.Collectors;

public class Read {
  public static void main(String[] hex) throws Exception {
    var list = Value.parseFrom(HexFormat.of().parseHex(hex[0])).getListValue().getValuesList();
    var number = Int64Value.parseFrom(HexFormat.of().parseHex(hex[1])).getValue();
    System.out.println(list.stream().map(Value::getStringValue).collect(Collectors.joining(" ")) + ", " + number);
  }
}
JAVA
cat >pom.xml <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>read</groupId><artifactId>read</artifactId><version>1</version><dependencies>
<dependency><groupId>com.google.protobuf</groupId><artifactId>protobuf-java</artifactId>
<version>$version</version></dependency></dependencies></project>
XML
{ mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars && javac -cp "jars/*" -d . Read.java &&
    python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check protobuf==7.36.2; } >log 2>&1 ||
    { cat log >&2; exit 2; }
timeout 60 venv/bin/python - "$version" <<'PY'
import subprocess
import sys

from google.protobuf.internal import api_implementation
from google.protobuf.struct_pb2 import Value
from google.protobuf.wrappers_pb2 import Int64Value


def field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


def text_list(text):
    return field(6, field(1, field(3, text)))


value = text_list(b"a") + field(3, b"x") + text_list(b"b")
number = b"\x08\x83" + b"\x80" * 8 + b"\x00"
texts = [each.string_value for each in Value.FromString(value).list_value.values]
found = {
    f"protobuf {api_implementation.Type()}": f"{' '.join(texts)}, {Int64Value.FromString(number).value}",
    f"protobuf-java {sys.argv[1]}": subprocess.check_output(
        ["java", "-cp", ".:jars/*", "Read", value.hex(), number.hex()], text=True
    ).strip(),
}
for library, read in found.items():
    print(f"{library}: {read}")
sys.exit(list(found.values()) != ["b, 3", f"a b, {3 - 2**63}"])
PY
