"""How spans are exported: `telemetry.traces` of the mesh, and before it the variables that OpenTelemetry specifies.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/. The environment belongs to one process and is the more
special of the two. A value that cannot be used is a problem that is reported and otherwise ignored, as the
specification asks: telemetry keeps no sidecar from serving.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from meshproxy import __version__
from meshproxy.config.telemetry import Keep, read_collector
from meshproxy.telemetry.b3 import B3Format
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.trace import ENDPOINT, TRACES_ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.config.telemetry import Traces

PATH = "/v1/traces"
LOGS_PATH = "/v1/logs"
RATIO = 1.0
"""Where only the environment names a collector: the default of `OTEL_TRACES_SAMPLER` is `parentbased_always_on`."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_FORBIDDEN = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "content-type", "content-encoding"}
)
_SAMPLERS = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
_PROPAGATORS = {"tracecontext": None, "baggage": None, "none": None, "b3": B3Format.SINGLE, "b3multi": B3Format.MULTI}
"""The first two are always passed on, also with the third."""


class OwnFiles(NamedTuple):
    """The certificate that we show to a collector."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Everything about the export that is decided before it begins."""

    url: str
    """Of the collector, with its path."""
    sampler: Sampler
    keep: Keep
    headers: tuple[tuple[bytes, bytes], ...] = ()
    certificate: str | None = None
    """A file of authorities (PEM) to trust instead of the system's."""
    own: OwnFiles | None = None
    """For a collector that asks for a certificate."""
    timeout: float = 10.0
    """Seconds of one export, with its retries."""
    is_compressed: bool = False
    resource: tuple[tuple[str, str], ...] = ()
    max_queue: int = 2_048
    """Exchanges that wait."""
    max_batch: int = 512
    """Exchanges of one request."""
    delay: float = 5.0
    """Seconds between two exports while there is no full batch."""
    b3: frozenset[B3Format] = frozenset()
    """The formats of Zipkin that traces are written in, beside `traceparent`; empty: they are not read either."""


def read_settings(
    traces: Traces | None, environ: Mapping[str, str], defaults: Mapping[str, str]
) -> tuple[ExportSettings | None, list[str]]:
    """Read both sources.

    Args:
        traces: of the mesh.
        environ: the variables of the process. Empty ones count as not set.
        defaults: attributes of the resource, which `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` replace.

    Returns:
        The settings, None where nothing is exported; and what cannot be used, each with what to do.
    """
    reader = _Reader({name: value.strip() for name, value in environ.items() if value.strip()})
    if reader.text("OTEL_SDK_DISABLED").lower() == "true" or reader.text("OTEL_TRACES_EXPORTER") == "none":
        return None, []
    url = reader.url(traces)
    if url is None:
        return None, reader.problems
    exporter = reader.text("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter != "otlp":
        reader.problems.append(f"OTEL_TRACES_EXPORTER is {exporter!r}, spans are exported over otlp: set otlp or none")
    protocol = reader.either("PROTOCOL") or "http/protobuf"
    if protocol != "http/protobuf":
        reader.problems.append(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: http/protobuf is used, so name the collector's port for that"
        )
    is_compressed = reader.compression()
    queue = reader.count("OTEL_BSP_MAX_QUEUE_SIZE", 2_048)
    settings = ExportSettings(
        url,
        reader.sampler(traces),
        traces.keep if traces is not None else Keep(),
        reader.headers(),
        reader.either("CERTIFICATE") or None,
        reader.own(),
        reader.milliseconds(("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"), 10.0),
        is_compressed,
        reader.resource(defaults),
        queue,
        min(queue, reader.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)),
        reader.milliseconds(("OTEL_BSP_SCHEDULE_DELAY",), 5.0),
        reader.b3(traces),
    )
    return settings, reader.problems


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the audit trail is exported."""

    url: str
    """Of the collector, with its path."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    certificate: str | None = None
    """A file of authorities (PEM) to trust instead of the system's."""
    own: OwnFiles | None = None
    """For a collector that asks for a certificate."""
    timeout: float = 10.0
    """Seconds of one try."""
    is_compressed: bool = False
    resource: tuple[tuple[str, str], ...] = ()


def read_log_settings(
    endpoint: str, environ: Mapping[str, str], defaults: Mapping[str, str]
) -> tuple[LogSettings, list[str]]:
    """Read how the audit trail is exported. Where it goes and whether it goes there at all says the document alone: a
    variable does not lead evidence elsewhere.

    Args:
        endpoint: the base URL of the collector.
        environ: the variables of the process. Empty ones count as not set.
        defaults: attributes of the resource, as for `read_settings`.

    Returns:
        The settings; and what cannot be used, each with what to do.
    """
    reader = _Reader({name: value.strip() for name, value in environ.items() if value.strip()}, "LOGS")
    settings = LogSettings(
        endpoint + LOGS_PATH,
        reader.headers(),
        reader.either("CERTIFICATE") or None,
        reader.own(),
        reader.milliseconds(("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"), 10.0),
        reader.compression(),
        reader.resource(defaults),
    )
    return settings, reader.problems


def describe_process(name: str, instance: str) -> dict[str, str]:
    """The attributes of the resource that say who exports, as `read_settings` and `read_log_settings` take them.

    Args:
        name: of the service.
        instance: of this process, unlike that of any other.
    """
    return {
        "service.name": name,
        "service.instance.id": instance,
        "telemetry.sdk.name": "meshproxy",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": __version__,
    }


class _Reader:
    """`signal`: as the names of its variables have it."""

    def __init__(self, environ: Mapping[str, str], signal: str = "TRACES") -> None:
        self._environ = environ
        self._signal = signal
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self._environ.get(name, "")

    def either(self, name: str) -> str:
        """The variable of the signal, or else that of all signals."""
        return self.text(f"OTEL_EXPORTER_OTLP_{self._signal}_{name}") or self.text(f"OTEL_EXPORTER_OTLP_{name}")

    def own(self) -> OwnFiles | None:
        """The files of a client certificate."""
        certificate, key = self.either("CLIENT_CERTIFICATE"), self.either("CLIENT_KEY")
        if certificate and key:
            return OwnFiles(Path(certificate), Path(key))
        if certificate or key:
            names = ("CERTIFICATE", "KEY") if certificate else ("KEY", "CERTIFICATE")
            has, lacks = (f"OTEL_EXPORTER_OTLP_CLIENT_{name}" for name in names)
            self.problems.append(f"{has} is set without {lacks}, and collectors are shown no certificate: set both")
        return None

    def compression(self) -> bool:
        """Whether requests are compressed, with gzip."""
        word = self.either("COMPRESSION") or "none"
        if word not in ("none", "gzip"):
            self.problems.append(f"OTEL_EXPORTER_OTLP_COMPRESSION is {word!r}: set none or gzip")
        return word == "gzip"

    def url(self, traces: Traces | None) -> str | None:
        own = self.text(TRACES_ENDPOINT)
        for name, text, path in ((TRACES_ENDPOINT, own, ""), (ENDPOINT, self.text(ENDPOINT), PATH)):
            if text:
                try:
                    read = read_collector(text)
                except ValueError as error:
                    self.problems.append(f"{name}: {error}")
                    continue
                # That of traces is used as it is, with the root path if it has none.
                return read + path if path else text if "/" in text.partition("://")[2] else text + "/"
        return traces.endpoint + PATH if traces is not None else None

    def sampler(self, traces: Traces | None) -> Sampler:
        ratio = traces.ratio if traces is not None else RATIO
        word = self.text("OTEL_TRACES_SAMPLER")
        if not word:
            return Sampler(ratio)
        if word not in _SAMPLERS:
            self.problems.append(f"OTEL_TRACES_SAMPLER is {word!r}: set one of {', '.join(_SAMPLERS)}")
            return Sampler(ratio)
        fixed, follows = _SAMPLERS[word]
        return Sampler(self._ratio() if fixed is None else fixed, follows)

    def _ratio(self) -> float:
        text = self.text("OTEL_TRACES_SAMPLER_ARG") or "1.0"
        try:
            ratio = float(text)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            self.problems.append(f"OTEL_TRACES_SAMPLER_ARG is {text!r}, 1.0 is used: set a number from 0 to 1")
            return 1.0
        return ratio

    def b3(self, traces: Traces | None) -> frozenset[B3Format]:
        words = [word.strip() for word in self.text("OTEL_PROPAGATORS").split(",")]
        if words == [""]:
            return frozenset({B3Format(traces.b3)} if traces is not None and traces.b3 != "none" else ())
        unknown = [word for word in words if word not in _PROPAGATORS]
        if unknown:
            known = ", ".join(_PROPAGATORS)
            self.problems.append(f"OTEL_PROPAGATORS has {', '.join(unknown)!r}, which is left out: set some of {known}")
        return frozenset(found for word in words if (found := _PROPAGATORS.get(word)) is not None)

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        found = []
        for name, value in self._pairs(self.either("HEADERS"), "OTEL_EXPORTER_OTLP_HEADERS"):
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FORBIDDEN:
                # Its value is often a secret: not shown.
                self.problems.append(f"OTEL_EXPORTER_OTLP_HEADERS: {name!r} cannot be sent, leave it out")
                continue
            found.append((name.lower().encode(), value.encode()))
        return tuple(found)

    def resource(self, defaults: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        found = dict(defaults)
        found.update(self._pairs(self.text("OTEL_RESOURCE_ATTRIBUTES"), "OTEL_RESOURCE_ATTRIBUTES"))
        if name := self.text("OTEL_SERVICE_NAME"):
            found["service.name"] = name
        return tuple(found.items())

    def _pairs(self, text: str, name: str) -> list[tuple[str, str]]:
        """`key1=value1,key2=value2`, percent-encoded (W3C Baggage). All of it counts, or nothing."""
        pairs = []
        for part in text.split(",") if text else ():
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                self.problems.append(f"{name} is not like key1=value1,key2=value2: it is ignored")
                return []
            pairs.append((unquote(key.strip()), unquote(value.strip())))
        return pairs

    def count(self, name: str, default: int) -> int:
        text = self.text(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= 65_536 or len(text) > 9:
            self.problems.append(f"{name} is {text!r}, {default} is used: set a number from 1 to 65536")
            return default
        return int(text)

    def milliseconds(self, names: tuple[str, ...], default: float) -> float:
        name = next((each for each in names if self.text(each)), names[0])
        text = self.text(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 7 or int(text) == 0:
            self.problems.append(f"{name} is {text!r}, {default * 1000:g} is used: set milliseconds above 0")
            return default
        return int(text) / 1000
