from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from meshproxy.audit.lines import Kind
from meshproxy.telemetry.otlp import encode_attributes, encode_request, encode_scope
from meshproxy.telemetry.otlp_logs import SCOPE, encode_record
from tests.audit.trails import call_body, line_of, trail


def records_of(*lines: bytes) -> list[LogRecord]:
    """The records, as the official message reads them."""
    encoded = [encode_record(line, 5) for line in lines]
    resource = encode_attributes(1, (("service.name", "s"),))
    request = ExportLogsServiceRequest.FromString(encode_request(resource, encode_scope(SCOPE, "1"), encoded))
    (resource_logs,) = request.resource_logs
    assert resource_logs.resource.attributes[0].value.string_value == "s"
    (scope_logs,) = resource_logs.scope_logs
    assert scope_logs.scope.name == SCOPE
    return list(scope_logs.log_records)


def test_the_body_is_the_line_and_the_rest_is_taken_from_it() -> None:
    line = line_of(call_body(7, Kind.DENIED)).rstrip(b"\n").replace(b'"severity_id":1', b'"severity_id":2')
    (record,) = records_of(line)
    assert record.body.string_value.encode() == line
    assert (record.time_unix_nano, record.observed_time_unix_nano) == (1_700_000_000_007_000_000, 5)
    assert (record.severity_number, record.severity_text) == (SeverityNumber.SEVERITY_NUMBER_WARN, "WARN")
    assert record.trace_id.hex() == f"{7:032x}"
    assert record.event_name == "meshproxy.audit.denied"
    assert {each.key: each.value.int_value or each.value.string_value for each in record.attributes} == {
        "meshproxy.audit.sequence": 1,
        "meshproxy.audit.chain": "00" * 8,
    }


def test_lines_about_the_writer() -> None:
    first, *_, last = records_of(*[line.rstrip(b"\n") for line in trail(3)])
    assert (first.event_name, last.event_name) == ("meshproxy.audit.started", "meshproxy.audit.stopped")
    assert first.trace_id == b""
    assert first.severity_number == SeverityNumber.SEVERITY_NUMBER_INFO


@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_what_is_no_line_is_sent_as_it_is(text: str) -> None:
    (record,) = records_of(text.encode())
    assert (record.body.string_value, record.time_unix_nano, record.event_name) == (text, 5, "")
