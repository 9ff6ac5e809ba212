"""PromQL that alerts and boards share: what counts as a failure, and where."""

from __future__ import annotations

NAMED = 'model!="_none"'
"""Calls of a model: not health checks, and nothing that was refused before its model was known."""
FAILED_STATUSES = "UNKNOWN|DEADLINE_EXCEEDED|UNIMPLEMENTED|INTERNAL|UNAVAILABLE|DATA_LOSS"
"""gRPC statuses that are the server's fault: by these OpenTelemetry's conventions call a server span an error."""


def requests(window: str, by: str, *matchers: str) -> str:
    """Requests a second."""
    return total("meshproxy_requests_total", window, by, *matchers)


def failures(window: str, by: str, *matchers: str) -> str:
    """Failed requests a second. What a caller may not do, or does too often, is no failure; neither is a call that its
    client gave up. A gRPC call that failed has the HTTP status 200: `or` counts a series once."""
    http = _rate("meshproxy_requests_total", window, *matchers, 'code=~"5.."')
    grpc = _rate("meshproxy_requests_total", window, *matchers, f'grpc_status=~"{FAILED_STATUSES}"')
    return f"sum by ({by}) ({http} or {grpc})"


def failure_share(window: str, by: str, *matchers: str) -> str:
    """Failed requests by all requests; 0 where none has failed."""
    asked = requests(window, by, *matchers)
    return f"({failures(window, by, *matchers)} or 0 * {asked}) / {asked}"


def quantile(share: float, metric: str, window: str, by: str, *matchers: str) -> str:
    """Of a histogram, by interpolation within its buckets."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({groups}) ({_rate(f'{metric}_bucket', window, *matchers)}))"


def total(metric: str, window: str, by: str, *matchers: str) -> str:
    """A counter's events a second, added up."""
    return f"sum by ({by}) ({_rate(metric, window, *matchers)})"


def _rate(metric: str, window: str, *matchers: str) -> str:
    return f"rate({selected(metric, *matchers)}[{window}])"


def selected(metric: str, *matchers: str) -> str:
    """The series of a metric that have these labels."""
    return f"{metric}{{{','.join(matchers)}}}" if matchers else metric
