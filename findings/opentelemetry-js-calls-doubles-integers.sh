#!/usr/bin/env bash
# A large number in an attribute of one span makes the Collector refuse all spans of a request that comes as JSON.
#
# Expected: an attribute is a signed integer of 64 bits or a double. JavaScript has doubles, so one that is no such
#   integer is sent as a double, and OTLP/JSON and OTLP/protobuf say the same.
# Happens: OTLP/JSON of OpenTelemetry for JavaScript calls each number without a fraction an integer:
#   - 1e19 is {"intValue":10000000000000000000}, Number.MAX_VALUE {"intValue":1.7976931348623157e+308}, and -(2 ** 63),
#     which is an integer of 64 bits, {"intValue":-9223372036854776000}. The Collector's reader says "ReadInt64:
#     overflow" or "can not decode float as int" and refuses the request: the other span in it is lost, too.
#   - 2 ** 62 is read, 96 too high: JavaScript writes the digits that suffice to tell doubles apart, then zeros.
#   - OTLP/protobuf of the same spans is right: these doubles are doubles.
#   NaN and Infinity end like 1e19, as {"doubleValue":null}, which is known (opentelemetry-js 4435).
# Since: @opentelemetry/otlp-transformer 0.223.1, sdk-trace-base 2.12.1; the Collector's pdata 1.71.0.
# Matters: Number.MAX_VALUE is a usual "no limit", and exporter-trace-otlp-http writes JSON. One span of one library
#   takes up to 511 others of its batch with it, and it does so again with each batch.
# Source: otlp-transformer, src/common/internal.ts (toAnyValue: Number.isInteger), beside
#   src/common/protobuf/common-serializer.ts, which looks at the range; collector, pdata/internal/json (ReadInt64).
set -euo pipefail
version=${1:-0.223.1}
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir" && rm -rf "$dir"' EXIT
cd "$dir"
cat >write.js <<'JS'
const { JsonTraceSerializer, ProtobufTraceSerializer } = require("@opentelemetry/otlp-transformer");
const { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } = require("@opentelemetry/sdk-trace-base");
const { writeFileSync } = require("fs");
const exporter = new InMemorySpanExporter();
const tracer = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }).getTracer("example");
tracer.startSpan("other").end();
tracer.startSpan("span", { attributes: { limit: eval(process.argv[2]) } }).end();
const spans = exporter.getFinishedSpans();
writeFileSync("spans.json", JsonTraceSerializer.serializeRequest(spans));
writeFileSync("spans.pb", ProtobufTraceSerializer.serializeRequest(spans));
JS
cat >main.go <<'GO'
package main

import (
	"fmt"
	"os"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

func main() {
	content, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	request := ptraceotlp.NewExportRequest()
	if os.Args[1] == "spans.json" {
		err = request.UnmarshalJSON(content)
	} else {
		err = request.UnmarshalProto(content)
	}
	if err != nil {
		fmt.Printf("refused: %.40s\n", err)
		return
	}
	spans := request.Traces().ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	limit, _ := spans.At(1).Attributes().Get("limit")
	fmt.Printf("%d spans, %s %s\n", spans.Len(), limit.Type(), limit.AsString())
}
GO
{ npm install --silent --no-audit --no-fund "@opentelemetry/otlp-transformer@$version" \
    @opentelemetry/sdk-trace-base@2.12.1 @opentelemetry/api@1.9.1 && go mod init example/reader &&
    go get go.opentelemetry.io/collector/pdata@v1.71.0 && go mod tidy && go build -o reader .; } >log 2>&1 || { cat log >&2; exit 2; }
changed=0
while IFS='|' read -r value json protobuf; do
    node write.js "$value"
    for case in "spans.json=$json" "spans.pb=$protobuf"; do
        seen=$(./reader "${case%%=*}")
        printf '%-17s %-11s %s\n' "$value" "${case%%=*}" "$seen"
        [[ $seen == "${case#*=}"* ]] || { echo "changed: expected ${case#*=}" >&2; changed=1; }
    done
done <<'CASES'
1|2 spans, Int 1|2 spans, Int 1
2 ** 62|2 spans, Int 4611686018427388000|2 spans, Int 4611686018427387904
-(2 ** 63)|refused: ReadInt64: overflow|2 spans, Int -9223372036854775808
1e19|refused: ReadInt64: overflow|2 spans, Double 10000000000000000000
1e21|refused: |2 spans, Double 1e+21
Number.MAX_VALUE|refused: assertInteger: can not decode float|2 spans, Double 1.7976931348623157e+308
0.5|2 spans, Double 0.5|2 spans, Double 0.5
CASES
exit "$changed"
