from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from meshproxy import __version__
from meshproxy.config.telemetry import Keep, Traces
from meshproxy.telemetry.b3 import B3Format
from meshproxy.telemetry.otlp_settings import (
    ExportSettings,
    LogSettings,
    OwnFiles,
    describe_process,
    read_log_settings,
    read_settings,
)
from meshproxy.telemetry.trace import is_wanted

MESH = Traces(endpoint="http://mesh:4318", ratio=0.25, keep=Keep(slower_than=2.0))
NAMES = {"service.name": "sidecar", "telemetry.sdk.name": "meshproxy"}


def read(traces: Traces | None = MESH, **environ: str) -> ExportSettings:
    """The settings, without a problem."""
    settings, problems = read_settings(traces, environ, NAMES)
    assert problems == []
    assert settings is not None
    return settings


def problem_of(**environ: str) -> str:
    """What is wrong, while the mesh's settings stay in force."""
    settings, (problem,) = read_settings(MESH, environ, NAMES)
    assert settings is not None
    assert settings.url == "http://mesh:4318/v1/traces"
    return problem


def test_without_a_collector_there_is_nothing() -> None:
    assert read_settings(None, {}, NAMES) == (None, [])
    assert not is_wanted(None, {"OTEL_SERVICE_NAME": "a", "OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert is_wanted(MESH, {})
    assert is_wanted(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"})
    assert is_wanted(None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"})


def test_the_mesh_says_where_and_how_many() -> None:
    settings = read()
    assert settings.url == "http://mesh:4318/v1/traces"
    assert (settings.sampler.ratio, settings.sampler.follows_parent) == (0.25, True)
    assert settings.keep == Keep(slower_than=2.0)
    assert dict(settings.resource) == NAMES
    assert (settings.max_queue, settings.max_batch, settings.delay, settings.timeout) == (2_048, 512, 5.0, 10.0)
    assert (settings.headers, settings.certificate, settings.is_compressed) == ((), None, False)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:4318"}, "http://env:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:4318//"}, "http://env:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://env/otlp/"}, "http://env/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://env/own"}, "http://env/own"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://env/own/"}, "http://env/own/"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://env"}, "http://env/"),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces/own",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all",
            },
            "http://traces/own",
        ),
    ],
)
@pytest.mark.parametrize("traces", [None, MESH], ids=["alone", "before the mesh"])
def test_the_endpoint_of_the_environment(traces: Traces | None, environ: dict[str, str], url: str) -> None:
    """https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp"""
    assert read(traces, **environ).url == url


@pytest.mark.parametrize(
    "environ", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_the_environment_turns_it_off(environ: dict[str, str]) -> None:
    assert read_settings(MESH, environ, NAMES) == (None, [])


def test_only_true_disables() -> None:
    assert read(OTEL_SDK_DISABLED="1").url


@pytest.mark.parametrize(
    ("name", "ratio", "follows"),
    [
        ("always_on", 1.0, False),
        ("always_off", 0.0, False),
        ("traceidratio", 0.5, False),
        ("parentbased_always_on", 1.0, True),
        ("parentbased_always_off", 0.0, True),
        ("parentbased_traceidratio", 0.5, True),
    ],
)
def test_samplers(name: str, ratio: float, follows: bool) -> None:
    sampler = read(OTEL_TRACES_SAMPLER=name, OTEL_TRACES_SAMPLER_ARG="0.5").sampler
    assert (sampler.ratio, sampler.follows_parent) == (ratio, follows)


def test_without_an_argument_or_a_document_all_are_sampled() -> None:
    assert read(None, OTEL_EXPORTER_OTLP_ENDPOINT="http://env").sampler.ratio == 1.0
    assert read(OTEL_TRACES_SAMPLER="parentbased_traceidratio").sampler.ratio == 1.0


@pytest.mark.parametrize(
    ("b3", "environ", "expected"),
    [
        ("none", "", set()),
        ("single", "", {B3Format.SINGLE}),
        ("multi", " ", {B3Format.MULTI}),
        ("none", "tracecontext, b3", {B3Format.SINGLE}),
        ("none", "b3,b3multi", {B3Format.SINGLE, B3Format.MULTI}),
        ("multi", "tracecontext,baggage", set()),
        ("multi", "none", set()),
    ],
)
def test_formats_of_zipkin(b3: Literal["none", "single", "multi"], environ: str, expected: set[B3Format]) -> None:
    assert read(Traces(endpoint="http://mesh:4318", b3=b3), OTEL_PROPAGATORS=environ).b3 == expected
    assert read(None, OTEL_EXPORTER_OTLP_ENDPOINT="http://env", OTEL_PROPAGATORS="b3").b3 == {B3Format.SINGLE}


def test_a_propagator_that_is_not_known_is_said() -> None:
    settings, (problem,) = read_settings(MESH, {"OTEL_PROPAGATORS": "b3,jaeger,xray"}, NAMES)
    assert settings is not None
    assert settings.b3 == {B3Format.SINGLE}
    assert "'jaeger, xray'" in problem


def test_headers_are_decoded_and_those_of_traces_come_first() -> None:
    text = "Authorization=Bearer%20a%3Db , x-tenant = 7"
    settings = read(OTEL_EXPORTER_OTLP_HEADERS=text)
    assert settings.headers == ((b"authorization", b"Bearer a=b"), (b"x-tenant", b"7"))
    settings = read(OTEL_EXPORTER_OTLP_HEADERS=text, OTEL_EXPORTER_OTLP_TRACES_HEADERS="a=b")
    assert settings.headers == ((b"a", b"b"),)


@pytest.mark.parametrize("text", ["a%0d%0ab=c", "a=b%0d%0ax: y", "content-length=1", "Host=x"])
def test_headers_that_cannot_be_sent_are_not_and_their_values_are_not_shown(text: str) -> None:
    settings, (problem,) = read_settings(MESH, {"OTEL_EXPORTER_OTLP_HEADERS": text}, NAMES)
    assert settings is not None
    assert settings.headers == ()
    assert "cannot be sent" in problem
    assert "x: y" not in problem


def test_the_resource() -> None:
    text = "service.name=a,k8s.pod.name=p%2Cq"
    settings = read(OTEL_RESOURCE_ATTRIBUTES=text)
    assert dict(settings.resource) == {**NAMES, "service.name": "a", "k8s.pod.name": "p,q"}
    settings = read(OTEL_RESOURCE_ATTRIBUTES=text, OTEL_SERVICE_NAME="b")
    assert dict(settings.resource)["service.name"] == "b"


def test_the_rest() -> None:
    settings = read(
        OTEL_EXPORTER_OTLP_CERTIFICATE="/ca.pem",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TIMEOUT="3000",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_SCHEDULE_DELAY="250",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
    )
    assert (settings.certificate, settings.is_compressed, settings.timeout) == ("/ca.pem", True, 3.0)
    assert (settings.max_queue, settings.max_batch, settings.delay) == (100, 100, 0.25)
    assert read(OTEL_EXPORTER_OTLP_TIMEOUT="3000", OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="1").timeout == 0.001
    settings = read(OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE="/own.pem", OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY="/key.pem")
    assert settings.own == OwnFiles(Path("/own.pem"), Path("/key.pem"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel-collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nothing"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "br"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/own.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/own-key.pem"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "99999999999"),
        ("OTEL_BSP_SCHEDULE_DELAY", "\u0663"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "=b"),
    ],
)
def test_what_cannot_be_used_is_said_and_ignored(name: str, value: str) -> None:
    assert name in problem_of(**{name: value})


@pytest.mark.parametrize("text", ["2", "-0.1", "nan", "half"])
def test_a_ratio_that_is_none_samples_all(text: str) -> None:
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": text}
    settings, (problem,) = read_settings(MESH, environ, NAMES)
    assert settings is not None
    assert settings.sampler.ratio == 1.0
    assert "OTEL_TRACES_SAMPLER_ARG" in problem


def test_the_export_of_the_audit_trail() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://elsewhere",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x-key=b",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-key=c",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca.pem",
        "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE": "/own.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/own-key.pem",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2000",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_SERVICE_NAME": "other",
    }
    assert read_log_settings("http://c:4318", environ, NAMES) == (
        LogSettings(
            "http://c:4318/v1/logs",
            ((b"x-key", b"b"),),
            "/ca.pem",
            OwnFiles(Path("/own.pem"), Path("/own-key.pem")),
            2.0,
            True,
            tuple((NAMES | {"service.name": "other"}).items()),
        ),
        [],
    )
    settings, (problem,) = read_log_settings("http://c:4318", {"OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "zstd"}, NAMES)
    assert (settings.is_compressed, "set none or gzip" in problem) == (False, True)


def test_who_exports() -> None:
    assert describe_process("reader", "reader@host") == {
        "service.name": "reader",
        "service.instance.id": "reader@host",
        "telemetry.sdk.name": "meshproxy",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": __version__,
    }
