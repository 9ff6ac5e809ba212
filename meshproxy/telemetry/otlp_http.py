"""What all exports over OTLP/HTTP have in common: the header fields of a request, and what the status and the header
fields of an answer ask for. Pure.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. Bodies are `otlp` and `otlp_logs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy import __version__

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.telemetry.otlp_settings import ExportSettings, LogSettings

RETRIED = frozenset({429, 502, 503, 504})
"""https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes"""
RETRY_AFTER_CHARACTERS = 64
"""A date of HTTP has 29."""


def request_fields(settings: ExportSettings | LogSettings) -> Headers:
    """The header fields of each request: those of the settings, and ours that they do not replace."""
    own = [
        (b"content-type", b"application/x-protobuf"),
        (b"user-agent", b"OTel-OTLP-Exporter-meshproxy/" + __version__.encode()),
    ]
    if settings.is_compressed:
        own.append((b"content-encoding", b"gzip"))
    names = {name for name, _ in settings.headers}
    return tuple([field for field in own if field[0] not in names]) + settings.headers


def read_retry_after(value: str, now: float) -> float | None:
    """The seconds of `retry-after` (RFC 9110 section 10.2.3), or those until its date; None: it cannot be read.

    Args:
        value: of the only field of this name.
        now: seconds since the epoch.
    """
    if len(value) > RETRY_AFTER_CHARACTERS or not value.isascii():
        return None
    if value.isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime  # 0.2 MB for what hardly any collector sends

    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # Only GMT is a date of HTTP: what names no zone would be read as local time.
    return max(0.0, date.timestamp() - now) if date.tzinfo is not None else None


def advice(status: int, variable: str) -> str:
    """What to do about a status that is final, to be put behind it.

    Args:
        status: neither 200 nor of `RETRIED`.
        variable: of the environment, which has the header fields.
    """
    if 300 <= status < 400:
        return ": redirects are not followed, give the URL it leads to"
    if status in (401, 403):
        return f": set {variable}"
    return ": see that the URL is a collector's" if status in (404, 405) else ""
