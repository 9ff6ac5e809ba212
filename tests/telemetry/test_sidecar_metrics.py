from __future__ import annotations

import itertools
import re

from meshproxy import __version__
from meshproxy.codec.h2.budgets import Statistics
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.proxy.express_outcome import Outcome, new_tally
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metrics import Registry
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics


def lines(metrics: SidecarMetrics, name: str) -> dict[str | None, float]:
    """The samples of a metric: value by labels."""
    page = b"".join(render(metrics.registry)).decode()
    return {match[1]: float(match[2]) for match in re.finditer(rf"(?m)^{name}(\{{.*\}})? (\S+)$", page)}


def test_the_registry_says_how_full_it_is() -> None:
    metrics = SidecarMetrics(Registry(max_lines=100))
    assert lines(metrics, "meshproxy_metric_lines")[None] == metrics.registry.lines
    for number in range(200):
        metrics.limits_exceeded.labels("inbound", str(number))
    assert lines(metrics, "meshproxy_metric_series_capped_total")[None] > 0
    ((labels, value),) = lines(metrics, "meshproxy_build_info").items()
    assert labels is not None
    assert f'version="{__version__}"' in labels
    assert value == 1


NO_ERRORS = {"requests", "resets_late", "resets_waiting"}
"""Of the counters of HTTP/2. The last two are of resets that `resets_received` counts as well, for load shedding."""


def test_every_counter_of_errors_of_http2_is_shown() -> None:
    metrics = SidecarMetrics()
    inbound, outbound, upstream = Statistics(), Statistics(), Statistics()
    metrics.watch_http2(downstream={"inbound": inbound, "outbound": outbound}, upstream=upstream)
    counters = [name for name in Statistics.__slots__ if name not in NO_ERRORS]
    for number, (statistics, name) in enumerate(itertools.product((inbound, outbound, upstream), counters), 1):
        setattr(statistics, name, number)
    shown = lines(metrics, "meshproxy_http2_stream_errors_total")
    assert sorted(shown.values()) == list(range(1, 3 * len(counters) + 1))


def test_stream_errors_of_live_connections_are_counted_by_side() -> None:
    metrics = SidecarMetrics()
    downstream, upstream = Statistics(), Statistics()
    metrics.watch_http2(downstream={"inbound": downstream}, upstream=upstream)
    client, server = H2Connection(Role.CLIENT, Limits(), 0.0), H2Connection(Role.SERVER, Limits(), 0.0, downstream)
    for _ in range(2):
        stream = client.send_request(b"GET", b"https", b"x", b"/", (), end=False)
        client.reset(stream, 8)
    server.receive(client.take_output(), 0.0)
    shown = lines(metrics, "meshproxy_http2_stream_errors_total")
    assert shown['{direction="inbound",side="downstream",kind="reset_received"}'] == 2
    assert sum(shown.values()) == 2


def test_what_became_of_requests_on_the_express_lane_is_shown() -> None:
    metrics = SidecarMetrics()
    tally = new_tally()
    metrics.watch_express({"inbound": tally})
    tally[Outcome.CARRIED] += 7
    tally[Outcome.BUSY] += 2
    found = lines(metrics, "meshproxy_express_requests_total")
    assert len(found) == len(Outcome)
    assert found['{direction="inbound",result="carried",reason=""}'] == 7
    assert found['{direction="inbound",result="missed",reason="connection"}'] == 2
